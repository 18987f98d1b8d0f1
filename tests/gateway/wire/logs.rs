//! Log lines name the request that they are about.

use std::io::{Result, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tracing::Level;

use crate::support::rig::{Rig, allow_all};
use crate::support::upstream::{Answer, Fake};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Log {
    /// The line that holds these words.
    fn line(&self, words: &str) -> Value {
        let text = String::from_utf8(self.0.lock().clone()).unwrap();
        let line = text.lines().find(|line| line.contains(words));
        serde_json::from_str(line.unwrap_or_else(|| panic!("{words}: {text}"))).unwrap()
    }
}

/// What a gateway logs about a call that its upstream refuses.
async fn refused_call(level: Level) -> Value {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_max_level(level)
        .with_writer(move || writer.clone())
        .finish();
    // The gateway of this test runs on this thread.
    let _guard = tracing::subscriber::set_default(subscriber);
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    fake.on("tools/call", |_| {
        Answer::Status(503, "text/plain", b"out of order".to_vec())
    });
    client.call("echo", json!({})).await;
    log.line("out of order")
}

#[tokio::test]
async fn a_line_names_server_session_and_method_of_its_request_where_debugging_is_on() {
    let line = refused_call(Level::DEBUG).await;
    let span = &line["span"];
    assert_eq!(span["name"], "request", "{line}");
    assert_eq!(span["method"], "tools/call", "{line}");
    assert_eq!(span["server"], line["server"], "{line}");
    let session = span["session"].as_str().unwrap();
    assert!(uuid::Uuid::parse_str(session).is_ok(), "{line}");
    // Other levels cost a call no span.
    let line = refused_call(Level::INFO).await;
    assert!(line.get("span").is_none(), "{line}");
}
