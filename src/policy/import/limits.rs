//! Quotas, rates and counters, as limits.
//!
//! In: PolicyLayer's `limits`, Intercept's `rate_limit` and `state`. Out: limits over any window of that length, with names
//! that keep apart what was counted apart. Must not do: count in a narrower scope than was written.

use super::names::{distinct, keys, label, plain_name};
use super::{Importer, condition};
use crate::api::DurationString;
use crate::api::policy::{Limit, Scope};
use serde_json::Value;

impl Importer {
    /// A counter with its bound: the state of a rule together with the condition on it.
    pub(super) fn counted(
        &mut self,
        tool: &str,
        at: &str,
        state: Option<&Value>,
        conditions: &[&Value],
    ) -> Result<Option<Limit>, String> {
        let state = match (state.and_then(Value::as_object), conditions) {
            (None, []) => return Ok(None),
            (Some(state), [_]) => state,
            (Some(_), []) => {
                return Err("a counter without a condition on it has no equivalent".to_owned());
            }
            _ => {
                return Err(
                    "a condition on a counter that another rule counts has no equivalent"
                        .to_owned(),
                );
            }
        };
        let condition = conditions
            .first()
            .ok_or("a counter without a condition has no equivalent")?;
        let counter = state
            .get("counter")
            .and_then(Value::as_str)
            .ok_or("the counter has no name")?;
        let scope = if tool == "*" { "_global" } else { tool };
        if condition.get("path").and_then(Value::as_str)
            != Some(&format!("state.{scope}.{counter}"))
        {
            return Err(
                "a condition on a counter that another rule counts has no equivalent".to_owned(),
            );
        }
        let bound = condition
            .get("value")
            .and_then(Value::as_i64)
            .ok_or("the bound of the counter is no integer")?;
        let max = match condition.get("op").and_then(Value::as_str) {
            Some("lte") => bound,
            Some("lt") => bound.saturating_sub(1),
            other => {
                return Err(format!(
                    "the operator {other:?} on a counter has no equivalent"
                ));
            }
        };
        let window = window(state.get("window"))?;
        let cost = match (
            state.get("increment_from").and_then(Value::as_str),
            state.get("increment").and_then(Value::as_i64),
        ) {
            (Some(path), _) => {
                self.note(format!("{at}.state: {path} must be a non-negative integer here, else the call is denied"));
                Some(condition::accessor(path)?)
            }
            (None, Some(increment)) if increment > 1 => Some(increment.to_string()),
            _ => None,
        };
        self.scope_note(at);
        self.limit(
            tool,
            at,
            &format!("{scope}.{counter}"),
            max,
            window,
            Scope::Server,
            cost,
        )
    }

    fn scope_note(&mut self, at: &str) {
        self.note(format!(
            "{at}: the counter was one for the whole proxy, so its scope is Server; write Grant to count each caller apart"
        ));
    }

    pub(super) fn rate(&mut self, tool: &str, at: &str, rate: &Value) -> Option<Limit> {
        let parsed = match rate {
            Value::String(text) => text
                .split_once('/')
                .and_then(|(count, unit)| Some((count.parse().ok()?, Value::from(unit))))
                .ok_or_else(|| format!("{text:?} is not written count/window")),
            Value::Object(rate) => {
                match (rate.get("max").and_then(Value::as_i64), rate.get("window")) {
                    (Some(max), Some(unit)) => Ok((max, unit.clone())),
                    _ => Err("it needs max and window".to_owned()),
                }
            }
            _ => Err("it is neither text nor an object".to_owned()),
        };
        let limit = parsed.and_then(|(max, unit)| {
            let window = window(Some(&unit))?;
            let counter = format!("{}-{window}", plain_name(tool));
            self.scope_note(at);
            self.limit(tool, at, &counter, max, window, Scope::Server, None)
        });
        match limit {
            Ok(limit) => limit,
            Err(why) => {
                self.closed(tool, at, &why);
                None
            }
        }
    }

    /// The name here of a counter there.
    fn counter(&mut self, there: &str) -> String {
        if let Some(here) = self.counters.get(there) {
            return here.clone();
        }
        let here = distinct(&label(there), |name| {
            self.counters.values().any(|taken| taken == name)
        });
        self.counters.insert(there.to_owned(), here.clone());
        here
    }

    pub(super) fn limits(&mut self, tool: &str, at: &str, limits: Option<&Value>) -> Vec<Limit> {
        let entries = match limits {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(entries)) => entries,
            Some(_) => {
                self.closed(tool, at, "it is no list");
                return Vec::new();
            }
        };
        let mut found = Vec::new();
        for (i, entry) in entries.iter().enumerate() {
            let at = format!("{at}[{i}]");
            match self.quota(tool, &at, entry) {
                Ok(limit) => found.extend(limit),
                Err(why) => self.closed(tool, &at, &why),
            }
        }
        found
    }

    /// One limit of PolicyLayer.
    fn quota(&mut self, tool: &str, at: &str, entry: &Value) -> Result<Option<Limit>, String> {
        let entry = entry.as_object().ok_or("it is no object")?;
        let known = [
            "counter",
            "window",
            "max",
            "scope",
            "increment",
            "increment_from",
            "on_deny",
            "name",
            "reason",
        ];
        if let Some(key) = keys(entry, &known).first() {
            return Err(format!("{key} has no equivalent"));
        }
        let counter = entry
            .get("counter")
            .and_then(Value::as_str)
            .ok_or("the limit has no counter")?;
        let max = entry
            .get("max")
            .and_then(Value::as_i64)
            .ok_or("max is no integer")?;
        let window = window(entry.get("window"))?;
        let scope = match entry
            .get("scope")
            .map(|scope| scope.as_str().unwrap_or_default())
        {
            Some("grant") => Scope::Grant,
            Some("session") => Scope::Session,
            Some("server" | "global") => Scope::Server,
            other => {
                self.note(format!(
                    "{at}.scope: {other:?} has no equivalent; the widest, Server, is used"
                ));
                Scope::Server
            }
        };
        let cost = match (
            entry.get("increment_from").and_then(Value::as_str),
            entry.get("increment").and_then(Value::as_i64),
        ) {
            (Some(path), _) => Some(condition::accessor(path)?),
            (None, Some(increment)) if increment > 1 => Some(increment.to_string()),
            _ => None,
        };
        self.limit(tool, at, counter, max, window, scope, cost)
    }

    #[expect(clippy::too_many_arguments, reason = "these are the fields of a limit")]
    fn limit(
        &mut self,
        tool: &str,
        at: &str,
        counter: &str,
        max: i64,
        window: &str,
        scope: Scope,
        cost: Option<String>,
    ) -> Result<Option<Limit>, String> {
        if max < 1 {
            self.note(format!(
                "{at}: a limit of {max} never lets a call through, so it became a Deny rule"
            ));
            self.deny(tool, "limit-of-none", None, None);
            return Ok(None);
        }
        Ok(Some(Limit {
            counter: self.counter(counter),
            max,
            window: DurationString::from(window),
            scope: Some(scope),
            cost,
            unknown: Default::default(),
        }))
    }
}

fn window(window: Option<&Value>) -> Result<&'static str, String> {
    match window {
        Some(Value::String(text)) => match text.as_str() {
            "minute" => Ok("1m"),
            "hour" => Ok("1h"),
            "day" => Ok("1d"),
            other => Err(format!("the window {other:?} is not known")),
        },
        Some(Value::Number(seconds)) => match seconds.as_u64() {
            Some(60) => Ok("1m"),
            Some(3_600) => Ok("1h"),
            Some(86_400) => Ok("1d"),
            _ => Err(format!("the window of {seconds} seconds is not known")),
        },
        _ => Err("there is no window".to_owned()),
    }
}
