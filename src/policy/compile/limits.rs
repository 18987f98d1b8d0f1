//! Limits and approval settings of a rule.

use super::context::{Context, MAX_NAME};
use super::findings::FindingSink;
use super::server::not_a_pointer;
use crate::api::policy::{Action, Observe, OnToolError, Rule as Written, Scope};
use crate::policy::check::{Argument, Cost, Patterns};
use crate::policy::decision::Counter;
use crate::policy::observed::Reading;
use crate::policy::program::{Limit, Observing};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

const MAX_LIMITS: usize = 16;
const MAX_UNITS: i64 = 1_000_000_000;
const SECOND: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(31 * 86_400);
/// No call asks for more people.
const MOST_APPROVERS: i64 = 3;
/// Arguments of an observation.
const MAX_OBSERVE_ARGS: usize = 16;
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Approval settings of a rule.
pub(super) struct Approval {
    pub expires_after: Duration,
    pub wait_up_to: Duration,
    pub approvers: i64,
    pub redact: Vec<String>,
    pub observe: Option<Arc<Observing>>,
}

pub(super) fn approval(rule: &Written, sink: &mut FindingSink<'_>) -> Approval {
    if rule.approval.is_some() && rule.action != Action::RequireApproval {
        sink.error(
            "approval",
            "only a rule with action: RequireApproval has approval settings; remove them",
        );
    }
    let settings = rule.approval.clone().unwrap_or_default();
    let mut read = |field: &str,
                    text: crate::api::DurationString,
                    range: std::ops::RangeInclusive<Duration>,
                    hint: &str| {
        match text.parse() {
            Ok(duration) if range.contains(&duration) => duration,
            Ok(_) => {
                sink.error(field, format!("{text} is out of range; write {hint}"));
                Duration::ZERO
            }
            Err(error) => {
                sink.error(field, error.to_string());
                Duration::ZERO
            }
        }
    };
    let expires = read(
        "approval.expiresAfter",
        settings.expires_after(),
        SECOND..=LONGEST,
        "1s to 31d",
    );
    let wait = read(
        "approval.waitUpTo",
        settings.wait_up_to(),
        Duration::ZERO..=LONGEST_WAIT,
        "0s to 10m",
    );
    for (i, pointer) in settings.redact.iter().enumerate() {
        if let Some(message) = not_a_pointer(pointer) {
            sink.error(&format!("approval.redact[{i}]"), message);
        }
    }
    let approvers = settings.approvers();
    if !(1..=MOST_APPROVERS).contains(&approvers) {
        sink.error(
            "approval.approvers",
            format!("{approvers} is out of range; write 1 to {MOST_APPROVERS}"),
        );
    }
    let observe = settings
        .observe
        .as_ref()
        .map(|observe| observing(observe, sink));
    Approval {
        expires_after: expires,
        wait_up_to: wait,
        approvers,
        redact: settings.redact,
        observe: observe.map(Arc::new),
    }
}

/// Whether the tool only reads depends on the server;
/// [`deployability`](crate::policy::deployability) says.
fn observing(observe: &Observe, sink: &mut FindingSink<'_>) -> Observing {
    let tool = &observe.tool;
    if tool.is_empty() || tool.contains('*') || tool.chars().any(char::is_control) {
        sink.error(
            "approval.observe.tool",
            format!("{tool:?} is not the name of a tool; write one name, without *"),
        );
    }
    if observe.args.len() > MAX_OBSERVE_ARGS {
        sink.error(
            "approval.observe.args",
            format!(
                "there are {} arguments and there may be {MAX_OBSERVE_ARGS}",
                observe.args.len()
            ),
        );
    }
    let mut args = Vec::with_capacity(observe.args.len());
    for (name, source) in &observe.args {
        match Argument::compile(source) {
            Ok(argument) => args.push((name.clone(), argument)),
            Err(fault) => sink.fault(&format!("approval.observe.args.{name}"), source, fault),
        }
    }
    for (field, pointers) in [("ignore", &observe.ignore), ("redact", &observe.redact)] {
        for (i, pointer) in pointers.iter().enumerate() {
            if let Some(message) = not_a_pointer(pointer) {
                sink.error(&format!("approval.observe.{field}[{i}]"), message);
            }
        }
    }
    Observing {
        tool: tool.clone(),
        args,
        reading: Reading {
            shows_tool_errors: observe.on_tool_error() == OnToolError::Show,
            ignore: observe.ignore.clone(),
            redact: observe.redact.clone(),
        },
    }
}

pub(super) fn limits(
    rule: &Written,
    context: &Context<'_>,
    (counters, patterns): (&mut BTreeMap<String, Arc<Counter>>, &mut Patterns),
    sink: &mut FindingSink<'_>,
) -> Vec<Limit> {
    if !rule.limits.is_empty() && !matches!(rule.action, Action::Allow | Action::RequireApproval) {
        sink.error(
            "limits",
            format!("a rule with action: {} lets nothing through that could be counted; remove the limits", rule.action),
        );
    }
    if rule.limits.len() > MAX_LIMITS {
        sink.error(
            "limits",
            format!(
                "there are {} limits and there may be {MAX_LIMITS}",
                rule.limits.len()
            ),
        );
    }
    let mut seen = BTreeSet::new();
    let mut compiled = Vec::new();
    for (j, limit) in rule.limits.iter().enumerate() {
        let at = |field: &str| format!("limits[{j}].{field}");
        if limit.counter.is_empty()
            || limit.counter.len() > MAX_NAME
            || limit.counter.chars().any(char::is_control)
        {
            sink.error(
                &at("counter"),
                format!("a counter's name has 1 to {MAX_NAME} characters"),
            );
        }
        if !seen.insert(&limit.counter) {
            sink.error(
                &at("counter"),
                format!("this rule names the counter {:?} twice", limit.counter),
            );
        }
        if !(1..=MAX_UNITS).contains(&limit.max) {
            sink.error(
                &at("max"),
                format!("{} is out of range; write 1 to {MAX_UNITS}", limit.max),
            );
        }
        let window = match limit.window.parse() {
            Ok(window) if (SECOND..=LONGEST).contains(&window) => window,
            Ok(_) => {
                sink.error(
                    &at("window"),
                    format!("{} is out of range; write 1s to 31d", limit.window),
                );
                continue;
            }
            Err(error) => {
                sink.error(&at("window"), error.to_string());
                continue;
            }
        };
        let counter = Counter {
            server: Arc::clone(context.server),
            namespace: sink.owner.namespace.to_owned(),
            policy: sink.owner.name.to_owned(),
            name: limit.counter.clone(),
            max: u64::try_from(limit.max).unwrap_or_default(),
            window,
            window_text: limit.window.to_string(),
            scope: limit.scope(),
            shadow: context.shadow,
        };
        let counter = match counters.get(&limit.counter) {
            None => {
                let counter = Arc::new(counter);
                counters.insert(limit.counter.clone(), Arc::clone(&counter));
                counter
            }
            Some(other) => {
                if (other.max, other.window, other.scope)
                    != (counter.max, counter.window, counter.scope)
                {
                    sink.error(
                        &at("counter"),
                        format!(
                            "the counter {:?} is {} per {} and {:?} in one rule, {} per {} and {:?} here; rules that share a \
                             counter must agree, or name two counters",
                            limit.counter, other.max, other.window_text, other.scope, counter.max, counter.window_text,
                            counter.scope
                        ),
                    );
                }
                Arc::clone(other)
            }
        };
        let cost = match limit
            .cost
            .as_deref()
            .map(|source| (source, Cost::compile_with(source, patterns)))
        {
            None => None,
            Some((_, Ok(cost))) => Some(cost),
            Some((source, Err(fault))) => {
                sink.fault(&at("cost"), source, fault);
                continue;
            }
        };
        compiled.push(Limit { counter, cost });
    }
    let session = rule
        .limits
        .iter()
        .any(|limit| limit.scope() == Scope::Session);
    if session
        && rule
            .limits
            .iter()
            .all(|limit| limit.scope() == Scope::Session)
    {
        sink.warn(
            "limits",
            "a client can open another session and start from zero; add a limit with scope: Grant",
        );
    }
    compiled
}
