//! Secrets outside a cluster: documents in the files, and variables of the environment.

use std::collections::BTreeMap;

use crate::gateway::snapshot::secrets::Secrets;

/// Secrets of `kind: Secret` documents, and of variables named `PORTCULLIS_SECRET_<NAME>_<KEY>`, which win.
///
/// In a variable's name every character of the Secret's and the key's name that is no letter or digit is `_`, and letters are
/// upper case. Where all keys of a Secret are wanted, what follows `<NAME>_` is a key, in lower case with `-` for `_`.
#[derive(Clone, PartialEq)]
pub struct FileSecrets {
    pub(super) secrets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
}

impl Secrets for FileSecrets {
    fn all(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let mut keys = self.secrets.get(name).cloned();
        let prefix = format!("PORTCULLIS_SECRET_{}_", variable(name));
        for (variable, value) in std::env::vars_os() {
            let Some(rest) = variable
                .to_str()
                .and_then(|variable| variable.strip_prefix(&prefix))
            else {
                continue;
            };
            if rest.is_empty() {
                continue;
            }
            let keys = keys.get_or_insert_default();
            // A key of a document that the variable stands for keeps its own spelling.
            let key = keys.keys().find(|key| self::variable(key) == rest).cloned();
            keys.insert(
                key.unwrap_or_else(|| rest.to_lowercase().replace('_', "-")),
                bytes(value),
            );
        }
        keys
    }

    fn key(&self, name: &str, key: &str) -> Option<Vec<u8>> {
        let named = format!("PORTCULLIS_SECRET_{}_{}", variable(name), variable(key));
        match std::env::var_os(named) {
            Some(value) => Some(bytes(value)),
            None => self.secrets.get(name)?.get(key).cloned(),
        }
    }
}

fn bytes(value: std::ffi::OsString) -> Vec<u8> {
    use std::os::unix::ffi::OsStringExt as _;
    value.into_vec()
}

fn variable(name: &str) -> String {
    name.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_uppercase()
            } else {
                '_'
            }
        })
        .collect()
}
