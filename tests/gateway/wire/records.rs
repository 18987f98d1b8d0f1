//! The audit log: nothing goes upstream before its line is written, and nothing at all where it
//! cannot be.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::client::Client;
use crate::support::rig::{Held, Rig, allow_all, open_to_all};
use crate::support::upstream::{Answer, Fake};
use crate::support::{eventually, soon};

/// With whole arguments in the log, so that a call can be told from others.
fn full(fake: &Fake) -> Value {
    let mut spec = open_to_all(fake);
    spec["audit"] = json!({"arguments": "Full"});
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_call_is_recorded_before_the_server_gets_it_and_its_end_names_the_same_decision() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::with(full(&fake), Held::default(), &[allow_all()]).await;
    let (audit, before) = (rig.audit.clone(), Arc::new(Mutex::new(Vec::new())));
    let seen = Arc::clone(&before);
    fake.on("tools/call", move |got| {
        // What the log holds at the moment at which the server gets the call.
        let count = &got.json()["params"]["arguments"]["count"];
        let all = audit.all();
        let lines = all
            .iter()
            .filter(|line| line["arguments"]["count"] == *count);
        seen.lock().unwrap().push(lines.count());
        Answer::result(got, json!({"content": []}))
    });
    let client = rig.client.session().await;
    let mut calls = JoinSet::new();
    for count in 0..200 {
        let client = client.clone();
        calls.spawn(async move { client.call("echo", json!({"count": count})).await });
    }
    let mut ids = Vec::new();
    while let Some(reply) = calls.join_next().await {
        let reply = reply.unwrap();
        assert_eq!(reply.status, 200);
        ids.push(reply.header("portcullis-decision-id").unwrap().to_owned());
    }
    assert_eq!(*before.lock().unwrap(), vec![1; 200]);
    eventually("every end", || rig.audit.ends().len() == 200).await;
    let named = |lines: Vec<Value>| -> Vec<String> {
        let ids = lines
            .iter()
            .map(|line| line["decisionId"].as_str().unwrap().to_owned());
        let mut ids: Vec<String> = ids.collect();
        ids.sort();
        ids
    };
    ids.sort();
    assert_eq!(named(rig.audit.all()), ids);
    assert_eq!(named(rig.audit.ends()), ids);
    assert!(
        rig.audit
            .ends()
            .iter()
            .all(|line| line["upstream"]["status"] == "result")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_refusal_names_its_decision_too() {
    let fake = Fake::start(&["echo"]).await;
    let deny = json!({"rules": [{"name": "no", "tools": {"names": ["*"]}, "action": "Deny"}]});
    let rig = Rig::new(&fake, &[deny]).await;
    let reply = rig.client.session().await.call("echo", json!({})).await;
    let id = reply.header("portcullis-decision-id").unwrap().to_owned();
    eventually("its line", || rig.audit.all().len() == 1).await;
    assert_eq!(rig.audit.all()[0]["decisionId"], json!(id));
    assert_eq!(rig.audit.all()[0]["outcome"], "denied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn answers_about_prompts_and_resources_name_their_decisions_too() {
    let fake = Fake::start(&["echo"]).await;
    let policy = json!({
        "prompts": [{"name": "some", "names": ["open"], "action": "Allow"}],
        "resources": [{"name": "some", "uris": ["file:///open"], "action": "Allow"}],
    });
    let rig = Rig::new(&fake, &[policy]).await;
    let client = rig.client.session().await;
    let argument = json!({"name": "x", "value": "y"});
    let mut named = Vec::new();
    for (method, params) in [
        ("prompts/get", json!({"name": "open"})),
        ("prompts/get", json!({"name": "closed"})),
        ("resources/read", json!({"uri": "file:///open"})),
        ("resources/read", json!({"uri": "file:///closed"})),
        ("resources/subscribe", json!({"uri": "file:///open"})),
        (
            "completion/complete",
            json!({"ref": {"type": "ref/prompt", "name": "closed"}, "argument": argument}),
        ),
        (
            "completion/complete",
            json!({"ref": {"type": "ref/prompt", "name": "open"}, "argument": argument}),
        ),
    ] {
        let reply = client.request(method, params.clone()).await;
        let id = reply.header("portcullis-decision-id");
        let id = id.unwrap_or_else(|| panic!("{method} {params}"));
        named.push(json!([method, id]));
    }
    eventually("their lines", || rig.audit.all().len() == named.len()).await;
    let lines: Vec<Value> = rig
        .audit
        .all()
        .iter()
        .map(|line| json!([line["method"], line["decisionId"]]))
        .collect();
    assert_eq!(lines, named);
    // What needs no decision names none.
    let ping = client.request("ping", json!({})).await;
    assert_eq!(ping.header("portcullis-decision-id"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_cannot_be_recorded_is_refused_until_it_can_be_again() {
    let fake = Fake::start(&["echo"]).await;
    let mut policy = allow_all();
    policy["rules"][0]["limits"] = json!([{"counter": "calls", "max": 2, "window": "1h"}]);
    let rig = Rig::new(&fake, &[policy]).await;
    let client = rig.client.session().await;
    assert!(!client.call("echo", json!({})).await.tool().0);
    eventually("its end", || rig.audit.ends().len() == 1).await;
    // Room for a part of a line.
    rig.audit.room(Some(100));
    for _ in 0..20 {
        let (error, text) = client.call("echo", json!({})).await.tool();
        assert!(error && text.contains("could not be recorded"), "{text}");
        assert!(
            text.contains("no storage space") && text.contains("retry after"),
            "{text}"
        );
    }
    for (method, params) in [
        ("prompts/get", json!({"name": "p"})),
        ("resources/read", json!({"uri": "file:///a"})),
        ("resources/subscribe", json!({"uri": "file:///a"})),
        (
            "completion/complete",
            json!({"ref": {"type": "ref/prompt", "name": "p"}, "argument": {"name": "a", "value": ""}}),
        ),
    ] {
        let (code, text) = client.request(method, params).await.error();
        assert!(
            code == -32603 && text.contains("could not be recorded"),
            "{text}"
        );
        assert_eq!(fake.got(method).len(), 0, "{method}");
    }
    assert_eq!(fake.calls(), 1);
    let why = rig.gateway.unready().expect("it is ready");
    assert!(
        why.contains("audit log") && why.contains("no storage space"),
        "{why}"
    );
    // What asks for nothing that is recorded goes on.
    assert_eq!(client.tools().await, ["echo"]);

    rig.audit.room(None);
    eventually("it is written again", || rig.gateway.unready().is_none()).await;
    // None of those calls cost a unit.
    assert!(!client.call("echo", json!({})).await.tool().0);
    assert_eq!(fake.calls(), 2);
    eventually("every line", || rig.audit.ends().len() == 3).await;
    let text = rig.audit.text();
    for line in text.lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for outcome in rig.audit.outcomes() {
        *told.entry(outcome).or_default() += 1;
    }
    // The one whose line failed was decided, and its end says that it was not sent.
    let expected =
        [("allowed", 3), ("unrecorded", 23)].map(|(name, count)| (name.to_owned(), count));
    assert_eq!(told, BTreeMap::from(expected));
    let ends = rig.audit.ends();
    let ends: Vec<_> = ends
        .iter()
        .map(|line| &line["upstream"]["status"])
        .collect();
    assert_eq!(ends, ["result", "unrecorded", "result"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn where_the_spec_says_so_calls_go_on_unrecorded() {
    let fake = Fake::start(&["echo"]).await;
    let mut spec = open_to_all(&fake);
    spec["audit"] = json!({"onFailure": "Continue"});
    let rig = Rig::with(spec, Held::default(), &[allow_all()]).await;
    let client = rig.client.session().await;
    rig.audit.room(Some(0));
    for _ in 0..20 {
        assert!(!client.call("echo", json!({})).await.tool().0);
    }
    assert_eq!((fake.calls(), rig.gateway.unready()), (20, None));
    rig.audit.room(None);
    eventually("what was kept is written", || rig.audit.ends().len() == 20).await;
    assert_eq!(rig.audit.all().len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_approval_is_not_used_up_by_a_call_that_cannot_be_recorded() {
    let fake = Fake::start(&["echo"]).await;
    let policy = json!({"rules": [{"name": "ask", "tools": {"names": ["*"]}, "action": "RequireApproval",
        "approval": {"expiresAfter": "10m", "waitUpTo": "0s"}}]});
    let rig = Rig::new(&fake, &[policy]).await;
    let client = rig.client.session().await;
    assert!(
        client
            .call("echo", json!({}))
            .await
            .tool()
            .1
            .starts_with("Approval pending")
    );
    let now = jiff::Timestamp::now();
    let name = rig.approvals.list(now)[0].metadata.name.clone().unwrap();
    let approved = portcullis::gateway::approvals::NewDecision {
        verdict: portcullis::api::approval::Verdict::Approved,
        by: "joe",
        reason: None,
        digest: None,
    };
    rig.approvals.decide(&name, approved, now).unwrap();
    rig.audit.room(Some(0));
    // The log is only known to fail once something was to be written.
    let (code, _) = client
        .request("resources/read", json!({"uri": "file:///a"}))
        .await
        .error();
    assert_eq!(code, -32602);
    eventually("it fails", || rig.gateway.unready().is_some()).await;
    for _ in 0..2 {
        let (error, text) = client.call("echo", json!({})).await.tool();
        assert!(error && text.contains("could not be recorded"), "{text}");
    }
    rig.audit.room(None);
    eventually("it is written again", || rig.gateway.unready().is_none()).await;
    assert!(!client.call("echo", json!({})).await.tool().0);
    assert_eq!(fake.calls(), 1);
}

/// The real program, killed at a random moment among 1,000 calls: whatever reached the server is in
/// the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn after_a_kill_every_call_that_reached_the_server_has_its_line() {
    let fake = Fake::start(&["echo"]).await;
    let folder = tempfile::tempdir().unwrap();
    let mut server = json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
        "metadata": {"name": "fake", "namespace": "ml"}, "spec": full(&fake)});
    server["spec"]["catalog"] = json!("None");
    let mut policy = crate::support::rig::policy(&allow_all());
    policy = json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpPolicy",
        "metadata": {"name": "all", "namespace": "ml"}, "spec": policy});
    std::fs::create_dir(folder.path().join("files")).unwrap();
    let files = format!("{server}\n---\n{policy}\n");
    std::fs::write(folder.path().join("files/all.yaml"), files).unwrap();
    let log = folder.path().join("audit.jsonl");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .env_remove("RUST_LOG")
        .args(["serve", "-f"])
        .arg(folder.path().join("files"))
        .args(["--listen", &address.to_string(), "--socket"])
        .arg(folder.path().join("serve.sock"))
        .arg("--state")
        .arg(folder.path().join("state"))
        .arg("--audit-file")
        .arg(&log)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let started = said
        .by_ref()
        .map_while(Result::ok)
        .any(|line| line.contains("Point an MCP client at a URL"));
    assert!(started);
    let client = Client::new(address, "/fake/mcp").session().await;
    let [low, high, ..] = *uuid::Uuid::new_v4().as_bytes();
    let kill_at = usize::from(u16::from_le_bytes([low, high])) % 1_000 + 1;
    let mut calls = JoinSet::new();
    for worker in 0..20 {
        let client = client.clone();
        calls.spawn(async move {
            for call in 0..50 {
                let body = json!({"jsonrpc": "2.0", "id": call, "method": "tools/call",
                    "params": {"name": "echo", "arguments": {"count": worker * 50 + call}}});
                if client.try_post(&body).await.is_none() {
                    return;
                }
            }
        });
    }
    let reached = || fake.calls() >= kill_at;
    let watched = async {
        while !reached() {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    };
    soon("the calls", watched).await;
    child.kill().unwrap();
    child.wait().unwrap();
    calls.abort_all();
    let written = std::fs::read_to_string(&log).unwrap();
    let mut recorded: Vec<i64> = Vec::new();
    for line in written.lines() {
        let line: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        recorded.extend(line["arguments"]["count"].as_i64());
    }
    let reached = fake.got("tools/call");
    assert!(reached.len() >= kill_at);
    for got in &reached {
        let count = got.json()["params"]["arguments"]["count"].as_i64().unwrap();
        assert!(
            recorded.contains(&count),
            "call {count} of {} (killed at {kill_at}) has no line",
            reached.len()
        );
    }
}
