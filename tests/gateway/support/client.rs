//! HTTP/1.1 by hand: requests go out as they are written in the test, responses are read strictly.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::soon;

/// A response with its whole body.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {:?}", self.status, self.text()))
    }

    /// The JSON messages of the body, be it one message or a stream of them.
    pub fn messages(&self) -> Vec<Value> {
        if self.header("content-type") == Some("text/event-stream") {
            events(self.text())
                .iter()
                .filter(|event| !event.data.is_empty())
                .map(|event| serde_json::from_str(&event.data).unwrap())
                .collect()
        } else {
            vec![self.json()]
        }
    }

    /// The text of a tool's result, with whether it is an error, and without the id of the
    /// decision.
    pub fn tool(&self) -> (bool, String) {
        assert_eq!(self.status, 200, "{}", self.text());
        let answer = self.messages().pop().unwrap();
        let text = answer["result"]["content"][0]["text"].as_str();
        let text = text.unwrap_or_else(|| panic!("no result: {answer}"));
        let text = text
            .split(" To ask about this, quote decision ")
            .next()
            .unwrap();
        (answer["result"]["isError"] == true, text.to_owned())
    }

    /// Code and message of a JSON-RPC error.
    pub fn error(&self) -> (i64, String) {
        let answer = self.messages().pop().unwrap();
        let error = &answer["error"];
        let code = error["code"].as_i64();
        (
            code.unwrap_or_else(|| panic!("no error: {answer}")),
            error["message"].as_str().unwrap().to_owned(),
        )
    }
}

/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    pub id: Option<String>,
    pub kind: Option<String>,
    pub data: String,
}

impl Event {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

fn event(text: &str) -> Event {
    let mut event = Event::default();
    let mut data: Vec<&str> = Vec::new();
    for line in text.lines() {
        match line.split_once(": ") {
            Some(("data", rest)) => data.push(rest),
            Some(("id", rest)) => event.id = Some(rest.to_owned()),
            Some(("event", rest)) => event.kind = Some(rest.to_owned()),
            _ => {}
        }
    }
    event.data = data.join("\n");
    event
}

fn events(text: &str) -> Vec<Event> {
    text.split("\n\n")
        .filter(|block| block.lines().any(|line| !line.starts_with(':')))
        .map(event)
        .collect()
}

fn header<'h>(headers: &'h [(String, String)], name: &str) -> Option<&'h str> {
    headers
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

/// A connection after a request was written.
pub struct Exchange {
    stream: TcpStream,
    buffer: Vec<u8>,
    text: String,
    ended: bool,
}

/// The head of a response whose body is still to come.
pub struct Head {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

impl Exchange {
    pub async fn open(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Exchange {
            stream,
            buffer: Vec::new(),
            text: String::new(),
            ended: false,
        }
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        // A server may answer and close before it has read all; that is then seen when reading.
        let _ = self.stream.write_all(bytes).await;
    }

    async fn more(&mut self) -> bool {
        let mut piece = [0; 16 << 10];
        match soon("bytes from the gateway", self.stream.read(&mut piece)).await {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.buffer.extend_from_slice(&piece[..n]);
                true
            }
        }
    }

    async fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return String::from_utf8(line[..end].to_vec()).unwrap();
            }
            assert!(self.more().await, "the connection ended within a line");
        }
    }

    pub async fn head(&mut self) -> Head {
        let first = self.line().await;
        let status = first
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|code| code.parse().ok())
            .unwrap_or_else(|| panic!("no status line: {first:?}"));
        let mut headers = Vec::new();
        loop {
            let line = self.line().await;
            if line.is_empty() {
                return Head { status, headers };
            }
            let (name, value) = line.split_once(':').unwrap();
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            assert!(self.more().await, "the body broke off");
        }
        self.buffer.drain(..length).collect()
    }

    /// The next chunk of a chunked body; None at its end.
    async fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = self.line().await;
        let size = usize::from_str_radix(&size, 16).unwrap();
        let chunk = self.exactly(size).await;
        assert_eq!(self.line().await, "");
        (size > 0).then_some(chunk)
    }

    /// The whole response.
    pub async fn reply(mut self) -> Reply {
        self.next_reply().await
    }

    /// The whole response; another request may follow.
    pub async fn next_reply(&mut self) -> Reply {
        let Head { status, headers } = self.head().await;
        let mut body = Vec::new();
        if header(&headers, "transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk().await {
                body.extend(chunk);
            }
        } else if let Some(length) = header(&headers, "content-length") {
            body = self.exactly(length.parse().unwrap()).await;
        }
        Reply {
            status,
            headers,
            body,
        }
    }

    /// Whether the gateway ends the connection without another byte.
    pub async fn ends(&mut self) -> bool {
        self.buffer.is_empty() && !self.more().await
    }

    /// The next event of a stream; None at its end. Call `head` first.
    pub async fn event(&mut self) -> Option<Event> {
        // Keep-alives are no events.
        soon("an event", self.next_event()).await
    }

    async fn next_event(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                if block
                    .lines()
                    .any(|line| !line.starts_with(':') && !line.is_empty())
                {
                    return Some(event(&block));
                }
                continue;
            }
            if self.ended {
                return None;
            }
            match self.chunk().await {
                Some(chunk) => self.text.push_str(std::str::from_utf8(&chunk).unwrap()),
                None => self.ended = true,
            }
        }
    }
}

/// One MCP client: where the gateway is, and what every request carries.
#[derive(Clone, Debug)]
pub struct Client {
    pub addr: SocketAddr,
    pub path: String,
    pub headers: Vec<(String, String)>,
}

impl Client {
    pub fn new(addr: SocketAddr, path: &str) -> Self {
        Client {
            addr,
            path: path.to_owned(),
            headers: Vec::new(),
        }
    }

    /// The client with a header more; it replaces one of the same name.
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut client = self.clone();
        client
            .headers
            .retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        client.headers.push((name.to_owned(), value.to_owned()));
        client
    }

    /// The client without a header.
    pub fn without(&self, name: &str) -> Self {
        let mut client = self.clone();
        client
            .headers
            .retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        client
    }

    /// The bytes of a request. Headers of the client come instead of the usual ones of the same
    /// name; one with an empty value is left out.
    pub fn bytes(&self, method: &str, body: Option<&[u8]>) -> Vec<u8> {
        let mut headers: Vec<(String, String)> = vec![("Host".into(), self.addr.to_string())];
        match method {
            "POST" => {
                headers.push(("Content-Type".into(), "application/json".into()));
                headers.push((
                    "Accept".into(),
                    "application/json, text/event-stream".into(),
                ));
            }
            "GET" => headers.push(("Accept".into(), "text/event-stream".into())),
            _ => {}
        }
        if let Some(body) = body {
            headers.push(("Content-Length".into(), body.len().to_string()));
        }
        let own = |name: &str| {
            self.headers
                .iter()
                .any(|(key, _)| key.eq_ignore_ascii_case(name))
        };
        headers.retain(|(name, _)| !own(name));
        let given = self.headers.iter().filter(|(_, value)| !value.is_empty());
        headers.extend(given.cloned());
        let mut out = format!("{method} {} HTTP/1.1\r\n", self.path).into_bytes();
        for (name, value) in headers {
            out.extend(format!("{name}: {value}\r\n").into_bytes());
        }
        out.extend(b"\r\n");
        out.extend(body.unwrap_or_default());
        out
    }

    pub async fn start(&self, method: &str, body: Option<&[u8]>) -> Exchange {
        let mut exchange = Exchange::open(self.addr).await;
        exchange.write(&self.bytes(method, body)).await;
        exchange
    }

    pub async fn send(&self, method: &str, body: Option<&[u8]>) -> Reply {
        self.start(method, body).await.reply().await
    }

    pub async fn post_raw(&self, body: impl AsRef<[u8]>) -> Reply {
        self.send("POST", Some(body.as_ref())).await
    }

    /// Whether the gateway still answers; the answer may be anything.
    pub async fn try_post(&self, message: &Value) -> Option<()> {
        let mut stream = TcpStream::connect(self.addr).await.ok()?;
        let bytes = self.bytes("POST", Some(message.to_string().as_bytes()));
        stream.write_all(&bytes).await.ok()?;
        (stream.read(&mut [0; 512]).await.ok()? > 0).then_some(())
    }

    pub async fn post(&self, message: &Value) -> Reply {
        self.post_raw(message.to_string()).await
    }

    pub async fn initialize(&self, version: &str, capabilities: Value) -> Reply {
        self.post(&json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": version, "capabilities": capabilities, "clientInfo": {"name": "test", "version": "0"}}}))
            .await
    }

    /// The client with a session of its own.
    pub async fn session(&self) -> Client {
        self.session_of("2025-11-25", json!({})).await
    }

    pub async fn session_of(&self, version: &str, capabilities: Value) -> Client {
        let reply = self.initialize(version, capabilities).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let id = reply.header("mcp-session-id").expect("no session id");
        let client = self
            .with("Mcp-Session-Id", id)
            .with("MCP-Protocol-Version", version);
        let done = client
            .post(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
            .await;
        assert_eq!(done.status, 202, "{}", done.text());
        client
    }

    pub async fn request(&self, method: &str, params: Value) -> Reply {
        self.post(&json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}))
            .await
    }

    pub async fn call(&self, tool: &str, arguments: Value) -> Reply {
        self.request("tools/call", json!({"name": tool, "arguments": arguments}))
            .await
    }

    /// The tools that the caller sees, sorted.
    pub async fn tools(&self) -> Vec<String> {
        let reply = self.request("tools/list", json!({})).await;
        let answer = reply.messages().pop().unwrap();
        names(&answer["result"]["tools"])
    }

    pub async fn listen(&self) -> Exchange {
        let mut exchange = self.start("GET", None).await;
        let head = exchange.head().await;
        assert_eq!(head.status, 200);
        exchange
    }
}

/// The names in a list, sorted.
pub fn names(list: &Value) -> Vec<String> {
    let entries = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    let mut names: Vec<String> = entries
        .iter()
        .map(|entry| {
            let name = ["uri", "uriTemplate", "name"].map(|key| entry[key].as_str());
            name.into_iter().flatten().next().unwrap().to_owned()
        })
        .collect();
    names.sort();
    names
}
