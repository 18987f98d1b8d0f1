//! What `validate` says of objects that are valid and hardly meant so, and of keys that would be
//! refused.
//!
//! In: the files. Out: warnings on what is not written (a namespace, authentication, rules), errors
//! on API keys that would admit no caller. Must not do: show a key.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Finding, Name, Project, finding, name_of, of_policy, shown};
use crate::api::Switch;
use crate::api::policy::McpPolicy;
use crate::api::server::McpServer;
use crate::gateway::force::secrets::Secrets as _;
use crate::gateway::grants::{Grants, SHORTEST_KEY};
use crate::manifest::{Located, Position};
use crate::policy::Definition;
use crate::policy::diagnostic::Level;
use crate::policy::lint::lint_with;

impl Project {
    /// What is not written and hardly meant so.
    pub fn advice(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for server in &self.servers {
            let metadata = &server.object.metadata;
            let mut warn = |path: &str, message: String| {
                findings.push(Finding {
                    level: Level::Warning,
                    ..finding(server, "McpServer", metadata, path, message)
                });
            };
            if self.around.servers.is_none() && !server.has("metadata.namespace") {
                warn("metadata", unnamed());
            }
            let admits = server
                .object
                .spec
                .authentication
                .as_ref()
                .is_some_and(|open| open.takes_credentials() || open.anonymous() == Switch::Allow);
            if !admits {
                let (path, what) = match server.object.spec.authentication {
                    None => (
                        "spec",
                        "there is no authentication, so every call is refused",
                    ),
                    Some(_) => (
                        "spec.authentication",
                        "this admits no caller, so every call is refused",
                    ),
                };
                warn(
                    path,
                    format!(
                        "{what}; write for example authentication: {{ apiKeys: {{ secretRef: {{ name: agents }} }} }}, or \
                         authentication: {{ anonymous: Allow }} for anyone"
                    ),
                );
            }
        }
        for policy in &self.policies {
            let metadata = &policy.object.metadata;
            let mut warn = |path: &str, message: String| {
                findings.push(Finding {
                    level: Level::Warning,
                    ..finding(policy, "McpPolicy", metadata, path, message)
                });
            };
            if self.around.servers.is_none() && !policy.has("metadata.namespace") {
                warn("metadata", unnamed());
            }
            if policy.object.spec.is_empty() {
                warn(
                    "spec",
                    "the policy has no rules and no defaultAction, so it does nothing; write rules:, or remove the policy".to_owned(),
                );
            }
        }
        findings.extend(self.unusable_keys());
        findings
    }

    /// API keys that would be refused, at the place of the key if it is in the files, else at the
    /// reference.
    pub fn unusable_keys(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> = Vec::new();
        for server in &self.servers {
            let of_server = self.unusable_keys_of(server);
            findings.extend(
                of_server
                    .into_iter()
                    .filter(|found| !findings.contains(found))
                    .collect::<Vec<_>>(),
            );
        }
        findings
    }

    /// The same of one server.
    pub fn unusable_keys_of(&self, server: &Located<McpServer>) -> Vec<Finding> {
        let mut findings: Vec<Finding> = Vec::new();
        let (namespace, _) = name_of(&server.object.metadata);
        let keys = server.object.spec.authentication.as_ref();
        let Some(reference) = keys.and_then(|keys| keys.api_keys.as_ref()) else {
            return findings;
        };
        let secret = &reference.secret_ref.name;
        let Some(held) = self.secrets_of(&namespace).all(secret) else {
            return findings;
        };
        let name = (namespace, secret.clone());
        if held.is_empty() {
            let message = format!("the Secret {}/{} holds no API key; {HOW}", name.0, name.1);
            findings.push(Finding {
                // It may be filled later, and admits no caller until then.
                level: Level::Warning,
                ..self.at_key(server, &name, None, message)
            });
        }
        let mut wrong = |key: Option<&str>, message: String| {
            findings.push(self.at_key(server, &name, key, message));
        };
        let grants = Grants::new(&held, false);
        for key in grants.refused() {
            let empty = held
                .get(key)
                .is_some_and(|value| value.trim_ascii().is_empty());
            let what = match empty {
                true => "is empty".to_owned(),
                false => {
                    format!("has fewer than {SHORTEST_KEY} characters, so it could be guessed")
                }
            };
            wrong(
                Some(key),
                format!("the API key of key:{key} {what}, and is refused; {HOW}"),
            );
        }
        for key in grants.equal() {
            let others: Vec<String> = grants
                .equal()
                .iter()
                .filter(|other| *other != key && same(&held, key, other))
                .map(|other| format!("key:{other}"))
                .collect();
            wrong(
                Some(key),
                format!(
                    "the API key of key:{key} is also that of {}, so it would be unclear whose call it is, and it is refused; {HOW}",
                    others.join(", ")
                ),
            );
        }
        findings
    }

    fn at_key(
        &self,
        server: &Located<McpServer>,
        name: &Name,
        key: Option<&str>,
        message: String,
    ) -> Finding {
        let object = format!("Secret {}/{}", name.0, name.1);
        let path = |part: &str| key.map_or_else(String::new, |key| format!("{part}.{key}"));
        let written = self
            .secret_files
            .get(name)
            .filter(|_| self.secrets.contains_key(name));
        match written {
            Some(located)
                if key.is_none_or(|_| {
                    located.has(&path("stringData")) || located.has(&path("data"))
                }) =>
            {
                let path = match located.has(&path("stringData")) {
                    true => path("stringData"),
                    false => path("data"),
                };
                let Position { line, column } = match path.is_empty() {
                    true => located.at,
                    false => located.position(&path),
                };
                Finding {
                    level: Level::Error,
                    file: located.file.clone(),
                    line,
                    column,
                    object,
                    rule: None,
                    path,
                    expression: None,
                    message,
                }
            }
            _ => {
                let path = "spec.authentication.apiKeys.secretRef.name";
                finding(server, "McpServer", &server.object.metadata, path, message)
            }
        }
    }

    /// What is wrong about a server and its policies, by the tools that it lists: comparisons that
    /// can only fail, and pins of other definitions.
    pub fn by_listing(
        &self,
        server: &Located<McpServer>,
        listed: &[Definition],
        file: &Path,
    ) -> Vec<Finding> {
        let policies = self.policies.iter().map(|policy| &policy.object);
        let Ok(bundle) = self.bundle(&server.object, policies, Vec::new(), 1) else {
            return Vec::new();
        };
        let type_of = |tool: &str, argument: &str| {
            let tool = listed.iter().find(|listed| listed.name == tool)?;
            tool.argument_type(argument)
        };
        let mut findings = Vec::new();
        for diagnostic in lint_with(&bundle, &type_of) {
            let of = |policy: &&Located<McpPolicy>| {
                Some(shown(&policy.object.metadata)) == diagnostic.policy
            };
            // The rest is found without a listing.
            if diagnostic.path.ends_with(".when")
                && let Some(policy) = self.policies.iter().find(of)
            {
                findings.push(of_policy(policy, diagnostic));
            }
        }
        for (at, tool) in server.object.spec.tools.iter().enumerate() {
            let Some(pin) = &tool.definition_digest else {
                continue;
            };
            let path = format!("spec.tools[{at}].definitionDigest");
            let message = match listed.iter().find(|listed| listed.name == tool.name) {
                Some(listed) if listed.digest == *pin => continue,
                Some(listed) => format!(
                    "the tool {} in {} has another definition, so it would be hidden; if it is meant, write {}",
                    tool.name,
                    file.display(),
                    listed.digest
                ),
                None => format!(
                    "{} has no tool {}; correct the name, or remove the entry",
                    file.display(),
                    tool.name
                ),
            };
            findings.push(finding(
                server,
                "McpServer",
                &server.object.metadata,
                &path,
                message,
            ));
        }
        findings
    }

    /// A server of that namespace whose name is nearly this one, or one of that name in another
    /// namespace.
    pub(super) fn near_server(&self, namespace: &str, name: &str) -> Option<String> {
        let servers: Vec<(Name, String)> = self
            .every_server()
            .map(|server| (name_of(&server.metadata), shown(&server.metadata)))
            .collect();
        let near = servers
            .iter()
            .filter(|((of, _), _)| of == namespace)
            .map(|((_, other), _)| (strsim::osa_distance(other, name), other))
            .filter(|(distance, other)| *distance <= (other.len() / 3).max(1))
            .min();
        if let Some((_, other)) = near {
            return Some(format!("did you mean `{other}`?"));
        }
        let elsewhere = servers.iter().find(|((_, other), _)| other == name)?;
        Some(format!(
            "{} is in another namespace, and a policy reaches only servers of its own: write metadata.namespace: {}",
            elsewhere.1, elsewhere.0.0
        ))
    }
}

/// How a key is made.
const HOW: &str =
    "write the output of `openssl rand -hex 32` into the Secret, another one for each grant";

fn unnamed() -> String {
    "no namespace is written, so it is `default` here, and with kubectl that of the context; write metadata.namespace".to_owned()
}

fn same(held: &BTreeMap<String, Vec<u8>>, one: &str, other: &str) -> bool {
    let value = |key: &str| held.get(key).map(|value| value.trim_ascii());
    value(one) == value(other)
}
