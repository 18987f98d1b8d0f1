//! What a server's refusal of `initialize` says about versions (2026-07-28, "Error Codes").
//!
//! In: an error. Out: the versions that the server speaks. Must not do: trust their spelling.

use super::answer::code;
use super::envelope::ErrorObject;
use super::text::printable;
use super::version::{MAX_VERSION_CHARS, UnsupportedVersion};
use crate::json;

/// No more versions are named.
const MAX_VERSIONS: usize = 8;

/// The versions that the server speaks, if the error is `UnsupportedProtocolVersionError`.
pub fn unsupported_version(error: &ErrorObject<'_>) -> Option<UnsupportedVersion> {
    if error.code != code::UNSUPPORTED_PROTOCOL_VERSION {
        return None;
    }
    let data = error
        .data
        .and_then(|data| json::parse(data.as_bytes()).ok());
    let supported = data
        .as_ref()
        .and_then(|data| data.get("supported")?.as_array());
    let named: Vec<_> = supported
        .unwrap_or_default()
        .iter()
        .filter_map(json::Value::as_str)
        .map(|version| printable(version, MAX_VERSION_CHARS))
        .take(MAX_VERSIONS)
        .collect();
    let answered = match named.join(", ") {
        none if none.is_empty() => "2026-07-28".to_owned(),
        named => named,
    };
    Some(UnsupportedVersion { answered })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_of_a_refusal_are_named_and_no_other_error_is_one() {
        let named = |code, data: Option<&str>| {
            let message = "no".into();
            let error = ErrorObject {
                code,
                message,
                data,
            };
            unsupported_version(&error).map(|refused| refused.answered)
        };
        let data = |text| named(code::UNSUPPORTED_PROTOCOL_VERSION, text);
        assert_eq!(
            data(Some(r#"{"supported":["2026-07-28","2027-01-01",7]}"#)),
            Some("2026-07-28, 2027-01-01".to_owned())
        );
        for vague in [None, Some("{}"), Some(r#"{"supported":[]}"#), Some("[]")] {
            assert_eq!(data(vague), Some("2026-07-28".to_owned()), "{vague:?}");
        }
        assert_eq!(named(code::INVALID_REQUEST, None), None);
    }
}
