//! Runs one case against bound policies and compares the result with the expectation.
//!
//! In: a case. Out: its result. Every case has its own counters, and all its calls are made at one
//! moment.

use super::{Case, CaseResult, Expect, Miss, Verdict};
use crate::policy::approval;
use crate::policy::decision::{Call, Caller, CallerKind, CounterKey, Decision, Denial, Outcome};
use crate::policy::inventory::Bound;
use crate::policy::limit::Window;
use jiff::Timestamp;
use std::{collections::HashMap, time::Duration};

/// Calls that one case may make.
const MAX_CALLS: u32 = 100_000;

struct Came {
    verdict: Verdict,
    decision: Decision,
    visible: bool,
}

impl Case {
    pub(super) fn run(&self, bound: &Bound, now: Timestamp) -> CaseResult {
        let came = self.decide(bound, now);
        let (failures, decision, rule) = match &came {
            Err(miss) => (vec![miss.clone()], None, String::new()),
            Ok(came) => (
                self.compare(came),
                Some(came.verdict),
                came.decision.by.to_string(),
            ),
        };
        CaseResult {
            name: self.title(),
            passed: failures.is_empty(),
            failures,
            decision,
            rule,
        }
    }

    /// What is wrong with the case itself.
    pub(super) fn fault(&self) -> Option<Miss> {
        let subjects = [&self.call, &self.prompt, &self.resource];
        match subjects.into_iter().flatten().count() {
            0 => {
                return miss(
                    "",
                    "nothing is called; write call: and the name of a tool, or prompt: or resource:",
                );
            }
            1 => {}
            _ => {
                return miss(
                    "",
                    "this case calls several things; write exactly one of call, prompt and resource",
                );
            }
        }
        if let Err(why) = self.caller() {
            return miss("caller", why);
        }
        if let Some(now) = &self.now
            && now.parse::<Timestamp>().is_err()
        {
            return miss(
                "now",
                format!("`{now}` is not a time; write for example 2026-01-31T12:00:00Z"),
            );
        }
        if self
            .times
            .is_some_and(|times| times == 0 || times > MAX_CALLS)
        {
            return miss("times", format!("write 1 to {MAX_CALLS}"));
        }
        if self.expect == Expect::default() {
            return miss(
                "expect",
                "nothing is expected, so the case cannot fail; write for example decision: Allow",
            );
        }
        None
    }

    fn title(&self) -> String {
        if !self.name.is_empty() {
            return self.name.clone();
        }
        let subject = self
            .call
            .as_ref()
            .or(self.prompt.as_ref())
            .or(self.resource.as_ref());
        format!(
            "{} by {}",
            subject.map_or("nothing", |name| name),
            self.caller.as_deref().unwrap_or("anonymous")
        )
    }

    fn decide(&self, bound: &Bound, now: Timestamp) -> Result<Came, Miss> {
        if let Some(fault) = self.fault() {
            return Err(fault);
        }
        let of = |path: &str| {
            let path = path.to_owned();
            move |message: String| Miss { path, message }
        };
        let caller = self.caller().map_err(of("caller"))?;
        let now = self
            .now
            .as_ref()
            .and_then(|text| text.parse().ok())
            .unwrap_or(now);
        let times = self.times.unwrap_or(1);
        match (&self.call, &self.prompt, &self.resource) {
            (Some(tool), None, None) => {
                let arguments = serde_json::to_vec(&self.args)
                    .map_err(|error| of("args")(error.to_string()))?;
                let call = Call {
                    tool,
                    arguments: &arguments,
                    caller: &caller,
                    session: &self.session,
                };
                let mut counters = HashMap::new();
                let mut last = Err(of("times")("write at least 1".to_owned()));
                for _ in 0..times {
                    let decision = bound.evaluate(&call, now);
                    let verdict = count(&decision, &mut counters);
                    let visible = bound.tool(tool).is_some()
                        && bound.visible(tool, &caller, &self.session, now);
                    last = Ok(Came {
                        verdict,
                        decision,
                        visible,
                    });
                }
                if let Ok(came) = &last
                    && came.decision.outcome == Outcome::RequireApproval
                    && let Some(tool) = bound.tool(tool)
                    && let Some(demand) = &came.decision.approval
                    && let Err(error) = approval::preview(&arguments, &demand.hidden(&tool.redact))
                {
                    return Err(of("args")(format!(
                        "no approval could be requested: {error}"
                    )));
                }
                last
            }
            (None, Some(name), None) => {
                let decision = bound.prompt(name, &caller);
                Ok(Came {
                    verdict: decision.outcome.into(),
                    decision,
                    visible: bound.prompt_visible(name, &caller),
                })
            }
            (None, None, Some(uri)) => {
                let decision = bound.resource(uri, &caller);
                Ok(Came {
                    verdict: decision.outcome.into(),
                    decision,
                    visible: bound.resource_visible(uri, &caller),
                })
            }
            _ => Err(of("")(
                "write exactly one of call, prompt and resource".to_owned(),
            )),
        }
    }

    fn caller(&self) -> Result<Caller, String> {
        let grant = self
            .caller
            .clone()
            .unwrap_or_else(|| "anonymous".to_owned());
        Ok(Caller {
            groups: self.groups.clone(),
            claims: self.claims.clone(),
            ..caller(&grant)?
        })
    }

    fn compare(&self, came: &Came) -> Vec<Miss> {
        let mut failures = Vec::new();
        let mut missed = |field: &str, message: String| {
            failures.push(Miss {
                path: format!("expect.{field}"),
                message,
            });
        };
        let expect = &self.expect;
        let by = &came.decision.by;
        if let Some(expected) = expect.decision
            && expected != came.verdict
        {
            let why = came
                .decision
                .reason
                .as_deref()
                .map(|reason| format!(" ({reason})"))
                .unwrap_or_default();
            missed(
                "decision",
                format!("expected {expected:?}, got {:?} by {by}{why}", came.verdict),
            );
        }
        if let Some(expected) = &expect.rule
            && *expected != by.rule
        {
            missed("rule", format!("expected rule {expected}, got {by}"));
        }
        if let Some(expected) = &expect.policy
            && *expected != by.policy
            && *expected != format!("{}/{}", by.namespace, by.policy)
        {
            missed("policy", format!("expected policy {expected}, got {by}"));
        }
        if let Some(expected) = expect.visible
            && expected != came.visible
        {
            let text = |visible| {
                if visible {
                    "in the list"
                } else {
                    "not in the list"
                }
            };
            missed(
                "visible",
                format!(
                    "expected to be {}, is {}",
                    text(expected),
                    text(came.visible)
                ),
            );
        }
        let shadow = came
            .decision
            .shadow
            .as_ref()
            .map(|shadow| Verdict::from(shadow.outcome));
        if let Some(expected) = expect.shadow
            && expect.shadow != shadow
        {
            let came = shadow.map_or_else(
                || "no other decision".to_owned(),
                |shadow| format!("{shadow:?}"),
            );
            missed(
                "shadow",
                format!("expected that Audit policies would decide {expected:?}, got {came}"),
            );
        }
        failures
    }
}

fn miss(path: &str, message: impl Into<String>) -> Option<Miss> {
    Some(Miss {
        path: path.to_owned(),
        message: message.into(),
    })
}

/// The caller of a grant's name, as `--caller` and test cases write it.
pub fn caller(grant: &str) -> Result<Caller, String> {
    let kind = match grant.split_once(':') {
        None if grant == "anonymous" => CallerKind::Anonymous,
        Some(("key", name)) if !name.is_empty() => CallerKind::Key,
        Some(("jwt", name)) if name.contains('/') => CallerKind::Jwt,
        Some(("serviceaccount", name)) if name.contains('/') => CallerKind::ServiceAccount,
        _ => {
            return Err(format!(
                "no caller is named {grant:?}; write key:<name>, serviceaccount:<namespace>/<name>, jwt:<provider>/<claim> or \
                 anonymous"
            ));
        }
    };
    Ok(Caller {
        grant: grant.to_owned(),
        kind,
        ..Caller::anonymous()
    })
}

/// Reserves what an allowed call asks for; all calls of a case are made at one moment.
fn count(decision: &Decision, counters: &mut HashMap<CounterKey, Window>) -> Verdict {
    if matches!(decision.outcome, Outcome::Deny(Denial::CostError)) {
        return Verdict::Deny;
    }
    let mut held = Vec::new();
    for charge in decision.charges.iter().filter(|charge| charge.enforced()) {
        let window = counters
            .entry(charge.key())
            .or_insert_with(|| Window::new(charge.counter.max, charge.counter.window));
        match window.reserve(Duration::ZERO, charge.cost) {
            Ok(reservation) => held.push((charge.key(), reservation)),
            Err(_) => {
                for (key, reservation) in held {
                    if let Some(window) = counters.get_mut(&key) {
                        window.refund(reservation);
                    }
                }
                return Verdict::Limited;
            }
        }
    }
    decision.outcome.into()
}
