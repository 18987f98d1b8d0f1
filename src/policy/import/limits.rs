//! Quotas, rates and counters, as limits.
//!
//! In: PolicyLayer's `limits`, Intercept's `rate_limit` and `state`. Out: limits over any window of
//! that length, with names that keep separate counters separate. Must not do: count in a narrower
//! scope than the source, or less than the source.

use super::condition::{self, Flaw, text_of};
use super::names::{self, distinct, label, plain_name};
use super::note::Place;
use super::read::Node;
use super::{Bound, Importer};
use crate::api::DurationString;
use crate::api::policy::{Limit, Scope};

/// Units that a limit may have.
const MAX_UNITS: i64 = 1_000_000_000;

/// What is counted, and how far.
struct Quota<'n> {
    counter: &'n str,
    /// The reason when it is reached.
    reason: Option<String>,
    /// The largest number of units.
    max: f64,
    window: &'static str,
    scope: Scope,
    cost: Cost<'n>,
}

enum Cost<'n> {
    Units(i64),
    Argument(&'n str),
}

impl Importer {
    /// A counter with its bound: the state of a rule together with the condition on it.
    pub(super) fn counted(
        &mut self,
        tool: &str,
        place: &Place,
        rule: &Node,
        conditions: &[&Node],
    ) -> Result<(), Flaw> {
        let scope = if tool == "*" { "_global" } else { tool };
        let elsewhere = |condition: &Node| {
            (
                condition.at,
                "a condition on a counter that another rule counts has no equivalent".to_owned(),
            )
        };
        let state = match (rule.get("state"), conditions) {
            (None, []) => return Ok(()),
            (None, [condition, ..]) => return Err(elsewhere(condition)),
            (Some(state), _) => state,
        };
        known(
            state,
            &[
                "counter",
                "window",
                "increment",
                "increment_from",
                "description",
            ],
            "a counter",
        )?;
        let condition = match conditions {
            [condition] => condition,
            [] => return Err((state.at, "a counter without a condition on it bounds nothing; write a condition, or remove it".to_owned())),
            [_, second, ..] => return Err((second.at, "a second condition on a counter has no equivalent".to_owned())),
        };
        known(
            condition,
            &["path", "op", "value", "description"],
            "a condition on a counter",
        )?;
        let counter = text_of(state, "counter")?
            .filter(|name| !name.is_empty())
            .ok_or((state.at, "the counter has no name".to_owned()))?;
        if text_of(condition, "path")? != Some(&format!("state.{scope}.{counter}")) {
            return Err(elsewhere(condition));
        }
        let value = condition.get("value");
        let bound = value.and_then(number).ok_or((
            value.map_or(condition.at, |value| value.at),
            "the bound of a counter must be a number".to_owned(),
        ))?;
        let max = match text_of(condition, "op")? {
            Some("lte") => bound.trunc(),
            Some("lt") => bound.trunc() - 1.0,
            other => {
                let op = other.unwrap_or_default();
                return Err((
                    condition.at,
                    format!("the operator {op:?} on a counter has no equivalent; write lte or lt"),
                ));
            }
        };
        let quota = Quota {
            counter: &format!("{scope}.{counter}"),
            reason: names::reason(rule, &["on_deny"]),
            max: if bound < 0.0 { -1.0 } else { max },
            window: window(state)?,
            scope: Scope::Server,
            cost: cost(state)?,
        };
        self.scope_note(place);
        self.limit(tool, place, state, quota)
    }

    fn scope_note(&mut self, place: &Place) {
        self.note(place, "the source has one counter for the whole proxy, so its scope is Server; write Grant to count \
        each caller separately");
    }

    /// `5/hour`, or `{max: 5, window: hour}`.
    pub(super) fn rate(&mut self, tool: &str, place: &Place, rate: &Node, reason: Option<String>) {
        let parsed = match (rate.text(), rate.map()) {
            (Some(text), _) => text
                .split_once('/')
                .and_then(|(count, unit)| Some((count.parse::<i64>().ok()?, unit)))
                .and_then(|(count, unit)| Some((count, named_window(unit)?)))
                .filter(|(count, _)| *count > 0)
                .ok_or_else(|| {
                    (rate.at, format!("{text:?} is not a rate: write a count and minute, hour or day, as in 5/hour"))
                }),
            (None, Some(_)) => max_and_window(rate),
            _ => Err((rate.at, format!("a rate must be text such as 5/hour, and this is {}", rate.kind()))),
        };
        let limit = parsed.and_then(|(max, window)| {
            let counter = format!("_rate.{tool}.{window}");
            self.scope_note(place);
            self.limit(
                tool,
                place,
                rate,
                Quota {
                    counter: &counter,
                    reason,
                    max: max as f64,
                    window,
                    scope: Scope::Server,
                    cost: Cost::Units(1),
                },
            )
        });
        if let Err((at, why)) = limit {
            self.closed(tool, &place.moved(at), &why);
        }
    }

    pub(super) fn limits(&mut self, tool: &str, place: &Place, limits: Option<&Node>) {
        let Some(limits) = limits else { return };
        let Some(entries) = limits.list() else {
            let why = format!("limits must be a list, and this is {}", limits.kind());
            return self.closed(tool, &place.moved(limits.at), &why);
        };
        for (i, entry) in entries.iter().enumerate() {
            let place = place.index(i, entry.at);
            if let Err((at, why)) = self.quota(tool, &place, entry) {
                self.closed(tool, &place.moved(at), &why);
            }
        }
    }

    /// One limit of PolicyLayer.
    fn quota(&mut self, tool: &str, place: &Place, entry: &Node) -> Result<(), Flaw> {
        let keys = [
            "counter",
            "window",
            "max",
            "scope",
            "increment",
            "increment_from",
            "on_deny",
            "name",
            "reason",
            "description",
        ];
        known(entry, &keys, "a limit")?;
        for key in ["on_deny", "name", "reason", "description"] {
            text_of(entry, key)?;
        }
        let counter = text_of(entry, "counter")?
            .filter(|name| !name.is_empty())
            .ok_or((entry.at, "the limit has no counter".to_owned()))?;
        let (max, window) = max_and_window(entry)?;
        let scope = match text_of(entry, "scope")? {
            Some("grant") => Scope::Grant,
            Some("session") => Scope::Session,
            Some("server" | "global") => Scope::Server,
            other => {
                let scope = match other {
                    None => "a limit without a scope".to_owned(),
                    Some(other) => format!("the scope {other:?}"),
                };
                self.note(
                    place,
                    format!("{scope} has no equivalent; the widest, Server, is used"),
                );
                Scope::Server
            }
        };
        let quota = Quota {
            counter,
            reason: names::reason(entry, &["on_deny", "reason"]),
            max: max as f64,
            window,
            scope,
            cost: cost(entry)?,
        };
        self.limit(tool, place, entry, quota)
    }

    fn limit(
        &mut self,
        tool: &str,
        place: &Place,
        node: &Node,
        quota: Quota<'_>,
    ) -> Result<(), Flaw> {
        let here = self.counter(tool, place, node, &quota)?;
        let cost = match quota.cost {
            Cost::Units(1) => None,
            Cost::Units(units) => Some(units.to_string()),
            Cost::Argument(path) => {
                let flaw = |why| (node.at, why);
                let (not_there, units) = condition::units(path).map_err(flaw)?;
                for text in [&not_there, &format!("{units} > 0")] {
                    crate::policy::check::Condition::compile(text).map_err(|fault| {
                        flaw(format!(
                            "increment_from {path} cannot be written in CEL: {}",
                            fault.message
                        ))
                    })?;
                }
                self.note(place, "the increment of a counter must be a number that is not negative, because units \
                never come back here; otherwise the call is denied");
                let reason = Some(format!("{path} must be a number: calls are counted by it."));
                self.deny(
                    tool,
                    &format!("{}-counted", quota.counter),
                    Some(not_there),
                    reason,
                );
                Some(units)
            }
        };
        if quota.max < 1.0 {
            self.note(
                place,
                "a limit below 1 allows no call, so it became a Deny rule",
            );
            self.deny(tool, "limit-of-none", None, quota.reason);
            return Ok(());
        }
        let max = if quota.max > MAX_UNITS as f64 {
            self.note(
                place,
                format!("limits here have at most {MAX_UNITS} units, so this one has that number"),
            );
            MAX_UNITS
        } else {
            quota.max as i64
        };
        let limit = Limit {
            counter: here,
            max,
            window: DurationString::from(quota.window),
            scope: Some(quota.scope),
            cost,
            unknown: Default::default(),
        };
        self.allow_with(tool, limit, quota.reason);
        Ok(())
    }

    /// The name here of a counter there. Whatever shares a counter must agree on what it bounds.
    fn counter(
        &mut self,
        tool: &str,
        place: &Place,
        node: &Node,
        quota: &Quota<'_>,
    ) -> Result<String, Flaw> {
        let bound = (quota.max, quota.window, quota.scope);
        let taken = self
            .counters
            .values()
            .find(|taken| taken.there == quota.counter);
        if let Some(taken) = taken {
            let line = taken.place.at.line;
            if taken.bound != bound {
                return Err((
                    node.at,
                    format!(
                        "its counter has another bound, window or scope at line {line}; give one of them another name"
                    ),
                ));
            }
            if taken
                .tools
                .iter()
                .any(|other| other == tool || other == "*" || tool == "*")
            {
                return Err((
                    node.at,
                    format!(
                        "its counter counts the same calls at line {line}; give one of them another name"
                    ),
                ));
            }
            let here = taken.here.clone();
            if let Some(taken) = self.counters.get_mut(&here) {
                taken.tools.push(tool.to_owned());
            }
            return Ok(here);
        }
        let name = match quota.counter.strip_prefix("_rate.") {
            Some(_) => format!("{}-{}", plain_name(tool), quota.window),
            None => quota.counter.to_owned(),
        };
        let here = distinct(&label(&name), |name| self.counters.contains_key(name));
        self.counters.insert(
            here.clone(),
            Bound {
                there: quota.counter.to_owned(),
                here: here.clone(),
                bound,
                tools: vec![tool.to_owned()],
                place: place.clone(),
            },
        );
        Ok(here)
    }
}

/// Checks that there are no other keys.
pub(super) fn known(node: &Node, keys: &[&str], what: &str) -> Result<(), Flaw> {
    let Some(entries) = node.map() else {
        return Err((
            node.at,
            format!("{what} must be a mapping, and this is {}", node.kind()),
        ));
    };
    match entries.iter().find(|entry| !keys.contains(&&*entry.key)) {
        Some(entry) => Err((
            entry.at,
            format!("the key {:?} of {what} is not known", entry.key),
        )),
        None => Ok(()),
    }
}

fn number(node: &Node) -> Option<f64> {
    use super::read::Kind;
    match node.scalar()?.kind {
        Kind::Int(value) => Some(value as f64),
        Kind::Float(value) => Some(value),
        _ => None,
    }
}

fn max_and_window(node: &Node) -> Result<(i64, &'static str), Flaw> {
    let max = node
        .get("max")
        .ok_or((node.at, "the limit has no max".to_owned()))?;
    let max = max.whole().ok_or_else(|| {
        (
            max.at,
            format!("max must be a whole number, and this is {}", max.kind()),
        )
    })?;
    Ok((max, window(node)?))
}

fn cost(node: &Node) -> Result<Cost<'_>, Flaw> {
    let units = match node.get("increment") {
        None => 1,
        Some(units) => match units.whole() {
            // There too, none is one.
            Some(0) => 1,
            Some(count) if (1..=MAX_UNITS).contains(&count) => count,
            _ => {
                return Err((
                    units.at,
                    format!(
                        "increment must be a whole number from 1 to {MAX_UNITS}, without quotes"
                    ),
                ));
            }
        },
    };
    Ok(match text_of(node, "increment_from")? {
        None | Some("") => Cost::Units(units),
        Some(path) => Cost::Argument(path),
    })
}

fn named_window(name: &str) -> Option<&'static str> {
    match name {
        "minute" => Some("1m"),
        "hour" => Some("1h"),
        "day" => Some("1d"),
        _ => None,
    }
}

fn window(node: &Node) -> Result<&'static str, Flaw> {
    let Some(window) = node.get("window") else {
        return Err((
            node.at,
            "the window is missing; write minute, hour or day".to_owned(),
        ));
    };
    let found = match window.whole() {
        Some(60) => Some("1m"),
        Some(3_600) => Some("1h"),
        Some(86_400) => Some("1d"),
        _ => window.text().and_then(named_window),
    };
    found.ok_or_else(|| {
        (
            window.at,
            format!(
                "the window must be minute, hour or day, and this is {}",
                window.text().unwrap_or(window.kind())
            ),
        )
    })
}
