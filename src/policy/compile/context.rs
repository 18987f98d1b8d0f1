//! What the compilation of every part of a policy knows of its surroundings.

use std::sync::Arc;

/// Characters of the name of a rule or a counter.
pub(super) const MAX_NAME: usize = 63;

/// Of one policy of a server.
pub(super) struct Context<'a> {
    /// UID of the server.
    pub server: &'a Arc<str>,
    /// Counters count in the shadow only.
    pub shadow: bool,
    /// The policy only watches.
    pub audit: bool,
}
