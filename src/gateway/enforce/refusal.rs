//! Why a call is not forwarded.
//!
//! In: nothing. Out: the reasons, with what their answers need. Must not do: say them in words; the
//! transport does.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::policy::decision::RuleId;

/// Why a call is not forwarded, in the words of the answers table.
#[derive(Debug, PartialEq)]
pub enum Refusal {
    /// Not in the inventory, or hidden: callers cannot tell the difference.
    Unknown,
    /// Denied by a rule, or because nothing allows it.
    Denied {
        /// The rule.
        by: Arc<RuleId>,
        /// The reason given by its author or the engine.
        reason: Option<Arc<str>>,
    },
    /// The arguments are not as the schema says.
    BadArguments(Arc<str>),
    /// A counter is exhausted.
    Limited {
        /// The rule.
        by: Arc<RuleId>,
        /// The reason given by its author.
        reason: Option<Arc<str>>,
        /// Units allowed.
        max: u64,
        /// In any window of this length, as written.
        window: String,
        /// When the call would pass; None if it never can.
        retry_after: Option<Duration>,
    },
    /// The call cannot be counted.
    Uncounted {
        /// The rule.
        by: Arc<RuleId>,
        /// Why.
        why: &'static str,
        /// When to try again.
        retry_after: Duration,
    },
    /// Waiting for a person.
    Pending {
        /// The McpApproval.
        name: String,
        /// When it expires.
        until: Timestamp,
    },
    /// The server that the call goes to, or the observed state, has changed since the request was
    /// made.
    ApprovalStale {
        /// The McpApproval.
        name: String,
    },
    /// Another call of the same kind gave it up, or it had to make room for another caller's.
    ApprovalWithdrawn {
        /// The McpApproval.
        name: String,
    },
    /// A person said no.
    ApprovalDenied {
        /// The McpApproval.
        name: String,
        /// What the person said.
        reason: Option<String>,
    },
    /// It ran out.
    ApprovalExpired {
        /// The McpApproval.
        name: String,
    },
    /// Another call used it.
    ApprovalUsed {
        /// The McpApproval.
        name: String,
    },
    /// It is not for this call any more, as the policy, the tool or the caller's rights have
    /// changed.
    ApprovalVoid {
        /// The McpApproval.
        name: String,
    },
    /// No approval could be requested.
    ApprovalRefused {
        /// The rule.
        by: Arc<RuleId>,
        /// Why.
        why: String,
    },
    /// The place where approvals are kept does not answer.
    ApprovalUnavailable {
        /// The rule that asks for approval.
        by: Arc<RuleId>,
        /// When to try again.
        retry_after: Duration,
    },
    /// The current state could not be read, so that no person can approve a change of it.
    Unobserved {
        /// The rule that asks for approval.
        by: Arc<RuleId>,
        /// Why.
        why: String,
    },
    /// The client cancelled the call while it was held: no answer is owed.
    Cancelled,
    /// The upstream has never been listed, so nothing can be decided.
    Unavailable,
    /// The audit log cannot be written, and the spec says to refuse what cannot be recorded.
    Unrecorded(String),
}
