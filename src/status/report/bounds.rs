//! The bounds of a report, so that no report can exhaust its reader.
//!
//! In: untrusted JSON from a gateway's address. Out: texts and lists of a bounded length; a longer
//! one is refused before it is in memory. Must not do: refuse the report of a genuine gateway:
//! [`Report::fit`] uses the same bounds.

use super::{Report, ReportedTool};
use jiff::{SignedDuration, Timestamp};
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use std::{fmt, marker::PhantomData};

/// Bytes of a whole report: 10,000 tools, the most that a gateway accepts from a server, of 300
/// bytes each, and room for the counts of 1,024 rules with long names.
pub const MAX_REPORT_BYTES: usize = 4 << 20;

/// Bytes of names from the API server, of UIDs, revisions and digests.
pub const MAX_NAME_BYTES: usize = 512;
/// Bytes of the names of callers and tools.
pub const MAX_CALLER_BYTES: usize = 1_024;
/// Bytes of an error message.
pub const MAX_ERROR_BYTES: usize = 4_096;

/// Tools; a gateway accepts no more from a server.
pub const MAX_TOOLS: usize = 10_000;
/// Rules with violations, by outcome; a gateway counts half as many separately.
pub const MAX_COUNTS: usize = 2_048;
/// Recent violations.
pub const MAX_RECENT: usize = 64;
/// Missing keys of Secrets.
pub const MAX_MISSING_KEYS: usize = 1_024;
/// Issuers of tokens whose keys are not there.
pub const MAX_ISSUERS: usize = 32;

/// Webhooks that announce requests for approval.
pub const MAX_WEBHOOKS: usize = 16;

/// An upper bound for the calls that a gateway can decide in a second.
const MAX_CALLS_PER_SECOND: u64 = 100_000;

/// A text of at most `BYTES` bytes.
pub fn text<'de, D: Deserializer<'de>, const BYTES: usize>(
    deserializer: D,
) -> Result<String, D::Error> {
    deserializer.deserialize_str(Text::<BYTES>)
}

/// Like [`text`], but optional.
pub fn maybe_text<'de, D: Deserializer<'de>, const BYTES: usize>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    deserializer.deserialize_option(MaybeText::<BYTES>)
}

/// A list of at most `ENTRIES` entries.
pub fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>, const ENTRIES: usize>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_seq(List::<T, ENTRIES>(PhantomData))
}

struct Text<const BYTES: usize>;

impl<const BYTES: usize> Visitor<'_> for Text<BYTES> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a text of at most {BYTES} bytes")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        if text.len() > BYTES {
            return Err(E::invalid_length(text.len(), &self));
        }
        Ok(text.to_owned())
    }
}

struct MaybeText<const BYTES: usize>;

impl<'de, const BYTES: usize> Visitor<'de> for MaybeText<BYTES> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "null or a text of at most {BYTES} bytes")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        text::<D, BYTES>(deserializer).map(Some)
    }
}

struct List<T, const ENTRIES: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const ENTRIES: usize> Visitor<'de> for List<T, ENTRIES> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {ENTRIES} entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(entry) = entries.next_element()? {
            if list.len() == ENTRIES {
                return Err(A::Error::invalid_length(ENTRIES + 1, &self));
            }
            list.push(entry);
        }
        Ok(list)
    }
}

/// A list of short texts.
pub fn texts<'de, D: Deserializer<'de>, const BYTES: usize, const ENTRIES: usize>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    let texts = list::<D, Short<BYTES>, ENTRIES>(deserializer)?;
    Ok(texts.into_iter().map(|Short(text)| text).collect())
}

struct Short<const BYTES: usize>(String);

impl<'de, const BYTES: usize> Deserialize<'de> for Short<BYTES> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::<D, BYTES>(deserializer).map(Short)
    }
}

/// Cuts `text` to at most that number of bytes.
pub fn cut(text: &mut String, bytes: usize) {
    text.truncate(text.floor_char_boundary(bytes));
}

impl Report {
    /// Cuts a gateway's own report to the bounds: the names that callers and upstream servers
    /// choose have none.
    #[must_use]
    pub fn fit(mut self) -> Self {
        for one in &mut self.recent {
            cut(&mut one.tool, MAX_CALLER_BYTES);
            cut(&mut one.grant, MAX_CALLER_BYTES);
        }
        self.tools.truncate(MAX_TOOLS);
        for tool in &mut self.tools {
            cut(&mut tool.name, MAX_CALLER_BYTES);
            if let Some(why) = &mut tool.withheld {
                cut(why, MAX_CALLER_BYTES);
            }
        }
        self.missing_secret_keys.truncate(MAX_MISSING_KEYS);
        let listing = self.listing.as_mut();
        let errors = listing.and_then(|listing| listing.error.as_mut());
        for error in errors.into_iter().chain(&mut self.bundle_error) {
            cut(error, MAX_ERROR_BYTES);
        }
        self
    }

    /// Removes the names of tools; their number stays.
    pub fn shorten(&mut self) {
        for tool in &mut self.tools {
            *tool = ReportedTool {
                visible: tool.visible,
                unclassified: tool.unclassified,
                drifted: tool.drifted,
                ..ReportedTool::default()
            };
        }
    }

    /// Clamps the times in the report to the time of the report, and returns whether a gateway of
    /// that age can have counted that number of calls.
    pub fn is_plausible(&mut self, since: Option<Timestamp>, now: Timestamp) -> bool {
        for one in &mut self.violations {
            one.last_time = one.last_time.min(now);
        }
        for one in &mut self.recent {
            one.time = one.time.min(now);
        }
        if let Some(listing) = &mut self.listing {
            listing.time = listing.time.min(now);
        }
        let age = since.map_or(SignedDuration::MAX, |since| now.duration_since(since));
        // Clocks differ.
        let seconds = age.as_secs().max(0).saturating_add(600).unsigned_abs();
        let most = seconds.saturating_mul(MAX_CALLS_PER_SECOND).min(1 << 48);
        let counted = self.violations.iter();
        counted.fold(0_u64, |sum, one| sum.saturating_add(one.count)) <= most
    }
}
