//! The load: connections that each send the next request when the answer to the last one is there,
//! and compare every body with the one that it must be.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Barrier;

use crate::process::Process;
use crate::wire::{header, receive};
use crate::{Done, median};

/// What stands for the id of a request, in it and in its answer: as many digits as ids have.
pub const ID: &str = "100000000";
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;

/// One kind of request, where it goes, and the answer that it must get.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    pub process: &'a Process,
    pub body: &'a str,
    pub expected: &'a str,
}

/// What one round found.
#[derive(Clone, Copy)]
pub struct Round {
    /// Requests a second.
    pub rate: f64,
    /// Median time of a request, in microseconds.
    pub p50: f64,
    /// Processor time of the process asked, in microseconds for a request.
    pub processor: f64,
}

/// A session of its own on a connection of its own.
pub struct Client {
    addr: SocketAddr,
    path: &'static str,
    stream: TcpStream,
    buffer: Vec<u8>,
    session: String,
}

impl Client {
    /// Connects and initializes.
    pub async fn connect(addr: SocketAddr) -> Done<Self> {
        Self::connect_to(addr, "/mcp").await
    }

    /// The same where the gateway is at another path.
    pub async fn connect_to(addr: SocketAddr, path: &'static str) -> Done<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let mut client = Client {
            addr,
            path,
            stream,
            buffer: Vec::with_capacity(64 << 10),
            session: String::new(),
        };
        let head = client.head("POST", INITIALIZE.len());
        client.send(head.as_bytes()).await?;
        client.send(INITIALIZE.as_bytes()).await?;
        let received = receive(&mut client.stream, &mut client.buffer).await?;
        let received = received.ok_or("no answer to initialize")?;
        let session = header(&client.buffer[..received.head], "mcp-session-id")?;
        client.session = session.ok_or("no session")?.to_owned();
        client.buffer.drain(..received.end);
        Ok(client)
    }

    async fn send(&mut self, bytes: &[u8]) -> Done<()> {
        Ok(self.stream.write_all(bytes).await?)
    }

    fn head(&self, method: &str, length: usize) -> String {
        let session = match self.session.as_str() {
            "" => String::new(),
            id => format!("Mcp-Session-Id: {id}\r\nMCP-Protocol-Version: 2025-11-25\r\n"),
        };
        format!(
            "{method} {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n{session}Content-Length: {length}\r\n\r\n",
            self.path, self.addr
        )
    }

    /// Sends the same request again and again, one after the other.
    pub async fn ask(&mut self, body: &str, times: usize) -> Done<()> {
        let request = [self.head("POST", body.len()).as_str(), body].concat();
        for _ in 0..times {
            self.send(request.as_bytes()).await?;
            let received = receive(&mut self.stream, &mut self.buffer).await?;
            let received = received.ok_or("the connection ended")?;
            if !self.buffer.starts_with(b"HTTP/1.1 200") {
                return Err(String::from_utf8_lossy(&self.buffer).into());
            }
            self.buffer.drain(..received.end);
        }
        Ok(())
    }

    /// Opens the session's stream, on this connection.
    pub async fn listen(&mut self) -> Done<()> {
        let head = self.head("GET", 0);
        self.send(head.as_bytes()).await?;
        receive(&mut self.stream, &mut self.buffer).await?;
        if self.buffer.starts_with(b"HTTP/1.1 200") {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&self.buffer).into())
        }
    }

    /// Sends requests until the time is over; returns how long each took, in nanoseconds.
    async fn repeat(mut self, work: Fixed, start: Arc<Barrier>) -> Done<Vec<u32>> {
        let mut request = self.head("POST", work.body.len()).into_bytes();
        let place = request.len() + work.body.find(ID).ok_or("no id in the request")?;
        request.extend_from_slice(work.body.as_bytes());
        let mut expected = work.expected.as_bytes().to_vec();
        let answered = work.expected.find(ID).ok_or("no id in the answer")?;
        let mut times = Vec::with_capacity(1 << 16);
        start.wait().await;
        let until = Instant::now() + work.length;
        for id in 100_000_000_u32.. {
            let started = Instant::now();
            if started >= until {
                break;
            }
            let digits = id.to_string();
            request[place..place + ID.len()].copy_from_slice(digits.as_bytes());
            expected[answered..answered + ID.len()].copy_from_slice(digits.as_bytes());
            self.stream.write_all(&request).await?;
            let received = receive(&mut self.stream, &mut self.buffer).await?;
            let received = received.ok_or("the connection ended")?;
            times.push(u32::try_from(started.elapsed().as_nanos()).unwrap_or(u32::MAX));
            let body = &self.buffer[received.head..received.end];
            if body != expected {
                let (got, wanted) = (String::from_utf8_lossy(body), work.expected);
                return Err(
                    format!("another answer than expected: {got}\nexpected: {wanted}").into(),
                );
            }
            self.buffer.drain(..received.end);
        }
        Ok(times)
    }
}

#[derive(Clone)]
struct Fixed {
    body: Arc<str>,
    expected: Arc<str>,
    length: Duration,
}

impl Work<'_> {
    /// One round of so many connections.
    pub async fn round(&self, connections: usize, length: Duration) -> Done<Round> {
        let work = Fixed {
            body: self.body.into(),
            expected: self.expected.into(),
            length,
        };
        let start = Arc::new(Barrier::new(connections + 1));
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..connections {
            let client = Client::connect(self.process.addr).await?;
            all.spawn(client.repeat(work.clone(), Arc::clone(&start)));
        }
        start.wait().await;
        let (started, processor) = (Instant::now(), self.process.processor_time()?);
        let mut times = Vec::new();
        while let Some(connection) = all.join_next().await {
            times.extend(connection??);
        }
        let seconds = started.elapsed().as_secs_f64();
        let processor = self.process.processor_time()? - processor;
        times.sort_unstable();
        let count = times.len() as f64;
        Ok(Round {
            rate: count / seconds,
            p50: times
                .get(times.len() / 2)
                .map_or(f64::NAN, |nanos| f64::from(*nanos) / 1e3),
            processor: processor / count / 1e3,
        })
    }
}

/// What interleaved rounds of two kinds of work found.
pub struct Compared {
    /// Medians of the first.
    pub a: Round,
    /// Medians of the second.
    pub b: Round,
    /// The median of the ratios of rates, second to first, of neighbouring rounds.
    pub ratio: f64,
    /// The median of the differences of times, second less first, of neighbouring rounds.
    pub added: f64,
}

/// Measures two kinds of work in turn; the first round of each only warms up.
pub async fn compare(
    a: Work<'_>,
    b: Work<'_>,
    connections: usize,
    rounds: usize,
    length: Duration,
) -> Done<Compared> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    a.round(connections, length / 4).await?;
    b.round(connections, length / 4).await?;
    for round in 0..rounds {
        // Whoever comes second must not always be the same.
        if round % 2 == 0 {
            first.push(a.round(connections, length).await?);
            second.push(b.round(connections, length).await?);
        } else {
            second.push(b.round(connections, length).await?);
            first.push(a.round(connections, length).await?);
        }
    }
    let of = |rounds: &[Round]| Round {
        rate: median(rounds.iter().map(|round| round.rate)),
        p50: median(rounds.iter().map(|round| round.p50)),
        processor: median(rounds.iter().map(|round| round.processor)),
    };
    let pairs = || first.iter().zip(&second);
    Ok(Compared {
        a: of(&first),
        b: of(&second),
        ratio: median(pairs().map(|(a, b)| b.rate / a.rate)),
        added: median(pairs().map(|(a, b)| b.p50 - a.p50)),
    })
}
