//! HTTP/1.1 as little as the load and the trivial server need it: keep-alive, bodies with a length.

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::Done;

/// Where the parts of a message end in the buffer.
pub struct Received {
    /// The end of its head.
    pub head: usize,
    /// The end of its body.
    pub end: usize,
}

/// Reads one message into the buffer; None at the end of the connection.
pub async fn receive(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Done<Option<Received>> {
    let mut searched = 0;
    let head = loop {
        let end = buffer[searched..]
            .windows(4)
            .position(|four| four == b"\r\n\r\n");
        if let Some(at) = end {
            break searched + at + 4;
        }
        searched = buffer.len().saturating_sub(3);
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let length = header(&buffer[..head], "content-length")?.map_or(Ok(0), str::parse)?;
    let end = head + length;
    while buffer.len() < end {
        if stream.read_buf(buffer).await? == 0 {
            return Err("a body broke off".into());
        }
    }
    Ok(Some(Received { head, end }))
}

/// The value of a header.
pub fn header<'a>(head: &'a [u8], name: &str) -> Done<Option<&'a str>> {
    let mut lines = std::str::from_utf8(head)?.split("\r\n");
    Ok(lines.find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    }))
}
