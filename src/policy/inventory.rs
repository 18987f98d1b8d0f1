//! The upstream's tools with their classes, and the rules that select each: the data for decisions.
//!
//! In: a [`Program`] and the tools as the upstream lists them. Out: a [`Bound`], immutable, swapped
//! in whole when either changes. Everything that does not depend on the call is computed here, so
//! that a decision touches only the rules that select the called tool. Must not do: trust a
//! listing's claims about itself; annotations are not read.

use super::canonical;
use super::check::{Fill, Fuel, Reads};
use super::decision::Caller;
use super::form::Form;
use super::misfit::{Misfit, Off};
use super::program::{Program, Rule};
use super::schema::{Budget, Exact, Schema};
use crate::api::policy::Action;
use crate::api::server::ToolOverride;
use crate::api::{Risk, Severity};
use crate::catalog::{self, Known};
use crate::json;
use serde::Serialize;
use std::{collections::HashMap, sync::Arc};

/// More rules are not named as those that came near.
const MAX_NEAR: usize = 8;

/// One tool as the upstream lists it.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// `sha256:` and the digest of the definition's canonical form.
    pub digest: String,
    schema: Option<serde_json::Value>,
    /// Names of its properties, sorted; none if it was not listed.
    properties: Option<Vec<String>>,
}

impl Definition {
    /// The type that its schema gives an argument, if it is one; a null besides does not matter.
    pub fn argument_type(&self, argument: &str) -> Option<String> {
        let property = self.schema.as_ref()?.get("properties")?.get(argument)?;
        let of = |schema: &serde_json::Value| {
            schema
                .get("type")
                .and_then(|kind| kind.as_str())
                .map(str::to_owned)
        };
        if let Some(kind) = of(property) {
            return Some(kind);
        }
        let any = property.get("anyOf")?.as_array()?;
        let mut kinds = any
            .iter()
            .map(|schema| of(schema).unwrap_or_else(|| "any".to_owned()));
        let mut kinds: Vec<String> = kinds.by_ref().filter(|kind| kind != "null").collect();
        kinds.dedup();
        match kinds.as_slice() {
            [one] if one != "any" => Some(one.clone()),
            _ => None,
        }
    }
}

/// Why an entry of a listing is not a tool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// Not strict JSON.
    #[error("a tool's definition is not strict JSON: {0}")]
    Json(#[from] json::Error),
    /// No name.
    #[error("a tool's definition is not an object with a name")]
    Shape,
}

impl Definition {
    /// Reads one element of `result.tools`.
    pub fn parse(raw: &[u8]) -> Result<Self, DefinitionError> {
        let value = json::parse(raw)?;
        let name = value
            .get("name")
            .and_then(json::Value::as_str)
            .ok_or(DefinitionError::Shape)?;
        let schema = match value.get("inputSchema") {
            Some(schema) => serde_json::from_str(&json::canonical(schema))
                .map_err(|_| DefinitionError::Shape)?,
            None => serde_json::Value::Null,
        };
        let mut properties: Vec<String> = schema
            .get("properties")
            .and_then(serde_json::Value::as_object)
            .map(|properties| properties.keys().cloned().collect())
            .unwrap_or_default();
        properties.sort_unstable();
        Ok(Self {
            name: name.to_owned(),
            digest: format!(
                "sha256:{}",
                hex::encode(canonical::sha256(json::canonical(&value).as_bytes()))
            ),
            schema: Some(schema),
            properties: Some(properties),
        })
    }

    /// A tool that is not listed anywhere, for looking at policies without a server: arguments are
    /// not held against a schema, and nothing can have drifted.
    pub fn assumed(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            digest: String::new(),
            schema: None,
            properties: None,
        }
    }
}

/// Why a listed tool is hidden from all callers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Withheld {
    /// Its name is listed more than once.
    Duplicate,
    /// Its definition has another digest than its pin.
    Pin,
    /// A rule reads an argument whose schema cannot be compiled.
    Schema(String),
}

impl Withheld {
    /// The message for the server's operators.
    pub fn describe(&self) -> String {
        match self {
            Withheld::Duplicate => "the server lists this name more than once".to_owned(),
            Withheld::Pin => "its definition differs from the pinned one; review it, then change \
            definitionDigest"
                .to_owned(),
            Withheld::Schema(why) => format!("a rule reads its arguments, and {why}"),
        }
    }
}

/// One tool of the inventory.
#[derive(Debug)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// Digest of its definition.
    pub digest: String,
    /// Its class; none is Unclassified.
    pub class: Option<(Risk, Severity)>,
    /// It differs from its pin, or its properties match no catalogued form of its name.
    pub drifted: bool,
    /// Set if it is hidden from all callers.
    pub withheld: Option<Withheld>,
    /// JSON pointers into its arguments, never logged or previewed.
    pub redact: Vec<String>,
    /// Whether the server's spec pins its definition.
    pub pinned: bool,
    /// Names of the arguments that its schema lists, sorted.
    pub properties: Vec<String>,
    /// Indexes of the rules that select it, in order of attribution.
    pub(super) rules: Vec<u32>,
    /// Whether a rule of an Audit policy selects it.
    pub(super) has_audit_rules: bool,
    schema: Option<Result<Schema, String>>,
    /// Forms of the arguments that some rule reads.
    forms: Vec<Form>,
    /// What some rule reads.
    reads: Reads,
    /// Arguments that the catalogue knows.
    known: &'static [&'static str],
    listed: bool,
}

impl Tool {
    /// Whether it is known to change nothing.
    pub fn only_reads(&self) -> bool {
        self.class.is_some_and(|(risk, _)| risk == Risk::Read)
    }

    /// `tool.risk` in conditions.
    pub fn risk_str(&self) -> &'static str {
        self.class.map_or("Unclassified", |(risk, _)| risk.as_str())
    }

    /// `tool.severity` in conditions.
    pub fn severity_str(&self) -> &'static str {
        self.class.map_or("", |(_, severity)| severity.as_str())
    }

    /// Holds arguments against the schema and gives what the server reads beside them, and which of
    /// those that some rule reads are not in their one spelling.
    pub(super) fn admit<'a>(
        &'a self,
        value: &'a json::Value<'a>,
        fuel: &Fuel,
    ) -> Result<(Vec<Fill<'a>>, Vec<Off<'a>>), Misfit> {
        if value.as_object().is_none() {
            return Err(Misfit("the arguments must be an object".to_owned()));
        }
        match &self.schema {
            Some(Ok(schema)) => {
                let exact = Exact {
                    reads: &self.reads,
                    forms: &self.forms,
                    known: self.known,
                };
                let (fills, mut off) = schema.check(value, fuel, exact)?;
                self.off_form(value, fuel, &mut off)?;
                Ok((fills, off))
            }
            Some(Err(why)) => Err(Misfit(format!("arguments cannot be checked, as {why}"))),
            None if self.listed => Err(Misfit(
                "arguments cannot be checked, as the schema was not compiled".to_owned(),
            )),
            None => {
                let mut off = Vec::new();
                self.off_form(value, fuel, &mut off)?;
                Ok((Vec::new(), off))
            }
        }
    }
}

impl Tool {
    /// The forms that the arguments are not written in, of those that some rule reads.
    fn off_form<'t>(
        &'t self,
        value: &json::Value<'_>,
        fuel: &Fuel,
        off: &mut Vec<Off<'t>>,
    ) -> Result<(), Misfit> {
        for form in &self.forms {
            let Some(argument) = value.get(&form.name) else {
                continue;
            };
            match form.fits(argument, fuel) {
                Ok(true) => {}
                Ok(false) => off.push(form.off()),
                Err(exhausted) => return Err(Misfit(exhausted.to_string())),
            }
        }
        Ok(())
    }
}

/// Figures for status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InventoryCounts {
    /// Tools that the upstream lists.
    pub discovered: usize,
    /// Tools that some caller can list.
    pub visible: usize,
    /// The others.
    pub hidden: usize,
    /// Tools without a class.
    pub unclassified: usize,
    /// Tools that differ from their pin or from the catalogue.
    pub drifted: usize,
}

/// Rules bound to tools; decides calls.
#[derive(Debug)]
pub struct Bound {
    pub(super) program: Arc<Program>,
    tools: Vec<Tool>,
    /// Every call looks its tool up here.
    index: HashMap<String, usize, foldhash::fast::RandomState>,
    counts: InventoryCounts,
}

impl Bound {
    /// Whether any rule has a limit that is enforced.
    pub fn has_limits(&self) -> bool {
        let mut rules = self.program.rules.iter();
        rules.any(|rule| !rule.audit && !rule.limits.is_empty())
    }

    /// Binds compiled policies to a listing.
    pub fn new(program: &Arc<Program>, listing: &[Definition]) -> Self {
        let mut tools: Vec<Tool> = Vec::with_capacity(listing.len());
        let mut index = HashMap::with_capacity_and_hasher(listing.len(), <_>::default());
        let mut budget = Budget::default();
        for definition in listing {
            let listed = index.get(&definition.name);
            match listed.and_then(|at: &usize| tools.get_mut(*at)) {
                Some(first) => first.withheld = Some(Withheld::Duplicate),
                None => {
                    index.insert(definition.name.clone(), tools.len());
                    tools.push(bind(program, definition, &mut budget));
                }
            }
        }
        let mut bound = Self {
            program: Arc::clone(program),
            tools,
            index,
            counts: InventoryCounts::default(),
        };
        bound.counts = bound.count();
        bound
    }

    /// The program that was bound.
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// The tools, in the order of the listing.
    pub fn tools(&self) -> &[Tool] {
        &self.tools
    }

    /// Whether its tools have the definitions that they have in another.
    pub fn has_tools_of(&self, other: &Bound) -> bool {
        let mut pairs = self.tools.iter().zip(&other.tools);
        self.tools.len() == other.tools.len()
            && pairs.all(|(one, other)| (&one.name, &one.digest) == (&other.name, &other.digest))
    }

    /// One tool.
    pub fn tool(&self, name: &str) -> Option<&Tool> {
        self.index.get(name).and_then(|at| self.tools.get(*at))
    }

    /// Whether a definition that the upstream shows a caller is the pinned one, where there is a
    /// pin. A server may show the gateway one definition and its clients another.
    pub fn as_pinned(&self, name: &str, definition: &[u8]) -> bool {
        match self.tool(name) {
            Some(tool) if tool.pinned && !self.program.audit => {
                Definition::parse(definition).is_ok_and(|shown| shown.digest == tool.digest)
            }
            _ => true,
        }
    }

    /// The rules for this tool and this caller that let a call pass where their condition holds: of
    /// a call that no rule matched, those that came near. At most [`MAX_NEAR`].
    pub fn near(&self, tool: &str, caller: &Caller) -> Vec<String> {
        let tool = self.tool(tool);
        let rules = tool.into_iter().flat_map(|tool| &tool.rules);
        rules
            .filter_map(|at| self.program.rules.get(*at as usize))
            .filter(|rule| {
                let passes = matches!(rule.action, Action::Allow | Action::RequireApproval);
                passes && !rule.audit && rule.callers.matches(&caller.grant)
            })
            .take(MAX_NEAR)
            .map(|rule| format!("{}/{}", rule.id.policy_label(), rule.id.rule))
            .collect()
    }

    /// Figures for status.
    pub fn counts(&self) -> InventoryCounts {
        self.counts
    }

    fn count(&self) -> InventoryCounts {
        let visible = self
            .tools
            .iter()
            .filter(|tool| self.visible_to_some(tool))
            .count();
        InventoryCounts {
            discovered: self.tools.len(),
            visible,
            hidden: self.tools.len() - visible,
            unclassified: self
                .tools
                .iter()
                .filter(|tool| tool.class.is_none())
                .count(),
            drifted: self.tools.iter().filter(|tool| tool.drifted).count(),
        }
    }
}

fn bind(program: &Program, definition: &Definition, budget: &mut Budget) -> Tool {
    let known = match &definition.properties {
        _ if !program.use_catalog => Known::No,
        Some(properties) => catalog::find(&definition.name, properties.iter().map(String::as_str)),
        // Its inputs are unknown, so the strictest form counts, and drift cannot be detected.
        None => catalog::lookup(&definition.name)
            .max_by_key(|entry| (entry.risk, entry.severity))
            .map_or(Known::No, Known::Yes),
    };
    let entry = program.overrides.get(&definition.name);
    let class = classify(known, entry);
    let pinned = entry.and_then(|entry| entry.definition_digest.as_deref());
    let is_pinned = pinned.is_some();
    let off_pin =
        pinned.is_some_and(|pin| pin != definition.digest && definition.properties.is_some());
    let off_catalog = matches!(known, Known::Drifted(_));
    let rules: Vec<u32> = program
        .rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| {
            rule.selector
                .selects(rule.action, &definition.name, class)
                .is_ok()
        })
        .filter_map(|(at, _)| u32::try_from(at).ok())
        .collect();
    let selected = || {
        rules
            .iter()
            .filter_map(|at| program.rules.get(*at as usize))
    };
    let forms = forms(program, definition, known, selected());
    let reads = selected().fold(Reads::default(), |reads, rule| reads.and(&rule.reads));
    let schema = definition
        .schema
        .as_ref()
        .filter(|_| reads.some())
        .map(|schema| Schema::compile(schema, &reads, budget));
    let catalogued: &[&str] = match known {
        Known::Yes(entry) => entry.properties,
        Known::Drifted(_) | Known::No => &[],
    };
    let mut withheld = off_pin.then_some(Withheld::Pin);
    if let Some(Err(why)) = &schema
        && withheld.is_none()
        && selected().any(|rule| rule.reads.some() && !rule.audit)
    {
        withheld = Some(Withheld::Schema(why.clone()));
    }
    Tool {
        name: definition.name.clone(),
        digest: definition.digest.clone(),
        class,
        drifted: off_pin || off_catalog,
        withheld,
        pinned: is_pinned,
        properties: definition.properties.clone().unwrap_or_default(),
        redact: entry.map(|entry| entry.redact.clone()).unwrap_or_default(),
        has_audit_rules: selected().any(|rule| rule.audit),
        rules,
        schema,
        forms,
        reads,
        known: catalogued,
        listed: definition.schema.is_some(),
    }
}

/// The forms of the arguments that some rule reads: the server's spec says them, or else the
/// catalogue.
fn forms<'p>(
    program: &Program,
    definition: &Definition,
    known: Known,
    rules: impl Iterator<Item = &'p Rule> + Clone,
) -> Vec<Form> {
    let stated = program.forms.get(&definition.name);
    let stated = stated.map(Vec::as_slice).unwrap_or_default();
    let catalogued = known.entry().into_iter().flat_map(|entry| {
        let free = entry
            .properties
            .iter()
            .filter(|name| !stated.iter().any(|form| form.name == **name));
        free.filter_map(|name| Some(Form::known(name, entry.form(name)?)))
    });
    stated
        .iter()
        .cloned()
        .chain(catalogued)
        .filter(|form| rules.clone().any(|rule| rule.reads.reads(&form.name)))
        .collect()
}

/// The class of the catalogued form, as overridden. A tool that is like no form of its name keeps
/// the strictest form's class and is counted as drifted.
fn classify(known: Known, entry: Option<&ToolOverride>) -> Option<(Risk, Severity)> {
    let catalogued = known.entry().map(|known| (known.risk, known.severity));
    let risk = entry.and_then(|entry| entry.risk);
    let severity = entry.and_then(|entry| entry.severity);
    match (risk, catalogued) {
        (Some(risk), _) => Some((risk, severity.unwrap_or_else(|| risk.default_severity()))),
        (None, Some((risk, found))) => Some((risk, severity.unwrap_or(found))),
        (None, None) => None,
    }
}

/// Whether a matching rule with this action shows the tool.
pub(super) fn shows(action: Action) -> bool {
    action != Action::Hide
}
