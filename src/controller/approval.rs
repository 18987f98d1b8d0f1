//! Reconciling an McpApproval: its phase for people, its expiry, its removal. Gateways trust none
//! of it.
//!
//! In: the request, its decision, the time. Out: a phase, and when to look again. Must not do:
//! decide, or write `consumedAt`.

use std::time::Duration;

use jiff::Timestamp;
use kube::api::{Api, DeleteParams, Preconditions};

use crate::api::approval::{McpApproval, McpApprovalStatus, Phase};
use crate::controller::context::Context;
use crate::controller::names::Name;
use crate::controller::runtime::workqueue::Action;
use crate::controller::runtime::writer::{self, WriteError};

pub async fn reconcile(ctx: &Context, name: &Name) -> Result<Action, WriteError> {
    let Some(object) = ctx.caches.approvals.get(name) else {
        return Ok(Action::AwaitChange);
    };
    let (Ok(approval), None) = (object.object(), &object.metadata().deletion_timestamp) else {
        return Ok(Action::AwaitChange);
    };
    let now = Timestamp::now();
    let (phase, next) = phase(approval, ctx.args.approval_retention, now);
    match next {
        Next::Remove => {
            remove(ctx, name, approval).await?;
            return Ok(Action::AwaitChange);
        }
        Next::Settled | Next::At(_) => {}
    }
    let status = approval.status.clone().unwrap_or_default();
    if status.phase != Some(phase) {
        let status = McpApprovalStatus {
            phase: Some(phase),
            ..status
        };
        let first = approval
            .status
            .as_ref()
            .is_none_or(|status| status.phase.is_none());
        writer::status::<McpApproval>(&ctx.client, object.metadata(), &status).await?;
        if first && phase == Phase::Pending {
            ctx.events.approval_requested(approval);
        }
    }
    Ok(match next {
        Next::At(at) => Action::RequeueAfter(until(now, at)),
        Next::Settled | Next::Remove => Action::AwaitChange,
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Settled,
    At(Timestamp),
    Remove,
}

/// Where an approval stands, and what comes next by the clock.
fn phase(approval: &McpApproval, retention: Duration, now: Timestamp) -> (Phase, Next) {
    let expires = approval.spec.expires_at.0;
    let phase = approval.phase_at(now);
    let finished = approval
        .ended_at()
        .or_else(|| (now >= expires).then_some(expires));
    let next = match finished {
        None => Next::At(expires),
        Some(at) => match at.checked_add(retention) {
            Ok(end) if now >= end => Next::Remove,
            Ok(end) => Next::At(end),
            Err(_) => Next::Settled,
        },
    };
    (phase, next)
}

fn until(now: Timestamp, at: Timestamp) -> Duration {
    // A moment later, so that it is past that time for sure.
    Duration::try_from(at.duration_since(now)).unwrap_or_default() + Duration::from_millis(100)
}

async fn remove(ctx: &Context, name: &Name, approval: &McpApproval) -> Result<(), WriteError> {
    let api: Api<McpApproval> = Api::namespaced(ctx.client.clone(), &name.0);
    let params = DeleteParams::default().preconditions(Preconditions {
        uid: approval.metadata.uid.clone(),
        resource_version: approval.metadata.resource_version.clone(),
    });
    match api.delete(&name.1, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(WriteError::Api {
            kind: "McpApproval",
            name: name.1.clone(),
            source: Box::new(error),
        }),
    }
}

#[cfg(test)]
mod reconcile_tests;
#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn stands(decision: Option<&str>, consumed: Option<i64>, now: i64) -> (Phase, Next) {
        let consumed = consumed.map(|second| at(second).to_string());
        stands_with(decision, json!({"consumedAt": consumed}), now)
    }

    fn stands_with(decision: Option<&str>, status: Value, now: i64) -> (Phase, Next) {
        let approval: McpApproval = serde_json::from_value(json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpApproval", "metadata": {"name": "a"},
            "spec": {
                "serverRef": {"name": "m"}, "grant": "g", "tool": "t", "argumentsDigest": "d", "argumentsPreview": "{}",
                "policy": "p", "rule": "r", "requestedAt": at(0).to_string(), "expiresAt": at(100).to_string(),
                "decisions": decision.map_or(json!([]), |verdict| json!([{"verdict": verdict, "by": "alice"}])),
            },
            "status": status,
        }))
        .unwrap();
        phase(&approval, Duration::from_secs(1_000), at(now))
    }

    #[test]
    fn the_phase_follows_from_decision_consumption_and_time() {
        assert_eq!(stands(None, None, 1), (Phase::Pending, Next::At(at(100))));
        assert_eq!(
            stands(Some("Approved"), None, 99),
            (Phase::Approved, Next::At(at(100)))
        );
        assert_eq!(
            stands(Some("Approved"), None, 100),
            (Phase::Expired, Next::At(at(1_100)))
        );
        assert_eq!(
            stands(Some("Denied"), None, 1),
            (Phase::Denied, Next::At(at(100)))
        );
        assert_eq!(
            stands(Some("Denied"), None, 200),
            (Phase::Denied, Next::At(at(1_100)))
        );
        assert_eq!(
            stands(None, None, 200),
            (Phase::Expired, Next::At(at(1_100)))
        );
        assert_eq!(
            stands(Some("Approved"), Some(50), 200),
            (Phase::Consumed, Next::At(at(1_050)))
        );
        assert_eq!(
            stands(Some("Approved"), Some(50), 1_050),
            (Phase::Consumed, Next::Remove)
        );
        assert_eq!(stands(None, None, 1_100), (Phase::Expired, Next::Remove));
        for (field, expected) in [("staleAt", Phase::Stale), ("withdrawnAt", Phase::Withdrawn)] {
            assert_eq!(
                stands_with(Some("Approved"), json!({field: at(50).to_string()}), 60),
                (expected, Next::At(at(1_050)))
            );
        }
    }
}
