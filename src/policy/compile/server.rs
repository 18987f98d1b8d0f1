//! Checks a server's settings for tools, and reports settings that a gateway of this release does
//! not support.

use super::finding::finding;
use crate::api::Switch;
use crate::api::server::{Catalog, Counters, McpServerSpec, Sessions};
use crate::policy::check::Patterns;
use crate::policy::diagnostic::{Diagnostic, Level};
use crate::policy::form::Form;
use std::collections::{BTreeMap, BTreeSet};

/// One process for all sessions has no client to ask.
fn check_client_features(spec: &McpServerSpec, findings: &mut Vec<Diagnostic>) {
    let stdio = spec.upstream.stdio.as_ref();
    if stdio.is_none_or(|stdio| stdio.sessions() == Sessions::PerSession) {
        return;
    }
    let features = spec.client_features();
    for (name, switch) in [
        ("sampling", features.sampling()),
        ("elicitation", features.elicitation()),
        ("roots", features.roots()),
    ] {
        if switch == Switch::Allow {
            findings.push(finding(
                Level::Error,
                format!("spec.clientFeatures.{name}"),
                "with sessions: Shared one process serves all sessions, so it cannot ask one client; write \
                spec.upstream.stdio.sessions: PerSession, or Deny here",
            ));
        }
    }
}

/// The forms of arguments that the spec states, by tool; what cannot be compiled is a finding.
pub(super) fn check(
    spec: &McpServerSpec,
    findings: &mut Vec<Diagnostic>,
) -> BTreeMap<String, Vec<Form>> {
    let mut forms: BTreeMap<String, Vec<Form>> = BTreeMap::new();
    let mut patterns = Patterns::default();
    for unknown in spec.unknown_fields() {
        findings.push(finding(
            Level::Error,
            unknown.path,
            "there is no such field; correct its spelling or remove it, as a misspelt key must not loosen anything",
        ));
    }
    let gateway = spec.gateway();
    let several = gateway.autoscaling.is_some() || gateway.replicas() > 1;
    if several && spec.counters.as_ref().and_then(Counters::claim).is_some() {
        findings.push(finding(
            Level::Error,
            "spec.counters.local.persistentVolumeClaim",
            "one gateway counts on a claim, and this server's has several replicas or an autoscaler; run one replica \
            without an autoscaler, or write counters.redis instead",
        ));
    }
    super::credentials::check(spec, findings);
    check_client_features(spec, findings);
    let mut names = BTreeSet::new();
    for (i, tool) in spec.tools.iter().enumerate() {
        let at = |field: &str| format!("spec.tools[{i}].{field}");
        if tool.name.is_empty() {
            findings.push(finding(
                Level::Error,
                at("name"),
                "write the name of a tool",
            ));
        }
        if !names.insert(&tool.name) {
            findings.push(finding(
                Level::Error,
                at("name"),
                format!(
                    "the tool {:?} is listed twice; put both into one entry",
                    tool.name
                ),
            ));
        }
        if let Some(digest) = &tool.definition_digest
            && !digest.strip_prefix("sha256:").is_some_and(|hex| {
                hex.len() == 64
                    && hex
                        .bytes()
                        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            })
        {
            findings.push(finding(
                Level::Error,
                at("definitionDigest"),
                "write sha256: and 64 lower-case hexadecimal digits, as the status of the server shows them",
            ));
        }
        for (j, pointer) in tool.redact.iter().enumerate() {
            if let Some(message) = not_a_pointer(pointer) {
                findings.push(finding(Level::Error, at(&format!("redact[{j}]")), message));
            }
        }
        for (name, form) in &tool.arguments {
            match Form::stated(name, &form.pattern, &mut patterns) {
                Ok(form) => forms.entry(tool.name.clone()).or_default().push(form),
                Err(message) => findings.push(finding(
                    Level::Error,
                    at(&format!("arguments.{name}.pattern")),
                    message,
                )),
            }
        }
        if tool.severity.is_some() && tool.risk.is_none() && spec.catalog() == Catalog::None {
            findings.push(finding(
                Level::Error,
                at("severity"),
                "a severity without a catalogue needs a risk class; write risk too",
            ));
        }
    }
    forms
}

/// What is wrong with a path of `redact`; None if it is a JSON pointer.
pub(super) fn not_a_pointer(text: &str) -> Option<String> {
    (!is_pointer(text)).then(|| {
        format!("{text:?} is not a JSON pointer; write a path from the arguments, for example /description")
    })
}

/// RFC 6901, without the empty pointer: that would redact everything, which `audit.arguments: None`
/// says better.
fn is_pointer(text: &str) -> bool {
    text.len() > 1
        && text.starts_with('/')
        && !text.chars().any(char::is_control)
        && text
            .match_indices('~')
            .all(|(at, _)| matches!(text.as_bytes().get(at + 1), Some(b'0' | b'1')))
}
