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
    let soon = waits_of.iter().filter(|wait| **wait == SOON).count();
    assert_eq!(soon, 300);
    assert!(waits_of[300..].iter().all(|wait| *wait >= BUSY));
    // Another delivery is followed closely again.
    memory.polls.get_mut("u").unwrap().poll_now();
    assert_eq!(waits(&mut memory, &pod("u", false), 1), [SOON]);
    // One that ends goes on being asked, not as often.
    let ending = waits(&mut memory, &pod("v", true), 310);
    assert_eq!(ending[309], ENDING);
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
    assert_eq!(memory.reports.len(), RUNS);
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
    // What the wait is after a report with that many violations, read that many seconds after the start.
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
    assert_eq!(wait(0, 0), BUSY);
    assert!(wait(1, 10) <= Duration::from_secs(1));
    assert!(wait(1, 15) <= Duration::from_secs(1));
    assert_eq!(wait(1, 20), BUSY);
    assert!(wait(2, 30) <= Duration::from_secs(1));
    assert!(wait(3, 39) <= Duration::from_secs(1));
    assert!(wait(3, 48) <= Duration::from_secs(1));
    assert_eq!(wait(3, 49), BUSY);
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
