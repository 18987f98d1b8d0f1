//! Where a request for approval stands: the one state machine of `serve` and the cluster.
//!
//! In: an McpApproval, the call that asks, the time. Out: what the call may do, and whether there
//! is room for another request. Pure. Must not do: keep requests or change them.

use std::collections::HashMap;

use jiff::Timestamp;

use super::{ApprovalKey, NotRequested, PENDING_PER_GRANT, PENDING_PER_SERVER, Standing};
use crate::api::approval::{McpApproval, McpApprovalSpec, Phase, ServerRef, Verdict};

/// It cannot be used any more.
pub(super) fn finished(object: &McpApproval, now: Timestamp) -> bool {
    object.ended_at().is_some() || object.spec.expires_at.0 <= now
}

/// A person still has to decide.
pub(super) fn pending(object: &McpApproval, now: Timestamp) -> bool {
    !finished(object, now) && object.ruling().is_none()
}

/// What a call that asks for it is answered. `version` is what [`super::Approvals::consume`] must
/// still find.
pub(super) fn standing(
    object: &McpApproval,
    key: &ApprovalKey,
    version: impl FnOnce() -> String,
    now: Timestamp,
) -> Standing {
    let key = key.clone();
    match object.phase_at(now) {
        Phase::Stale => return Standing::Stale(key),
        Phase::Withdrawn => return Standing::Withdrawn(key),
        Phase::Consumed => return Standing::Used(key),
        Phase::Expired => return Standing::Expired(key),
        Phase::Pending | Phase::Approved | Phase::Denied => {}
    }
    match object.ruling() {
        None => Standing::Pending(key, object.spec.expires_at.0),
        Some(ruling) => match ruling.verdict {
            Verdict::Approved => {
                let observed = object.spec.observed.clone().map(Box::new);
                Standing::Approved(key, version(), observed)
            }
            Verdict::Denied => Standing::Denied(key, ruling.clone()),
        },
    }
}

/// Until when the answer to a repeated call says that its request has expired: for as long again as
/// the request was open. After that it just asks again.
pub(super) fn told_until(object: &McpApproval) -> Timestamp {
    let (asked, expires) = (object.spec.requested_at.0, object.spec.expires_at.0);
    let again = expires.saturating_add(expires.duration_since(asked));
    again.unwrap_or(expires)
}

/// Whether two requests agree in all that a person reads of the call; only the times, what was
/// observed and what was decided may differ. The digest is compared by [`super::ApprovalRequest`].
pub(super) fn same_call(one: &McpApprovalSpec, other: &McpApprovalSpec) -> bool {
    // Each field is named, so that a new one is not forgotten here.
    let McpApprovalSpec {
        server_ref: ServerRef { name },
        grant,
        tool,
        arguments_digest: _,
        arguments_preview,
        upstream,
        policy,
        rule,
        requested_at: _,
        expires_at: _,
        decision_id: _,
        approvers: _,
        observed: _,
        decisions: _,
    } = one;
    *name == other.server_ref.name
        && *grant == other.grant
        && *tool == other.tool
        && *arguments_preview == other.arguments_preview
        && *upstream == other.upstream
        && *policy == other.policy
        && *rule == other.rule
        && one.approvers() == other.approvers()
}

/// Whether a caller may ask for another approval, and at whose cost.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AskRoom {
    /// There is room.
    Free,
    /// The server has reached its limit: the oldest request of that grant makes room.
    From(String),
}

/// Where a server has reached its limit, the caller with the most requests gives up its oldest one,
/// if it still has more than this caller then. `open` has the grant of each open request.
pub(super) fn room<'a>(
    open: impl Iterator<Item = &'a str>,
    grant: &str,
) -> Result<AskRoom, NotRequested> {
    let mut by_grant: HashMap<&str, usize> = HashMap::new();
    for grant in open {
        *by_grant.entry(grant).or_default() += 1;
    }
    let own = by_grant.get(grant).copied().unwrap_or(0);
    if own >= PENDING_PER_GRANT {
        return Err(NotRequested::GrantFull);
    }
    if by_grant.values().sum::<usize>() < PENDING_PER_SERVER {
        return Ok(AskRoom::Free);
    }
    let most = by_grant
        .iter()
        .max_by_key(|(grant, count)| (**count, **grant));
    let (grant, _) = most
        .filter(|(_, count)| **count > own + 1)
        .ok_or(NotRequested::ServerFull)?;
    Ok(AskRoom::From((*grant).to_owned()))
}
