//! Imported policies against a second reading of what they were imported from.
//!
//! Random documents, tool schemas and calls. A call that the source refuses, by the arguments as
//! sent or as the server reads them, is never allowed; and a call that it allows is allowed, except
//! for the differences that docs/import.md lists.

mod documents;
mod schemas;

use self::documents::policies;
use self::schemas::{Schema, arguments, schemas};
use super::second::{Condition, Counters, Go, Policy};
use crate::api::policy::McpPolicySpec;
use crate::policy::compile::compile;
use crate::policy::import::import;
use crate::policy::inventory::{Bound, Definition};
use crate::policy::tests::{bundle, now};
use crate::policy::{Call, Caller, Outcome};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The differences that random calls can meet, by the names that docs/import.md gives them.
const DIFFERENCES: [&str; 5] = [
    "closed",
    "the server's reading",
    "the schema",
    "list-like text",
    "what counters go up by",
];

/// A document and what it means, the tools' schema, and calls.
struct World {
    text: String,
    policy: Policy,
    schema: Schema,
    calls: Vec<(&'static str, Map<String, Value>)>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("see above")
    }
}

fn worlds() -> impl Strategy<Value = World> {
    (policies(), schemas()).prop_flat_map(|((text, policy), schema)| {
        let tools = prop_oneof![6 => Just("charge"), 2 => Just("other"), 1 => Just("third")];
        let calls = prop::collection::vec((tools, arguments(&schema)), 1..6);
        calls.prop_map(move |calls| World {
            text: text.clone(),
            policy: policy.clone(),
            schema: schema.clone(),
            calls,
        })
    })
}

/// Why a call that the source allows may be refused here.
fn difference(
    closed: bool,
    outcome: Outcome,
    (policy, schema): (&Policy, &Schema),
    (tool, args): (&str, &Map<String, Value>),
    counters: &Counters,
) -> Option<&'static str> {
    if closed {
        return Some(DIFFERENCES[0]);
    }
    let filled = schema.filled(args);
    if !policy.passes(tool, &filled, counters) || policy.reservations(tool, &filled).is_none() {
        return Some(DIFFERENCES[1]);
    }
    let entries = || {
        [tool, "*"]
            .into_iter()
            .filter_map(|name| policy.tools.get(name))
    };
    let conditions = || {
        entries().flat_map(|entry| {
            let rules = entry.rules.iter().flat_map(|rule| &rule.conditions);
            rules.chain(&entry.require).chain(&entry.deny_if)
        })
    };
    let reads = |found: &Condition| found.path.starts_with("args.");
    let counts = entries().any(|entry| {
        entry
            .limits
            .iter()
            .any(|limit| limit.increment_from.is_some())
            || entry.rules.iter().any(|rule| {
                rule.state
                    .as_ref()
                    .is_some_and(|state| state.increment_from.is_some())
            })
    });
    if outcome == Outcome::BadArguments
        && (counts || conditions().any(reads))
        && !schema.admits(args)
    {
        return Some(DIFFERENCES[2]);
    }
    let like = |value: &Go| matches!(value, Go::Text(text) if text.starts_with('[') || text.starts_with("map["));
    let any_like = conditions().any(|condition| match &condition.value {
        Go::List(items) => items.iter().any(like),
        value => like(value),
    });
    let lists = [args, &filled]
        .into_iter()
        .flat_map(|args| args.values())
        .any(|value| value.is_array() || value.is_object());
    if any_like && lists {
        return Some(DIFFERENCES[3]);
    }
    if counts {
        let units = policy.reservations(tool, args).unwrap_or_default();
        if units
            .iter()
            .any(|(_, units, limit)| *units < 0 || *limit < 1 || *units > 1_000_000_000)
        {
            return Some(DIFFERENCES[4]);
        }
    }
    None
}

fn rules(policies: &[McpPolicySpec]) -> String {
    let rules = policies.iter().flat_map(|spec| &spec.rules);
    rules
        .map(|rule| serde_json::to_string(rule).unwrap() + "\n")
        .collect()
}

#[derive(Default)]
struct Seen(BTreeMap<&'static str, usize>);

fn check(world: World, seen: &mut Seen) -> Result<(), TestCaseError> {
    let World {
        text,
        policy,
        schema,
        calls,
    } = world;
    let imported = import(&text, "mlflow").unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut bundle = bundle(
        "",
        &imported
            .policies
            .iter()
            .map(|_| "rules: []")
            .enumerate()
            .map(|(i, rules)| (["p", "q", "r"][i], rules))
            .collect::<Vec<_>>(),
    );
    for (entry, spec) in bundle.policies.iter_mut().zip(&imported.policies) {
        entry.spec = spec.clone();
    }
    let program = Arc::new(compile(&bundle).unwrap());
    let definitions = ["charge", "other", "third"].map(|name| {
        let definition = json!({"name": name, "inputSchema": schema.json()});
        Definition::parse(definition.to_string().as_bytes()).unwrap()
    });
    let bound = Bound::new(&program, &definitions);
    // What the source has counted, of the calls that were forwarded; and what is counted here.
    let (mut there, mut here) = (Counters::new(), Counters::new());
    for (tool, args) in calls {
        let arguments = Value::from(args.clone()).to_string();
        let caller = Caller::key("ci");
        let call = Call {
            tool,
            arguments: arguments.as_bytes(),
            caller: &caller,
            session: "",
        };
        let decision = bound.evaluate(&call, now());
        let mut after = here.clone();
        let fits = decision.charges.iter().all(|charge| {
            let count = after.entry(charge.counter.name.to_string()).or_default();
            *count += i64::try_from(charge.cost).unwrap();
            *count <= i64::try_from(charge.counter.max).unwrap()
        });
        let allowed = decision.outcome == Outcome::Allow && fits;
        let filled = schema.filled(&args);
        let sent_passes = policy.allows(tool, &args, &there);
        let read_passes = policy.allows(tool, &filled, &there);
        let description = || {
            format!(
                "{text}\nschema {}\n{tool} {arguments}\nhere {:?} by {:?}, {:?}\nsource: sent {sent_passes}, read {read_passes}\n{}",
                schema.json(),
                decision.outcome,
                decision.by.rule,
                decision.reason,
                rules(&imported.policies)
            )
        };
        prop_assert!(
            !allowed || (sent_passes && read_passes),
            "allowed here and refused there\n{}",
            description()
        );
        if !allowed && sent_passes {
            let closed = imported.notes.iter().any(|note| note.closes);
            let why = difference(
                closed,
                decision.outcome,
                (&policy, &schema),
                (tool, &args),
                &there,
            );
            prop_assert!(
                why.is_some(),
                "refused here and allowed there\n{}",
                description()
            );
            *seen.0.entry(why.unwrap()).or_default() += 1;
        } else {
            *seen
                .0
                .entry(if allowed { "both allow" } else { "both refuse" })
                .or_default() += 1;
        }
        if allowed {
            here = after;
            policy.take(tool, &args, &mut there);
        }
    }
    Ok(())
}

#[test]
fn what_is_imported_never_allows_what_its_source_refuses_and_else_agrees() {
    let mut config = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 400;
    }
    config.failure_persistence = None;
    let cases = config.cases as usize;
    let mut runner = proptest::test_runner::TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    );
    let seen = std::cell::RefCell::new(Seen::default());
    if let Err(error) = runner.run(&worlds(), |world| check(world, &mut seen.borrow_mut())) {
        panic!("{error}");
    }
    let seen = seen.into_inner().0;
    println!("{seen:?}");
    // It must not pass by refusing everything, or by never meeting what it is for.
    for (what, least) in [
        ("both allow", cases / 4),
        ("both refuse", cases / 4),
        (DIFFERENCES[1], cases / 200),
        (DIFFERENCES[2], cases / 100),
    ] {
        let found = seen.get(what).copied().unwrap_or(0);
        assert!(
            found >= least.max(1),
            "{what}: {found} of {cases}: {seen:?}"
        );
    }
    assert_eq!(seen.get(DIFFERENCES[0]), None, "nothing here is malformed");
}

#[test]
fn the_documentation_lists_the_differences() {
    let page = include_str!("../../../../docs/import.md");
    for difference in DIFFERENCES {
        assert!(page.contains(&format!("| {difference} |")), "{difference}");
    }
}
