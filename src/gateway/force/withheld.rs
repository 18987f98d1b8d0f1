//! Logs which tools no caller gets, and why, once for each reason.
//!
//! In: what a listing and the policies came to. Out: warnings. Must not do: repeat itself with
//! every snapshot.

use std::collections::BTreeMap;

use crate::policy::inventory::Bound;
use crate::protocol::text::printable;

/// A server names its tools as it likes.
const SHOWN_CHARS: usize = 128;
/// More tools than this are not named at once.
const MAX_NAMED: usize = 20;

/// What the log says so far.
#[derive(Default)]
pub struct WithheldTools(BTreeMap<String, String>);

impl WithheldTools {
    /// Logs what has changed.
    pub fn log(&mut self, server: &str, bound: &Bound) {
        let now: BTreeMap<String, String> = withheld(bound).collect();
        let news = |(name, why): &(&String, &String)| self.0.get(*name) != Some(*why);
        for (tool, why) in now.iter().filter(news).take(MAX_NAMED) {
            tracing::warn!(server, tool, "a tool is hidden from all callers: {why}");
        }
        let more = now.iter().filter(news).count().saturating_sub(MAX_NAMED);
        if more > 0 {
            tracing::warn!(server, more, "more tools are hidden from all callers");
        }
        self.0 = now;
    }
}

/// Each tool that is hidden from all callers for a reason of its own, and why.
pub fn withheld(bound: &Bound) -> impl Iterator<Item = (String, String)> {
    let tools = bound.tools().iter();
    tools.filter_map(|tool| {
        let why = tool.withheld.as_ref()?.describe();
        Some((printable(&tool.name, SHOWN_CHARS), why))
    })
}
