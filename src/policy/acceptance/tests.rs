use super::*;
use crate::policy::tests::{bound, bundle, now};
use crate::policy::{Bound, Call, Caller, Decision, Outcome};
use proptest::prelude::*;
use std::sync::Arc;

/// A policy as a test writes it: name (or namespace/name) and YAML without targets.
type Written<'a> = (&'a str, &'a str);

fn settled_on(server: &str, policies: &[Written<'_>], before: Option<&Bundle>) -> Settled {
    let written = bundle(server, policies);
    let server: McpServer = serde_json::from_value(serde_json::json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
        "metadata": {"namespace": "ml", "name": "mlflow", "uid": "uid-1"},
        "spec": written.server.spec,
    }))
    .unwrap();
    let candidates = written
        .policies
        .iter()
        .map(|policy| Candidate {
            in_force: before.is_some_and(|before| {
                before.policies.iter().any(|known| {
                    known.uid == policy.uid
                        && known.not_accepted.is_none()
                        && known.spec == policy.spec
                })
            }),
            ..Candidate::again(policy)
        })
        .collect();
    let asked = Asked {
        server: &server,
        candidates,
        blocked: Vec::new(),
        issuers: Vec::new(),
        report_token_sha256: None,
        place: Place::Cluster,
    };
    settle(asked, &mut Memory::default()).unwrap()
}

fn settled(policies: &[Written<'_>]) -> Settled {
    settled_on("", policies, None)
}

fn enforced(settled: &Settled) -> Bound {
    let program = compile(&settled.bundle).unwrap_or_else(|found| panic!("{found:#?}"));
    Bound::new(&Arc::new(program), &crate::policy::tests::listing())
}

fn decide(bound: &Bound, tool: &str, arguments: &str) -> Decision {
    let caller = Caller::key("ci");
    let call = Call {
        tool,
        arguments: arguments.as_bytes(),
        caller: &caller,
        session: "",
    };
    bound.evaluate(&call, now())
}

/// Names of the policies that are not accepted, with the reason.
fn refused(settled: &Settled) -> Vec<(&str, &str)> {
    let policies = settled.bundle.policies.iter();
    policies
        .filter_map(|policy| {
            let why = policy.not_accepted.as_ref()?;
            Some((policy.name.as_str(), why.reason.as_str()))
        })
        .collect()
}

const LONG: &str = "rules: [{name: day, tools: {names: ['get_*']}, action: Allow, limits: [{counter: c, max: 3, window: 1d}]}, \
     {name: no-delete, tools: {names: ['delete_*']}, action: Deny}]";

#[test]
fn a_policy_whose_limit_cannot_be_kept_restricts_and_allows_nothing() {
    let settled = settled(&[
        ("long", LONG),
        (
            "other",
            "rules: [{name: rest, tools: {names: [set_model_alias, delete_experiment]}, action: Allow}]",
        ),
    ]);
    assert_eq!(refused(&settled), [("long", "SharedCountersNeeded")]);
    assert!(
        !settled.alone,
        "only a limit that is kept needs one gateway"
    );
    let bound = enforced(&settled);
    let result = |tool: &str| decide(&bound, tool, "{}");
    let read = result("get_run");
    assert_eq!(
        read.outcome,
        Outcome::Deny(crate::policy::decision::Denial::NotAccepted)
    );
    assert_eq!((&*read.by.policy, &*read.by.rule), ("long", "day"));
    let reason = read.reason.unwrap();
    assert!(
        reason.contains("policy long") && reason.contains("at most 1h"),
        "{reason}"
    );
    assert_eq!(
        result("delete_experiment").outcome,
        Outcome::Deny(crate::policy::decision::Denial::Rule)
    );
    assert_eq!(result("set_model_alias").outcome, Outcome::Allow);
}

#[test]
fn what_others_allow_goes_on_under_the_limits_and_approvals_of_a_policy_that_is_not_accepted() {
    let all = "rules: [{name: all, tools: {names: ['*']}, action: Allow}]";
    let asks = "rules: [{name: ask, tools: {names: [set_model_alias]}, action: RequireApproval, limits: [{counter: c, max: 3, window: 1d}]}]";
    let bound_of = |policies: &[Written<'_>]| enforced(&settled(policies));
    let both = bound_of(&[("all", all), ("long", LONG), ("ask", asks)]);
    let read = decide(&both, "get_run", "{}");
    assert_eq!((read.outcome, read.charges.len()), (Outcome::Allow, 1));
    let set = decide(&both, "set_model_alias", "{}");
    assert_eq!(set.outcome, Outcome::RequireApproval);
    assert!(set.approval.is_some());
    // Alone, the approval lets nothing through either.
    let alone = bound_of(&[("ask", asks)]);
    assert!(matches!(
        decide(&alone, "set_model_alias", "{}").outcome,
        Outcome::Deny(_)
    ));
    let open = bound_of(&[("open", "defaultAction: Allow"), ("long", LONG)]);
    assert_eq!(decide(&open, "get_run", "{}").outcome, Outcome::Allow);
    // Nor does its default allow anything.
    let long = format!("defaultAction: Allow\n{LONG}");
    let default = bound_of(&[("long", &long)]);
    assert_eq!(decide(&default, "mystery", "{}").outcome, Outcome::Hide);
}

#[test]
fn replicas_and_autoscalers_keep_no_limit_and_say_what_to_change() {
    let limited = "rules: [{name: r, tools: {names: ['*']}, action: Allow, limits: [{counter: c, max: 3, window: 1m}]}]";
    let one = settled(&[("p", limited)]);
    assert!(one.alone && refused(&one).is_empty());
    for (gateway, reason) in [
        ("{replicas: 2}", "2 replicas"),
        ("{autoscaling: {}}", "an autoscaler"),
    ] {
        let server = format!("upstream: {{}}\ngateway: {gateway}");
        let settled = settled_on(&server, &[("p", limited)], None);
        assert_eq!(refused(&settled), [("p", "SharedCountersNeeded")]);
        let why = settled.bundle.policies[0].not_accepted.as_ref().unwrap();
        assert!(why.message.contains(reason), "{}", why.message);
        assert!(why.message.contains("counters.redis"), "{}", why.message);
        let shared =
            format!("{server}\ncounters: {{redis: {{urlSecretRef: {{name: r, key: url}}}}}}");
        let shared = settled_on(&shared, &[("p", limited), ("long", LONG)], None);
        assert!(refused(&shared).is_empty() && !shared.alone);
    }
}

#[test]
fn a_claim_keeps_long_windows_and_is_for_one_gateway() {
    let claim = "upstream: {}\ncounters: {local: {persistentVolumeClaim: {claimName: c}}}";
    let long = settled_on(claim, &[("long", LONG)], None);
    assert!(refused(&long).is_empty() && long.alone);
    let free = "rules: [{name: r, tools: {names: ['*']}, action: Allow}]";
    assert!(settled_on(claim, &[("free", free)], None).alone);
    assert!(!settled_on("upstream: {}", &[("free", free)], None).alone);
    for gateway in ["{replicas: 2}", "{autoscaling: {}}"] {
        let several = format!("{claim}\ngateway: {gateway}");
        let spec = serde_saphyr::from_str(&several).unwrap();
        let found = diagnose_server(&spec);
        let [one] = &found[..] else {
            panic!("{found:?}")
        };
        assert!(
            one.message.contains("one gateway counts on a claim"),
            "{one}"
        );
    }
    // An emptyDir is lost with the pod.
    let empty = settled_on(
        "upstream: {}\ncounters: {local: {}}",
        &[("long", LONG)],
        None,
    );
    assert_eq!(refused(&empty), [("long", "SharedCountersNeeded")]);
}

/// A policy with that number of rules, each with a pattern.
fn patterned(name: &str, count: usize, action: &str) -> String {
    let rules: Vec<String> = (0..count)
        .map(|i| format!("{{name: r{i}, tools: {{names: [get_run]}}, action: {action}, when: \"caller.grant.matches('^{name}{i}$')\"}}"))
        .collect();
    format!("rules: [{}]", rules.join(", "))
}

#[test]
fn policies_with_too_many_patterns_restrict_more_and_displace_neither_guardrails_nor_what_is_in_force()
 {
    let (a, b, c) = (
        patterned("a", 60, "Deny"),
        patterned("b", 60, "Allow"),
        patterned("c", 60, "Deny"),
    );
    let before = settled(&[("b", &b), ("c", &c)]);
    assert!(refused(&before).is_empty());
    let policies: [Written<'_>; 3] = [("a", &a), ("b", &b), ("c", &c)];
    let after = settled_on("", &policies, Some(&before.bundle));
    assert_eq!(refused(&after), [("a", "TooManyPatterns")]);
    assert!(matches!(
        decide(&enforced(&after), "get_run", "{}").outcome,
        Outcome::Deny(_)
    ));
    let guarded = settled_on(
        "",
        &[("b", &b), ("c", &c), ("ops/guard", &a)],
        Some(&before.bundle),
    );
    assert_eq!(refused(&guarded), [("c", "TooManyPatterns")]);
}

/// A policy of many rules with long texts.
fn large(action: &str, count: usize) -> String {
    let rules: Vec<String> = (0..count)
        .map(|i| {
            format!(
                "{{name: r{i}, tools: {{names: [x{}]}}, action: {action}, reason: {}}}",
                "x".repeat(150),
                "y".repeat(700)
            )
        })
        .collect();
    format!(
        "rules: [{}, {{name: hides, tools: {{names: [delete_experiment]}}, action: Hide}}]",
        rules.join(", ")
    )
}

#[test]
fn what_restricts_has_room_before_what_allows() {
    let allow = large("Allow", 240);
    let names: Vec<String> = (0..5).map(|i| format!("p{i}")).collect();
    let mut policies: Vec<Written<'_>> = names
        .iter()
        .map(|name| (name.as_str(), allow.as_str()))
        .collect();
    let settled = settled(&policies);
    assert!(settled.bundle.blocked.is_empty());
    assert_eq!(refused(&settled), [("p4", "BundleTooLarge")]);
    assert!(deployability::size(&settled.bundle).unwrap() <= MAX_BUNDLE_BYTES);
    let last = &settled.bundle.policies[4].spec;
    assert_eq!(last.rules.len(), 1, "the Hide rule stays");
    // Where not even what restricts has room, nothing is allowed: a guardrail is never what is left
    // out.
    let deny = large("Deny", 240).replace(&"x".repeat(150), &"x".repeat(900));
    policies = names
        .iter()
        .map(|name| (name.as_str(), deny.as_str()))
        .collect();
    policies.push(("ops/guard", &deny));
    let settled = super::tests::settled(&policies);
    let carried: Vec<&str> = settled
        .bundle
        .policies
        .iter()
        .map(|policy| policy.name.as_str())
        .collect();
    assert!(carried.contains(&"guard"), "{carried:?}");
    assert!(!settled.bundle.blocked.is_empty());
    let bound = enforced(&settled);
    assert!(matches!(
        decide(&bound, "get_run", "{}").outcome,
        Outcome::Deny(_)
    ));
}

#[test]
fn a_bundle_is_compiled_once_and_again_when_it_says_something_else() {
    let mut memory = Memory::default();
    let judge = |policy: &str, memory: &mut Memory| {
        let written = bundle("", &[("p", policy)]);
        memory.of(&written).map(|()| written.revision)
    };
    let reads = |name: usize| {
        format!("rules: [{{name: r{name}, tools: {{risks: [Read]}}, action: Allow}}]")
    };
    let revision = judge(&reads(1), &mut memory).unwrap();
    memory.0 = vec![(revision, Err(Vec::new()))];
    assert_eq!(judge(&reads(1), &mut memory), Err(Vec::new()));
    for other in 2..=9 {
        assert!(judge(&reads(other), &mut memory).is_ok());
    }
    assert!(judge(&reads(1), &mut memory).is_ok());
    assert_eq!(memory.0.len(), REMEMBERED);
}

/// Why a policy that observes a tool is not accepted at a server with those fields, if it is not.
fn not_observed(server: &str, tool: &str) -> Option<String> {
    let policy = format!(
        "rules: [{{name: ask, tools: {{names: [set_model_alias]}}, action: RequireApproval, \
         approval: {{observe: {{tool: {tool}, args: {{name: args.name}}}}}}}}, \
         {{name: no-delete, tools: {{names: [delete_experiment]}}, action: Deny}}]"
    );
    let allow = "rules: [{name: all, tools: {names: ['*']}, action: Allow}]";
    let settled = settled_on(server, &[("observing", &policy), ("open", allow)], None);
    let not_accepted = settled.bundle.policies.iter().find_map(|policy| {
        let why = policy.not_accepted.as_ref()?;
        assert_eq!(
            (policy.name.as_str(), why.reason.as_str()),
            ("observing", "Invalid")
        );
        Some(why.message.clone())
    });
    if not_accepted.is_some() {
        // It restricts: what it asks about is not just allowed. The other policy is enforced.
        let bound = enforced(&settled);
        let outcome = |tool: &str, arguments: &str| decide(&bound, tool, arguments).outcome;
        let promote = r#"{"name":"churn","alias":"champion","version":7}"#;
        assert_ne!(outcome("set_model_alias", promote), Outcome::Allow);
        assert!(matches!(
            outcome("delete_experiment", r#"{"experiment_id":"1"}"#),
            Outcome::Deny(_)
        ));
        assert_eq!(outcome("get_run", r#"{"run_id":"1"}"#), Outcome::Allow);
    }
    not_accepted
}

#[test]
fn a_rule_observes_only_what_is_known_to_read() {
    let unlisted =
        "which is not in the catalogue: if it only reads, write `- { name: look, risk: Read }`";
    for (server, tool, says) in [
        ("", "get_model_version_by_alias", None),
        (
            "",
            "set_run_tag",
            Some("observes set_run_tag, whose risk is Write"),
        ),
        ("", "delete_run", Some("whose risk is Destructive")),
        ("", "look", Some(unlisted)),
        (
            "{upstream: {}, tools: [{name: look, risk: Read}]}",
            "look",
            None,
        ),
        (
            "{upstream: {}, tools: [{name: look, severity: Low}]}",
            "look",
            Some("not in the catalogue"),
        ),
        (
            "{upstream: {}, tools: [{name: get_run, risk: Execute}]}",
            "get_run",
            Some("whose risk is Execute"),
        ),
        (
            "{upstream: {}, catalog: None}",
            "get_run",
            Some("not in the catalogue"),
        ),
        (
            "{upstream: {}, catalog: None, tools: [{name: get_run, risk: Read}]}",
            "get_run",
            None,
        ),
    ] {
        let why = not_observed(server, tool);
        match says {
            None => assert_eq!(why, None, "{server} {tool}"),
            Some(says) => assert!(
                why.as_ref().is_some_and(|why| why.contains(says)),
                "{why:?}"
            ),
        }
    }
}

fn rule(index: usize) -> impl Strategy<Value = String> {
    let tools = prop_oneof![
        Just("{names: ['*']}"),
        Just("{names: [get_run]}"),
        Just("{names: ['set_*', 'delete_*']}"),
        Just("{risks: [Read, Write]}"),
        Just("{minSeverity: High}"),
    ];
    let when = prop_oneof![
        4 => Just(""), 1 => Just("caller.kind == 'key'"), 1 => Just("false"), 1 => Just("tool.severity == 'High'"),
    ];
    let limits = prop_oneof![
        2 => Just(""), 1 => Just(", limits: [{counter: c, max: 5, window: 1m}]"),
        2 => Just(", limits: [{counter: d, max: 5, window: 1d}]"),
    ];
    let action = prop_oneof![3 => Just("Allow"), 1 => Just("RequireApproval"), 1 => Just("Deny"), 1 => Just("Hide")];
    (tools, when, limits, action).prop_map(move |(tools, when, limits, action)| {
        let when = if when.is_empty() {
            String::new()
        } else {
            format!(", when: \"{when}\"")
        };
        let limits = match action {
            "Allow" | "RequireApproval" => limits,
            _ => "",
        };
        format!("{{name: r{index}, tools: {tools}, action: {action}{when}{limits}}}")
    })
}

/// The YAML of a policy, and its rules.
fn policy() -> impl Strategy<Value = String> {
    let rules = (0_usize..4).prop_flat_map(|count| (0..count).map(rule).collect::<Vec<_>>());
    let default = prop_oneof![3 => Just(""), 1 => Just("defaultAction: Allow\n"), 1 => Just("defaultAction: Deny\n"), 1 => Just("defaultAction: Hide\n")];
    let mode = prop_oneof![5 => Just("Enforce"), 1 => Just("Audit")];
    let patterns = prop_oneof![5 => Just(0_usize), 2 => Just(60)];
    let deny = prop_oneof![Just("Deny"), Just("Allow")];
    (rules, default, mode, patterns, deny).prop_map(|(mut rules, default, mode, count, action)| {
        for i in 0..count {
            rules.push(format!("{{name: m{i}, tools: {{names: ['delete_*']}}, action: {action}, when: \"caller.grant.matches('^{i}$')\"}}"));
        }
        format!("mode: {mode}\n{default}rules: [{}]", rules.join(", "))
    })
}

const TOOLS: [&str; 4] = ["get_run", "set_model_alias", "delete_experiment", "mystery"];

fn lets_through(decision: &Decision) -> bool {
    matches!(decision.outcome, Outcome::Allow | Outcome::RequireApproval)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn adding_a_policy_allows_only_what_it_says_itself_and_takes_no_restriction_away(
        set in prop::collection::vec(policy(), 1..4), added in policy(), guardrail in any::<bool>(),
        gateway in prop_oneof![2 => Just("{}"), 1 => Just("{replicas: 2}")],
    ) {
        let server = format!("upstream: {{}}\ngateway: {gateway}");
        let names: Vec<String> = (0..set.len()).map(|i| format!("p{i}")).collect();
        let mut policies: Vec<Written<'_>> = names.iter().map(String::as_str).zip(set.iter().map(String::as_str)).collect();
        let without = settled_on(&server, &policies, None);
        let name = if guardrail { "ops/added" } else { "added" };
        policies.push((name, &added));
        let with = settled_on(&server, &policies, Some(&without.bundle));
        let accepted = !refused(&with).iter().any(|(name, _)| *name == "added");
        let (before, after) = (enforced(&without), enforced(&with));
        let own = bound("", &[(name, &added)]);
        for tool in TOOLS {
            let (a, b) = (decide(&before, tool, "{}"), decide(&after, tool, "{}"));
            if lets_through(&b) && !lets_through(&a) {
                prop_assert!(accepted && lets_through(&decide(&own, tool, "{}")), "{tool}: {a:?} became {b:?}");
            }
            if !accepted {
                prop_assert!(b.outcome.strictness() >= a.outcome.strictness() || !lets_through(&b), "{tool}: {a:?} became {b:?}");
            }
        }
        // Every rule that refuses, of whichever policy, does so beside all others.
        for (name, written) in &policies {
            if written.contains("mode: Audit") {
                continue;
            }
            let rules = written.split("rules: [").nth(1).unwrap();
            for rule in rules.trim_end_matches(']').split("}, {").filter(|rule| rule.contains("action: Deny") || rule.contains("action: Hide")) {
                let rule = format!("{{{}}}", rule.trim_start_matches('{').trim_end_matches('}'));
                let rule = if rule.matches('{').count() > rule.matches('}').count() { format!("{rule}}}") } else { rule };
                let alone = bound("", &[(name, &format!("rules: [{rule}, {{name: all, tools: {{names: ['*']}}, action: Allow}}]"))]);
                for tool in TOOLS {
                    if !lets_through(&decide(&alone, tool, "{}")) {
                        prop_assert!(!lets_through(&decide(&after, tool, "{}")), "{name} {rule} does not refuse {tool}");
                    }
                }
            }
        }
    }
}
