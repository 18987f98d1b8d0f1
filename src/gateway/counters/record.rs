//! What a journal consists of: frames with a checksum, and one record in each.
//!
//! In: what was counted, under numbers and hashes. Out: bytes, and the same read back; incomplete
//! and changed records are recognized. Must not do: hold a name, an argument or anything else of a
//! call in clear.

use std::collections::VecDeque;

use super::clock::Reading;
use crate::policy::canonical::sha256;
use crate::policy::limit::Entry;

/// How every file begins; the digits are the version of what follows.
pub const HEADER: &[u8] = b"portcullis-limits-1\n";
const MARK: &[u8] = b"PJ";
/// Mark, length, checksum.
const FRAME: usize = 2 + 4 + 8;
/// No record is longer.
const MAX_RECORD: usize = 1 << 20;

/// The number of a counter's key within a journal.
pub type KeyId = u32;

/// What a key has counted, as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyState {
    /// The key's number.
    pub id: KeyId,
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    /// Hash of the grant whose key it is, if it is one caller's.
    pub owner: Option<[u8; 16]>,
    /// It counts equal calls.
    pub call: bool,
    /// Length of the window, in nanoseconds.
    pub length: u64,
    /// What is counted.
    pub entries: VecDeque<Entry>,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JournalRecord {
    /// What a key has counted: it replaces what was known of that number.
    State(KeyState),
    /// Units of one call, of all its counters.
    Taken {
        /// The journal's time.
        at: u64,
        /// Keys and units.
        units: Vec<(KeyId, u64)>,
    },
    /// Units of a call that was not made.
    Returned {
        /// The journal's time.
        at: u64,
        /// Keys, the times when their units were taken, and units.
        units: Vec<(KeyId, u64, u64)>,
    },
    /// The clocks at a moment.
    Clocks {
        /// The journal's time.
        at: u64,
        /// What the clocks said then.
        reading: Reading,
    },
    /// What was counted until then is not known.
    Unknown {
        /// The journal's time.
        at: u64,
    },
}

/// What stands at one place of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A record, and where the next one begins.
    Record(JournalRecord, usize),
    /// The file ends here.
    End,
    /// The file ends within a record.
    Torn,
    /// Something else.
    Damaged,
}

/// Appends a record in its frame.
pub fn write(out: &mut Vec<u8>, record: &JournalRecord) {
    frame(out, |out| match record {
        JournalRecord::State(state) => {
            let length = state.length;
            let entries = state.entries.iter().copied();
            let key = (state.id, &state.hash, state.owner.as_ref(), state.call);
            put_state(out, key, length, entries);
        }
        JournalRecord::Taken { at, units } => put_taken(out, *at, units.iter().copied()),
        JournalRecord::Returned { at, units } => {
            out.push(3);
            put_u64(out, *at);
            put(out, units.len() as u64);
            for (id, when, cost) in units {
                put(out, u64::from(*id));
                put(out, *when);
                put(out, *cost);
            }
        }
        JournalRecord::Clocks { at, reading } => {
            out.push(4);
            put_u64(out, *at);
            out.extend_from_slice(&reading.boot);
            put_u64(out, reading.since_boot);
            put_u64(out, reading.wall);
        }
        JournalRecord::Unknown { at } => {
            out.push(5);
            put_u64(out, *at);
        }
    });
}

/// Appends [`JournalRecord::State`] without making one.
pub fn write_state(
    out: &mut Vec<u8>,
    key: (KeyId, &[u8; 32], Option<&[u8; 16]>, bool),
    length: u64,
    entries: impl ExactSizeIterator<Item = Entry>,
) {
    frame(out, |out| put_state(out, key, length, entries));
}

/// Appends [`JournalRecord::Taken`] without making one.
pub fn write_taken(out: &mut Vec<u8>, at: u64, units: impl ExactSizeIterator<Item = (KeyId, u64)>) {
    frame(out, |out| put_taken(out, at, units));
}

fn put_state(
    out: &mut Vec<u8>,
    (id, hash, owner, call): (KeyId, &[u8; 32], Option<&[u8; 16]>, bool),
    length: u64,
    entries: impl ExactSizeIterator<Item = Entry>,
) {
    out.push(1);
    put(out, u64::from(id));
    out.extend_from_slice(hash);
    out.push(u8::from(owner.is_some()) | u8::from(call) << 1);
    out.extend_from_slice(owner.map_or(&[], |owner| &owner[..]));
    put(out, length);
    put(out, entries.len() as u64);
    let mut before = 0;
    for entry in entries {
        put(out, entry.start - before);
        put(out, entry.latest - entry.start);
        put(out, entry.units);
        before = entry.latest;
    }
}

fn put_taken(out: &mut Vec<u8>, at: u64, units: impl ExactSizeIterator<Item = (KeyId, u64)>) {
    out.push(2);
    put_u64(out, at);
    put(out, units.len() as u64);
    for (id, cost) in units {
        put(out, u64::from(id));
        put(out, cost);
    }
}

fn frame(out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(MARK);
    out.extend_from_slice(&[0; FRAME - 2]);
    content(out);
    let length = u32::try_from(out.len() - start - FRAME).unwrap_or(u32::MAX);
    let sum = sha256(&out[start + FRAME..]);
    out[start + 2..start + 6].copy_from_slice(&length.to_le_bytes());
    out[start + 6..start + FRAME].copy_from_slice(&sum[..8]);
}

/// Reads what stands at a place.
pub fn read(bytes: &[u8], at: usize) -> Found {
    let rest = bytes.get(at..).unwrap_or_default();
    if rest.is_empty() {
        return Found::End;
    }
    if !MARK.starts_with(&rest[..rest.len().min(2)]) {
        return Found::Damaged;
    }
    let Some((head, body)) = rest.split_at_checked(FRAME) else {
        return Found::Torn;
    };
    let length = u32::from_le_bytes([head[2], head[3], head[4], head[5]]) as usize;
    if length > MAX_RECORD {
        return Found::Damaged;
    }
    let Some(content) = body.get(..length) else {
        return Found::Torn;
    };
    if sha256(content)[..8] != head[6..] {
        return Found::Damaged;
    }
    match Content(content).record() {
        Some(record) => Found::Record(record, at + FRAME + length),
        None => Found::Damaged,
    }
}

/// Whether a whole record stands anywhere behind a place: then what is wrong there is not the end.
pub fn follows(bytes: &[u8], at: usize) -> bool {
    let rest = bytes.get(at + 1..).unwrap_or_default();
    memchr::memmem::find_iter(rest, MARK)
        .any(|place| matches!(read(rest, place), Found::Record(..)))
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Seven bits a byte, the lowest first.
fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

struct Content<'b>(&'b [u8]);

impl<'b> Content<'b> {
    /// The record, if it is one to the last byte.
    fn record(mut self) -> Option<JournalRecord> {
        let record = match self.bytes(1)?[0] {
            1 => {
                let (id, hash) = (self.id()?, self.array()?);
                let flags = self.bytes(1)?[0];
                let owner = match flags & 1 {
                    0 => None,
                    _ => Some(self.array()?),
                };
                let (length, count) = (self.number()?, self.number()?);
                let mut entries = VecDeque::new();
                let mut before = 0_u64;
                for _ in 0..count {
                    let start = before.checked_add(self.number()?)?;
                    let latest = start.checked_add(self.number()?)?;
                    let units = self.number()?;
                    entries.push_back(Entry {
                        start,
                        latest,
                        units,
                    });
                    before = latest;
                }
                JournalRecord::State(KeyState {
                    id,
                    hash,
                    owner,
                    call: flags & 2 != 0,
                    length,
                    entries,
                })
            }
            2 => {
                let at = self.fixed()?;
                let mut units = Vec::new();
                for _ in 0..self.number()? {
                    units.push((self.id()?, self.number()?));
                }
                JournalRecord::Taken { at, units }
            }
            3 => {
                let at = self.fixed()?;
                let mut units = Vec::new();
                for _ in 0..self.number()? {
                    units.push((self.id()?, self.number()?, self.number()?));
                }
                JournalRecord::Returned { at, units }
            }
            4 => JournalRecord::Clocks {
                at: self.fixed()?,
                reading: Reading {
                    boot: self.array()?,
                    since_boot: self.fixed()?,
                    wall: self.fixed()?,
                },
            },
            5 => JournalRecord::Unknown { at: self.fixed()? },
            _ => return None,
        };
        self.0.is_empty().then_some(record)
    }

    fn bytes(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn fixed(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.bytes(1)?[0];
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn id(&mut self) -> Option<KeyId> {
        KeyId::try_from(self.number()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries() -> impl Strategy<Value = VecDeque<Entry>> {
        proptest::collection::vec((1_u64..1 << 40, 0_u64..1 << 30, 1_u64..1 << 31), 0..20).prop_map(
            |spans| {
                let mut at = 0;
                let place = |(gap, span, units)| {
                    let start = at + gap;
                    at = start + span;
                    Entry {
                        start,
                        latest: at,
                        units,
                    }
                };
                spans.into_iter().map(place).collect()
            },
        )
    }

    fn records() -> impl Strategy<Value = JournalRecord> {
        let units = proptest::collection::vec((any::<u32>(), any::<u64>()), 0..5);
        let returned = proptest::collection::vec(any::<(u32, u64, u64)>(), 0..5);
        prop_oneof![
            (
                any::<(u32, [u8; 32], Option<[u8; 16]>, bool, u64)>(),
                entries()
            )
                .prop_map(|((id, hash, owner, call, length), entries)| {
                    JournalRecord::State(KeyState {
                        id,
                        hash,
                        owner,
                        call,
                        length,
                        entries,
                    })
                }),
            (any::<u64>(), units).prop_map(|(at, units)| JournalRecord::Taken { at, units }),
            (any::<u64>(), returned).prop_map(|(at, units)| JournalRecord::Returned { at, units }),
            any::<(u64, [u8; 16], u64, u64)>().prop_map(|(at, boot, since_boot, wall)| {
                let reading = Reading {
                    boot,
                    since_boot,
                    wall,
                };
                JournalRecord::Clocks { at, reading }
            }),
            any::<u64>().prop_map(|at| JournalRecord::Unknown { at }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_a_torn_or_changed_record_is_not(
            all in proptest::collection::vec(records(), 1..6), cut in any::<prop::sample::Index>(), flip in any::<prop::sample::Index>()
        ) {
            let mut bytes = Vec::new();
            let mut ends = Vec::new();
            for record in &all {
                write(&mut bytes, record);
                ends.push(bytes.len());
            }
            let mut at = 0;
            for record in &all {
                let Found::Record(found, next) = read(&bytes, at) else { panic!("at {at}") };
                prop_assert_eq!(&found, record);
                at = next;
            }
            prop_assert_eq!(read(&bytes, at), Found::End);
            let cut = cut.index(bytes.len());
            let whole = ends.iter().rev().find(|end| **end <= cut).copied().unwrap_or(0);
            let expected = if whole == cut { Found::End } else { Found::Torn };
            prop_assert_eq!(read(&bytes[..cut], whole), expected);
            let mut changed = bytes.clone();
            let place = flip.index(changed.len());
            changed[place] ^= 0x10;
            let start = ends.iter().rev().find(|end| **end <= place).copied().unwrap_or(0);
            prop_assert!(matches!(read(&changed, start), Found::Damaged | Found::Torn));
            let last = ends.len() < 2 || start >= ends[ends.len() - 2];
            prop_assert_eq!(follows(&changed, start), !last);
        }

        #[test]
        fn no_bytes_are_too_strange_to_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for at in 0..=bytes.len() {
                let _ = read(&bytes, at);
            }
            let mut framed = Vec::new();
            frame(&mut framed, |out| out.extend_from_slice(&bytes));
            let _ = read(&framed, 0);
        }
    }
}
