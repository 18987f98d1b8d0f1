//! One call to one decision.
//!
//! In: a [`Bound`], a [`Call`] and the time. Out: a [`Decision`]; the function is total. Rules
//! combine without order: the strictest matching rule wins, and the decision names the first of
//! equally strict ones. Must not do: allow a call whose rules could not be evaluated.

mod charge;
mod names;
mod side;
mod visible;

use super::arguments;
use super::check::{Args, Env, EvalError, Fuel};
use super::decision::{Call, Caller, Decision, Denial, Outcome, RuleId, Shadow};
use super::inventory::{Bound, Tool, shows};
use super::program::{Closed, Rule};
use crate::api::policy::Action;
use charge::{charges, demand};
use jiff::Timestamp;
use side::{Bits, Side};
use std::sync::Arc;

/// What a rule says, once its selector and callers hold.
pub(super) enum Verdict {
    Matches,
    DoesNot,
    /// The condition of an Allow rule failed: the call is denied.
    Failed(EvalError),
}

/// Asks the condition. An error in a restricting rule means that it matches; in an Allow rule it
/// denies, as a broader Allow would otherwise admit the call without this rule's limits.
pub(super) fn verdict(rule: &Rule, env: &Env<'_>) -> Verdict {
    match rule.when.as_ref().map(|when| when.holds(env)) {
        None | Some(Ok(true)) => Verdict::Matches,
        Some(Ok(false)) => Verdict::DoesNot,
        Some(Err(error)) if rule.action == Action::Allow => Verdict::Failed(error),
        Some(Err(_)) => Verdict::Matches,
    }
}

fn outcome_of(action: Action) -> Outcome {
    match action {
        Action::Allow => Outcome::Allow,
        Action::RequireApproval => Outcome::RequireApproval,
        Action::Deny => Outcome::Deny(Denial::Rule),
        Action::Hide => Outcome::Hide,
    }
}

struct Judgement<'p> {
    enforced: Side<'p>,
    both: Side<'p>,
    matched: Bits,
}

impl<'p> Judgement<'p> {
    fn record(&mut self, at: usize, rule: &'p Rule, verdict: Verdict) {
        let failed;
        let (outcome, reason) = match verdict {
            Verdict::DoesNot => return,
            Verdict::Matches => {
                self.matched.set(at);
                if let Some(why) = &rule.restricts_only
                    && matches!(rule.action, Action::Allow | Action::RequireApproval)
                {
                    let approval = rule.action == Action::RequireApproval;
                    if !rule.audit {
                        self.enforced.restrict(&rule.id, why, approval);
                    }
                    self.both.restrict(&rule.id, why, approval);
                    return;
                }
                (outcome_of(rule.action), rule.reason.as_ref())
            }
            Verdict::Failed(error) => {
                failed = Arc::from(format!("its condition could not be evaluated: {error}"));
                (Outcome::Deny(Denial::ConditionError), Some(&failed))
            }
        };
        self.push(rule.audit, outcome, &rule.id, reason);
    }

    fn push(
        &mut self,
        audit: bool,
        outcome: Outcome,
        by: &'p Arc<RuleId>,
        reason: Option<&Arc<str>>,
    ) {
        if !audit {
            self.enforced.record(outcome, by, reason);
        }
        self.both.record(outcome, by, reason);
    }
}

impl Bound {
    /// Decides a call.
    pub fn evaluate(&self, call: &Call<'_>, now: Timestamp) -> Decision {
        let decision = self.decide(call, now);
        if self.program.audit {
            forwarded(decision)
        } else {
            decision
        }
    }

    /// The rules that select the tool and are for the caller, with their place among the tool's
    /// rules.
    fn applicable<'s>(
        &'s self,
        tool: &'s Tool,
        caller: &'s Caller,
    ) -> impl Iterator<Item = (usize, &'s Rule)> {
        tool.rules
            .iter()
            .enumerate()
            .filter_map(|(at, rule)| Some((at, self.program.rules.get(*rule as usize)?)))
            .filter(|(_, rule)| rule.callers.matches(&caller.grant))
    }

    fn decide(&self, call: &Call<'_>, now: Timestamp) -> Decision {
        let program = &*self.program;
        if let Some(closed) = &program.closed {
            return denied(closed);
        }
        let Some(tool) = self.tool(call.tool) else {
            return plain(Outcome::Unknown, &program.inventory, None);
        };
        if let Some(withheld) = &tool.withheld {
            return plain(
                Outcome::Hide,
                &program.inventory,
                Some(withheld.describe().into()),
            );
        }
        let mut judgement = Judgement {
            enforced: Side::default(),
            both: Side::default(),
            matched: Bits::default(),
        };
        // What Audit policies take must not be missing to the others.
        let (fuel, audit_fuel) = (Fuel::full(), Fuel::full());
        let without = env(
            tool,
            (call.caller, call.session),
            now,
            Args::default(),
            &fuel,
        );
        // The smallest rule that reads arguments, of Enforce policies and of any.
        let (mut reader, mut any_reader) = (None, None);
        for (at, rule) in self.applicable(tool, call.caller) {
            let reads = if rule.when_reads_args() {
                if shows(rule.action) {
                    judgement.both.may_show = true;
                    judgement.enforced.may_show |= !rule.audit;
                }
                true
            } else {
                let verdict = verdict(rule, &funded(&without, rule, &audit_fuel));
                let holds = matches!(verdict, Verdict::Matches);
                judgement.record(at, rule, verdict);
                holds && rule.reads.some()
            };
            if reads {
                any_reader = any_reader.or(Some(rule));
                reader = reader.or(Some(rule).filter(|rule| !rule.audit));
            }
        }
        // A call of a tool that the caller cannot see is answered before its arguments are read.
        if judgement.enforced.hides(&program.default) {
            return self.finish(call, tool, judgement, &without, &audit_fuel);
        }
        let Some(any_reader) = any_reader else {
            return self.finish(call, tool, judgement, &without, &audit_fuel);
        };
        let paid = if reader.is_some() { &fuel } else { &audit_fuel };
        let parsed = arguments::read(call.arguments, paid);
        let misfit: Arc<str> = match &parsed {
            Ok(value) => match tool.admit(value, paid) {
                Ok((fills, off)) => {
                    let with = Env {
                        args: Args::new(value, &fills),
                        ..without
                    };
                    for (at, rule) in self.applicable(tool, call.caller) {
                        let asks = rule.when_reads_args();
                        let misread = off.iter().find(|off| rule.reads.reads(&off.name));
                        match misread.filter(|_| asks || judgement.matched.get(at)) {
                            Some(off) => judgement.push(
                                rule.audit,
                                Outcome::BadArguments,
                                &rule.id,
                                Some(&off.misfit.0.as_str().into()),
                            ),
                            None if asks => {
                                judgement.record(
                                    at,
                                    rule,
                                    verdict(rule, &funded(&with, rule, &audit_fuel)),
                                );
                            }
                            None => {}
                        }
                    }
                    return self.finish(call, tool, judgement, &with, &audit_fuel);
                }
                Err(misfit) => misfit.0.into(),
            },
            Err(unread) => unread.to_string().into(),
        };
        judgement
            .both
            .record(Outcome::BadArguments, &any_reader.id, Some(&misfit));
        if let Some(reader) = reader {
            judgement
                .enforced
                .record(Outcome::BadArguments, &reader.id, Some(&misfit));
        }
        self.finish(call, tool, judgement, &without, &audit_fuel)
    }

    fn finish<'p>(
        &'p self,
        call: &Call<'_>,
        tool: &Tool,
        judgement: Judgement<'p>,
        env: &Env<'_>,
        audit_fuel: &Fuel,
    ) -> Decision {
        let program = &*self.program;
        let Judgement {
            enforced,
            both,
            matched,
        } = judgement;
        let matching = || {
            tool.rules
                .iter()
                .enumerate()
                .filter(|(at, _)| matched.get(*at))
                .filter_map(|(_, rule)| program.rules.get(*rule as usize))
        };
        let found = enforced.finish(&program.default);
        let mut decision = plain(found.outcome, found.by, found.reason);
        let goes_on = |outcome| matches!(outcome, Outcome::Allow | Outcome::RequireApproval);
        if goes_on(decision.outcome) {
            match charges(matching().filter(|rule| !rule.audit), call, env) {
                Ok(charges) => decision.charges = charges,
                Err(failed) => decision = failed,
            }
        }
        if decision.outcome == Outcome::RequireApproval {
            let asking =
                matching().filter(|rule| !rule.audit && rule.action == Action::RequireApproval);
            match demand(asking, env) {
                Ok(demand) => decision.approval = demand.map(Box::new),
                Err(failed) => decision = failed,
            }
        }
        if tool.has_audit_rules || program.shadow_default.action != program.default.action {
            let found = both.finish(&program.shadow_default);
            let mut shadow = plain(found.outcome, found.by, found.reason);
            if goes_on(shadow.outcome) && goes_on(decision.outcome) {
                let env = &Env {
                    fuel: audit_fuel,
                    ..*env
                };
                match charges(matching().filter(|rule| rule.audit), call, env) {
                    Ok(charges) => shadow.charges = charges,
                    Err(failed) => shadow = failed,
                }
            }
            if shadow.outcome.strictness() > decision.outcome.strictness() {
                let Decision {
                    outcome,
                    by,
                    reason,
                    ..
                } = shadow;
                decision.shadow = Some(Box::new(Shadow {
                    outcome,
                    by,
                    reason,
                }));
            } else {
                decision.charges.append(&mut shadow.charges);
            }
        }
        decision
    }
}

fn plain(outcome: Outcome, by: &Arc<RuleId>, reason: Option<Arc<str>>) -> Decision {
    Decision {
        outcome,
        by: Arc::clone(by),
        reason,
        charges: Vec::new(),
        approval: None,
        shadow: None,
    }
}

/// Nothing can be decided, so all is denied.
fn denied(closed: &Closed) -> Decision {
    let denial = if closed.blocked {
        Denial::Blocked
    } else {
        Denial::NoPolicy
    };
    plain(
        Outcome::Deny(denial),
        &closed.by,
        Some(Arc::clone(&closed.reason)),
    )
}

/// What `enforcement: Audit` makes of a decision: forwarded, with every refusal as a shadow.
fn forwarded(decision: Decision) -> Decision {
    let Decision {
        outcome,
        by,
        reason,
        charges,
        approval: _,
        shadow,
    } = decision;
    let refused = outcome.strictness() > Outcome::Allow.strictness();
    let shadow = shadow.or_else(|| {
        refused.then(|| {
            Box::new(Shadow {
                outcome,
                by: Arc::clone(&by),
                reason: reason.clone(),
            })
        })
    });
    Decision {
        outcome: Outcome::Allow,
        by,
        reason: reason.filter(|_| !refused),
        // A call that would have been refused would not have been counted.
        charges: if refused { Vec::new() } else { charges },
        approval: None,
        shadow,
    }
}

/// What a rule sees, at the cost of the policies that it belongs to.
fn funded<'a>(env: &Env<'a>, rule: &Rule, audit_fuel: &'a Fuel) -> Env<'a> {
    if rule.audit {
        Env {
            fuel: audit_fuel,
            ..*env
        }
    } else {
        *env
    }
}

pub(super) fn env<'a>(
    tool: &'a Tool,
    (caller, session): (&'a Caller, &'a str),
    now: Timestamp,
    args: Args<'a>,
    fuel: &'a Fuel,
) -> Env<'a> {
    Env {
        args,
        tool: &tool.name,
        risk: tool.risk_str(),
        severity: tool.severity_str(),
        caller,
        session,
        now,
        fuel,
    }
}
