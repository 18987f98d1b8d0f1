//! What a person sees before a call is approved, and the question whether it may be made.
//!
//! In: a request, and the others beside it. Out: the person's yes, or why there is none. Must not
//! do: take anything for a yes that was not typed for this very call.

use std::fmt::Write as _;
use std::io::{BufRead as _, IsTerminal as _, Write as _};

use jiff::Timestamp;

use super::super::output::{Failure, age, visible};
use super::phase;
use crate::api::approval::{McpApproval, Phase};
use crate::json;
use crate::policy::canonical::sha256;

/// Characters of one argument that are shown; of a longer one the beginning, its size and its
/// digest.
const ARGUMENT: usize = 400;
/// As many digits of a digest are needed with `--digest`.
const DIGITS: usize = 16;

/// The call and all that it is bound to, for a terminal.
pub(super) fn shown(approval: &McpApproval, all: &[McpApproval], now: Timestamp) -> String {
    let spec = &approval.spec;
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{:<11}{}", format!("{name}:"), visible(value));
    };
    line(
        "Approval",
        approval.metadata.name.as_deref().unwrap_or_default(),
    );
    line("Caller", &spec.grant);
    line("Tool", &spec.tool);
    let namespace = approval.metadata.namespace.as_deref().unwrap_or_default();
    let server = format!("{namespace}/{}", spec.server_ref.name);
    match &spec.upstream {
        Some(upstream) => line("Server", &format!("{server}, which is {upstream}")),
        None => line("Server", &server),
    }
    line(
        "Asked for",
        &format!("by policy {}, rule {}", spec.policy, spec.rule),
    );
    let (asked, left) = (
        now.duration_since(spec.requested_at.0).as_secs(),
        spec.expires_at.0.duration_since(now).as_secs(),
    );
    line(
        "Time",
        &format!("asked {} ago, expires in {}", age(asked), age(left)),
    );
    line("Digest", &spec.arguments_digest);
    if spec.approvers() > 1 {
        let needed = format!(
            "{} people; {} so far",
            spec.approvers(),
            approval.approved()
        );
        line("Needs", &needed);
    }
    for decision in &spec.decisions {
        let reason = decision.reason.as_deref();
        let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        let decided = format!("{:?} by {}{reason}", decision.verdict, decision.by);
        line("Decided", &decided);
    }
    line("Before", &before(approval, all, now));
    match &spec.observed {
        Some(observed) => {
            let _ = writeln!(
                text,
                "There now ({}, read {} ago):",
                visible(&observed.tool),
                age(asked)
            );
            for member in arguments(&observed.preview) {
                let _ = writeln!(text, "  {member}");
            }
            let _ = writeln!(text, "Will be ({}):", visible(&spec.tool));
        }
        None => text.push_str("Arguments:\n"),
    }
    for argument in arguments(&spec.arguments_preview) {
        let _ = writeln!(text, "  {argument}");
    }
    text
}

/// What the gateway knows about calls like this one. It does not know the
/// current state of the server unless the rule observes it.
fn before(approval: &McpApproval, all: &[McpApproval], now: Timestamp) -> String {
    let alike = |other: &&McpApproval| {
        other.metadata.namespace == approval.metadata.namespace
            && other.spec.server_ref == approval.spec.server_ref
            && other.spec.tool == approval.spec.tool
    };
    let made = all
        .iter()
        .filter(alike)
        .filter_map(|other| Some((other.status.as_ref()?.consumed_at.as_ref()?.0, other)))
        .max_by_key(|(at, _)| *at);
    match made {
        Some((at, other)) => {
            let arguments: String = other.spec.arguments_preview.chars().take(120).collect();
            let cut = if arguments.len() < other.spec.arguments_preview.len() {
                "…"
            } else {
                ""
            };
            format!(
                "the last call of this tool that was approved was made {} ago for {}, with {arguments}{cut}",
                age(now.duration_since(at).as_secs()),
                other.spec.grant
            )
        }
        None if approval.spec.observed.is_some() => {
            "no approved call of this tool is on record".to_owned()
        }
        None => "no approved call of this tool is on record; what is at the server now is not known here".to_owned(),
    }
}

/// One line for each argument.
fn arguments(preview: &str) -> Vec<String> {
    let Ok(members) = json::members(preview.as_bytes()) else {
        return vec![cut(preview)];
    };
    if members.is_empty() {
        return vec!["(none)".to_owned()];
    }
    members
        .iter()
        .map(|member| format!("{}: {}", visible(&member.key), cut(member.raw)))
        .collect()
}

fn cut(value: &str) -> String {
    match value.char_indices().nth(ARGUMENT) {
        None => visible(value),
        Some((at, _)) => format!(
            "{}… ({} bytes, sha256:{}; `portcullis approvals show` has all of it)",
            visible(&value[..at]),
            value.len(),
            hex::encode(sha256(value.as_bytes()))
        ),
    }
}

/// How the person says yes.
pub(super) struct Consent<'a> {
    /// `--yes`.
    pub(super) yes: bool,
    /// `--digest`.
    pub(super) digest: Option<&'a str>,
}

/// Asks whether the call may be made.
///
/// # Errors
/// When the answer is no, or there is no terminal to ask on and no `--yes`.
pub(super) fn ask(
    approval: &McpApproval,
    all: &[McpApproval],
    consent: &Consent<'_>,
    (approve, deny): (&str, &str),
    now: Timestamp,
) -> Result<(), Failure> {
    let name = approval.metadata.name.as_deref().unwrap_or_default();
    let digest = &approval.spec.arguments_digest;
    if phase(approval) != Some(Phase::Pending) {
        return Err(Failure {
            message: format!(
                "`{name}` does not wait for a decision any more: it is {:?}",
                phase(approval).unwrap_or(Phase::Expired)
            ),
            code: 1,
        });
    }
    if let Some(seen) = consent.digest {
        let digits = seen.strip_prefix("sha256:").unwrap_or(seen);
        if digits.len() < DIGITS {
            return Err(Failure::new(format!(
                "--digest needs the first {DIGITS} digits at least, as `portcullis approvals show {name}` prints them"
            )));
        }
        if !digest
            .strip_prefix("sha256:")
            .is_some_and(|whole| whole.starts_with(digits))
        {
            return Err(Failure {
                message: format!(
                    "`{name}` is not the call with the digest {}; look at it with `portcullis approvals show {name}`",
                    visible(seen)
                ),
                code: 1,
            });
        }
    }
    let text = shown(approval, all, now);
    if consent.yes && consent.digest.is_some() {
        eprint!("{text}");
        return Ok(());
    }
    if consent.yes {
        eprint!("{text}");
        return Err(Failure::new(format!(
            "--yes approves the call that you have reviewed: name it with --digest, for example --yes --digest {}",
            beginning(digest)
        )));
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        eprint!("{text}");
        return Err(Failure::new(format!(
            "there is no terminal to ask on; run this in one, or, when you have reviewed the call, write: {approve} --yes --digest {}",
            beginning(digest)
        )));
    }
    eprint!("{text}\nLet this call be made, once? Type yes: ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && answer.trim() == "yes" {
        Ok(())
    } else {
        Err(Failure {
            message: format!("nothing was decided; `{deny}` refuses the call"),
            code: 1,
        })
    }
}

pub(super) fn beginning(digest: &str) -> &str {
    digest.get(.."sha256:".len() + DIGITS).unwrap_or(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn approval(name: &str, preview: &str, status: serde_json::Value) -> McpApproval {
        serde_json::from_value(json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpApproval",
            "metadata": {"name": name, "namespace": "ml"},
            "spec": {
                "serverRef": {"name": "mlflow"}, "grant": "key:trainer", "tool": "set_model_alias",
                "argumentsDigest": format!("sha256:{}", "0123456789abcdef".repeat(4)), "argumentsPreview": preview,
                "upstream": "https://mlflow.example/mcp", "policy": "p", "rule": "promote",
                "requestedAt": "2026-01-01T00:00:00Z", "expiresAt": "2026-01-01T00:30:00Z",
            },
            "status": status,
        }))
        .unwrap()
    }

    const ASKED: (&str, &str) = (
        "portcullis approvals approve NAME",
        "portcullis approvals deny NAME",
    );

    fn now() -> Timestamp {
        "2026-01-01T00:05:00Z".parse().unwrap()
    }

    #[test]
    fn a_person_sees_caller_tool_server_and_every_argument() {
        let long = "x".repeat(1_000);
        let preview = json!({"alias": "champion", "note": long, "version": 7}).to_string();
        let asked = approval("mlflow-1-0", &preview, json!({"phase": "Pending"}));
        let made = approval(
            "mlflow-2-0",
            r#"{"version":6}"#,
            json!({"phase": "Consumed", "consumedAt": "2026-01-01T00:01:00Z"}),
        );
        let text = shown(&asked, &[asked.clone(), made], now());
        for part in [
            "Caller:    key:trainer\n",
            "Tool:      set_model_alias\n",
            "Server:    ml/mlflow, which is https://mlflow.example/mcp\n",
            "policy p, rule promote",
            "asked 5m ago, expires in 25m",
            "made 4m ago for key:trainer, with {\"version\":6}",
            "  alias: \"champion\"\n",
            "  version: 7\n",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let note = text.lines().find(|line| line.contains("note:")).unwrap();
        let digest = hex::encode(sha256(format!("\"{long}\"").as_bytes()));
        assert!(
            note.contains(&format!("(1002 bytes, sha256:{digest};")) && note.len() < 700,
            "{note}"
        );
    }

    #[test]
    fn a_person_sees_the_current_state_before_the_change() {
        let mut asked = approval(
            "mlflow-1-0",
            r#"{"alias":"champion","version":"7"}"#,
            json!({"phase": "Pending"}),
        );
        asked.spec.observed = Some(crate::api::approval::Observed {
            tool: "get_model_version_by_alias".to_owned(),
            preview: r#"{"version":"6\u202e"}"#.to_owned(),
            digest: format!("sha256:{}", "0".repeat(64)),
        });
        let text = shown(&asked, &[], now());
        let end = concat!(
            "Before:    no approved call of this tool is on record\n",
            "There now (get_model_version_by_alias, read 5m ago):\n",
            "  version: \"6\\u202e\"\n",
            "Will be (set_model_alias):\n",
            "  alias: \"champion\"\n",
            "  version: \"7\"\n"
        );
        assert!(text.ends_with(end), "{text}");
        // A beginning is shown as it stands.
        let observed = asked.spec.observed.as_mut().unwrap();
        observed.preview = "[{\"version\":… (9000 bytes in all)".to_owned();
        assert!(shown(&asked, &[], now()).contains("\n  [{\"version\":… (9000 bytes in all)\n"));
    }

    #[test]
    fn only_a_yes_for_this_very_call_is_one_where_nobody_can_be_asked() {
        let asked = approval("mlflow-1-0", "{}", json!({"phase": "Pending"}));
        // The tests have no terminal on standard input and error, or would ask on it.
        let with = |yes, digest| {
            ask(&asked, &[], &Consent { yes, digest }, ASKED, now())
                .map_err(|failure| failure.message)
        };
        assert_eq!(with(true, Some("0123456789abcdef")), Ok(()));
        assert_eq!(with(true, Some("sha256:0123456789abcdef01")), Ok(()));
        for (yes, digest, says) in [
            (true, None, "--digest sha256:0123456789abcdef"),
            (true, Some("0123456789abcde"), "first 16 digits"),
            (true, Some(""), "first 16 digits"),
            (true, Some("1123456789abcdef"), "is not the call with"),
            (false, Some("1123456789abcdef"), "is not the call with"),
        ] {
            let said = with(yes, digest).unwrap_err();
            assert!(said.contains(says), "{said}");
        }
        let over = approval("mlflow-1-0", "{}", json!({"phase": "Withdrawn"}));
        let consent = Consent {
            yes: true,
            digest: Some("0123456789abcdef"),
        };
        assert!(ask(&over, &[], &consent, ASKED, now()).is_err());
    }
}
