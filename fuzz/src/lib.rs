//! What must hold of every bundle, whoever wrote it.
//!
//! In: a bundle. Out: nothing, or a panic that says which promise was broken. The promises are
//! those of the engine's own property tests, asked here of policies that nobody thought of.

use jiff::Timestamp;
use portcullis::api::policy::{Action, DefaultAction, McpPolicySpec, Mode};
use portcullis::api::server::Enforcement;
use portcullis::policy::bundle::{Bundle, BundlePolicy};
use portcullis::policy::decision::Denial;
use portcullis::policy::diagnostic::Level;
use portcullis::policy::{Bound, Call, Caller, Decision, Definition, Outcome, compile};
use std::sync::Arc;

const DEFINITIONS: [&str; 4] = [
    r#"{"name":"get_run","inputSchema":{"type":"object","properties":{"run_id":{"type":"string"}},"required":["run_id"]}}"#,
    r#"{"name":"set_model_alias","inputSchema":{"type":"object","properties":{"name":{"type":"string"},
        "alias":{"type":"string"},"version":{"type":"integer"},"force":{"type":"boolean","default":false}}}}"#,
    r#"{"name":"delete_experiment","inputSchema":{"type":"object","properties":{"experiment_id":{"type":"string"}}}}"#,
    r#"{"name":"mystery","inputSchema":{}}"#,
];
const TOOLS: [&str; 5] = [
    "get_run",
    "set_model_alias",
    "delete_experiment",
    "mystery",
    "not_listed",
];
const ARGUMENTS: [&[u8]; 5] = [
    b"",
    br#"{"run_id":"a"}"#,
    br#"{"name":"churn","alias":"champion","version":7}"#,
    br#"{"version":"7","Alias":"x","deep":[{"a":1e400}]}"#,
    b"{\"a\":1,\"a\":\xff",
];
const NAMES: [&str; 5] = [
    "",
    "greet",
    "mlflow://runs/1",
    "file:///a/../b",
    "http://h/%2e%2e",
];

/// Time of all decisions.
pub fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

/// Callers of three kinds.
pub fn callers() -> [Caller; 3] {
    let mut ci = Caller::key("ci");
    ci.groups = vec!["trainers".to_owned()];
    ci.claims = [("team".to_owned(), serde_json::json!("ml"))]
        .into_iter()
        .collect();
    [ci, Caller::key("x"), Caller::anonymous()]
}

/// What the engine says of the same calls, prompts and resources; nothing if it refuses the bundle.
pub fn verdicts(bundle: &Bundle) -> Option<Vec<Decision>> {
    let bound = bind(bundle)?;
    let mut verdicts = Vec::new();
    for caller in &callers() {
        verdicts.extend(calls(caller).map(|call| bound.evaluate(&call, now())));
        for name in NAMES {
            verdicts.push(bound.prompt(name, caller));
            verdicts.push(bound.resource(name, caller));
            verdicts.push(bound.template(name, caller));
        }
    }
    Some(verdicts)
}

/// Holds the engine to its promises over one bundle.
pub fn judge(bundle: &Bundle) {
    let Some(found) = verdicts(bundle) else {
        return;
    };
    assert_eq!(
        verdicts(bundle).as_ref(),
        Some(&found),
        "the same bundle decides otherwise"
    );
    // Rules of one name are refused, so that turning them round is all that changes.
    assert_eq!(
        verdicts(&turned(bundle)),
        Some(found.clone()),
        "order matters"
    );

    let audit = bundle.server.spec.enforcement() == Enforcement::Audit;
    let open = |outcome| matches!(outcome, Outcome::Allow | Outcome::RequireApproval);
    for decision in &found {
        if audit {
            assert_eq!(
                decision.outcome,
                Outcome::Allow,
                "an auditing server refuses"
            );
        } else {
            assert!(
                !open(decision.outcome) || may_open(bundle),
                "nothing allows {decision:?}"
            );
        }
        assert_eq!(
            decision.approval.is_some(),
            decision.outcome == Outcome::RequireApproval
        );
        assert!(
            decision.charges.is_empty() || open(decision.outcome),
            "a refusal costs: {decision:?}"
        );
    }
    if audit {
        return;
    }
    if let Some(guarded) = verdicts(&guarded(bundle)) {
        for (before, after) in found.iter().zip(&guarded) {
            assert!(
                !open(after.outcome),
                "{before:?} passed a rule that denies all as {after:?}"
            );
        }
    }
    seen(bundle);
}

/// What a caller sees agrees with what the caller is answered.
fn seen(bundle: &Bundle) {
    let Some(bound) = bind(bundle) else { return };
    for caller in &callers() {
        for call in calls(caller) {
            let trace = bound.explain(&call, now());
            let outcome = trace.outcome();
            assert_eq!(
                trace.decision,
                bound.evaluate(&call, now()),
                "explain decides otherwise"
            );
            let visible = bound.visible(call.tool, caller, "", now());
            let hidden = matches!(outcome, Outcome::Hide | Outcome::Unknown);
            // While nothing can be decided, lists are empty and calls are told why.
            let closed = matches!(outcome, Outcome::Deny(Denial::Blocked | Denial::NoPolicy));
            assert_eq!(visible, !hidden && !closed, "{trace:?}");
        }
    }
}

fn calls(caller: &Caller) -> impl Iterator<Item = Call<'_>> {
    TOOLS.into_iter().flat_map(move |tool| {
        ARGUMENTS.into_iter().map(move |arguments| Call {
            tool,
            arguments,
            caller,
            session: "",
        })
    })
}

fn bind(bundle: &Bundle) -> Option<Bound> {
    let listing: Vec<Definition> = DEFINITIONS
        .iter()
        .map(|text| Definition::parse(text.as_bytes()).unwrap())
        .collect();
    match compile(bundle) {
        Ok(program) => Some(Bound::new(&Arc::new(program), &listing)),
        Err(findings) => {
            assert!(
                findings.iter().any(|finding| finding.level == Level::Error),
                "refused without an error"
            );
            None
        }
    }
}

/// Whether anything in force allows anything at all.
fn may_open(bundle: &Bundle) -> bool {
    let opens = |action| matches!(action, Action::Allow | Action::RequireApproval);
    let enforced: Vec<_> = bundle
        .policies
        .iter()
        .filter(|policy| policy.spec.mode() == Mode::Enforce)
        .map(|policy| &policy.spec)
        .collect();
    bundle.blocked.is_empty()
        && enforced.iter().any(|spec| {
            spec.default_action == Some(DefaultAction::Allow)
                || spec.rules.iter().any(|rule| opens(rule.action))
                || spec.prompts.iter().any(|rule| opens(rule.action))
                || spec.resources.iter().any(|rule| opens(rule.action))
        })
}

fn turned(bundle: &Bundle) -> Bundle {
    let mut turned = bundle.clone();
    turned.policies.reverse();
    for policy in &mut turned.policies {
        policy.spec.rules.reverse();
        policy.spec.prompts.reverse();
        policy.spec.resources.reverse();
    }
    turned
}

/// The same under one more policy, that denies everything.
fn guarded(bundle: &Bundle) -> Bundle {
    let spec: McpPolicySpec = serde_json::from_value(serde_json::json!({
        "targetSelector": {},
        "rules": [{"name": "none", "tools": {"names": ["*"]}, "action": "Deny"}],
        "prompts": [{"name": "none", "names": ["*"], "action": "Deny"}],
        "resources": [{"name": "none", "uris": ["*"], "action": "Deny"}],
    }))
    .unwrap();
    let mut guarded = bundle.clone();
    guarded.policies.push(BundlePolicy {
        namespace: "guard".to_owned(),
        name: "rail".to_owned(),
        uid: "guard-rail".to_owned(),
        generation: 1,
        spec,
        not_accepted: None,
    });
    guarded
}
