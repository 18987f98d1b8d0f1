//! Which policies a server accepts, and the bundle that follows: the operator, `serve` and
//! `validate` all use this code.
//!
//! In: a server and every policy that targets it, each of which compiles on its own. Out: a bundle
//! that compiles, fits and can be enforced. If policies cannot be enforced together, the one that
//! does not fit is included as not accepted: it restricts calls and allows none, and all others are
//! in force as written. Pure. Must not do: drop a rule that restricts.

use std::collections::BTreeMap;

use super::bundle::{
    Blocked, Bundle, BundleIssuer, BundlePolicy, BundleServer, FORMAT, NotAccepted,
};
use super::check::{Condition, Cost, Patterns, SERVER, Spent};
use super::compile::{compile, diagnose_server, spent};
use super::deployability::{self, MAX_BUNDLE_BYTES};
use super::diagnostic::{Diagnostic, Level};
use crate::api::condition::Reason;
use crate::api::policy::{Action, McpPolicy, McpPolicySpec, Mode};
use crate::api::server::McpServer;

/// The bytes of a policy in a bundle besides its spec: names, UID, and why it is not accepted.
const AROUND: usize = 1_500;
/// The number of compile results that are kept for one server's bundles: each reconciliation needs
/// a few, the same ones each time.
const REMEMBERED: usize = 5;
/// The maximum number of findings that are kept for one bundle.
const MAX_FINDINGS: usize = 100;

/// Where the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Behind gateways in pods, which come and go.
    Cluster,
    /// In one process that its user starts.
    Process,
}

/// A policy that targets the server and compiles on its own.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its UID.
    pub uid: &'a str,
    /// The generation of the spec.
    pub generation: i64,
    /// Its spec.
    pub spec: &'a McpPolicySpec,
    /// Bytes of the spec as JSON.
    pub size: usize,
    /// This version is already accepted at this server: later policies must not displace it.
    pub in_force: bool,
    /// It is being deleted: it no longer allows anything, and its restrictions apply until it is
    /// gone.
    pub leaving: bool,
}

impl<'a> Candidate<'a> {
    /// A policy of the API server.
    pub fn of(policy: &'a McpPolicy, size: usize, before: Option<&Bundle>) -> Self {
        let metadata = &policy.metadata;
        let uid = metadata.uid.as_deref().unwrap_or_default();
        Candidate {
            namespace: metadata.namespace.as_deref().unwrap_or("default"),
            name: metadata.name.as_deref().unwrap_or_default(),
            uid,
            generation: metadata.generation.unwrap_or(1),
            spec: &policy.spec,
            size,
            leaving: metadata.deletion_timestamp.is_some(),
            in_force: before.is_some_and(|before| {
                before.policies.iter().any(|known| {
                    known.uid == uid && known.not_accepted.is_none() && known.spec == policy.spec
                })
            }),
        }
    }

    /// A policy of a bundle.
    pub fn again(policy: &'a BundlePolicy) -> Self {
        Candidate {
            namespace: &policy.namespace,
            name: &policy.name,
            uid: &policy.uid,
            generation: policy.generation,
            spec: &policy.spec,
            size: size_of(&policy.spec),
            in_force: policy.not_accepted.is_none(),
            leaving: false,
        }
    }

    fn label(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// Bytes of a policy's spec as JSON.
pub fn size_of(spec: &McpPolicySpec) -> usize {
    serde_json::to_string(spec).map_or(usize::MAX, |text| text.len())
}

/// A server with its enforced configuration.
#[derive(Debug)]
pub struct Settled {
    /// It compiles and fits; its sequence is set when it is written.
    pub bundle: Bundle,
    /// Enforced limits are counted in the gateway's memory, so there must be only one gateway.
    pub alone: bool,
}

/// Why a server cannot be accepted, with any policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// The reason of the server's condition.
    pub reason: Reason,
    /// What is wrong and what to change.
    pub message: String,
}

impl Unfit {
    fn invalid(message: impl ToString) -> Self {
        Unfit {
            reason: Reason::Invalid,
            message: message.to_string(),
        }
    }
}

/// The compiler's findings for a server's last bundles, by revision, so that a bundle is not
/// compiled again at each reconciliation. Newest last.
#[derive(Debug, Default)]
pub struct Memory(Vec<(String, Result<(), Vec<Diagnostic>>)>);

impl Memory {
    fn of(&mut self, bundle: &Bundle) -> Result<(), Vec<Diagnostic>> {
        let known = self.0.iter().position(|(of, _)| *of == bundle.revision);
        let entry = match known {
            Some(at) => self.0.remove(at),
            None => {
                let verdict = compile(bundle).map(drop).map_err(|mut findings| {
                    findings.truncate(MAX_FINDINGS);
                    findings
                });
                (bundle.revision.clone(), verdict)
            }
        };
        let verdict = entry.1.clone();
        if self.0.len() >= REMEMBERED {
            drop(self.0.remove(0));
        }
        self.0.push(entry);
        verdict
    }
}

/// The first of several findings, and the number of further ones.
fn first_of(findings: &[Diagnostic]) -> String {
    let more = match findings.len().saturating_sub(1) {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let first = findings
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();
    format!("{first}{more}")
}

/// The form of a policy in the bundle.
struct Entry<'a> {
    of: Candidate<'a>,
    not_accepted: Option<NotAccepted>,
    /// Another spec in place of its own, which restricts at least as much.
    reduced: Option<McpPolicySpec>,
    /// Not even its restrictions fit: it closes the server.
    blocks: Option<String>,
}

impl Entry<'_> {
    fn refuse(&mut self, reason: Reason, message: String) {
        self.not_accepted.get_or_insert(NotAccepted {
            reason: reason.as_str().to_owned(),
            message,
        });
    }

    fn spec(&self) -> &McpPolicySpec {
        self.reduced.as_ref().unwrap_or(self.of.spec)
    }

    fn size(&self) -> usize {
        match &self.reduced {
            Some(spec) => size_of(spec),
            None => self.of.size,
        }
        .saturating_add(AROUND)
    }

    fn block(&mut self, message: String) {
        self.blocks = Some(message);
    }
}

/// The inputs of a server's acceptance.
pub struct Asked<'a> {
    /// The server, with the spec to enforce.
    pub server: &'a McpServer,
    /// The policies that target it and compile.
    pub candidates: Vec<Candidate<'a>>,
    /// Those that target it and have never been accepted anywhere.
    pub blocked: Vec<Blocked>,
    /// Issuers of tokens whose keys the bundle carries.
    pub issuers: Vec<BundleIssuer>,
    /// SHA-256 of the bearer that reads the gateways' reports.
    pub report_token_sha256: Option<String>,
    /// Where it runs.
    pub place: Place,
}

/// The enforced configuration of a server.
///
/// # Errors
/// What is wrong with the server itself.
pub fn settle(asked: Asked<'_>, memory: &mut Memory) -> Result<Settled, Unfit> {
    let mut wrong = diagnose_server(&asked.server.spec);
    wrong.retain(|finding| finding.level == Level::Error);
    if !wrong.is_empty() {
        return Err(Unfit::invalid(first_of(&wrong)));
    }
    let server_namespace = namespace_of(asked.server);
    let mut entries: Vec<Entry<'_>> = asked
        .candidates
        .iter()
        .map(|of| Entry {
            of: *of,
            not_accepted: None,
            reduced: None,
            blocks: None,
        })
        .collect();
    // Guardrails come first, then policies that are already in force: a new policy displaces
    // neither.
    entries.sort_by_key(|entry| {
        let of = entry.of;
        let own = of.namespace == server_namespace;
        (own, !of.in_force, of.namespace, of.name)
    });
    for entry in entries.iter_mut().filter(|entry| entry.of.leaving) {
        entry.refuse(
            Reason::Deleting,
            "The policy is being deleted: it no longer allows anything, and its restrictions apply until its \
            finalizers are gone."
                .to_owned(),
        );
    }
    if asked.place == Place::Cluster {
        for entry in &mut entries {
            if let Err(message) = deployability::limits(&asked.server.spec, entry.of.spec) {
                entry.refuse(Reason::SharedCountersNeeded, message);
            }
        }
    }
    for entry in &mut entries {
        if let Err(message) = deployability::observations(&asked.server.spec, entry.of.spec) {
            entry.refuse(Reason::Invalid, message);
        }
    }
    let around = around(&asked)?;
    let sized = |entries: &[Entry<'_>]| {
        let sizes = entries.iter().map(|entry| entry.of.size);
        sizes.fold(around, usize::saturating_add) <= MAX_BUNDLE_BYTES
    };
    // Before anything is copied: a hundred large policies must not cost a hundred times their size.
    let mut shortened = !sized(&entries);
    if shortened {
        shorten(&mut entries, around);
    }
    let mut simplified = false;
    // Each round removes something from a policy, so the loop ends.
    for _ in 0..entries.len().saturating_mul(2).saturating_add(4) {
        let bundle = assemble(&asked, &entries)?;
        let size = deployability::size(&bundle).map_err(Unfit::invalid)?;
        if size > MAX_BUNDLE_BYTES && !std::mem::replace(&mut shortened, true) {
            shorten(&mut entries, around);
            continue;
        }
        let findings = match memory.of(&bundle) {
            Ok(()) if size <= MAX_BUNDLE_BYTES => {
                // Whatever the policies say: two gateways cannot write on one claim.
                let claimed = deployability::claim(&asked.server.spec).is_some();
                let alone = claimed
                    || entries.iter().any(|entry| {
                        entry.blocks.is_none()
                            && entry.not_accepted.is_none()
                            && deployability::counts_alone(&asked.server.spec, entry.spec())
                    });
                return Ok(Settled { bundle, alone });
            }
            Ok(()) => {
                return Err(Unfit {
                    reason: Reason::BundleTooLarge,
                    message: format!(
                        "The server and its restrictions have {size} bytes, and {MAX_BUNDLE_BYTES} fit into one bundle. \
                        Shorten the server's spec."
                    ),
                });
            }
            Err(findings) => findings,
        };
        if !std::mem::replace(&mut simplified, true) && simplify(&mut entries) {
            continue;
        }
        if !block(&mut entries, &findings) {
            return Err(Unfit::invalid(first_of(&findings)));
        }
    }
    Err(Unfit::invalid("the policies cannot be enforced together"))
}

fn namespace_of(server: &McpServer) -> &str {
    server.metadata.namespace.as_deref().unwrap_or("default")
}

/// Bytes of the bundle without policies.
fn around(asked: &Asked<'_>) -> Result<usize, Unfit> {
    deployability::size(&assemble(asked, &[])?).map_err(Unfit::invalid)
}

fn assemble(asked: &Asked<'_>, entries: &[Entry<'_>]) -> Result<Bundle, Unfit> {
    let metadata = &asked.server.metadata;
    let carried = entries.iter().filter(|entry| entry.blocks.is_none());
    let mut policies: Vec<BundlePolicy> = carried
        .map(|entry| BundlePolicy {
            namespace: entry.of.namespace.to_owned(),
            name: entry.of.name.to_owned(),
            uid: entry.of.uid.to_owned(),
            generation: entry.of.generation,
            spec: entry.spec().clone(),
            not_accepted: entry.not_accepted.clone(),
        })
        .collect();
    // A fixed order, so that the same policies always have the same revision.
    policies.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let mut blocked = asked.blocked.clone();
    // A policy in audit mode would not refuse anything.
    let enforce = |entry: &&Entry<'_>| entry.of.spec.mode() == Mode::Enforce;
    blocked.extend(entries.iter().filter(enforce).filter_map(|entry| {
        Some(Blocked {
            policy: entry.of.label(),
            uid: entry.of.uid.to_owned(),
            message: entry.blocks.clone()?,
        })
    }));
    blocked.sort_by(|a, b| a.policy.cmp(&b.policy));
    let bundle = Bundle {
        format: FORMAT,
        sequence: 0,
        revision: String::new(),
        server: BundleServer {
            namespace: namespace_of(asked.server).to_owned(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            spec: asked.server.spec.clone(),
        },
        policies,
        blocked,
        issuers: asked.issuers.clone(),
        signature: None,
        report_token_sha256: asked.report_token_sha256.clone(),
        rules: String::new(),
    };
    bundle.sealed().map_err(Unfit::invalid)
}

/// Makes policies fit by their size: restrictions get room before permissions.
fn shorten(entries: &mut [Entry<'_>], around: usize) {
    let mut room = MAX_BUNDLE_BYTES.saturating_sub(around);
    let total = entries.iter().fold(around, |sum, entry| {
        sum.saturating_add(entry.of.size).saturating_add(AROUND)
    });
    let least: Vec<usize> = entries
        .iter()
        .map(|entry| size_of(&restricting(entry.spec())).saturating_add(AROUND))
        .collect();
    let mut carried = Vec::with_capacity(entries.len());
    for (entry, least) in entries.iter_mut().zip(&least) {
        let fits = *least <= room;
        if fits {
            room -= least;
        } else {
            entry.block(too_large(total, entry.of.size));
        }
        carried.push(fits);
    }
    for ((entry, least), carried) in entries.iter_mut().zip(least).zip(carried) {
        let more = entry.size().saturating_sub(least);
        if !carried {
            continue;
        }
        if more <= room {
            room -= more;
            continue;
        }
        entry.reduced = Some(restricting(entry.spec()));
        entry.refuse(Reason::BundleTooLarge, too_large(total, entry.of.size));
    }
}

fn too_large(total: usize, own: usize) -> String {
    format!(
        "The server and its policies are {total} bytes together, of which this policy has {own}, and {MAX_BUNDLE_BYTES} fit into one bundle. \
         Shorten this policy or others, or split the server."
    )
}

/// A policy without the rules that allow, and without texts for agents. An Allow rule with limits
/// stays, for its limits.
fn restricting(spec: &McpPolicySpec) -> McpPolicySpec {
    let mut spec = spec.clone();
    spec.rules
        .retain(|rule| rule.action != Action::Allow || !rule.limits.is_empty());
    spec.prompts.retain(|rule| rule.action != Action::Allow);
    spec.resources.retain(|rule| rule.action != Action::Allow);
    spec.rules.iter_mut().for_each(|rule| rule.reason = None);
    spec.prompts.iter_mut().for_each(|rule| rule.reason = None);
    spec.resources
        .iter_mut()
        .for_each(|rule| rule.reason = None);
    spec
}

/// Removes patterns from the policies that exceed the shared budget of the server's policies. True
/// if there were any.
fn simplify(entries: &mut [Entry<'_>]) -> bool {
    let (mut all, mut any) = (Spent::default(), false);
    for entry in entries.iter_mut().filter(|entry| entry.blocks.is_none()) {
        let with = all.and(spent(entry.spec()));
        match with.within(&SERVER) {
            Ok(()) => all = with,
            Err(message) => {
                entry.reduced = Some(without_patterns(entry.spec()));
                entry.refuse(
                    Reason::TooManyPatterns,
                    format!("The server's policies have too many patterns: {message}."),
                );
                any = true;
            }
        }
    }
    any
}

/// A policy whose rules match wherever a condition with a pattern could hold.
fn without_patterns(spec: &McpPolicySpec) -> McpPolicySpec {
    let mut spec = spec.clone();
    for rule in &mut spec.rules {
        if rule.when.as_deref().is_some_and(condition_has_patterns) {
            rule.when = None;
        }
        let costs = |source: &str| {
            let mut patterns = Patterns::default();
            let _ = Cost::compile_with(source, &mut patterns);
            patterns.spent() != Spent::default()
        };
        let counted_by_pattern = rule
            .limits
            .iter()
            .any(|limit| limit.cost.as_deref().is_some_and(costs));
        if counted_by_pattern {
            // The cost of such a call is unknown.
            rule.limits.clear();
            rule.approval = None;
            rule.action = Action::Deny;
        }
    }
    spec
}

fn condition_has_patterns(source: &str) -> bool {
    let mut patterns = Patterns::default();
    let _ = Condition::compile_with(source, &mut patterns);
    patterns.spent() != Spent::default()
}

/// Makes the policies that the findings name close the server, because their effect is unknown.
/// True if there are any.
fn block(entries: &mut [Entry<'_>], findings: &[Diagnostic]) -> bool {
    let errors = findings.iter().filter(|one| one.level == Level::Error);
    let mut of: BTreeMap<&str, &Diagnostic> = BTreeMap::new();
    for finding in errors {
        if let Some(policy) = finding.policy.as_deref() {
            of.entry(policy).or_insert(finding);
        }
    }
    let mut any = false;
    for entry in entries.iter_mut().filter(|entry| entry.blocks.is_none()) {
        if let Some(finding) = of.get(entry.of.label().as_str()) {
            entry.block(finding.message.clone());
            any = true;
        }
    }
    any
}

#[cfg(test)]
mod tests;
