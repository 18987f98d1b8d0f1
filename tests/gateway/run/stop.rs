//! The end: nothing that was promised is dropped, and the operator hears of every violation.

use rustix::process::Signal;
use serde_json::json;
use tokio::sync::mpsc;

use super::pod::Pod;
use crate::support::rig::allow_all;
use crate::support::upstream::{Answer, Fake};
use crate::support::{eventually, soon};

#[tokio::test]
async fn on_sigterm_it_is_unready_at_once_takes_calls_for_a_while_and_finishes_those_under_way() {
    let fake = Fake::start(&["echo"]).await;
    let (_volumes, mut pod) = Pod::ready(&fake, &[allow_all()], &["--lame-duck=4"]).await;
    let client = pod.client.session().await;
    let mut stream = client.listen().await;
    let (server, pieces) = mpsc::unbounded_channel();
    let pieces = std::sync::Mutex::new(Some(pieces));
    fake.on("tools/call", move |_| {
        Answer::Stream(pieces.lock().unwrap().take().unwrap())
    });
    let caller = client.clone();
    let call = tokio::spawn(async move { caller.call("echo", json!({})).await });
    eventually("the server has it", || fake.calls() == 1).await;
    pod.signal(Signal::TERM);
    pod.is_unready("shutting down").await;
    // Those who send here learn of it only by and by.
    assert_eq!(client.tools().await, ["echo"]);
    assert_eq!(pod.get("/livez").await.status, 200);
    assert_eq!(stream.event().await, None);
    eventually("new connections are refused", || {
        std::net::TcpStream::connect(pod.client.addr).is_err()
    })
    .await;
    server.send(Answer::event(&json!({"jsonrpc": "2.0", "id": fake.id_of("tools/call"), "result": {"content": [{"type": "text", "text": "done"}]}}))).unwrap();
    assert_eq!(
        soon("the answer", call).await.unwrap().tool(),
        (false, "done".to_owned())
    );
    assert_eq!(pod.ended().await, 0);
}

#[tokio::test]
async fn it_waits_until_the_operator_has_stored_the_last_violation() {
    let fake = Fake::start(&["echo"]).await;
    let deny = json!({"rules": [{"name": "no", "tools": {"names": ["*"]}, "action": "Deny"}]});
    let more = ["--report-wait=3600", "--grace-period=1"];
    let (_volumes, mut pod) = Pod::ready(&fake, &[deny], &more).await;
    let client = pod.client.session().await;
    assert!(client.call("echo", json!({})).await.tool().0);
    assert_eq!(pod.report().await["violations"][0]["count"], 1);
    assert!(client.call("echo", json!({})).await.tool().0);
    pod.signal(Signal::TERM);
    eventually("new connections are refused", || {
        std::net::TcpStream::connect(pod.client.addr).is_err()
    })
    .await;
    // Unauthorized, and metrics: neither is the report.
    assert_eq!(pod.get("/report").await.status, 401);
    assert_eq!(pod.get("/metrics").await.status, 200);
    // Read, and not stored yet: the operator might end here.
    assert_eq!(pod.report().await["violations"][0]["count"], 2);
    assert_eq!(pod.report_stored(1).await["violations"][0]["count"], 2);
    assert!(!pod.has_ended());
    pod.report_stored(2).await;
    assert_eq!(pod.ended().await, 0);
}

#[tokio::test]
async fn nobody_waits_for_a_report_without_violations_nor_for_ever_nor_after_a_second_signal() {
    let fake = Fake::start(&["echo"]).await;
    let deny = json!({"rules": [{"name": "no", "tools": {"names": ["*"]}, "action": "Deny"}]});
    let (_volumes, mut quiet) = Pod::ready(&fake, &[allow_all()], &["--report-wait=3600"]).await;
    quiet.signal(Signal::TERM);
    assert_eq!(quiet.ended().await, 0);

    let (_volumes, mut unread) =
        Pod::ready(&fake, std::slice::from_ref(&deny), &["--report-wait=1"]).await;
    let client = unread.client.session().await;
    assert!(client.call("echo", json!({})).await.tool().0);
    unread.signal(Signal::TERM);
    unread.says("the last violations were not stored").await;
    assert_eq!(unread.ended().await, 0);
    unread
        .until("the audit log has it all the same", async |pod| {
            pod.audited().iter().any(|line| line["outcome"] == "denied")
        })
        .await;

    let (_volumes, mut hurried) = Pod::ready(&fake, &[deny], &["--report-wait=3600"]).await;
    let client = hurried.client.session().await;
    assert!(client.call("echo", json!({})).await.tool().0);
    hurried.signal(Signal::TERM);
    hurried.is_unready("shutting down").await;
    hurried.signal(Signal::TERM);
    assert_eq!(hurried.ended().await, 0);
}
