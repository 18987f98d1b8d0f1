//! The newest lists that callers got under a snapshot, for when the upstream lists the same again.
//!
//! In: an answer of the upstream and what a caller got for it. Out: the same for the same caller,
//! if the upstream's bytes are the same: clients list tools again and again, and reading and
//! filtering a long list costs more than all the rest of a request. It lives as long as its
//! snapshot, so what it holds was decided by the rules and tools that are in force. Must not do:
//! keep what the time or the session decides, or give one caller what another one got.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::policy::Caller;
use crate::protocol::list::ListKind;
use crate::protocol::replay::Replay;

/// Longer answers are not kept, their two copies together.
const MAX_REPLAY_BYTES: usize = 256 << 10;
/// All that are kept; then all are forgotten and kept again as callers ask.
const MAX_BYTES: usize = 4 << 20;
/// What an answer takes beside its bytes.
const OVERHEAD: usize = 512;

/// See the module.
#[derive(Debug, Default)]
pub struct Replays {
    /// What a caller sees follows from its grant alone.
    steady: bool,
    kept: Mutex<KeptReplays>,
}

#[derive(Debug, Default)]
struct KeptReplays {
    by_grant: HashMap<String, [Option<KeptReplay>; ListKind::ALL.len()]>,
    bytes: usize,
}

#[derive(Debug)]
struct KeptReplay {
    /// Two callers of one name may differ in what else is known of them.
    caller: Arc<Caller>,
    replay: Arc<Replay>,
}

impl KeptReplay {
    fn bytes(&self) -> usize {
        self.replay.size() + self.caller.grant.len() + OVERHEAD
    }
}

impl Replays {
    /// For policies whose conditions do, or do not, decide by the caller alone.
    pub fn new(steady: bool) -> Self {
        Replays {
            steady,
            ..Replays::default()
        }
    }

    /// What this caller got for the last answer of this kind.
    pub fn of(&self, caller: &Arc<Caller>, kind: ListKind) -> Option<Arc<Replay>> {
        let kept = self.kept.lock();
        let kept = kept.by_grant.get(&caller.grant)?[kind as usize].as_ref()?;
        let same = Arc::ptr_eq(&kept.caller, caller) || kept.caller == *caller;
        same.then(|| Arc::clone(&kept.replay))
    }

    /// Whether an answer is one that may be kept: by its size, before anything is copied.
    pub fn takes(&self, bytes: usize) -> bool {
        self.steady && bytes <= MAX_REPLAY_BYTES
    }

    /// Keeps what a caller got.
    pub fn keep(&self, caller: &Arc<Caller>, kind: ListKind, replay: Replay) {
        if !self.takes(replay.size()) {
            return;
        }
        let new = KeptReplay {
            caller: Arc::clone(caller),
            replay: Arc::new(replay),
        };
        let mut kept = self.kept.lock();
        if kept.bytes + new.bytes() > MAX_BYTES {
            *kept = KeptReplays::default();
        }
        kept.bytes += new.bytes();
        let of_grant = kept.by_grant.entry(caller.grant.clone()).or_default();
        let before = of_grant[kind as usize].replace(new);
        kept.bytes -= before.map_or(0, |before| before.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::envelope::{self, Id, Message};

    const SENT: &[u8] = br#"{"jsonrpc":"2.0","id":1,"result":{}}"#;

    fn replay(padding: usize) -> Replay {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":7,"result":{{"x":"{}"}}}}"#,
            "x".repeat(padding)
        );
        let Ok(Message::Response(response)) = envelope::parse(body.as_bytes()) else {
            panic!("not a response")
        };
        Replay::of(body.as_bytes(), &response, SENT, &Id::Integer(1)).unwrap()
    }

    #[test]
    fn a_list_is_for_its_caller_and_its_kind() {
        let (one, again) = (Arc::new(Caller::key("a")), Arc::new(Caller::key("a")));
        let mut other = Caller::key("a");
        other.groups.push("admins".to_owned());
        let replays = Replays::new(true);
        replays.keep(&one, ListKind::Tools, replay(0));
        assert!(replays.of(&one, ListKind::Tools).is_some());
        assert!(replays.of(&again, ListKind::Tools).is_some());
        assert!(replays.of(&one, ListKind::Prompts).is_none());
        assert!(
            replays
                .of(&Arc::new(Caller::key("b")), ListKind::Tools)
                .is_none()
        );
        assert!(replays.of(&Arc::new(other), ListKind::Tools).is_none());
        let changing = Replays::new(false);
        changing.keep(&one, ListKind::Tools, replay(0));
        assert!(changing.of(&one, ListKind::Tools).is_none());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let replays = Replays::new(true);
        let one = Arc::new(Caller::key("a"));
        replays.keep(&one, ListKind::Tools, replay(MAX_REPLAY_BYTES));
        assert!(replays.of(&one, ListKind::Tools).is_none());
        for number in 0..200 {
            let caller = Arc::new(Caller::key(&number.to_string()));
            for kind in ListKind::ALL {
                replays.keep(&caller, kind, replay(MAX_REPLAY_BYTES / 2));
                replays.keep(&caller, kind, replay(1_000 * number));
                assert!(replays.of(&caller, kind).is_some());
                let kept = replays.kept.lock();
                let held: usize = kept
                    .by_grant
                    .values()
                    .flatten()
                    .flatten()
                    .map(KeptReplay::bytes)
                    .sum();
                assert_eq!(held, kept.bytes);
                assert!(held <= MAX_BYTES, "{held}");
            }
        }
    }
}
