//! The status of an McpPolicy.
//!
//! In: the policy, the findings of its compilation, and each target server with its status. Out:
//! its [`McpPolicyStatus`]. Must not do: find targets or compile.

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
        bundle::{Bundle, NotAccepted},
        diagnostic::{Diagnostic, Level},
    },
};
use jiff::Timestamp;
use std::collections::HashSet;

/// The maximum number of targets in a status (GEP-713).
pub const ANCESTORS: usize = 16;

/// A server that the policy targets.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Namespace of the server.
    pub namespace: &'a str,
    /// Name of the server.
    pub name: &'a str,
    /// The wanted bundle of the server.
    pub bundle: Option<&'a Bundle>,
    /// The warnings about the policies in that bundle.
    pub warnings: &'a [Diagnostic],
    /// The server's current status.
    pub status: &'a McpServerStatus,
    /// The server's violations.
    pub ledger: &'a Ledger,
}

/// The inputs of a status.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// The policy.
    pub policy: &'a McpPolicy,
    /// The errors that the compiler found, without warnings.
    pub findings: &'a [Diagnostic],
    /// The warnings that do not depend on the servers.
    pub warnings: &'a [Diagnostic],
    /// Names in `targetRefs` without a server.
    pub missing: &'a [String],
    /// The servers that the policy targets.
    pub targets: &'a [Target<'a>],
    /// The previous status.
    pub previous: Option<&'a McpPolicyStatus>,
    /// The time.
    pub now: Timestamp,
}

/// Computes the new status.
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
    if let Some(doubtful) = doubtful(inputs) {
        conditions.put(ConditionType::Doubtful, &doubtful);
    }
    if !accepted.holds() {
        conditions.put_because(ConditionType::Stalled, accepted);
    } else if !programmed.holds() {
        conditions.put_because(ConditionType::Reconciling, programmed);
    }
    conditions.list
}

/// Rules that are valid but probably do not do what their author means.
fn doubtful(inputs: &Inputs<'_>) -> Option<Verdict> {
    let metadata = &inputs.policy.metadata;
    let name = metadata.name.as_deref().unwrap_or_default();
    let own = metadata.namespace.as_deref().map(|own| (own, name));
    let at_servers = inputs.targets.iter().flat_map(|target| target.warnings);
    let mut found: Vec<String> = inputs
        .warnings
        .iter()
        .chain(at_servers.filter(|warning| {
            let policy = warning.policy.as_deref();
            policy.and_then(|policy| policy.split_once('/')) == own
        }))
        .filter(|finding| finding.level == Level::Warning)
        .map(Diagnostic::to_string)
        .collect();
    // Two servers of the same kind give the same warning.
    let mut seen = HashSet::new();
    found.retain(|text| seen.insert(text.clone()));
    let first = found.first()?;
    let more = more(found.len() - 1);
    Some(Verdict::new(
        true,
        Reason::RulesDoubtful,
        format!("{first}{more}"),
    ))
}

/// The state of the policy's current version in a server's bundle.
enum There<'a> {
    /// It is in force.
    Accepted,
    /// Its restrictions are in force, and it allows nothing.
    NotAccepted(&'a NotAccepted),
    /// An earlier version of it is in force.
    Earlier,
    /// It has never been accepted, and closes the server.
    Closes,
    Absent,
}

fn there<'a>(policy: &McpPolicy, bundle: Option<&'a Bundle>) -> There<'a> {
    let metadata = &policy.metadata;
    let (namespace, name) = (
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    );
    let Some(bundle) = bundle else {
        return There::Absent;
    };
    let entry = bundle
        .policies
        .iter()
        .find(|entry| entry.namespace == namespace && entry.name == name);
    let closes = bundle
        .blocked
        .iter()
        .any(|blocked| blocked.policy.split_once('/') == Some((namespace, name)));
    match entry {
        _ if closes => There::Closes,
        None => There::Absent,
        Some(entry) => match &entry.not_accepted {
            Some(why) if Some(entry.generation) == metadata.generation => There::NotAccepted(why),
            None if entry.spec == policy.spec => There::Accepted,
            Some(_) | None => There::Earlier,
        },
    }
}

/// The servers whose bundle has that state, as namespace/name.
fn named<'a>(
    inputs: &'a Inputs<'_>,
    wanted: impl Fn(&There<'_>) -> bool,
) -> impl Iterator<Item = (&'a Target<'a>, There<'a>)> {
    inputs.targets.iter().filter_map(move |target| {
        let there = there(inputs.policy, target.bundle);
        wanted(&there).then_some((target, there))
    })
}

fn more(count: usize) -> String {
    match count {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    }
}

fn accepted(inputs: &Inputs<'_>) -> Verdict {
    let errors: Vec<&Diagnostic> = inputs
        .findings
        .iter()
        .filter(|finding| finding.level == Level::Error)
        .collect();
    if let Some(first) = errors.first() {
        let more = more(errors.len() - 1);
        let closes = named(inputs, |there| matches!(there, There::Closes)).count();
        let never = match closes {
            0 => "",
            _ => ". It has never been accepted: its servers refuse every call",
        };
        return Verdict::new(false, Reason::Invalid, format!("{first}{more}{never}"));
    }
    let mut refused = named(inputs, |there| {
        matches!(there, There::NotAccepted(_) | There::Closes)
    });
    if let Some((target, why)) = refused.next() {
        let at = format!(
            "McpServer {}/{}{}",
            target.namespace,
            target.name,
            more(refused.count())
        );
        return match why {
            There::NotAccepted(why) => Verdict::new(
                false,
                not_accepted_because(why),
                format!(
                    "{at} cannot fully enforce the policy, so there it restricts calls and allows none. {}",
                    why.message
                ),
            ),
            _ => Verdict::new(
                false,
                Reason::BundleTooLarge,
                format!(
                    "{at} has no room for the policy, so it refuses every call. Shorten its policies, or split the server."
                ),
            ),
        };
    }
    match inputs.missing {
        [] => Verdict::new(true, Reason::Accepted, "The policy is valid."),
        missing => Verdict::new(
            false,
            Reason::TargetNotFound,
            format!(
                "McpServer {} does not exist in this namespace; create it or remove it from targetRefs.",
                missing.join(", ")
            ),
        ),
    }
}

fn not_accepted_because(why: &NotAccepted) -> Reason {
    let known = Reason::ALL.iter().copied();
    known
        .into_iter()
        .find(|reason| reason.as_str() == why.reason)
        .unwrap_or(Reason::PolicyNotAccepted)
}

const NEVER: &str = "The policy has never been accepted: its servers refuse every call.";

/// Whether one server enforces this generation of the policy.
fn programmed_at(policy: &McpPolicy, accepted: &Verdict, target: &Target<'_>) -> Verdict {
    let there = there(policy, target.bundle);
    // A missing target elsewhere does not keep the policy from being in force here.
    if accepted.reason == Reason::Invalid {
        let message = match there {
            There::Closes => NEVER,
            There::Accepted | There::NotAccepted(_) | There::Earlier => {
                "The policy is not valid; its last accepted version stays in force."
            }
            There::Absent => "The policy is not valid, so it is in force nowhere.",
        };
        return Verdict::new(false, Reason::Invalid, message);
    }
    match there {
        There::NotAccepted(why) => {
            return Verdict::new(false, not_accepted_because(why), why.message.clone());
        }
        There::Closes => {
            return Verdict::new(
                false,
                Reason::BundleTooLarge,
                "The server has no room for the policy, so it refuses every call.",
            );
        }
        There::Accepted | There::Earlier | There::Absent => {}
    }
    let carried = matches!(there, There::Accepted);
    if !carried {
        return Verdict::new(
            false,
            Reason::Delivering,
            "The server's bundle does not contain this generation of the policy yet.",
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
            "The server has not been reconciled yet.",
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
        Some((_, verdict)) if accepted.reason == Reason::Invalid => verdict.clone(),
        None if accepted.reason == Reason::Invalid => Verdict::new(
            false,
            Reason::Invalid,
            "The policy is not valid, and no server matches.",
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
    // This server exists, even if others do not.
    let here = match (accepted.reason, there(inputs.policy, target.bundle)) {
        (Reason::Invalid, _) | (_, There::Closes) => accepted.clone(),
        (_, There::NotAccepted(why)) => {
            Verdict::new(false, not_accepted_because(why), why.message.clone())
        }
        _ => Verdict::new(true, Reason::Accepted, "The policy is valid."),
    };
    conditions.put(ConditionType::Accepted, &here);
    conditions.put(ConditionType::Programmed, programmed);
    Ancestor {
        ancestor_ref,
        controller_name: CONTROLLER_NAME.to_owned(),
        conditions: conditions.list,
    }
}
