//! What the operator would refuse of a server with its policies, though nothing is wrong with either.
//!
//! In: the files, and the cluster around them. Out: findings at the server if it is in the files, else at a policy that is.

use super::{Finding, World, finding, shown};
use crate::api::policy::McpPolicy;
use crate::api::server::McpServer;
use crate::cli::output::Failure;
use crate::policy::compile::{compile, diagnose_policy, diagnose_server};
use crate::policy::diagnostic::{Diagnostic, Level};
use crate::policy::fit;

impl World {
    /// Everything of that kind, for the servers that the files change.
    ///
    /// # Errors
    /// When a bundle cannot be written as JSON.
    pub fn together(&self) -> Result<Vec<Finding>, Failure> {
        let files = self.policies.iter().map(|policy| &policy.object);
        let accepted: Vec<&McpPolicy> = files
            .chain(&self.around.policies)
            .filter(|policy| !is_wrong(&of_policy(policy)))
            .collect();
        let mut findings = Vec::new();
        for server in self.every_server() {
            let is_it = |other: &McpServer| std::ptr::eq(other, server);
            let of_files = self.servers.iter().find(|one| is_it(&one.object));
            let policy = self
                .policies
                .iter()
                .find(|one| self.targets(&one.object, server));
            if (of_files.is_none() && policy.is_none()) || is_wrong(&diagnose_server(&server.spec))
            {
                continue;
            }
            let Some(message) = self.refusal(server, &accepted)? else {
                continue;
            };
            findings.extend(match (of_files, policy) {
                (Some(located), _) => {
                    let metadata = &located.object.metadata;
                    Some(finding(located, "McpServer", metadata, "", message))
                }
                (None, Some(located)) => {
                    let metadata = &located.object.metadata;
                    let name = shown(&server.metadata);
                    let message = format!("McpServer {name} would be refused with it: {message}");
                    Some(finding(located, "McpPolicy", metadata, "", message))
                }
                (None, None) => None,
            });
        }
        Ok(findings)
    }

    /// Why the operator would not accept a server under those policies that target it.
    fn refusal(
        &self,
        server: &McpServer,
        accepted: &[&McpPolicy],
    ) -> Result<Option<String>, Failure> {
        let bundle = self.bundle(server, accepted.iter().copied(), Vec::new(), 1)?;
        Ok(match compile(&bundle) {
            Err(found) => {
                let mut errors = found.iter().filter(|one| one.level == Level::Error);
                errors.next().map(ToString::to_string)
            }
            Ok(_) => fit::counted_alone(&bundle)
                .map(drop)
                .and_then(|()| fit::size(&bundle))
                .err(),
        })
    }
}

fn of_policy(policy: &McpPolicy) -> Vec<Diagnostic> {
    let metadata = &policy.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let name = metadata.name.as_deref().unwrap_or_default();
    diagnose_policy(namespace, name, namespace, &policy.spec)
}

fn is_wrong(findings: &[Diagnostic]) -> bool {
    findings.iter().any(|finding| finding.level == Level::Error)
}
