use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::api::loose::Loose;
use crate::controller::names::Ident;
use crate::controller::verdicts::Verdicts;

fn held(refs: &Refs, stored: Option<&Bundle>, key: &OperatorKey) -> Option<Bundle> {
    super::held(refs, stored, key, &mut Compiled::default())
}

fn validate(refs: &Refs, stored: Option<&Bundle>, key: &OperatorKey) -> Result<Plan, Refusal> {
    super::validate(refs, stored, key, &mut Compiled::default())
}

fn key() -> OperatorKey {
    OperatorKey::new(b"0123456789abcdef")
}

fn refs(spec: Value, policies: &[(&str, u64, Value)]) -> Refs {
    let object: Loose<McpServer> = serde_json::from_value(json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
        "metadata": { "namespace": "ml", "name": "mlflow", "uid": "u-1", "generation": 1 },
        "spec": spec,
    }))
    .unwrap();
    let verdicts = Verdicts::default();
    let policies = policies
        .iter()
        .map(|(name, generation, spec)| {
            let policy: Loose<McpPolicy> = serde_json::from_value(json!({
                "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpPolicy",
                "metadata": { "namespace": "ml", "name": name, "uid": format!("uid-{name}"), "generation": generation },
                "spec": spec,
            }))
            .unwrap();
            let size = verdicts.size(&policy);
            let (policy, errors) = verdicts.of(&policy);
            let now = target::targets_metadata(&policy, object.metadata(), "ops");
            Targeting { policy, now, errors, size }
        })
        .collect();
    Refs {
        ident: Ident {
            namespace: "ml".to_owned(),
            name: "mlflow".to_owned(),
            uid: "u-1".to_owned(),
        },
        server: object
            .object()
            .map(|server| McpServer::clone(server))
            .map_err(|undecoded| undecoded.error.clone()),
        object: Arc::new(object),
        policies,
        children: BTreeMap::new(),
        pods: Vec::new(),
    }
}

fn http() -> Value {
    json!({ "upstream": { "http": { "url": "http://mlflow/mcp" } } })
}

fn policy(rules: Value) -> Value {
    json!({ "targetRefs": [{ "group": "portcullis.dev", "kind": "McpServer", "name": "mlflow" }], "rules": rules })
}

fn reads() -> Value {
    policy(json!([{ "name": "reads", "tools": { "risks": ["Read"] }, "action": "Allow" }]))
}

fn broken() -> Value {
    policy(
        json!([{ "name": "reads", "tools": {"names": ["*"]}, "when": "args.", "action": "Allow" }]),
    )
}

fn limited(window: &str) -> Value {
    policy(
        json!([{ "name": "w", "tools": {"names": ["*"]}, "action": "Allow", "limits": [{ "counter": "c", "max": 3, "window": window }] }]),
    )
}

fn refused(spec: Value, policies: &[(&str, u64, Value)]) -> Refusal {
    validate(&refs(spec, policies), None, &key()).err().unwrap()
}

#[test]
fn a_server_and_its_policies_become_one_bundle() {
    let plan = validate(
        &refs(http(), &[("b", 2, reads()), ("a", 1, reads())]),
        None,
        &key(),
    )
    .unwrap();
    let named: Vec<(&str, i64)> = plan
        .bundle
        .policies
        .iter()
        .map(|policy| (policy.name.as_str(), policy.generation))
        .collect();
    assert_eq!(named, [("a", 1), ("b", 2)]);
    assert_eq!(
        plan.bundle.report_token_sha256,
        Some(key().bearer_sha256("u-1"))
    );
    assert!(plan.bundle.blocked.is_empty() && !plan.alone);
    let text = serde_json::to_vec(&plan.bundle).unwrap();
    assert_eq!(Bundle::parse(&text).unwrap(), plan.bundle);
}

#[test]
fn of_a_policy_that_became_wrong_the_accepted_form_stays_in_force() {
    let before = validate(&refs(http(), &[("a", 1, reads())]), None, &key())
        .unwrap()
        .bundle;
    let after = validate(&refs(http(), &[("a", 2, broken())]), Some(&before), &key())
        .unwrap()
        .bundle;
    assert_eq!(after.revision, before.revision);
    let mut elsewhere = broken();
    elsewhere["targetRefs"][0]["name"] = json!("another");
    let after = validate(&refs(http(), &[("a", 2, elsewhere)]), Some(&before), &key())
        .unwrap()
        .bundle;
    assert_eq!(
        after.revision, before.revision,
        "its wrong form does not take it off this server either"
    );
}

#[test]
fn a_policy_that_was_never_right_blocks_everything_unless_it_only_audits() {
    let plan = validate(
        &refs(http(), &[("a", 1, broken()), ("b", 1, reads())]),
        None,
        &key(),
    )
    .unwrap();
    let blocked: Vec<&str> = plan
        .bundle
        .blocked
        .iter()
        .map(|blocked| blocked.policy.as_str())
        .collect();
    assert_eq!(blocked, ["ml/a"]);
    let mut audit = broken();
    audit["mode"] = json!("Audit");
    let plan = validate(&refs(http(), &[("a", 1, audit)]), None, &key()).unwrap();
    assert_eq!(
        (plan.bundle.blocked.len(), plan.bundle.policies.len()),
        (0, 0)
    );
    let undecodable =
        policy(json!([{ "name": "x", "tools": {"names": ["*"]}, "action": "Permit" }]));
    let plan = validate(&refs(http(), &[("a", 1, undecodable)]), None, &key()).unwrap();
    assert_eq!(plan.bundle.blocked.len(), 1);
}

#[test]
fn a_namesake_that_came_later_does_not_inherit_what_was_accepted() {
    let mut before = validate(&refs(http(), &[("a", 1, reads())]), None, &key())
        .unwrap()
        .bundle;
    before.policies[0].uid = "of an earlier one".to_owned();
    let plan = validate(&refs(http(), &[("a", 1, broken())]), Some(&before), &key()).unwrap();
    assert_eq!(
        (plan.bundle.blocked.len(), plan.bundle.policies.len()),
        (1, 0)
    );
}

#[test]
fn what_this_release_cannot_do_is_refused() {
    for extra in [
        json!({ "counters": { "redis": { "urlSecretRef": { "name": "r", "key": "url" } } } }),
        json!({ "authentication": { "serviceAccounts": {} } }),
        json!({ "authentication": { "jwt": [{ "name": "c", "issuer": "https://i", "audiences": ["a"], "jwks": { "url": "https://i/j" } }] } }),
    ] {
        let mut spec = http();
        spec.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        assert_eq!(refused(spec, &[]).reason, Reason::Unsupported);
    }
}

#[test]
fn a_spec_that_cannot_be_read_or_compiled_is_invalid_and_says_where() {
    let wrong_type = refused(json!({ "upstream": { "http": { "url": 7 } } }), &[]);
    assert_eq!(wrong_type.reason, Reason::Invalid);
    let mut spec = http();
    spec["tools"] = json!([{ "name": "t", "rsik": "Write" }]);
    let misspelt = refused(spec, &[]);
    assert_eq!(misspelt.reason, Reason::Invalid);
    assert!(
        misspelt.message.contains("spec.tools[0].rsik"),
        "{}",
        misspelt.message
    );
}

#[test]
fn limits_in_memory_need_one_replica_and_a_short_window() {
    assert!(
        validate(&refs(http(), &[("a", 1, limited("1h"))]), None, &key())
            .unwrap()
            .alone
    );
    let with = |gateway: Value| {
        let mut spec = http();
        spec["gateway"] = gateway;
        spec
    };
    let message = |refusal: Refusal| {
        assert_eq!(refusal.reason, Reason::SharedCountersNeeded);
        refusal.message
    };
    let two = message(refused(
        with(json!({ "replicas": 2 })),
        &[("a", 1, limited("1m"))],
    ));
    assert!(
        two.contains("Rule w of policy ml/a") && two.contains("2 replicas"),
        "{two}"
    );
    let scaled = message(refused(
        with(json!({ "autoscaling": {} })),
        &[("a", 1, limited("1m"))],
    ));
    assert!(scaled.contains("an autoscaler"), "{scaled}");
    let long = message(refused(http(), &[("a", 1, limited("61m"))]));
    assert!(long.contains("61m"), "{long}");
    assert!(
        !validate(
            &refs(with(json!({ "replicas": 2 })), &[("a", 1, reads())]),
            None,
            &key()
        )
        .unwrap()
        .alone
    );
}

#[test]
fn a_bundle_that_fits_into_no_config_map_names_the_largest_policy() {
    let many: Vec<Value> = (0..200)
        .map(|n| json!({ "name": format!("r{n}"), "tools": { "names": ["x".repeat(200)] }, "action": "Deny", "reason": "y".repeat(500) }))
        .collect();
    let policies: Vec<(String, Value)> = (0..10)
        .map(|n| (format!("p{n}"), policy(json!(many))))
        .collect();
    let policies: Vec<(&str, u64, Value)> = policies
        .iter()
        .map(|(name, spec)| (name.as_str(), 1, spec.clone()))
        .collect();
    let refusal = refused(http(), &policies);
    assert_eq!(refusal.reason, Reason::BundleTooLarge);
    assert!(
        refusal.message.contains("The largest policy is ml/p"),
        "{}",
        refusal.message
    );
}

/// A guardrail of the operator's namespace.
fn guarded(refs: Refs) -> Refs {
    let rules = json!([{ "name": "none", "tools": { "names": ["delete_*"] }, "action": "Deny" }]);
    guarded_by(refs, "guard", &rules)
}

fn guarded_by(mut refs: Refs, name: &str, rules: &Value) -> Refs {
    let policy: Loose<McpPolicy> = serde_json::from_value(json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpPolicy",
        "metadata": { "namespace": "ops", "name": name, "uid": format!("uid-{name}"), "generation": 1 },
        "spec": { "targetSelector": {}, "rules": rules },
    }))
    .unwrap();
    let verdicts = Verdicts::default();
    let size = verdicts.size(&policy);
    let (policy, errors) = verdicts.of(&policy);
    let now = target::targets_metadata(&policy, refs.object.metadata(), "ops");
    refs.policies.push(Targeting {
        policy,
        now,
        errors,
        size,
    });
    refs
}

fn names(bundle: &Bundle) -> Vec<(&str, i64)> {
    let policies = bundle.policies.iter();
    policies
        .map(|policy| (policy.name.as_str(), policy.generation))
        .collect()
}

#[test]
fn guardrails_and_removals_are_in_force_whatever_else_is_refused() {
    let known = [("a", 1, reads()), ("b", 1, reads())];
    let stored = validate(&refs(http(), &known), None, &key())
        .unwrap()
        .bundle;
    let jwt = json!([{ "name": "c", "issuer": "https://i", "audiences": ["a"], "jwks": { "url": "https://i/j" } }]);
    let mut wrong = http();
    wrong["authentication"] = json!({ "jwt": jwt });
    // The server is refused: its policies of now go on, on the server as it was.
    let later = guarded(refs(wrong, &[("a", 2, limited("1m"))]));
    assert!(validate(&later, Some(&stored), &key()).is_err());
    let bundle = held(&later, Some(&stored), &key()).unwrap();
    assert_eq!(names(&bundle), [("a", 2), ("guard", 1)]);
    assert_eq!(bundle.server, stored.server);
    // A policy is what cannot be accepted: its accepted form stays, a new one is left out.
    let later = guarded(refs(
        http(),
        &[("a", 2, limited("2h")), ("c", 1, limited("2h"))],
    ));
    let refusal = validate(&later, Some(&stored), &key()).err().unwrap();
    assert_eq!(refusal.reason, Reason::SharedCountersNeeded);
    let bundle = held(&later, Some(&stored), &key()).unwrap();
    assert_eq!(names(&bundle), [("a", 1), ("guard", 1)]);
    assert!(held(&later, None, &key()).is_none(), "nothing was accepted");
}

#[test]
fn a_guardrail_that_cannot_be_carried_out_on_a_server_keeps_no_other_one_from_it() {
    let mut two = http();
    two["gateway"] = json!({ "replicas": 2 });
    let own = [("a", 1, reads())];
    let stored = validate(&refs(two.clone(), &own), None, &key())
        .unwrap()
        .bundle;
    let limit = json!([{ "name": "w", "tools": {"names": ["*"]}, "action": "Allow", "limits": [{ "counter": "c", "max": 3, "window": "1m" }] }]);
    let later = guarded(guarded_by(refs(two, &own), "early", &limit));
    let refusal = validate(&later, Some(&stored), &key()).err().unwrap();
    assert_eq!(refusal.reason, Reason::SharedCountersNeeded);
    let bundle = held(&later, Some(&stored), &key()).unwrap();
    assert_eq!(names(&bundle), [("a", 1), ("guard", 1)]);
    assert!(bundle.blocked.is_empty());
    // What was never right goes on blocking, whatever else is refused.
    let mut two = http();
    two["gateway"] = json!({ "replicas": 2 });
    let wrong = refs(two, &[("a", 1, reads()), ("b", 1, broken())]);
    let later = guarded(guarded_by(wrong, "early", &limit));
    let bundle = held(&later, Some(&stored), &key()).unwrap();
    assert_eq!(names(&bundle), [("a", 1), ("guard", 1)]);
    assert_eq!(bundle.blocked.len(), 1);
}

#[test]
fn policies_that_leave_no_room_for_a_guardrail_close_their_server_and_not_the_guardrail() {
    let large = |fill: usize| {
        let rules: Vec<Value> = (0..fill)
            .map(|n| json!({ "name": format!("r{n}"), "tools": { "names": ["x"] }, "action": "Deny", "reason": "y".repeat(900) }))
            .collect();
        policy(json!(rules))
    };
    let own: Vec<(String, Value)> = (0..4).map(|n| (format!("p{n}"), large(240))).collect();
    let own: Vec<(&str, u64, Value)> = own
        .iter()
        .map(|(name, spec)| (name.as_str(), 1, spec.clone()))
        .collect();
    let stored = validate(&refs(http(), &own), None, &key()).unwrap().bundle;
    let guard: Vec<Value> = (0..200)
        .map(|n| json!({ "name": format!("g{n}"), "tools": { "names": ["delete_*"] }, "action": "Deny", "reason": "z".repeat(900) }))
        .collect();
    let later = guarded_by(refs(http(), &own), "guard", &json!(guard));
    let refusal = validate(&later, Some(&stored), &key()).err().unwrap();
    assert_eq!(refusal.reason, Reason::BundleTooLarge);
    let bundle = held(&later, Some(&stored), &key()).unwrap();
    assert_eq!(names(&bundle), [("guard", 1)]);
    assert_eq!(bundle.blocked.len(), 1);
    assert_eq!(bundle.blocked[0].policy, "ml/p0");
}

#[test]
fn what_is_in_force_is_held_only_while_the_server_becomes_another() {
    let stored = validate(&refs(http(), &[]), None, &key()).unwrap().bundle;
    let same = validate(&refs(http(), &[("a", 1, reads())]), Some(&stored), &key()).unwrap();
    assert!(same.held.is_none());
    let other = json!({ "upstream": { "http": { "url": "http://another/mcp" } } });
    let plan = validate(&refs(other, &[("a", 1, reads())]), Some(&stored), &key()).unwrap();
    let held = plan.held.unwrap();
    assert_eq!(
        (names(&held), &held.server),
        (vec![("a", 1)], &stored.server)
    );
}

#[test]
fn a_bundle_is_compiled_once_and_again_when_it_says_something_else() {
    let mut compiled = Compiled::default();
    let judge = |generation: u64, compiled: &mut Compiled| {
        let refs = refs(http(), &[("a", generation, reads())]);
        super::validate(&refs, None, &key(), compiled).map(|plan| plan.bundle.revision)
    };
    let revision = judge(1, &mut compiled).unwrap();
    // What is remembered is what is said.
    compiled.0 = vec![(revision, Err("remembered".to_owned()))];
    assert_eq!(judge(1, &mut compiled).unwrap_err().message, "remembered");
    for generation in 2..=9 {
        assert!(judge(generation, &mut compiled).is_ok());
    }
    assert!(judge(1, &mut compiled).is_ok());
    assert_eq!(compiled.0.len(), REMEMBERED);
}

#[test]
fn patterns_of_all_policies_together_have_a_bound_too() {
    let patterns = |name: &str| {
        let rules: Vec<Value> = (0..60)
            .map(|i| {
                let when = format!("args.a.matches(\"^{name}{i}$\")");
                json!({ "name": format!("r{i}"), "tools": { "names": ["x"] }, "when": when, "action": "Allow" })
            })
            .collect();
        policy(json!(rules))
    };
    let two = [("a", 1, patterns("a")), ("b", 1, patterns("b"))];
    assert!(validate(&refs(http(), &two), None, &key()).is_ok());
    let [a, b] = two;
    let three = [a, b, ("c", 1, patterns("c"))];
    let refusal = validate(&refs(http(), &three), None, &key()).err().unwrap();
    assert_eq!(refusal.reason, Reason::Invalid);
    let said = &refusal.message;
    assert!(
        said.contains("ml/c") && said.contains("180 different patterns") && said.contains("128"),
        "{said}"
    );
}
