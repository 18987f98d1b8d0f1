//! A Streamable HTTP server that does what a test says and remembers every request, byte for byte.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Got {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Got {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The JSON-RPC method, or the HTTP method where there is none.
    pub fn what(&self) -> String {
        match self.json()["method"].as_str() {
            Some(method) => method.to_owned(),
            None if self.method == "POST" => "response".to_owned(),
            None => self.method.clone(),
        }
    }
}

/// What the server does with a request.
pub enum Answer {
    /// A JSON body under 200.
    Json(Value),
    /// Any status and content type.
    Status(u16, &'static str, Vec<u8>),
    /// Bytes as they are; then the connection is closed.
    Raw(Vec<u8>),
    /// Pieces of an event stream, until the sender is dropped.
    Stream(mpsc::UnboundedReceiver<String>),
    /// Nothing; the connection stays open.
    Silence,
}

impl Answer {
    /// A stream with exactly these pieces.
    pub fn pieces<S: Into<String>>(pieces: impl IntoIterator<Item = S>) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        for piece in pieces {
            sender.send(piece.into()).unwrap();
        }
        Answer::Stream(receiver)
    }

    pub fn event(message: &Value) -> String {
        format!("event: message\ndata: {message}\n\n")
    }

    pub fn result(got: &Got, result: Value) -> Self {
        Answer::Json(json!({"jsonrpc": "2.0", "id": got.json()["id"], "result": result}))
    }

    pub fn rpc_error(got: &Got, code: i64, message: &str) -> Self {
        Answer::Json(
            json!({"jsonrpc": "2.0", "id": got.json()["id"], "error": {"code": code, "message": message}}),
        )
    }
}

type Handler = Arc<dyn Fn(&Got) -> Answer + Send + Sync>;

/// The server.
#[derive(Clone)]
pub struct Fake {
    pub addr: SocketAddr,
    log: Arc<Mutex<Vec<Got>>>,
    handlers: Arc<Mutex<HashMap<String, Handler>>>,
    tools: Arc<Mutex<Vec<Value>>>,
    streams: Arc<Mutex<Vec<mpsc::UnboundedSender<String>>>>,
    sessions: Arc<AtomicUsize>,
    running: Arc<Mutex<(CancellationToken, TaskTracker)>>,
}

/// A tool as servers list it.
pub fn tool(name: &str) -> Value {
    json!({"name": name, "description": format!("Does {name}."), "inputSchema": {"type": "object", "properties": {
        "text": {"type": "string"}, "count": {"type": "integer"}, "deep": {"type": "object"}}}})
}

impl Fake {
    pub async fn start(tools: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Fake {
            addr: listener.local_addr().unwrap(),
            log: Arc::default(),
            handlers: Arc::default(),
            tools: Arc::new(Mutex::new(tools.iter().map(|name| tool(name)).collect())),
            streams: Arc::default(),
            sessions: Arc::default(),
            running: Arc::default(),
        };
        fake.serve(listener);
        fake
    }

    fn serve(&self, listener: TcpListener) {
        let server = self.clone();
        let (stop, tasks) = self.running.lock().unwrap().clone();
        let connections = tasks.clone();
        tasks.spawn(async move {
            loop {
                let stream = tokio::select! {
                    () = stop.cancelled() => return,
                    accepted = listener.accept() => accepted.unwrap().0,
                };
                let (server, stop) = (server.clone(), stop.clone());
                connections.spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = server.connection(stream) => {}
                    }
                });
            }
        });
    }

    /// Closes every connection and refuses new ones.
    pub async fn stop(&self) {
        let (stop, tasks) = std::mem::take(&mut *self.running.lock().unwrap());
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }

    /// Listens again where it did.
    pub async fn start_again(&self) {
        self.serve(TcpListener::bind(self.addr).await.unwrap());
    }

    /// What to do from now on with requests of that JSON-RPC method, `GET`, `DELETE` or `response`.
    pub fn on(&self, what: &str, handler: impl Fn(&Got) -> Answer + Send + Sync + 'static) {
        let mut handlers = self.handlers.lock().unwrap();
        handlers.insert(what.to_owned(), Arc::new(handler));
    }

    /// The usual behaviour again.
    pub fn as_usual(&self, what: &str) {
        self.handlers.lock().unwrap().remove(what);
    }

    pub fn set_tools(&self, tools: Vec<Value>) {
        *self.tools.lock().unwrap() = tools;
    }

    /// Sends a message on every stream that was opened with GET.
    pub fn tell(&self, message: &Value) {
        self.push(&Answer::event(message));
    }

    pub fn push(&self, text: &str) {
        let mut streams = self.streams.lock().unwrap();
        streams.retain(|stream| stream.send(text.to_owned()).is_ok());
    }

    /// Everything that came, apart from what the gateway asks for itself.
    pub fn all(&self) -> Vec<Got> {
        self.log.lock().unwrap().clone()
    }

    /// Requests of that JSON-RPC or HTTP method.
    pub fn got(&self, what: &str) -> Vec<Got> {
        let all = self.all();
        all.into_iter().filter(|got| got.what() == what).collect()
    }

    /// The id under which the newest request of that method came: it is the gateway's, not the
    /// client's.
    pub fn id_of(&self, what: &str) -> Value {
        self.got(what).pop().unwrap().json()["id"].clone()
    }

    /// How many sessions it has opened.
    pub fn opened(&self) -> usize {
        self.sessions.load(Ordering::SeqCst)
    }

    pub fn calls(&self) -> usize {
        self.got("tools/call").len()
    }

    async fn connection(&self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let mut buffer = Vec::new();
        while let Some(got) = read(&mut stream, &mut buffer).await {
            self.log.lock().unwrap().push(got.clone());
            let handler = self.handlers.lock().unwrap().get(&got.what()).cloned();
            let mut answer = match handler {
                Some(handler) => handler(&got),
                None => self.usual(&got),
            };
            let bytes = match &mut answer {
                Answer::Json(value) => {
                    let session = if got.what() == "initialize" {
                        let n = self.sessions.fetch_add(1, Ordering::SeqCst);
                        format!("Mcp-Session-Id: upstream-{n}\r\n")
                    } else {
                        String::new()
                    };
                    let body = value.to_string();
                    format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{session}Content-Length: {}\r\n\r\n{body}",
                        body.len()
                    )
                    .into_bytes()
                }
                Answer::Status(code, kind, body) => {
                    let mut bytes = format!(
                        "HTTP/1.1 {code} X\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
                        body.len()
                    )
                    .into_bytes();
                    bytes.append(body);
                    bytes
                }
                Answer::Raw(bytes) => {
                    let _ = stream.write_all(bytes).await;
                    let _ = stream.shutdown().await;
                    return;
                }
                Answer::Stream(pieces) => {
                    if send_stream(&mut stream, pieces).await.is_err() {
                        return;
                    }
                    continue;
                }
                Answer::Silence => {
                    let _ = stream.read(&mut [0; 64]).await;
                    return;
                }
            };
            if stream.write_all(&bytes).await.is_err() {
                return;
            }
        }
    }

    fn usual(&self, got: &Got) -> Answer {
        let message = got.json();
        match got.what().as_str() {
            "initialize" => Answer::result(
                got,
                json!({"protocolVersion": message["params"]["protocolVersion"],
                    "capabilities": {"tools": {"listChanged": true}, "prompts": {}, "resources": {"subscribe": true}, "logging": {}, "completions": {}},
                    "serverInfo": {"name": "fake", "version": "1"}}),
            ),
            "tools/list" => {
                let tools = self.tools.lock().unwrap().clone();
                Answer::result(got, json!({ "tools": tools }))
            }
            // The text tells what came.
            "tools/call" => {
                let text = message["params"]["arguments"].to_string();
                Answer::result(got, json!({"content": [{"type": "text", "text": text}]}))
            }
            "GET" => {
                let (sender, receiver) = mpsc::unbounded_channel();
                self.streams.lock().unwrap().push(sender);
                Answer::Stream(receiver)
            }
            "DELETE" => Answer::Status(200, "text/plain", Vec::new()),
            _ if message["id"].is_null() || message["method"].is_null() => {
                Answer::Status(202, "text/plain", Vec::new())
            }
            _ => Answer::result(got, json!({})),
        }
    }
}

async fn send_stream(
    stream: &mut TcpStream,
    pieces: &mut mpsc::UnboundedReceiver<String>,
) -> std::io::Result<()> {
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let mut gone = [0; 1];
    loop {
        tokio::select! {
            piece = pieces.recv() => match piece {
                Some(piece) => {
                    let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
                    stream.write_all(chunk.as_bytes()).await?;
                }
                None => return stream.write_all(b"0\r\n\r\n").await,
            },
            _ = stream.read(&mut gone) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Got> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(buffer.drain(..end + 4).collect()).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: Vec<(String, String)> = lines
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        })
        .collect();
    let length: usize = headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .map_or(0, |(_, value)| value.parse().unwrap());
    while buffer.len() < length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = buffer.drain(..length).collect();
    Some(Got {
        method,
        path,
        headers,
        body,
    })
}
