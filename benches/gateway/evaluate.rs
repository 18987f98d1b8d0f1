//! The policy engine alone: one decision among many rules.

use std::sync::Arc;
use std::time::Instant;

use portcullis::policy::inventory::Definition;
use portcullis::policy::{Bound, Call, Caller, Outcome, compile};
use serde_json::json;

use crate::upstream::{TOOLS, definition};
use crate::{Done, guarded, median};

/// Microseconds of one decision with so many rules, each with a condition over the arguments, four
/// of which select the tool.
pub fn measure(rules: usize) -> Done<f64> {
    let rules = (0..rules).map(|n| {
        let name = if n % (rules / 4) == 0 {
            "tool_2".to_owned()
        } else {
            format!("other_{n}_*")
        };
        let (action, when) = if n == 0 {
            (
                "Allow",
                "args.limit <= 100 && size(args.experiment_id) < 32".to_owned(),
            )
        } else {
            let when = format!(
                "args.limit > {} || args.experiment_id.startsWith('x{n}')",
                100 + n
            );
            ("Deny", when)
        };
        json!({"name": format!("r{n}"), "tools": {"names": [name]}, "action": action, "when": when})
    });
    let rules: Vec<_> = rules.collect();
    let program = compile::compile(&guarded::bundle("http://127.0.0.1:1/mcp", json!(rules))?);
    let program = Arc::new(program.map_err(|found| format!("{found:?}"))?);
    let listing = (0..TOOLS).map(|n| Definition::parse(definition(n).to_string().as_bytes()));
    let bound = Bound::new(&program, &listing.collect::<Result<Vec<_>, _>>()?);
    let caller = Caller::anonymous();
    let now = jiff::Timestamp::now();
    let mut rounds = Vec::new();
    for _ in 0..21 {
        let started = Instant::now();
        for _ in 0..10_000 {
            let call = Call {
                tool: std::hint::black_box("tool_2"),
                arguments: br#"{"experiment_id":"7","key":"accuracy","limit":20}"#,
                caller: &caller,
                session: "s",
            };
            if std::hint::black_box(bound.evaluate(&call, now)).outcome != Outcome::Allow {
                return Err("the decision is wrong".into());
            }
        }
        rounds.push(started.elapsed().as_secs_f64() * 100.0);
    }
    Ok(median(rounds.into_iter()))
}

/// The longest arguments that are measured: what a request body may hold by default.
const LONG: usize = 4_000_000;

/// Milliseconds of the slowest of some calls that use up, or nearly use up, what one call may take,
/// and what it was.
pub fn worst() -> Done<(f64, &'static str)> {
    let text = |part: &str| format!(r#"{{"text":"{}"}}"#, part.repeat(LONG / part.len()));
    let list = |part: &str, count: usize| {
        let entries = vec![part; count].join(",");
        format!(r#"{{"list":[{entries}]}}"#)
    };
    let members = (0..300_000)
        .map(|n| format!(r#""k{n}":{n}"#))
        .collect::<Vec<_>>()
        .join(",");
    let calls = [
        (
            "a pattern of many states",
            r"args.text.matches('[ab]*a[ab]{200}c')",
            text("ab"),
        ),
        (
            "a pattern over a long text",
            r"args.text.matches('x(y|z)+w$')",
            text("xyz"),
        ),
        (
            "letters of all scripts",
            r"args.text.matches('^\\p{L}+[0-9]$')",
            text("é"),
        ),
        (
            "texts of a list",
            "args.list.all(a, a.contains('xyyyyyyyy'))",
            list(&format!("\"{}\"", "xyy".repeat(60)), 20_000),
        ),
        (
            "one text in another",
            "args.text.contains('aaaaaaaaaaaaaaaaaaaaaaaaaaab')",
            text("a"),
        ),
        (
            "equal lists",
            "args.list == args.list && args.list.exists(a, a == 'x')",
            list("\"1\"", 900_000),
        ),
        (
            "lower case",
            "args.text.lowerAscii().endsWith('x')",
            text("A"),
        ),
        (
            "joined texts",
            "args.list.all(a, (a + a + a + a).size() > 0)",
            list("\"xxxxxxxx\"", 300_000),
        ),
        (
            "a map of many members",
            "size(args) > 400000",
            format!("{{{members}}}"),
        ),
        (
            "an element of a list",
            "'y' in args.list",
            list("\"x\"", 900_000),
        ),
        (
            "nested lists",
            "args.list.all(a, size(a) == 0)",
            list("[[[[]]]]", 300_000),
        ),
    ];
    let caller = Caller::anonymous();
    let mut slowest = (0.0, "");
    for (what, when, arguments) in calls {
        let rules =
            json!([{"name": "r", "tools": {"names": ["free"]}, "action": "Allow", "when": when}]);
        let program = compile::compile(&guarded::bundle("http://127.0.0.1:1/mcp", rules)?);
        let program = Arc::new(program.map_err(|found| format!("{what}: {found:?}"))?);
        let tool = json!({"name": "free", "inputSchema": {"type": "object", "additionalProperties": true}});
        let bound = Bound::new(&program, &[Definition::parse(tool.to_string().as_bytes())?]);
        let mut rounds = Vec::new();
        for _ in 0..5 {
            let call = Call {
                tool: "free",
                arguments: arguments.as_bytes(),
                caller: &caller,
                session: "s",
            };
            let started = Instant::now();
            std::hint::black_box(bound.evaluate(&call, jiff::Timestamp::now()));
            rounds.push(started.elapsed().as_secs_f64() * 1_000.0);
        }
        let taken = median(rounds.into_iter());
        eprintln!("  {what}: {taken:.1} ms");
        if taken > slowest.0 {
            slowest = (taken, what);
        }
    }
    Ok(slowest)
}
