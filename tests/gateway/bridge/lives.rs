//! Start, crash, restart and end of children.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use portcullis::gateway::bridge::{Bridge, BridgeConfig, Sessions, StartError};
use portcullis::gateway::upstream::stdio::SpawnError;
use serde_json::json;

use portcullis::gateway::upstream::Unserved;

use super::harness::{PATIENCE, Rig, call, config, eventually, group_lives};

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_fails_the_pending_calls_at_once_and_the_session_goes_on() {
    let rig = Rig::shared().await;
    let (one, two) = (rig.open().await, rig.open().await);
    let mut stream = rig.listen(&one).await;
    let subscribe = json!({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": {"uri": "a:b"}});
    rig.post(&one, &subscribe).await;
    let never = call(1, "never", json!({}));
    let crash = async {
        eventually("called", || rig.got("tools/call").len() == 1).await;
        rig.post(&two, &call(1, "crash", json!({"status": 5})))
            .await
    };
    let (lost, crashed) = tokio::join!(rig.post(&one, &never), crash);
    for reply in [lost, crashed] {
        assert_eq!(reply.unserved, Some(Unserved::Lost));
        let answer = reply.json().await;
        assert_eq!(answer["error"]["code"], -32603);
        assert_eq!(
            answer["error"]["message"],
            "The server ended before it answered (it exited with status 5). It is not known whether the call took effect."
        );
        assert_eq!(answer["error"]["data"], json!({"retryAfterMs": 1020}));
    }
    // The sessions survive: what they may have missed, they are told to look at again.
    for list in ["tools", "resources"] {
        let method = format!("notifications/{list}/list_changed");
        let message = stream.next().await.unwrap().unwrap();
        assert_eq!(message, json!({"jsonrpc": "2.0", "method": method}));
    }
    rig.back(&one).await;
    assert_eq!(rig.pids().len(), 2);
    assert_eq!(rig.got("initialize").len(), 2);
    assert_eq!(rig.got("resources/subscribe").len(), 2);
    rig.text(&two, "update", json!({"uri": "a:b"})).await;
    let message = stream.next().await.unwrap().unwrap();
    assert_eq!(message["method"], "notifications/resources/updated");
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_back_off_exponentially_and_calls_meanwhile_learn_when_to_retry() {
    let rig = Rig::new(Sessions::Shared, |config| {
        config.env.push(("FAIL_STARTS".into(), "4".into()));
        config.limits.restart_first = Duration::from_millis(100);
    })
    .await;
    assert_eq!(
        rig.bridge.ready().await,
        Err("it exited with status 7 before it answered `initialize`".to_owned())
    );
    let reply = rig.initialize("2025-11-25").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(reply.headers.contains_key("retry-after"));
    assert_eq!(reply.unserved, Some(Unserved::Undelivered));
    let answer = reply.json().await;
    assert_eq!(answer["error"]["code"], -32603);
    assert!(answer["error"]["data"]["retryAfterMs"].as_u64().unwrap() >= 1000);
    eventually("the fifth start", || rig.pids().len() == 5).await;
    let at: Vec<f64> = rig
        .log()
        .iter()
        .filter_map(|entry| entry["at"].as_f64())
        .collect();
    // Half of the full delay is the least that jitter leaves: 50, 100, 200 and 400 ms.
    for (pair, least) in at.windows(2).zip([0.05, 0.1, 0.2, 0.4]) {
        assert!(pair[1] - pair[0] >= least, "{at:?}");
    }
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_of_output_counts_as_the_end_of_the_child() {
    let rig = Rig::shared().await;
    let session = rig.open().await;
    let answer = rig.call(&session, 1, "close_output", json!({})).await;
    assert_eq!(answer["error"]["code"], -32603);
    rig.back(&session).await;
    assert_eq!(rig.pids().len(), 2);
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_closes_the_input_first_and_leaves_no_process() {
    let rig = Rig::shared().await;
    rig.open().await;
    rig.bridge.shutdown().await;
    assert!(rig.log().iter().any(|entry| entry["input_ended"] == true));
    assert!(!group_lives(rig.pids()[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn grandchildren_and_children_that_ignore_sigterm_die_too() {
    for sessions in [Sessions::Shared, Sessions::PerSession] {
        let rig = Rig::new(sessions, |config| {
            config.env.push(("IGNORE_TERM".into(), "1".into()))
        })
        .await;
        let session = rig.open().await;
        let grandchild: i32 = rig
            .text(&session, "grandchild", json!({}))
            .await
            .parse()
            .unwrap();
        let group = rig.text(&session, "group", json!({})).await;
        let pid = rig.pids()[0];
        assert_eq!(
            group,
            format!("{pid} {pid}"),
            "the child leads its own group"
        );
        assert!(group_lives(pid));
        let ended = tokio::time::timeout(PATIENCE, rig.bridge.shutdown()).await;
        assert!(ended.is_ok(), "it does not end");
        assert!(!group_lives(pid), "{sessions:?}");
        assert!(
            !std::path::Path::new(&format!("/proc/{grandchild}/cmdline")).exists()
                || zombie(grandchild)
        );
    }
}

fn zombie(pid: i32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn grandchildren_of_a_crashed_child_are_gone_before_the_next_one_starts() {
    let rig = Rig::shared().await;
    let session = rig.open().await;
    rig.text(&session, "grandchild", json!({})).await;
    // At once, whatever holds the pipe: a call that times out is answered in other words.
    let answer = rig.call(&session, 1, "crash", json!({})).await;
    assert_eq!(answer["error"]["code"], -32603);
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("ended"), "{message}");
    rig.back(&session).await;
    assert!(!group_lives(rig.pids()[0]));
    rig.bridge.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_bridge_stops_the_child() {
    let rig = Rig::shared().await;
    rig.open().await;
    let pid = rig.pids()[0];
    assert!(group_lives(pid));
    let Rig { bridge, folder } = rig;
    drop(bridge);
    eventually("gone", || !group_lives(pid)).await;
    drop(folder);
}

#[test]
fn a_runtime_that_goes_away_kills_the_group() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (rig, pid) = runtime.block_on(async {
        let rig = Rig::new(Sessions::Shared, |config| {
            config.env.push(("IGNORE_TERM".into(), "1".into()))
        })
        .await;
        let session = rig.open().await;
        rig.text(&session, "grandchild", json!({})).await;
        let pid = rig.pids()[0];
        (rig, pid)
    });
    assert!(group_lives(pid));
    drop(runtime);
    let start = Instant::now();
    while alive(pid) {
        assert!(start.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    drop(rig);
}

/// Whether any process of the group runs; here nobody is left to reap the leader.
fn alive(pgid: i32) -> bool {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let mut stats =
        entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats.any(|stat| {
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        fields[0] != "Z" && fields[2] == pgid.to_string()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn children_inherit_path_home_and_lang_and_what_is_configured() {
    // Two variables of this process that no launcher of an interpreter sets by itself.
    let launcher = ["PATH", "HOME", "LANG", "PWD", "SHLVL", "_"];
    let mut ours = std::env::vars()
        .map(|(name, _)| name)
        .filter(|name| !launcher.contains(&name.as_str()))
        .filter(|name| !name.contains("PYENV") && !name.starts_with("LC_"));
    let (wanted, unwanted) = (ours.next().unwrap(), ours.next().unwrap());
    let rig = Rig::new(Sessions::Shared, |config| {
        config.inherit.push((&wanted).into())
    })
    .await;
    let session = rig.open().await;
    let text = rig.text(&session, "environment", json!({})).await;
    let names: Vec<String> = serde_json::from_str(&text).unwrap();
    for name in ["PATH", "SCRIPT_FILE", &wanted] {
        assert!(names.iter().any(|other| other == name), "{name}");
    }
    assert!(!names.contains(&unwanted), "{unwanted}");
    rig.bridge.shutdown().await;
}

#[tokio::test]
async fn a_command_that_cannot_run_is_refused_before_anything_starts() {
    for sessions in [Sessions::Shared, Sessions::PerSession] {
        let mut missing = BridgeConfig::new("x", "no-such-server-anywhere");
        missing.sessions = sessions;
        let error = Bridge::start(missing).unwrap_err();
        assert!(matches!(
            error,
            StartError::Spawn(SpawnError::NotFound { .. })
        ));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("server");
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        let mut plain = BridgeConfig::new("x", &file);
        plain.sessions = sessions;
        let error = Bridge::start(plain).unwrap_err();
        assert!(matches!(
            error,
            StartError::Spawn(SpawnError::NotExecutable { .. })
        ));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_shared_sessions_end_and_open_again_when_they_are_used() {
    let rig = Rig::new(Sessions::Shared, |config| {
        config.limits.session_idle = Duration::from_millis(50);
    })
    .await;
    let (idle, listening, ended) = (rig.open().await, rig.open().await, rig.open().await);
    let reply = rig.send(Method::DELETE, Some(&ended), &[], "").await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT);
    let mut stream = rig.listen(&listening).await;
    assert!(stream.piece().await.starts_with(':'));
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    let start = Instant::now();
    eventually("six idle times", || {
        start.elapsed() > Duration::from_millis(300)
    })
    .await;
    assert_eq!(rig.post(&idle, &ping).await.status, StatusCode::OK);
    assert_eq!(rig.post(&listening, &ping).await.status, StatusCode::OK);
    // One that its client has ended stays ended, and so does one that was never given out.
    for unknown in [ended.as_str(), "guessed", &"0".repeat(31), &"g".repeat(32)] {
        let reply = rig.post(unknown, &ping).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{unknown}");
        let reply = rig.send(Method::GET, Some(unknown), &[], "").await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{unknown}");
    }
    rig.bridge.shutdown().await;
}

#[tokio::test]
async fn a_child_that_speaks_an_unknown_version_is_named_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(Sessions::Shared, &folder.path().join("log"));
    config.env.push(("VERSION".into(), "2099-01-01".into()));
    let bridge = Bridge::start(config).unwrap();
    assert_eq!(
        bridge.ready().await,
        Err("it speaks protocol version `2099-01-01`, which the bridge does not know".to_owned())
    );
    bridge.shutdown().await;
}
