//! Objects that were read from the files before and can no longer be read from them.
//!
//! In: the previous objects, and the unreadable documents of the files. Out: the previous versions
//! of unreadable objects, and a finding on each. Must not do: keep a removed object. A rule must
//! not disappear because the apiVersion above it was misspelt.

use super::{Finding, Name, Project, finding, name_of};
use crate::api::policy::McpPolicy;
use crate::manifest::{Located, Lost, Position};
use crate::policy::diagnostic::Level;
use kube::Resource;

impl Project {
    /// Adds the objects of `before` that these files may still contain in an unreadable form.
    pub(super) fn keep_lost(&mut self, before: &Project, lost: &[Lost]) -> Vec<Finding> {
        let mut findings = keep(&mut self.servers, &before.servers, "McpServer", lost);
        findings.extend(keep(
            &mut self.policies,
            &before.policies,
            "McpPolicy",
            lost,
        ));
        for (name, known) in &before.namespaces {
            // A document that cannot be read does not say that its kind has no namespace.
            let of = ["", "default"].map(|namespace| (namespace.to_owned(), name.clone()));
            let why = of.iter().find_map(|of| why(lost, &known.1, of));
            if !self.namespaces.contains_key(name)
                && let Some(why) = why
            {
                findings.push(elsewhere(&known.1, format!("Namespace {name}"), why));
                self.namespaces.insert(name.clone(), known.clone());
            }
        }
        for (name, place) in &before.secret_files {
            let file = &place.file;
            if self.secrets.contains_key(name) {
                continue;
            }
            let (Some(why), Some(data)) = (why(lost, file, name), before.secrets.get(name)) else {
                continue;
            };
            self.secrets.insert(name.clone(), data.clone());
            self.secret_files.insert(name.clone(), place.clone());
            findings.push(elsewhere(
                file,
                format!("Secret {}/{}", name.0, name.1),
                why,
            ));
        }
        findings
    }

    /// Keeps policies whose target servers still exist and whose documents now select none of them:
    /// a misspelt target, label, name or namespace must not remove a rule.
    pub(super) fn keep_aimless(&mut self, before: &Project) -> Vec<Finding> {
        let known = names(&before.policies);
        let mut findings = Vec::new();
        for old in &before.policies {
            let aims = |project: &Project, policy: &McpPolicy| {
                project
                    .servers
                    .iter()
                    .any(|server| project.targets(policy, &server.object))
            };
            if !aims(before, &old.object) || !aims(self, &old.object) {
                continue;
            }
            let name = name_of(&old.object.metadata);
            let same = |one: &&Located<McpPolicy>| name_of(&one.object.metadata) == name;
            let renamed = |one: &&Located<McpPolicy>| {
                one.file == old.file && !known.contains(&name_of(&one.object.metadata))
            };
            let now = match self.policies.iter().find(same) {
                Some(now) => Some(now),
                None => self
                    .policies
                    .iter()
                    .filter(renamed)
                    .find(|one| !aims(self, &one.object)),
            };
            let Some(now) = now.filter(|now| !aims(self, &now.object)) else {
                continue;
            };
            let why = format!(
                "the document in {}:{} does not select any McpServer of these files",
                now.file, now.at.line
            );
            let metadata = &now.object.metadata;
            findings.push(finding(now, "McpPolicy", metadata, "spec", kept(&why)));
            self.policies
                .retain(|one| name_of(&one.object.metadata) != name);
            self.policies.push(old.clone());
        }
        findings
    }

    /// Kind and name of the objects of `before` that are not here.
    pub fn removed_since(&self, before: &Project) -> Vec<String> {
        let gone = |kind: &str, now: Vec<Name>, then: Vec<Name>| -> Vec<String> {
            let gone = then.into_iter().filter(|name| !now.contains(name));
            gone.map(|(namespace, name)| format!("{kind} {namespace}/{name}"))
                .collect()
        };
        let secrets = |project: &Project| project.secrets.keys().cloned().collect();
        [
            gone("McpServer", names(&self.servers), names(&before.servers)),
            gone("McpPolicy", names(&self.policies), names(&before.policies)),
            gone("Secret", secrets(self), secrets(before)),
        ]
        .concat()
    }
}

fn names<T: Resource>(objects: &[Located<T>]) -> Vec<Name> {
    let name = |located: &Located<T>| name_of(located.object.meta());
    objects.iter().map(name).collect()
}

fn keep<T: Resource + Clone>(
    now: &mut Vec<Located<T>>,
    before: &[Located<T>],
    kind: &str,
    lost: &[Lost],
) -> Vec<Finding> {
    let there = names(now);
    let mut findings = Vec::new();
    for object in before {
        let name = name_of(object.object.meta());
        if there.contains(&name) {
            continue;
        }
        if let Some(why) = why(lost, &object.file, &name) {
            findings.push(finding(object, kind, object.object.meta(), "", kept(why)));
            now.push(object.clone());
        }
    }
    findings
}

/// A finding on an object with an unknown place in the file.
fn elsewhere(file: &str, object: String, why: &str) -> Finding {
    let Position { line, column } = Position::default();
    Finding {
        level: Level::Error,
        file: file.to_owned(),
        line,
        column,
        object,
        rule: None,
        path: String::new(),
        expression: None,
        message: kept(why),
    }
}

fn why<'l>(lost: &'l [Lost], file: &str, name: &Name) -> Option<&'l str> {
    lost.iter()
        .find(|lost| lost.may_be(file, &name.0, &name.1))
        .map(|lost| lost.why.as_str())
}

fn kept(why: &str) -> String {
    format!(
        "its previous version stays in force: {why}; correct the document, or remove it to remove the object"
    )
}
