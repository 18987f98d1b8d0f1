//! The requests of servers that a client supports, as declared in `initialize`.
//!
//! In: its `capabilities`. Out: a byte that goes into the session's token, and whether a request of
//! the server is covered by it. A request for more than the client declared, or in another form, is
//! refused: the client may not know what it shows its user. Sources: `ClientCapabilities`,
//! `CreateMessageRequest` and `ElicitRequest` of the schemas.

use super::emit::Edits;
use super::envelope::{Object, Request};
use super::keys;
use crate::json::Kind;

const SAMPLING: u8 = 1;
const SAMPLING_TOOLS: u8 = 1 << 1;
const SAMPLING_CONTEXT: u8 = 1 << 2;
const FORM: u8 = 1 << 3;
const URL: u8 = 1 << 4;
const ROOTS: u8 = 1 << 5;

/// What a client declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Declared(u8);

impl Declared {
    /// Reads the raw `capabilities`. What cannot be read was not declared.
    pub fn read(capabilities: &str) -> Self {
        let Ok(all) = Object::from_raw(capabilities, keys::CAPABILITIES) else {
            return Declared::default();
        };
        let inner = |key: &str| {
            let member = all.get(key).filter(|member| member.kind == Kind::Object)?;
            Object::from_raw(member.raw, &[]).ok()
        };
        let mut bits = 0;
        if let Some(sampling) = inner("sampling") {
            bits |= SAMPLING;
            for (key, bit) in [("tools", SAMPLING_TOOLS), ("context", SAMPLING_CONTEXT)] {
                bits |= sampling.get(key).map_or(0, |_| bit);
            }
        }
        if let Some(elicitation) = inner("elicitation") {
            // An empty object, all that there was before 2025-11-25, means forms.
            if elicitation.get("form").is_some() || elicitation.get("url").is_none() {
                bits |= FORM;
            }
            bits |= elicitation.get("url").map_or(0, |_| URL);
        }
        if inner("roots").is_some() {
            bits |= ROOTS;
        }
        Declared(bits)
    }

    /// As a byte of a session's token.
    pub fn byte(self) -> u8 {
        self.0
    }

    /// From a byte of a session's token.
    pub fn of_byte(byte: u8) -> Self {
        Declared(byte)
    }

    fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }

    /// Whether pages may be shown to the user.
    pub fn url_elicitation(self) -> bool {
        self.has(URL)
    }

    /// Whether a server may send this request to the client; then the changes to it.
    pub fn admits(self, request: &Request<'_>) -> Option<Edits<'static>> {
        let empty = Object::default();
        let params = request.params.as_ref().unwrap_or(&empty);
        let edits = Edits::new();
        match &*request.method {
            "sampling/createMessage" if self.has(SAMPLING) => {
                let tools = params.get("tools").or(params.get("toolChoice")).is_some();
                if tools && !self.has(SAMPLING_TOOLS) {
                    return None;
                }
                // The context of other servers is not for this one.
                let own = self.has(SAMPLING_CONTEXT)
                    && params
                        .get("includeContext")
                        .is_some_and(|context| context.raw == "\"thisServer\"");
                Some(if params.get("includeContext").is_none() || own {
                    edits
                } else {
                    edits.remove("includeContext")
                })
            }
            "elicitation/create" => {
                let mode = params.string("mode").ok()?;
                match mode.as_deref() {
                    None | Some("form") if self.has(FORM) => Some(if params.get("url").is_some() {
                        edits.remove("url")
                    } else {
                        edits
                    }),
                    Some("url") if self.has(URL) => Some(edits),
                    _ => None,
                }
            }
            "roots/list" if self.has(ROOTS) => Some(edits),
            "ping" => Some(edits),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::envelope::{Message, parse};
    use super::*;

    /// The `params` that the client gets; None if it gets none.
    fn asked(capabilities: &str, method: &str, params: &str) -> Option<String> {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        let Message::Request(request) = parse(text.as_bytes()).unwrap() else {
            panic!("not a request")
        };
        let edits = Declared::read(capabilities).admits(&request)?;
        let text = String::from_utf8(request.emit(&edits)).unwrap();
        let (_, params) = text.split_once(r#""params":"#).unwrap();
        Some(params.strip_suffix('}').unwrap().to_owned())
    }

    #[test]
    fn a_server_gets_no_more_from_a_client_than_it_declared() {
        let (sampling, elicitation) = ("sampling/createMessage", "elicitation/create");
        let form = r#"{"elicitation":{}}"#;
        let url = r#"{"elicitation":{"url":{}}}"#;
        let both = r#"{"elicitation":{"form":{},"url":{}}}"#;
        let plain = r#"{"sampling":{}}"#;
        let full = r#"{"sampling":{"tools":{},"context":{}}}"#;
        let same = |capabilities, method, params: &str| {
            assert_eq!(
                asked(capabilities, method, params).as_deref(),
                Some(params),
                "{capabilities} {params}"
            );
        };
        let never = |capabilities, method, params| {
            assert_eq!(
                asked(capabilities, method, params),
                None,
                "{capabilities} {params}"
            );
        };
        same(form, elicitation, r#"{"message":"m"}"#);
        same(form, elicitation, r#"{"mode":"form"}"#);
        same(both, elicitation, r#"{"mode":"form"}"#);
        same(both, elicitation, r#"{"mode":"url","url":"https://a/"}"#);
        same(url, elicitation, r#"{"mode":"url","url":"https://a/"}"#);
        assert_eq!(
            asked(form, elicitation, r#"{"url":"https://a/","message":"m"}"#).as_deref(),
            Some(r#"{"message":"m"}"#)
        );
        for params in [
            r#"{"mode":"url"}"#,
            r#"{"mode":"page"}"#,
            r#"{"mode":1}"#,
            r#"{"mode":"\u0075rl"}"#,
        ] {
            never(form, elicitation, params);
        }
        never(url, elicitation, r#"{"message":"m"}"#);
        never("{}", elicitation, "{}");
        never(r#"{"elicitation":true}"#, elicitation, "{}");
        same(plain, sampling, r#"{"messages":[]}"#);
        same(full, sampling, r#"{"tools":[],"toolChoice":{}}"#);
        same(full, sampling, r#"{"includeContext":"thisServer"}"#);
        never(plain, sampling, r#"{"tools":[]}"#);
        never(plain, sampling, r#"{"toolChoice":{}}"#);
        never("{}", sampling, "{}");
        for (capabilities, context) in [
            (plain, "thisServer"),
            (plain, "allServers"),
            (full, "allServers"),
        ] {
            let params = format!(r#"{{"maxTokens":1,"includeContext":"{context}"}}"#);
            assert_eq!(
                asked(capabilities, sampling, &params).as_deref(),
                Some(r#"{"maxTokens":1}"#)
            );
        }
        same(r#"{"roots":{}}"#, "roots/list", "{}");
        never(full, "roots/list", "{}");
        same("{}", "ping", "{}");
        never(full, "tools/call", "{}");
    }
}
