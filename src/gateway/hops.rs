//! The gateways that a request has come by: an McpServer whose URL leads back to its own gateway
//! would go round for ever.
//!
//! In: the UID of a server, the header of a request. Out: the header with another name, and whether
//! a name is in it. Must not do: tell a server behind the gateway anything but that a gateway is
//! there.

use http::{HeaderName, HeaderValue};

use crate::policy::canonical::sha256;
use crate::protocol::header::{Fields, HOPS_NAME};

/// The names of the gateways, the nearest last.
pub const HOPS: HeaderName = HeaderName::from_static(HOPS_NAME);
/// More gateways in a row are treated as a loop.
const MAX_HOPS: usize = 16;

/// The name of the gateways of a server: the same for all its replicas.
pub fn name(uid: &str) -> HeaderValue {
    let digest = sha256(format!("hop {uid}").as_bytes());
    let name = hex::encode(&digest[..8]);
    // Hexadecimal digits are always a valid header value.
    HeaderValue::try_from(name).unwrap_or(HeaderValue::from_static("gateway"))
}

/// The header with one more name.
pub fn with(before: &HeaderValue, own: &HeaderValue) -> Option<HeaderValue> {
    HeaderValue::from_bytes(&[before.as_bytes(), b",", own.as_bytes()].concat()).ok()
}

/// What a request that comes in has come by.
#[derive(Debug, PartialEq)]
pub enum Way {
    /// Not through this gateway; the header to pass on.
    Straight(Option<HeaderValue>),
    /// By this one already, or by more than is sensible.
    Loop,
}

/// Reads the header of a request to the gateway of that name.
pub fn way(fields: &Fields<'_>, own: &HeaderValue) -> Way {
    let mut all: Option<HeaderValue> = None;
    let mut count = 0;
    if fields.hops.is_absent() {
        return Way::Straight(None);
    }
    for value in fields.all().get_all(HOPS) {
        for name in value.as_bytes().split(|byte| *byte == b',') {
            count += 1;
            let name = name.trim_ascii();
            if name == own.as_bytes() || count > MAX_HOPS || name.len() > 64 {
                return Way::Loop;
            }
            let name = HeaderValue::from_bytes(name).ok();
            all = match (all, name) {
                (Some(all), Some(name)) => with(&all, &name),
                (all, name) => all.or(name),
            };
        }
    }
    Way::Straight(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    #[test]
    fn a_request_is_known_when_it_comes_back() {
        let (one, two, three) = (name("1"), name("2"), name("3"));
        assert!(one != two && one == name("1"));
        let mut headers = HeaderMap::new();
        assert_eq!(way(&Fields::of(&headers), &one), Way::Straight(None));
        let header = with(&one, &two).unwrap();
        headers.insert(HOPS, header.clone());
        assert_eq!(way(&Fields::of(&headers), &one), Way::Loop);
        assert_eq!(way(&Fields::of(&headers), &two), Way::Loop);
        assert_eq!(
            way(&Fields::of(&headers), &three),
            Way::Straight(Some(header.clone()))
        );
        // In two headers as in one.
        headers.append(HOPS, three.clone());
        assert_eq!(way(&Fields::of(&headers), &three), Way::Loop);
        let all = with(&header, &three);
        assert_eq!(way(&Fields::of(&headers), &name("4")), Way::Straight(all));
        headers.insert(HOPS, HeaderValue::try_from("a,".repeat(MAX_HOPS)).unwrap());
        assert_eq!(way(&Fields::of(&headers), &one), Way::Loop);
    }
}
