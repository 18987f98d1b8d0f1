//! W3C Trace Context of the caller: passed upstream as it is, its trace id recorded.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::protocol::forward;
use crate::protocol::header::Field;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The headers to send on with a valid `traceparent`, of which [`id`] has given the trace id: none
/// without.
pub fn context(headers: &HeaderMap, id: Option<&str>) -> Vec<(HeaderName, HeaderValue)> {
    if id.is_none() {
        return Vec::new();
    }
    [TRACEPARENT, TRACESTATE]
        .into_iter()
        .filter_map(|name| headers.get(&name).cloned().map(|value| (name, value)))
        .collect()
}

/// The trace id of a valid `traceparent` that occurs once.
pub fn id(traceparent: Field<'_>) -> Option<String> {
    let value = traceparent.once()?.to_str().ok()?;
    forward::trace_id(value).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(value: &str) -> Option<String> {
        id(Field::Once(&value.parse().unwrap()))
    }

    #[test]
    fn only_a_valid_traceparent_is_continued() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(
            trace(good).as_deref(),
            Some("4bf92f3577b34da6a3ce929d0e0e4736")
        );
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(trace(bad), None, "{bad}");
        }
    }
}
