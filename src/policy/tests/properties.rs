//! What must hold for all policies and all calls.

use super::*;
use proptest::prelude::*;

fn rule(index: usize) -> impl Strategy<Value = String> {
    let tools = prop_oneof![
        Just("{names: ['*']}"),
        Just("{names: [get_run]}"),
        Just("{names: ['set_*']}"),
        Just("{names: [mystery]}"),
        Just("{risks: [Read]}"),
        Just("{risks: [Write, Destructive]}"),
        Just("{minSeverity: High}"),
        Just("{exceptNames: [get_run]}"),
    ];
    let callers = prop_oneof![
        3 => Just(""), 1 => Just(", callers: ['key:*']"), 1 => Just(", callers: [anonymous]"), 1 => Just(", exceptCallers: ['key:ci']"),
    ];
    let plain = prop_oneof![
        3 => Just(""), 1 => Just("caller.kind == 'key'"), 1 => Just("caller.claims.x == 1"), 1 => Just("false"),
        1 => Just("tool.severity == 'High'"),
    ];
    let reading = prop_oneof![
        2 => Just(""), 1 => Just("args.alias == 'x'"), 1 => Just("has(args.version) && args.version > 3"), 1 => Just("size(args) == 0"),
    ];
    let limits = prop_oneof![
        3 => Just(""), 1 => Just(", limits: [{counter: c, max: 5, window: 1m}]"),
        1 => Just(", limits: [{counter: d, max: 5, window: 1m, cost: 'args.version'}]"),
    ];
    let action = prop_oneof![3 => Just("Allow"), 1 => Just("RequireApproval"), 1 => Just("Deny"), 1 => Just("Hide")];
    (tools, callers, plain, reading, limits, action).prop_map(
        move |(tools, callers, plain, reading, limits, action)| {
            let when = if action == "Hide" || reading.is_empty() {
                plain
            } else {
                reading
            };
            let when = if when.is_empty() {
                String::new()
            } else {
                format!(", when: \"{when}\"")
            };
            let limits = if matches!(action, "Allow" | "RequireApproval") {
                limits
            } else {
                ""
            };
            format!("{{name: r{index}, tools: {tools}, action: {action}{callers}{when}{limits}}}")
        },
    )
}

#[derive(Clone, Debug)]
struct World {
    rules: Vec<String>,
    default: &'static str,
    mode: &'static str,
}

fn worlds() -> impl Strategy<Value = Vec<World>> {
    let rules = (0_usize..5).prop_flat_map(|count| (0..count).map(rule).collect::<Vec<_>>());
    let default = prop_oneof![2 => Just(""), 1 => Just("defaultAction: Allow"), 1 => Just("defaultAction: Deny"), 1 => Just("defaultAction: Hide")];
    let mode = prop_oneof![4 => Just("Enforce"), 1 => Just("Audit")];
    let world = (rules, default, mode).prop_map(|(rules, default, mode)| World {
        rules,
        default,
        mode,
    });
    prop::collection::vec(world, 1..4)
}

fn build(worlds: &[World], reversed: bool) -> Bound {
    let mut policies: Vec<(String, String)> = worlds
        .iter()
        .enumerate()
        .map(|(i, world)| {
            let mut rules = world.rules.clone();
            if reversed {
                rules.reverse();
            }
            (
                format!("p{i}"),
                format!(
                    "mode: {}\n{}\nrules: [{}]",
                    world.mode,
                    world.default,
                    rules.join(", ")
                ),
            )
        })
        .collect();
    if reversed {
        policies.reverse();
    }
    let policies: Vec<_> = policies
        .iter()
        .map(|(name, spec)| (name.as_str(), spec.as_str()))
        .collect();
    bound("", &policies)
}

fn arguments() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just("{}"),
        Just(r#"{"alias":"x"}"#),
        Just(r#"{"alias":"y","version":7}"#),
        Just(r#"{"version":"7"}"#),
        Just(r#"{"version":-1}"#),
        Just(r#"{"Alias":"x"}"#),
    ]
}

fn tools() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just("get_run"),
        Just("set_model_alias"),
        Just("delete_experiment"),
        Just("mystery"),
        Just("none")
    ]
}

fn callers() -> impl Strategy<Value = Caller> {
    prop_oneof![
        Just(Caller::key("ci")),
        Just(Caller::key("x")),
        Just(Caller::anonymous())
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_order_of_rules_and_policies_never_matters(worlds in worlds(), tool in tools(), arguments in arguments(), caller in callers()) {
        let (forth, back) = (build(&worlds, false), build(&worlds, true));
        prop_assert_eq!(call_as(&forth, tool, arguments, &caller), call_as(&back, tool, arguments, &caller));
        prop_assert_eq!(forth.visible(tool, &caller, "", now()), back.visible(tool, &caller, "", now()));
    }

    #[test]
    fn adding_a_hide_or_deny_rule_never_allows_more(
        worlds in worlds(), extra in rule(9), deny in any::<bool>(), tool in tools(), arguments in arguments(), caller in callers(),
    ) {
        prop_assume!(worlds.iter().any(|world| world.mode == "Enforce"));
        let before = build(&worlds, false);
        let strict = if deny { "action: Deny" } else { "action: Hide" };
        let extra = ["Allow", "RequireApproval", "Deny", "Hide"].iter().fold(extra, |rule, action| rule.replace(&format!("action: {action}"), strict));
        let extra = extra.split(", limits:").next().unwrap().trim_end_matches('}').to_owned() + "}";
        let extra = if extra.matches('{').count() == extra.matches('}').count() { extra } else { format!("{extra}}}") };
        prop_assume!(deny || !extra.contains("args"));
        let mut more = worlds.clone();
        more.push(World { rules: vec![extra], default: "", mode: "Enforce" });
        let after = build(&more, false);
        let (a, b) = (call_as(&before, tool, arguments, &caller), call_as(&after, tool, arguments, &caller));
        let open = |outcome: Outcome| matches!(outcome, Outcome::Allow | Outcome::RequireApproval);
        prop_assert!(!open(b.outcome) || open(a.outcome), "{:?} became {:?}", a, b);
        prop_assert!(!(b.outcome == Outcome::Allow && a.outcome != Outcome::Allow));
        if !deny {
            prop_assert!(!after.visible(tool, &caller, "", now()) || before.visible(tool, &caller, "", now()));
        }
    }

    #[test]
    fn a_call_of_a_tool_that_is_not_listed_is_never_let_through(worlds in worlds(), tool in tools(), arguments in arguments(), caller in callers()) {
        let bound = build(&worlds, false);
        let decision = call_as(&bound, tool, arguments, &caller);
        if !bound.visible(tool, &caller, "", now()) {
            prop_assert!(!matches!(decision.outcome, Outcome::Allow | Outcome::RequireApproval | Outcome::BadArguments), "{:?}", decision);
        } else {
            prop_assert!(!matches!(decision.outcome, Outcome::Hide | Outcome::Unknown), "{:?}", decision);
        }
        prop_assert_eq!(decision.approval.is_some(), decision.outcome == Outcome::RequireApproval);
        prop_assert!(decision.charges.is_empty() || matches!(decision.outcome, Outcome::Allow | Outcome::RequireApproval));
    }

    #[test]
    fn no_bytes_panic(worlds in worlds(), tool in "\\PC{0,12}|get_run|set_model_alias", arguments in prop::collection::vec(any::<u8>(), 0..60), session in "\\PC{0,8}") {
        let bound = build(&worlds, false);
        let caller = Caller::anonymous();
        let _ = bound.evaluate(&Call { tool: &tool, arguments: &arguments, caller: &caller, session: &session }, now());
        let _ = bound.prompt(&tool, &caller);
        let _ = bound.resource(&tool, &caller);
    }

    #[test]
    fn no_document_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), text in "\\PC{0,60}") {
        let _ = Bundle::parse(&bytes);
        let _ = Definition::parse(&bytes);
        let _ = import::import(&text, "mlflow");
        let _ = import::import(&format!("{{\"version\":\"1\",\"default\":\"allow\",\"tools\":{{\"a\":{text}}}}}"), "mlflow");
        let _ = import::import(&format!("version: '1'\ntools: {{a: {{deny_if: [{{path: 'args.{text}', op: eq, value: 1}}]}}}}"), "mlflow");
    }
}

proptest! {
    #[test]
    fn a_bundle_that_is_written_is_read_as_the_same(number in any::<f64>().prop_filter("finite", |n| n.is_finite()), text in "\\PC{0,20}") {
        let mut written = bundle("", &[]);
        written.issuers = vec![crate::policy::bundle::BundleIssuer { issuer: text.clone(), jwks: serde_json::json!({"kid": text, "number": number}) }];
        let written = written.sealed().unwrap();
        let read = Bundle::parse(&serde_json::to_vec(&written).unwrap());
        prop_assert_eq!(read.map_err(|error| error.to_string()), Ok(written));
    }
}
