//! What limits have counted, while `serve` is killed and started again, and beside other ones.

use std::path::Path;
use std::process::Output;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::counters::server::Redis;
use crate::counters::way::Way;

const LIMITED: &str = "    - { name: echo, tools: { names: [echo] }, action: Allow, limits: [{ counter: c, max: 3, window: 1h }] }\n";

fn start(state: &Path, rules: &str) -> Serve {
    let folder = tempfile::tempdir().unwrap();
    Serve::launch(
        portcullis(),
        folder,
        rules,
        &["--state", state.to_str().unwrap()],
    )
}

fn kill(mut serve: Serve) {
    serve.child.kill().unwrap();
    serve.child.wait().unwrap();
}

fn is_limited(result: &Value) -> bool {
    is_error(result) && text(result).starts_with("Limit of 3 per 1h reached")
}

#[test]
fn a_process_that_is_killed_forgets_nothing_that_it_has_counted() {
    let state = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let serve = start(state.path(), LIMITED);
        let session = serve.session();
        assert!(!is_error(&serve.echo(&session, "hello")));
        kill(serve);
    }
    let serve = start(state.path(), LIMITED);
    let session = serve.session();
    assert!(is_limited(&serve.echo(&session, "hello")));
    let status = String::from_utf8(serve.command(&["status", "-o", "yaml"]).stdout).unwrap();
    assert!(status.contains("reason: Journal"), "{status}");
}

#[test]
fn one_call_that_is_repeated_is_stopped_and_others_go_on() {
    let rules = LIMITED.replace("window: 1h", "window: 1h, scope: Call");
    let state = tempfile::tempdir().unwrap();
    let serve = start(state.path(), &rules);
    let session = serve.session();
    for _ in 0..3 {
        assert!(!is_error(&serve.echo(&session, "hello")));
    }
    // Another session does not make another caller.
    let session = serve.session();
    assert!(is_limited(&serve.echo(&session, "hello")));
    assert!(!is_error(&serve.echo(&session, "something else")));
    assert!(is_limited(&serve.echo(&session, "hello")));
}

/// `serve` with these files, which is expected to end.
fn refused(folder: &TempDir, state: &Path) -> Output {
    std::fs::write(
        folder.path().join("all.yaml"),
        server_yaml() + "---\n" + &policy_yaml(LIMITED),
    )
    .unwrap();
    portcullis()
        .args(["serve", "-f"])
        .arg(folder.path().join("all.yaml"))
        .args([
            "--listen",
            &format!("127.0.0.1:{}", free_port()),
            "--socket",
        ])
        .arg(folder.path().join("s.sock"))
        .arg("--state")
        .arg(state)
        .output()
        .unwrap()
}

#[test]
fn what_cannot_be_counted_is_said_before_anything_is_served() {
    let state = tempfile::tempdir().unwrap();
    let serve = start(state.path(), LIMITED);
    let folder = tempfile::tempdir().unwrap();
    let output = refused(&folder, state.path());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("another process counts in") && said.contains("--state DIR"),
        "{said}"
    );
    let session = serve.session();
    assert!(
        !is_error(&serve.echo(&session, "hello")),
        "the first still serves"
    );
    let file = folder.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    let output = refused(&folder, &file);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("cannot create the folder"), "{said}");
}

/// A `serve` that counts in the given server.
fn sharing(redis: &str, rules: &str) -> Serve {
    let server =
        server_yaml() + "  counters: { redis: { urlSecretRef: { name: valkey, key: url } } }\n";
    let url = redis.to_owned();
    Serve::start_as(&server, rules, |command, _| {
        command.env("PORTCULLIS_SECRET_VALKEY__url", url);
    })
}

#[test]
fn three_gateways_that_share_counters_admit_no_more_than_one_whichever_of_them_is_killed() {
    let Some(mut redis) = Redis::start(&[]) else {
        return;
    };
    let three: Vec<Serve> = (0..3).map(|_| sharing(&redis.url(), LIMITED)).collect();
    let mut passed = 0;
    for serve in three {
        let session = serve.session();
        passed += usize::from(!is_error(&serve.echo(&session, "hello")));
        kill(serve);
    }
    assert_eq!(passed, 3);
    let serve = sharing(&redis.url(), LIMITED);
    let session = serve.session();
    assert!(is_limited(&serve.echo(&session, "hello")));
    // Nor does the server forget, and while it is away nothing that has a limit passes.
    redis.kill();
    let away = serve.echo_until(&session, |result| !is_limited(result));
    assert!(
        text(&away).starts_with("The limit of rule echo cannot be checked now"),
        "{away}"
    );
    let status = String::from_utf8(serve.command(&["status", "-o", "yaml"]).stdout).unwrap();
    assert!(status.contains("reason: CountersUnavailable"), "{status}");
    redis.again();
    serve.echo_until(&session, is_limited);
}

/// The one counter of a server: the units in use, and whether a window of two seconds has passed
/// since its latest time, by the server's clock.
fn counter(redis: &mut redis::Connection) -> Option<(u64, bool)> {
    let keys: Vec<String> = redis::cmd("KEYS").arg("portcullis:*").query(redis).unwrap();
    let key = keys.iter().find(|key| !key.ends_with(":keys"))?;
    let (units, latest): (u64, u64) = redis::cmd("HMGET")
        .arg(&[key, "u", "m"])
        .query(redis)
        .unwrap();
    let (seconds, micros): (u64, u64) = redis::cmd("TIME").query(redis).unwrap();
    Some((units, seconds * 1_000_000 + micros > latest + 2_000_000))
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_gateway_that_stood_still_while_it_counted_forwards_none_of_those_calls_in_a_later_window() {
    let Some(redis) = Redis::start(&[]) else {
        return;
    };
    let mut server = redis::Client::open(redis.url())
        .unwrap()
        .get_connection()
        .unwrap();
    let rules = LIMITED.replace("window: 1h", "window: 2s");
    let way = Way::to(redis.port);
    let (stands, goes_on) = (sharing(&way.url(), &rules), sharing(&redis.url(), &rules));
    let (of_stands, of_goes_on) = (stands.session(), goes_on.session());
    // It is connected then.
    assert!(!is_error(&stands.echo(&of_stands, "hello")));
    wait_for("the first window passes", || {
        counter(&mut server).is_some_and(|(_, passed)| passed)
    });
    way.hold();
    let pid = i32::try_from(stands.child.id()).unwrap();
    let pid = Pid::from_raw(pid).unwrap();
    let ask = |_| stands.send("", Some(&of_stands), &echo_call("hello"));
    let asked: Vec<_> = (0..3).map(ask).collect();
    wait_for("three are counted", || {
        counter(&mut server).is_some_and(|(units, _)| units == 3)
    });
    kill_process(pid, Signal::STOP).unwrap();
    let stopped = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
    assert!(stopped.1.stopped(), "{stopped:?}");
    // The answers reach it while it stands still.
    way.release();
    wait_for("a window passes", || {
        counter(&mut server).is_some_and(|(_, passed)| passed)
    });
    for _ in 0..3 {
        assert!(!is_error(&goes_on.echo(&of_goes_on, "hello")));
    }
    kill_process(pid, Signal::CONT).unwrap();
    for stream in asked {
        let (_, _, answer) = answer_of(stream);
        assert!(
            text(&answer["result"]).starts_with("The limit of rule echo cannot be checked now"),
            "another gateway has used the limit of this window: {answer}"
        );
    }
    // It counts again.
    stands.echo_until(&of_stands, |result| !is_error(result));
}
