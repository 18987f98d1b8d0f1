//! Keys that the schema does not know.
//!
//! In: objects whose unknown keys were kept. Out: each such key with its path. A misspelt key must
//! never loosen a rule, and most GitOps tools apply without strict validation, so these objects
//! keep unknown keys instead of pruning them.

use serde_json::Value;
use std::{collections::BTreeMap, fmt};

/// Unknown keys of one object, kept by `serde(flatten)`.
pub type Unknown = BTreeMap<String, Value>;

/// An unknown key, with the path to it, for example `spec.rules[2].tools.nmaes`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnknownField {
    /// Path from the object's root to the key, the key included.
    pub path: String,
}

impl fmt::Display for UnknownField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

/// Collects unknown keys while an object is walked.
#[derive(Debug, Default)]
pub(super) struct Collector(pub(super) Vec<UnknownField>);

impl Collector {
    pub(super) fn add(&mut self, at: &str, unknown: &Unknown) {
        self.0.extend(unknown.keys().map(|key| UnknownField {
            path: format!("{at}.{key}"),
        }));
    }
}
