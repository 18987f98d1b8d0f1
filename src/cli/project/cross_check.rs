//! Checks servers with their policies: which parts of policies that cannot be enforced together are
//! in force, and at which object that is reported.
//!
//! In: the files, and the cluster around them. Out: bundles, and findings at the policy that is not
//! accepted, or at the server if the policy is not in the files. The operator uses the same code.

use super::{Finding, Project, finding, name_of, shown};
use crate::api::policy::McpPolicy;
use crate::api::server::McpServer;
use crate::cli::output::Failure;
use crate::policy::acceptance::{self, Asked, Candidate, Place, Settled, size_of};
use crate::policy::bundle::{Blocked, Bundle};
use crate::policy::compile::{diagnose_policy, diagnose_server};
use crate::policy::diagnostic::{Diagnostic, Level};

impl Project {
    /// The configuration that a server enforces under the accepted policies that target it.
    /// `before` is the previous one.
    ///
    /// # Errors
    /// The mistakes in the server itself.
    pub fn settle<'a>(
        &self,
        server: &McpServer,
        accepted: impl IntoIterator<Item = &'a McpPolicy>,
        blocked: Vec<Blocked>,
        before: Option<&Bundle>,
        place: Place,
    ) -> Result<Settled, String> {
        let candidates = accepted
            .into_iter()
            .filter(|policy| self.targets(policy, server))
            .map(|policy| Candidate::of(policy, size_of(&policy.spec), before))
            .collect();
        let asked = Asked {
            server,
            candidates,
            blocked,
            issuers: Vec::new(),
            report_token_sha256: None,
            place,
        };
        acceptance::settle(asked, &mut acceptance::Memory::default()).map_err(|unfit| unfit.message)
    }

    /// The revision that each server of the files enforces under the policies that are accepted, as
    /// `serve` shows it.
    pub fn revisions(&self) -> Vec<(String, String)> {
        let of = |server: &super::Located<McpServer>| {
            // A server with mistakes is not served.
            let bundle = self.enforced(&server.object, Place::Process).ok()?;
            Some((shown(&server.object.metadata), bundle.rules_revision()))
        };
        self.servers.iter().filter_map(of).collect()
    }

    /// What a server enforces in such a place, under the policies that are accepted.
    ///
    /// # Errors
    /// The mistakes in the server itself.
    pub fn enforced(&self, server: &McpServer, place: Place) -> Result<Bundle, String> {
        let files = self.policies.iter().map(|policy| &policy.object);
        let accepted = files
            .chain(&self.around.policies)
            .filter(|policy| !is_wrong(&of_policy(policy)));
        let settled = self.settle(server, accepted, Vec::new(), None, place)?;
        Ok(settled.bundle)
    }

    /// The mistakes of the servers that the files change, each under all policies that would apply
    /// to it in a cluster. Without a cluster, the files may be meant for `serve`, which keeps a
    /// limit as long as its process runs, so a limit that only a cluster cannot keep is a warning.
    ///
    /// # Errors
    /// None so far; a bundle that cannot be built is a finding.
    pub fn cross_check(&self) -> Result<Vec<Finding>, Failure> {
        let files = self.policies.iter().map(|policy| &policy.object);
        let accepted: Vec<&McpPolicy> = files
            .chain(&self.around.policies)
            .filter(|policy| !is_wrong(&of_policy(policy)))
            .collect();
        let mut findings = Vec::new();
        for server in self.every_server() {
            let is_it = |other: &McpServer| std::ptr::eq(other, server);
            let of_files = self.servers.iter().any(|one| is_it(&one.object));
            let targeted = self
                .policies
                .iter()
                .any(|one| self.targets(&one.object, server));
            if (!of_files && !targeted) || is_wrong(&diagnose_server(&server.spec)) {
                continue;
            }
            let settled = |place| {
                let accepted = accepted.iter().copied();
                self.settle(server, accepted, Vec::new(), None, place)
            };
            let process = self.refused(server, settled(Place::Process), Level::Error);
            let level = match self.around.servers {
                Some(_) => Level::Error,
                None => Level::Warning,
            };
            let mut cluster = self.refused(server, settled(Place::Cluster), level);
            // A refusal is reported only once.
            cluster.retain(|one| {
                !process
                    .iter()
                    .any(|other| (&other.object, &other.file) == (&one.object, &one.file))
            });
            findings.extend(process);
            findings.extend(cluster);
        }
        Ok(findings)
    }

    /// The policies that a server did not accept, at the objects where they are written.
    pub fn refused(
        &self,
        server: &McpServer,
        settled: Result<Settled, String>,
        level: Level,
    ) -> Vec<Finding> {
        let bundle = match settled {
            Ok(settled) => settled.bundle,
            Err(message) => return self.at(server, None, &message, level).into_iter().collect(),
        };
        let carried = bundle.policies.iter().filter_map(|entry| {
            let why = entry.not_accepted.as_ref()?;
            let label = format!("{}/{}", entry.namespace, entry.name);
            Some((label, why.message.clone()))
        });
        let blocked = bundle
            .blocked
            .iter()
            .map(|blocked| (blocked.policy.clone(), blocked.message.clone()));
        carried
            .chain(blocked)
            .filter_map(|(policy, message)| self.at(server, Some(&policy), &message, level))
            .collect()
    }

    /// A finding at the policy, if it is in the files; else at the server.
    fn at(
        &self,
        server: &McpServer,
        policy: Option<&str>,
        message: &str,
        level: Level,
    ) -> Option<Finding> {
        let place = match level {
            Level::Error => "",
            Level::Warning => "in a cluster, ",
        };
        let name = shown(&server.metadata);
        let located = policy.and_then(|policy| {
            let mut all = self.policies.iter();
            all.find(|one| shown(&one.object.metadata) == policy)
        });
        if let Some(located) = located {
            let message = format!(
                "{place}McpServer {name} cannot fully enforce it, so there it would restrict calls and allow none: \
                {message}"
            );
            let metadata = &located.object.metadata;
            return Some(Finding {
                level,
                ..finding(located, "McpPolicy", metadata, "", message)
            });
        }
        let by = policy.map_or_else(String::new, |policy| {
            format!("policy {policy} would not be accepted at it: ")
        });
        let same = |one: &&super::Located<McpServer>| {
            name_of(&one.object.metadata) == name_of(&server.metadata)
        };
        let server_of = server;
        let server = self.servers.iter().find(same);
        if let Some(server) = server {
            let message = format!("{place}{by}{message}");
            let metadata = &server.object.metadata;
            return Some(Finding {
                level,
                ..finding(server, "McpServer", metadata, "", message)
            });
        }
        // Neither is in the files: report it at a policy of the files that targets the server.
        let mut all = self.policies.iter();
        let located = all.find(|one| self.targets(&one.object, server_of))?;
        let message = format!("{place}McpServer {name} with it: {by}{message}");
        let metadata = &located.object.metadata;
        Some(Finding {
            level,
            ..finding(located, "McpPolicy", metadata, "", message)
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
