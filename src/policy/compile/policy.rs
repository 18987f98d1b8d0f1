//! One policy to compiled rules.

use super::Owner;
use super::context::{Context, MAX_NAME};
use super::findings::FindingSink;
use super::limits::{approval, limits};
use crate::api::policy::{
    Action, McpPolicySpec, Mode, PromptRule, ResourceRule, Rule as Written, RuleCallers,
    ToolSelector,
};
use crate::policy::check::{Condition, Cost, Patterns, Reads, Spent};
use crate::policy::decision::Counter;
use crate::policy::diagnostic::{Diagnostic, Level};
use crate::policy::lint::{foreign, foreign_uri};
use crate::policy::matcher::{Glob, Globs, QueryGlobs};
use crate::policy::program::{NameRule, Rule, Selector};
use crate::policy::uri::pattern_fault;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

const MAX_RULES: usize = 256;
/// Bytes of a policy as JSON: what follows from it, findings included, takes a multiple of that.
const MAX_SPEC: usize = 256 * 1024;
const MAX_REASON: usize = 1_024;

#[derive(Default)]
pub(super) struct Compiled {
    pub rules: Vec<Rule>,
    pub prompts: Vec<NameRule>,
    pub resources: Vec<NameRule>,
    /// What its patterns cost.
    pub spent: Spent,
}

impl Compiled {
    pub fn append(&mut self, other: Compiled) {
        self.rules.extend(other.rules);
        self.prompts.extend(other.prompts);
        self.resources.extend(other.resources);
        self.spent = self.spent.and(other.spent);
    }

    /// Order of attribution.
    pub fn sort(&mut self) {
        self.rules.sort_by(|a, b| a.id.cmp(&b.id));
        self.prompts.sort_by(|a, b| a.id.cmp(&b.id));
        self.resources.sort_by(|a, b| a.id.cmp(&b.id));
    }
}

pub(super) fn compile(
    owner: &Owner<'_>,
    server: &Arc<str>,
    server_audits: bool,
    spec: &McpPolicySpec,
    findings: &mut Vec<Diagnostic>,
) -> Compiled {
    let mut top = FindingSink::of_policy(owner, &mut *findings);
    if let Some(size) = too_large(spec) {
        top.error(
            "",
            format!("the policy has {size} bytes and may have {MAX_SPEC}; split it over several policies"),
        );
        return Compiled::default();
    }
    targets(spec, &mut top);
    for unknown in spec.unknown_fields() {
        let rule = rule_of(spec, &unknown.path);
        let finding = owner.finding(
            Level::Error,
            rule,
            unknown.path.clone(),
            None,
            "there is no such field; correct its spelling or remove it, as a misspelt key must not loosen a rule",
        );
        top.add(finding);
    }
    for (field, count) in [
        ("rules", spec.rules.len()),
        ("prompts", spec.prompts.len()),
        ("resources", spec.resources.len()),
    ] {
        if count > MAX_RULES {
            top.error(field, format!("there are {count} rules and there may be {MAX_RULES}; split them over two policies"));
        }
    }
    let audit = spec.mode() == Mode::Audit;
    let mut counters = BTreeMap::new();
    let mut patterns = Patterns::default();
    let mut names = BTreeSet::new();
    let mut compiled = Compiled::default();
    for (i, rule) in spec.rules.iter().enumerate() {
        let base = format!("spec.rules[{i}]");
        let mut sink = FindingSink::of_rule(owner, &rule.name, base, &mut *findings);
        name(&rule.name, &mut names, &mut sink);
        let context = Context {
            server,
            shadow: audit || server_audits,
            audit,
        };
        let shared = (&mut counters, &mut patterns);
        compiled
            .rules
            .extend(tool_rule(rule, &context, shared, &mut sink));
    }
    compiled.spent = patterns.spent();
    names.clear();
    for (i, rule) in spec.prompts.iter().enumerate() {
        let base = format!("spec.prompts[{i}]");
        let mut sink = FindingSink::of_rule(owner, &rule.name, base, &mut *findings);
        name(&rule.name, &mut names, &mut sink);
        compiled.prompts.push(prompt_rule(rule, audit, &mut sink));
    }
    names.clear();
    for (i, rule) in spec.resources.iter().enumerate() {
        let base = format!("spec.resources[{i}]");
        let mut sink = FindingSink::of_rule(owner, &rule.name, base, &mut *findings);
        name(&rule.name, &mut names, &mut sink);
        compiled
            .resources
            .push(resource_rule(rule, audit, &mut sink));
    }
    if owner.restricts_only.is_some() {
        let restricts = |rule: &NameRule| rule.action != Action::Allow;
        compiled.prompts.retain(restricts);
        compiled.resources.retain(restricts);
    }
    compiled
}

/// The size of a policy that is too large. One that cannot be written as JSON is too large for
/// anything.
fn too_large(spec: &McpPolicySpec) -> Option<usize> {
    let size = serde_json::to_vec(spec).map_or(usize::MAX, |text| text.len());
    (size > MAX_SPEC).then_some(size)
}

/// The rule that a path such as `spec.rules[2].tools.nmaes` lies in.
fn rule_of<'s>(spec: &'s McpPolicySpec, path: &str) -> Option<&'s str> {
    let (list, rest) = path.strip_prefix("spec.")?.split_once('[')?;
    let index: usize = rest.split_once(']')?.0.parse().ok()?;
    match list {
        "rules" => spec.rules.get(index).map(|rule| rule.name.as_str()),
        "prompts" => spec.prompts.get(index).map(|rule| rule.name.as_str()),
        "resources" => spec.resources.get(index).map(|rule| rule.name.as_str()),
        _ => None,
    }
}

fn targets(spec: &McpPolicySpec, sink: &mut FindingSink<'_>) {
    match (spec.target_refs.as_slice(), &spec.target_selector) {
        ([], None) => sink.error(
            "targetRefs",
            "the policy has no target; write targetRefs or targetSelector",
        ),
        ([_, ..], Some(_)) => sink.error(
            "targetSelector",
            "write targetRefs or targetSelector, not both",
        ),
        _ => {}
    }
    if spec.namespace_selector.is_some() && spec.target_selector.is_none() {
        sink.error(
            "namespaceSelector",
            "this goes with targetSelector; write targetSelector: {matchLabels: {}} for all servers of those namespaces",
        );
    }
    for (i, target) in spec.target_refs.iter().enumerate() {
        let at = |field: &str| format!("targetRefs[{i}].{field}");
        if target.group != crate::api::GROUP {
            sink.error(&at("group"), format!("write {}", crate::api::GROUP));
        }
        if target.kind != "McpServer" {
            sink.error(
                &at("kind"),
                "write McpServer; policies have no other targets",
            );
        }
        if target.name.is_empty() {
            sink.error(&at("name"), "write the name of an McpServer");
        }
    }
}

/// Names end up in messages, metrics and statuses, and those in parentheses are taken.
fn name<'r>(name: &'r str, names: &mut BTreeSet<&'r str>, sink: &mut FindingSink<'_>) {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(allowed) {
        sink.error(
            "name",
            format!("a name has 1 to {MAX_NAME} letters, digits, `-`, `_` or `.`"),
        );
    }
    if !names.insert(name) {
        sink.error(
            "name",
            format!("the name {name:?} is used twice in this list; rename one of the rules"),
        );
    }
}

fn reason(text: Option<&String>, sink: &mut FindingSink<'_>) -> Option<Arc<str>> {
    let text = text?;
    if text.len() > MAX_REASON || text.chars().any(|c| c.is_control() && c != '\n') {
        sink.error(
            "reason",
            format!("a reason is text of at most {MAX_REASON} bytes without control characters"),
        );
    }
    let text = text.trim();
    (!text.is_empty()).then(|| text.into())
}

fn tool_rule(
    rule: &Written,
    context: &Context<'_>,
    (counters, patterns): (&mut BTreeMap<String, Arc<Counter>>, &mut Patterns),
    sink: &mut FindingSink<'_>,
) -> Option<Rule> {
    let names = Globs {
        any_of: sink.globs("tools.names", &rule.tools.names, |text| {
            Glob::try_from(text)
        }),
        except: sink.globs("tools.exceptNames", &rule.tools.except_names, |text| {
            Glob::try_from(text)
        }),
    };
    sink.foreign("tools.names", &rule.tools.names, foreign);
    sink.foreign("tools.exceptNames", &rule.tools.except_names, foreign);
    if names.is_never() {
        sink.warn(
            "tools.exceptNames",
            "every name is excepted, so this rule can never match",
        );
    }
    let selector = Selector {
        names,
        risks: rule.tools.risks.clone(),
        min_severity: rule.tools.min_severity,
    };
    if rule.tools == ToolSelector::default() {
        sink.error(
            "tools",
            "this says nothing about tools; to select every tool write names: [\"*\"]",
        );
    } else if rule.tools.names.is_empty()
        && selector.risks.is_empty()
        && selector.min_severity.is_none()
    {
        sink.warn(
            "tools",
            "this selects every tool; write names: [\"*\"] if that is meant",
        );
    }
    let callers = sink.callers(&rule.by);
    let when =
        rule.when
            .as_deref()
            .and_then(|source| match Condition::compile_with(source, patterns) {
                Ok(condition) => Some(condition),
                Err(fault) => {
                    sink.fault("when", source, fault);
                    None
                }
            });
    if when.as_ref().is_some_and(|when| !when.is_boolean()) {
        sink.warn(
            "when",
            "this may give neither true nor false, as it is the value of an argument; compare it, for example args.name == true",
        );
    }
    if rule.action == Action::Hide && when.as_ref().is_some_and(Condition::reads_args) {
        sink.error(
            "when",
            "a Hide rule cannot look at args, as a list of tools has none; use Deny, or conditions over caller and tool",
        );
    }
    let approval = approval(rule, sink);
    let limits = limits(rule, context, (counters, patterns), sink);
    let costs = limits
        .iter()
        .filter_map(|limit| limit.cost.as_ref())
        .map(Cost::reads);
    let observed = approval.observe.iter();
    let observed = observed.flat_map(|observe| observe.args.iter().map(|(_, arg)| arg.reads()));
    let reads = when
        .as_ref()
        .map(Condition::reads)
        .into_iter()
        .chain(costs)
        .chain(observed)
        .fold(Reads::default(), Reads::and);
    // A condition that did not compile has been reported; the rule must not stand without it even
    // so.
    if rule.when.is_some() && when.is_none() {
        return None;
    }
    Some(Rule {
        id: sink.owner.rule(&rule.name),
        audit: context.audit,
        selector,
        callers,
        when,
        action: rule.action,
        limits,
        expires_after: approval.expires_after,
        wait_up_to: approval.wait_up_to,
        approvers: approval.approvers,
        redact: approval.redact,
        observe: approval.observe,
        reason: reason(rule.reason.as_ref(), sink),
        reads,
        restricts_only: sink.owner.restricts_only.clone(),
    })
}

fn only_plain(action: Action, sink: &mut FindingSink<'_>) {
    if action == Action::RequireApproval {
        sink.error("action", "approval is for tools; write Hide, Deny or Allow");
    }
}

fn prompt_rule(rule: &PromptRule, audit: bool, sink: &mut FindingSink<'_>) -> NameRule {
    only_plain(rule.action, sink);
    if rule.names.is_empty() {
        sink.error(
            "names",
            "write the names that the rule is for, or [\"*\"] for all",
        );
    }
    sink.foreign("names", &rule.names, foreign);
    sink.foreign("exceptNames", &rule.except_names, foreign);
    let names = Globs {
        any_of: sink.globs("names", &rule.names, |text| Glob::try_from(text)),
        except: sink.globs("exceptNames", &rule.except_names, |text| {
            Glob::try_from(text)
        }),
    };
    name_rule(
        &rule.name,
        audit,
        rule.action,
        names,
        &rule.by,
        rule.reason.as_ref(),
        sink,
    )
}

fn resource_rule(rule: &ResourceRule, audit: bool, sink: &mut FindingSink<'_>) -> NameRule {
    only_plain(rule.action, sink);
    if rule.uris.is_empty() {
        sink.error(
            "uris",
            "write the URIs that the rule is for, or [\"*\"] for all",
        );
    }
    sink.foreign("uris", &rule.uris, foreign_uri);
    sink.foreign("exceptUris", &rule.except_uris, foreign_uri);
    let names = Globs {
        any_of: sink.globs("uris", &rule.uris, uri_glob),
        except: sink.globs("exceptUris", &rule.except_uris, uri_glob),
    };
    let made = name_rule(
        &rule.name,
        audit,
        rule.action,
        names,
        &rule.by,
        rule.reason.as_ref(),
        sink,
    );
    NameRule {
        queries: QueryGlobs::of(&rule.uris),
        except_queries: QueryGlobs::of(&rule.except_uris),
        ..made
    }
}

/// A pattern over URIs; one that only refused URIs could match would silently be for nothing.
fn uri_glob(text: &str) -> Result<Glob, String> {
    let glob = Glob::try_from(text)?;
    match pattern_fault(text) {
        Some(fault) => Err(format!(
            "no request can match {text:?}, as its URIs are refused: {fault}"
        )),
        None => Ok(glob),
    }
}

fn name_rule(
    name: &str,
    audit: bool,
    action: Action,
    names: Globs,
    by: &RuleCallers,
    text: Option<&String>,
    sink: &mut FindingSink<'_>,
) -> NameRule {
    if names.is_never() {
        sink.warn("", "everything is excepted, so this rule can never match");
    }
    let callers = sink.callers(by);
    NameRule {
        id: sink.owner.rule(name),
        audit,
        names,
        queries: QueryGlobs::default(),
        except_queries: QueryGlobs::default(),
        callers,
        action,
        reason: reason(text, sink),
    }
}
