//! The schemas that documents are checked with.
//!
//! In: schemas that were written to files from the types, because making them from the types takes
//! a hundred times as long as reading them. Out: one schema for each kind that is read, parsed when
//! the first document of that kind comes. Must not do: differ from the types;
//! `tests/offline/generated.rs` compares them, and `make generate` writes the files again.

use serde_json::{Value, json};
use std::sync::LazyLock;

/// These are without the rules by which an API server refuses nulls: here the place of a null is
/// known. They describe only required properties, because only what is missing is described in an
/// error.
pub(super) static SERVER: LazyLock<Value> =
    LazyLock::new(|| embedded(include_str!("definitions/mcpservers.json")));
pub(super) static POLICY: LazyLock<Value> =
    LazyLock::new(|| embedded(include_str!("definitions/mcppolicies.json")));

/// A schema that could not be read would be null, which no document satisfies.
fn embedded(schema: &str) -> Value {
    serde_json::from_str(schema).unwrap_or_default()
}

/// `ObjectMeta`, as far as people write it. Everything else is set by the API server, and passed
/// over here.
pub(super) static METADATA: LazyLock<Value> = LazyLock::new(|| {
    let words = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let text = json!({ "type": "string" });
    let any_list = json!({ "type": "array", "items": { "type": "object" } });
    json!({
        "type": "object", "required": ["name"],
        "properties": {
            "name": { "type": "string", "maxLength": 253, "pattern": "^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$" },
            "namespace": { "type": "string", "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" },
            "labels": words, "annotations": words, "uid": text, "resourceVersion": text, "generateName": text,
            "selfLink": text, "creationTimestamp": { "type": "string", "nullable": true, "format": "date-time" },
            "generation": { "type": "integer" }, "managedFields": any_list, "ownerReferences": any_list,
            "finalizers": { "type": "array", "items": text }
        }
    })
});

/// Of a Namespace only the metadata matters.
pub(super) static NAMESPACE: LazyLock<Value> = LazyLock::new(|| {
    let any = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    json!({ "type": "object", "properties": { "spec": any, "status": any } })
});

pub(super) static SECRET: LazyLock<Value> = LazyLock::new(|| {
    let words = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    json!({
        "type": "object",
        "properties": {
            "data": words, "stringData": words, "type": { "type": "string" }, "immutable": { "type": "boolean" }
        }
    })
});
