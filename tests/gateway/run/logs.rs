//! Log lines name the request that they are about.

use serde_json::{Value, json};

use super::pod::{self, Pod, Volumes};
use crate::support::rig::{self, allow_all};
use crate::support::upstream::{Answer, Fake};
use crate::wire::renewal::Forgetful;

/// What a gateway of this log level writes about a call that its server refuses.
async fn refused_call(level: &str) -> Value {
    let fake = Fake::start(&["echo"]).await;
    let volumes = Volumes::new();
    volumes.bundle(&pod::bundle(1, &rig::open_to_all(&fake), &[allow_all()]));
    let mut command = pod::gateway();
    command.env("RUST_LOG", level);
    let pod = Pod::launch(command, &volumes, &[]).await;
    pod.is_ready().await;
    let client = pod.client.session().await;
    fake.on("tools/call", |_| {
        Answer::Status(503, "text/plain", b"out of order".to_vec())
    });
    client.call("echo", json!({})).await;
    pod.line("out of order").await
}

#[tokio::test]
async fn a_line_names_server_session_and_method_of_its_request_where_debugging_is_on() {
    let line = refused_call("info,portcullis=debug").await;
    let span = &line["span"];
    assert_eq!(span["name"], "request", "{line}");
    assert_eq!(span["method"], "tools/call", "{line}");
    assert_eq!(span["server"], line["server"], "{line}");
    let session = span["session"].as_str().unwrap();
    assert!(uuid::Uuid::parse_str(session).is_ok(), "{line}");
    // Other levels cost a call no span.
    let line = refused_call("info").await;
    assert!(line.get("span").is_none(), "{line}");
}

#[tokio::test]
async fn a_session_that_is_forgotten_too_often_is_one_line_however_often_its_client_repeats_itself()
{
    let server = Forgetful::start().await;
    let (_volumes, pod) = Pod::ready(&server.fake, &[allow_all()], &[]).await;
    let client = pod.client.session().await;
    for status in [200, 200, 200, 404, 404, 404] {
        server.forgets();
        assert_eq!(client.call("echo", json!({})).await.status, status);
    }
    pod.says("three times within a minute").await;
    // Another session has its own share.
    server.forgets();
    let next = pod.client.session().await;
    server.forgets();
    assert_eq!(next.call("echo", json!({})).await.status, 200);
    assert_eq!(pod.said("three times within a minute"), 1);
}
