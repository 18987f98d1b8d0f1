//! Requests of calls and decisions of people, at times that the tests say.

use super::*;
use crate::api::approval::Verdict;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn wanted(grant: &str, digest: &str, now: i64) -> Wanted {
    Wanted {
        namespace: "ml".to_owned(),
        name: format!("mlflow-{digest}"),
        spec: McpApprovalSpec {
            server_ref: ServerRef {
                name: "mlflow".to_owned(),
            },
            grant: grant.to_owned(),
            tool: "set_model_alias".to_owned(),
            arguments_digest: format!("sha256:{digest}"),
            arguments_preview: "{}".to_owned(),
            policy: "mlflow-default".to_owned(),
            rule: "promote".to_owned(),
            requested_at: time(at(now)),
            expires_at: time(at(now + 100)),
            decision: None,
        },
    }
}

fn key(name: &str) -> Key {
    ("ml".to_owned(), name.to_owned())
}

#[test]
fn the_same_call_finds_its_request_and_an_approval_is_used_once() {
    let memory = Memory::default();
    let call = wanted("key:a", "d1", 0);
    assert_eq!(
        memory.request(&call, at(0)),
        Ok(Standing::Pending(key("mlflow-d1-0")))
    );
    assert_eq!(
        memory.request(&wanted("key:a", "d1", 5), at(5)),
        Ok(Standing::Pending(key("mlflow-d1-0")))
    );
    memory
        .decide("mlflow-d1-0", Verdict::Approved, "alice", None, at(6))
        .unwrap();
    let Ok(Standing::Approved(found, version)) = memory.request(&call, at(7)) else {
        panic!("not approved")
    };
    assert!(!memory.consume(&found, version + 1, at(7)));
    assert!(memory.consume(&found, version, at(7)));
    assert!(!memory.consume(&found, version, at(7)));
    assert_eq!(
        memory.request(&call, at(8)),
        Ok(Standing::Pending(key("mlflow-d1-1")))
    );
}

#[test]
fn an_expired_approval_is_not_used_and_a_denial_stands_until_it_expires() {
    let memory = Memory::default();
    let call = wanted("key:a", "d1", 0);
    memory.request(&call, at(0)).unwrap();
    memory
        .decide("ml/mlflow-d1-0", Verdict::Approved, "alice", None, at(1))
        .unwrap();
    let Ok(Standing::Approved(found, version)) = memory.request(&call, at(99)) else {
        panic!("not approved")
    };
    assert!(!memory.consume(&found, version, at(100)));
    let again = wanted("key:a", "d1", 100);
    assert_eq!(
        memory.request(&again, at(100)),
        Ok(Standing::Pending(key("mlflow-d1-1")))
    );
    memory
        .decide(
            "mlflow-d1-1",
            Verdict::Denied,
            "bob",
            Some("no".to_owned()),
            at(101),
        )
        .unwrap();
    assert!(matches!(
        memory.request(&again, at(199)),
        Ok(Standing::Denied(..))
    ));
    assert!(matches!(
        memory.request(&wanted("key:a", "d1", 200), at(200)),
        Ok(Standing::Pending(_))
    ));
}

#[test]
fn a_decision_is_set_once_and_in_time() {
    let memory = Memory::default();
    memory.request(&wanted("key:a", "d1", 0), at(0)).unwrap();
    memory
        .decide("mlflow-d1-0", Verdict::Denied, "alice", None, at(1))
        .unwrap();
    assert!(matches!(
        memory.decide("mlflow-d1-0", Verdict::Approved, "eve", None, at(2)),
        Err(DecideError::Decided { .. })
    ));
    memory.request(&wanted("key:a", "d2", 0), at(0)).unwrap();
    assert!(matches!(
        memory.decide("mlflow-d2-0", Verdict::Approved, "alice", None, at(100)),
        Err(DecideError::Expired(_))
    ));
    assert!(matches!(
        memory.decide("nothing", Verdict::Approved, "alice", None, at(1)),
        Err(DecideError::NotFound(_))
    ));
}

#[test]
fn a_caller_that_floods_is_capped_and_keeps_nobody_else_out() {
    let memory = Memory::default();
    for n in 0..PENDING_PER_GRANT {
        memory
            .request(&wanted("key:flood", &format!("f{n}"), 0), at(0))
            .unwrap();
    }
    assert_eq!(
        memory.request(&wanted("key:flood", "more", 0), at(0)),
        Err(Refused::GrantFull)
    );
    assert!(memory.request(&wanted("key:flood", "f0", 1), at(1)).is_ok());
    assert!(memory.request(&wanted("key:other", "o", 0), at(0)).is_ok());
    for n in 0..PENDING_PER_SERVER - PENDING_PER_GRANT - 1 {
        memory
            .request(&wanted(&format!("key:{n}"), &format!("s{n}"), 0), at(0))
            .unwrap();
    }
    assert_eq!(
        memory.request(&wanted("key:last", "l", 0), at(0)),
        Err(Refused::ServerFull)
    );
}
