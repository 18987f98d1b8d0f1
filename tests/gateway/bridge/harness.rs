//! A bridge, a client, and the log that the scripted child keeps.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use portcullis::gateway::bridge::{Body, Bridge, BridgeConfig, Sessions};
use portcullis::gateway::upstream::Unserved;
use serde_json::{Value, json};

/// Nothing here takes so long unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A bridge in front of the scripted child.
pub struct Rig {
    pub bridge: Arc<Bridge>,
    pub folder: tempfile::TempDir,
}

pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Stream,
    /// What the bridge says beside the message.
    pub unserved: Option<Unserved>,
}

impl Reply {
    pub async fn json(self) -> Value {
        let text = self.body.rest().await.unwrap();
        serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
    }

    pub fn is_stream(&self) -> bool {
        self.headers["content-type"] == "text/event-stream"
    }
}

/// A body, read piece by piece.
pub struct Stream {
    body: Body,
    text: String,
}

impl Stream {
    /// The next message of an event stream; `None` at its end, an error where it broke off.
    pub async fn next(&mut self) -> Result<Option<Value>, String> {
        loop {
            while let Some(end) = self.text.find("\n\n") {
                let event: String = self.text.drain(..end + 2).collect();
                let data = event.lines().find_map(|line| line.strip_prefix("data: "));
                if let Some(data) = data {
                    return Ok(Some(serde_json::from_str(data).unwrap()));
                }
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// The next piece as text, comments included.
    pub async fn piece(&mut self) -> String {
        while self.text.is_empty() {
            assert!(self.more().await.unwrap(), "the stream ended");
        }
        std::mem::take(&mut self.text)
    }

    async fn more(&mut self) -> Result<bool, String> {
        let frame = tokio::time::timeout(PATIENCE, self.body.frame());
        match frame.await.expect("the stream is silent") {
            None => Ok(false),
            Some(Err(error)) => Err(error.to_string()),
            Some(Ok(frame)) => {
                let data = frame.into_data().unwrap();
                self.text.push_str(std::str::from_utf8(&data).unwrap());
                Ok(true)
            }
        }
    }

    async fn rest(self) -> Result<Bytes, String> {
        let body = tokio::time::timeout(PATIENCE, self.body.collect());
        let rest = body.await.expect("the answer takes too long");
        rest.map(http_body_util::Collected::to_bytes)
            .map_err(|error| error.to_string())
    }
}

pub fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/gateway/fixtures/scripted_server.py")
}

/// The scripted child's configuration, to be changed by the test.
pub fn config(sessions: Sessions, log: &std::path::Path) -> BridgeConfig {
    let mut config = BridgeConfig::new("scripted", "python3");
    config.args = vec![OsString::from("-u"), fixture().into()];
    config.env = vec![("SCRIPT_FILE".into(), log.into())];
    config.sessions = sessions;
    config.limits.restart_first = Duration::from_millis(20);
    config.limits.child.close_grace = Duration::from_millis(500);
    config.limits.child.term_grace = Duration::from_millis(500);
    config
}

impl Rig {
    pub async fn new(sessions: Sessions, change: impl FnOnce(&mut BridgeConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(sessions, &folder.path().join("log"));
        change(&mut config);
        let bridge = Bridge::start(config).unwrap();
        Self { bridge, folder }
    }

    pub async fn shared() -> Self {
        Self::new(Sessions::Shared, |_| {}).await
    }

    pub async fn per_session() -> Self {
        Self::new(Sessions::PerSession, |_| {}).await
    }

    /// What the child noted: its starts and the messages that it got.
    pub fn log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Messages of that method that the child got.
    pub fn got(&self, method: &str) -> Vec<Value> {
        let log = self.log();
        let of_method = log.iter().filter(|entry| entry["got"]["method"] == method);
        of_method.map(|entry| entry["got"].clone()).collect()
    }

    pub fn pids(&self) -> Vec<i32> {
        let log = self.log();
        let starts = log.iter().filter_map(|entry| entry["started"].as_i64());
        starts.map(|pid| i32::try_from(pid).unwrap()).collect()
    }

    pub async fn send(
        &self,
        method: Method,
        session: Option<&str>,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let mut request = Request::builder().method(method.clone()).uri("/mcp");
        if method == Method::POST {
            request = request
                .header("content-type", "application/json")
                .header("accept", "application/json, text/event-stream");
        } else if method == Method::GET {
            request = request.header("accept", "text/event-stream");
        }
        if let Some(session) = session {
            request = request.header("mcp-session-id", session);
        }
        for (name, value) in headers {
            request.headers_mut().unwrap().remove(*name);
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).unwrap();
        let answered = tokio::time::timeout(PATIENCE, self.bridge.handle(request));
        let (parts, body) = answered.await.expect("no answer").into_parts();
        Reply {
            status: parts.status,
            headers: parts.headers,
            unserved: parts.extensions.get::<Unserved>().copied(),
            body: Stream {
                body,
                text: String::new(),
            },
        }
    }

    pub async fn post(&self, session: &str, message: &Value) -> Reply {
        self.send(Method::POST, Some(session), &[], message.to_string())
            .await
    }

    pub async fn initialize(&self, version: &str) -> Reply {
        let message = json!({"jsonrpc": "2.0", "id": "init", "method": "initialize", "params": {
            "protocolVersion": version, "capabilities": {"sampling": {}}, "clientInfo": {"name": "test", "version": "0"}}});
        self.send(Method::POST, None, &[], message.to_string())
            .await
    }

    /// Opens a session and gives its id.
    pub async fn open(&self) -> String {
        let reply = self.initialize("2025-11-25").await;
        assert_eq!(reply.status, StatusCode::OK);
        let session = reply.headers["mcp-session-id"].to_str().unwrap().to_owned();
        let done = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        assert_eq!(
            self.post(&session, &done).await.status,
            StatusCode::ACCEPTED
        );
        session
    }

    pub async fn listen(&self, session: &str) -> Stream {
        let reply = self.send(Method::GET, Some(session), &[], "").await;
        assert_eq!(reply.status, StatusCode::OK);
        reply.body
    }

    /// Calls a tool and gives the whole answer.
    pub async fn call(
        &self,
        session: &str,
        id: impl Into<Value>,
        name: &str,
        args: Value,
    ) -> Value {
        self.post(session, &call(id, name, args)).await.json().await
    }

    /// Calls a tool and gives its text.
    pub async fn text(&self, session: &str, name: &str, args: Value) -> String {
        let answer = self.call(session, 1, name, args).await;
        match answer["result"]["content"][0]["text"].as_str() {
            Some(text) => text.to_owned(),
            None => panic!("{answer}"),
        }
    }

    /// Calls until the child is back; meanwhile every call must be refused undelivered.
    pub async fn back(&self, session: &str) {
        let start = Instant::now();
        loop {
            let call = call("back", "echo", json!({"text": "back"}));
            let reply = self.post(session, &call).await;
            let unserved = reply.unserved;
            let answer = reply.json().await;
            if answer["result"]["content"][0]["text"] == "back" {
                return;
            }
            assert_eq!(unserved, Some(Unserved::Undelivered), "{answer}");
            assert!(answer["error"]["data"]["retryAfterMs"].is_u64(), "{answer}");
            assert!(start.elapsed() < PATIENCE, "the child does not come back");
        }
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }
}

pub fn call(id: impl Into<Value>, name: &str, args: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": "tools/call", "params": {"name": name, "arguments": args}})
}

pub fn call_with_token(
    id: impl Into<Value>,
    name: &str,
    args: Value,
    token: impl Into<Value>,
) -> Value {
    let mut call = call(id, name, args);
    call["params"]["_meta"] = json!({"progressToken": token.into()});
    call
}

/// Polls until it holds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether any process of the group is left that is not a zombie of somebody else's.
pub fn group_lives(pgid: i32) -> bool {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let stats = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    let me = std::process::id().to_string();
    stats.into_iter().any(|stat| {
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        // State, parent, group. A grandchild's zombie waits for init, not for us.
        let waits_elsewhere = fields[0] == "Z" && fields[1] != me;
        fields[2] == pgid.to_string() && !waits_elsewhere
    })
}
