//! Documents of cases, as `portcullis test` runs them.

use super::*;
use crate::policy::decision::{Call, Caller, Denial, Outcome};
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
- {name: invalid, call: get_run, caller: admin, expect: {}}
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
    let said = |at: usize| -> Vec<&str> {
        results[at]
            .failures
            .iter()
            .map(|miss| miss.message.as_str())
            .collect()
    };
    assert_eq!(results[5].failures[1].path, "expect.rule");
    assert_eq!(
        said(5),
        [
            "expected Deny, got Allow by policy p, rule reads",
            "expected rule other, got policy p, rule reads",
            "expected policy q, got policy p, rule reads",
            "expected to be not in the list, is in the list",
        ]
    );
    assert_eq!(
        said(6),
        ["this case calls several things; write exactly one of call, prompt and resource"]
    );
    assert!(said(7)[0].starts_with("no caller is named \"admin\""));
    assert!(
        test.assumed_listing()
            .iter()
            .any(|tool| tool.name == "extra")
    );
}

#[test]
fn a_case_that_repeats_one_call_meets_a_limit_on_equal_calls() {
    let test: PolicyTest = serde_saphyr::from_str(
        "
apiVersion: portcullis.dev/v1alpha1
kind: McpPolicyTest
cases:
- {call: get_run, args: {run_id: a}, times: 2, expect: {decision: Allow}}
- {call: get_run, args: {run_id: a}, times: 3, expect: {decision: Limited, rule: reads}}
- {call: get_run, args: {run_id: b}, times: 2, expect: {decision: Allow}}
",
    )
    .unwrap();
    let bound = bound(
        "",
        &[(
            "p",
            "rules: [{name: reads, tools: {risks: [Read]}, action: Allow, limits: [{counter: c, max: 2, window: 1m, scope: Call}]}]",
        )],
    );
    let results = test.run(&bound, now());
    let failures: Vec<_> = results.iter().flat_map(|result| &result.failures).collect();
    assert!(failures.is_empty(), "{failures:?}");
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
