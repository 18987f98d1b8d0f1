//! Calls of callers that have no credential at the upstream.
//!
//! In: the call. Out: its record, as denied. No policy is asked: nothing could let it pass, and the
//! answer is the same for every tool.

use std::sync::Arc;

use jiff::Timestamp;

use super::in_flight::Written;
use crate::gateway::Gateway;
use crate::gateway::force::snapshot::Snapshot;
use crate::gateway::observe::Outcome;
use crate::policy::decision::RuleId;

/// One such call.
pub struct Uncredentialed<'a> {
    /// What it is counted under.
    pub by: &'a Arc<RuleId>,
    /// The tool's name.
    pub tool: &'a str,
    /// The raw arguments.
    pub arguments: &'a [u8],
    /// Who calls.
    pub grant: &'a str,
    /// The W3C trace id, if the caller sent one.
    pub trace_id: Option<&'a str>,
}

impl Uncredentialed<'_> {
    /// Records it; returns the decision's number.
    pub fn record(&self, gateway: &Gateway, snapshot: &Snapshot) -> u64 {
        let written = Written {
            snapshot,
            tool: self.tool,
            arguments: self.arguments,
            grant: self.grant,
            // Its sessions are bound to a credential.
            session: "",
            trace_id: self.trace_id,
            approval: None,
            number: None,
            reason: Some("the server has no credential for this caller"),
            caller: None,
        };
        let decided = written.record(gateway, Outcome::Denied, self.by, Timestamp::now(), None);
        decided.number
    }
}
