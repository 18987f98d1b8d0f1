//! What the audit log says about the arguments of a call.
//!
//! In: `spec.audit.arguments`, a tool and its raw arguments. Out: their names, or all of them with
//! redacted values. Must not do: record a value that the policy redacts.

use serde_json::value::RawValue;

use super::{Arguments, MAX_ARGUMENT_NAMES};
use crate::api::server::AuditArguments;
use crate::json;
use crate::policy::Bound;

/// The arguments of a call, as `spec.audit.arguments` says; None for nothing, or if they are not
/// JSON.
pub fn recorded<'a>(
    wanted: AuditArguments,
    bound: &Bound,
    tool: &str,
    arguments: &'a [u8],
) -> Option<Arguments<'a>> {
    if arguments.is_empty() {
        return None;
    }
    match wanted {
        AuditArguments::None => None,
        AuditArguments::Keys => {
            let members = json::members(arguments).ok()?;
            let keys = members.into_iter().map(|member| member.key);
            let mut keys: Vec<_> = keys.collect();
            if keys.len() > MAX_ARGUMENT_NAMES {
                // Those that mean something to the server are not crowded out by others.
                let properties = bound.tool(tool).map(|tool| &*tool.properties);
                let listed = properties.unwrap_or_default();
                keys.sort_by_key(|key| listed.binary_search_by(|name| (**name).cmp(key)).is_err());
            }
            Some(Arguments::Keys(keys))
        }
        AuditArguments::Full => {
            let redact = bound.tool(tool).map_or(&[][..], |tool| &tool.redact);
            let text = crate::policy::approval::redacted(arguments, redact).ok()?;
            RawValue::from_string(text).ok().map(Arguments::Full)
        }
    }
}
