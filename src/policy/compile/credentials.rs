//! Checks `upstream.http.credentials` and `upstream.stdio.credentials`.
//!
//! In: a server's spec. Out: findings. What these entries promise is that no caller reaches the
//! server with what belongs to another one or to the gateway, so whatever could break that is an
//! error. Must not do: match callers; the gateway does.

use super::finding::finding;
use crate::api::server::{McpServerSpec, Sessions, StdioUpstream};
use crate::policy::credential::CredentialVariables;
use crate::policy::diagnostic::{Diagnostic, Level};
use crate::policy::lint::foreign;
use crate::policy::matcher::{Glob, grant_glob};

pub(super) fn check(spec: &McpServerSpec, findings: &mut Vec<Diagnostic>) {
    if let Some(http) = &spec.upstream.http {
        let at = "spec.upstream.http.credentials";
        let callers = http.credentials.iter().map(|entry| &entry.callers[..]);
        check_callers(at, callers, findings);
        for (i, entry) in http.credentials.iter().enumerate() {
            if entry.headers.is_empty() {
                let why = "write at least one header; a caller without an entry is refused";
                findings.push(finding(Level::Error, format!("{at}[{i}].headers"), why));
            }
        }
    }
    if let Some(stdio) = &spec.upstream.stdio {
        let at = "spec.upstream.stdio.credentials";
        let callers = stdio.credentials.iter().map(|entry| &entry.callers[..]);
        check_callers(at, callers, findings);
        if !stdio.credentials.is_empty() {
            check_stdio(at, stdio, findings);
        }
    }
}

fn check_callers<'a>(
    at: &str,
    entries: impl Iterator<Item = &'a [String]>,
    findings: &mut Vec<Diagnostic>,
) {
    let mut before: Vec<Glob> = Vec::new();
    for (i, callers) in entries.enumerate() {
        let at = |field: String| format!("{at}[{i}].{field}");
        if callers.is_empty() {
            let why = "write the callers that this credential is for, for example key:trainer";
            findings.push(finding(Level::Error, at("callers".to_owned()), why));
        }
        let mut own = Vec::new();
        for (j, pattern) in callers.iter().enumerate() {
            let field = at(format!("callers[{j}]"));
            match grant_glob(pattern) {
                Ok(glob) => own.push(glob),
                Err(why) => findings.push(finding(Level::Error, &field, why)),
            }
            if let Some(why) = foreign(pattern) {
                findings.push(finding(Level::Warning, &field, why));
            }
        }
        let is_taken = |glob: &Glob| before.iter().any(|earlier| earlier.covers(glob));
        if !own.is_empty() && own.iter().all(is_taken) {
            let why = "earlier entries match all these callers, and the first match counts, so this entry is never used; move it up";
            findings.push(finding(Level::Warning, at("callers".to_owned()), why));
        }
        before.append(&mut own);
    }
}

fn check_stdio(at: &str, stdio: &StdioUpstream, findings: &mut Vec<Diagnostic>) {
    let mut error = |path: String, why: String| findings.push(finding(Level::Error, path, why));
    if stdio.sessions() != Sessions::PerSession {
        let why = "one process acts as one user, so credentials need a process for each session; write sessions: PerSession";
        error("spec.upstream.stdio.sessions".to_owned(), why.to_owned());
    }
    let mut entries = Vec::new();
    for (i, entry) in stdio.credentials.iter().enumerate() {
        if entry.env.is_empty() {
            let why = "write at least one variable; a caller without an entry is refused";
            error(format!("{at}[{i}].env"), why.to_owned());
        }
        match CredentialVariables::of(&entry.env) {
            Ok(variables) => entries.push(variables),
            Err((j, why)) => error(format!("{at}[{i}].env[{j}]"), why),
        }
    }
    // What comes from a Secret in `env` is the gateway's own, for its listing. A process of a
    // caller must not have it.
    for (i, variable) in stdio.env.iter().enumerate() {
        let source = variable.value_from.as_ref();
        if source.is_none_or(|source| source.secret_key_ref.is_none()) {
            continue;
        }
        let replaces =
            |entry: &CredentialVariables| entry.names().any(|name| name == variable.name);
        if let Some(without) = entries.iter().position(|entry| !replaces(entry)) {
            error(
                format!("spec.upstream.stdio.env[{i}]"),
                format!(
                    "{} comes from a Secret, and callers of credentials[{without}] would have it too; write {} into every entry of credentials, or remove it here",
                    variable.name, variable.name
                ),
            );
        }
    }
    for (i, source) in stdio.env_from.iter().enumerate() {
        if source.secret_ref.is_some() {
            let why = "with credentials, no caller's process may have a whole Secret that is not its own; name its keys in env, and replace each in every entry of credentials";
            error(
                format!("spec.upstream.stdio.envFrom[{i}].secretRef"),
                why.to_owned(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn findings(upstream: Value) -> Vec<String> {
        let spec: McpServerSpec = serde_json::from_value(json!({ "upstream": upstream })).unwrap();
        let mut findings = Vec::new();
        check(&spec, &mut findings);
        let shown = findings.iter().map(|finding| {
            let level = match finding.level {
                Level::Error => "error",
                Level::Warning => "warning",
            };
            format!("{level} {}: {}", finding.path, finding.message)
        });
        shown.collect()
    }

    fn http(callers: &[&[&str]]) -> Value {
        let entries: Vec<Value> = callers
            .iter()
            .map(|callers| json!({ "callers": callers, "headers": [{ "name": "Authorization", "value": "x" }] }))
            .collect();
        json!({ "http": { "url": "http://a/mcp", "credentials": entries } })
    }

    fn stdio(extra: Value) -> Value {
        let mut stdio = json!({ "image": "i", "command": ["c"], "sessions": "PerSession",
            "credentials": [{ "callers": ["key:a"], "env": [{ "name": "TOKEN", "value": "a" }] },
                            { "callers": ["key:b"], "env": [{ "name": "TOKEN", "value": "b" }] }] });
        for (key, value) in extra.as_object().unwrap() {
            stdio[key] = value.clone();
        }
        json!({ "stdio": stdio })
    }

    fn secret(name: &str) -> Value {
        json!({ "name": name, "valueFrom": { "secretKeyRef": { "name": "shared", "key": "k" } } })
    }

    #[test]
    fn callers_are_grants_and_an_entry_that_is_never_used_is_named() {
        assert_eq!(findings(http(&[&["key:a", "jwt:corp/*"], &["*"]])), [""; 0]);
        for (callers, says) in [
            (
                &[&["trainer"][..]][..],
                "error spec.upstream.http.credentials[0].callers[0]: no caller is named",
            ),
            (
                &[&[][..]],
                "error spec.upstream.http.credentials[0].callers: write the callers",
            ),
            (
                &[&["key:.*"][..]],
                "warning spec.upstream.http.credentials[0].callers[0]",
            ),
            (
                &[&["key:*"][..], &["key:a", "key:b*"]],
                "warning spec.upstream.http.credentials[1].callers: earlier entries",
            ),
        ] {
            let found = findings(http(callers));
            assert!(
                matches!(&found[..], [one] if one.starts_with(says)),
                "{found:?}"
            );
        }
    }

    #[test]
    fn no_process_of_a_caller_has_the_shared_secret() {
        assert_eq!(
            findings(stdio(
                json!({ "env": [{ "name": "URI", "value": "http://a" }] })
            )),
            [""; 0]
        );
        assert_eq!(
            findings(stdio(json!({ "env": [secret("TOKEN")] }))),
            [""; 0]
        );
        assert_eq!(
            findings(stdio(
                json!({ "envFrom": [{ "configMapRef": { "name": "c" } }] })
            )),
            [""; 0]
        );
        let half = json!([{ "callers": ["key:a"], "env": [{ "name": "TOKEN", "value": "a" }] },
                          { "callers": ["key:b"], "env": [{ "name": "OTHER", "value": "b" }] }]);
        let optional = json!({ "name": "T", "valueFrom": { "secretKeyRef": { "name": "a", "key": "k", "optional": true } } });
        for (extra, says) in [
            (
                json!({ "sessions": "Shared" }),
                "error spec.upstream.stdio.sessions: one process",
            ),
            (
                json!({ "env": [secret("PASSWORD")] }),
                "error spec.upstream.stdio.env[0]: PASSWORD comes from a Secret",
            ),
            (
                json!({ "env": [secret("TOKEN")], "credentials": half }),
                "error spec.upstream.stdio.env[0]: TOKEN comes from a Secret, and callers of credentials[1]",
            ),
            (
                json!({ "envFrom": [{ "secretRef": { "name": "all" } }] }),
                "error spec.upstream.stdio.envFrom[0].secretRef",
            ),
            (
                json!({ "credentials": [{ "callers": ["key:a"], "env": [optional] }] }),
                "error spec.upstream.stdio.credentials[0].env[0]: a credential cannot be optional",
            ),
            (
                json!({ "credentials": [{ "callers": ["key:a"], "env": [] }] }),
                "error spec.upstream.stdio.credentials[0].env: write at least one",
            ),
        ] {
            let found = findings(stdio(extra));
            assert!(
                matches!(&found[..], [one] if one.starts_with(says)),
                "{found:?}"
            );
        }
    }
}
