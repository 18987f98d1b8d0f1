//! Pages of other origins in a real browser: what it lets them send and read is the browser's own
//! judgement of what the gateway answers.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::installed;
use crate::support::rig::{Held, Rig, allow_all, open_to_all};
use crate::support::upstream::{Answer, Fake};

/// A browser that starts beside other tests.
const PATIENCE: Duration = Duration::from_secs(120);
const KEY: &str = "key-of-agent-a-1234";

/// What the page of an origin reports, in a browser of its own. Every name leads to the server of
/// the page, so that the origin is not one of this machine.
async fn report(browser: &OsStr, origin: &str, pages: &Fake, gateway: SocketAddr) -> Value {
    let profile = tempfile::tempdir().unwrap();
    let host = origin.strip_prefix("http://").unwrap();
    let mut command = Command::new(browser);
    command
        .args([
            "--headless",
            "--disable-gpu",
            "--no-first-run",
            "--no-proxy-server",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--host-resolver-rules=MAP {host} {}", pages.addr));
    if rustix::process::geteuid().is_root() {
        // Chromium refuses to start as root with its sandbox.
        command.arg("--no-sandbox");
    }
    let before = pages.got("response").len();
    let mut child = command
        .arg(format!("{origin}/?key={KEY}&url=http://{gateway}/fake/mcp"))
        .env_remove("LD_PRELOAD")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let reported = async {
        loop {
            if let Some(got) = pages.got("response").get(before) {
                return got.json();
            }
            if let Some(status) = child.try_wait().unwrap() {
                panic!("{} ended with {status}", browser.display());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let report = tokio::time::timeout(PATIENCE, reported).await;
    let report = report.unwrap_or_else(|_| panic!("the page of {origin} reports nothing"));
    child.kill().await.unwrap();
    assert_eq!(report["origin"], origin);
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_an_allowed_origin_lists_and_calls_in_chromium_and_no_other_page_gets_anything() {
    let Some(browser) = installed("PORTCULLIS_TEST_CHROMIUM", "a page in Chromium") else {
        return;
    };
    let pages = Fake::start(&[]).await;
    pages.on("GET", |_| {
        let page = include_bytes!("clients/page.html");
        Answer::Status(200, "text/html", page.to_vec())
    });
    let fake = Fake::start(&["echo"]).await;
    let secrets = Held::default();
    secrets.set("agents", "a", KEY);
    let mut spec = open_to_all(&fake);
    spec["gateway"] = json!({"allowedOrigins": ["http://app.example"]});
    spec["authentication"] = json!({"apiKeys": {"secretRef": {"name": "agents"}}});
    let rig = Rig::with(spec, secrets, &[allow_all()]).await;

    let seen = report(&browser, "http://app.example", &pages, rig.addr).await;
    assert_eq!(seen["unknown"]["status"], 401, "{seen}");
    let challenge = seen["unknown"]["challenge"].as_str().unwrap_or_default();
    assert!(challenge.starts_with("Bearer"), "{seen}");
    assert_eq!(seen["opened"]["status"], 200, "{seen}");
    assert!(seen["opened"]["session"].is_string(), "{seen}");
    assert_eq!(seen["told"]["status"], 202, "{seen}");
    let listed = seen["listed"]["text"].as_str().unwrap_or_default();
    assert!(listed.contains(r#""name":"echo""#), "{seen}");
    let called = seen["called"]["text"].as_str().unwrap_or_default();
    assert!(called.contains("from a page"), "{seen}");
    assert_eq!(seen["ended"]["status"], 204, "{seen}");
    assert_eq!((fake.calls(), fake.got("DELETE").len()), (1, 1));

    // Attack: a page of another origin that knows the key.
    let before = fake.got("initialize").len();
    let seen = report(&browser, "http://evil.example", &pages, rig.addr).await;
    let failed = json!({"failed": "TypeError"});
    for step in ["unknown", "opened", "told", "listed", "called", "ended"] {
        assert_eq!(seen[step], failed, "{step}: {seen}");
    }
    // What a browser sends without asking first: the page cannot read the answer.
    assert_eq!(
        (&seen["blind"]["status"], &seen["blind"]["text"]),
        (&json!(0), &json!("")),
        "{seen}"
    );
    assert_eq!(
        fake.got("initialize").len(),
        before,
        "nothing went upstream"
    );
    assert_eq!((fake.calls(), fake.got("DELETE").len()), (1, 1));
}
