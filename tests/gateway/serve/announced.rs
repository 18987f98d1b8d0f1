//! Requests for approval that `serve` announces to webhooks: what receivers get, and what a person
//! reads where one of them fails.

use std::collections::HashSet;

use ring::hmac;
use serde_json::Value;

use super::*;
use crate::support::eventually;
use crate::support::upstream::{Answer, Fake, Got};

/// As docs/approvals.md says to make one.
const KEY: &str = "5b0c41d7a9e2f3806d1c5b0c41d7a9e2f3806d1c5b0c41d7a9e2f3806d1c5b0c";
/// The path of a webhook's URL, as secret as a password.
const PATH: &str = "/services/T0/B0/s3cr3tpath";
const RULES: &str = "    - { name: echo, tools: { names: [echo] }, action: RequireApproval, approval: { expiresAfter: 10m, waitUpTo: 0s } }\n    - { name: others, tools: { names: [variables] }, action: Allow }\n";

/// Answers the first `failures` POSTs with 500.
async fn receiver(failures: usize) -> Fake {
    let receiver = Fake::start(&[]).await;
    let left = std::sync::atomic::AtomicUsize::new(failures);
    receiver.on("response", move |_| {
        use std::sync::atomic::Ordering::SeqCst;
        let fails = left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        let status = if fails.is_ok() { 500 } else { 200 };
        Answer::Status(status, "text/plain", b"words of the receiver".to_vec())
    });
    receiver
}

fn posts(receiver: &Fake) -> Vec<Got> {
    receiver.got("response")
}

/// A `serve` that asks people before each `echo`, and announces that to a webhook of each format.
fn announcing(generic: &Fake, slack: &Fake) -> Serve {
    let tools = "      env: [{ name: TOOLS, value: 'echo,variables' }]\n      command:";
    let server = server_yaml().replace("      command:", tools)
        + "  approvals:\n    notify:\n      - webhook: { urlSecretRef: { name: hook, key: url }, hmacSecretRef: { name: hook, key: hmac } }\n      - webhook: { urlSecretRef: { name: chat, key: url }, format: Slack, includeArguments: true }\n";
    let url = |receiver: &Fake| format!("http://{}{PATH}", receiver.addr);
    let (hook, chat) = (url(generic), url(slack));
    Serve::start_as(&server, RULES, move |command, _| {
        command
            .env("PORTCULLIS_SECRET_HOOK__url", hook)
            .env("PORTCULLIS_SECRET_HOOK__hmac", KEY)
            .env("PORTCULLIS_SECRET_CHAT__url", chat);
    })
}

/// As docs/approvals.md says that a receiver verifies.
fn is_genuine(got: &Got) -> bool {
    let header = |name: &str| got.header(name).unwrap_or_default().to_owned();
    let signed = [header("portcullis-timestamp").as_bytes(), b".", &got.body].concat();
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY.as_bytes()), &signed);
    header("portcullis-signature") == format!("v1={}", hex::encode(tag))
}

fn is_pending(answer: &Value) -> bool {
    is_error(answer) && text(answer).starts_with("Approval pending")
}

/// The requests for approval, as `approvals list` shows them.
fn listed(serve: &Serve) -> Vec<Value> {
    let listed = serve.command(&["approvals", "list", "-o", "json"]);
    serde_json::from_slice(&listed.stdout).unwrap()
}

fn has_no_secret(what: &str, text: &str) {
    for secret in [KEY, "s3cr3tpath", "words of the receiver"] {
        assert!(!text.contains(secret), "{what} has {secret}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_webhook_gets_each_request_once_signed_and_again_only_where_it_answered_500() {
    let (generic, slack) = (receiver(1).await, receiver(0).await);
    let serve = announcing(&generic, &slack);
    let session = serve.session();
    for _ in 0..3 {
        assert!(is_pending(&serve.echo(&session, "promote")));
    }
    eventually("it is announced to both", || {
        posts(&generic).len() == 2 && posts(&slack).len() == 1
    })
    .await;
    // The next one is announced after it: nothing else was sent in between.
    assert!(is_pending(&serve.echo(&session, "another")));
    eventually("the next one is too", || {
        posts(&generic).len() >= 3 && posts(&slack).len() >= 2
    })
    .await;
    let (of_generic, of_slack) = (posts(&generic), posts(&slack));
    assert_eq!((of_generic.len(), of_slack.len()), (3, 2));
    let names: Vec<String> = of_generic
        .iter()
        .map(|got| got.json()["approval"]["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names[0], names[1], "what was answered with 500 is repeated");
    assert_ne!(names[1], names[2]);
    let delivery = |got: &Got| got.header("portcullis-delivery").unwrap().to_owned();
    let deliveries: HashSet<String> = of_generic.iter().map(delivery).collect();
    assert_eq!(deliveries.len(), 2, "a receiver knows what is repeated");
    for got in &of_generic {
        assert!(got.path == PATH && is_genuine(got), "{got:?}");
        assert_eq!(got.json()["type"], "approval.requested");
        let body = String::from_utf8_lossy(&got.body);
        assert!(!body.contains("promote"), "arguments: {body}");
    }
    let mut forged = of_generic[0].clone();
    forged.body.push(b' ');
    assert!(!is_genuine(&forged));
    for (got, argument) in of_slack.iter().zip(["promote", "another"]) {
        let message = got.json()["text"].as_str().unwrap().to_owned();
        let command = "To decide: portcullis approvals show scripted-";
        assert!(
            message.contains(argument) && message.contains(command),
            "{message}"
        );
        assert_eq!(got.header("portcullis-signature"), None);
    }
    // A decided request is not announced again, nor is anything at the end.
    let name = &names[0];
    let requests = listed(&serve);
    let digest = requests
        .iter()
        .find(|one| one["metadata"]["name"] == **name)
        .unwrap()["spec"]["argumentsDigest"]
        .as_str()
        .unwrap();
    let approve = ["approvals", "approve", name, "--yes", "--digest", digest];
    assert!(serve.command(&approve).status.success());
    assert_eq!(text(&serve.echo(&session, "promote")), "promote");
    let status = String::from_utf8(serve.command(&["status", "-o", "yaml"]).stdout).unwrap();
    has_no_secret("status", &status);
    let (_, said, folder) = serve.interrupt();
    assert_eq!((posts(&generic).len(), posts(&slack).len()), (3, 2));
    assert!(said.contains("HTTP 500"), "{said}");
    has_no_secret("the log", &said);
    let audit = std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap();
    has_no_secret("the audit log", &audit);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_answers_500_for_ever_is_named_in_words_and_stops_no_call() {
    let (generic, slack) = (receiver(usize::MAX).await, receiver(0).await);
    let mut serve = announcing(&generic, &slack);
    let session = serve.session();
    assert!(is_pending(&serve.echo(&session, "promote")));
    serve.says("it answered HTTP 500 Internal Server Error");
    let shown = |serve: &Serve| {
        let output = serve.command(&["status", "-o", "yaml"]);
        String::from_utf8(output.stdout).unwrap()
    };
    let why = "spec.approvals.notify[0].webhook: it answered HTTP 500 Internal Server Error";
    eventually("status says so", || {
        let status = shown(&serve);
        status.contains("type: NotifyFailing") && status.contains(why)
    })
    .await;
    has_no_secret("status", &shown(&serve));
    eventually("it is tried again", || posts(&generic).len() >= 2).await;

    // Other calls and other webhooks go on, and people decide.
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {
        "name": "variables", "arguments": {"names": []}}});
    let (_, _, answer) = serve.post(Some(&session), &call);
    assert_eq!(text(&answer["result"]), "{}");
    assert!(is_pending(&serve.echo(&session, "another")));
    eventually("the chat has both", || posts(&slack).len() == 2).await;
    for request in listed(&serve) {
        let name = request["metadata"]["name"].as_str().unwrap();
        let digest = request["spec"]["argumentsDigest"].as_str().unwrap();
        let approve = ["approvals", "approve", name, "--yes", "--digest", digest];
        assert!(serve.command(&approve).status.success());
    }
    assert_eq!(text(&serve.echo(&session, "promote")), "promote");
    assert_eq!(text(&serve.echo(&session, "another")), "another");

    // It heals with the next announcement that is accepted.
    generic.on("response", |_| {
        Answer::Status(200, "text/plain", Vec::new())
    });
    assert!(is_pending(&serve.echo(&session, "a third")));
    eventually("status no longer says so", || {
        !shown(&serve).contains("NotifyFailing")
    })
    .await;
    let (_, said, _) = serve.interrupt();
    has_no_secret("the log", &said);
}
