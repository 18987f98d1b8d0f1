//! Policy test cases: calls and what must become of them.
//!
//! In: a document of kind McpPolicyTest and the policies bound to tools. Out: for each case, what was expected and what came.
//! Counters are simulated, so that a case can ask what becomes of the 31st call. Must not do: read files.

use super::approval;
use super::decision::{Call, Caller, CallerKind, CounterKey, Decision, Denial, Outcome};
use super::inventory::{Bound, Definition};
use super::limit::Window;
use crate::catalog;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

/// The kind that test documents carry.
pub const KIND: &str = "McpPolicyTest";

/// Calls that one case may make.
const MAX_CALLS: u32 = 100_000;

/// A document of test cases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyTest {
    /// `portcullis.dev/v1alpha1`.
    pub api_version: String,
    /// `McpPolicyTest`.
    pub kind: String,
    /// Ignored but for its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Value>,
    /// The McpServer, by name; the only one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// A file with the server's `tools/list` result, beside this one. Without it, tools are known by name only: the
    /// catalogue's and those of `tools`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listing: Option<String>,
    /// Names of further tools that the server has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// The cases.
    pub cases: Vec<Case>,
}

/// One call, prompt or resource, and what must become of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Case {
    /// What the case is about, in words.
    #[serde(default)]
    pub name: String,
    /// The tool that is called. Exactly one of call, prompt and resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    /// The prompt that is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The URI of the resource that is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Arguments of the call.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub args: serde_json::Map<String, serde_json::Value>,
    /// The grant, such as `key:ci`; `anonymous` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    /// Groups of the caller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Claims of the caller's token.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub claims: serde_json::Map<String, serde_json::Value>,
    /// The session.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub session: String,
    /// The time of the call, RFC 3339; now if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<String>,
    /// How often it is made, at once; the last time counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// What must become of it.
    pub expect: Expect,
}

/// What must become of a call; what is not written is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expect {
    /// The decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Verdict>,
    /// The rule that decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Its policy, as name or namespace/name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Whether the tool, prompt or resource is in the caller's list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visible: Option<bool>,
    /// The shadow decision of Audit policies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Verdict>,
}

/// A decision in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Forwarded.
    Allow,
    /// Held until approved.
    RequireApproval,
    /// Refused with a reason.
    Deny,
    /// Answered as if there were no such tool.
    Hide,
    /// There is no such tool.
    Unknown,
    /// Refused, as the arguments are not as the schema says.
    BadArguments,
    /// Refused, as a limit is reached.
    Limited,
}

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Allow => Verdict::Allow,
            Outcome::RequireApproval => Verdict::RequireApproval,
            Outcome::BadArguments => Verdict::BadArguments,
            Outcome::Deny(_) => Verdict::Deny,
            Outcome::Hide => Verdict::Hide,
            Outcome::Unknown => Verdict::Unknown,
        }
    }
}

/// What came of one case.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CaseResult {
    /// What the case is about.
    pub name: String,
    /// Whether all that was expected came.
    pub passed: bool,
    /// What did not, one sentence each.
    pub failures: Vec<String>,
    /// What became of the call.
    pub decision: Option<Verdict>,
    /// Who decided.
    pub rule: String,
}

impl PolicyTest {
    /// Tools to bind to where the document names no listing: the catalogue's and its own.
    pub fn assumed_listing(&self) -> Vec<Definition> {
        let names: BTreeSet<&str> = catalog::all()
            .iter()
            .map(|entry| entry.name)
            .chain(self.tools.iter().map(String::as_str))
            .collect();
        names.into_iter().map(Definition::assumed).collect()
    }

    /// Runs every case by itself.
    pub fn run(&self, bound: &Bound, now: Timestamp) -> Vec<CaseResult> {
        self.cases.iter().map(|case| case.run(bound, now)).collect()
    }
}

struct Came {
    verdict: Verdict,
    decision: Decision,
    visible: bool,
}

impl Case {
    fn run(&self, bound: &Bound, now: Timestamp) -> CaseResult {
        let came = self.decide(bound, now);
        let (failures, decision, rule) = match &came {
            Err(message) => (vec![message.clone()], None, String::new()),
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

    fn decide(&self, bound: &Bound, now: Timestamp) -> Result<Came, String> {
        let caller = self.caller()?;
        let now = match &self.now {
            Some(text) => text
                .parse()
                .map_err(|_| format!("now: {text:?} is no RFC 3339 time"))?,
            None => now,
        };
        let times = self.times.unwrap_or(1);
        if times == 0 || times > MAX_CALLS {
            return Err(format!("times: write 1 to {MAX_CALLS}"));
        }
        match (&self.call, &self.prompt, &self.resource) {
            (Some(tool), None, None) => {
                let arguments =
                    serde_json::to_vec(&self.args).map_err(|error| format!("args: {error}"))?;
                let call = Call {
                    tool,
                    arguments: &arguments,
                    caller: &caller,
                    session: &self.session,
                };
                let mut counters = HashMap::new();
                let mut last = Err("times: write at least 1".to_owned());
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
                    && let Err(error) = approval::preview(&arguments, &tool.redact)
                {
                    return Err(format!("no approval could be asked for: {error}"));
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
            _ => Err("write exactly one of call, prompt and resource".to_owned()),
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

    fn compare(&self, came: &Came) -> Vec<String> {
        let mut failures = Vec::new();
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
            failures.push(format!(
                "expected {expected:?}, came {:?} by {by}{why}",
                came.verdict
            ));
        }
        if let Some(expected) = &expect.rule
            && *expected != by.rule
        {
            failures.push(format!("expected rule {expected}, came {by}"));
        }
        if let Some(expected) = &expect.policy
            && *expected != by.policy
            && *expected != format!("{}/{}", by.namespace, by.policy)
        {
            failures.push(format!("expected policy {expected}, came {by}"));
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
            failures.push(format!(
                "expected to be {}, is {}",
                text(expected),
                text(came.visible)
            ));
        }
        let shadow = came
            .decision
            .shadow
            .as_ref()
            .map(|shadow| Verdict::from(shadow.outcome));
        if expect.shadow.is_some() && expect.shadow != shadow {
            failures.push(format!(
                "expected the shadow {:?}, came {shadow:?}",
                expect.shadow
            ));
        }
        failures
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::{bound, now};

    #[test]
    fn cases_pass_or_say_what_came_instead() {
        let test: PolicyTest = serde_saphyr::from_str(
            "
apiVersion: portcullis.dev/v1alpha1
kind: McpPolicyTest
tools: [extra]
cases:
- {call: get_run, caller: 'key:ci', times: 2, expect: {decision: Allow, rule: reads, policy: ml/p, visible: true}}
- {call: get_run, times: 3, expect: {decision: Limited, rule: reads}}
- {call: delete_experiment, expect: {decision: Hide, visible: false}}
- {call: nothing, expect: {decision: Unknown}}
- {prompt: hello, expect: {decision: Hide}}
- {name: wrong, call: get_run, expect: {decision: Deny, rule: other, policy: q, visible: false}}
- {name: unclear, call: get_run, prompt: x, expect: {}}
- {name: nobody, call: get_run, caller: admin, expect: {}}
",
        )
        .unwrap();
        let bound = bound(
            "",
            &[(
                "p",
                "rules: [{name: reads, tools: {risks: [Read]}, action: Allow, limits: [{counter: c, max: 2, window: 1m}]}]",
            )],
        );
        let results = test.run(&bound, now());
        assert_eq!(
            results.iter().map(|r| r.passed).collect::<Vec<_>>(),
            [true, true, true, true, true, false, false, false]
        );
        assert_eq!(
            results[5].failures,
            [
                "expected Deny, came Allow by policy p, rule reads",
                "expected rule other, came policy p, rule reads",
                "expected policy q, came policy p, rule reads",
                "expected to be not in the list, is in the list",
            ]
        );
        assert_eq!(
            results[6].failures,
            ["write exactly one of call, prompt and resource"]
        );
        assert!(results[7].failures[0].starts_with("no caller is named \"admin\""));
        assert!(
            test.assumed_listing()
                .iter()
                .any(|tool| tool.name == "extra")
        );
    }

    #[test]
    fn a_trace_tells_what_every_rule_said() {
        let bound = bound(
            "",
            &[(
                "p",
                "
rules:
- {name: a, tools: {names: [get_run]}, action: Allow}
- {name: b, tools: {risks: [Read]}, action: Allow}
- {name: c, tools: {names: ['set_*']}, callers: ['key:x'], action: Deny}
- {name: d, tools: {names: ['set_*']}, when: args.version > 3, action: RequireApproval}
- {name: e, tools: {names: ['set_*']}, when: args.alias == 'x', action: Deny}
- {name: f, tools: {names: ['set_*']}, action: Allow}
- {name: g, tools: {names: ['set_*']}, when: caller.claims.x == 1, action: Allow}
",
            )],
        );
        let caller = Caller::key("ci");
        let call = Call {
            tool: "set_model_alias",
            arguments: br#"{"version":3}"#,
            caller: &caller,
            session: "",
        };
        let trace = bound.explain(&call, now());
        use crate::policy::explain::StepResult::*;
        assert_eq!(
            trace
                .steps
                .iter()
                .map(|step| step.result)
                .collect::<Vec<_>>(),
            [
                OtherTool,
                OtherTool,
                OtherCaller,
                DoesNotHold,
                Failed,
                Matches,
                Failed
            ]
        );
        assert_eq!(trace.steps[1].detail, "selects Read, and the tool is Write");
        assert_eq!(
            (trace.outcome(), &*trace.decision.by.rule),
            (Outcome::Deny(Denial::Rule), "e")
        );
        assert!(trace.visible);
        let call = Call {
            arguments: br#"{"version":"3"}"#,
            ..call
        };
        assert_eq!(
            bound.explain(&call, now()).steps[3].detail,
            "reads the arguments, but the argument `version` must be of type integer"
        );
    }
}
