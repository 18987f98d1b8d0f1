//! The cost of a call that is not refused, and the approval that it needs.

use super::plain;
use crate::api::policy::Scope;
use crate::policy::check::Env;
use crate::policy::decision::{ApprovalDemand, Call, Charge, Decision, Denial, Outcome};
use crate::policy::program::Rule;
use std::sync::Arc;

/// The units that matching rules ask for: a counter is charged once, at the highest cost.
pub(super) fn charges<'p>(
    rules: impl Iterator<Item = &'p Rule>,
    call: &Call<'_>,
    env: &Env<'_>,
) -> Result<Vec<Charge>, Decision> {
    let mut charges: Vec<Charge> = Vec::new();
    for rule in rules {
        for limit in &rule.limits {
            let cost = match limit.cost.as_ref().map(|cost| cost.units(env)) {
                None => 1,
                Some(Ok(0)) => continue,
                Some(Ok(units)) => units,
                Some(Err(error)) => {
                    let reason = format!(
                        "the cost for the counter {} could not be evaluated: {error}",
                        limit.counter.name
                    );
                    return Err(plain(
                        Outcome::Deny(Denial::CostError),
                        &rule.id,
                        Some(reason.into()),
                    ));
                }
            };
            if let Some(charge) = charges
                .iter_mut()
                .find(|charge| Arc::ptr_eq(&charge.counter, &limit.counter))
            {
                charge.cost = charge.cost.max(cost);
                continue;
            }
            let (scope, value) = match limit.counter.scope {
                Scope::Session if !call.session.is_empty() => (Scope::Session, call.session),
                Scope::Session | Scope::Grant => (Scope::Grant, call.caller.grant.as_str()),
                Scope::Server => (Scope::Server, ""),
            };
            charges.push(Charge {
                counter: Arc::clone(&limit.counter),
                scope,
                value: value.to_owned(),
                cost,
                by: Arc::clone(&rule.id),
                reason: rule.reason.clone(),
            });
        }
    }
    Ok(charges)
}

pub(super) fn demand<'p>(rules: impl Iterator<Item = &'p Rule>) -> Option<ApprovalDemand> {
    let mut demand: Option<ApprovalDemand> = None;
    for rule in rules {
        let (mut guardrails, mut others) = (None, Vec::new());
        if rule.id.qualified {
            guardrails = Some(rule.redact.clone());
        } else {
            others.clone_from(&rule.redact);
        }
        match &mut demand {
            None => {
                demand = Some(ApprovalDemand {
                    rules: vec![Arc::clone(&rule.id)],
                    expires_after: rule.expires_after,
                    wait_up_to: rule.wait_up_to,
                    approvers: rule.approvers,
                    guardrails_redact: guardrails,
                    redact: others,
                });
            }
            Some(demand) => {
                demand.rules.push(Arc::clone(&rule.id));
                demand.expires_after = demand.expires_after.min(rule.expires_after);
                demand.wait_up_to = demand.wait_up_to.min(rule.wait_up_to);
                demand.approvers = demand.approvers.max(rule.approvers);
                demand.redact.append(&mut others);
                match (&mut demand.guardrails_redact, guardrails) {
                    (Some(all), Some(more)) => all.retain(|pointer| more.contains(pointer)),
                    (all @ None, more) => *all = more,
                    (Some(_), None) => {}
                }
            }
        }
    }
    demand
}
