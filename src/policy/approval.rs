//! The binding of an approval, and its preview for a person.
//!
//! In: a call with its caller and arguments, and the rules that ask for approval. Out: a digest
//! that two calls share exactly if they are the same call, and a preview without secrets or tricks.
//! Must not do: keep, name or decide approvals; the gateway and people do.

use super::canonical::sha256;
use super::decision::{Observation, RuleId};
use super::observed::Reading;
use super::preview::{MAX_PREVIEW, hide_all, misleading_escaped, written_in_order};
use crate::api::approval::Observed;
use crate::json;
use std::sync::Arc;

/// Changes when the fields of the digest do, so that approvals of an older form are never accepted
/// as new ones.
const VERSION: &str = "portcullis-approval-3";

/// The same for the binding to what was observed.
const OBSERVED_VERSION: &str = "portcullis-observed-1";

/// What an approval is for.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The identity that calls.
    pub grant: &'a str,
    /// UID of the server.
    pub server_uid: &'a str,
    /// Digest of where the call goes: an approval does not outlive a change of the server behind
    /// the gateway.
    pub destination: &'a str,
    /// Name of the tool.
    pub tool: &'a str,
    /// Digest of the tool's definition: an approval does not outlive a change of what the tool says
    /// it does.
    pub definition_digest: &'a str,
    /// The rules that ask for approval.
    pub rules: &'a [Arc<RuleId>],
    /// What is read of the state that the call changes.
    pub observe: Option<&'a Observation>,
    /// The arguments as they came; empty if there are none.
    pub arguments: &'a [u8],
}

/// The arguments in one form: keys sorted at every depth, strings escaped one way, number tokens as
/// they came.
pub fn canonical_arguments(arguments: &[u8]) -> Result<String, json::Error> {
    Ok(json::canonical(&json::parse(or_empty(arguments))?))
}

/// SHA-256 over the subject's fields, each prefixed by its length, in hexadecimal.
pub fn digest(subject: &Subject<'_>) -> Result<String, json::Error> {
    let arguments = canonical_arguments(subject.arguments)?;
    let mut rules: Vec<&RuleId> = subject.rules.iter().map(AsRef::as_ref).collect();
    rules.sort_unstable();
    rules.dedup();
    let mut bytes = Vec::with_capacity(arguments.len() + 512);
    let mut field = |text: &str| {
        bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    };
    for text in [
        VERSION,
        subject.grant,
        subject.server_uid,
        subject.destination,
        subject.tool,
        subject.definition_digest,
    ] {
        field(text);
    }
    field(&rules.len().to_string());
    for rule in rules {
        field(&rule.namespace);
        field(&rule.policy);
        field(&rule.rule);
    }
    match subject.observe {
        None => field("0"),
        Some(Observation {
            tool,
            arguments,
            reading:
                Reading {
                    shows_tool_errors,
                    ignore,
                    redact,
                },
        }) => {
            field("1");
            field(tool);
            field(arguments);
            field(if *shows_tool_errors { "1" } else { "0" });
            for pointers in [ignore, redact] {
                field(&pointers.len().to_string());
                pointers.iter().for_each(|pointer| field(pointer));
            }
        }
    }
    field(&arguments);
    Ok(hex::encode(sha256(&bytes)))
}

/// The digest of a subject, bound to the state that a person is shown.
pub fn bound_to(digest: &str, observed: &Observed) -> String {
    let Observed {
        tool,
        preview,
        digest: state,
    } = observed;
    let mut bytes = Vec::with_capacity(preview.len() + 512);
    for text in [OBSERVED_VERSION, digest, tool, preview, state] {
        bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    hex::encode(sha256(&bytes))
}

/// Why there is no preview.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreviewError {
    /// More than a person is shown.
    #[error(
        "the arguments take {0} bytes to show and a person is shown at most {MAX_PREVIEW}; call with less at once"
    )]
    TooLong(usize),
    /// Not strict JSON.
    #[error("the arguments are not strict JSON: {0}")]
    Json(#[from] json::Error),
}

/// The whole arguments for a person to read: redacted, and with every character escaped that could
/// hide or reorder text.
pub fn preview(arguments: &[u8], redact: &[String]) -> Result<String, PreviewError> {
    let text = redacted(arguments, redact)?;
    if text.len() > MAX_PREVIEW {
        return Err(PreviewError::TooLong(text.len()));
    }
    Ok(text)
}

/// The arguments for a log: redacted and escaped like a preview, of any length.
pub fn redacted(arguments: &[u8], redact: &[String]) -> Result<String, json::Error> {
    let mut value = json::parse(or_empty(arguments))?;
    hide_all(&mut value, redact);
    Ok(misleading_escaped(&written_in_order(&value)))
}

fn or_empty(arguments: &[u8]) -> &[u8] {
    if arguments.is_empty() {
        b"{}"
    } else {
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::super::preview::misleads;
    use super::*;
    use proptest::prelude::*;

    fn rule(name: &str) -> Arc<RuleId> {
        Arc::new(RuleId {
            namespace: "ml".into(),
            policy: "p".into(),
            rule: name.into(),
            qualified: false,
            uid: Arc::from(""),
        })
    }

    fn with(arguments: &[u8], rules: &[Arc<RuleId>]) -> String {
        digest(&Subject {
            grant: "key:ci",
            server_uid: "uid",
            destination: "sha256:11",
            tool: "set_model_alias",
            definition_digest: "sha256:00",
            rules,
            observe: None,
            arguments,
        })
        .unwrap()
    }

    #[test]
    fn the_same_call_written_differently_has_the_same_digest_and_any_change_another() {
        let rules = [rule("a"), rule("b")];
        let first = with(
            br#"{"name":"churn","version":"7","n":{"x":1,"y":[1,2]}}"#,
            &rules,
        );
        assert_eq!(
            first,
            with(
                br#" { "version" : "\u0037", "n":{"y":[1, 2],"x":1}, "name":"churn"}"#,
                &rules
            )
        );
        assert_eq!(
            first,
            with(
                br#"{"name":"churn","version":"7","n":{"x":1,"y":[1,2]}}"#,
                &[rule("b"), rule("a"), rule("a")]
            )
        );
        for other in [
            br#"{"name":"churn","version":7,"n":{"x":1,"y":[1,2]}}"#.as_slice(),
            br#"{"name":"churn","version":"7","n":{"x":1.0,"y":[1,2]}}"#,
            br#"{"name":"churn","version":"7","n":{"x":1,"y":[2,1]}}"#,
        ] {
            assert_ne!(first, with(other, &rules));
        }
        assert_ne!(
            first,
            with(
                br#"{"name":"churn","version":"7","n":{"x":1,"y":[1,2]}}"#,
                &rules[..1]
            )
        );
        assert_eq!(with(b"", &rules), with(b"{}", &rules));
    }

    #[test]
    fn another_destination_is_another_call() {
        let to = |destination| {
            digest(&Subject {
                grant: "key:ci",
                server_uid: "uid",
                destination,
                tool: "t",
                definition_digest: "sha256:00",
                rules: &[],
                observe: None,
                arguments: b"{}",
            })
        };
        assert_eq!(to("sha256:11"), to("sha256:11"));
        assert_ne!(to("sha256:11"), to("sha256:12"));
    }

    #[test]
    fn fields_cannot_run_into_one_another() {
        let subject = |grant, server_uid| Subject {
            grant,
            server_uid,
            destination: "",
            tool: "t",
            definition_digest: "",
            rules: &[],
            observe: None,
            arguments: b"{}",
        };
        assert_ne!(
            digest(&subject("ab", "c")).unwrap(),
            digest(&subject("a", "bc")).unwrap()
        );
    }

    #[test]
    fn a_preview_hides_secrets_and_shows_what_would_mislead() {
        let redact = ["/description".to_owned(), "/list/1/k~1ey".to_owned()];
        let arguments = format!(
            r#"{{"name":"a\u202eb{}\n","Description":"secret","list":[1,{{"k/ey":"x","z":"\u200b"}}]}}"#,
            '\u{202e}'
        );
        assert_eq!(
            preview(arguments.as_bytes(), &redact).unwrap(),
            r#"{"name":"a\u202eb\u202e\n","Description":"[redacted]","list":[1,{"k/ey":"[redacted]","z":"\u200b"}]}"#
        );
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(5_000));
        assert_eq!(
            preview(long.as_bytes(), &[]),
            Err(PreviewError::TooLong(5_008))
        );
        assert!(preview(long.as_bytes(), &["/a".to_owned()]).is_ok());
    }

    proptest! {
        #[test]
        fn a_preview_reads_back_as_the_arguments(text in "\\PC{0,40}|[\u{0}-\u{2100}]{0,40}") {
            let arguments = serde_json::json!({"k": text}).to_string();
            let shown = preview(arguments.as_bytes(), &[]).unwrap();
            prop_assert!(!shown.chars().any(misleads));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), serde_json::from_str::<serde_json::Value>(&arguments).unwrap());
        }
    }
}
