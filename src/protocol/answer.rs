//! The bodies of the gateway's own answers, word for word.
//!
//! In: the request's id and the decision. Out: one JSON-RPC message as bytes; [`http`] names the
//! HTTP status that goes with each. The shapes are chosen by what clients do: a 4xx or 5xx on a
//! call ends the whole session of the Python 1.x client, while 200 with `isError` reaches the model
//! as text that it can act on. Untrusted names are bounded and made printable. It must not reveal
//! whether a name that is refused as unknown exists.

use std::time::Duration;

use crate::json;

use super::emit::push_line;
use super::envelope::{Id, Refusal};
use super::text::printable;
use super::version::Version;

/// HTTP statuses of answers that are not 200.
pub mod http {
    /// Bad JSON, a batch, an invalid message, an unsupported version.
    pub const BAD_REQUEST: u16 = 400;
    /// A bad or missing credential; goes with `WWW-Authenticate`.
    pub const UNAUTHORIZED: u16 = 401;
    /// A bad `Origin` or `Host`.
    pub const FORBIDDEN: u16 = 403;
    /// A session that is not known (never for policy).
    pub const SESSION_UNKNOWN: u16 = 404;
    /// The `Accept` header lacks what the answer may be.
    pub const NOT_ACCEPTABLE: u16 = 406;
    /// Over `maxRequestBytes`.
    pub const TOO_LARGE: u16 = 413;
    /// Not `application/json`, or with a Content-Encoding.
    pub const UNSUPPORTED_MEDIA_TYPE: u16 = 415;
    /// `initialize` while the upstream is down.
    pub const BAD_GATEWAY: u16 = 502;
    /// No bundle.
    pub const UNAVAILABLE: u16 = 503;
}

/// JSON-RPC codes.
pub mod code {
    pub const PARSE_ERROR: i64 = -32700;
    pub const INVALID_REQUEST: i64 = -32600;
    pub const METHOD_NOT_FOUND: i64 = -32601;
    pub const INVALID_PARAMS: i64 = -32602;
    pub const INTERNAL_ERROR: i64 = -32603;
    /// JSON-RPC leaves it to servers; the SDKs' transports answer with it.
    pub const SERVER_ERROR: i64 = -32000;
    /// 2025-11-25, "URL Mode With Elicitation Required Error".
    pub const URL_ELICITATION_REQUIRED: i64 = -32042;
    /// What the SDKs' servers answer with under a 404.
    pub const SESSION_NOT_FOUND: i64 = -32001;
    /// 2026-07-28, basic, "Error Codes".
    pub const HEADER_MISMATCH: i64 = -32020;
    pub const UNSUPPORTED_PROTOCOL_VERSION: i64 = -32022;
}

/// The key in `_meta` of a result, for when to call again.
pub const RETRY_AFTER_KEY: &str = "portcullis.dev/retryAfterMs";

/// The key in `_meta` of a result, for the McpApproval that decides about the call.
pub const APPROVAL_KEY: &str = "portcullis.dev/approval";

/// The key in `_meta` of a result, for the decision on the call as the audit log has it.
pub const DECISION_KEY: &str = "portcullis.dev/decisionId";

/// To whom a refusal goes.
#[derive(Debug, Clone, Copy)]
pub struct To<'a> {
    /// The version of the session.
    pub version: Version,
    /// The request.
    pub id: &'a Id<'a>,
    /// The decision on it, if one was recorded: whoever owns the agent can ask about it.
    pub decision: Option<&'a str>,
}

/// As many characters of a stranger's name are echoed.
const NAME_LIMIT: usize = 128;

/// The state of an approval, as the agent sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approval<'a> {
    /// When to repeat the call, and when the request expires.
    Pending {
        again: Duration,
        until: &'a str,
    },
    /// With the reason that the person gave, which may be empty.
    Denied(&'a str),
    Expired,
    /// By an equal call.
    Used,
    /// The policy, the tool or the caller's rights have changed.
    Void,
    /// The server behind the gateway, or what the call would change, has changed.
    Stale,
    Withdrawn,
}

/// Any JSON-RPC error. `data` must be JSON. Without an id it is null (JSON-RPC 2.0, section 5;
/// a client that is given none shows an error of its own in place of this one).
pub fn error(id: Option<&Id<'_>>, code: i64, message: &str, data: Option<&str>) -> Vec<u8> {
    let mut out = open(id);
    out.push_str("\"error\":{\"code\":");
    out.push_str(&code.to_string());
    out.push_str(",\"message\":");
    json::write_string(&mut out, message);
    if let Some(data) = data {
        out.push_str(",\"data\":");
        push_line(&mut out, data);
    }
    out.push_str("}}");
    out.into_bytes()
}

/// Any JSON-RPC result. `result` must be JSON.
pub fn result(id: &Id<'_>, result: &str) -> Vec<u8> {
    let mut out = open(Some(id));
    out.push_str("\"result\":");
    out.push_str(result);
    out.push('}');
    out.into_bytes()
}

/// A tool result that tells the model why its call was not made.
pub fn tool_refused(to: To<'_>, text: &str, retry_after: Option<Duration>) -> Vec<u8> {
    let wait = retry_after.map(|wait| (RETRY_AFTER_KEY, wait.as_millis().to_string()));
    refused_with(to, text, wait)
}

/// The same with members of `_meta`, whose values are JSON.
fn refused_with(
    to: To<'_>,
    text: &str,
    meta: impl IntoIterator<Item = (&'static str, String)>,
) -> Vec<u8> {
    let quoted = to
        .decision
        .map(|id| format!("{text} To ask about this, quote decision {id}."));
    let mut body = String::from("{\"content\":[{\"type\":\"text\",\"text\":");
    json::write_string(&mut body, quoted.as_deref().unwrap_or(text));
    body.push_str("}],\"isError\":true");
    if to.version.is_stateless() {
        body.push_str(",\"resultType\":\"complete\"");
    }
    let mut before = ",\"_meta\":{";
    let decision = to.decision.map(|id| (DECISION_KEY, json::quoted(id)));
    for (key, value) in meta.into_iter().chain(decision) {
        body.push_str(std::mem::replace(&mut before, ","));
        json::write_string(&mut body, key);
        body.push(':');
        body.push_str(&value);
    }
    body.push_str(if before == "," { "}}" } else { "}" });
    result(to.id, &body)
}

/// Not visible to this caller, or not in the inventory: the same bytes for both.
pub fn unknown_tool(id: &Id<'_>, name: &str) -> Vec<u8> {
    unknown(id, "tool", name)
}

/// A prompt that policy refuses, or that does not exist.
pub fn unknown_prompt(id: &Id<'_>, name: &str) -> Vec<u8> {
    unknown(id, "prompt", name)
}

/// A resource that policy refuses, or that does not exist.
pub fn unknown_resource(id: &Id<'_>, uri: &str) -> Vec<u8> {
    unknown(id, "resource", uri)
}

fn unknown(id: &Id<'_>, what: &str, name: &str) -> Vec<u8> {
    error(
        Some(id),
        code::INVALID_PARAMS,
        &format!("Unknown {what}: {}", printable(name, NAME_LIMIT)),
        None,
    )
}

/// Denied, or visible but allowed by no rule with these arguments (then that is the reason).
pub fn denied(to: To<'_>, policy: &str, rule: &str, reason: &str) -> Vec<u8> {
    let text = match sentence(reason) {
        "" => format!("Denied by policy {policy}, rule {rule}. Do not retry."),
        reason => format!("Denied by policy {policy}, rule {rule}: {reason}. Do not retry."),
    };
    tool_refused(to, &text, None)
}

/// Arguments that do not satisfy the tool's `inputSchema` where a rule reads them: which field, and
/// what it must be ("must be a string").
pub fn bad_arguments(to: To<'_>, field: &str, must: &str) -> Vec<u8> {
    let (field, must) = (printable(field, NAME_LIMIT), sentence(must));
    tool_refused(
        to,
        &format!("Invalid arguments: {field} {must}. Correct it and call again."),
        None,
    )
}

/// A limit that is exhausted; `window` as the policy writes it. Without a wait the call never fits.
pub fn limited(
    to: To<'_>,
    (max, window): (u64, &str),
    rule: &str,
    reason: &str,
    wait: Option<Duration>,
) -> Vec<u8> {
    let because = match sentence(reason) {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    let text = match wait {
        Some(wait) => format!(
            "Limit of {max} per {window} reached (rule {rule}){because}. Retry after {} s.",
            seconds(wait)
        ),
        None => format!(
            "This call costs more than the limit of {max} per {window} (rule {rule}) ever allows{because}. Do not retry."
        ),
    };
    tool_refused(to, &text, wait)
}

/// A limit that cannot be counted now: too many counters, or their server does not answer.
pub fn limit_unavailable(to: To<'_>, rule: &str, reason: &str, wait: Duration) -> Vec<u8> {
    let text = format!(
        "The limit of rule {rule} cannot be checked now: {}. Retry after {} s.",
        sentence(reason),
        seconds(wait)
    );
    tool_refused(to, &text, Some(wait))
}

/// A call that waits for a person, or was refused by one. `name` is the McpApproval's.
pub fn approval(to: To<'_>, name: &str, state: Approval<'_>) -> Vec<u8> {
    let text = match state {
        Approval::Pending { again, until } => format!(
            "Approval pending: a person must decide McpApproval {name}. Repeat the call unchanged in {} s, and again until it is decided; it expires at {until}.",
            seconds(again)
        ),
        Approval::Denied(reason) => match sentence(reason) {
            "" => format!(
                "Approval denied: McpApproval {name} was refused. Do not repeat the call unchanged."
            ),
            reason => format!(
                "Approval denied: McpApproval {name} was refused: {reason}. Do not repeat the call unchanged."
            ),
        },
        Approval::Stale => {
            format!(
                "Approval stale: the server that the call of McpApproval {name} would go to, or the state that it shows, has changed. Read the state again, then repeat the call unchanged to ask again."
            )
        }
        Approval::Withdrawn => {
            format!(
                "Approval withdrawn: McpApproval {name} was given up before a person decided it. Repeat the call unchanged to ask again."
            )
        }
        Approval::Expired => {
            format!(
                "Approval expired: McpApproval {name} ran out before the call was made. Repeat the call unchanged to ask again."
            )
        }
        Approval::Used => {
            format!(
                "Approval used: an equal call has used McpApproval {name}. Repeat the call only if it is to be made once more; that asks again."
            )
        }
        Approval::Void => {
            format!(
                "Approval void: the policy, the tool or the rights of the caller are no longer as they were when McpApproval {name} was asked for. Repeat the call unchanged to ask again."
            )
        }
    };
    let again = match state {
        Approval::Pending { again, .. } => Some((RETRY_AFTER_KEY, again.as_millis().to_string())),
        _ => None,
    };
    let named = (APPROVAL_KEY, json::quoted(name));
    refused_with(to, &text, [named].into_iter().chain(again))
}

/// A method that is unknown, or that policy refuses.
pub fn method_not_found(id: &Id<'_>, method: &str) -> Vec<u8> {
    error(
        Some(id),
        code::METHOD_NOT_FOUND,
        &format!("Method not found: {}", printable(method, NAME_LIMIT)),
        None,
    )
}

/// The upstream cannot be reached, did not answer, or answered what could not be read.
pub fn upstream_down(id: Option<&Id<'_>>, reason: &str, wait: Duration) -> Vec<u8> {
    let message = format!(
        "The MCP server behind the gateway failed: {}. Retry after {} s.",
        sentence(reason),
        seconds(wait)
    );
    let data = format!("{{\"retryAfterMs\":{}}}", wait.as_millis());
    error(id, code::INTERNAL_ERROR, &message, Some(&data))
}

/// The upstream, or something in front of it, refused the request with an HTTP error. Only what may
/// pass by itself invites a retry.
pub fn upstream_refused(id: Option<&Id<'_>>, reason: &str, wait: Option<Duration>) -> Vec<u8> {
    match wait {
        Some(wait) => upstream_down(id, reason, wait),
        None => {
            let message = format!(
                "The MCP server behind the gateway refused this: {}. Do not retry unchanged.",
                sentence(reason)
            );
            error(id, code::INTERNAL_ERROR, &message, None)
        }
    }
}

/// Bytes that are not strict JSON (never with an id), a batch, or a message of the wrong shape.
pub fn refusal(refusal: &Refusal) -> Vec<u8> {
    error(
        refusal.id.as_ref(),
        refusal.fault.code(),
        &refusal.fault.to_string(),
        None,
    )
}

/// A message that is refused for a header, a missing session and the like.
pub fn invalid_request(id: Option<&Id<'_>>, reason: &str) -> Vec<u8> {
    error(
        id,
        code::INVALID_REQUEST,
        &format!("Invalid request: {reason}"),
        None,
    )
}

/// `params` that a method cannot be decided on.
pub fn invalid_params(id: &Id<'_>, reason: &str) -> Vec<u8> {
    error(
        Some(id),
        code::INVALID_PARAMS,
        &format!("Invalid params: {reason}"),
        None,
    )
}

/// The session id does not open: unknown, expired or another grant's, without saying which.
pub fn session_unknown(id: Option<&Id<'_>>) -> Vec<u8> {
    error(
        id,
        code::SESSION_NOT_FOUND,
        "Session not found; send initialize to start a new one",
        None,
    )
}

/// A stateless request to an upstream of the session era, or one of an unknown version (400,
/// 2026-07-28, `UnsupportedProtocolVersionError`). Only session versions are listed: a client that
/// knows one of them then falls back to `initialize`.
pub fn unsupported_version(id: Option<&Id<'_>>, supported: &[Version], requested: &str) -> Vec<u8> {
    let mut data = String::from("{\"supported\":[");
    for (index, version) in supported.iter().enumerate() {
        if index > 0 {
            data.push(',');
        }
        json::write_string(&mut data, version.as_str());
    }
    data.push_str("],\"requested\":");
    json::write_string(&mut data, &printable(requested, NAME_LIMIT));
    data.push('}');
    error(
        id,
        code::UNSUPPORTED_PROTOCOL_VERSION,
        "Unsupported protocol version",
        Some(&data),
    )
}

/// A header that does not say what the body says (400, 2026-07-28, `HeaderMismatchError`).
pub fn header_mismatch(id: Option<&Id<'_>>, reason: &str) -> Vec<u8> {
    error(
        id,
        code::HEADER_MISMATCH,
        &format!("Header mismatch: {reason}"),
        None,
    )
}

fn open(id: Option<&Id<'_>>) -> String {
    let mut out = String::with_capacity(256);
    out.push_str("{\"jsonrpc\":\"2.0\",");
    out.push_str("\"id\":");
    match id {
        Some(id) => id.write(&mut out),
        None => out.push_str("null"),
    }
    out.push(',');
    out
}

/// A reason as part of a sentence: without its full stop.
fn sentence(reason: &str) -> &str {
    reason.trim().trim_end_matches('.')
}

/// Whole seconds, never too few.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::super::envelope;
    use super::*;

    const NEW: Version = Version::V2025_11_25;

    fn to<'a>(version: Version, id: &'a Id<'a>) -> To<'a> {
        To {
            version,
            id,
            decision: None,
        }
    }

    fn text(bytes: Vec<u8>) -> String {
        envelope::parse(&bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    fn one() -> Id<'static> {
        Id::Integer(1)
    }

    #[test]
    fn hidden_and_absent_tools_get_the_same_answer_under_the_callers_id() {
        assert_eq!(
            text(unknown_tool(&Id::String("a\"b".into()), "delete_run")),
            r#"{"jsonrpc":"2.0","id":"a\"b","error":{"code":-32602,"message":"Unknown tool: delete_run"}}"#
        );
        assert_eq!(
            text(unknown_prompt(&one(), "p")),
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Unknown prompt: p"}}"#
        );
        assert_eq!(
            text(unknown_resource(&one(), "file:///x")),
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Unknown resource: file:///x"}}"#
        );
    }

    #[test]
    fn echoed_names_are_escaped_and_cut() {
        let answer = text(unknown_tool(
            &one(),
            &format!("a\"\n\u{202e}{}", "x".repeat(1 << 20)),
        ));
        let expected = format!(
            r#"{{"jsonrpc":"2.0","id":1,"error":{{"code":-32602,"message":"Unknown tool: a\"\\u{{a}}\\u{{202e}}{}…"}}}}"#,
            "x".repeat(124)
        );
        assert_eq!(answer, expected);
    }

    fn is_error(message: &str) -> String {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"result":{{"content":[{{"type":"text","text":"{message}"}}],"isError":true}}}}"#
        )
    }

    #[test]
    fn denials_reach_the_model_as_a_tool_result() {
        let reason = "Deletions go through the platform team.";
        assert_eq!(
            text(denied(
                to(NEW, &one()),
                "mlflow-default",
                "deletions",
                reason
            )),
            is_error(
                "Denied by policy mlflow-default, rule deletions: Deletions go through the platform team. Do not retry."
            )
        );
        assert_eq!(
            text(denied(to(NEW, &one()), "p", "r", "")),
            is_error("Denied by policy p, rule r. Do not retry.")
        );
        let modern = text(denied(to(Version::V2026_07_28, &one()), "p", "r", ""));
        assert!(
            modern.ends_with(r#""isError":true,"resultType":"complete"}}"#),
            "{modern}"
        );
        assert_eq!(
            text(bad_arguments(to(NEW, &one()), "/alias", "must be a string")),
            is_error("Invalid arguments: /alias must be a string. Correct it and call again.")
        );
    }

    #[test]
    fn a_limit_says_when_to_call_again_and_why() {
        let limited =
            |reason, wait| text(limited(to(NEW, &one()), (30, "1m"), "tags", reason, wait));
        let wait = Some(Duration::from_millis(11_001));
        assert_eq!(
            limited("", wait),
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"Limit of 30 per 1m reached (rule tags). Retry after 12 s."}],"isError":true,"_meta":{"portcullis.dev/retryAfterMs":11001}}}"#
        );
        assert!(limited("Tag in bulk.\nAsk us how.", wait).contains(
            r#""Limit of 30 per 1m reached (rule tags): Tag in bulk.\nAsk us how. Retry after 12 s.""#
        ));
        assert!(limited("Too much.", None).contains(
            r#""This call costs more than the limit of 30 per 1m (rule tags) ever allows: Too much. Do not retry.""#
        ));
    }

    #[test]
    fn approvals_name_their_object_and_what_to_do() {
        let answer = |state| text(approval(to(NEW, &one()), "mlflow-ab12-0", state));
        assert_eq!(
            answer(Approval::Pending {
                again: Duration::from_secs(30),
                until: "2026-11-21T12:30:00Z"
            }),
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"Approval pending: a person must decide McpApproval mlflow-ab12-0. Repeat the call unchanged in 30 s, and again until it is decided; it expires at 2026-11-21T12:30:00Z."}],"isError":true,"_meta":{"portcullis.dev/approval":"mlflow-ab12-0","portcullis.dev/retryAfterMs":30000}}}"#
        );
        assert!(answer(Approval::Stale).contains("epeat the call unchanged"));
        assert!(answer(Approval::Withdrawn).contains("epeat the call unchanged"));
        assert_eq!(
            answer(Approval::Denied("7 is worse.")),
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"Approval denied: McpApproval mlflow-ab12-0 was refused: 7 is worse. Do not repeat the call unchanged."}],"isError":true,"_meta":{"portcullis.dev/approval":"mlflow-ab12-0"}}}"#
        );
        assert!(answer(Approval::Expired).contains("epeat the call unchanged"));
    }

    #[test]
    fn failures_of_transport_and_message_have_their_codes() {
        assert_eq!(
            text(upstream_down(
                Some(&one()),
                "connection refused",
                Duration::from_secs(2)
            )),
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"The MCP server behind the gateway failed: connection refused. Retry after 2 s.","data":{"retryAfterMs":2000}}}"#
        );
        let refused = |bytes: &[u8]| text(refusal(&envelope::parse(bytes).unwrap_err()));
        assert_eq!(
            refused(b"{"),
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error: the JSON text ends too early at byte 1"}}"#
        );
        assert_eq!(
            refused(b"[]"),
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Invalid request: batches are not supported; send one message per POST"}}"#
        );
        assert_eq!(
            refused(br#"{"jsonrpc":"2.0","id":3,"method":"ping","params":1}"#),
            r#"{"jsonrpc":"2.0","id":3,"error":{"code":-32600,"message":"Invalid request: params must be an object"}}"#
        );
        assert_eq!(
            text(method_not_found(&one(), "tasks/list")),
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"Method not found: tasks/list"}}"#
        );
    }

    #[test]
    fn an_unsupported_version_is_answered_as_the_schema_demands() {
        assert_eq!(
            text(unsupported_version(
                Some(&one()),
                &Version::SESSION,
                "2026-07-28"
            )),
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":"Unsupported protocol version","data":{"supported":["2025-11-25","2025-06-18","2025-03-26"],"requested":"2026-07-28"}}}"#
        );
    }
}
