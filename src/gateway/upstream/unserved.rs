//! What the bridge of a stdio server reports beside its messages: that it answers in place of the
//! server, and whether the server may have received the call.
//!
//! In process it goes along as an extension of the response. Between a gateway and the bridge in
//! another pod it is a header of the response, or the type of an event: a bridge writes both
//! itself, and its server cannot. From any other upstream neither means anything.

use http::{HeaderName, HeaderValue, Response};

const HEADER: HeaderName = HeaderName::from_static("portcullis-unserved");

/// The bridge answers in its server's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unserved {
    /// The server received no byte of the call.
    Undelivered,
    /// The server received the call, and there will be no answer.
    Lost,
}

/// A response of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bridged {
    /// None where the server itself answers, or nothing is known yet.
    pub unserved: Option<Unserved>,
}

impl Unserved {
    const ALL: [Unserved; 2] = [Unserved::Undelivered, Unserved::Lost];

    fn as_str(self) -> &'static str {
        match self {
            Unserved::Undelivered => "undelivered",
            Unserved::Lost => "lost",
        }
    }

    /// The type of an event that carries such an answer.
    pub fn event(self) -> &'static str {
        match self {
            Unserved::Undelivered => "portcullis-undelivered",
            Unserved::Lost => "portcullis-lost",
        }
    }

    /// What the type of an event from a bridge says.
    pub fn of_event(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.event() == name)
    }
}

/// Marks a response, in process.
pub fn mark<B>(mut response: Response<B>, unserved: Option<Unserved>) -> Response<B> {
    if let Some(unserved) = unserved {
        response.extensions_mut().insert(unserved);
    }
    response
}

/// Writes the mark as a header, for the gateway.
pub fn to_header<B>(mut response: Response<B>) -> Response<B> {
    if let Some(unserved) = response.extensions().get::<Unserved>().copied() {
        let value = HeaderValue::from_static(unserved.as_str());
        response.headers_mut().insert(HEADER, value);
    }
    response
}

/// The response of a bridge, marked as one; `remote` if it came over the wire.
pub fn of_bridge<B>(mut response: Response<B>, remote: bool) -> Response<B> {
    let unserved = if remote {
        let said = response.headers().get(HEADER);
        Unserved::ALL
            .into_iter()
            .find(|one| said.is_some_and(|said| said == one.as_str()))
    } else {
        response.extensions().get::<Unserved>().copied()
    };
    response.extensions_mut().insert(Bridged { unserved });
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_bridge_says_reaches_the_gateway_on_either_way() {
        for said in [None, Some(Unserved::Undelivered), Some(Unserved::Lost)] {
            let here = of_bridge(mark(Response::new(()), said), false);
            let (parts, ()) = to_header(mark(Response::new(()), said)).into_parts();
            // Extensions do not travel.
            let mut travelled = Response::new(());
            travelled.headers_mut().clone_from(&parts.headers);
            let there = of_bridge(travelled, true);
            for response in [here, there] {
                let bridged = response.extensions().get::<Bridged>();
                assert_eq!(bridged.map(|bridged| bridged.unserved), Some(said));
            }
            assert_eq!(said.and_then(|said| Unserved::of_event(said.event())), said);
        }
        assert_eq!(Unserved::of_event("message"), None);
    }
}
