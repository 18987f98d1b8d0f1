//! The status of an McpPolicy.
//!
//! In: the policy, what its compilation found, and each server that it targets with that server's status. Out: its
//! [`McpPolicyStatus`]. Must not do: find targets or compile; it is given both.

use super::{
    CONTROLLER_NAME, Conditions, Verdict,
    accounting::{self, Ledger},
    count,
};
use crate::{
    api::{
        self,
        condition::{Condition, ConditionStatus, ConditionType, Reason},
        policy::{Ancestor, AncestorRef, McpPolicy, McpPolicyStatus, TargetCounts},
        server::McpServerStatus,
    },
    policy::{
        bundle::Bundle,
        diagnostic::{Diagnostic, Level},
    },
};
use jiff::Timestamp;

/// How many targets a status lists (GEP-713).
pub const ANCESTORS: usize = 16;

/// A server that the policy targets.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Namespace of the server.
    pub namespace: &'a str,
    /// Name of the server.
    pub name: &'a str,
    /// The bundle that should be in force there.
    pub bundle: Option<&'a Bundle>,
    /// The server's status, as it is now.
    pub status: &'a McpServerStatus,
    /// The server's violations.
    pub ledger: &'a Ledger,
}

/// All that a status follows from.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// The policy.
    pub policy: &'a McpPolicy,
    /// What compiling found; warnings do not count.
    pub findings: &'a [Diagnostic],
    /// Names in `targetRefs` that no server has.
    pub missing: &'a [String],
    /// The servers that the policy targets.
    pub targets: &'a [Target<'a>],
    /// The status before.
    pub previous: Option<&'a McpPolicyStatus>,
    /// The time.
    pub now: Timestamp,
}

/// The status now.
pub fn status(inputs: &Inputs<'_>) -> McpPolicyStatus {
    let metadata = &inputs.policy.metadata;
    let accepted = accepted(inputs);
    let mut targets: Vec<(&Target<'_>, Verdict)> = inputs
        .targets
        .iter()
        .map(|target| (target, programmed_at(inputs.policy, &accepted, target)))
        .collect();
    targets.sort_by(|(a, at_a), (b, at_b)| {
        (at_a.holds(), a.namespace, a.name).cmp(&(at_b.holds(), b.namespace, b.name))
    });
    let programmed = programmed(&accepted, &targets);
    let (matched, done) = (
        targets.len(),
        targets
            .iter()
            .filter(|(_, verdict)| verdict.holds())
            .count(),
    );
    McpPolicyStatus {
        observed_generation: metadata.generation,
        conditions: conditions(inputs, &accepted, &programmed),
        targets: Some(TargetCounts {
            matched: count(matched),
            programmed: count(done),
            summary: format!("{done}/{matched}"),
        }),
        ancestors: targets
            .iter()
            .take(ANCESTORS)
            .map(|(target, verdict)| ancestor(inputs, target, &accepted, verdict))
            .collect(),
        violations: Some(accounting::of_policy(
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.name.as_deref().unwrap_or_default(),
            metadata.uid.as_deref(),
            inputs.targets.iter().map(|target| target.ledger),
        )),
    }
}

fn conditions(inputs: &Inputs<'_>, accepted: &Verdict, programmed: &Verdict) -> Vec<Condition> {
    let previous = inputs
        .previous
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    let mut conditions = Conditions::new(inputs.policy.metadata.generation, previous, inputs.now);
    conditions.put(ConditionType::Accepted, accepted);
    conditions.put(ConditionType::Programmed, programmed);
    let ready = match (accepted.holds(), programmed.holds()) {
        (true, true) => Verdict::new(
            true,
            Reason::Ready,
            "The policy is in force at every target.",
        ),
        (false, _) => Verdict::new(false, accepted.reason, accepted.message.clone()),
        (true, false) => Verdict::new(false, programmed.reason, programmed.message.clone()),
    };
    conditions.put(ConditionType::Ready, &ready);
    if !accepted.holds() {
        conditions.put_because(ConditionType::Stalled, accepted);
    } else if !programmed.holds() {
        conditions.put_because(ConditionType::Reconciling, programmed);
    }
    conditions.list
}

fn accepted(inputs: &Inputs<'_>) -> Verdict {
    let errors: Vec<&Diagnostic> = inputs
        .findings
        .iter()
        .filter(|finding| finding.level == Level::Error)
        .collect();
    if let Some(first) = errors.first() {
        let more = match errors.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        return Verdict::new(false, Reason::Invalid, format!("{first}{more}"));
    }
    match inputs.missing {
        [] => Verdict::new(true, Reason::Accepted, "The policy is valid."),
        missing => Verdict::new(
            false,
            Reason::TargetNotFound,
            format!(
                "There is no McpServer {} in this namespace; create it or remove it from targetRefs.",
                missing.join(", ")
            ),
        ),
    }
}

/// Whether one server enforces this generation of the policy.
fn programmed_at(policy: &McpPolicy, accepted: &Verdict, target: &Target<'_>) -> Verdict {
    // A missing target elsewhere does not keep the policy from being in force here.
    if accepted.reason == Reason::Invalid {
        return Verdict::new(
            false,
            Reason::Invalid,
            "The policy is not valid, so this generation of it is in force nowhere.",
        );
    }
    let metadata = &policy.metadata;
    let carried = target.bundle.is_some_and(|bundle| {
        bundle.policies.iter().any(|entry| {
            Some(entry.namespace.as_str()) == metadata.namespace.as_deref()
                && Some(entry.name.as_str()) == metadata.name.as_deref()
                && entry.spec == policy.spec
        })
    });
    if !carried {
        return Verdict::new(
            false,
            Reason::Delivering,
            "The server's bundle does not hold this generation of the policy yet.",
        );
    }
    let at_server = target
        .status
        .conditions
        .iter()
        .find(|condition| condition.type_ == ConditionType::Programmed.as_str());
    match at_server {
        Some(condition) if condition.status == ConditionStatus::True.as_str() => Verdict::new(
            true,
            Reason::Programmed,
            "Every ready replica enforces the policy.",
        ),
        Some(condition) => {
            let reason = Reason::ALL
                .iter()
                .copied()
                .find(|reason| reason.as_str() == condition.reason);
            Verdict::new(
                false,
                reason.unwrap_or(Reason::Delivering),
                condition.message.clone(),
            )
        }
        None => Verdict::new(
            false,
            Reason::Delivering,
            "The server has not been looked at yet.",
        ),
    }
}

/// `targets` are sorted with failing ones first.
fn programmed(accepted: &Verdict, targets: &[(&Target<'_>, Verdict)]) -> Verdict {
    let failing = targets
        .iter()
        .filter(|(_, verdict)| !verdict.holds())
        .count();
    match targets.first() {
        _ if accepted.reason == Reason::Invalid => Verdict::new(
            false,
            Reason::Invalid,
            "The policy is not valid; the form of it that was accepted last, if any, stays in force.",
        ),
        None => Verdict::new(
            false,
            Reason::TargetNotFound,
            "No server matches, so the policy is in force nowhere.",
        ),
        Some((target, verdict)) if !verdict.holds() => Verdict::new(
            false,
            verdict.reason,
            format!(
                "{failing} of {} targets do not enforce the policy, first {}/{}: {}",
                targets.len(),
                target.namespace,
                target.name,
                verdict.message
            ),
        ),
        Some(_) => Verdict::new(
            true,
            Reason::Programmed,
            format!("All targets ({}) enforce the policy.", targets.len()),
        ),
    }
}

fn ancestor(
    inputs: &Inputs<'_>,
    target: &Target<'_>,
    accepted: &Verdict,
    programmed: &Verdict,
) -> Ancestor {
    let ancestor_ref = AncestorRef {
        group: api::GROUP.to_owned(),
        kind: "McpServer".to_owned(),
        namespace: target.namespace.to_owned(),
        name: target.name.to_owned(),
    };
    let previous = inputs
        .previous
        .and_then(|status| {
            status
                .ancestors
                .iter()
                .find(|ancestor| ancestor.ancestor_ref == ancestor_ref)
        })
        .map(|ancestor| ancestor.conditions.as_slice())
        .unwrap_or_default();
    let mut conditions = Conditions::new(inputs.policy.metadata.generation, previous, inputs.now);
    // This server is there, whichever others are not.
    let here = if accepted.reason == Reason::TargetNotFound {
        Verdict::new(true, Reason::Accepted, "The policy is valid.")
    } else {
        accepted.clone()
    };
    conditions.put(ConditionType::Accepted, &here);
    conditions.put(ConditionType::Programmed, programmed);
    Ancestor {
        ancestor_ref,
        controller_name: CONTROLLER_NAME.to_owned(),
        conditions: conditions.list,
    }
}
