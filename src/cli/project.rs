//! The content of a set of files: servers, the policies over each, Secrets, and every mistake.
//!
//! In: paths. Out: the bundle of each server, made of the accepted objects, and findings with file,
//! line and column. The rules are those of the API server and the operator; `serve`, `validate`,
//! `explain` and `test` share them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::output::Failure;
use crate::api::policy::McpPolicy;
use crate::api::server::McpServer;
use crate::manifest::{self, BrokenPolicy, Located, Object, Position, Survey};
use crate::policy::bundle::{Blocked, Bundle};
use crate::policy::compile::{diagnose_policy, diagnose_server};
use crate::policy::diagnostic::{Diagnostic, Level};
use crate::policy::lint::lint;
use crate::policy::target::{self, Labels};

mod accepted;
mod advice;
mod cross_check;
mod finding;
mod keep;
mod secrets;

pub use accepted::Accepted;
pub use finding::Finding;
pub use secrets::{FileSecrets, Folder, Outside, folder, place_of, variable_for};

/// What a mistake in files does, for all who report one.
pub const RULE: &str = "objects with errors keep their previous version, a new policy with errors closes the servers that it names until it is \
corrected, and everything else is in force";

/// Namespace and name.
pub type Name = (String, String);

/// The files' objects.
#[derive(Default)]
pub struct Project {
    /// Servers, in the order of the files.
    pub servers: Vec<Located<McpServer>>,
    /// Policies, in the order of the files.
    pub policies: Vec<Located<McpPolicy>>,
    /// Policies that have errors, with nothing but their targets.
    pub broken: Vec<BrokenPolicy>,
    /// Secrets by namespace and name.
    pub secrets: BTreeMap<Name, BTreeMap<String, Vec<u8>>>,
    /// Secrets that are not in the files.
    pub outside: Outside,
    /// The place of each Secret of the files.
    secret_files: BTreeMap<Name, Located<()>>,
    /// Labels of namespaces, and the file that says them; none for a cluster's.
    namespaces: BTreeMap<String, (Labels, String)>,
    /// Documents of other kinds, as messages for the user.
    pub ignored: Vec<String>,
    /// The namespace of guardrails.
    pub operator_namespace: String,
    /// The cluster's objects that are not in the files.
    around: Around,
}

#[derive(Default)]
struct Around {
    /// None without a cluster.
    servers: Option<Vec<McpServer>>,
    policies: Vec<McpPolicy>,
}

impl Project {
    /// Reads files and directories.
    ///
    /// # Errors
    /// Every mistake in the files themselves.
    pub fn load(paths: &[PathBuf], operator_namespace: &str) -> Result<Project, Vec<Finding>> {
        let manifests = manifest::load(paths)
            .map_err(|errors| errors.into_iter().map(Finding::from).collect::<Vec<_>>())?;
        Ok(Project::of(manifests, operator_namespace))
    }

    /// The readable part of the files' current content, and the mistakes in them. An object of
    /// `before` whose document still exists but is no longer readable keeps its previous version.
    pub fn reload(survey: Survey, before: &Project) -> (Project, Vec<Finding>) {
        let mut project = Project::of(survey.manifests, &before.operator_namespace);
        let mut findings: Vec<Finding> = survey.errors.into_iter().map(Finding::from).collect();
        project.broken = survey.broken;
        for broken in &mut project.broken {
            broken.policy.metadata.uid = Some(uid(&broken.policy.metadata));
        }
        findings.extend(project.keep_lost(before, &survey.lost));
        findings.extend(project.keep_aimless(before));
        (project, findings)
    }

    fn of(manifests: manifest::Manifests, operator_namespace: &str) -> Project {
        let mut project = Project {
            operator_namespace: operator_namespace.to_owned(),
            ..Project::default()
        };
        for located in manifests.objects {
            match located.object.clone() {
                Object::Server(mut server) => {
                    server.metadata.uid = Some(uid(&server.metadata));
                    project.servers.push(located.map(|_| *server));
                }
                Object::Policy(mut policy) => {
                    policy.metadata.uid = Some(uid(&policy.metadata));
                    project.policies.push(located.map(|_| *policy));
                }
                Object::Secret(secret) => {
                    let name = (secret.namespace, secret.name);
                    let place = located.map(|_| ());
                    project.secret_files.insert(name.clone(), place);
                    project.secrets.insert(name, secret.data);
                }
                Object::Namespace(namespace) => {
                    let known = (namespace.labels, located.file);
                    project.namespaces.insert(namespace.name, known);
                }
            }
        }
        project.ignored = manifests
            .ignored
            .iter()
            // Policy test cases lie beside the policies that they test and are for `portcullis
            // test`.
            .filter(|ignored| !ignored.what.ends_with(crate::policy::cases::KIND))
            .map(ToString::to_string)
            .collect();
        project
    }

    /// Puts the objects into a cluster: the cluster's objects count, except those that the files
    /// replace. Objects without a namespace get the cluster's.
    pub fn surround(&mut self, namespace: &str, servers: Vec<McpServer>, policies: Vec<McpPolicy>) {
        let place = |metadata: &mut kube::core::ObjectMeta| {
            metadata
                .namespace
                .get_or_insert_with(|| namespace.to_owned());
        };
        self.servers
            .iter_mut()
            .for_each(|server| place(&mut server.object.metadata));
        self.policies
            .iter_mut()
            .for_each(|policy| place(&mut policy.object.metadata));
        let mut around = Around {
            servers: Some(servers),
            policies,
        };
        if let Some(servers) = &mut around.servers {
            servers.retain(|other| {
                let name = name_of(&other.metadata);
                !self
                    .servers
                    .iter()
                    .any(|server| name_of(&server.object.metadata) == name)
            });
        }
        around.policies.retain(|other| {
            let name = name_of(&other.metadata);
            !self
                .policies
                .iter()
                .any(|policy| name_of(&policy.object.metadata) == name)
        });
        self.around = around;
    }

    /// Namespaces whose labels matter and are not in the files.
    pub fn unknown_namespaces(&self) -> Vec<String> {
        let files = self.policies.iter().map(|policy| &policy.object);
        let mut policies = files.chain(&self.around.policies);
        if !policies.any(target::needs_namespace_labels) {
            return Vec::new();
        }
        let mut names: Vec<String> = self
            .every_server()
            .map(|server| name_of(&server.metadata).0)
            .filter(|name| !self.namespaces.contains_key(name))
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Adds the cluster's labels of a namespace.
    pub fn add_namespace(&mut self, name: String, labels: Labels) {
        self.namespaces.insert(name, (labels, String::new()));
    }

    /// Servers of the files and around them.
    fn every_server(&self) -> impl Iterator<Item = &McpServer> {
        let files = self.servers.iter().map(|server| &server.object);
        files.chain(self.around.servers.iter().flatten())
    }

    /// The places where names were looked up.
    fn here(&self) -> &'static str {
        match self.around.servers {
            None => "these files",
            Some(_) => "these files or the cluster",
        }
    }

    /// Every mistake in the objects, errors and warnings, in the order of the files.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for server in &self.servers {
            let found = diagnose_server(&server.object.spec);
            findings.extend(
                found
                    .into_iter()
                    .map(|diagnostic| of_server(server, diagnostic)),
            );
            let targeted = self
                .policies
                .iter()
                .map(|policy| &policy.object)
                .chain(&self.around.policies)
                .any(|policy| self.targets(policy, &server.object));
            if !targeted {
                findings.push(Finding {
                    level: Level::Warning,
                    ..finding(
                        server,
                        "McpServer",
                        &server.object.metadata,
                        "",
                        format!(
                            "no policy in {} targets this server, so it would deny every call; write a policy whose targetRefs name {}",
                            self.here(),
                            name_of(&server.object.metadata).1
                        ),
                    )
                });
            }
        }
        for policy in &self.policies {
            findings.extend(self.policy_findings(policy));
        }
        findings.extend(self.lint());
        findings
    }

    /// Valid rules of the files that do not do what their author means, for each server that they
    /// apply to.
    fn lint(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> = Vec::new();
        for server in self.every_server() {
            let all = self
                .policies
                .iter()
                .map(|policy| &policy.object)
                .chain(&self.around.policies);
            let Ok(bundle) = self.bundle(server, all, Vec::new(), 1) else {
                continue;
            };
            for diagnostic in lint(&bundle) {
                let of = |policy: &&Located<McpPolicy>| {
                    Some(shown(&policy.object.metadata)) == diagnostic.policy
                };
                let Some(policy) = self.policies.iter().find(of) else {
                    continue;
                };
                let finding = of_policy(policy, diagnostic.clone());
                if !findings.contains(&finding) {
                    findings.push(finding);
                }
            }
        }
        findings
    }

    /// The mistakes in one policy.
    pub fn policy_findings(&self, policy: &Located<McpPolicy>) -> Vec<Finding> {
        let (namespace, name) = name_of(&policy.object.metadata);
        let mut findings: Vec<Finding> =
            diagnose_policy(&namespace, &name, &namespace, &policy.object.spec)
                .into_iter()
                .map(|diagnostic| of_policy(policy, diagnostic))
                .collect();
        let targets = self
            .every_server()
            .any(|server| self.targets(&policy.object, server));
        let missing = |name: &str| {
            !self
                .every_server()
                .any(|server| name_of(&server.metadata) == (namespace.clone(), name.to_owned()))
        };
        for (at, target) in policy.object.spec.target_refs.iter().enumerate() {
            if missing(&target.name) {
                let hint = self.near_server(&namespace, &target.name);
                let message = format!(
                    "there is no McpServer {namespace}/{} in {}; {}",
                    target.name,
                    self.here(),
                    hint.unwrap_or_else(|| "add it or correct the name".to_owned())
                );
                let path = format!("spec.targetRefs[{at}].name");
                findings.push(Finding {
                    // It may be applied before its server, so the policy itself is not wrong.
                    level: Level::Warning,
                    ..finding(policy, "McpPolicy", &policy.object.metadata, &path, message)
                });
            }
        }
        let any = self.every_server().next().is_some();
        if policy.object.spec.target_refs.is_empty() && !targets && any {
            let unknown = target::needs_namespace_labels(&policy.object)
                && !self.unknown_namespaces().is_empty();
            let hint = if unknown {
                "; its namespaceSelector needs the labels of namespaces, so add their Namespace manifests or use --context"
            } else {
                ""
            };
            let message = format!(
                "its selector matches no McpServer in {}{hint}; write labels that a server has, or label one",
                self.here()
            );
            findings.push(Finding {
                level: Level::Warning,
                ..finding(
                    policy,
                    "McpPolicy",
                    &policy.object.metadata,
                    "spec.targetSelector",
                    message,
                )
            });
        }
        findings
    }

    /// Whether a policy applies to a server.
    pub fn targets(&self, policy: &McpPolicy, server: &McpServer) -> bool {
        let (namespace, _) = name_of(&server.metadata);
        let labels = self.namespaces.get(&namespace).map(|(labels, _)| labels);
        target::targets(policy, &server.metadata, labels, &self.operator_namespace)
    }

    /// The bundle of a server under those of the given policies that target it.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn bundle<'a>(
        &self,
        server: &McpServer,
        accepted: impl IntoIterator<Item = &'a McpPolicy>,
        blocked: Vec<Blocked>,
        sequence: u64,
    ) -> Result<Bundle, Failure> {
        let policies = accepted
            .into_iter()
            .filter(|policy| self.targets(policy, server));
        target::bundle(server, policies, blocked, sequence)
            .map_err(|error| Failure::new(error.to_string()))
    }

    /// The bundle of a server under all policies here, for commands that look at files without
    /// enforcing them.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn whole_bundle(&self, server: &McpServer) -> Result<Bundle, Failure> {
        self.bundle(
            server,
            self.policies.iter().map(|policy| &policy.object),
            Vec::new(),
            1,
        )
    }

    /// The server of that name (`NAME` or `NAMESPACE/NAME`), or the only one.
    ///
    /// # Errors
    /// Lists the servers of the files.
    pub fn server(&self, name: Option<&str>) -> Result<&Located<McpServer>, Failure> {
        let known = || {
            let names: Vec<String> = self
                .servers
                .iter()
                .map(|server| shown(&server.object.metadata))
                .collect();
            if names.is_empty() {
                "these files contain no McpServer".to_owned()
            } else {
                format!("there are: {}", names.join(", "))
            }
        };
        let matching: Vec<_> = self
            .servers
            .iter()
            .filter(
                |server| match name.map(|name| (name, name.split_once('/'))) {
                    None => true,
                    Some((_, Some((namespace, name)))) => {
                        name_of(&server.object.metadata) == (namespace.to_owned(), name.to_owned())
                    }
                    Some((name, None)) => server.object.metadata.name.as_deref() == Some(name),
                },
            )
            .collect();
        match (matching.as_slice(), name) {
            ([one], _) => Ok(one),
            ([], Some(name)) => Err(Failure::new(format!(
                "there is no McpServer `{name}`; {}",
                known()
            ))),
            ([], None) => Err(Failure::new(known())),
            (_, Some(name)) => Err(Failure::new(format!(
                "`{name}` is in several namespaces; write NAMESPACE/NAME; {}",
                known()
            ))),
            (_, None) => Err(Failure::new(format!(
                "name the server with --server; {}",
                known()
            ))),
        }
    }
}

/// Namespace and name of an object.
pub fn name_of(metadata: &kube::core::ObjectMeta) -> Name {
    (
        metadata
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned()),
        metadata.name.clone().unwrap_or_default(),
    )
}

/// `namespace/name` of an object.
pub fn shown(metadata: &kube::core::ObjectMeta) -> String {
    let (namespace, name) = name_of(metadata);
    format!("{namespace}/{name}")
}

/// Without a cluster a UID is the UUIDv5 of namespace and name, so that it survives restarts.
fn uid(metadata: &kube::core::ObjectMeta) -> String {
    uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, shown(metadata).as_bytes()).to_string()
}

fn finding<T>(
    located: &Located<T>,
    kind: &str,
    metadata: &kube::core::ObjectMeta,
    path: &str,
    message: String,
) -> Finding {
    let Position { line, column } = if path.is_empty() {
        located.at
    } else {
        located.position(path)
    };
    Finding {
        level: Level::Error,
        file: located.file.clone(),
        line,
        column,
        object: format!("{kind} {}", shown(metadata)),
        rule: None,
        path: path.to_owned(),
        expression: None,
        message,
    }
}

/// A mistake in a server, at the field that the message names first
/// (`spec.upstream.stdio.command: …`), if it does.
pub fn in_server(server: &Located<McpServer>, message: String) -> Finding {
    let path = match message.split_once(": ") {
        Some((path, _)) if path.starts_with("spec.") && !path.contains(' ') => path.to_owned(),
        _ => String::new(),
    };
    let message = message
        .strip_prefix(&format!("{path}: "))
        .map(str::to_owned)
        .unwrap_or(message);
    finding(server, "McpServer", &server.object.metadata, &path, message)
}

/// An object that an API server would refuse, with the API server's message.
pub fn refused<T: kube::Resource>(located: &Located<T>, kind: &str, message: String) -> Finding {
    let message = format!("the API server refuses it: {message}");
    finding(located, kind, located.object.meta(), "", message)
}

fn of_server(server: &Located<McpServer>, diagnostic: Diagnostic) -> Finding {
    diagnosed(server, "McpServer", &server.object.metadata, diagnostic)
}

fn of_policy(policy: &Located<McpPolicy>, diagnostic: Diagnostic) -> Finding {
    diagnosed(policy, "McpPolicy", &policy.object.metadata, diagnostic)
}

/// A diagnostic of the compiler about an object, with the place in its file.
fn diagnosed<T>(
    located: &Located<T>,
    kind: &str,
    metadata: &kube::core::ObjectMeta,
    diagnostic: Diagnostic,
) -> Finding {
    let Diagnostic {
        level,
        policy: _,
        rule,
        path,
        position,
        message,
    } = diagnostic;
    Finding {
        level,
        rule,
        expression: position,
        ..finding(located, kind, metadata, &path, message)
    }
}
