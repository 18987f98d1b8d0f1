//! The calls of a gateway: what they have used up, which of them wait for a person, and which are
//! under way.

use std::collections::HashMap;
use std::sync::Arc;

use super::held_calls::{HeldCall, HeldCalls};
use super::request_ids::{Cancelled, RequestIdGuard, RequestIds, SessionKey};
use crate::gateway::approvals::Approvals;
use crate::gateway::counters::{Local, Reservation, SharedCounters, SharedReservation};
use crate::protocol::envelope::Id;

/// The calls of one gateway.
pub struct Calls {
    counters: Arc<Local>,
    approvals: Approvals,
    held: HeldCalls,
    request_ids: RequestIds,
}

/// Units that a call has taken, where they are counted.
pub enum Units {
    /// In this process.
    Local(Reservation),
    /// Outside.
    Shared(Arc<SharedCounters>, SharedReservation),
}

impl Calls {
    /// No calls yet, apart from those that the counters have counted.
    pub fn new(counters: Arc<Local>, approvals: Approvals) -> Self {
        Calls {
            counters,
            approvals,
            held: HeldCalls::default(),
            request_ids: RequestIds::default(),
        }
    }

    /// What limits have counted.
    pub fn counters(&self) -> &Local {
        &self.counters
    }

    /// Where approvals are kept.
    pub fn approvals(&self) -> &Approvals {
        &self.approvals
    }

    /// Units of a call that was never made.
    pub fn give_back(&self, units: Units) {
        match units {
            Units::Local(reservation) => self.counters.give_back(reservation),
            Units::Shared(counters, reservation) => counters.give_back(reservation),
        }
    }

    /// The use of the fullest key of each counter, by policy and counter.
    pub fn limit_ratios(&self) -> HashMap<(String, String), f64> {
        self.counters.ratios()
    }

    /// Holds a call, so that a cancellation finds it.
    pub fn hold(&self, session: &str, id: &str) -> HeldCall {
        HeldCall::start(&self.held, session, id)
    }

    /// Cancels the held calls of that session and id (as JSON); false if none is held.
    pub fn cancel_held(&self, session: &str, id: &str) -> bool {
        self.held.cancel(session, id)
    }

    /// How many calls wait for a person.
    pub fn held(&self) -> usize {
        self.held.count()
    }

    /// Gives a request its id for the upstream; it is under way until the guard is dropped.
    pub fn start(&self, session: SessionKey, client: &Id<'_>) -> RequestIdGuard {
        self.request_ids.start(session, client)
    }

    /// The client gives up requests that are under way; see [`RequestIds::cancel`].
    pub fn cancel(&self, session: SessionKey, client: &Id<'_>) -> Vec<Cancelled> {
        self.request_ids.cancel(session, client)
    }

    /// The calls of that session may have taken effect whatever the upstream answers; see
    /// [`RequestIds::mark_session`].
    pub fn mark_session(&self, session: SessionKey) {
        self.request_ids.mark_session(session);
    }
}
