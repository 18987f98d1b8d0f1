//! The headers that the gateway reads of every request.
//!
//! In: the headers of a request. Out: each of these, and whether it occurs once. Must not do: judge
//! a value.

use ::http::header::{HeaderMap, HeaderName, HeaderValue};

use super::HOPS_NAME;

/// A header of a request.
#[derive(Clone, Copy, Debug, Default)]
pub enum Field<'h> {
    /// It does not occur.
    #[default]
    Absent,
    /// It occurs on one line.
    Once(&'h HeaderValue),
    /// It occurs on several lines.
    Repeated,
}

impl<'h> Field<'h> {
    /// The header of that name.
    pub fn of(headers: &'h HeaderMap, name: HeaderName) -> Self {
        let mut field = Field::Absent;
        for value in headers.get_all(name) {
            field.add(value);
        }
        field
    }

    /// The value of a header that occurs on one line.
    pub fn once(self) -> Option<&'h HeaderValue> {
        match self {
            Field::Once(value) => Some(value),
            Field::Absent | Field::Repeated => None,
        }
    }

    /// Whether the header does not occur.
    pub fn is_absent(self) -> bool {
        matches!(self, Field::Absent)
    }

    fn add(&mut self, value: &'h HeaderValue) {
        *self = match self {
            Field::Absent => Field::Once(value),
            Field::Once(_) | Field::Repeated => Field::Repeated,
        };
    }
}

/// The headers that the gateway reads of every request, found in one pass: each look-up in a map
/// costs a hash, and most of these are not there.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'h> {
    all: &'h HeaderMap,
    pub accept: Field<'h>,
    pub authorization: Field<'h>,
    pub content_encoding: Field<'h>,
    pub content_type: Field<'h>,
    pub hops: Field<'h>,
    pub host: Field<'h>,
    pub origin: Field<'h>,
    pub protocol_version: Field<'h>,
    pub session_id: Field<'h>,
    pub traceparent: Field<'h>,
}

impl<'h> Fields<'h> {
    /// The headers of a request.
    pub fn of(headers: &'h HeaderMap) -> Self {
        let mut fields = Fields {
            all: headers,
            accept: Field::Absent,
            authorization: Field::Absent,
            content_encoding: Field::Absent,
            content_type: Field::Absent,
            hops: Field::Absent,
            host: Field::Absent,
            origin: Field::Absent,
            protocol_version: Field::Absent,
            session_id: Field::Absent,
            traceparent: Field::Absent,
        };
        for (name, value) in headers {
            let field = match name.as_str() {
                "accept" => &mut fields.accept,
                "authorization" => &mut fields.authorization,
                "content-encoding" => &mut fields.content_encoding,
                "content-type" => &mut fields.content_type,
                HOPS_NAME => &mut fields.hops,
                "host" => &mut fields.host,
                "origin" => &mut fields.origin,
                "mcp-protocol-version" => &mut fields.protocol_version,
                "mcp-session-id" => &mut fields.session_id,
                "traceparent" => &mut fields.traceparent,
                _ => continue,
            };
            field.add(value);
        }
        fields
    }

    /// All headers.
    pub fn all(&self) -> &'h HeaderMap {
        self.all
    }
}
