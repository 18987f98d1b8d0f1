//! The only compiler of policies: run to accept them, and run again to enforce them.
//!
//! In: a bundle. Out: a [`Program`], or every finding at once, each with policy, rule, field and
//! what to write instead. Must not do: half-apply. A bundle with one wrong policy gives no program.

mod context;
mod credentials;
mod finding;
mod findings;
mod limits;
mod policy;
mod server;

use super::bundle::{Bundle, BundlePolicy};
use super::check;
use super::decision::{BLOCKED_RULE, DEFAULT_RULE, INVENTORY_RULE, NO_POLICY, RuleId};
use super::diagnostic::{Diagnostic, Level, Position};
use super::program::{Closed, Default, Program};
use crate::api::policy::{DefaultAction, McpPolicySpec, Mode};
use crate::api::server::{Catalog, Enforcement, McpServerSpec};
use std::{collections::BTreeSet, sync::Arc};

/// Compiles a bundle.
pub fn compile(bundle: &Bundle) -> Result<Program, Vec<Diagnostic>> {
    let mut findings = Vec::new();
    let forms = server::check(&bundle.server.spec, &mut findings);
    let uid: Arc<str> = bundle.server.uid.as_str().into();
    let audit = bundle.server.spec.enforcement() == Enforcement::Audit;
    let mut seen = BTreeSet::new();
    let mut all = policy::Compiled::default();
    for entry in &bundle.policies {
        let owner = Owner::of(entry, &bundle.server.namespace);
        if !seen.insert((&entry.namespace, &entry.name)) {
            findings.push(owner.finding(
                Level::Error,
                None,
                "metadata.name",
                None,
                "the bundle holds this policy twice",
            ));
            continue;
        }
        all.append(policy::compile(
            &owner,
            &uid,
            audit,
            &entry.spec,
            &mut findings,
        ));
        if let Err(message) = all.spent.within(&check::SERVER) {
            // Nothing more is compiled: the rest would cost as much again.
            findings.push(owner.finding(Level::Error, None, "spec.rules", None, message));
            break;
        }
    }
    let (errors, warnings): (Vec<_>, Vec<_>) =
        findings.into_iter().partition(|d| d.level == Level::Error);
    if !errors.is_empty() {
        return Err(errors);
    }
    all.sort();
    let inventory = Arc::new(RuleId {
        namespace: String::new(),
        policy: NO_POLICY.to_owned(),
        rule: INVENTORY_RULE.to_owned(),
        qualified: false,
        uid: Arc::from(""),
    });
    let closed = closed(bundle);
    Ok(Program {
        server_uid: uid,
        namespace: bundle.server.namespace.clone(),
        name: bundle.server.name.clone(),
        audit,
        use_catalog: bundle.server.spec.catalog() == Catalog::MLflow,
        overrides: bundle
            .server
            .spec
            .tools
            .iter()
            .map(|tool| (tool.name.clone(), tool.clone()))
            .collect(),
        forms,
        closed,
        rules: all.rules,
        prompts: all.prompts,
        resources: all.resources,
        default: default_of(bundle, |mode| mode == Mode::Enforce),
        shadow_default: default_of(bundle, |_| true),
        policy_count: (
            bundle.policies.len(),
            bundle
                .policies
                .iter()
                .filter(|entry| entry.spec.mode() == Mode::Audit)
                .count(),
        ),
        warnings,
        inventory,
        revision: bundle.revision.clone(),
    })
}

/// Findings about one policy by itself, warnings included: what `validate` and the operator's
/// acceptance say.
pub fn diagnose_policy(
    namespace: &str,
    name: &str,
    server_namespace: &str,
    spec: &McpPolicySpec,
) -> Vec<Diagnostic> {
    let owner = Owner {
        namespace,
        name,
        qualified: namespace != server_namespace,
        restricts_only: None,
        uid: Arc::from(""),
    };
    let mut findings = Vec::new();
    policy::compile(&owner, &Arc::from(""), false, spec, &mut findings);
    findings
}

/// What the patterns of one policy cost, of the budget that the policies of a server share.
pub(in crate::policy) fn spent(spec: &McpPolicySpec) -> check::Spent {
    let owner = Owner {
        namespace: "",
        name: "",
        qualified: false,
        restricts_only: None,
        uid: Arc::from(""),
    };
    policy::compile(&owner, &Arc::from(""), false, spec, &mut Vec::new()).spent
}

/// Findings about what a server's spec says of tools.
pub fn diagnose_server(spec: &McpServerSpec) -> Vec<Diagnostic> {
    let mut findings = Vec::new();
    server::check(spec, &mut findings);
    findings
}

/// Whose findings and rules these are.
struct Owner<'a> {
    namespace: &'a str,
    name: &'a str,
    qualified: bool,
    /// Why the policy is not accepted at this server, if so.
    restricts_only: Option<Arc<str>>,
    uid: Arc<str>,
}

impl<'a> Owner<'a> {
    fn of(entry: &'a BundlePolicy, server_namespace: &str) -> Self {
        Self {
            namespace: &entry.namespace,
            name: &entry.name,
            qualified: entry.namespace != server_namespace,
            restricts_only: entry.not_accepted.as_ref().map(|why| {
                format!(
                    "only policy {} would allow this, and it is not accepted at this server: {}",
                    entry.name, why.message
                )
                .into()
            }),
            uid: Arc::from(entry.uid.as_str()),
        }
    }

    fn rule(&self, rule: &str) -> Arc<RuleId> {
        Arc::new(RuleId {
            namespace: self.namespace.to_owned(),
            policy: self.name.to_owned(),
            rule: rule.to_owned(),
            qualified: self.qualified,
            uid: Arc::clone(&self.uid),
        })
    }

    fn finding(
        &self,
        level: Level,
        rule: Option<&str>,
        path: impl Into<String>,
        position: Option<Position>,
        message: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic {
            level,
            policy: Some(format!("{}/{}", self.namespace, self.name)),
            rule: rule.map(str::to_owned),
            path: path.into(),
            position,
            message: message.into(),
        }
    }
}

/// Why nothing can be decided, if that is so: a policy that has never been accepted, because its
/// effect is unknown, or none that is in force.
fn closed(bundle: &Bundle) -> Option<Closed> {
    let named = |blocked: &'_ crate::policy::bundle::Blocked| {
        let (namespace, name) = match blocked.policy.split_once('/') {
            Some((namespace, name)) => (namespace.to_owned(), name.to_owned()),
            None => (String::new(), blocked.policy.clone()),
        };
        let qualified = !namespace.is_empty() && namespace != bundle.server.namespace;
        // In order of attribution: guardrails first.
        (!qualified, namespace, name)
    };
    let first = bundle.blocked.iter().min_by_key(|blocked| named(blocked));
    if let Some(blocked) = first {
        let (own, namespace, name) = named(blocked);
        let owner = Owner {
            namespace: &namespace,
            name: &name,
            qualified: !own,
            restricts_only: None,
            uid: Arc::from(blocked.uid.as_str()),
        };
        return Some(Closed {
            blocked: true,
            by: owner.rule(BLOCKED_RULE),
            reason: format!(
                "this policy has never been accepted, so nothing is allowed until it is corrected: {}",
                blocked.message
            )
            .into(),
        });
    }
    if bundle
        .policies
        .iter()
        .any(|entry| entry.spec.mode() == Mode::Enforce)
    {
        return None;
    }
    let owner = Owner {
        namespace: "",
        name: NO_POLICY,
        qualified: false,
        restricts_only: None,
        uid: Arc::from(""),
    };
    Some(Closed {
        blocked: false,
        by: owner.rule(DEFAULT_RULE),
        reason: "no policy is enforced for this server, so nothing is allowed".into(),
    })
}

/// The strictest stated default of some policies, by the first policy in order of attribution that
/// states it; Hide where none states one.
fn default_of(bundle: &Bundle, counts: fn(Mode) -> bool) -> Default {
    let policies = bundle
        .policies
        .iter()
        .filter(|entry| counts(entry.spec.mode()));
    // A policy that is not accepted allows nothing, by its default neither.
    let stated_by = |entry: &BundlePolicy| {
        let allows = entry.spec.default_action == Some(DefaultAction::Allow);
        entry
            .spec
            .default_action
            .filter(|_| !(allows && entry.not_accepted.is_some()))
    };
    let stated = policies.clone().filter_map(stated_by).max();
    let smallest = policies
        .filter(|entry| stated.is_none() || stated_by(entry) == stated)
        .min_by_key(|entry| {
            let own = entry.namespace == bundle.server.namespace;
            (own, &entry.namespace, &entry.name)
        });
    let by = match smallest {
        Some(entry) => Owner::of(entry, &bundle.server.namespace).rule(DEFAULT_RULE),
        None => Owner {
            namespace: "",
            name: NO_POLICY,
            qualified: false,
            restricts_only: None,
            uid: Arc::from(""),
        }
        .rule(DEFAULT_RULE),
    };
    Default {
        action: stated.unwrap_or(DefaultAction::Hide),
        by,
    }
}
