//! CEL: the last line of the input is the call's arguments, all before it the expression. What
//! compiles has one value or one error, parentheses change nothing, `!` turns it round, and what is
//! said not to read the arguments does not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::json;
use portcullis::policy::check::{Args, Condition, Cost, Env, EvalError, Fill, Fuel};
use portcullis_fuzz::{callers, now};

fn with<'a>(caller: &'a portcullis::policy::Caller, args: Args<'a>, fuel: &'a Fuel) -> Env<'a> {
    Env {
        args,
        tool: "set_model_alias",
        risk: "Write",
        severity: "High",
        caller,
        session: "s",
        now: now(),
        fuel,
    }
}

/// A value, or that there is none; running out of work is not compared, as the wrapping counts too.
fn settled<T>(found: Result<T, EvalError>) -> Option<Result<T, ()>> {
    match found {
        Ok(value) => Some(Ok(value)),
        Err(error) if error.to_string().contains("work") => None,
        Err(_) => Some(Err(())),
    }
}

fuzz_target!(|text: &str| {
    let (source, arguments) = text
        .trim_end_matches('\n')
        .rsplit_once('\n')
        .unwrap_or((text, "{}"));
    let arguments = json::parse(arguments.as_bytes()).unwrap_or(json::Value::Object(Vec::new()));
    let limit = serde_json::json!(10);
    let fills: Vec<_> = arguments
        .get("limit")
        .is_none()
        .then(|| Fill::absent(&arguments, "limit", &limit))
        .into_iter()
        .collect();
    let [caller, ..] = callers();
    let args = Args::new(&arguments, &fills);
    let units = |cost: &Cost, args| cost.units(&with(&caller, args, &Fuel::full()));
    let holds = |condition: &Condition, args| condition.holds(&with(&caller, args, &Fuel::full()));

    if let Ok(cost) = Cost::compile(source) {
        let found = units(&cost, args);
        assert_eq!(found, units(&cost, args));
        if !cost.reads_args() {
            assert_eq!(found, units(&cost, Args::default()));
        }
    }
    let condition = match Condition::compile(source) {
        Ok(condition) => condition,
        Err(fault) => {
            assert!(!fault.message.is_empty());
            let place = fault.position(source);
            assert!(place.line as usize <= source.matches('\n').count() + 1 && place.column >= 1);
            return;
        }
    };
    let held = holds(&condition, args);
    assert_eq!(held, holds(&condition, args));
    if !condition.reads_args() {
        assert_eq!(held, holds(&condition, Args::default()));
    }
    let Some(held) = settled(held) else { return };
    // Deeper or longer than allowed with the wrapping, or not: then nothing can be compared.
    if let Ok(same) = Condition::compile(&format!("(\n{source}\n)")) {
        assert_eq!(same.reads_args(), condition.reads_args());
        assert!(settled(holds(&same, args)).is_none_or(|found| found == held));
    }
    if let Ok(turned) = Condition::compile(&format!("!(\n{source}\n)")) {
        assert_eq!(turned.reads_args(), condition.reads_args());
        assert!(settled(holds(&turned, args)).is_none_or(|found| found == held.map(|value| !value)));
    }
});
