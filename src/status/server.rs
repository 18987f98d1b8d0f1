//! The status of an McpServer.
//!
//! In: the server, the wanted bundle, its gateway's replicas with their reports, and its ledger.
//! Out: its [`McpServerStatus`]. Must not do: count or judge anything again that the bundle, the
//! reports or the ledger already say.

use super::{
    Conditions, Verdict,
    accounting::{self, Ledger},
    count,
    report::{Report, ReportedListing},
};
use crate::{
    api::{
        Switch,
        condition::{ConditionStatus, ConditionType, Reason},
        server::{
            Counters, Enforcement, McpServer, McpServerSpec, McpServerStatus, RedisCounters,
            ReplicaCounts, ToolCounts,
        },
    },
    policy::{acceptance::Place, bundle::Bundle},
};
use jiff::Timestamp;

mod opening;

/// More tools than this are not named in a condition.
const MAX_WITHHELD: usize = 3;

/// Why a server is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// NameConflict, Invalid or BundleTooLarge.
    pub reason: Reason,
    /// What is wrong and what to do next.
    pub message: String,
}

/// One replica of a gateway.
#[derive(Clone, Copy, Debug)]
pub struct Replica<'a> {
    /// Whether it accepts calls.
    pub ready: bool,
    /// Its latest report, if there is one.
    pub report: Option<&'a Report>,
}

/// The inputs of a status.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// The server.
    pub server: &'a McpServer,
    /// Why it is not accepted, if so.
    pub refusal: Option<&'a Refusal>,
    /// The wanted bundle.
    pub bundle: Option<&'a Bundle>,
    /// The recent changes of others to the operator's objects.
    pub tampered: Option<&'a str>,
    /// The URL to give to agents.
    pub url: Option<&'a str>,
    /// The desired number of replicas.
    pub desired: usize,
    /// The existing replicas.
    pub replicas: &'a [Replica<'a>],
    /// Where its gateways run.
    pub place: Place,
    /// The command that shows the state of the pods, in a cluster.
    pub look: Option<&'a str>,
    /// Why the gateway's pods do not run, in a cluster.
    pub trouble: Option<&'a str>,
    /// Why the pods of a stdio server do not run, in a cluster.
    pub upstream_trouble: Option<&'a str>,
    /// Violations so far.
    pub ledger: &'a Ledger,
    /// The previous status.
    pub previous: Option<&'a McpServerStatus>,
    /// The time.
    pub now: Timestamp,
}

/// Computes the new status.
pub fn status(inputs: &Inputs<'_>) -> McpServerStatus {
    let generation = inputs.server.metadata.generation;
    let revision = inputs.bundle.map(Bundle::rules_revision);
    McpServerStatus {
        observed_generation: generation,
        conditions: conditions(inputs),
        url: inputs.url.map(str::to_owned),
        replicas: Some(replicas(inputs)),
        policy_count: Some(count(
            inputs.bundle.map_or(0, |bundle| bundle.policies.len()),
        )),
        policies: opening::policies(inputs.bundle),
        tools: tools(inputs.replicas),
        violations: Some(accounting::of_server(inputs.ledger)),
        revision,
    }
}

fn conditions(inputs: &Inputs<'_>) -> Vec<crate::api::condition::Condition> {
    let spec = &inputs.server.spec;
    let previous = inputs
        .previous
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    let accepted = accepted(inputs.refusal);
    let together = opening::policies_accepted(inputs.bundle);
    let upstream = upstream_ready(inputs);
    let programmed = programmed(inputs);
    let ready = ready(inputs, &accepted, &upstream, &programmed);
    let mut conditions = Conditions::new(inputs.server.metadata.generation, previous, inputs.now);
    conditions.put(ConditionType::Accepted, &accepted);
    conditions.put(ConditionType::UpstreamReady, &upstream);
    conditions.put(ConditionType::Authenticated, &authenticated(inputs));
    conditions.put(ConditionType::Enforced, &enforced(spec));
    conditions.put(ConditionType::LimitsDurable, &limits_durable(inputs));
    conditions.put(ConditionType::Programmed, &programmed);
    conditions.put(ConditionType::Ready, &ready);
    conditions.put(ConditionType::PoliciesAccepted, &together);
    if let Some(what) = inputs.tampered {
        let tampered = Verdict::new(true, Reason::ForeignChange, what);
        conditions.put(ConditionType::Tampered, &tampered);
    }
    let mut reports = inputs.replicas.iter().filter_map(|replica| replica.report);
    if let Some(fault) = reports.find_map(|report| report.webhook_faults.first()) {
        let failing = Verdict::new(
            true,
            Reason::WebhookFailing,
            format!(
                "Approvers are not notified of new requests: {fault}. Calls that need approval wait for a decision all the \
                 same, and `kubectl get mcpapprovals` lists them; the gateway tries again while a request waits."
            ),
        );
        conditions.put(ConditionType::NotifyFailing, &failing);
    }
    // kstatus reads these as "in progress" and "failed"; they are present only while True.
    let closed = ready.reason == Reason::Closed;
    if !accepted.holds() || closed || programmed.reason == Reason::BundleRejected {
        let cause = if !accepted.holds() {
            &accepted
        } else if closed {
            &ready
        } else {
            &programmed
        };
        conditions.put_because(ConditionType::Stalled, cause);
    } else if !programmed.holds() {
        conditions.put_because(ConditionType::Reconciling, &programmed);
    }
    conditions.list
}

fn accepted(refusal: Option<&Refusal>) -> Verdict {
    match refusal {
        None => Verdict::new(true, Reason::Accepted, "The server is valid."),
        Some(refusal) => Verdict::new(false, refusal.reason, refusal.message.clone()),
    }
}

/// The newest listing that any replica reports; a success wins over a failure of the same moment.
fn newest_listing<'a>(replicas: &'a [Replica<'a>]) -> Option<(&'a Report, &'a ReportedListing)> {
    replicas
        .iter()
        .filter_map(|replica| replica.report)
        .filter_map(|report| Some((report, report.listing.as_ref()?)))
        .max_by_key(|(_, listing)| (listing.time, listing.error.is_none()))
}

fn upstream_ready(inputs: &Inputs<'_>) -> Verdict {
    match (newest_listing(inputs.replicas), inputs.upstream_trouble) {
        (None | Some((_, ReportedListing { error: Some(_), .. })), Some(trouble)) => Verdict::new(
            false,
            Reason::Unreachable,
            format!("The server does not run: {trouble}."),
        ),
        (None, None) => Verdict::new(
            ConditionStatus::Unknown,
            Reason::Pending,
            "No gateway has listed the server's tools yet.",
        ),
        (Some((report, ReportedListing { error: None, .. })), _) => {
            Verdict::new(true, Reason::Listed, listed(report))
        }
        (
            Some((
                _,
                ReportedListing {
                    error: Some(error), ..
                },
            )),
            None,
        ) => Verdict::new(
            false,
            Reason::Unreachable,
            match (inputs.look, &inputs.server.spec.upstream.stdio) {
                (Some(look), Some(_)) => {
                    format!(
                        "The server's tools cannot be listed: {error}; if this does not resolve itself: {look}"
                    )
                }
                _ => format!("The server's tools cannot be listed: {error}"),
            },
        ),
    }
}

/// How many tools there are, and which of them are hidden from all callers for a reason of their
/// own.
fn listed(report: &Report) -> String {
    let tools = &report.tools;
    let mut text = format!("The server lists {} tools.", tools.len());
    if let Some(note) = &report.upstream_note {
        text.push_str(&format!(" But {note}."));
    }
    let withheld = || {
        let tools = tools.iter();
        tools.filter_map(|tool| Some((&tool.name, tool.withheld.as_deref()?)))
    };
    for (name, why) in withheld().take(MAX_WITHHELD) {
        let name = name.escape_debug();
        text.push_str(&format!(" `{name}` is hidden from all callers: {why}."));
    }
    match withheld().count().saturating_sub(MAX_WITHHELD) {
        0 => {}
        more => text.push_str(&format!(" So are {more} more.")),
    }
    text
}

fn authenticated(inputs: &Inputs<'_>) -> Verdict {
    let named = |of: fn(&Report) -> &[String]| -> String {
        let reports = inputs.replicas.iter().filter_map(|replica| replica.report);
        let names: std::collections::BTreeSet<&str> = reports
            .flat_map(|report| of(report).iter().map(String::as_str))
            .collect();
        names.into_iter().collect::<Vec<_>>().join(", ")
    };
    let refused = named(|report| &report.refused_keys);
    if !refused.is_empty() {
        return Verdict::new(
            false,
            Reason::KeyTooShort,
            format!(
                "The API keys of {refused} have fewer than 16 characters and are refused; put longer ones into the Secret, for example those of `openssl rand -hex 32`."
            ),
        );
    }
    let equal = named(|report| &report.equal_keys);
    if !equal.is_empty() {
        return Verdict::new(
            false,
            Reason::KeyNotUnique,
            format!(
                "The API keys of {equal} are equal and are refused, as it would be unclear whose call it is; give each grant a key of its own in the Secret."
            ),
        );
    }
    let reports = inputs.replicas.iter().filter_map(|replica| replica.report);
    let fault = reports.flat_map(|report| &report.issuer_faults).min();
    if let Some(fault) = fault {
        return Verdict::new(
            false,
            Reason::KeysUnavailable,
            format!("Callers with other credentials are served; {fault}."),
        );
    }
    let spec = &inputs.server.spec;
    let Some(authentication) = &spec.authentication else {
        return no_authentication();
    };
    match (
        authentication.anonymous(),
        authentication.takes_credentials(),
    ) {
        (Switch::Allow, _) => Verdict::new(
            false,
            Reason::Anonymous,
            "Anyone who can reach the gateway may call, under the grant anonymous; set anonymous: Deny to change that.",
        ),
        (Switch::Deny, true) => Verdict::new(
            true,
            Reason::Configured,
            "Callers must present a credential.",
        ),
        (Switch::Deny, false) => no_authentication(),
    }
}

fn no_authentication() -> Verdict {
    Verdict::new(
        false,
        Reason::NoAuthentication,
        "No authentication is configured, so every call is answered with 401; write spec.authentication, or anonymous: Allow in it for an open gateway.",
    )
}

fn enforced(spec: &McpServerSpec) -> Verdict {
    match spec.enforcement() {
        Enforcement::Enforce => Verdict::new(true, Reason::Enforcing, "Refusals are enforced."),
        Enforcement::Audit => Verdict::new(
            false,
            Reason::AuditMode,
            "Every call is forwarded, and refusals are only recorded; set enforcement: Enforce to change that.",
        ),
    }
}

fn limits_durable(inputs: &Inputs<'_>) -> Verdict {
    let (spec, bundle) = (&inputs.server.spec, inputs.bundle);
    let limited = bundle
        .into_iter()
        .flat_map(|bundle| &bundle.policies)
        .flat_map(|policy| &policy.spec.rules)
        .any(|rule| !rule.limits.is_empty());
    if !limited {
        return Verdict::new(true, Reason::NoLimits, "No rule has a limit.");
    }
    let mut reports = inputs.replicas.iter().filter_map(|replica| replica.report);
    if let Some(why) = reports.find_map(|report| report.counters_error.as_deref()) {
        let (what, allow) = match spec.redis().map(RedisCounters::on_unavailable) {
            Some(Switch::Allow) => ("are forwarded uncounted", true),
            Some(Switch::Deny) | None => ("are refused", false),
        };
        let rest = if allow { "" } else { "; all others are served" };
        return Verdict::new(
            false,
            Reason::CountersUnavailable,
            format!("Calls with limits {what}: {why}{rest}."),
        );
    }
    if spec.redis().is_some() {
        return Verdict::new(
            true,
            Reason::Shared,
            "Limits are counted in a Redis or Valkey server; its replication and persistence say what survives there.",
        );
    }
    if inputs.replicas.len() > 1 {
        return Verdict::new(
            false,
            Reason::LocalCounters,
            format!(
                "{} gateways run, and each of them counts the limits on its own, so together they admit several \
                times as many calls. Scale the Deployment to one replica, and remove its autoscaler if it has one; or \
                write counters.redis.",
                inputs.replicas.len()
            ),
        );
    }
    let claim = spec.counters.as_ref().and_then(Counters::claim);
    match (inputs.place, claim) {
        (Place::Process, _) => Verdict::new(
            true,
            Reason::Journal,
            "Limits are counted in a journal on this machine, which survives restarts.",
        ),
        (Place::Cluster, Some(claim)) => Verdict::new(
            true,
            Reason::Journal,
            format!(
                "Limits are counted in a journal on the PersistentVolumeClaim {claim}, which survives restarts and new pods."
            ),
        ),
        (Place::Cluster, None) => Verdict::new(
            false,
            Reason::PodLocal,
            "Limits are counted in a journal of the gateway's pod: it survives restarts of the container, and a pod \
            that is deleted forgets it, which can admit up to max more calls in one window. Write \
            counters.local.persistentVolumeClaim or counters.redis to change that.",
        ),
    }
}

fn programmed(inputs: &Inputs<'_>) -> Verdict {
    let ready: Vec<&Replica<'_>> = inputs
        .replicas
        .iter()
        .filter(|replica| replica.ready)
        .collect();
    let rejected = ready
        .iter()
        .filter_map(|replica| replica.report)
        .filter(|report| !runs(report, inputs.bundle))
        .find_map(|report| report.bundle_error.as_deref());
    let behind = ready
        .iter()
        .filter(|replica| {
            !replica
                .report
                .is_some_and(|report| runs(report, inputs.bundle))
        })
        .count();
    match (inputs.bundle, ready.len(), rejected) {
        (None, _, _) => Verdict::new(false, Reason::Pending, "There is no bundle to enforce yet."),
        (Some(_), 0, _) => Verdict::new(
            false,
            Reason::NoReadyReplica,
            match inputs.look {
                _ if inputs.trouble.is_some() => format!(
                    "No replica of the gateway is ready: {}.",
                    inputs.trouble.unwrap_or_default()
                ),
                None => "No replica of the gateway is ready.".to_owned(),
                Some(look) => {
                    format!(
                        "No replica of the gateway is ready; if this does not resolve itself: {look}"
                    )
                }
            },
        ),
        (Some(_), _, Some(error)) => Verdict::new(
            false,
            Reason::BundleRejected,
            format!("A gateway refused the bundle and keeps the previous one: {error}"),
        ),
        (Some(_), all, None) if behind > 0 => Verdict::new(
            false,
            Reason::Delivering,
            format!(
                "{} of {all} ready replicas run the revision; the others have not reported it yet.",
                all - behind
            ),
        ),
        (Some(_), all, None) => Verdict::new(
            true,
            Reason::Programmed,
            format!("All ready replicas ({all}) run the revision."),
        ),
    }
}

fn runs(report: &Report, bundle: Option<&Bundle>) -> bool {
    bundle.is_some_and(|bundle| report.revision.as_deref() == Some(bundle.revision.as_str()))
}

fn ready(
    inputs: &Inputs<'_>,
    accepted: &Verdict,
    upstream: &Verdict,
    programmed: &Verdict,
) -> Verdict {
    let mut missing: Vec<&str> = inputs
        .replicas
        .iter()
        .filter_map(|replica| replica.report)
        .flat_map(|report| report.missing_secret_keys.iter().map(String::as_str))
        .collect();
    missing.sort_unstable();
    missing.dedup();
    let because = |verdict: &Verdict| Verdict::new(false, verdict.reason, verdict.message.clone());
    if !accepted.holds() {
        return because(accepted);
    }
    if let Some(closed) = opening::closed(inputs.server, inputs.bundle) {
        return closed;
    }
    if !missing.is_empty() {
        return Verdict::new(
            false,
            Reason::SecretMissing,
            format!(
                "The gateway does not find {}; create it.",
                missing.join(", ")
            ),
        );
    }
    let reports = inputs.replicas.iter().filter_map(|replica| replica.report);
    let mut unrecorded = reports.filter_map(|report| report.audit_error.as_deref());
    if let Some(why) = unrecorded.next() {
        return Verdict::new(
            false,
            Reason::AuditFailing,
            format!(
                "Calls are refused because they cannot be recorded: {why}. Make room for the gateway's log, or make \
                its reader continue; spec.audit.onFailure: Continue forwards calls unrecorded."
            ),
        );
    }
    for verdict in [programmed, upstream] {
        if !verdict.holds() {
            return because(verdict);
        }
    }
    if let Some(unusable) = nothing_visible(inputs) {
        return unusable;
    }
    Verdict::new(
        true,
        Reason::Ready,
        match inputs.server.spec.enforcement() {
            Enforcement::Enforce => "The gateway serves calls.",
            Enforcement::Audit => {
                "The gateway forwards every call: enforcement is Audit, so refusals are only recorded."
            }
        },
    )
}

/// Why no caller can use anything that the server lists, although rules allow something.
fn nothing_visible(inputs: &Inputs<'_>) -> Option<Verdict> {
    let audits = inputs.server.spec.enforcement() == Enforcement::Audit;
    if audits || inputs.bundle.is_some_and(opening::allows_others) {
        return None;
    }
    let counts = tools(inputs.replicas)?;
    (counts.discovered > 0 && counts.visible == 0).then(|| {
        Verdict::new(
            false,
            Reason::NothingAllowed,
            format!(
                "No caller can list any of the {} tools of the server: no rule allows one of them to a caller. Compare the \
                names, risks and callers of the rules with `portcullis tools`.",
                counts.discovered
            ),
        )
    })
}

fn replicas(inputs: &Inputs<'_>) -> ReplicaCounts {
    let ready = inputs.replicas.iter().filter(|replica| replica.ready);
    let programmed = ready
        .clone()
        .filter(|replica| {
            replica
                .report
                .is_some_and(|report| runs(report, inputs.bundle))
        })
        .count();
    ReplicaCounts {
        desired: count(inputs.desired),
        ready: count(ready.count()),
        programmed: count(programmed),
        summary: format!("{programmed}/{}", inputs.desired),
    }
}

/// The tools of the newest successful listing; a gateway that currently cannot reach the server
/// still has its last one.
fn tools(replicas: &[Replica<'_>]) -> Option<ToolCounts> {
    let (report, _) = replicas
        .iter()
        .filter_map(|replica| replica.report)
        .filter_map(|report| Some((report, report.listing.as_ref()?)))
        .filter(|(report, listing)| listing.error.is_none() || !report.tools.is_empty())
        .max_by_key(|(_, listing)| (listing.error.is_none(), listing.time))?;
    let number = |wanted: &dyn Fn(&super::report::ReportedTool) -> bool| {
        count(report.tools.iter().filter(|tool| wanted(tool)).count())
    };
    let (discovered, visible) = (count(report.tools.len()), number(&|tool| tool.visible));
    Some(ToolCounts {
        discovered,
        visible,
        hidden: discovered - visible,
        unclassified: number(&|tool| tool.unclassified),
        drifted: number(&|tool| tool.drifted),
        summary: format!("{visible}/{discovered}"),
    })
}
