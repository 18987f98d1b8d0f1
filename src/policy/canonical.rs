//! The canonical form of hashed values.
//!
//! In: JSON values, byte strings. Out: canonical text (keys sorted by bytes at every depth, no
//! spaces, minimal escapes) and SHA-256 digests of it. Must not do: parse.

use ring::digest::{SHA256, digest};

/// Canonical text of a value that this program built, such as a bundle.
pub(crate) fn plain(value: &serde_json::Value) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

fn write(value: &serde_json::Value, out: &mut String) {
    match value {
        serde_json::Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        serde_json::Value::Object(members) => {
            // serde_json keeps maps sorted only without its preserve_order feature, which any
            // dependency may switch on.
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(key, _)| *key);
            out.push('{');
            for (i, (key, item)) in members.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                crate::json::write_string(out, key);
                out.push(':');
                write(item, out);
            }
            out.push('}');
        }
        serde_json::Value::String(text) => crate::json::write_string(out, text),
        scalar => out.push_str(&scalar.to_string()),
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}
