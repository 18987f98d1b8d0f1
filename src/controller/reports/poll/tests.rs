use super::*;
use jiff::Timestamp;

fn pod(uid: &str, terminating: bool) -> GatewayPod {
    let mut pod = serde_json::json!({"metadata": {"uid": uid, "name": uid}, "status": {"podIP": "127.0.0.1"}});
    if terminating {
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    }
    serde_json::from_str(&pod.to_string()).unwrap()
}

fn report(instance: &str, revision: &str) -> Report {
    Report {
        instance: instance.to_owned(),
        revision: Some(revision.to_owned()),
        listing: Some(crate::status::report::ReportedListing {
            time: Timestamp::UNIX_EPOCH,
            error: None,
        }),
        ..Report::default()
    }
}

#[test]
fn the_age_of_a_pod_is_known_to_hold_its_counts_against() {
    let pod = r#"{"metadata": {"uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}}"#;
    let pod: GatewayPod = serde_json::from_str(pod).unwrap();
    assert_eq!(pod_created_at(&pod), "2026-01-01T00:00:00Z".parse().ok());
}

/// The wait after each of some reports that are read as soon as they are due.
fn waits(memory: &mut ServerMemory, pod: &GatewayPod, reports: u32) -> Vec<Duration> {
    let start = Instant::now();
    let mut now = start;
    let mut waits = Vec::new();
    for _ in 0..reports {
        is_due(memory, pod, now);
        on_report(memory, pod, Ok(report("i", "old")), now);
        let next = memory.polls[pod.uid()].next;
        waits.push(next.saturating_duration_since(now));
        now = next;
    }
    waits
}

#[test]
fn a_pod_that_never_runs_the_bundle_is_soon_asked_no_more_than_others() {
    let mut memory = ServerMemory {
        delivering: Some(("new".to_owned(), Instant::now())),
        ..ServerMemory::default()
    };
    let waits_of = waits(&mut memory, &pod("u", false), 310);
    let soon = waits_of
        .iter()
        .filter(|wait| **wait == EAGER_POLL_INTERVAL)
        .count();
    assert_eq!(soon, 300);
    assert!(
        waits_of[300..]
            .iter()
            .all(|wait| *wait >= BUSY_POLL_INTERVAL)
    );
    // Another delivery is followed closely again.
    memory.polls.get_mut("u").unwrap().poll_now();
    assert_eq!(
        waits(&mut memory, &pod("u", false), 1),
        [EAGER_POLL_INTERVAL]
    );
    // One that ends is still asked, less often.
    let ending = waits(&mut memory, &pod("v", true), 310);
    assert_eq!(ending[309], ENDING_POLL_INTERVAL);
}

#[test]
fn a_gateway_that_names_itself_anew_each_time_is_not_read_without_end() {
    let mut memory = ServerMemory::default();
    let (pod, now) = (pod("u", false), Instant::now());
    is_due(&mut memory, &pod, now);
    for run in 0..100 {
        let looked = on_report(&mut memory, &pod, Ok(report(&format!("i{run}"), "r")), now);
        assert!(looked, "the ledger is to be written");
    }
    assert_eq!(memory.reports.len(), MAX_UNSTORED_RUNS);
    assert_eq!(memory.newest["u"], "i3");
}

fn violation() -> ReportedCount {
    ReportedCount {
        namespace: "ml".to_owned(),
        policy: "p".to_owned(),
        policy_uid: "u".to_owned(),
        rule: "r".to_owned(),
        outcome: crate::api::ViolationOutcome::Denied,
        count: 1,
        last_time: Timestamp::UNIX_EPOCH,
    }
}

#[test]
fn while_violations_come_reports_are_read_every_second() {
    let mut memory = ServerMemory::default();
    let (pod, start) = (pod("u", false), Instant::now());
    // What the wait is after a report with that many violations, read that many seconds after the
    // start.
    let mut wait = |violations: u64, seconds: u64| {
        let mut report = report("i", "r");
        report.calls = seconds;
        if violations > 0 {
            report.violations = vec![ReportedCount {
                count: violations,
                ..violation()
            }];
        }
        let now = start + Duration::from_secs(seconds);
        is_due(&mut memory, &pod, now);
        on_report(&mut memory, &pod, Ok(report), now);
        memory.polls["u"].next.saturating_duration_since(now)
    };
    assert_eq!(wait(0, 0), BUSY_POLL_INTERVAL);
    assert!(wait(1, 10) <= Duration::from_secs(1));
    assert!(wait(1, 15) <= Duration::from_secs(1));
    assert_eq!(wait(1, 20), BUSY_POLL_INTERVAL);
    assert!(wait(2, 30) <= Duration::from_secs(1));
    assert!(wait(3, 39) <= Duration::from_secs(1));
    assert!(wait(3, 48) <= Duration::from_secs(1));
    assert_eq!(wait(3, 49), BUSY_POLL_INTERVAL);
}

/// What answers with that body at an address.
async fn liar(body: Vec<u8>) -> SocketAddr {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = [0; 1_024];
        let _ = stream.read(&mut asked).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
            .await;
        let _ = stream.write_all(&body).await;
    });
    address
}

#[tokio::test]
async fn a_report_without_end_is_not_held() {
    let missing = |keys: usize| {
        let keys = "\"\",".repeat(keys);
        format!("{{\"instance\":\"i\",\"missingSecretKeys\":[{keys}\"\"]}}").into_bytes()
    };
    let read_of = async |body| read(liar(body).await, "b", 0).await;
    let honest = read_of(missing(100)).await.unwrap();
    assert_eq!(honest.missing_secret_keys.len(), 101);
    let many = read_of(missing(1_000_000)).await.unwrap_err();
    assert!(matches!(many, ReadError::Report(_)), "{many}");
    let long = read_of(vec![b' '; 9 << 20]).await.unwrap_err();
    assert!(matches!(long, ReadError::Large), "{long}");
}

/// A gateway that answers each request with the next of these, and tells what it was asked.
async fn gateway(answers: Vec<String>) -> (SocketAddr, Arc<parking_lot::Mutex<Vec<String>>>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let heard = Arc::clone(&asked);
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 2_048];
            let read = stream.read(&mut buffer).await.unwrap();
            heard
                .lock()
                .push(String::from_utf8_lossy(&buffer[..read]).into_owned());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (address, asked)
}

fn ok(report: &Report) -> String {
    let body = serde_json::to_string(report).unwrap();
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

/// An operator with one server, whose gateway's pod is at that address.
fn operator(
    script: &crate::scripted_api::Script,
    address: SocketAddr,
) -> crate::controller::testing::TestOperator {
    use crate::controller::testing::{TestOperator, http, mcp_server, name};
    let port = format!("--report-port={}", address.port());
    let operator = TestOperator::with(script, &[&port]);
    operator.server(&mcp_server("m", 1, &http()));
    operator.child(&serde_json::json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"namespace": "ml", "name": "m-gateway", "uid": "d", "resourceVersion": "1", "ownerReferences": [{
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer", "name": "m", "uid": "uid-of-m", "controller": true,
        }]},
    }));
    operator.gateway_pod("d", Some(address), true);
    operator.ctx.memory.servers.of(&name(), "uid-of-m");
    operator
}

#[tokio::test]
async fn a_gateway_is_asked_with_its_bearer_and_its_report_makes_the_server_be_looked_at() {
    use crate::controller::testing::{key, name, queued};
    let script = crate::scripted_api::Script::new(Vec::new());
    let mut first = report("i", "r");
    first.violations = vec![violation()];
    let (address, asked) = gateway(vec![ok(&first), ok(&first)]).await;
    let operator = operator(&script, address);
    let next = look(&operator.ctx, &name()).await.unwrap();
    assert!(next <= VIOLATING_POLL_INTERVAL, "{next:?}");
    assert_eq!(queued(&operator.ctx.queues.servers).await, ["m"]);
    let asked = asked.lock().clone();
    assert!(
        asked[0].starts_with("GET /report?stored=0 HTTP/1.1\r\n"),
        "{asked:?}"
    );
    let bearer = format!("Bearer {}\r\n", key().bearer("uid-of-m"));
    assert!(asked[0].contains(&bearer), "{asked:?}");
    // The same once more, when it is hurried, is not news.
    poll_now(&operator.ctx, &name());
    assert_eq!(queued(&operator.ctx.queues.reports).await, ["m"]);
    look(&operator.ctx, &name()).await;
    assert_eq!(queued(&operator.ctx.queues.servers).await, [""; 0]);
}

#[tokio::test]
async fn what_a_gateway_says_that_cannot_be_is_not_believed_and_it_is_asked_again() {
    use crate::controller::testing::{name, queued};
    let mut implausible = report("i", "r");
    implausible.violations = vec![ReportedCount {
        count: u64::MAX,
        ..violation()
    }];
    let answers = [
        ok(&implausible),
        "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n".to_owned(),
        // A body that is cut, one that is none, and no answer at all.
        "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]".to_owned(),
        String::new(),
    ];
    for answer in answers {
        let script = crate::scripted_api::Script::new(Vec::new());
        let (address, _) = gateway(vec![answer.clone()]).await;
        let operator = operator(&script, address);
        let next = look(&operator.ctx, &name()).await.unwrap();
        assert!(next <= EAGER_POLL_INTERVAL * 2, "{answer}: {next:?}");
        // It was asked: a new leader need not wait for it any more.
        assert_eq!(
            queued(&operator.ctx.queues.servers).await,
            ["m"],
            "{answer}"
        );
        let memory = operator.ctx.memory.servers.of(&name(), "uid-of-m");
        assert!(memory.lock().reports.is_empty() && memory.lock().polls["pod"].failures == 1);
    }
}

#[tokio::test]
async fn only_the_gateways_of_a_server_that_is_known_are_asked() {
    use crate::controller::testing::name;
    let script = crate::scripted_api::Script::new(Vec::new());
    let operator = operator(&script, "127.0.0.1:1".parse().unwrap());
    let gone = ("ml".to_owned(), "gone".to_owned());
    assert_eq!(look(&operator.ctx, &gone).await, None);
    // There is no listener at this address.
    let next = look(&operator.ctx, &name()).await.unwrap();
    assert!(next <= EAGER_POLL_INTERVAL * 2, "{next:?}");
    // A worker continues with what is due.
    operator.ctx.queues.reports.add(gone.clone());
    let work = work(Arc::clone(&operator.ctx));
    let done = async {
        while operator.ctx.queues.reports.depth() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = work => {}
        () = done => {}
    }
    // The gateway learns how many violations of a run are stored.
    let memory = operator.ctx.memory.servers.of(&name(), "uid-of-m");
    let mut memory = memory.lock();
    assert_eq!(stored(&memory, "pod"), 0);
    let mut ledger = crate::status::accounting::Ledger::default();
    let mut counted = report("i", "r");
    counted.violations = vec![violation()];
    ledger.take(&merge::run("pod", "i"), Account::of(&counted));
    memory.newest.insert("pod".to_owned(), "i".to_owned());
    memory.ledger = Some(("1".to_owned(), Arc::new(ledger)));
    assert_eq!(stored(&memory, "pod"), 1);
}
