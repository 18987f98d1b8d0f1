//! The cost of a call that is not refused, and the approval that it needs.

use super::plain;
use crate::api::policy::Scope;
use crate::policy::canonical::sha256;
use crate::policy::check::Env;
use crate::policy::decision::{
    ApprovalDemand, Call, Charge, Decision, Denial, Observation, Outcome,
};
use crate::policy::program::{Limit, Observing, Rule};
use crate::{json, policy::arguments};
use std::{borrow::Cow, sync::Arc};

/// Bytes of canonical arguments that are written and hashed for one step of the call's budget.
const BYTES_PER_STEP: usize = 8;

/// The units that matching rules ask for: a counter is charged once, at the highest cost.
pub(super) fn charges<'p>(
    rules: impl Iterator<Item = &'p Rule>,
    call: &Call<'_>,
    env: &Env<'_>,
) -> Result<Vec<Charge>, Decision> {
    let mut charges: Vec<Charge> = Vec::new();
    let mut repeated: Option<String> = None;
    for rule in rules {
        for limit in &rule.limits {
            let cost = match limit.cost.as_ref().map(|cost| cost.units(env)) {
                None => 1,
                Some(Ok(0)) => continue,
                Some(Ok(units)) => units,
                Some(Err(error)) => {
                    return Err(uncounted(
                        rule,
                        limit,
                        format!("the cost could not be evaluated: {error}"),
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
                Scope::Session if !call.session.is_empty() => {
                    (Scope::Session, Cow::Borrowed(call.session))
                }
                Scope::Session | Scope::Grant => {
                    (Scope::Grant, Cow::Borrowed(call.caller.grant.as_str()))
                }
                Scope::Server => (Scope::Server, Cow::Borrowed("")),
                Scope::Call => {
                    let digest = match &repeated {
                        Some(digest) => digest.clone(),
                        None => identity(call, env).map_err(|why| uncounted(rule, limit, why))?,
                    };
                    repeated = Some(digest.clone());
                    (Scope::Call, Cow::Owned(digest))
                }
            };
            charges.push(Charge {
                counter: Arc::clone(&limit.counter),
                scope,
                value: value.into_owned(),
                cost,
                by: Arc::clone(&rule.id),
                reason: rule.reason.clone(),
            });
        }
    }
    Ok(charges)
}

/// The call cannot be counted, so it is denied.
fn uncounted(rule: &Rule, limit: &Limit, why: String) -> Decision {
    let reason = format!(
        "the call could not be counted for {}: {why}",
        limit.counter.name
    );
    plain(
        Outcome::Deny(Denial::CostError),
        &rule.id,
        Some(reason.into()),
    )
}

/// What equal calls share and no others: a digest of caller, tool and canonical arguments. Nothing
/// of them can be read from it, and it is short whatever they are.
fn identity(call: &Call<'_>, env: &Env<'_>) -> Result<String, String> {
    let value = arguments::read(call.arguments, env.fuel).map_err(|unread| unread.to_string())?;
    let arguments = json::canonical_by_value(&value);
    env.fuel
        .burn(arguments.len() / BYTES_PER_STEP)
        .map_err(|error| error.to_string())?;
    let mut bytes = Vec::with_capacity(arguments.len() + 256);
    for field in [&*call.caller.grant, call.tool, &*arguments] {
        bytes.extend_from_slice(&(field.len() as u64).to_be_bytes());
        bytes.extend_from_slice(field.as_bytes());
    }
    Ok(hex::encode(sha256(&bytes)))
}

/// What a person is asked; the decision to deny where what a rule observes cannot be evaluated.
pub(super) fn demand<'p>(
    rules: impl Iterator<Item = &'p Rule>,
    env: &Env<'_>,
) -> Result<Option<ApprovalDemand>, Decision> {
    let mut demand: Option<ApprovalDemand> = None;
    for rule in rules {
        let observe = match rule
            .observe
            .as_deref()
            .map(|observe| observation(observe, env))
        {
            None => None,
            Some(Ok(observation)) => Some(observation),
            Some(Err(why)) => return Err(unobservable(rule, &why)),
        };
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
                    observe,
                });
            }
            Some(demand) => {
                match (&demand.observe, observe) {
                    (_, None) => {}
                    (None, found) => demand.observe = found,
                    (Some(one), Some(other)) if *one == other => {}
                    // A person is shown one thing, and neither rule's author may lose theirs.
                    (Some(_), Some(_)) => {
                        return Err(unobservable(
                            rule,
                            "another rule that asks about this call observes something else, and one request shows one \
                             thing; let the rules observe the same, or only one of them",
                        ));
                    }
                }
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
    Ok(demand)
}

/// Bytes that the arguments of an observation may have.
const MAX_OBSERVE_ARGUMENTS: usize = 16 * 1024;

fn observation(observe: &Observing, env: &Env<'_>) -> Result<Observation, String> {
    let mut arguments = String::from("{");
    for (at, (name, argument)) in observe.args.iter().enumerate() {
        let value = argument
            .json(env)
            .map_err(|error| format!("approval.observe.args.{name}: {error}"))?;
        if at > 0 {
            arguments.push(',');
        }
        json::write_string(&mut arguments, name);
        arguments.push(':');
        arguments.push_str(&value);
        if arguments.len() > MAX_OBSERVE_ARGUMENTS {
            return Err(format!(
                "the arguments of approval.observe take more than {MAX_OBSERVE_ARGUMENTS} bytes; call with less at once"
            ));
        }
    }
    arguments.push('}');
    Ok(Observation {
        tool: observe.tool.clone(),
        arguments,
        reading: observe.reading.clone(),
    })
}

fn unobservable(rule: &Rule, why: &str) -> Decision {
    let reason = format!("the current state could not be read: {why}");
    plain(
        Outcome::Deny(Denial::ObserveError),
        &rule.id,
        Some(reason.into()),
    )
}
