//! A trivial fast MCP server: the same few answers whatever is asked, from memory.
//!
//! In: MCP over HTTP, one JSON message a request. Out: `initialize`, a list of 50 tools, one result
//! of a call, or a stream that stays silent. Must not do: anything that costs time, as it would
//! hide what the proxies in front of it cost.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::wire::{Received, receive};
use crate::{Done, Failure, listen};

/// Tools in the list.
pub const TOOLS: usize = 50;
/// The result of every call.
pub const RESULT: &str = r#"{"content":[{"type":"text","text":"[{\"step\": 1, \"value\": 0.913, \"timestamp\": 1700000000}, {\"step\": 2, \"value\": 0.927, \"timestamp\": 1700000060}]"}],"isError":false}"#;
const INITIALIZED: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"fast","version":"1"}}"#;
const SESSION: &str = "0f2f4ab08a2d4d6a9f3f3a0c6a1f5c11";

/// A tool as servers of tracking systems define them.
pub fn definition(n: usize) -> Value {
    json!({"name": format!("tool_{n}"), "description": "Looks something up in the tracking server and returns it as text, newest first, with everything that belongs to it.",
        "inputSchema": {"type": "object", "properties": {"experiment_id": {"type": "string", "description": "The experiment"},
            "key": {"type": "string"}, "limit": {"type": "integer", "default": 10}}, "required": ["experiment_id"]}})
}

/// The result of `tools/list`, without the tools that `hidden` holds for.
pub fn list(hidden: impl Fn(usize) -> bool) -> String {
    let tools = (0..TOOLS).filter(|n| !hidden(*n)).map(definition);
    json!({ "tools": tools.collect::<Vec<_>>() }).to_string()
}

/// Serves until the process ends.
pub async fn run() -> Done<()> {
    let listener = listen().await?;
    let list: Arc<str> = list(|_| false).into();
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let list = Arc::clone(&list);
        tokio::spawn(async move {
            let mut buffer = Vec::with_capacity(8 << 10);
            while let Some(request) = receive(&mut stream, &mut buffer).await? {
                let answer = answer(&buffer, &request, &list);
                stream.write_all(answer.as_bytes()).await?;
                buffer.drain(..request.end);
            }
            Ok::<_, Failure>(())
        });
    }
}

fn answer(buffer: &[u8], request: &Received, list: &str) -> String {
    if buffer.starts_with(b"GET") {
        return "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            .to_owned();
    }
    let body = &buffer[request.head..request.end];
    let has = |what: &[u8]| body.windows(what.len()).any(|window| window == what);
    let Some(at) = body.windows(5).position(|window| window == b"\"id\":") else {
        return "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".to_owned();
    };
    let id = body[at + 5..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    let id: String = id.map(|byte| char::from(*byte)).collect();
    let (result, session) = if has(b"tools/call") {
        (RESULT, "")
    } else if has(b"tools/list") {
        (list, "")
    } else {
        (INITIALIZED, SESSION)
    };
    let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
    let session = match session {
        "" => String::new(),
        id => format!("Mcp-Session-Id: {id}\r\n"),
    };
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{session}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
