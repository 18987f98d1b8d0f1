//! A child for each session.

use std::time::Duration;

use http::{Method, StatusCode};
use portcullis::gateway::bridge::Sessions;
use serde_json::{Value, json};

use portcullis::gateway::upstream::Unserved;

use super::harness::{Rig, call, call_with_token, eventually, group_lives};

#[tokio::test(flavor = "multi_thread")]
async fn every_session_has_a_child_of_its_own_that_sees_its_clients_messages() {
    let rig = Rig::per_session().await;
    let reply = rig.initialize("2025-06-18").await;
    let answer = reply.json().await;
    assert_eq!(answer["id"], "init");
    assert_eq!(answer["result"]["protocolVersion"], "2025-06-18");
    assert_eq!(
        answer["result"]["capabilities"],
        json!({"tools": {}, "resources": {"subscribe": true}, "tasks": {"list": {}}, "logging": {}})
    );
    assert_eq!(
        answer["result"]["instructions"],
        r#"{"name": "test", "version": "0"}"#
    );
    let (one, two) = (rig.open().await, rig.open().await);
    let first = rig.text(&one, "group", json!({})).await;
    assert_ne!(first, rig.text(&two, "group", json!({})).await);
    assert_eq!(first, rig.text(&one, "group", json!({})).await);
    assert_eq!(
        rig.call(&one, "an id", "echo", json!({"text": "x"})).await["id"],
        "an id"
    );
    assert!(
        rig.got("tools/call")
            .iter()
            .any(|call| call["id"] == "an id")
    );
    rig.bridge.shutdown().await;
    for pid in rig.pids() {
        assert!(!group_lives(pid));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_the_child_reach_the_client_and_its_answer_the_child() {
    let rig = Rig::per_session().await;
    let session = rig.open().await;
    let ask = call(1, "ask", json!({"method": "roots/list"}));
    let mut reply = rig.post(&session, &ask).await;
    assert!(reply.is_stream());
    let asked = reply.body.next().await.unwrap().unwrap();
    assert_eq!(
        asked,
        json!({"jsonrpc": "2.0", "id": "server-1", "method": "roots/list", "params": {}})
    );
    let answer = json!({"jsonrpc": "2.0", "id": "server-1", "result": {"roots": []}});
    for _ in 0..2 {
        assert_eq!(
            rig.post(&session, &answer).await.status,
            StatusCode::ACCEPTED
        );
    }
    let done = reply.body.next().await.unwrap().unwrap();
    assert_eq!(
        done["result"]["content"][0]["text"],
        r#"{"result": {"roots": []}}"#
    );
    assert_eq!(reply.body.next().await.unwrap(), None);
    // What was not asked, or was answered already, is not passed on.
    assert_eq!(rig.text(&session, "echo", json!({"text": "x"})).await, "x");
    let answers = rig
        .log()
        .iter()
        .filter(|entry| entry["got"]["result"].is_object())
        .count();
    assert_eq!(answers, 1);
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_goes_to_its_call_and_list_changes_to_the_get_stream() {
    let rig = Rig::per_session().await;
    let session = rig.open().await;
    let mut stream = rig.listen(&session).await;
    let gate = rig.path("gate");
    let one = call_with_token(11, "progress", json!({"steps": 1, "until": gate}), "one");
    let mut one = rig.post(&session, &one).await;
    let two = call_with_token(12, "progress", json!({"steps": 1, "until": gate}), 2);
    let mut two = rig.post(&session, &two).await;
    rig.text(&session, "announce", json!({})).await;
    std::fs::write(&gate, "").unwrap();
    for (reply, token, id) in [(&mut one, json!("one"), 11), (&mut two, json!(2), 12)] {
        let progress = reply.body.next().await.unwrap().unwrap();
        assert_eq!(progress["params"]["progressToken"], token);
        assert_eq!(reply.body.next().await.unwrap().unwrap()["id"], id);
        assert_eq!(reply.body.next().await.unwrap(), None);
    }
    let changed = stream.next().await.unwrap().unwrap();
    assert_eq!(changed["method"], "notifications/tools/list_changed");
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_while_no_get_stream_is_open_waits_for_one() {
    let rig = Rig::per_session().await;
    let session = rig.open().await;
    for _ in 0..3 {
        rig.text(&session, "announce", json!({})).await;
    }
    rig.text(&session, "update", json!({"uri": "a:b"})).await;
    let mut stream = rig.listen(&session).await;
    let methods = [stream.next().await, stream.next().await]
        .map(|message| message.unwrap().unwrap()["method"].clone());
    assert_eq!(
        methods,
        [
            "notifications/tools/list_changed",
            "notifications/resources/updated"
        ]
    );
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_is_passed_on_and_ends_the_wait() {
    let rig = Rig::per_session().await;
    let session = rig.open().await;
    let never = call(4, "never", json!({}));
    let cancel =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 4}});
    let canceller = async {
        eventually("called", || rig.got("tools/call").len() == 1).await;
        // Ids that a server might take for the same cancel nothing, and do not reach it.
        for id in ["\"4\"", "4.0", "4e0", "5", "null"] {
            let other = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#
            );
            let reply = rig.send(Method::POST, Some(&session), &[], other).await;
            assert_eq!(reply.status, StatusCode::ACCEPTED);
        }
        rig.post(&session, &cancel).await
    };
    let (held, _) = tokio::join!(rig.post(&session, &never), canceller);
    assert_eq!(
        held.json().await["error"]["message"],
        "Cancelled by the client."
    );
    eventually("cancelled", || {
        rig.got("notifications/cancelled") == [cancel.clone()]
    })
    .await;
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_ends_the_child_and_the_session_is_unknown() {
    let rig = Rig::per_session().await;
    let session = rig.open().await;
    let mut stream = rig.listen(&session).await;
    let pid = rig.pids()[0];
    let reply = rig.send(Method::DELETE, Some(&session), &[], "").await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT);
    assert_eq!(stream.next().await.unwrap(), None);
    let reply = rig.send(Method::DELETE, Some(&session), &[], "").await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    eventually("gone", || !group_lives(pid)).await;
    assert_eq!(
        rig.post(&session, &call(1, "echo", json!({"text": "x"})))
            .await
            .status,
        StatusCode::NOT_FOUND
    );
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_fails_the_calls_of_its_session_and_ends_no_other() {
    let rig = Rig::per_session().await;
    let (one, two) = (rig.open().await, rig.open().await);
    let mut stream = rig.listen(&one).await;
    let reply = rig.post(&one, &call(1, "crash", json!({}))).await;
    assert_eq!(reply.unserved, Some(Unserved::Lost));
    let answer = reply.json().await;
    assert_eq!(
        answer["error"]["message"],
        "The server ended before it answered (it exited with status 3). It is not known whether the call took effect."
    );
    assert_eq!(answer["error"]["data"], json!({"retryAfterMs": 1000}));
    assert_eq!(stream.next().await.unwrap(), None);
    assert_eq!(
        rig.post(&one, &call(1, "echo", json!({"text": "x"})))
            .await
            .status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(rig.text(&two, "echo", json!({"text": "x"})).await, "x");
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_session_too_many_is_refused_until_another_ends() {
    let rig = Rig::new(Sessions::PerSession, |config| {
        config.limits.max_sessions = 1
    })
    .await;
    let session = rig.open().await;
    // Without a reader it would make room.
    let _stream = rig.listen(&session).await;
    let reply = rig.initialize("2025-11-25").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(reply.headers.contains_key("retry-after"));
    let answer = reply.json().await;
    assert_eq!(answer["id"], "init");
    assert_eq!(
        answer["error"]["message"],
        "All 1 sessions of this server are in use; end one (DELETE) or retry later."
    );
    rig.send(Method::DELETE, Some(&session), &[], "").await;
    // The slot is free once the last process is gone; the new session waits for that.
    rig.open().await;
    assert!(!group_lives(rig.pids()[0]));
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_session_ends_with_its_child_even_if_a_stream_is_open() {
    let rig = Rig::new(Sessions::PerSession, |config| {
        config.limits.session_idle = Duration::from_millis(400);
    })
    .await;
    let session = rig.open().await;
    let mut stream = rig.listen(&session).await;
    let gate = rig.path("gate");
    let held = call(1, "wait_for", json!({"file": gate}));
    let opener = async {
        // A call that is waited for keeps the session, however long it takes.
        let start = std::time::Instant::now();
        eventually("three idle times", || {
            start.elapsed() > Duration::from_millis(1200)
        })
        .await;
        std::fs::write(&gate, "").unwrap();
    };
    let (held, ()) = tokio::join!(rig.post(&session, &held), opener);
    assert_eq!(held.json().await["result"]["content"][0]["text"], "found");
    assert_eq!(stream.next().await.unwrap(), None);
    eventually("gone", || !group_lives(rig.pids()[0])).await;
    let reply = rig
        .post(&session, &call(2, "echo", json!({"text": "x"})))
        .await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_does_not_start_is_an_answer_and_leaves_no_session() {
    let rig = Rig::new(Sessions::PerSession, |config| {
        config.env.push(("FAIL_STARTS".into(), "1".into()));
        config.limits.max_sessions = 1;
    })
    .await;
    let reply = rig.initialize("2025-11-25").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!reply.headers.contains_key("mcp-session-id"));
    let answer: Value = reply.json().await;
    let why = answer["error"]["message"].as_str().unwrap();
    assert!(why.contains("it exited with status 7"), "{why}");
    rig.open().await;
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_initialize_whose_client_goes_away_leaves_no_child() {
    let rig = Rig::new(Sessions::PerSession, |config| {
        // Never answers.
        config.command = "cat".into();
        config.args = vec!["-".into()];
        config.limits.max_sessions = 1;
    })
    .await;
    let started = eventually("started", || copies_of_cat() == 1);
    tokio::select! {
        _ = rig.initialize("2025-11-25") => panic!("cat has no answer"),
        () = started => {}
    }
    eventually("gone", || copies_of_cat() == 0).await;
    rig.bridge.shutdown().await;
}

fn copies_of_cat() -> usize {
    let parent = format!(" {} ", std::process::id());
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let cats = entries.filter(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let ours = stat
            .rsplit_once(')')
            .is_some_and(|(_, rest)| rest.contains(&parent));
        line == b"cat\0-\0" && ours
    });
    cats.count()
}
