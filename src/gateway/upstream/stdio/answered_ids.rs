//! Which calls a line means to answer that cannot be read as a message.
//!
//! In: the bytes of a line, in pieces, of which none is kept. Out: the ids of the responses in it,
//! as they are written there. Must not do: judge whether the line is JSON; it is known not to be a
//! message, and only its calls have to be ended.

/// A longer id is not one of the gateway's.
const MAX_ID_BYTES: usize = 64;
/// A key of the protocol is not longer.
const MAX_KEY_BYTES: usize = 16;
/// A batch names at most this many calls.
const MAX_IDS: usize = 256;

/// Follows strings and brackets through a line, and notes the `id` of each object that stands
/// alone or in a batch.
#[derive(Debug, Default)]
pub struct AnsweredIds {
    /// Open brackets.
    depth: u32,
    /// The depth at which the members of a message stand: 1, or 2 in a batch. 0 before the start.
    members_at: u32,
    /// The line does not start as a message or a batch.
    other: bool,
    in_string: bool,
    escaped: bool,
    /// Of the members of a message: where the reader is.
    place: Place,
    /// The key that is read, or the last one.
    key: Vec<u8>,
    /// The `id` that is read, or that of the message so far.
    id: Vec<u8>,
    has_method: bool,
    ids: Vec<String>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before a key, or in it.
    #[default]
    Key,
    /// Behind the colon of `id`.
    Id,
    /// Behind the colon of another key.
    Value,
}

impl AnsweredIds {
    /// Reads on.
    pub fn read(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.other {
                return;
            }
            self.step(*byte);
        }
    }

    /// The ids, the last message's too if the line breaks off within it.
    pub fn finish(mut self) -> Vec<String> {
        self.end_of_message();
        self.ids
    }

    fn step(&mut self, byte: u8) {
        if self.members_at == 0 {
            return self.start(byte);
        }
        if self.in_string {
            return self.in_string(byte);
        }
        let member = self.depth == self.members_at;
        match byte {
            b'"' => {
                self.in_string = true;
                if member {
                    self.begin_text();
                }
            }
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => {
                if member {
                    self.end_of_message();
                }
                self.depth = self.depth.saturating_sub(1);
            }
            b':' if member && self.place == Place::Key => {
                self.has_method |= self.key == b"method";
                self.place = match self.key == b"id" {
                    true => Place::Id,
                    false => Place::Value,
                };
                if self.place == Place::Id {
                    // The last one counts, as for most readers.
                    self.id.clear();
                }
            }
            b',' if member => {
                self.place = Place::Key;
                self.key.clear();
            }
            byte if member && self.place == Place::Id && !byte.is_ascii_whitespace() => {
                self.note_id(byte);
            }
            _ => {}
        }
    }

    fn start(&mut self, byte: u8) {
        match byte {
            b' ' | b'\t' | b'\r' | 0xef | 0xbb | 0xbf if self.depth == 0 => {}
            b' ' | b'\t' | b'\r' => {}
            b'[' if self.depth == 0 => self.depth = 1,
            b'{' => {
                self.depth += 1;
                self.members_at = self.depth;
            }
            _ => self.other = true,
        }
    }

    fn in_string(&mut self, byte: u8) {
        let member = self.depth == self.members_at;
        if member && self.place == Place::Id {
            self.note_id(byte);
        }
        if std::mem::take(&mut self.escaped) {
            return;
        }
        match byte {
            b'\\' => self.escaped = true,
            b'"' => self.in_string = false,
            byte if member && self.place == Place::Key && self.key.len() < MAX_KEY_BYTES => {
                self.key.push(byte);
            }
            _ => {}
        }
    }

    fn begin_text(&mut self) {
        match self.place {
            Place::Key => self.key.clear(),
            Place::Id => self.note_id(b'"'),
            Place::Value => {}
        }
    }

    fn note_id(&mut self, byte: u8) {
        // One byte more shows that it is too long.
        if self.id.len() <= MAX_ID_BYTES {
            self.id.push(byte);
        }
    }

    fn end_of_message(&mut self) {
        let id = std::mem::take(&mut self.id);
        let asks = std::mem::take(&mut self.has_method);
        self.place = Place::Key;
        self.key.clear();
        if !asks && id.len() <= MAX_ID_BYTES && self.ids.len() < MAX_IDS {
            let text = String::from_utf8(id).ok().filter(|text| !text.is_empty());
            self.ids.extend(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(line: &[u8]) -> Vec<String> {
        let mut whole = AnsweredIds::default();
        whole.read(line);
        let whole = whole.finish();
        // However the line is cut into pieces.
        for size in 1..line.len().min(9) {
            let mut pieces = AnsweredIds::default();
            line.chunks(size).for_each(|piece| pieces.read(piece));
            assert_eq!(pieces.finish(), whole);
        }
        whole
    }

    #[test]
    fn a_broken_answer_names_its_call_wherever_its_id_stands() {
        for line in [
            &br#"{"jsonrpc":"2.0","id":5,"result":{"x":NaN}}"#[..],
            br#"{"jsonrpc":"2.0","result":{"x":NaN},"id":5}"#,
            br#"{"result":{"id":9,"t":"\"id\":8,\\"},"id" : 5 , "jsonrpc":"2.0"}"#,
            br#"{"result":{"a":[{"id":7}]},"id":5"#,
            b"{\"result\":{\"t\":\"\xff\xfe\"},\"id\":5}",
            b"\xef\xbb\xbf {\"result\":{'t':1},\"id\":5}",
            br#"{"id":4,"result":{},"id":5}"#,
            br#"{"id":5,"result":{"text":"aaaaa"#,
            br#"{"result":{},,"id":5}"#,
        ] {
            assert_eq!(ids(line), ["5"], "{}", String::from_utf8_lossy(line));
        }
        assert_eq!(ids(br#"{"result":{},"id":"a\"b"}"#), [r#""a\"b""#]);
        assert_eq!(
            ids(br#"[{"id":1,"result":{"id":9}}, {"method":"m","id":2}, {"result":{},"id":3}]"#),
            ["1", "3"]
        );
    }

    #[test]
    fn a_line_that_answers_nothing_names_nothing() {
        for line in [
            &br#"{"method":"m","id":5,"params":{"x":NaN}}"#[..],
            br#"{"id":5,"params":{"x":NaN},"method":"m"}"#,
            b"INFO {\"id\":5,\"result\":{}}",
            b"\"id\":5",
            br#"[[{"id":5}]]"#,
            br#"{"result":{"id":5}}"#,
            br#"{"text":"\",\"id\":5,\""}"#,
            b"",
        ] {
            assert_eq!(ids(line), [""; 0], "{}", String::from_utf8_lossy(line));
        }
        let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(MAX_ID_BYTES));
        assert_eq!(ids(long.as_bytes()), [""; 0]);
        let many = format!("[{}]", r#"{"id":1},"#.repeat(MAX_IDS + 10));
        assert_eq!(ids(many.as_bytes()).len(), MAX_IDS);
    }
}
