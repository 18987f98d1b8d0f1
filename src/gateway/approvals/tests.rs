//! Requests of calls and decisions of people, at times that the tests say.

use super::*;
use crate::api::approval::{McpApproval, Phase, Verdict};
use crate::gateway::observe::audit::AuditLog;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn wanted(grant: &str, digest: &str, now: i64) -> ApprovalRequest {
    ApprovalRequest {
        namespace: "ml".to_owned(),
        names: vec![format!("mlflow-{digest}")],
        destination: "sha256:here".to_owned(),
        spec: McpApprovalSpec {
            server_ref: ServerRef {
                name: "mlflow".to_owned(),
            },
            grant: grant.to_owned(),
            tool: "set_model_alias".to_owned(),
            arguments_digest: format!("sha256:{digest}"),
            arguments_preview: "{}".to_owned(),
            upstream: Some("https://mlflow.example".to_owned()),
            policy: "mlflow-default".to_owned(),
            rule: "promote".to_owned(),
            requested_at: Time(at(now)),
            expires_at: Time(at(now + 100)),
            approvers: None,
            decision_id: None,
            observed: None,
            decisions: Vec::new(),
        },
        subject: digest.to_owned(),
        observes: false,
    }
}

fn by(session: &str) -> CallContext<'_> {
    CallContext {
        session,
        decision: DecisionId {
            instance: "run",
            number: 7,
        },
    }
}

fn key(name: &str) -> ApprovalKey {
    ("ml".to_owned(), name.to_owned())
}

fn pending(name: &str, until: i64) -> Result<Standing, NotRequested> {
    Ok(Standing::Pending(key(name), at(until)))
}

fn decide(
    memory: &Memory,
    name: &str,
    verdict: Verdict,
    by: &str,
    reason: Option<&str>,
    now: i64,
) -> Result<McpApproval, DecideError> {
    let decided = NewDecision {
        verdict,
        by,
        reason: reason.map(str::to_owned),
        digest: None,
    };
    memory.decide(name, decided, at(now))
}

fn phases(memory: &Memory, now: i64) -> Vec<(String, Phase)> {
    let all = memory.list(at(now)).into_iter();
    all.map(|object| {
        let phase = object.status.unwrap().phase.unwrap();
        (object.metadata.name.unwrap(), phase)
    })
    .collect()
}

#[test]
fn the_same_call_finds_its_request_and_an_approval_is_used_once() {
    let memory = Memory::default();
    let call = wanted("key:a", "d1", 0);
    assert_eq!(
        memory.request(&call, by("s"), at(0)),
        pending("mlflow-d1-0", 100)
    );
    assert_eq!(
        memory.request(&wanted("key:a", "d1", 5), by("s"), at(5)),
        pending("mlflow-d1-0", 100)
    );
    decide(&memory, "mlflow-d1-0", Verdict::Approved, "alice", None, 6).unwrap();
    let Ok(Standing::Approved(found, version, _)) = memory.request(&call, by("s"), at(7)) else {
        panic!("not approved")
    };
    assert!(!memory.consume(&found, &format!("{version}1"), by("s"), at(7)));
    assert!(memory.consume(&found, &version, by("s"), at(7)));
    assert!(!memory.consume(&found, &version, by("s"), at(7)));
    assert_eq!(
        memory.request(&call, by("s"), at(8)),
        pending("mlflow-d1-1", 100)
    );
}

#[test]
fn a_request_is_found_under_every_key_of_the_server_and_made_under_the_first() {
    let memory = Memory::default();
    let mut call = wanted("key:a", "d1", 0);
    memory.request(&call, by("s"), at(0)).unwrap();
    // The keys are changed: another one comes first.
    call.names.insert(0, "mlflow-new".to_owned());
    assert_eq!(
        memory.request(&call, by("s"), at(1)),
        pending("mlflow-d1-0", 100)
    );
    let mut other = wanted("key:a", "d2", 1);
    other.names.insert(0, "mlflow-newer".to_owned());
    assert_eq!(
        memory.request(&other, by("s"), at(1)),
        pending("mlflow-newer-0", 101)
    );
}

#[test]
fn an_expired_approval_is_not_used_and_a_denial_stands_until_it_expires() {
    let memory = Memory::default();
    let call = wanted("key:a", "d1", 0);
    memory.request(&call, by("s"), at(0)).unwrap();
    decide(
        &memory,
        "ml/mlflow-d1-0",
        Verdict::Approved,
        "alice",
        None,
        1,
    )
    .unwrap();
    let Ok(Standing::Approved(found, version, _)) = memory.request(&call, by("s"), at(99)) else {
        panic!("not approved")
    };
    assert!(!memory.consume(&found, &version, by("s"), at(100)));
    let again = wanted("key:a", "d1", 100);
    assert_eq!(
        memory.request(&again, by("s"), at(100)),
        Ok(Standing::Expired(key("mlflow-d1-0")))
    );
    assert_eq!(
        memory.request(&again, by("s"), at(100)),
        pending("mlflow-d1-1", 200)
    );
    decide(
        &memory,
        "mlflow-d1-1",
        Verdict::Denied,
        "bob",
        Some("no"),
        101,
    )
    .unwrap();
    assert!(matches!(
        memory.request(&again, by("s"), at(199)),
        Ok(Standing::Denied(..))
    ));
    assert!(matches!(
        memory.request(&wanted("key:a", "d1", 200), by("s"), at(200)),
        Ok(Standing::Pending(..))
    ));
}

#[test]
fn a_call_is_told_once_that_its_newest_request_has_expired_before_it_asks_again() {
    let memory = Memory::default();
    let ask = |now: i64| memory.request(&wanted("key:a", "d1", now), by("s"), at(now));
    let find = |now: i64| memory.find(&wanted("key:a", "d1", now), by("s"), at(now));
    assert_eq!(ask(0), pending("mlflow-d1-0", 100));
    // The answer to another call, or another caller's, does not say so.
    let others = [wanted("key:a", "d2", 150), wanted("key:b", "d1", 150)];
    for other in others {
        assert_eq!(memory.find(&other, by("s"), at(150)), Ok(None));
    }
    let expired = Standing::Expired(key("mlflow-d1-0"));
    assert_eq!(find(150), Ok(Some(expired)));
    assert_eq!(find(150), Ok(None));
    assert_eq!(ask(151), pending("mlflow-d1-1", 251));
    // A held call that sees it happen has had that answer.
    let call = wanted("key:a", "d1", 151);
    let second = key("mlflow-d1-1");
    let standing = memory.look(&call, &second, at(251));
    assert_eq!(standing, Some(Standing::Expired(second)));
    assert_eq!(ask(252), pending("mlflow-d1-2", 352));
    // One that was used, denied or withdrawn since is what became of the call: nothing older
    // counts.
    let Ok(_) = decide(&memory, "mlflow-d1-2", Verdict::Denied, "bob", None, 253) else {
        panic!("not denied")
    };
    assert_eq!(ask(353), pending("mlflow-d1-3", 453));
    // After as long again, the call just asks.
    assert_eq!(find(553), Ok(None));
    assert_eq!(ask(553), pending("mlflow-d1-4", 653));
}

#[test]
fn a_call_whose_approval_another_one_used_learns_that() {
    let memory = Memory::default();
    let call = wanted("key:a", "d1", 0);
    memory.request(&call, by("s"), at(0)).unwrap();
    decide(&memory, "mlflow-d1-0", Verdict::Approved, "alice", None, 1).unwrap();
    let Ok(Standing::Approved(found, version, _)) = memory.request(&call, by("s"), at(2)) else {
        panic!("not approved")
    };
    assert!(memory.consume(&found, &version, by("s"), at(3)));
    assert_eq!(
        memory.look(&call, &found, at(4)),
        Some(Standing::Used(found.clone()))
    );
}

#[test]
fn a_decision_is_set_once_in_time_and_for_the_call_that_was_seen() {
    let memory = Memory::default();
    memory
        .request(&wanted("key:a", "d1", 0), by("s"), at(0))
        .unwrap();
    let seen = |digest| NewDecision {
        verdict: Verdict::Approved,
        by: "alice",
        reason: None,
        digest: Some(digest),
    };
    assert!(matches!(
        memory.decide("mlflow-d1-0", seen("sha256:d2"), at(1)),
        Err(DecideError::OtherDigest { .. })
    ));
    decide(&memory, "mlflow-d1-0", Verdict::Denied, "alice", None, 1).unwrap();
    assert!(matches!(
        memory.decide("mlflow-d1-0", seen("sha256:d1"), at(2)),
        Err(DecideError::Decided { .. })
    ));
    memory
        .request(&wanted("key:a", "d2", 0), by("s"), at(0))
        .unwrap();
    assert!(matches!(
        decide(
            &memory,
            "mlflow-d2-0",
            Verdict::Approved,
            "alice",
            None,
            100
        ),
        Err(DecideError::Expired(_))
    ));
    assert!(matches!(
        decide(&memory, "nothing", Verdict::Approved, "alice", None, 1),
        Err(DecideError::NotFound(_))
    ));
}

#[test]
fn several_people_approve_each_once_and_one_of_them_denies_for_all() {
    let memory = Memory::default();
    let by_two = |digest: &str| {
        let mut call = wanted("key:a", digest, 0);
        call.spec.approvers = Some(2);
        call
    };
    let call = by_two("d1");
    let found = key("mlflow-d1-0");
    memory.request(&call, by("s"), at(0)).unwrap();
    decide(&memory, "mlflow-d1-0", Verdict::Approved, "alice", None, 1).unwrap();
    // One is not enough, and the same person does not count twice.
    assert_eq!(
        memory.look(&call, &found, at(2)),
        Some(Standing::Pending(found.clone(), at(100)))
    );
    assert_eq!(
        decide(&memory, "mlflow-d1-0", Verdict::Approved, "alice", None, 2).unwrap_err(),
        DecideError::Twice("mlflow-d1-0".to_owned())
    );
    decide(&memory, "mlflow-d1-0", Verdict::Approved, "bob", None, 3).unwrap();
    let Some(Standing::Approved(_, version, _)) = memory.look(&call, &found, at(4)) else {
        panic!("not approved")
    };
    assert!(memory.consume(&found, &version, by("s"), at(4)));
    // A rule that asks for more people since has nothing from those.
    let other = by_two("d2");
    memory.request(&other, by("s"), at(5)).unwrap();
    decide(&memory, "mlflow-d2-0", Verdict::Approved, "alice", None, 6).unwrap();
    decide(
        &memory,
        "mlflow-d2-0",
        Verdict::Denied,
        "bob",
        Some("no"),
        7,
    )
    .unwrap();
    assert!(matches!(
        memory.look(&other, &key("mlflow-d2-0"), at(8)),
        Some(Standing::Denied(_, decision)) if decision.by == "bob"
    ));
    assert!(matches!(
        decide(&memory, "mlflow-d2-0", Verdict::Approved, "carol", None, 9),
        Err(DecideError::Decided { .. })
    ));
    let one = wanted("key:a", "d3", 10);
    memory.request(&one, by("s"), at(10)).unwrap();
    decide(&memory, "mlflow-d3-0", Verdict::Approved, "alice", None, 11).unwrap();
    let mut more = one.clone();
    more.spec.approvers = Some(2);
    assert_eq!(
        memory.request(&more, by("s"), at(12)),
        pending("mlflow-d3-1", 110)
    );
}

#[test]
fn what_the_caller_itself_decides_counts_for_nothing() {
    for (grant, user) in [
        ("key:a", "key:a"),
        (
            "serviceaccount:ml/trainer",
            "system:serviceaccount:ml:trainer",
        ),
    ] {
        let memory = Memory::default();
        let call = wanted(grant, "d1", 0);
        memory.request(&call, by("s"), at(0)).unwrap();
        decide(&memory, "mlflow-d1-0", Verdict::Approved, user, None, 1).unwrap();
        assert_eq!(
            memory.request(&call, by("s"), at(2)),
            pending("mlflow-d1-0", 100)
        );
    }
}

#[test]
fn what_nobody_asks_for_any_more_is_withdrawn() {
    let memory = Memory::default();
    let call = wanted("key:a", "d1", 0);
    memory.request(&call, by("one"), at(0)).unwrap();
    memory.request(&call, by("two"), at(1)).unwrap();
    let found = key("mlflow-d1-0");
    // Others still ask, or have never asked.
    for session in ["one", "three"] {
        memory.withdraw(Some(&found), session, at(2));
        assert_eq!(
            memory.look(&call, &found, at(2)),
            Some(Standing::Pending(found.clone(), at(100)))
        );
    }
    memory.withdraw(Some(&key("mlflow-other-0")), "two", at(2));
    memory.withdraw(None, "two", at(3));
    assert_eq!(
        memory.look(&call, &found, at(3)),
        Some(Standing::Withdrawn(found.clone()))
    );
    assert!(matches!(
        decide(&memory, "mlflow-d1-0", Verdict::Approved, "alice", None, 4),
        Err(DecideError::Withdrawn(_))
    ));
    assert_eq!(
        memory.request(&call, by("one"), at(5)),
        pending("mlflow-d1-1", 100)
    );
    // What was decided stays decided.
    decide(&memory, "mlflow-d1-1", Verdict::Approved, "alice", None, 6).unwrap();
    memory.withdraw(None, "one", at(7));
    assert!(matches!(
        memory.request(&call, by("one"), at(8)),
        Ok(Standing::Approved(..))
    ));
    assert_eq!(
        phases(&memory, 8),
        [
            ("mlflow-d1-0".to_owned(), Phase::Withdrawn),
            ("mlflow-d1-1".to_owned(), Phase::Approved)
        ]
    );
}

#[test]
fn an_approval_is_for_nothing_once_calls_go_elsewhere() {
    let memory = Memory::default();
    let (asked, approved) = (wanted("key:a", "d1", 0), wanted("key:a", "d2", 0));
    memory.request(&asked, by("s"), at(0)).unwrap();
    memory.request(&approved, by("s"), at(0)).unwrap();
    decide(&memory, "mlflow-d2-0", Verdict::Approved, "alice", None, 1).unwrap();
    let Ok(Standing::Approved(found, version, _)) = memory.request(&approved, by("s"), at(2))
    else {
        panic!("not approved")
    };
    // The same place, and another server's.
    memory.destination_changed("ml", "mlflow", "sha256:here", at(2));
    memory.destination_changed("ml", "other", "sha256:there", at(2));
    memory.destination_changed("other", "mlflow", "sha256:there", at(2));
    assert!(matches!(
        memory.request(&approved, by("s"), at(2)),
        Ok(Standing::Approved(..))
    ));
    memory.destination_changed("ml", "mlflow", "sha256:there", at(3));
    assert!(!memory.consume(&found, &version, by("s"), at(4)));
    assert_eq!(
        memory.look(&asked, &key("mlflow-d1-0"), at(4)),
        Some(Standing::Stale(key("mlflow-d1-0")))
    );
    assert!(matches!(
        decide(&memory, "mlflow-d1-0", Verdict::Approved, "alice", None, 4),
        Err(DecideError::Stale(_))
    ));
    assert!(
        phases(&memory, 4)
            .iter()
            .all(|(_, phase)| *phase == Phase::Stale)
    );
    assert_eq!(
        memory.request(&approved, by("s"), at(5)),
        pending("mlflow-d2-1", 100)
    );
}

#[test]
fn a_caller_that_floods_is_capped_and_keeps_nobody_else_out() {
    let memory = Memory::default();
    let ask = |grant: &str, digest: &str, now: i64| {
        memory.request(&wanted(grant, digest, now), by("s"), at(now))
    };
    for n in 0..PENDING_PER_GRANT {
        ask("key:flood", &format!("f{n}"), 0).unwrap();
    }
    assert_eq!(ask("key:flood", "more", 0), Err(NotRequested::GrantFull));
    assert!(ask("key:flood", "f0", 1).is_ok());
    assert!(ask("key:other", "o", 0).is_ok());
    for n in 0..PENDING_PER_SERVER - PENDING_PER_GRANT - 1 {
        ask(&format!("key:{n}"), &format!("s{n}"), 0).unwrap();
    }
    // The server has as many as it may have: who has the most makes room, the oldest first.
    assert!(ask("key:last", "l", 2).is_ok());
    let open = |now| {
        let all = phases(&memory, now).into_iter();
        all.filter(|(_, phase)| *phase == Phase::Pending).count()
    };
    assert_eq!(open(2), PENDING_PER_SERVER);
    let withdrawn: Vec<String> = phases(&memory, 2)
        .into_iter()
        .filter(|(_, phase)| *phase == Phase::Withdrawn)
        .map(|(name, _)| name)
        .collect();
    assert!(
        matches!(withdrawn.as_slice(), [one] if one.starts_with("mlflow-f")),
        "{withdrawn:?}"
    );
    // Where everybody has as few as the newcomer would have, there is no room.
    for n in 0..40 {
        let _ = ask(&format!("key:new{n}"), &format!("n{n}"), 3);
    }
    assert_eq!(ask("key:very-last", "v", 4), Err(NotRequested::ServerFull));
    assert_eq!(open(4), PENDING_PER_SERVER);
}

#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn every_step_is_a_line_that_names_who_why_what_and_the_decision() {
    let lines = Lines::default();
    let (log, writer) = AuditLog::start(vec![Box::new(lines.clone())]).unwrap();
    let memory = Memory::recorded(Records {
        log: Some(log),
        times: None,
    });
    let call = |digest: &str| wanted("key:a", digest, 0);
    for digest in ["d1", "d2", "d3", "d4", "d5"] {
        memory.request(&call(digest), by(digest), at(0)).unwrap();
    }
    decide(
        &memory,
        "mlflow-d1-0",
        Verdict::Approved,
        "alice",
        Some("better"),
        1,
    )
    .unwrap();
    decide(
        &memory,
        "mlflow-d2-0",
        Verdict::Denied,
        "bob",
        Some("worse"),
        2,
    )
    .unwrap();
    let Ok(Standing::Approved(found, version, _)) = memory.request(&call("d1"), by("d1"), at(3))
    else {
        panic!("not approved")
    };
    let other = CallContext {
        session: "d1",
        decision: DecisionId {
            instance: "run",
            number: 8,
        },
    };
    assert!(memory.consume(&found, &version, other, at(4)));
    memory.withdraw(None, "d3", at(5));
    assert_eq!(memory.expire(at(6)), Some(at(100)));
    assert_eq!(memory.expire(at(100)), None);
    assert_eq!(memory.expire(at(101)), None);
    let later = wanted("key:a", "d6", 102);
    memory.request(&later, by("d6"), at(102)).unwrap();
    memory.destination_changed("ml", "mlflow", "sha256:there", at(103));
    drop(memory);
    drop(writer);
    let written = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let steps: Vec<serde_json::Value> = written
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told: Vec<(&str, &str)> = steps
        .iter()
        .map(|line| {
            (
                line["step"].as_str().unwrap(),
                line["approval"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("requested", "mlflow-d1-0"),
            ("requested", "mlflow-d2-0"),
            ("requested", "mlflow-d3-0"),
            ("requested", "mlflow-d4-0"),
            ("requested", "mlflow-d5-0"),
            ("approved", "mlflow-d1-0"),
            ("denied", "mlflow-d2-0"),
            ("consumed", "mlflow-d1-0"),
            ("withdrawn", "mlflow-d3-0"),
            ("expired", "mlflow-d4-0"),
            ("expired", "mlflow-d5-0"),
            ("requested", "mlflow-d6-0"),
            ("stale", "mlflow-d6-0"),
        ]
    );
    assert_eq!(
        steps[5],
        serde_json::json!({
            "v": 1, "time": "1970-01-01T00:00:01Z", "decisionId": "run-7", "event": "approval", "server": "ml/mlflow",
            "approval": "mlflow-d1-0", "step": "approved", "grant": "key:a", "tool": "set_model_alias",
            "policy": "mlflow-default", "rule": "promote", "digest": "sha256:d1", "by": "alice", "reason": "better",
        })
    );
    assert_eq!(steps[7]["decisionId"], "run-8");
    assert_eq!(
        (&steps[7]["by"], &steps[7]["reason"], &steps[7]["approvers"]),
        (&"alice".into(), &"better".into(), &vec!["alice"].into())
    );
    assert_eq!(steps[8].get("approvers"), None);
}
