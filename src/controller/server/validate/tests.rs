use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::api::loose::Loose;
use crate::api::policy::McpPolicy;
use crate::controller::names::Ident;
use crate::controller::policy::diagnostics::{PolicyDiagnostics, readable};
use crate::policy::target;

fn verdict(refs: &Refs, stored: Option<&Bundle>, key: &OperatorKey) -> Verdict {
    super::validate(refs, stored, key, &mut acceptance::Memory::default())
}

fn held(refs: &Refs, stored: Option<&Bundle>, key: &OperatorKey) -> Option<Bundle> {
    verdict(refs, stored, key).held
}

fn validate(refs: &Refs, stored: Option<&Bundle>, key: &OperatorKey) -> Result<Plan, Refusal> {
    verdict(refs, stored, key).plan
}

fn key() -> OperatorKey {
    OperatorKey::new(b"0123456789abcdef", "key").unwrap()
}

fn refs(spec: Value, policies: &[(&str, u64, Value)]) -> Refs {
    let object: Loose<McpServer> = serde_json::from_value(json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
        "metadata": { "namespace": "ml", "name": "mlflow", "uid": "u-1", "generation": 1 },
        "spec": spec,
    }))
    .unwrap();
    let verdicts = PolicyDiagnostics::default();
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
            let (policy, errors) = (readable(&policy), verdicts.errors(&policy));
            let now = target::targets(&policy, object.metadata(), None, "ops");
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
        leaving: false,
        namespace_unknown: false,
        children: BTreeMap::new(),
        pods: Vec::new(),
        upstream_pods: Vec::new(),
        issuer: None,
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
fn several_gateways_on_one_claim_are_refused() {
    let refusal = refused(several_on_a_claim(), &[]);
    assert_eq!(refusal.reason, Reason::Invalid);
    assert!(
        refusal.message.contains("persistentVolumeClaim"),
        "{}",
        refusal.message
    );
}

/// It is read, and cannot be carried out.
fn several_on_a_claim() -> Value {
    let mut spec = http();
    spec["counters"] = json!({ "local": { "persistentVolumeClaim": { "claimName": "c" } } });
    spec["gateway"] = json!({ "replicas": 2 });
    spec
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
fn the_keys_of_the_clusters_issuer_are_in_the_bundles_that_need_them() {
    let known = |kid: &str| BundleIssuer {
        issuer: "https://kubernetes".to_owned(),
        jwks: json!({ "keys": [{ "kid": kid }] }),
    };
    let mut accounts = http();
    accounts["authentication"] = json!({ "serviceAccounts": {} });
    let with = |issuer: Option<BundleIssuer>, stored: Option<&Bundle>| {
        let mut refs = refs(accounts.clone(), &[("a", 1, reads())]);
        refs.issuer = issuer;
        validate(&refs, stored, &key()).unwrap().bundle
    };
    let first = with(Some(known("one")), None);
    assert_eq!(first.issuers, [known("one")]);
    // Kept while the API server does not say them, replaced once they have rotated.
    assert_eq!(with(None, Some(&first)).revision, first.revision);
    assert_eq!(with(None, None).issuers, []);
    let second = with(Some(known("two")), Some(&first));
    assert_eq!(second.issuers, [known("two")]);
    assert_ne!(second.revision, first.revision);
    // Servers that do not accept such tokens are not written again.
    let mut other = refs(http(), &[]);
    other.issuer = Some(known("one"));
    assert_eq!(
        validate(&other, Some(&first), &key())
            .unwrap()
            .bundle
            .issuers,
        []
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
    let verdicts = PolicyDiagnostics::default();
    let size = verdicts.size(&policy);
    let (policy, errors) = (readable(&policy), verdicts.errors(&policy));
    let now = target::targets(&policy, refs.object.metadata(), None, "ops");
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

/// Names of the policies that are not accepted, with the reason.
fn not_accepted(bundle: &Bundle) -> Vec<(&str, &str)> {
    let policies = bundle.policies.iter();
    policies
        .filter_map(|policy| {
            let why = policy.not_accepted.as_ref()?;
            Some((policy.name.as_str(), why.reason.as_str()))
        })
        .collect()
}

#[test]
fn policies_of_now_are_in_force_while_the_server_is_refused() {
    let known = [("a", 1, reads()), ("b", 1, reads())];
    let stored = validate(&refs(http(), &known), None, &key())
        .unwrap()
        .bundle;
    let later = guarded(refs(several_on_a_claim(), &[("a", 2, limited("1m"))]));
    assert!(validate(&later, Some(&stored), &key()).is_err());
    let bundle = held(&later, Some(&stored), &key()).unwrap();
    assert_eq!(names(&bundle), [("a", 2), ("guard", 1)]);
    assert_eq!(bundle.server, stored.server);
    assert!(held(&later, None, &key()).is_none(), "nothing was accepted");
}

#[test]
fn a_policy_that_the_server_cannot_keep_holds_up_no_other_one() {
    let stored = validate(&refs(http(), &[("a", 1, reads())]), None, &key())
        .unwrap()
        .bundle;
    let policies = [("a", 2, limited("2h")), ("c", 1, limited("1m"))];
    let plan = validate(&guarded(refs(http(), &policies)), Some(&stored), &key()).unwrap();
    assert_eq!(names(&plan.bundle), [("a", 2), ("c", 1), ("guard", 1)]);
    assert_eq!(not_accepted(&plan.bundle), [("a", "SharedCountersNeeded")]);
    assert!(plan.alone, "the limit of c is kept");
    // Nor does a guardrail hold up another one, or open what a policy closes that was never right.
    let mut two = http();
    two["gateway"] = json!({ "replicas": 2 });
    let limit = json!([{ "name": "w", "tools": {"names": ["*"]}, "action": "Allow", "limits": [{ "counter": "c", "max": 3, "window": "1m" }] }]);
    let wrong = refs(two, &[("a", 1, reads()), ("b", 1, broken())]);
    let later = guarded(guarded_by(wrong, "early", &limit));
    let plan = validate(&later, Some(&stored), &key()).unwrap();
    assert_eq!(names(&plan.bundle), [("a", 1), ("early", 1), ("guard", 1)]);
    assert_eq!(
        not_accepted(&plan.bundle),
        [("early", "SharedCountersNeeded")]
    );
    assert_eq!(plan.bundle.blocked.len(), 1);
}

#[test]
fn what_is_in_force_is_held_only_while_the_server_becomes_another() {
    let stored = validate(&refs(http(), &[]), None, &key()).unwrap().bundle;
    let same = verdict(&refs(http(), &[("a", 1, reads())]), Some(&stored), &key());
    assert!(same.plan.is_ok() && same.held.is_none());
    let other = json!({ "upstream": { "http": { "url": "http://another/mcp" } } });
    let other = verdict(&refs(other, &[("a", 1, reads())]), Some(&stored), &key());
    let held = other.held.unwrap();
    assert!(other.plan.is_ok());
    assert_eq!(
        (names(&held), &held.server),
        (vec![("a", 1)], &stored.server)
    );
}

#[test]
fn a_policy_that_is_being_deleted_allows_nothing_and_goes_on_restricting() {
    let rules = json!([
        { "name": "reads", "tools": { "risks": ["Read"] }, "action": "Allow" },
        { "name": "none", "tools": { "names": ["delete_*"] }, "action": "Deny" },
    ]);
    let mut refs = refs(http(), &[("a", 1, policy(rules)), ("b", 1, reads())]);
    let leaving = &mut refs.policies[0];
    let mut object = McpPolicy::clone(&leaving.policy);
    object.metadata.deletion_timestamp = Some(crate::api::Time(jiff::Timestamp::UNIX_EPOCH));
    leaving.policy = Arc::new(object);
    let plan = validate(&refs, None, &key()).unwrap();
    assert_eq!(not_accepted(&plan.bundle), [("a", "Deleting")]);
    assert_eq!(plan.bundle.policies[0].spec.rules.len(), 2);
}
