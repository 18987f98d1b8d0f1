//! An answer of the upstream with what was made of it, for the next time that the upstream answers
//! the same.
//!
//! In: the bytes of an answer, the message that they are, and the bytes that the client got for it.
//! Out: the bytes for another request whose answer differs in nothing but the id. Must not do: say
//! whether what was made of the answer still holds; that is for the keeper to know.

use super::envelope::{Id, Response};

/// See the module.
#[derive(Debug)]
pub struct Replay {
    /// What the upstream wrote before the id of the request, and after it.
    before: Box<[u8]>,
    after: Box<[u8]>,
    /// What the client got after the id of its request.
    sent: Box<[u8]>,
}

/// How every answer to a client begins.
const OPEN: &[u8] = b"{\"jsonrpc\":\"2.0\",\"id\":";

impl Replay {
    /// From the `body` that `response` was read from, and from what a client was `sent` for it
    /// under its own id. None if the id is not written as the gateway writes it.
    pub fn of(body: &[u8], response: &Response<'_>, sent: &[u8], client: &Id<'_>) -> Option<Self> {
        let (id, raw) = (response.id.as_ref()?, response.id_raw?);
        if id.to_json() != raw {
            return None;
        }
        let at = (raw.as_ptr() as usize).checked_sub(body.as_ptr() as usize)?;
        let (before, rest) = body.split_at_checked(at)?;
        let after = rest.strip_prefix(raw.as_bytes())?;
        let sent = sent
            .strip_prefix(OPEN)?
            .strip_prefix(client.to_json().as_bytes())?;
        Some(Replay {
            before: before.into(),
            after: after.into(),
            sent: sent.into(),
        })
    }

    /// The bytes for the client, if `body` is the same answer to the request that the upstream
    /// knows as `upstream`.
    pub fn answer(&self, body: &[u8], upstream: &Id<'_>, client: &Id<'_>) -> Option<Vec<u8>> {
        let rest = body.strip_prefix(&*self.before)?;
        let rest = rest.strip_prefix(upstream.to_json().as_bytes())?;
        if rest != &*self.after {
            return None;
        }
        let id = client.to_json();
        let mut answer = Vec::with_capacity(OPEN.len() + id.len() + self.sent.len());
        answer.extend_from_slice(OPEN);
        answer.extend_from_slice(id.as_bytes());
        answer.extend_from_slice(&self.sent);
        Some(answer)
    }

    /// The bytes that it holds.
    pub fn size(&self) -> usize {
        self.before.len() + self.after.len() + self.sent.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::emit::Edits;
    use super::super::envelope::{self, Message};
    use super::*;

    fn replay(body: &str, client: &Id<'_>) -> Option<Replay> {
        let Message::Response(response) = envelope::parse(body.as_bytes()).unwrap() else {
            panic!("not a response")
        };
        let sent = response.emit(&Edits::new().id(client.borrowed()).remove("secret"));
        Replay::of(body.as_bytes(), &response, &sent, client)
    }

    #[test]
    fn the_same_answer_to_another_request_gets_the_same_bytes_under_its_own_ids() {
        let client = Id::String("a\"".into());
        for (answer, sent) in [
            (
                r#"{"jsonrpc":"2.0","id":ID,"result":{"a":[1 ,7],"secret":7}}"#,
                r#"{"jsonrpc":"2.0","id":ID,"result":{"a":[1 ,7]}}"#,
            ),
            // As the TypeScript SDK orders them, and with the id's digits elsewhere first.
            (
                r#" { "result" : {"b":7,"secret":"7"}, "x":7, "jsonrpc":"2.0", "id" : ID } "#,
                r#"{"jsonrpc":"2.0","id":ID,"result":{"b":7}}"#,
            ),
        ] {
            let replay = replay(&answer.replace("ID", "7"), &client).unwrap();
            let again = |body: &str, upstream: i64, client: &Id<'_>| {
                replay
                    .answer(body.as_bytes(), &Id::Integer(upstream), client)
                    .map(|bytes| String::from_utf8(bytes).unwrap())
            };
            for (upstream, client, raw) in [
                (7, Id::Integer(1), "1"),
                (70, Id::String("b".into()), "\"b\""),
                (-1, client.borrowed(), r#""a\"""#),
            ] {
                let body = answer.replace("ID", &upstream.to_string());
                assert_eq!(
                    again(&body, upstream, &client),
                    Some(sent.replace("ID", raw))
                );
                // The answer to another request, and one that differs in a byte.
                assert_eq!(again(&body, upstream + 1, &client), None);
                for at in 0..body.len() {
                    let mut other = body.clone().into_bytes();
                    other[at] ^= 1;
                    if let Ok(other) = String::from_utf8(other) {
                        assert_eq!(again(&other, upstream, &client), None, "{other}");
                    }
                }
                assert_eq!(again(&body[1..], upstream, &client), None);
                assert_eq!(again(&format!("{body} "), upstream, &client), None);
            }
        }
    }

    #[test]
    fn an_id_in_another_spelling_is_not_kept() {
        let answer = r#"{"jsonrpc":"2.0","id":"\u0061","result":{}}"#;
        assert!(replay(answer, &Id::Integer(1)).is_none());
        let answer = r#"{"jsonrpc":"2.0","id":"a","result":{}}"#;
        assert!(replay(answer, &Id::Integer(1)).is_some());
    }
}
