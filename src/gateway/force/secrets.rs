//! Where the values of referenced Secrets come from. The values stay in the parts that use them and
//! are never shown.

use std::collections::BTreeMap;

use crate::api::SecretKeyRef;

/// A source of Secrets in one namespace.
pub trait Secrets: Send + Sync {
    /// Every key of a Secret, or None when there is no such Secret.
    fn all(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>>;

    /// One key of a Secret.
    fn key(&self, name: &str, key: &str) -> Option<Vec<u8>> {
        self.all(name)?.remove(key)
    }
}

/// Looks Secrets up and remembers what was missing, for the report.
pub struct Lookup<'a> {
    secrets: &'a dyn Secrets,
    missing: Vec<String>,
}

impl<'a> Lookup<'a> {
    /// Nothing is missing yet.
    pub fn new(secrets: &'a dyn Secrets) -> Self {
        Lookup {
            secrets,
            missing: Vec::new(),
        }
    }

    /// The value of a key; one that is missing and not optional is remembered as `NAME/KEY`.
    pub fn key(&mut self, name: &str, key: &str, optional: bool) -> Option<Vec<u8>> {
        let value = self.secrets.key(name, key);
        if value.is_none() && !optional {
            self.missing.push(format!("{name}/{key}"));
        }
        value
    }

    /// The value of a key that must be there.
    pub fn reference(&mut self, reference: &SecretKeyRef) -> Option<Vec<u8>> {
        self.key(&reference.name, &reference.key, false)
    }

    /// All keys; a Secret that is missing and not optional is remembered by its name.
    pub fn all(&mut self, name: &str, optional: bool) -> Option<BTreeMap<String, Vec<u8>>> {
        let keys = self.secrets.all(name);
        if keys.is_none() && !optional {
            self.missing.push(name.to_owned());
        }
        keys
    }

    /// The missing entries, in order, each once.
    pub fn into_missing(mut self) -> Vec<String> {
        self.missing.sort();
        self.missing.dedup();
        self.missing
    }
}
