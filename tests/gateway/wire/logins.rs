//! Failed logins: counted by reason, written to the audit log in a bounded number, and nothing of
//! what the client sent.

use serde_json::json;

use crate::support::client::Exchange;
use crate::support::eventually;
use crate::support::rig::{Held, Rig, allow_all, open_to_all};
use crate::support::upstream::Fake;

const KEY: &str = "the-long-key-of-trainer";

async fn keyed(fake: &Fake) -> Rig {
    let secrets = Held::default();
    secrets.set("keys", "trainer", KEY);
    let mut spec = open_to_all(fake);
    spec["authentication"] = json!({"apiKeys": {"secretRef": {"name": "keys"}}});
    spec["gateway"] = json!({"allowedOrigins": ["https://good.example"]});
    Rig::with(spec, secrets, &[allow_all()]).await
}

fn counted(rig: &Rig, reason: &str) -> u64 {
    let line = format!(
        "portcullis_authentication_failures_total{{server=\"ml/fake\",reason=\"{reason}\"}} "
    );
    let text = rig.metrics();
    let found = text.lines().find_map(|found| found.strip_prefix(&line));
    found
        .unwrap_or_else(|| panic!("{reason} in {text}"))
        .parse()
        .unwrap()
}

#[tokio::test]
async fn a_failed_login_is_counted_and_recorded_by_its_reason_without_what_was_sent() {
    let fake = Fake::start(&["echo"]).await;
    let rig = keyed(&fake).await;
    assert_eq!(counted(&rig, "missing"), 0, "an alert sees the first one");
    let secret = "s3cret-of-somebody-else";
    let bearer = format!("Bearer {secret}");
    let basic = format!("Basic {secret}");
    let forwarded = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("Forwarded", "for=203.0.113.9"),
        ("X-Real-Ip", "203.0.113.9"),
    ];
    let spoofed = forwarded
        .iter()
        .fold(rig.client.clone(), |client, (name, value)| {
            client.with(name, value)
        });
    let attempts = [
        (spoofed.clone(), "missing", 401),
        (
            spoofed.with("Authorization", &bearer),
            "unknownCredential",
            401,
        ),
        (spoofed.with("Authorization", &basic), "malformed", 401),
        (
            rig.client
                .with("Origin", &format!("https://{secret}.example")),
            "origin",
            403,
        ),
    ];
    for (client, reason, status) in &attempts {
        let before = counted(&rig, reason);
        let reply = client.initialize("2025-11-25", json!({})).await;
        assert_eq!(reply.status, *status, "{reason}");
        assert_eq!(counted(&rig, reason), before + 1, "{reason}");
    }
    // By hand: bytes that no client sends.
    for (head, reason, status) in [
        (
            format!(
                "Host: {}\r\nAuthorization: Bearer {KEY}\r\nAuthorization: {bearer}\r\n",
                rig.addr
            ),
            "malformed",
            "401",
        ),
        (format!("Host: {secret}.example\r\n"), "host", "403"),
        (
            format!(
                "Host: {}\r\nAuthorization: Bearer \u{9b}2J{secret}\r\n",
                rig.addr
            ),
            "unknownCredential",
            "401",
        ),
        (
            format!(
                "Host: {}\r\nAuthorization: Bearer {}\r\n",
                rig.addr,
                "a".repeat(40_000)
            ),
            "unknownCredential",
            "401",
        ),
    ] {
        let before = counted(&rig, reason);
        let mut exchange = Exchange::open(rig.addr).await;
        exchange
            .write(format!("GET /fake/mcp HTTP/1.1\r\n{head}Accept: text/event-stream\r\nConnection: close\r\n\r\n").as_bytes())
            .await;
        let reply = exchange.head().await;
        assert_eq!(reply.status.to_string(), status, "{reason}");
        assert_eq!(counted(&rig, reason), before + 1, "{reason}");
    }
    eventually("every failure has its line", || {
        rig.audit.logins().len() == 8
    })
    .await;
    let lines = rig.audit.logins();
    let reasons: Vec<(&str, u64)> = lines
        .iter()
        .map(|line| {
            (
                line["reason"].as_str().unwrap(),
                line["status"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        reasons,
        [
            ("missing", 401),
            ("unknownCredential", 401),
            ("malformed", 401),
            ("origin", 403),
            ("malformed", 401),
            ("host", 403),
            ("unknownCredential", 401),
            ("unknownCredential", 401),
        ]
    );
    for line in &lines {
        assert_eq!(
            line["address"], "127.0.0.1",
            "the peer, whatever its headers say"
        );
    }
    let text = rig.audit.text();
    for sent in [secret, KEY, "203.0.113.9", "aaaa", "2J"] {
        assert!(!text.contains(sent), "{sent} in {text}");
    }
    // A login that succeeds adds nothing.
    let trainer = rig
        .client
        .with("Authorization", &format!("Bearer {KEY}"))
        .session()
        .await;
    assert!(!trainer.call("echo", json!({})).await.tool().0);
    rig.audit_outcomes(1).await;
    assert_eq!(rig.audit.logins().len(), 8);
}

#[tokio::test]
async fn a_flood_of_failed_logins_is_counted_and_does_not_fill_the_log() {
    let fake = Fake::start(&["echo"]).await;
    let rig = keyed(&fake).await;
    for _ in 0..50 {
        assert_eq!(rig.client.send("GET", None).await.status, 401);
    }
    assert_eq!(counted(&rig, "missing"), 50);
    eventually("the first ten", || rig.audit.logins().len() == 10).await;
    // The window ends with the gateway, or after a minute.
    rig.gateway.drain();
    eventually("the number of the others", || {
        rig.audit.logins().len() == 11
    })
    .await;
    let last = rig.audit.logins().pop().unwrap();
    assert_eq!(
        (
            &last["suppressed"],
            &last["address"],
            &last["windowSeconds"]
        ),
        (&json!(40), &json!("127.0.0.1"), &json!(60))
    );
    assert_eq!(rig.client.send("GET", None).await.status, 401);
    assert_eq!(counted(&rig, "missing"), 51);
}
