use super::*;
use crate::scripted_api::{Exchange, Script, answer, echo, refusal};
use http::Method;
use serde_json::json;

fn contender(identity: &str) -> LeaderElector {
    let service = tower::service_fn(|_: http::Request<kube::client::Body>| async {
        Err::<http::Response<kube::client::Body>, _>(std::io::Error::other(
            "no API server in this test",
        ))
    });
    let client = Client::new(service, "default");
    LeaderElector::new(
        client,
        "ops",
        "lease",
        identity,
        Duration::from_secs(15),
        WriteFence::default(),
    )
}

fn held(holder: &str, renewed: &str) -> Lease {
    serde_json::from_value(json!({
        "metadata": {"name": "lease"},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": renewed},
    }))
    .unwrap()
}

const EARLY: &str = "2001-01-01T00:00:00.000000Z";
const LATER: &str = "2001-01-01T00:00:01.000000Z";

#[tokio::test(start_paused = true)]
async fn a_holder_is_gone_when_its_record_has_not_changed_here_whatever_its_clock_says() {
    let mut us = contender("b");
    assert_eq!(us.turn(None, Instant::now()), Turn::Create);
    assert_eq!(us.turn(Some(&held("", EARLY)), Instant::now()), Turn::Take);
    assert_eq!(us.turn(Some(&held("b", EARLY)), Instant::now()), Turn::Take);
    // Years ago by our clock; but we have only just seen it.
    assert_eq!(
        us.turn(Some(&held("a", EARLY)), Instant::now()),
        Turn::Wait(Duration::from_secs(15))
    );
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(
        us.turn(Some(&held("a", EARLY)), Instant::now()),
        Turn::Wait(Duration::from_secs(5))
    );
    assert_eq!(
        us.turn(Some(&held("a", LATER)), Instant::now()),
        Turn::Wait(Duration::from_secs(15))
    );
    tokio::time::advance(Duration::from_secs(15)).await;
    assert_eq!(us.turn(Some(&held("a", LATER)), Instant::now()), Turn::Take);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_stopped_may_not_write_when_it_goes_on() {
    let fence = WriteFence::default();
    assert!(!fence.is_open());
    fence.open_until(Instant::now() + Duration::from_secs(10));
    assert!(fence.is_open());
    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(!fence.is_open());
}

const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/ops/leases";

fn got(holder: &str, renewed: &str) -> Exchange {
    let mut lease = serde_json::to_value(held(holder, renewed)).unwrap();
    lease["metadata"]["resourceVersion"] = json!("7");
    answer(Method::GET, &[PATH, "/lease"], 200, lease)
}

fn missing() -> Exchange {
    answer(
        Method::GET,
        &[PATH, "/lease"],
        404,
        refusal(404, "NotFound"),
    )
}

fn put() -> Exchange {
    echo(Method::PUT, &[PATH, "/lease"])
}

fn conflict(method: Method) -> Exchange {
    answer(method, &[PATH], 409, refusal(409, "Conflict"))
}

/// Replica `b`, over a script that leaves the watch of the Lease alone.
fn elector(script: &Script) -> LeaderElector {
    LeaderElector::new(
        script.client(),
        "ops",
        "lease",
        "b",
        Duration::from_secs(15),
        WriteFence::default(),
    )
}

fn script(exchanges: Vec<Exchange>) -> Script {
    Script::new(exchanges).aside("fieldSelector")
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_not_there_is_made_and_opens_the_fence_until_well_before_it_ends() {
    let script = script(vec![missing(), echo(Method::POST, &[PATH])]);
    let mut us = elector(&script);
    us.acquire().await;
    assert!(us.fence.is_open());
    let (_, lease) = script.asked().pop().unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], "b");
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 15);
    tokio::time::advance(Duration::from_secs(10)).await;
    assert!(!us.fence.is_open());
}

#[tokio::test(start_paused = true)]
async fn whoever_is_slower_waits_and_takes_over_when_the_holder_is_silent_or_lets_go() {
    let create_taken = conflict(Method::POST);
    // The race is lost, then the holder is silent for as long as its Lease lasts.
    let mut exchanges = vec![missing(), create_taken];
    exchanges.extend((0..8).map(|_| got("a", EARLY)));
    exchanges.extend([got("a", EARLY), put()]);
    let played = script(exchanges);
    let mut us = elector(&played);
    let started = Instant::now();
    us.acquire().await;
    assert!(
        started.elapsed() >= Duration::from_secs(15),
        "{:?}",
        started.elapsed()
    );
    let (_, lease) = played.asked().pop().unwrap();
    assert_eq!(lease["metadata"]["resourceVersion"], "7");
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
    // An API server that fails is asked again; a holder that has let go is not waited for.
    let failing = answer(Method::GET, &[PATH], 500, refusal(500, "InternalError"));
    let played = script(vec![failing, got("", EARLY), put()]);
    let mut us = elector(&played);
    us.acquire().await;
    assert!(us.fence.is_open());
}

#[tokio::test(start_paused = true)]
async fn a_leader_renews_through_failures_and_stops_when_another_replica_has_the_lease() {
    let failing = answer(Method::GET, &[PATH], 500, refusal(500, "InternalError"));
    let script = script(vec![
        missing(),
        echo(Method::POST, &[PATH]),
        got("b", EARLY),
        put(),
        // Its own request that it gave up as lost.
        got("b", EARLY),
        conflict(Method::PUT),
        failing,
        got("b", EARLY),
        put(),
        got("a", LATER),
    ]);
    let mut us = elector(&script);
    us.acquire().await;
    us.hold().await;
    assert!(!us.fence.is_open());
    let (_, renewed) = script.asked()[3].clone();
    assert_eq!(
        renewed["spec"]["leaseTransitions"], 0,
        "it is the same holder"
    );
}

#[tokio::test(start_paused = true)]
async fn a_leader_whom_the_api_server_does_not_answer_stops_before_the_lease_ends() {
    let script = Script::open(vec![missing(), echo(Method::POST, &[PATH])]).aside("fieldSelector");
    let mut us = elector(&script);
    us.acquire().await;
    let started = Instant::now();
    us.hold().await;
    assert!(started.elapsed() < Duration::from_secs(25) && !us.fence.is_open());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_ends_lets_go_of_its_own_lease_only() {
    let played = script(vec![
        got("b", EARLY),
        conflict(Method::PUT),
        got("b", EARLY),
        put(),
    ]);
    elector(&played).release().await;
    let (_, lease) = played.asked().pop().unwrap();
    assert_eq!(lease["spec"].get("holderIdentity"), None);
    elector(&script(vec![got("a", EARLY)])).release().await;
    let failing = answer(Method::GET, &[PATH], 500, refusal(500, "InternalError"));
    elector(&script(vec![failing])).release().await;
}
