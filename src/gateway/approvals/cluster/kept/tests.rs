use super::*;
use serde_json::{Value, json};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A request of the gateway `run`, open from 0 to 100.
fn object(name: &str, version: u64, spec: Value, status: Value) -> Loose<McpApproval> {
    let mut whole = json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpApproval",
        "metadata": {"name": name, "namespace": "ml", "uid": name, "resourceVersion": version.to_string()},
        "spec": {
            "serverRef": {"name": "m"}, "grant": "g", "tool": "t", "argumentsDigest": "d", "argumentsPreview": "{}",
            "policy": "p", "rule": "r", "requestedAt": at(0).to_string(), "expiresAt": at(100).to_string(),
            "decisionId": "run-1",
        },
        "status": status,
    });
    let members = spec.as_object().unwrap().clone();
    whole["spec"].as_object_mut().unwrap().extend(members);
    Loose::from(serde_json::from_value::<McpApproval>(whole).unwrap())
}

fn approved() -> Value {
    json!({"decisions": [{"verdict": "Approved", "by": "alice"}]})
}

fn due(kept: &mut KeptApprovals, second: i64) -> Vec<String> {
    let due = kept.due(at(second));
    due.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn the_gateway_that_asked_records_first_and_another_one_only_if_it_does_not() {
    for (instance, decided, expired) in [("run", 12, 100), ("other", 40, 130)] {
        let mut kept = KeptApprovals::new(instance);
        kept.take(&object("a", 1, json!({}), json!({})), "m", at(1));
        assert_eq!(kept.next_due(), Some(at(expired)), "{instance}");
        // The operator's write of the phase changes nothing in that.
        kept.take(&object("a", 2, approved(), json!({})), "m", at(10));
        kept.take(
            &object("a", 3, approved(), json!({"phase": "Approved"})),
            "m",
            at(11),
        );
        assert_eq!(kept.next_due(), Some(at(decided)), "{instance}");
        assert_eq!(due(&mut kept, decided - 1), [""; 0]);
        assert_eq!(due(&mut kept, decided), ["a"]);
        // Once at a time; and a while later again, if it could not be written.
        assert_eq!((due(&mut kept, decided), kept.next_due()), (vec![], None));
        kept.wrote("a", "a", at(decided));
        assert_eq!(due(&mut kept, decided + 4), [""; 0]);
        assert_eq!(due(&mut kept, decided + 5), ["a"]);
        kept.wrote("a", "a", at(decided + 5));
        // What is recorded is not due.
        let recorded = json!({"auditedDecisions": 1});
        kept.take(&object("a", 4, approved(), recorded.clone()), "m", at(50));
        assert_eq!(kept.next_due(), Some(at(expired)), "{instance}");
        assert_eq!(due(&mut kept, expired), ["a"]);
        kept.wrote("a", "a", at(expired));
        let both = json!({"auditedDecisions": 1, "expiredAt": at(100).to_string()});
        kept.take(&object("a", 5, approved(), both), "m", at(expired));
        assert_eq!(due(&mut kept, 1_000), [""; 0]);
        assert_eq!(kept.next_due(), None);
    }
}

#[test]
fn what_ended_otherwise_does_not_expire() {
    let cases = [
        (
            "denied",
            json!({"decisions": [{"verdict": "Denied", "by": "bob"}]}),
            json!({"auditedDecisions": 1}),
        ),
        ("stale", json!({}), json!({"staleAt": at(5).to_string()})),
        (
            "withdrawn",
            json!({}),
            json!({"withdrawnAt": at(5).to_string()}),
        ),
        (
            "used",
            approved(),
            json!({"consumedAt": at(5).to_string(), "auditedDecisions": 1}),
        ),
    ];
    for (what, spec, status) in cases {
        let mut kept = KeptApprovals::new("run");
        kept.take(&object("a", 1, spec, status), "m", at(6));
        assert_eq!(due(&mut kept, 99), [""; 0], "{what}");
        assert_eq!(kept.get("a").is_some(), what != "used", "{what}");
        assert_eq!(kept.is_used("a"), what == "used", "{what}");
        assert_eq!(due(&mut kept, 100), [""; 0], "{what}");
        assert_eq!(kept.get("a"), None, "{what}");
        assert_eq!(kept.next_due(), None, "{what}");
        assert_eq!(
            kept.untold_expiry(&["a".to_owned()], at(101)),
            None,
            "{what}"
        );
    }
}

#[test]
fn an_expiry_is_told_once_of_the_newest_request_and_for_as_long_again() {
    let base = ["c".to_owned()];
    let told = |kept: &KeptApprovals, second: i64| {
        let untold = kept.untold_expiry(&base, at(second));
        untold.map(|(name, _)| name.to_owned())
    };
    let mut kept = KeptApprovals::new("run");
    kept.take(&object("c-0", 1, json!({}), json!({})), "m", at(1));
    assert_eq!(told(&kept, 99), None);
    assert_eq!(told(&kept, 100).as_deref(), Some("c-0"));
    assert_eq!(told(&kept, 199).as_deref(), Some("c-0"));
    assert_eq!(told(&kept, 200), None);
    // The operator's write of the phase makes no difference to the answer.
    kept.tell_expiry("c-0");
    kept.take(
        &object("c-0", 2, json!({}), json!({"phase": "Expired"})),
        "m",
        at(101),
    );
    assert_eq!(told(&kept, 102), None);
    // A later request counts, even where only its name is still known.
    let mut kept = KeptApprovals::new("run");
    kept.take(&object("c-0", 1, json!({}), json!({})), "m", at(1));
    let later = json!({"requestedAt": at(110).to_string(), "expiresAt": at(210).to_string()});
    let used = json!({"consumedAt": at(120).to_string()});
    kept.take(&object("c-1", 2, later, used), "m", at(121));
    assert_eq!(told(&kept, 122), None);
}
