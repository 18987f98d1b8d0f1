//! Warns of rules that are valid but do not do what their author means.
//!
//! In: a bundle, so that each rule is checked with its server and with the other policies of that
//! server. Out: warnings. A rule that selects nothing restricts nothing, and a broader rule may
//! allow the calls that it should have hidden. Must not do: refuse; `validate --strict` does.

use super::bundle::{Bundle, BundlePolicy};
use super::check::Condition;
use super::diagnostic::{Diagnostic, Level};
use super::matcher::{Glob, Globs, fold_case};
use super::program::Selector;
use crate::api::policy::{Action, DefaultAction, Mode, Rule, ToolSelector};
use crate::api::server::{Catalog, McpServerSpec};
use crate::api::{Risk, Severity};
use crate::catalog;
use std::collections::BTreeMap;

/// What regular expressions and shells write for what is not a name.
const FOREIGN: [&str; 13] = [
    ".*", ".+", "^", "$", "?", "[", "]", "(", ")", "{", "}", "|", "\\",
];
/// The same without what a URI or its template may hold.
const FOREIGN_IN_URIS: [&str; 6] = [".*", ".+", "^", "$", "|", "\\"];

/// Whether a pattern looks as if it was written for another matcher, in words.
pub(super) fn foreign(pattern: &str) -> Option<String> {
    dialect(pattern, &FOREIGN)
}

/// The same for a pattern over URIs.
pub(super) fn foreign_uri(pattern: &str) -> Option<String> {
    dialect(pattern, &FOREIGN_IN_URIS)
}

fn dialect(pattern: &str, signs: &[&str]) -> Option<String> {
    let sign = signs.iter().find(|sign| pattern.contains(**sign))?;
    Some(format!(
        "{pattern:?} is matched as it stands, `{sign}` included: only `*` is special here, for any characters; write for example \
         {:?}, or list the names",
        plain(pattern)
    ))
}

/// What was probably meant.
fn plain(pattern: &str) -> String {
    let stars = pattern.replace(".*", "*").replace(".+", "*");
    let text: String = stars
        .chars()
        .filter(|c| !matches!(c, '^' | '$' | '\\' | '(' | ')'))
        .collect();
    if FOREIGN.iter().any(|sign| text.contains(sign)) {
        "delete_*".to_owned()
    } else {
        text
    }
}

/// The type of an argument of a tool, where it is known.
pub type TypeOf<'t> = &'t dyn Fn(&str, &str) -> Option<String>;

/// What looks wrong about the policies of a server, by what the catalogue knows of its tools.
pub fn lint(bundle: &Bundle) -> Vec<Diagnostic> {
    let of_catalog = bundle.server.spec.catalog() == Catalog::MLflow;
    lint_with(bundle, &|tool, argument| {
        let known = of_catalog.then(|| catalog::argument_type(tool, argument));
        known.flatten().map(str::to_owned)
    })
}

/// The same where the types of arguments are known otherwise, such as from a listing.
pub fn lint_with(bundle: &Bundle, type_of: TypeOf<'_>) -> Vec<Diagnostic> {
    let known = known(&bundle.server.spec);
    let mut found = Vec::new();
    for policy in &bundle.policies {
        for (at, rule) in policy.spec.rules.iter().enumerate() {
            let mut warn = |field: &str, message: String| {
                found.push(warning(
                    policy,
                    Some(&rule.name),
                    format!("spec.rules[{at}].{field}"),
                    message,
                ));
            };
            let listed = [
                ("tools.names", &rule.tools.names),
                ("tools.exceptNames", &rule.tools.except_names),
            ];
            for (field, names) in listed {
                for (i, name) in names.iter().enumerate() {
                    if let Some(other) = near(name, &known) {
                        warn(
                            &format!("{field}[{i}]"),
                            format!(
                                "no tool is known by the name {name:?}; did you mean {other:?}? If the server has such a tool, list it \
                                 in spec.tools of the McpServer"
                            ),
                        );
                    }
                }
            }
            if let Some(message) = incomparable(rule, &known, type_of) {
                warn("when", message);
            }
            if !known.is_empty() && !selects_some(rule, &known) {
                warn(
                    "tools",
                    format!(
                        "this selects none of the {} tools that are known of McpServer {}/{}, so the rule does nothing; correct \
                         it, or list the server's other tools in spec.tools of the McpServer (`catalog: None` if it is not an MLflow server)",
                        known.len(),
                        bundle.server.namespace,
                        bundle.server.name
                    ),
                );
            }
        }
    }
    if !allows(bundle, &known) {
        found.extend(bundle.policies.iter().map(|policy| {
            warning(
                policy,
                None,
                "spec.rules".to_owned(),
                format!(
                    "no policy in force for McpServer {}/{} allows anything, so every call is refused; add a rule with action: \
                     Allow, or a defaultAction",
                    bundle.server.namespace, bundle.server.name
                ),
            )
        }));
    }
    found
}

/// A comparison that can only fail, as the argument of a tool has another type than the constant.
fn incomparable(rule: &Rule, known: &BTreeMap<&str, Class>, type_of: TypeOf<'_>) -> Option<String> {
    let condition = Condition::compile(rule.when.as_deref()?).ok()?;
    let comparisons = condition.comparisons();
    if comparisons.is_empty() {
        return None;
    }
    let selector = selector(&rule.tools);
    // A tool that nothing is known of has its name in the rule.
    let named = rule.tools.names.iter().map(|name| (name.as_str(), &None));
    let tools = known
        .iter()
        .map(|(name, class)| (*name, class))
        .chain(named);
    let selected =
        tools.filter(|(name, class)| selector.selects(rule.action, name, **class).is_ok());
    for (tool, _) in selected {
        for comparison in &comparisons {
            let Some(found) = type_of(tool, &comparison.argument) else {
                continue;
            };
            if comparison.fits(&found) {
                continue;
            }
            let (is, write) = match (found.as_str(), comparison.constant()) {
                ("string", "a number") => (
                    "text",
                    format!(
                        "write the number in quotes, or int(args.{}) if it holds a number",
                        comparison.argument
                    ),
                ),
                ("string", _) => ("text", "write the constant in quotes".to_owned()),
                ("integer" | "number", _) => (
                    "a number",
                    "write the constant as a number, without quotes".to_owned(),
                ),
                ("boolean", _) => (
                    "true or false",
                    "write true or false, without quotes".to_owned(),
                ),
                ("array", _) => (
                    "a list",
                    format!(
                        "write for example 'x' in args.{}, or size(args.{})",
                        comparison.argument, comparison.argument
                    ),
                ),
                _ => (
                    "a map",
                    format!("name a member of it, as args.{}.name", comparison.argument),
                ),
            };
            let effect = match rule.action {
                Action::Allow => "so this rule allows no such call",
                _ => "so this rule matches every such call",
            };
            return Some(format!(
                "the argument {} of {tool} is {is}, and `{}` compares it with {}, which fails, {effect}; {write}",
                comparison.argument,
                comparison.operator,
                comparison.constant()
            ));
        }
    }
    None
}

fn warning(policy: &BundlePolicy, rule: Option<&str>, path: String, message: String) -> Diagnostic {
    Diagnostic {
        level: Level::Warning,
        policy: Some(format!("{}/{}", policy.namespace, policy.name)),
        rule: rule.map(str::to_owned),
        path,
        position: None,
        message,
    }
}

type Class = Option<(Risk, Severity)>;

/// The tools that a server is known to have, with their classes; none where nothing is known of it.
fn known(spec: &McpServerSpec) -> BTreeMap<&str, Class> {
    let mut known = BTreeMap::new();
    if spec.catalog() == Catalog::None {
        return known;
    }
    for entry in catalog::all() {
        known.insert(entry.name, Some((entry.risk, entry.severity)));
    }
    for tool in &spec.tools {
        let class = known.get(tool.name.as_str()).copied().flatten();
        let risk = tool.risk.or(class.map(|(risk, _)| risk));
        let class = risk.map(|risk| {
            let severity = tool.severity.or(class.map(|(_, severity)| severity));
            (risk, severity.unwrap_or_else(|| risk.default_severity()))
        });
        known.insert(&tool.name, class);
    }
    known
}

fn selector(tools: &ToolSelector) -> Selector {
    let globs = |names: &[String]| -> Vec<Glob> {
        let compiled = names
            .iter()
            .filter_map(|name| Glob::try_from(name.as_str()).ok());
        compiled.collect()
    };
    Selector {
        names: Globs {
            any_of: globs(&tools.names),
            except: globs(&tools.except_names),
        },
        risks: tools.risks.clone(),
        min_severity: tools.min_severity,
    }
}

fn selects_some(rule: &Rule, known: &BTreeMap<&str, Class>) -> bool {
    let selector = selector(&rule.tools);
    known
        .iter()
        .any(|(name, class)| selector.selects(rule.action, name, *class).is_ok())
}

/// A known name that this one is almost.
fn near<'k>(name: &str, known: &BTreeMap<&'k str, Class>) -> Option<&'k str> {
    if name.contains('*') || known.contains_key(name) {
        return None;
    }
    known.keys().copied().find(|other| is_near(name, other))
}

/// Whether two names differ in case, in what separates words, in a plural, or in one letter.
fn is_near(a: &str, b: &str) -> bool {
    let fold = |text: &str| -> Vec<char> {
        fold_case(text)
            .chars()
            .filter(|c| !matches!(c, '_' | '-' | '.' | ' '))
            .collect()
    };
    let (a, b) = (fold(a), fold(b));
    if a.len() < 4 || b.len() < 4 {
        return a == b;
    }
    let (short, long) = if a.len() <= b.len() {
        (&a, &b)
    } else {
        (&b, &a)
    };
    let head = short.iter().zip(long).take_while(|(a, b)| a == b).count();
    let tail_of = |skip: usize| long.get(head + skip..) == short.get(head + skip..);
    match long.len() - short.len() {
        // The same, one letter another, or two that changed places.
        0 => {
            let (x, y) = (short.get(head..), long.get(head..));
            let swapped = match (x, y) {
                (Some([a, b, ..]), Some([c, d, ..])) => a == d && b == c && tail_of(2),
                _ => false,
            };
            head == short.len() || tail_of(1) || swapped
        }
        1 => long.get(head + 1..) == short.get(head..),
        // `aliases` for `alias`.
        2 => long.ends_with(&['e', 's']) && head == short.len(),
        _ => false,
    }
}

/// Whether something may be allowed by the policies of a server: by a rule that selects a tool, or
/// could select one that nothing is known of, or by a default.
fn allows(bundle: &Bundle, known: &BTreeMap<&str, Class>) -> bool {
    let lets = |action: Action| matches!(action, Action::Allow | Action::RequireApproval);
    let mut enforced = bundle
        .policies
        .iter()
        .filter(|policy| policy.spec.mode() == Mode::Enforce)
        .peekable();
    // The case without any is reported elsewhere.
    if enforced.peek().is_none() {
        return true;
    }
    enforced.any(|policy| {
        let spec = &policy.spec;
        let by_rule = spec
            .rules
            .iter()
            .filter(|rule| lets(rule.action))
            .any(|rule| {
                let unknown =
                    |name: &String| foreign(name).is_none() && near(name, known).is_none();
                selects_some(rule, known) || rule.tools.names.iter().any(unknown)
            });
        by_rule
            || spec.default_action == Some(DefaultAction::Allow)
            || spec.prompts.iter().any(|rule| lets(rule.action))
            || spec.resources.iter().any(|rule| lets(rule.action))
    })
}

#[cfg(test)]
mod tests;
