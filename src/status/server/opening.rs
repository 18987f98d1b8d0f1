//! Whether a server allows any call, and which of its policies are not accepted.
//!
//! In: the server and the wanted bundle. Out: conditions, and the policies of the status. Must not
//! do: check a policy; the bundle has the findings.

use super::super::Verdict;
use crate::api::condition::Reason;
use crate::api::policy::{Action, DefaultAction, McpPolicySpec, Mode, Rule};
use crate::api::server::{Enforcement, McpServer, ServerPolicy};
use crate::policy::bundle::{Bundle, BundlePolicy};

/// Every policy that targets the server; if it is not accepted here, with the reason.
pub(super) fn policies(bundle: Option<&Bundle>) -> Vec<ServerPolicy> {
    let Some(bundle) = bundle else {
        return Vec::new();
    };
    let carried = bundle.policies.iter().map(|policy| ServerPolicy {
        namespace: policy.namespace.clone(),
        name: policy.name.clone(),
        mode: policy.spec.mode(),
        reason: policy.not_accepted.as_ref().map(|why| why.reason.clone()),
        message: policy.not_accepted.as_ref().map(|why| why.message.clone()),
    });
    let blocked = bundle.blocked.iter().map(|blocked| {
        let (namespace, name) = blocked
            .policy
            .split_once('/')
            .unwrap_or(("", &blocked.policy));
        ServerPolicy {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            // One that only audits closes nothing.
            mode: Mode::Enforce,
            reason: Some(Reason::Closed.as_str().to_owned()),
            message: Some(blocked.message.clone()),
        }
    });
    let mut policies: Vec<ServerPolicy> = carried.chain(blocked).collect();
    policies.sort();
    policies
}

/// Whether every policy that targets the server is accepted here.
pub(super) fn policies_accepted(bundle: Option<&Bundle>) -> Verdict {
    let Some(bundle) = bundle else {
        return Verdict::new(true, Reason::Accepted, "No policy is known yet.");
    };
    if let Some(blocked) = bundle.blocked.first() {
        return Verdict::new(false, Reason::Closed, closed_by(bundle, blocked));
    }
    let mut refused = bundle
        .policies
        .iter()
        .filter_map(|policy| Some((policy, policy.not_accepted.as_ref()?)));
    let Some((policy, why)) = refused.next() else {
        return Verdict::new(true, Reason::Accepted, "Every policy is accepted.");
    };
    let reason = Reason::ALL
        .iter()
        .copied()
        .find(|reason| reason.as_str() == why.reason)
        .unwrap_or(Reason::PolicyNotAccepted);
    let more = match refused.count() {
        0 => String::new(),
        more => format!(" {more} more policies are not accepted; status.policies names them."),
    };
    Verdict::new(
        false,
        reason,
        format!(
            "Policy {}/{} is not accepted here: it restricts calls as written and allows none. {}{more}",
            policy.namespace, policy.name, why.message
        ),
    )
}

fn closed_by(bundle: &Bundle, blocked: &crate::policy::bundle::Blocked) -> String {
    let more = match bundle.blocked.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more; status.policies names them)"),
    };
    let guardrail = blocked
        .policy
        .split_once('/')
        .filter(|(namespace, _)| *namespace != bundle.server.namespace)
        .map_or("Policy", |_| "Guardrail");
    format!(
        "Every call is refused: {guardrail} {}{more} has never been accepted. Correct or remove it: {}",
        blocked.policy, blocked.message
    )
}

/// Why the server refuses every call, if it does.
pub(super) fn closed(server: &McpServer, bundle: Option<&Bundle>) -> Option<Verdict> {
    let bundle = bundle?;
    if server.spec.enforcement() == Enforcement::Audit {
        return None;
    }
    if let Some(blocked) = bundle.blocked.first() {
        return Some(Verdict::new(
            false,
            Reason::Closed,
            closed_by(bundle, blocked),
        ));
    }
    let message = nothing_allowed(bundle)?;
    Some(Verdict::new(false, Reason::NothingAllowed, message))
}

/// Whether a policy in force allows a prompt or a resource.
pub(super) fn allows_others(bundle: &Bundle) -> bool {
    let mut in_force = bundle
        .policies
        .iter()
        .filter(|policy| policy.spec.mode() == Mode::Enforce && policy.not_accepted.is_none());
    in_force.any(|policy| {
        let McpPolicySpec {
            prompts, resources, ..
        } = &policy.spec;
        prompts.iter().any(|rule| rule.action == Action::Allow)
            || resources.iter().any(|rule| rule.action == Action::Allow)
    })
}

/// Why no call of any caller is allowed, if that is so. Conditions are not evaluated: a rule with a
/// condition may allow something.
fn nothing_allowed(bundle: &Bundle) -> Option<String> {
    let enforced = || {
        bundle
            .policies
            .iter()
            .filter(|policy| policy.spec.mode() == Mode::Enforce)
    };
    let accepted = || enforced().filter(|policy| policy.not_accepted.is_none());
    let allows_tools = accepted().any(|policy| {
        let lets = |rule: &Rule| matches!(rule.action, Action::Allow | Action::RequireApproval);
        policy.spec.rules.iter().any(lets)
    });
    let default = enforced()
        .filter_map(|policy| {
            let stated = policy.spec.default_action;
            stated.filter(|stated| *stated != DefaultAction::Allow || policy.not_accepted.is_none())
        })
        .max();
    let blanket = enforced().find_map(|policy| {
        let rule = policy.spec.rules.iter().find(|rule| refuses_all(rule))?;
        Some((policy, rule))
    });
    let opens_tools = allows_tools || default == Some(DefaultAction::Allow);
    if allows_others(bundle) || (opens_tools && blanket.is_none()) {
        return None;
    }
    if let (true, Some((policy, rule))) = (opens_tools, blanket) {
        return Some(format!(
            "Every call is refused: rule {} of policy {}/{} refuses all tools to all callers. Narrow or remove it.",
            rule.name, policy.namespace, policy.name
        ));
    }
    let mut refused = enforced().filter(|policy| policy.not_accepted.is_some());
    if let Some(policy) = refused.next() {
        let why = policy.not_accepted.as_ref().map(|why| &why.message);
        return Some(format!(
            "Every call is refused: policy {}/{} is not accepted here, and no other one allows anything. {}",
            policy.namespace,
            policy.name,
            why.map_or("", String::as_str)
        ));
    }
    let names: Vec<String> = enforced().take(3).map(named).collect();
    Some(if names.is_empty() {
        "Every call is refused: no McpPolicy with mode Enforce targets this server. Write one with an Allow rule.".to_owned()
    } else {
        format!(
            "Every call is refused: no policy has a rule with action Allow or RequireApproval. Add one to {}, or write another policy.",
            names.join(", ")
        )
    })
}

fn named(policy: &BundlePolicy) -> String {
    format!("{}/{}", policy.namespace, policy.name)
}

/// Whether a rule refuses every tool to every caller at all times.
fn refuses_all(rule: &Rule) -> bool {
    let selector = &rule.tools;
    matches!(rule.action, Action::Hide | Action::Deny)
        && rule.when.is_none()
        && rule.by.callers.iter().all(|caller| caller == "*")
        && rule.by.except_callers.is_empty()
        && selector.except_names.is_empty()
        && selector.risks.is_empty()
        && selector.min_severity.is_none()
        && (selector.names.is_empty() || selector.names.iter().any(|name| name == "*"))
}
