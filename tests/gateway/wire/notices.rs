//! Requests for approval are announced to webhooks: signed, once, and whatever a webhook does.

use jiff::Timestamp;
use portcullis::api::approval::{McpApproval, Verdict};
use portcullis::gateway::approvals::NewDecision;
use ring::hmac;
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::rig::{Held, Rig, open_to_all};
use crate::support::upstream::{Answer, Fake, Got};

const KEY: &str = "0123456789abcdef0123456789abcdef";
/// The path of a webhook's URL, as secret as a password.
const PATH: &str = "/services/T0/B0/s3cr3tpath";

fn held() -> Value {
    json!({"rules": [
        {"name": "promote", "tools": {"names": ["promote"]}, "action": "RequireApproval",
            "approval": {"waitUpTo": "0s", "expiresAfter": "1h"}},
        {"name": "echo", "tools": {"names": ["echo"]}, "action": "Allow"},
    ]})
}

/// A server whose webhooks are these, as `Held` has their URLs and the key.
fn spec(fake: &Fake, webhooks: &[Value]) -> Value {
    let mut spec = open_to_all(fake);
    let notify: Vec<Value> = webhooks.iter().map(|one| json!({"webhook": one})).collect();
    spec["approvals"] = json!({ "notify": notify });
    spec
}

fn url(name: &str) -> Value {
    json!({"name": name, "key": "url"})
}

/// A receiver that answers every POST with this status.
async fn receiver(secrets: &Held, name: &str, status: u16) -> Fake {
    let receiver = Fake::start(&[]).await;
    receiver.on("response", move |_| {
        Answer::Status(
            status,
            "text/plain",
            b"secret words of the receiver".to_vec(),
        )
    });
    secrets.set(name, "url", &format!("http://{}{PATH}", receiver.addr));
    secrets.set(name, "key", &format!("{KEY}\n"));
    receiver
}

fn posts(receiver: &Fake) -> Vec<Got> {
    receiver.got("response")
}

fn list(rig: &Rig) -> Vec<McpApproval> {
    rig.approvals.list(Timestamp::now())
}

fn is_notified(object: &McpApproval) -> bool {
    let status = object.status.as_ref();
    status.is_some_and(|status| status.notified_at.is_some())
}

/// As docs/approvals.md says that a receiver verifies.
fn verify(got: &Got) -> bool {
    let (Some(time), Some(signature)) = (
        got.header("portcullis-timestamp"),
        got.header("portcullis-signature"),
    ) else {
        return false;
    };
    let signed = [time.as_bytes(), b".", &got.body].concat();
    let digits = signature.strip_prefix("v1=").unwrap().as_bytes();
    let tag: Vec<u8> = digits
        .chunks(2)
        .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
        .collect();
    hmac::verify(
        &hmac::Key::new(hmac::HMAC_SHA256, KEY.as_bytes()),
        &signed,
        &tag,
    )
    .is_ok()
}

#[tokio::test]
async fn a_request_is_announced_once_signed_and_with_arguments_only_where_they_are_wanted() {
    let fake = Fake::start(&["promote", "echo"]).await;
    let secrets = Held::default();
    let generic = receiver(&secrets, "generic", 200).await;
    let slack = receiver(&secrets, "slack", 200).await;
    let webhooks = [
        json!({"urlSecretRef": url("generic"), "hmacSecretRef": {"name": "generic", "key": "key"}}),
        json!({"urlSecretRef": url("slack"), "format": "Slack", "includeArguments": true}),
    ];
    let rig = Rig::with(spec(&fake, &webhooks), secrets, &[held()]).await;
    let client = rig.client.session().await;
    for _ in 0..3 {
        client.call("promote", json!({"text": "sensitive"})).await;
    }
    eventually("both have it", || list(&rig).iter().all(is_notified)).await;
    let made = list(&rig).remove(0);
    let name = made.metadata.name.clone().unwrap();
    let [one] = &posts(&generic)[..] else {
        panic!("{:?}", posts(&generic))
    };
    assert_eq!(one.path, PATH);
    assert!(verify(one), "{one:?}");
    let body = one.json();
    assert_eq!(
        (
            &body["type"],
            &body["approval"]["name"],
            &body["approval"]["tool"]
        ),
        (
            &json!("approval.requested"),
            &json!(name),
            &json!("promote")
        )
    );
    assert_eq!(
        one.header("portcullis-delivery"),
        made.spec.decision_id.as_deref()
    );
    assert!(!String::from_utf8_lossy(&one.body).contains("sensitive"));
    let [one] = &posts(&slack)[..] else {
        panic!("{:?}", posts(&slack))
    };
    assert_eq!(one.header("portcullis-signature"), None);
    let text = one.json()["text"].as_str().unwrap().to_owned();
    assert!(text.contains("sensitive") && text.contains(&name), "{text}");
    // A chat never decides, and its answer goes nowhere.
    assert!(made.spec.decisions.is_empty());
    // Another request is another announcement; what was announced is not announced again.
    client.call("promote", json!({"text": "b"})).await;
    eventually("both have both", || {
        posts(&generic).len() == 2 && posts(&slack).len() == 2
    })
    .await;
    eventually("all are marked", || list(&rig).iter().all(is_notified)).await;
}

#[tokio::test]
async fn a_webhook_that_fails_is_named_without_its_url_and_stops_nothing() {
    let fake = Fake::start(&["promote", "echo"]).await;
    let secrets = Held::default();
    let broken = receiver(&secrets, "broken", 500).await;
    let moved = receiver(&secrets, "moved", 302).await;
    let good = receiver(&secrets, "good", 204).await;
    secrets.set("weak", "url", "http://127.0.0.1:9/hook");
    secrets.set("weak", "key", "too short");
    secrets.set("odd", "url", &format!("ftp://user:pw@host{PATH}"));
    let names = ["broken", "moved", "good"];
    let mut webhooks: Vec<Value> = names
        .iter()
        .map(|name| json!({"urlSecretRef": url(name)}))
        .collect();
    webhooks.push(
        json!({"urlSecretRef": url("weak"), "hmacSecretRef": {"name": "weak", "key": "key"}}),
    );
    webhooks.push(json!({"urlSecretRef": url("odd")}));
    webhooks.push(json!({"urlSecretRef": url("absent")}));
    let rig = Rig::with(spec(&fake, &webhooks), secrets, &[held()]).await;
    let client = rig.client.session().await;
    for n in 0..3 {
        let (_, text) = client
            .call("promote", json!({"text": n.to_string()}))
            .await
            .tool();
        assert!(text.starts_with("Approval pending"), "{text}");
    }
    eventually("the good one has all", || posts(&good).len() == 3).await;
    eventually("the others have failed", || {
        rig.gateway.report().webhook_faults.len() == 5
    })
    .await;
    let faults = rig.gateway.report().webhook_faults;
    let expected = [
        "[0].webhook: it answered HTTP 500 Internal Server Error",
        "[1].webhook: it answered HTTP 302 Found",
        "[3].webhook: the key of hmacSecretRef has fewer than 16 bytes",
        "[4].webhook: the value of urlSecretRef is not an http:// or https:// URL",
        "[5].webhook: the Secret absent has no key url",
    ];
    for (fault, expected) in faults.iter().zip(expected) {
        assert!(
            fault.starts_with(&format!("spec.approvals.notify{expected}")),
            "{fault}"
        );
    }
    let report = serde_json::to_string(&rig.gateway.report()).unwrap();
    for secret in ["s3cr3tpath", "too short", "user:pw", "secret words"] {
        assert!(
            !report.contains(secret) && !rig.audit.text().contains(secret),
            "{secret}"
        );
    }
    // With pauses that grow: one attempt at a time, of the oldest request first.
    assert!(posts(&broken).len() < 4, "{}", posts(&broken).len());
    assert!(!client.call("echo", json!({})).await.tool().0);
    // It was not announced everywhere, and can be decided all the same.
    let first = list(&rig).remove(0);
    assert!(!is_notified(&first));
    let decided = NewDecision {
        verdict: Verdict::Approved,
        by: "joe",
        reason: None,
        digest: None,
    };
    let name = first.metadata.name.unwrap();
    rig.approvals
        .decide(&name, decided, Timestamp::now())
        .unwrap();
    let text: Value = serde_json::from_str(&first.spec.arguments_preview).unwrap();
    assert!(!client.call("promote", text).await.tool().0);
    // It heals: what still waits is announced there too, and what was accepted is not sent again.
    broken.on("response", |_| {
        Answer::Status(200, "text/plain", Vec::new())
    });
    let failed = posts(&broken).len();
    eventually("it has the two that wait", || {
        posts(&broken).len() >= failed + 2
    })
    .await;
    eventually("its fault is gone", || {
        let faults = rig.gateway.report().webhook_faults;
        faults.len() == 4 && !faults[0].contains("[0]")
    })
    .await;
    assert_eq!(posts(&good).len(), 3);
    assert!(!posts(&moved).is_empty());
}
