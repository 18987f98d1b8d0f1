//! Answers that the gateway gives itself, and the words of refusals.

use std::time::Duration;

use http::header::ALLOW;
use http::{HeaderValue, Response, StatusCode};

use crate::gateway::body::message::{RETRY_AFTER, json_response};
use crate::gateway::body::{Body, empty};
use crate::gateway::enforce::Refusal;
use crate::gateway::upstream::UpstreamError;
use crate::protocol::answer::{self, To};
use crate::protocol::envelope;
use crate::protocol::header::HeaderFault;

/// What a client gets.
pub(super) type Answer = Response<Body>;

/// A refusal with this status and message.
pub(super) fn refuse(status: StatusCode, body: Vec<u8>) -> Box<Answer> {
    Box::new(json_response(status, body))
}

/// A refusal of a method, with those that are answered (RFC 9110 section 15.5.6).
pub(super) fn method_not_allowed(allowed: &'static str, why: &str) -> Box<Answer> {
    let body = answer::invalid_request(None, why);
    let mut response = refuse(StatusCode::METHOD_NOT_ALLOWED, body);
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// A fault of a header, with the status that it stands for.
pub(super) fn header_refusal(fault: HeaderFault) -> Box<Answer> {
    let status = match fault {
        HeaderFault::AcceptPost | HeaderFault::AcceptGet => StatusCode::NOT_ACCEPTABLE,
        HeaderFault::ContentType | HeaderFault::ContentEncoding => {
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        }
        _ => StatusCode::BAD_REQUEST,
    };
    refuse(status, answer::invalid_request(None, &fault.to_string()))
}

/// Accepts a message that needs no answer.
pub(super) fn accepted() -> Answer {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

/// A fault in `params` without its own prefix, which the answer adds.
pub(super) fn fault_text(fault: &envelope::Fault) -> String {
    let text = fault.to_string();
    match text.strip_prefix("Invalid params: ") {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

/// An upstream error as an agent may know it: no address, no cause.
pub(super) fn shown(error: &UpstreamError) -> String {
    error.to_string()
}

/// When a call may come again that could not be recorded.
const UNRECORDED_RETRY_AFTER: Duration = Duration::from_secs(30);

/// When a call may be repeated that waits for a person.
const APPROVAL_RETRY_AFTER: Duration = Duration::from_secs(30);

/// Says that a call was not made because it could not be recorded.
pub(super) fn unrecorded(why: &str) -> String {
    format!(
        "The call was not made because it could not be recorded: {why}. Tell the operator of this gateway; retry after {} s.",
        UNRECORDED_RETRY_AFTER.as_secs()
    )
}

pub(super) fn refusal_body(to: To<'_>, tool: &str, refusal: &Refusal) -> Vec<u8> {
    match refusal {
        Refusal::Unknown | Refusal::Cancelled => answer::unknown_tool(to.id, tool),
        Refusal::Denied { by, reason } => answer::denied(
            to,
            &by.policy_label(),
            &by.rule,
            reason.as_deref().unwrap_or(""),
        ),
        Refusal::BadArguments(why) => answer::tool_refused(
            to,
            &format!("Invalid arguments: {why}. Correct it and call again."),
            None,
        ),
        Refusal::Limited {
            by,
            reason,
            max,
            window,
            retry_after,
        } => answer::limited(
            to,
            (*max, window),
            &by.rule,
            reason.as_deref().unwrap_or(""),
            *retry_after,
        ),
        Refusal::Uncounted {
            by,
            why,
            retry_after,
        } => answer::limit_unavailable(to, &by.rule, why, *retry_after),
        Refusal::Pending { name, until } => {
            let until = until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let state = answer::Approval::Pending {
                again: APPROVAL_RETRY_AFTER,
                until: &until,
            };
            answer::approval(to, name, state)
        }
        Refusal::ApprovalStale { name } => answer::approval(to, name, answer::Approval::Stale),
        Refusal::ApprovalWithdrawn { name } => {
            answer::approval(to, name, answer::Approval::Withdrawn)
        }
        Refusal::ApprovalDenied { name, reason } => answer::approval(
            to,
            name,
            answer::Approval::Denied(reason.as_deref().unwrap_or("")),
        ),
        Refusal::ApprovalExpired { name } => answer::approval(to, name, answer::Approval::Expired),
        Refusal::ApprovalUsed { name } => answer::approval(to, name, answer::Approval::Used),
        Refusal::ApprovalVoid { name } => answer::approval(to, name, answer::Approval::Void),
        Refusal::ApprovalRefused { by, why } => {
            answer::denied(to, &by.policy_label(), &by.rule, why)
        }
        Refusal::ApprovalUnavailable { by, retry_after } => answer::tool_refused(
            to,
            &format!(
                "Approval unavailable: policy {}, rule {} asks a person about this call, and the Kubernetes API, where approvals are kept, cannot be used now. The call was not made. Repeat it unchanged in {} s.",
                by.policy_label(),
                by.rule,
                retry_after.as_secs()
            ),
            Some(*retry_after),
        ),
        Refusal::Unobserved { by, why } => answer::tool_refused(
            to,
            &format!(
                "Approval not asked for: policy {}, rule {} asks a person about this call and shows what it changes, and that could not be read: {why}. The call was not made. Call again when it can be read.",
                by.policy_label(),
                by.rule,
            ),
            None,
        ),
        Refusal::Unrecorded(why) => {
            answer::tool_refused(to, &unrecorded(why), Some(UNRECORDED_RETRY_AFTER))
        }
        Refusal::Unavailable => answer::upstream_down(
            Some(to.id),
            "its tools have not been listed yet",
            RETRY_AFTER,
        ),
    }
}
