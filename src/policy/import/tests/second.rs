//! A second implementation of the source format: a plain interpreter of its documentation and its
//! program.
//!
//! It knows nothing of CEL or of McpPolicies, and shares no code with the importer. Values of
//! conditions come with the meaning that Go's yaml.v3 gives them, so that the reading of scalars is
//! checked too.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A value in a condition, as the source holds it.
#[derive(Clone, Debug, PartialEq)]
pub enum Go {
    Nil,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Text(String),
    List(Vec<Go>),
}

#[derive(Clone, Debug)]
pub struct Condition {
    pub path: String,
    pub op: &'static str,
    pub value: Go,
}

#[derive(Clone, Debug)]
pub struct State {
    pub counter: String,
    pub increment: i64,
    pub increment_from: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Rule {
    pub deny: bool,
    pub conditions: Vec<Condition>,
    pub state: Option<State>,
}

#[derive(Clone, Debug)]
pub struct Limit {
    pub counter: String,
    pub max: i64,
    pub increment: i64,
    pub increment_from: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Tool {
    pub rules: Vec<Rule>,
    pub require: Vec<Condition>,
    pub deny_if: Vec<Condition>,
    pub limits: Vec<Limit>,
}

#[derive(Clone, Debug)]
pub struct Policy {
    pub allow: bool,
    pub hide: Vec<String>,
    pub tools: BTreeMap<String, Tool>,
}

/// Units by counter.
pub type Counters = BTreeMap<String, i64>;

impl Policy {
    fn entries(&self, tool: &str) -> impl Iterator<Item = (String, &Tool)> {
        let own = self.tools.get(tool).map(|entry| (tool.to_owned(), entry));
        let all = self
            .tools
            .get("*")
            .map(|entry| ("_global".to_owned(), entry));
        own.into_iter().chain(all)
    }

    /// Whether the arguments pass, counters aside.
    pub fn passes(&self, tool: &str, args: &Map<String, Value>, counters: &Counters) -> bool {
        if self
            .hide
            .iter()
            .any(|hidden| hidden == "*" || hidden == tool)
        {
            return false;
        }
        if !self.allow && !self.tools.contains_key(tool) {
            return false;
        }
        self.entries(tool).all(|(_, entry)| {
            let holds = |condition: &Condition| condition.holds(args, counters);
            entry
                .rules
                .iter()
                .all(|rule| !rule.deny && rule.conditions.iter().all(holds))
                && entry.require.iter().all(holds)
                && !entry.deny_if.iter().any(holds)
        })
    }

    /// The units that the call would add to a counter, and the counter's limit; none if they are
    /// unknown, which denies.
    pub fn reservations(
        &self,
        tool: &str,
        args: &Map<String, Value>,
    ) -> Option<Vec<(String, i64, i64)>> {
        let mut found = Vec::new();
        for (scope, entry) in self.entries(tool) {
            for rule in &entry.rules {
                let Some(state) = &rule.state else { continue };
                let units = units(state.increment, state.increment_from.as_deref(), args)?;
                let path = format!("state.{scope}.{}", state.counter);
                let limit = rule.conditions.iter().find_map(|condition| {
                    let bound = condition
                        .value
                        .number()
                        .filter(|_| condition.path == path)?;
                    match condition.op {
                        "lt" => Some(bound as i64 - 1),
                        "lte" => Some(bound as i64),
                        _ => None,
                    }
                });
                if let Some(limit) = limit {
                    found.push((format!("{scope}.{}", state.counter), units, limit));
                }
            }
            for limit in &entry.limits {
                let units = units(limit.increment, limit.increment_from.as_deref(), args)?;
                found.push((format!("limit {}", limit.counter), units, limit.max));
            }
        }
        Some(found)
    }

    /// Whether the call passes altogether.
    pub fn allows(&self, tool: &str, args: &Map<String, Value>, counters: &Counters) -> bool {
        let mut counters = counters.clone();
        self.passes(tool, args, &counters) && self.take(tool, args, &mut counters)
    }

    /// Counts the call, if all counters have room.
    pub fn take(&self, tool: &str, args: &Map<String, Value>, counters: &mut Counters) -> bool {
        let Some(reservations) = self.reservations(tool, args) else {
            return false;
        };
        let mut after = counters.clone();
        for (key, units, limit) in reservations {
            let count = after.entry(key).or_default();
            *count += units;
            if *count > limit {
                return false;
            }
        }
        *counters = after;
        true
    }
}

fn units(fixed: i64, from: Option<&str>, args: &Map<String, Value>) -> Option<i64> {
    match from {
        None => Some(fixed),
        Some(path) => match resolve(args, path.strip_prefix("args.")?)? {
            Value::Number(number) => Some(number.as_f64()? as i64),
            _ => None,
        },
    }
}

fn resolve<'a>(args: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let mut steps = path.split('.');
    let mut current = args.get(steps.next()?)?;
    for step in steps {
        current = current.as_object()?.get(step)?;
    }
    Some(current)
}

impl Condition {
    fn holds(&self, args: &Map<String, Value>, counters: &Counters) -> bool {
        let counted;
        let found = match self.path.strip_prefix("args.") {
            Some(path) => resolve(args, path),
            None => {
                let key = self.path.strip_prefix("state.").unwrap_or_default();
                counted = Value::from(counters.get(key).copied().unwrap_or(0));
                Some(&counted)
            }
        };
        if self.op == "exists" {
            return self.value == Go::Bool(found.is_some_and(|value| !value.is_null()));
        }
        let Some(value) = found else { return false };
        let order = |decides: fn(f64, f64) -> bool| match (value.as_f64(), self.value.number()) {
            (Some(a), Some(b)) => decides(a, b),
            _ => false,
        };
        let among = || match &self.value {
            Go::List(items) => items.iter().any(|item| equal(value, item)),
            _ => false,
        };
        match self.op {
            "eq" => equal(value, &self.value),
            "neq" => !equal(value, &self.value),
            "in" => among(),
            "not_in" => !among(),
            "lt" => order(|a, b| a < b),
            "lte" => order(|a, b| a <= b),
            "gt" => order(|a, b| a > b),
            "gte" => order(|a, b| a >= b),
            "regex" => match (value, &self.value) {
                (Value::String(text), Go::Text(pattern)) => {
                    regex::Regex::new(pattern).unwrap().is_match(text)
                }
                _ => false,
            },
            "contains" => match value {
                Value::String(text) => {
                    matches!(&self.value, Go::Text(part) if text.contains(part.as_str()))
                }
                Value::Array(items) => items.iter().any(|item| equal(item, &self.value)),
                _ => false,
            },
            other => panic!("{other}"),
        }
    }
}

impl Go {
    pub fn number(&self) -> Option<f64> {
        match self {
            Go::Int(value) => Some(*value as f64),
            Go::Float(value) => Some(*value),
            _ => None,
        }
    }

    fn print(&self) -> String {
        match self {
            Go::Nil => "<nil>".to_owned(),
            Go::Bool(value) => value.to_string(),
            Go::Int(value) => value.to_string(),
            Go::Uint(value) => value.to_string(),
            Go::Float(value) => print_double(*value),
            Go::Text(text) => text.clone(),
            Go::List(items) => {
                let items: Vec<_> = items.iter().map(Go::print).collect();
                format!("[{}]", items.join(" "))
            }
        }
    }
}

fn equal(actual: &Value, expected: &Go) -> bool {
    match (actual.as_f64(), expected.number()) {
        (Some(a), Some(b)) => a == b,
        _ => print(actual) == expected.print(),
    }
}

/// What Go prints for a value that it decoded from JSON.
pub fn print(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => print_double(number.as_f64().unwrap()),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(print).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(members) => {
            let sorted: BTreeMap<_, _> = members.iter().collect();
            let members: Vec<_> = sorted
                .iter()
                .map(|(key, value)| format!("{key}:{}", print(value)))
                .collect();
            format!("map[{}]", members.join(" "))
        }
    }
}

/// The shortest digits; from 1e6 and below 1e-4 with an exponent of at least two digits.
fn print_double(value: f64) -> String {
    if value != 0.0 && !(1e-4..1e6).contains(&value.abs()) {
        let (digits, exponent) = format!("{value:e}")
            .split_once('e')
            .map(|(a, b)| (a.to_owned(), b.parse::<i32>().unwrap()))
            .unwrap();
        return format!("{digits}e{exponent:+03}");
    }
    value.to_string()
}
