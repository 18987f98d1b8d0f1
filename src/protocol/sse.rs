//! Server-sent events, both directions (HTML standard, section 9.2).
//!
//! In: the chunks of an event stream, split anywhere; or items to send. Out: whole items, or bytes.
//! Stricter than the standard where clients differ: a byte order mark, invalid UTF-8 and a NUL in
//! an `id` end the stream with an error, and the size of an event is limited. An event that the
//! stream's end truncates is dropped, as the standard says. Work is linear in the bytes, however
//! they are split. It must not change the content of an event: `id` and `data` are verbatim.

use std::collections::VecDeque;

/// One event. A part that did not stand there is `None`; `data: ` alone is `Some("")`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    pub id: Option<String>,
    pub event: Option<String>,
    /// Milliseconds until the client should reconnect.
    pub retry: Option<u64>,
    /// The `data:` lines, joined with `\n`.
    pub data: Option<String>,
}

impl Event {
    /// An event with nothing but data.
    pub fn message(data: impl Into<String>) -> Self {
        Event {
            data: Some(data.into()),
            ..Event::default()
        }
    }

    fn is_empty(&self) -> bool {
        *self == Event::default()
    }
}

/// What stands in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Event(Event),
    /// A line that clients ignore, used to keep connections alive.
    Comment(String),
}

/// Why a stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("an event is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the event stream is not UTF-8")]
    Utf8,
    #[error("the event stream starts with a byte order mark")]
    ByteOrderMark,
    #[error("the id of an event has a NUL character")]
    NulInId,
}

/// Why an item cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("an event with nothing in it")]
    Empty,
    #[error("a line break in the id or type of an event, or in a comment")]
    LineBreak,
    #[error("a carriage return in the data of an event")]
    CarriageReturn,
    #[error("a NUL character in the id of an event")]
    NulInId,
}

/// Reads a stream piece by piece: [`Self::push`] a chunk, then take what is whole with
/// [`Self::next_item`].
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    line: Vec<u8>,
    /// The last byte was a carriage return: a line feed that follows belongs to it.
    after_return: bool,
    first_line: bool,
    event: Event,
    /// Bytes of the fields of the event that is being read.
    size: usize,
    items: VecDeque<Item>,
    error: Option<DecodeError>,
}

/// A longer buffer is not kept for the next line: streams live long, and there are many.
const KEPT_LINE: usize = 64 << 10;

impl Decoder {
    /// A decoder at the start of a stream whose events may have `limit` bytes each.
    pub fn new(limit: usize) -> Self {
        Decoder {
            limit,
            line: Vec::new(),
            after_return: false,
            first_line: true,
            event: Event::default(),
            size: 0,
            items: VecDeque::new(),
            error: None,
        }
    }

    /// Takes the next bytes of the stream. After an error they are ignored.
    pub fn push(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        while self.error.is_none() && !rest.is_empty() {
            if std::mem::take(&mut self.after_return) && rest[0] == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let part = &rest[..end.unwrap_or(rest.len())];
            if self.size + self.line.len() + part.len() > self.limit {
                self.fail(DecodeError::TooLarge(self.limit));
                return;
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else { return };
            self.after_return = rest[end] == b'\r';
            rest = &rest[end + 1..];
            let line = std::mem::take(&mut self.line);
            if let Err(error) = self.line(&line) {
                self.fail(error);
            }
            // The buffer is kept for the next line.
            self.line = line;
            self.line.clear();
            self.line.shrink_to(KEPT_LINE);
        }
    }

    /// The next whole item. An error comes after the items that stood before it, and from then on
    /// every time.
    pub fn next_item(&mut self) -> Option<Result<Item, DecodeError>> {
        match self.items.pop_front() {
            Some(item) => Some(Ok(item)),
            None => self.error.map(Err),
        }
    }

    /// Whether the stream stands inside an event. If it ends here, that event is lost.
    pub fn is_partial(&self) -> bool {
        !self.line.is_empty() || !self.event.is_empty()
    }

    fn fail(&mut self, error: DecodeError) {
        self.error = Some(error);
        self.line = Vec::new();
        self.event = Event::default();
    }

    fn line(&mut self, line: &[u8]) -> Result<(), DecodeError> {
        if std::mem::take(&mut self.first_line) && line.starts_with(b"\xef\xbb\xbf") {
            return Err(DecodeError::ByteOrderMark);
        }
        let line = std::str::from_utf8(line).map_err(|_| DecodeError::Utf8)?;
        if line.is_empty() {
            self.size = 0;
            let event = std::mem::take(&mut self.event);
            if !event.is_empty() {
                self.items.push_back(Item::Event(event));
            }
            return Ok(());
        }
        if let Some(comment) = line.strip_prefix(':') {
            self.items.push_back(Item::Comment(
                comment.strip_prefix(' ').unwrap_or(comment).to_owned(),
            ));
            return Ok(());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => match &mut self.event.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                none => *none = Some(value.to_owned()),
            },
            "event" => self.event.event = Some(value.to_owned()),
            "id" if value.contains('\0') => return Err(DecodeError::NulInId),
            "id" => self.event.id = Some(value.to_owned()),
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.event.retry = value.parse().ok().or(self.event.retry);
            }
            // "The field is ignored", the standard says of any other.
            _ => return Ok(()),
        }
        self.size += line.len() + 1;
        Ok(())
    }
}

/// Appends an item. What the format cannot say is refused; nothing has been appended then.
pub fn encode(item: &Item, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let line_break = |text: &str| text.contains(['\n', '\r']);
    match item {
        Item::Comment(comment) => {
            if line_break(comment) {
                return Err(EncodeError::LineBreak);
            }
            field(out, "", comment);
        }
        Item::Event(event) => {
            if event.is_empty() {
                return Err(EncodeError::Empty);
            }
            if event.id.as_deref().is_some_and(|id| id.contains('\0')) {
                return Err(EncodeError::NulInId);
            }
            if [&event.id, &event.event]
                .into_iter()
                .flatten()
                .any(|text| line_break(text))
            {
                return Err(EncodeError::LineBreak);
            }
            if event
                .data
                .as_deref()
                .is_some_and(|data| data.contains('\r'))
            {
                return Err(EncodeError::CarriageReturn);
            }
            if let Some(kind) = &event.event {
                field(out, "event", kind);
            }
            if let Some(id) = &event.id {
                field(out, "id", id);
            }
            if let Some(retry) = event.retry {
                field(out, "retry", &retry.to_string());
            }
            for line in event.data.iter().flat_map(|data| data.split('\n')) {
                field(out, "data", line);
            }
        }
    }
    out.push(b'\n');
    Ok(())
}

fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(chunks: &[&[u8]], limit: usize) -> (Vec<Item>, Option<DecodeError>) {
        let mut decoder = Decoder::new(limit);
        let mut items = Vec::new();
        for chunk in chunks {
            decoder.push(chunk);
            while let Some(next) = decoder.next_item() {
                match next {
                    Ok(item) => items.push(item),
                    Err(error) => return (items, Some(error)),
                }
            }
        }
        (items, None)
    }

    fn events(bytes: &[u8]) -> Vec<Item> {
        let (items, error) = decode(&[bytes], 1 << 20);
        assert_eq!(error, None);
        items
    }

    fn message(data: &str) -> Item {
        Item::Event(Event::message(data))
    }

    #[test]
    fn fields_are_read_as_the_standard_says() {
        let stream = b": hi\nid: 1\nevent: message\nretry: 3000\ndata: a\ndata:b\ndata:  c\ndata\n\n\ndata:x\nid\n\nfoo: 1\n\n";
        assert_eq!(
            events(stream),
            [
                Item::Comment("hi".into()),
                Item::Event(Event {
                    id: Some("1".into()),
                    event: Some("message".into()),
                    retry: Some(3000),
                    data: Some("a\nb\n c\n".into())
                }),
                Item::Event(Event {
                    id: Some("".into()),
                    data: Some("x".into()),
                    ..Event::default()
                }),
            ]
        );
    }

    #[test]
    fn all_three_line_ends_end_a_line_and_may_be_split() {
        for end in ["\n", "\r", "\r\n"] {
            let stream = format!("data: a{end}{end}data: b{end}data: c{end}{end}");
            let expected = vec![message("a"), message("b\nc")];
            assert_eq!(events(stream.as_bytes()), expected, "{end:?}");
            let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
            assert_eq!(decode(&bytes, 64), (expected, None), "{end:?}");
        }
        assert_eq!(
            decode(&[b"data: a\r", b"\n\r", b"\ndata: b\r\r"], 64).0,
            [message("a"), message("b")]
        );
    }

    #[test]
    fn an_event_with_only_an_id_primes_a_reconnect() {
        let primed = Event {
            id: Some("e/1".into()),
            data: Some(String::new()),
            ..Event::default()
        };
        assert_eq!(events(b"id: e/1\ndata: \n\n"), [Item::Event(primed)]);
        let bare = Event {
            id: Some("e".into()),
            ..Event::default()
        };
        assert_eq!(events(b"id: e\n\n"), [Item::Event(bare)]);
    }

    #[test]
    fn json_split_over_data_lines_and_chunks_is_one_text() {
        assert_eq!(
            decode(&[b"da", b"ta: {\"a\":\nda", b"ta: 1}", b"\n", b"\n"], 64),
            (vec![message("{\"a\":\n1}")], None)
        );
    }

    #[test]
    fn what_clients_read_differently_ends_the_stream() {
        assert_eq!(
            decode(&[b"\xef\xbb\xbfdata: a\n\n"], 64).1,
            Some(DecodeError::ByteOrderMark)
        );
        assert_eq!(
            decode(&[b"\xef\xbb", b"\xbfdata: a\n\n"], 64).1,
            Some(DecodeError::ByteOrderMark)
        );
        assert_eq!(decode(&[b"data: \xff\n\n"], 64).1, Some(DecodeError::Utf8));
        assert_eq!(decode(&[b"id: a\0b\n\n"], 64).1, Some(DecodeError::NulInId));
        assert_eq!(
            decode(&[b"data: a\n\ndata: \xff\n\ndata: b\n\n"], 64),
            (vec![message("a")], Some(DecodeError::Utf8))
        );
    }

    #[test]
    fn an_event_over_the_limit_is_refused_before_it_is_held() {
        let long = "x".repeat(100);
        let too_large = Some(DecodeError::TooLarge(50));
        assert_eq!(decode(&[long.as_bytes()], 50).1, too_large);
        assert_eq!(
            decode(&["data: 123456789\n".repeat(5).as_bytes()], 50).1,
            too_large
        );
        let many = "data: 123456789\n\n".repeat(50);
        assert_eq!(decode(&[many.as_bytes()], 50).0.len(), 50);
        let comments = format!("{}data: a\n\n", ": 123456789\n".repeat(50));
        assert_eq!(decode(&[comments.as_bytes()], 50).0.len(), 51);
    }

    #[test]
    fn an_event_cut_short_is_not_delivered() {
        let mut decoder = Decoder::new(64);
        decoder.push(b"data: a\n");
        assert_eq!(decoder.next_item(), None);
        assert!(decoder.is_partial());
        decoder.push(b"\n");
        assert_eq!(decoder.next_item(), Some(Ok(message("a"))));
        assert!(!decoder.is_partial());
    }

    #[test]
    fn a_bad_retry_is_ignored() {
        assert_eq!(
            events(b"retry: 1x\nretry: -1\nretry:\nretry: 99999999999999999999\ndata: a\n\n"),
            [message("a")]
        );
    }

    #[test]
    fn what_the_format_cannot_say_is_not_sent() {
        let refused = |event: Event| {
            let mut out = Vec::new();
            let error = encode(&Item::Event(event), &mut out).unwrap_err();
            assert!(out.is_empty());
            error
        };
        assert_eq!(refused(Event::default()), EncodeError::Empty);
        assert_eq!(
            refused(Event {
                id: Some("a\ndata: x".into()),
                ..Event::default()
            }),
            EncodeError::LineBreak
        );
        assert_eq!(
            refused(Event {
                event: Some("a\r".into()),
                ..Event::default()
            }),
            EncodeError::LineBreak
        );
        assert_eq!(
            refused(Event {
                id: Some("\0".into()),
                ..Event::default()
            }),
            EncodeError::NulInId
        );
        assert_eq!(refused(Event::message("a\rb")), EncodeError::CarriageReturn);
        assert_eq!(
            encode(&Item::Comment("a\nb".into()), &mut Vec::new()),
            Err(EncodeError::LineBreak)
        );
    }

    fn item() -> impl Strategy<Value = Item> {
        let text = |pattern: &'static str| prop::option::of(pattern);
        prop_oneof![
            "[ :a-zé]{0,12}".prop_map(Item::Comment),
            (
                text("[ :a-zé/=]{0,12}"),
                text("[ :a-z]{0,8}"),
                prop::option::of(any::<u64>()),
                text("[ :a-z\\n\u{0}\u{feff}é]{0,24}")
            )
                .prop_map(|(id, event, retry, data)| Item::Event(Event {
                    id,
                    event,
                    retry,
                    data
                }))
                .prop_filter("not empty", |item| *item != Item::Event(Event::default())),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same_however_it_is_split(
            items in prop::collection::vec(item(), 0..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut bytes = Vec::new();
            for item in &items {
                encode(item, &mut bytes).unwrap();
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(decode(&chunks, 1 << 16), (items, None));
        }

        #[test]
        fn arbitrary_bytes_give_the_same_items_however_they_are_split(bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), Just(b'd'), any::<u8>()], 0..80)) {
            let whole = decode(&[&bytes], 40);
            let split: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(decode(&split, 40), whole);
        }
    }
}
