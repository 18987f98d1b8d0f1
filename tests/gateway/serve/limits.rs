//! What limits have counted, while `serve` is killed and started again, and beside other ones.

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::counters::server::Redis;

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
fn sharing(redis: &str) -> Serve {
    let server =
        server_yaml() + "  counters: { redis: { urlSecretRef: { name: valkey, key: url } } }\n";
    let url = redis.to_owned();
    Serve::start_as(&server, LIMITED, |command, _| {
        command.env("PORTCULLIS_SECRET_VALKEY__url", url);
    })
}

#[test]
fn three_gateways_that_share_counters_admit_no_more_than_one_whichever_of_them_is_killed() {
    let Some(mut redis) = Redis::start(&[]) else {
        return;
    };
    let three: Vec<Serve> = (0..3).map(|_| sharing(&redis.url())).collect();
    let mut passed = 0;
    for serve in three {
        let session = serve.session();
        passed += usize::from(!is_error(&serve.echo(&session, "hello")));
        kill(serve);
    }
    assert_eq!(passed, 3);
    let serve = sharing(&redis.url());
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
