//! Lines out of a pipe, in bounded memory.
//!
//! In: bytes. Out: whole lines, and a note for each one that was too long, whose bytes are not
//! kept.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::answered_ids::AnsweredIds;
use crate::protocol::text;

/// Read at once, and kept of a line that is too long.
const CHUNK_BYTES: usize = 64 << 10;
const EXCERPT_BYTES: usize = 256;

/// What a pipe gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Line(Bytes),
    /// A line over the cap.
    TooLong {
        /// How it starts.
        start: Bytes,
        /// How long it was, in bytes.
        length: u64,
        /// The calls that it means to answer, as JSON.
        answers: Vec<String>,
    },
}

/// What is kept of a line that is too long.
#[derive(Debug)]
struct Skipped {
    start: Bytes,
    length: u64,
    answers: AnsweredIds,
}

/// Splits a pipe into lines of at most `cap` bytes.
#[derive(Debug)]
pub(super) struct Lines<R> {
    pipe: R,
    cap: usize,
    buffer: BytesMut,
    /// Bytes of the buffer that are known to hold no line break.
    scanned: usize,
    skipping: Option<Skipped>,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(pipe: R, cap: usize) -> Self {
        Self {
            pipe,
            cap,
            buffer: BytesMut::new(),
            scanned: 0,
            skipping: None,
            ended: false,
        }
    }

    /// The next line; `None` at the end. A last line without line break counts. May be cancelled
    /// without loss.
    pub(super) async fn next(&mut self) -> std::io::Result<Option<Piece>> {
        loop {
            if let Some(piece) = self.take() {
                return Ok(Some(piece));
            }
            if self.ended {
                return Ok(self.rest());
            }
            self.buffer.reserve(CHUNK_BYTES);
            let mut window = (&mut self.pipe).take(CHUNK_BYTES as u64);
            if window.read_buf(&mut self.buffer).await? == 0 {
                self.ended = true;
            }
        }
    }

    fn take(&mut self) -> Option<Piece> {
        let found = self.buffer[self.scanned..]
            .iter()
            .position(|byte| *byte == b'\n');
        let Some(offset) = found else {
            self.scanned = self.buffer.len();
            if self.scanned > self.cap || self.skipping.is_some() {
                self.skip(self.scanned);
                // The memory of a long line must not outlive it.
                self.buffer = BytesMut::new();
            }
            return None;
        };
        let end = self.scanned + offset;
        self.scanned = 0;
        if end > self.cap || self.skipping.is_some() {
            self.skip(end);
            let _ = self.buffer.split_to(end + 1);
            return self.skipped();
        }
        let mut line = self.buffer.split_to(end + 1);
        line.truncate(end);
        if line.last() == Some(&b'\r') {
            line.truncate(end - 1);
        }
        Some(Piece::Line(line.freeze()))
    }

    fn skip(&mut self, length: usize) {
        let skipped = self.skipping.get_or_insert_with(|| {
            let shown = length.min(EXCERPT_BYTES);
            Skipped {
                start: Bytes::copy_from_slice(&self.buffer[..shown]),
                length: 0,
                answers: AnsweredIds::default(),
            }
        });
        skipped.length += length as u64;
        skipped.answers.read(&self.buffer[..length]);
        self.scanned = 0;
    }

    fn skipped(&mut self) -> Option<Piece> {
        let skipped = self.skipping.take()?;
        Some(Piece::TooLong {
            start: skipped.start,
            length: skipped.length,
            answers: skipped.answers.finish(),
        })
    }

    fn rest(&mut self) -> Option<Piece> {
        if self.skipping.is_some() {
            return self.skipped();
        }
        if self.buffer.is_empty() {
            return None;
        }
        self.scanned = 0;
        Some(Piece::Line(self.buffer.split().freeze()))
    }
}

/// Text of a child for the log: lossy, cut, and such that it cannot forge lines or reorder what is
/// read.
pub(crate) fn printable(bytes: &[u8], cap: usize) -> String {
    text::printable(&String::from_utf8_lossy(bytes), cap)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(input: &[u8], cap: usize) -> Vec<Piece> {
        let mut lines = Lines::new(input, cap);
        let mut pieces = Vec::new();
        while let Some(piece) = lines.next().await.unwrap() {
            pieces.push(piece);
        }
        pieces
    }

    fn line(text: &'static str) -> Piece {
        Piece::Line(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn lines_come_whole_and_the_last_needs_no_line_break() {
        assert_eq!(
            all(b"one\r\n\ntwo\nthree", 10).await,
            [line("one"), line(""), line("two"), line("three")]
        );
    }

    #[tokio::test]
    async fn a_line_of_the_permitted_length_passes_and_one_byte_more_is_skipped() {
        let long = Piece::TooLong {
            start: Bytes::from_static(b"123456"),
            length: 6,
            answers: Vec::new(),
        };
        assert_eq!(
            all(b"12345\n123456\nok\n", 5).await,
            [line("12345"), long, line("ok")]
        );
    }

    #[tokio::test]
    async fn a_line_far_over_the_cap_is_counted_but_never_held() {
        let mut input = vec![b'x'; 1 << 20];
        input.extend_from_slice(b"\nnext\n");
        let mut lines = Lines::new(&input[..], 1 << 10);
        let first = lines.next().await.unwrap().unwrap();
        assert_eq!(
            first,
            Piece::TooLong {
                start: Bytes::from(vec![b'x'; EXCERPT_BYTES]),
                length: 1 << 20,
                answers: Vec::new(),
            }
        );
        assert!(lines.buffer.capacity() <= 2 * CHUNK_BYTES);
        assert_eq!(lines.next().await.unwrap(), Some(line("next")));
        assert_eq!(lines.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_line_over_the_cap_names_the_call_that_it_answers() {
        let text = "x".repeat(3 * CHUNK_BYTES);
        let input = format!("{{\"result\":{{\"text\":\"{text}\"}},\"id\":17}}\n");
        for input in [input.as_str(), input.trim_end()] {
            let pieces = all(input.as_bytes(), 1 << 10).await;
            let [Piece::TooLong { answers, .. }] = &pieces[..] else {
                panic!("{pieces:?}");
            };
            assert_eq!(answers, &["17"]);
        }
    }

    #[test]
    fn log_text_cannot_forge_lines_or_move_the_cursor() {
        assert_eq!(
            printable(b"a\x1b[2Jb\nc\xff", 100),
            "a\\u{1b}[2Jb\\u{a}c\u{fffd}"
        );
        assert_eq!(printable(b"abcdef", 3), "abc…");
    }
}
