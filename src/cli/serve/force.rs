//! What the files say, put into force: at the start, and again whenever they change.
//!
//! In: the objects of the files. Out: a gateway for each server under what is accepted. Must not do: loosen anything because
//! a file is wrong; what is wrong is told and leaves what it concerns as it was.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::super::output::{Failure, plural};
use super::super::world::{Finding, Name, World, name_of, variable_for};
use super::{EnvironmentKey, Served, Serving, State, secrets};
use crate::api::condition::Reason;
use crate::api::policy::McpPolicy;
use crate::api::server::McpServer;
use crate::gateway::Gateway;
use crate::gateway::force::{Environment, tls};
use crate::gateway::grants::SHORTEST_KEY;
use crate::manifest::survey;
use crate::policy::acceptance::Place;
use crate::policy::bundle::{Blocked, Bundle};
use crate::policy::diagnostic::Level;
use crate::status::server::Refusal;

impl Serving {
    /// Reads the files again and puts what is right of them into force.
    pub(super) async fn reload(self: &Arc<Self>) {
        let paths = self.args.filename.clone();
        let secrets = self.args.secrets.clone();
        let read = move || (survey::paths(&paths), secrets::read(secrets.as_deref()));
        let (survey, folder) = match tokio::task::spawn_blocking(read).await {
            Ok(read) => read,
            Err(error) => return tracing::error!(%error, "the files could not be read again"),
        };
        let (world, mut findings) = {
            let state = self.lock();
            let (mut world, mut findings) = World::reload(survey, &state.world);
            findings.extend(secrets::renew(&mut world, &state.world, folder));
            for removed in world.removed_since(&state.world) {
                tracing::warn!("{removed} is no longer in the files and no longer in force");
            }
            (world, findings)
        };
        for warning in world
            .findings()
            .iter()
            .filter(|finding| finding.level == Level::Warning)
        {
            eprintln!("{warning}");
        }
        findings.extend(self.put(world).await);
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
        tracing::error!(
            "the files have errors: what is wrong keeps its previous form, everything else is in force"
        );
        self.lock().findings = findings;
    }

    /// Puts objects into force; what is wrong is returned and leaves what it concerns as it was.
    pub(super) async fn put(self: &Arc<Self>, world: World) -> Vec<Finding> {
        let mut gone = Vec::new();
        let findings = {
            let mut state = self.lock();
            let (mut findings, blocked) = state.accepted.update(&world);
            let now = Timestamp::now();
            for policy in &world.policies {
                state
                    .policies_created
                    .entry(name_of(&policy.object.metadata))
                    .or_insert(now);
            }
            let present: Vec<Name> = world
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
            for located in &world.servers {
                let name = name_of(&located.object.metadata);
                state.refusals.remove(&name);
                let put = self.put_server(&mut state, &world, &located.object, &blocked);
                match put {
                    Ok(not_accepted) => findings.extend(not_accepted),
                    Err(message) => {
                        state.refusals.insert(
                            name,
                            Refusal {
                                reason: Reason::Invalid,
                                message: message.clone(),
                            },
                        );
                        findings.push(Finding {
                            level: Level::Error,
                            file: located.file.clone(),
                            line: located.at.line,
                            column: located.at.column,
                            object: format!("McpServer {}", name_of(&located.object.metadata).1),
                            rule: None,
                            path: String::new(),
                            expression: None,
                            message,
                        });
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
            }
            state.world = world;
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
        world: &World,
        server: &McpServer,
        blocked: &[(McpPolicy, String)],
    ) -> Result<Vec<Finding>, String> {
        let name = name_of(&server.metadata);
        if let Some((namespace, _)) = state
            .served
            .keys()
            .find(|other| other.1 == name.1 && other.0 != name.0)
        {
            return Err(at_one_path(namespace, &name));
        }
        if tls::wanted(&server.spec) {
            return Err(
                "spec.gateway.tls: `serve` speaks plain HTTP to clients on this machine and will not pass it off as HTTPS; remove it from the files given here, or put a program that speaks TLS in front"
                    .to_owned(),
            );
        }
        let secrets = world.secrets_of(&name.0);
        let environment: EnvironmentKey = (secrets.clone(), self.env.clone());
        let blocked = blocked
            .iter()
            .filter(|(policy, _)| world.targets(policy, server))
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
        let mut settled = world.settle(
            server,
            state.accepted.all(),
            blocked,
            before,
            Place::Process,
        )?;
        let mut bundle = settled.bundle.clone();
        bundle.sequence = sequence;
        // Policies that were never right are told of where they are read.
        settled.bundle.blocked.retain(|one| !known.contains(one));
        let not_accepted = world.refused(server, Ok(settled), Level::Error);
        let make = || {
            let user = self.server_user.clone();
            Environment::local_as(Box::new(secrets.clone()), self.env.clone(), user)
        };
        match state.served.get_mut(&name) {
            None => {
                let wanted = bundle.clone();
                let gateway = Gateway::new(&self.shared, make(), bundle)
                    .map_err(|error| error.to_string())?;
                missing(&gateway)?;
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
                        .map_err(|error| error.to_string())?;
                    served.environment = environment;
                }
                served.wanted = bundle.clone();
                if changed(&served.gateway, &bundle) {
                    served
                        .gateway
                        .apply(bundle)
                        .map_err(|error| error.to_string())?;
                    served.sequence = sequence;
                }
                served.server.spec = server.spec.clone();
                served.server.metadata = server.metadata.clone();
                missing(&served.gateway)?;
            }
        }
        Ok(not_accepted)
    }
}

/// Whether the bundle says anything else than what is in force.
fn changed(gateway: &Gateway, bundle: &Bundle) -> bool {
    gateway
        .in_force()
        .is_none_or(|(_, revision)| revision != bundle.revision)
}

fn missing(gateway: &Gateway) -> Result<(), String> {
    if let Some(snapshot) = gateway.snapshot()
        && let [first, ..] = snapshot.grants.refused()
    {
        return Err(format!(
            "the API key {first} has fewer than {SHORTEST_KEY} characters and is refused; put a longer one into the Secret, for example that of `openssl rand -hex 32`"
        ));
    }
    match gateway.missing_secrets().as_slice() {
        [] => Ok(()),
        missing => Err(format!(
            "Secrets are referred to and missing: {}; put each into a folder as DIR/NAMESPACE/NAME/KEY and give it with --secrets DIR, add a `kind: Secret` document to the files, or set {}",
            missing.join(", "),
            missing
                .iter()
                .map(|missing| variable_for(missing))
                .collect::<Vec<_>>()
                .join(", ")
        )),
    }
}

/// Where a server is served.
pub(super) fn path_of(server: &McpServer) -> String {
    format!(
        "/{}/mcp",
        server.metadata.name.as_deref().unwrap_or_default()
    )
}

/// Servers of one name in two namespaces would be at one path.
pub(super) fn paths(world: &World) -> Result<(), Failure> {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for server in &world.servers {
        let (namespace, name) = name_of(&server.object.metadata);
        if let Some(other) = seen.insert(name.clone(), namespace.clone()) {
            return Err(Failure::new(at_one_path(&other, &(namespace, name))));
        }
    }
    Ok(())
}

fn at_one_path(other: &str, (namespace, name): &Name) -> String {
    format!(
        "the McpServers {other}/{name} and {namespace}/{name} would both be at /{name}/mcp; serve them apart, or rename one"
    )
}

fn policies(count: usize) -> String {
    format!("{count} {}", if count == 1 { "policy" } else { "policies" })
}
