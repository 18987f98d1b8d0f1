//! Documents of kinds that no API server has, such as test cases.
//!
//! In: a text, a kind and the schema of its documents. Out: each document as JSON with the place of
//! every field, or every mistake. Must not do: know what the kind is for.

use super::found::{Located, ManifestError};
use super::{schema, survey, tree};
use crate::api;
use serde_json::Value;

/// The documents of that kind in a text; others are passed over.
///
/// # Errors
/// Everything that is wrong with them.
pub fn documents(
    file: &str,
    text: &str,
    kind: &str,
    schema: &Value,
) -> Result<Vec<Located<Value>>, Vec<ManifestError>> {
    let parsed = tree::documents(text).map_err(|broken| vec![survey::not_yaml(file, broken)])?;
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for document in parsed {
        let word = |key: &str| document.get(key).and_then(tree::Node::text);
        if word("kind") != Some(kind) {
            continue;
        }
        let mut faults = Vec::new();
        match word("apiVersion") {
            Some(api::API_VERSION) => schema::check(&document, "", schema, &mut faults),
            other => faults.push(schema::Fault {
                at: document
                    .get("apiVersion")
                    .map_or(document.at, |node| node.at),
                path: "apiVersion".to_owned(),
                message: format!(
                    "{}; write apiVersion: {}",
                    other.map_or_else(
                        || "it is missing or not text".to_owned(),
                        |other| format!(
                            "`{}` is not a version that this program knows",
                            super::advice::shown(other)
                        )
                    ),
                    api::API_VERSION
                ),
            }),
        }
        errors.extend(faults.into_iter().map(|fault| ManifestError {
            file: file.to_owned(),
            at: fault.at,
            path: fault.path,
            message: fault.message,
        }));
        found.push(Located {
            object: document.json(),
            file: file.to_owned(),
            at: document.at,
            positions: document.positions(),
        });
    }
    if errors.is_empty() {
        Ok(found)
    } else {
        Err(errors)
    }
}
