//! What became of a call, in one word: a leaf that the audit log, the metrics and the report share.

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Forwarded, and no rule would have had it otherwise.
    Allowed,
    /// Forwarded, although Audit rules would have refused it.
    Audited,
    /// Answered as unknown although it exists.
    Hidden,
    /// Refused by a rule or because the decision could not be made.
    Denied,
    /// A counter was exhausted, full or unavailable.
    Limited,
    /// Not, not yet, or no longer approved.
    Unapproved,
    /// The arguments are not as the tool's schema says. Not a violation.
    BadArguments,
    /// There is no such tool. Not a violation.
    Unknown,
    /// Neither forwarded nor refused: the upstream was known to be down.
    Unavailable,
    /// Refused because it could not be recorded. Not a violation.
    Unrecorded,
}

impl Outcome {
    /// The name in the audit log and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Allowed => "allowed",
            Outcome::Audited => "audited",
            Outcome::Hidden => "hidden",
            Outcome::Denied => "denied",
            Outcome::Limited => "limited",
            Outcome::Unapproved => "unapproved",
            Outcome::BadArguments => "badArguments",
            Outcome::Unknown => "unknown",
            Outcome::Unavailable => "unavailable",
            Outcome::Unrecorded => "unrecorded",
        }
    }

    /// Whether api.md counts it among the violations (audited ones apart).
    pub const fn is_violation(self) -> bool {
        matches!(
            self,
            Outcome::Hidden | Outcome::Denied | Outcome::Limited | Outcome::Unapproved
        )
    }
}
