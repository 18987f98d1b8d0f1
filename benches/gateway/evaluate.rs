//! The policy engine alone: one decision among many rules.

use std::sync::Arc;
use std::time::Instant;

use portcullis::policy::inventory::Definition;
use portcullis::policy::{Bound, Call, Caller, Outcome, compile};
use serde_json::json;

use crate::upstream::{TOOLS, definition};
use crate::{Done, guarded, median};

/// Microseconds of one decision with so many rules, each with a condition over the arguments, four of which select the tool.
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
