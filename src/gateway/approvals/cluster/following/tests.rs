use http::Method;
use serde_json::{Value, json};

use super::*;
use crate::gateway::approvals::Records;
use crate::scripted_api::{Exchange, Script, answer, refusal, watch};

const RENEWED_AFTER: Duration = Duration::from_secs(60);
const PATH: &str = "/namespaces/ml/mcpapprovals";

fn object(name: &str, version: u64) -> Value {
    let spec = json!({
        "serverRef": {"name": "m"}, "grant": "g", "tool": "t", "argumentsDigest": "d", "argumentsPreview": "{}",
        "policy": "p", "rule": "r", "requestedAt": "2026-01-01T00:00:00Z", "expiresAt": "2026-01-01T00:30:00Z",
    });
    json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpApproval", "spec": spec,
        "metadata": {"name": name, "namespace": "ml", "uid": name, "resourceVersion": version.to_string()},
    })
}

fn list(version: u64, names: &[&str]) -> Exchange {
    let items: Vec<Value> = names.iter().map(|name| object(name, version)).collect();
    let body = json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpApprovalList",
        "metadata": {"resourceVersion": version.to_string()}, "items": items,
    });
    answer(Method::GET, &[PATH, "limit=100"], 200, body)
}

fn watch_from(version: u64, events: &[Value]) -> Exchange {
    watch(&[PATH, &format!("resourceVersion={version}")], events)
}

fn event(kind: &str, object: Value) -> Value {
    json!({"type": kind, "object": object})
}

fn approvals() -> ClusterApprovals {
    ClusterApprovals::new("ml", "m", "run", Records::default())
}

fn follower<'a>(approvals: &'a ClusterApprovals, script: &Script) -> Following<'a> {
    let client = script.client();
    Following {
        approvals,
        api: approvals.loose(client.clone()),
        client,
        renewed_after: RENEWED_AFTER,
        listed: false,
    }
}

/// Follows a script to its end. Returns why following ended, if it did, the names that are kept,
/// and whether calls can get approvals.
async fn following(exchanges: Vec<Exchange>) -> (Option<String>, Vec<String>, bool) {
    let script = Script::open(exchanges);
    let approvals = approvals();
    let mut following = follower(&approvals, &script);
    let done = async {
        // The clock of these tests only moves when nothing else is left to do.
        while !script.is_done() {
            sleep(Duration::from_millis(10)).await;
        }
        sleep(Duration::from_millis(10)).await;
    };
    let mut complained = None;
    let why = tokio::select! {
        why = following.follow(&mut complained) => Some(why),
        () = done => None,
    };
    let state = approvals.lock();
    let mut names: Vec<String> = ["a", "b", "c"]
        .into_iter()
        .filter(|name| state.kept.get(name).is_some())
        .map(str::to_owned)
        .collect();
    names.sort();
    let usable = state.client.is_some();
    drop(state);
    assert!(script.is_done(), "{why:?}: {:?}", script.asked());
    (why, names, usable)
}

#[tokio::test(start_paused = true)]
async fn a_watch_continues_from_the_last_event_and_a_version_that_is_too_old_is_listed_again() {
    let gone = event("ERROR", refusal(410, "Expired"));
    let (why, names, usable) = following(vec![
        list(5, &["a"]),
        watch_from(5, &[event("ADDED", object("b", 7))]).ends_after(Duration::from_secs(2)),
        watch_from(7, &[gone]),
        // "a" was removed in the gap.
        list(9, &["b", "c"]),
        watch_from(9, &[event("DELETED", object("b", 10))]).open(),
    ])
    .await;
    assert_eq!((why, usable), (None, true));
    assert_eq!(names, ["c"]);
}

#[tokio::test(start_paused = true)]
async fn a_version_that_the_watch_itself_refuses_is_listed_again() {
    let (why, names, _) = following(vec![
        list(5, &["a"]),
        answer(
            Method::GET,
            &[PATH, "watch=true"],
            410,
            refusal(410, "Gone"),
        ),
        list(9, &["b"]),
    ])
    .await;
    assert_eq!((why, names), (None, vec!["b".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_too_old_starts_the_list_again() {
    let mut first = list(5, &["a"]);
    first = first.continued("more");
    let (why, names, _) = following(vec![
        first,
        answer(
            Method::GET,
            &[PATH, "continue=more"],
            410,
            refusal(410, "Expired"),
        ),
        list(9, &["b"]),
        watch_from(9, &[]).open(),
    ])
    .await;
    assert_eq!((why, names), (None, vec!["b".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_stays_silent_after_its_end_is_given_up() {
    let started = Instant::now();
    let script = vec![list(5, &["a"]), watch_from(5, &[]).open()];
    let approvals = approvals();
    let script = Script::open(script);
    let mut following = follower(&approvals, &script);
    let why = following.follow(&mut None).await;
    assert_eq!(why, "it says nothing on an open watch");
    assert_eq!(started.elapsed(), RENEWED_AFTER + OVERTIME);
    assert!(following.listed);
}

#[tokio::test(start_paused = true)]
async fn a_busy_api_server_ends_the_attempt_in_words_and_a_watch_that_ends_at_once_does_too() {
    let busy = || answer(Method::GET, &[PATH], 429, refusal(429, "TooManyRequests"));
    let (why, names, usable) = following(vec![busy()]).await;
    assert!(why.as_ref().unwrap().contains("429"), "{why:?}");
    // Never listed: no call may get an approval.
    assert_eq!((names, usable), (Vec::new(), false));
    let (why, ..) = following(vec![list(5, &["a"]), busy()]).await;
    assert!(why.as_ref().unwrap().contains("429"), "{why:?}");
    let (why, ..) = following(vec![list(5, &["a"]), watch_from(5, &[])]).await;
    assert_eq!(why.unwrap(), "the watch was cut off");
    let (why, ..) = following(vec![answer(
        Method::GET,
        &[PATH],
        403,
        refusal(403, "Forbidden"),
    )])
    .await;
    assert!(
        why.unwrap()
            .contains("the gateway's Role and RoleBinding must grant")
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_comes_while_the_gateway_starts_waits_for_the_first_list_and_not_for_ever() {
    let began = Instant::now();
    approvals().started().await;
    assert_eq!(began.elapsed(), Duration::from_secs(5));

    for (first, usable) in [
        (list(5, &["a"]), true),
        (answer(Method::GET, &[PATH], 500, json!({})), false),
    ] {
        let script = Script::open(vec![first.ends_after(Duration::from_secs(2))]);
        let approvals = approvals();
        let began = Instant::now();
        let follow = async {
            follower(&approvals, &script).follow(&mut None).await;
            approvals.offline();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = approvals.started() => {}
            () = follow => {}
        }
        assert_eq!(began.elapsed(), Duration::from_secs(2));
        assert_eq!(approvals.lock().client.is_some(), usable);
        // Later nothing waits.
        approvals.started().await;
        assert_eq!(began.elapsed(), Duration::from_secs(2));
    }
}
