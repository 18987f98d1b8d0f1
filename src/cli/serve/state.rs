//! The status of the servers and policies of `serve`, computed by the operator's code.

use jiff::Timestamp;

use super::super::project::{Finding, name_of};
use super::super::status::Document;
use super::{Served, Serving, State, table};
use crate::api::policy::McpPolicy;
use crate::api::server::McpServer;
use crate::policy::acceptance::Place;
use crate::policy::compile::diagnose_policy;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::lint::lint;
use crate::status::accounting::Ledger;
use crate::status::server::Replica;
use crate::status::{policy, server};

/// One server with the inputs of its status.
struct Seen {
    server: McpServer,
    bundle: Option<crate::policy::bundle::Bundle>,
    warnings: Vec<Diagnostic>,
    ledger: Ledger,
}

impl Serving {
    /// Every resource with its status at `now`.
    pub(super) fn status(&self, now: Timestamp) -> Document {
        let mut state = self.lock();
        let seen: Vec<Seen> = state
            .served
            .values()
            .map(|served| self.server_status(&state, served, now))
            .collect();
        let policies: Vec<McpPolicy> = state
            .project
            .policies
            .iter()
            .map(|located| policy_status(&state, &located.object, &seen, now))
            .collect();
        let servers: Vec<McpServer> = seen.into_iter().map(|seen| seen.server).collect();
        // The next status keeps the times of conditions that have not changed.
        for server in &servers {
            if let Some(served) = state.served.get_mut(&name_of(&server.metadata)) {
                served.server.status.clone_from(&server.status);
            }
        }
        for policy in &policies {
            if let Some(status) = &policy.status {
                state
                    .policy_statuses
                    .insert(name_of(&policy.metadata), status.clone());
            }
        }
        let problems = state.findings.iter().map(Finding::to_string).collect();
        Document {
            servers,
            policies,
            problems,
        }
    }

    fn server_status(&self, state: &State, served: &Served, now: Timestamp) -> Seen {
        let mut object = served.server.clone();
        object.metadata.generation = Some(i64::try_from(served.sequence).unwrap_or(i64::MAX));
        object.metadata.creation_timestamp = Some(crate::api::Time(served.created));
        let bundle = served.wanted.clone();
        let report = served.gateway.report();
        let mut ledger = Ledger::default();
        ledger.observe(&report);
        let replica = Replica {
            ready: served.gateway.unready().is_none(),
            report: Some(&report),
        };
        let url = table::url(served, self.address);
        let refusal = state.refusals.get(&name_of(&served.server.metadata));
        let status = server::status(&server::Inputs {
            server: &object,
            refusal,
            bundle: Some(&bundle),
            tampered: None,
            url: Some(&url),
            desired: 1,
            replicas: &[replica],
            look: None,
            place: Place::Process,
            trouble: None,
            upstream_trouble: None,
            ledger: &ledger,
            previous: served.server.status.as_ref(),
            now,
        });
        object.status = Some(status);
        Seen {
            server: object,
            warnings: lint(&bundle),
            bundle: Some(bundle),
            ledger,
        }
    }
}

fn policy_status(state: &State, written: &McpPolicy, seen: &[Seen], now: Timestamp) -> McpPolicy {
    let name = name_of(&written.metadata);
    let mut object = written.clone();
    object.metadata.generation = state.accepted.generation(&name).or(Some(1));
    object.metadata.creation_timestamp = state
        .policies_created
        .get(&name)
        .map(|at| crate::api::Time(*at));
    let findings = diagnose_policy(&name.0, &name.1, &name.0, &written.spec);
    let missing: Vec<String> = written
        .spec
        .target_refs
        .iter()
        .filter(|target| {
            !seen
                .iter()
                .any(|seen| name_of(&seen.server.metadata) == (name.0.clone(), target.name.clone()))
        })
        .map(|target| target.name.clone())
        .collect();
    let targeted: Vec<(&Seen, (String, String))> = seen
        .iter()
        .filter(|seen| state.project.targets(written, &seen.server))
        .map(|seen| (seen, name_of(&seen.server.metadata)))
        .collect();
    let targets: Vec<policy::Target<'_>> = targeted
        .iter()
        .filter_map(|(seen, (namespace, name))| {
            Some(policy::Target {
                namespace,
                name,
                bundle: seen.bundle.as_ref(),
                warnings: &seen.warnings,
                status: seen.server.status.as_ref()?,
                ledger: &seen.ledger,
            })
        })
        .collect();
    let status = policy::status(&policy::Inputs {
        policy: &object,
        findings: &findings,
        warnings: &findings,
        missing: &missing,
        targets: &targets,
        previous: state.policy_statuses.get(&name),
        now,
    });
    object.status = Some(status);
    object
}
