//! Applies the files: at the start, and again whenever they change.
//!
//! In: the objects of the files. Out: a gateway for each server under its accepted policies. Must
//! not do: loosen anything because of a mistake in a file; a mistake is reported, and the object
//! concerned keeps its previous version.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::super::load;
use super::super::output::{Failure, plural};
use super::super::project::{Finding, Name, Project, in_server, name_of, place_of, variable_for};
use super::{EnvironmentKey, Served, Serving, State, secrets};
use crate::api::condition::Reason;
use crate::api::policy::McpPolicy;
use crate::api::server::McpServer;
use crate::gateway::Gateway;
use crate::gateway::force::{Environment, tls};
use crate::manifest::{Located, survey};
use crate::policy::acceptance::Place;
use crate::policy::bundle::{Blocked, Bundle};
use crate::policy::diagnostic::Level;
use crate::status::server::Refusal;

impl Serving {
    /// Reads the files again and applies every valid object in them.
    pub(super) async fn reload(self: &Arc<Self>) {
        let paths = self.args.filename.clone();
        let secrets = self.args.secrets.clone();
        let read = move || (survey::paths(&paths), load::folder(secrets.as_deref()));
        let (survey, folder) = match tokio::task::spawn_blocking(read).await {
            Ok(read) => read,
            Err(error) => return tracing::error!(%error, "the files could not be read again"),
        };
        let (project, mut findings) = {
            let state = self.lock();
            let (mut project, mut findings) = Project::reload(survey, &state.project);
            findings.extend(secrets::renew(&mut project, &state.project, folder));
            for removed in project.removed_since(&state.project) {
                tracing::warn!("{removed} was removed from the files and is no longer in force");
            }
            (project, findings)
        };
        for warning in project
            .findings()
            .iter()
            .filter(|finding| finding.level == Level::Warning)
        {
            eprintln!("{warning}");
        }
        findings.extend(self.put(project).await);
        if findings.iter().any(|finding| finding.level == Level::Error) {
            self.refuse(findings);
        } else {
            let count = self.lock().accepted.all().count();
            tracing::info!(
                "the files changed: {} and {} are in force",
                plural(self.gateways().len(), "server"),
                policies(count)
            );
        }
    }

    fn refuse(&self, findings: Vec<Finding>) {
        for finding in &findings {
            eprintln!("{finding}");
        }
        tracing::error!("the files have errors: {}", super::super::project::RULE);
        self.lock().findings = findings;
    }

    /// Applies objects and returns the mistakes; an object with a mistake keeps its previous
    /// version.
    pub(super) async fn put(self: &Arc<Self>, project: Project) -> Vec<Finding> {
        let mut gone = Vec::new();
        let findings = {
            let mut state = self.lock();
            let (mut findings, blocked) = state.accepted.update(&project);
            let now = Timestamp::now();
            for policy in &project.policies {
                state
                    .policies_created
                    .entry(name_of(&policy.object.metadata))
                    .or_insert(now);
            }
            let present: Vec<Name> = project
                .servers
                .iter()
                .map(|server| name_of(&server.object.metadata))
                .collect();
            let removed: Vec<Name> = state
                .served
                .keys()
                .filter(|name| !present.contains(name))
                .cloned()
                .collect();
            gone.extend(removed.iter().filter_map(|name| state.served.remove(name)));
            for located in &project.servers {
                let name = name_of(&located.object.metadata);
                state.refusals.remove(&name);
                let put = self.put_server(&mut state, &project, located, &blocked);
                match put {
                    Ok(not_accepted) => findings.extend(not_accepted),
                    Err(wrong) => {
                        if let Some(first) = wrong.first() {
                            let path = match first.path.as_str() {
                                "" => String::new(),
                                path => format!("{path}: "),
                            };
                            let refusal = Refusal {
                                reason: Reason::Invalid,
                                message: format!("{path}{}", first.message),
                            };
                            state.refusals.insert(name, refusal);
                        }
                        findings.extend(wrong);
                    }
                }
            }
            let routes: BTreeMap<_, _> = state
                .served
                .values()
                .map(|served| (path_of(&served.server), Arc::clone(&served.gateway)))
                .collect();
            let before = self.routes.all();
            let known = |gateway| before.values().any(|other| Arc::ptr_eq(other, gateway));
            let new: Vec<_> = routes.values().filter(|one| !known(one)).cloned().collect();
            self.routes.set(routes);
            for gateway in new {
                gateway.keep_inventory();
                gateway.notify_approvers();
            }
            state.project = project;
            state.findings.clone_from(&findings);
            findings
        };
        for served in gone {
            served.gateway.shutdown().await;
        }
        findings
    }

    fn put_server(
        &self,
        state: &mut State,
        project: &Project,
        located: &Located<McpServer>,
        blocked: &[(McpPolicy, String)],
    ) -> Result<Vec<Finding>, Vec<Finding>> {
        let server = &located.object;
        let wrong = |message: String| vec![in_server(located, message)];
        let name = name_of(&server.metadata);
        if let Some((namespace, _)) = state
            .served
            .keys()
            .find(|other| other.1 == name.1 && other.0 != name.0)
        {
            return Err(wrong(at_one_path(namespace, &name)));
        }
        let authentication = server.spec.authentication.as_ref();
        if authentication.is_some_and(|accepted| accepted.service_accounts.is_some()) {
            return Err(wrong(
                "spec.authentication.serviceAccounts: `serve` has no cluster whose tokens it could verify; remove the field from \
                 these files, and use apiKeys or jwt"
                    .to_owned(),
            ));
        }
        if tls::wanted(&server.spec) {
            return Err(wrong(
                "spec.gateway.tls: `serve` speaks only plain HTTP; remove the field from these files, and put a TLS \
                proxy in front if you need HTTPS"
                    .to_owned(),
            ));
        }
        let secrets = project.secrets_of(&name.0);
        let environment: EnvironmentKey = (secrets.clone(), self.env.clone());
        let blocked = blocked
            .iter()
            .filter(|(policy, _)| project.targets(policy, server))
            .map(|(policy, message)| {
                let (namespace, name) = name_of(&policy.metadata);
                Blocked {
                    policy: format!("{namespace}/{name}"),
                    uid: policy.metadata.uid.clone().unwrap_or_default(),
                    message: message.clone(),
                }
            })
            .collect();
        let sequence = state
            .served
            .get(&name)
            .map_or(1, |served| served.sequence + 1);
        let known: Vec<Blocked> = Vec::clone(&blocked);
        let before = state.served.get(&name).map(|served| &served.wanted);
        let mut settled = project
            .settle(
                server,
                state.accepted.all(),
                blocked,
                before,
                Place::Process,
            )
            .map_err(wrong)?;
        let mut bundle = settled.bundle.clone();
        bundle.sequence = sequence;
        // Policies that have never been valid are reported when they are read.
        settled.bundle.blocked.retain(|one| !known.contains(one));
        let not_accepted = project.refused(server, Ok(settled), Level::Error);
        let make = || {
            let user = self.server_user.clone();
            Environment::local_as(Box::new(secrets.clone()), self.env.clone(), user)
        };
        match state.served.get_mut(&name) {
            None => {
                let wanted = bundle.clone();
                let gateway = Gateway::new(&self.shared, make(), bundle)
                    .map_err(|error| wrong(error.to_string()))?;
                missing(&gateway, project, located)?;
                let (server, created) = (server.clone(), Timestamp::now());
                state.served.insert(
                    name,
                    Served {
                        gateway,
                        server,
                        sequence,
                        environment,
                        created,
                        wanted,
                    },
                );
            }
            Some(served) => {
                if served.environment != environment {
                    served
                        .gateway
                        .refresh(Some(make()))
                        .map_err(|error| wrong(error.to_string()))?;
                    served.environment = environment;
                }
                served.wanted = bundle.clone();
                if changed(&served.gateway, &bundle) {
                    served
                        .gateway
                        .apply(bundle)
                        .map_err(|error| wrong(error.to_string()))?;
                    served.sequence = sequence;
                }
                served.server.spec = server.spec.clone();
                served.server.metadata = server.metadata.clone();
                missing(&served.gateway, project, located)?;
            }
        }
        Ok(not_accepted)
    }
}

/// Whether the bundle differs from the one in force.
fn changed(gateway: &Gateway, bundle: &Bundle) -> bool {
    gateway
        .in_force()
        .is_none_or(|(_, revision)| revision != bundle.revision)
}

/// The Secrets that a server lacks, and the keys in them that cannot be used, each at its place.
fn missing(
    gateway: &Gateway,
    project: &Project,
    located: &Located<McpServer>,
) -> Result<(), Vec<Finding>> {
    let mut wrong = project.unusable_keys_of(located);
    wrong.retain(|finding| finding.level == Level::Error);
    // A spec that cannot be written as JSON refers to nothing.
    let spec = serde_json::to_value(&located.object.spec).unwrap_or_default();
    wrong.extend(gateway.missing_secrets().iter().map(|missing| {
        let path = place_of(&spec, missing).map_or_else(String::new, |path| format!("{path}: "));
        let what = match missing.split_once('/') {
            Some((name, key)) => format!("the Secret {name} with the key {key}"),
            None => format!("the Secret {missing}"),
        };
        in_server(
            located,
            format!(
                "{path}{what} is missing; put it into a folder as DIR/NAMESPACE/NAME/KEY and give that with --secrets DIR, add a \
                 `kind: Secret` document to the files, or set {}",
                variable_for(missing)
            ),
        )
    }));
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// The path of a server.
pub(super) fn path_of(server: &McpServer) -> String {
    format!(
        "/{}/mcp",
        server.metadata.name.as_deref().unwrap_or_default()
    )
}

/// Servers with the same name in two namespaces would share a path.
pub(super) fn paths(project: &Project) -> Result<(), Failure> {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for server in &project.servers {
        let (namespace, name) = name_of(&server.object.metadata);
        if let Some(other) = seen.insert(name.clone(), namespace.clone()) {
            return Err(Failure::new(at_one_path(&other, &(namespace, name))));
        }
    }
    Ok(())
}

fn at_one_path(other: &str, (namespace, name): &Name) -> String {
    format!(
        "the McpServers {other}/{name} and {namespace}/{name} would both be at /{name}/mcp; serve them with two \
        programs, or rename one"
    )
}

fn policies(count: usize) -> String {
    format!("{count} {}", if count == 1 { "policy" } else { "policies" })
}
