use super::*;
use crate::gateway::observe::audit::{AuditLog, DecisionId};

fn rule(uid: &str, rule: &str) -> Arc<RuleId> {
    Arc::new(RuleId {
        namespace: "ml".to_owned(),
        policy: "p".to_owned(),
        rule: rule.to_owned(),
        qualified: false,
        uid: Arc::from(uid),
    })
}

/// However often policies are made again: a bounded report, and no violation lost.
#[test]
fn what_cannot_be_counted_apart_is_counted_together() {
    let (audit, _writer) = AuditLog::start(Vec::new()).unwrap();
    let mut registry = prometheus_client::registry::Registry::default();
    let metrics = Metrics::register(&mut registry);
    let recorder = Recorder::new("ml/s".to_owned(), ProgramRun::named("i"), audit, metrics);
    let record = Record {
        time: Timestamp::UNIX_EPOCH,
        decision_id: DecisionId {
            instance: "i",
            number: 1,
        },
        server: "ml/s",
        grant: "anonymous",
        session: None,
        method: "tools/call",
        tool: Some("x"),
        outcome: "denied",
        policy: None,
        rule: None,
        reason: None,
        near: &[],
        enforced: true,
        approval: None,
        approval_state: None,
        retry_after_ms: None,
        arguments: None,
        revision: "r",
        trace_id: None,
    };
    for life in 0..3_000 {
        let by = rule(&format!("u{life}"), "r");
        recorder.record(Outcome::Denied, &by, &record);
    }
    let counts = recorder.violations().0;
    assert_eq!(counts.len(), MAX_COUNTED_RULES + 1);
    assert_eq!(recorder.violation_count(), 3_000);
    recorder.settle(|by| &*by.uid == "u7");
    let mut left: Vec<(String, u64)> = recorder
        .violations()
        .0
        .into_iter()
        .map(|((by, _), (count, _))| (by.policy.clone(), count))
        .collect();
    left.sort();
    let apart = u64::try_from(MAX_COUNTED_RULES).unwrap();
    let expected = [
        (FORMER.to_owned(), apart - 1),
        (NO_POLICY.to_owned(), 3_000 - apart),
        ("p".to_owned(), 1),
    ];
    assert_eq!(left, expected);
}

#[test]
fn the_gateways_of_one_program_never_give_one_id_twice() {
    let run = ProgramRun::named("i");
    let recorder = |server: &str| {
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        let (audit, _writer) = AuditLog::start(Vec::new()).unwrap();
        Recorder::new(server.to_owned(), run.clone(), audit, metrics)
    };
    let (first, second) = (recorder("ml/a"), recorder("ml/b"));
    let ids: Vec<String> = [&first, &second, &first, &recorder("ml/a")]
        .map(|recorder| recorder.decision_id().to_string())
        .into();
    assert_eq!(ids, ["i-0", "i-1", "i-2", "i-3"]);
}
