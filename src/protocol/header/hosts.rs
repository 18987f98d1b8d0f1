//! The hosts and origins that requests may name.
//!
//! In: `Host` and `Origin`. Out: whether requests with them are answered. Must not do: resolve a
//! name.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Whether requests from pages of that origin are answered (every version: servers MUST validate
/// `Origin`). Pages of this machine are; else the origin must be one of `allowed`, which are
/// written like origins. `null` never is.
pub fn origin_allowed(origin: &str, allowed: &[String]) -> bool {
    let Some(origin) = Origin::parse(origin) else {
        return false;
    };
    origin.host.is_loopback()
        || allowed
            .iter()
            .filter_map(|text| Origin::parse(text))
            .any(|other| other == origin)
}

/// The hosts that a request may name in `Host` (or `:authority`), against DNS rebinding: names of
/// this machine, and those that are listed, as `name` (any port) or `name:port`.
#[derive(Clone, Debug, Default)]
pub struct AllowedHosts(Vec<ListedHost>);

#[derive(Clone, Debug)]
struct ListedHost {
    /// As it is written: a request that names it so needs no parsing.
    text: String,
    host: Host,
    port: Option<u16>,
}

impl AllowedHosts {
    /// Adds what is listed. What is not a host allows none.
    pub fn extend(&mut self, listed: impl IntoIterator<Item = String>) {
        for text in listed {
            if let Some((host, port)) = authority(&text) {
                self.0.push(ListedHost { text, host, port });
            }
        }
    }

    /// Whether a request for that host is answered.
    pub fn contains(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, digits)) if port(digits).is_some() => name,
            _ => host,
        };
        let as_listed = |listed: &ListedHost| {
            listed.text == host || (listed.port.is_none() && listed.text == name)
        };
        if matches!(name, "127.0.0.1" | "localhost") || self.0.iter().any(as_listed) {
            return true;
        }
        let Some((name, port)) = authority(host) else {
            return false;
        };
        name.is_loopback()
            || self
                .0
                .iter()
                .any(|listed| listed.host == name && (listed.port.is_none() || listed.port == port))
    }
}

#[derive(PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: Host,
    port: u16,
}

impl Origin {
    fn parse(text: &str) -> Option<Origin> {
        let (scheme, rest) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let default = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let (host, port) = authority(rest)?;
        Some(Origin {
            scheme,
            host,
            port: port.unwrap_or(default),
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    Name(String),
}

impl Host {
    fn is_loopback(&self) -> bool {
        match self {
            Host::V4(address) => address.is_loopback(),
            Host::V6(address) => address.to_canonical().is_loopback(),
            // RFC 6761, section 6.3: these names are this machine.
            Host::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }
}

/// `host` or `host:port`, an IPv6 address in brackets (RFC 3986, section 3.2, without user
/// information).
fn authority(text: &str) -> Option<(Host, Option<u16>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        let port = if rest.is_empty() {
            None
        } else {
            Some(port(rest.strip_prefix(':')?)?)
        };
        return Some((Host::V6(address.parse().ok()?), port));
    }
    let (name, port) = match text.split_once(':') {
        Some((name, digits)) => (name, Some(port(digits)?)),
        None => (text, None),
    };
    if let Ok(address) = name.parse() {
        return Some((Host::V4(address), port));
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    // A last label of digits would be an address in one of the old spellings ("127.1", "0x7f.1").
    let last = name.rsplit('.').next().unwrap_or_default();
    let numeric = last.starts_with(|first: char| first.is_ascii_digit());
    (name.split('.').all(label) && !numeric).then_some((Host::Name(name), port))
}

fn port(digits: &str) -> Option<u16> {
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| digits.parse().ok())?
}
