//! Explains a decision, rule by rule.
//!
//! In: a [`Bound`], a call and the time. Out: the decision together with the result of each rule of
//! each policy, including rules that do not select the tool. Must not do: decide; the decision is
//! the one that the gateway would make.

use super::arguments;
use super::check::{Args, Env, Fuel, Reads};
use super::decision::{Call, Decision, Outcome};
use super::evaluate::{Verdict, env, verdict};
use super::inventory::Bound;
use super::program::{NotSelected, Rule};
use crate::api::policy::Action;
use jiff::Timestamp;
use serde::Serialize;

/// A decision and how it came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// What the gateway would do.
    pub decision: Decision,
    /// Whether the tool is in the caller's list.
    pub visible: bool,
    /// `tool.risk` as conditions see it; "" if the tool does not exist.
    pub risk: &'static str,
    /// `tool.severity` as conditions see it.
    pub severity: &'static str,
    /// Why the tool is hidden from all callers, if it is.
    pub withheld: Option<String>,
    /// The result of each rule, in order of attribution.
    pub steps: Vec<Step>,
}

/// The result of one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The policy, as messages name it.
    pub policy: String,
    /// The rule.
    pub rule: String,
    /// What the rule does.
    pub action: Action,
    /// Whether the policy only watches.
    pub audit: bool,
    /// What came of it.
    pub result: StepResult,
    /// The same in words.
    pub detail: String,
    /// What the condition, the costs and the observation of the rule read.
    #[serde(skip)]
    pub reads: Reads,
}

/// What came of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum StepResult {
    /// Its selector does not select the tool.
    OtherTool,
    /// It is not for this caller.
    OtherCaller,
    /// Its condition does not hold.
    DoesNotHold,
    /// It matches.
    Matches,
    /// Its condition failed: an Allow rule denies, any other matches.
    Failed,
    /// Its condition was not asked, as the arguments are not as the tool's schema says.
    NotAsked,
}

impl Bound {
    /// Decides a call and explains the decision.
    pub fn explain(&self, call: &Call<'_>, now: Timestamp) -> Trace {
        let decision = self.evaluate(call, now);
        let tool = self.tool(call.tool);
        let mut trace = Trace {
            decision,
            visible: self.visible(call.tool, call.caller, call.session, now) && tool.is_some(),
            risk: tool.map_or("", |tool| tool.risk_str()),
            severity: tool.map_or("", |tool| tool.severity_str()),
            withheld: tool
                .and_then(|tool| tool.withheld.as_ref())
                .map(|withheld| withheld.describe()),
            steps: Vec::new(),
        };
        let Some(tool) = tool else { return trace };
        let fuel = Fuel::full();
        let parsed = arguments::read(call.arguments, &fuel);
        let admitted = match &parsed {
            Ok(value) => tool
                .admit(value, &fuel)
                .map(|(fills, off)| (value, fills, off))
                .map_err(|misfit| misfit.0),
            Err(unread) => Err(unread.to_string()),
        };
        let without = env(
            tool,
            (call.caller, call.session),
            now,
            Args::default(),
            &fuel,
        );
        for rule in &self.program.rules {
            let (result, detail) = match rule.selector.selects(rule.action, &tool.name, tool.class)
            {
                Err(why) => (
                    StepResult::OtherTool,
                    not_selected(why, rule, tool.risk_str(), tool.severity_str()),
                ),
                Ok(()) if !rule.callers.matches(&call.caller.grant) => (
                    StepResult::OtherCaller,
                    format!("does not apply to {}", call.caller.grant),
                ),
                Ok(()) if !rule.when_reads_args() => ask(rule, &without),
                Ok(()) => match &admitted {
                    Ok((value, fills, off)) => {
                        match off.iter().find(|off| rule.reads.reads(&off.name)) {
                            None => ask(
                                rule,
                                &Env {
                                    args: Args::new(value, fills),
                                    ..without
                                },
                            ),
                            Some(off) => (StepResult::NotAsked, off.misfit.0.clone()),
                        }
                    }
                    Err(why) => (
                        StepResult::NotAsked,
                        format!("reads the arguments, but {why}"),
                    ),
                },
            };
            trace.steps.push(Step {
                policy: rule.id.policy_label().into_owned(),
                rule: rule.id.rule.clone(),
                action: rule.action,
                audit: rule.audit,
                result,
                detail,
                reads: rule.reads.clone(),
            });
        }
        trace
    }
}

impl Trace {
    /// The outcome in one word, as policy tests write it.
    pub fn outcome(&self) -> Outcome {
        self.decision.outcome
    }
}

fn ask(rule: &Rule, env: &Env<'_>) -> (StepResult, String) {
    let (result, mut detail) = asked(rule, env);
    if let Some(why) = &rule.restricts_only
        && matches!(rule.action, Action::Allow | Action::RequireApproval)
        && result == StepResult::Matches
    {
        detail = format!("{detail}, but allows nothing: {why}");
    }
    (result, detail)
}

fn asked(rule: &Rule, env: &Env<'_>) -> (StepResult, String) {
    let error = rule.when.as_ref().and_then(|when| when.holds(env).err());
    match (verdict(rule, env), error) {
        (Verdict::DoesNot, _) => (
            StepResult::DoesNotHold,
            "its condition does not hold".to_owned(),
        ),
        (Verdict::Matches, None) if rule.when.is_none() => (
            StepResult::Matches,
            "selects the tool and the caller".to_owned(),
        ),
        (Verdict::Matches, None) => (StepResult::Matches, "its condition holds".to_owned()),
        (Verdict::Matches, Some(error)) => (
            StepResult::Failed,
            format!("its condition failed, so the rule matches: {error}"),
        ),
        (Verdict::Failed(error), _) => (
            StepResult::Failed,
            format!("its condition failed, so the call is denied: {error}"),
        ),
    }
}

fn not_selected(why: NotSelected, rule: &Rule, risk: &str, severity: &str) -> String {
    match why {
        NotSelected::Name => "does not select this name".to_owned(),
        NotSelected::Risk => {
            let risks: Vec<_> = rule
                .selector
                .risks
                .iter()
                .map(|risk| risk.as_str())
                .collect();
            format!("selects {}, and the tool is {risk}", risks.join(", "))
        }
        NotSelected::Severity => format!("selects a higher severity than {severity}"),
        NotSelected::Unclassified => {
            "the tool is Unclassified, and only a rule that names it can allow it".to_owned()
        }
    }
}
