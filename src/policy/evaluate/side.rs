//! The strictest action of the matching rules, and the rules with that action.

use crate::api::policy::DefaultAction;
use crate::policy::decision::{Denial, Outcome, RuleId};
use crate::policy::program::Default as DefaultRule;
use std::sync::Arc;

/// The strictest that has been found for one set of policies.
#[derive(Default)]
pub(super) struct Side<'p> {
    found: Option<Found<'p>>,
    /// A rule that could match with other arguments shows the tool.
    pub may_show: bool,
    /// The first rule that would let the call through if its policy were accepted, and why it is
    /// not.
    restricting: Option<(&'p Arc<RuleId>, &'p Arc<str>)>,
    /// The first of those that asks for approval of what others let through.
    approval: Option<&'p Arc<RuleId>>,
}

pub(super) struct Found<'p> {
    pub outcome: Outcome,
    pub by: &'p Arc<RuleId>,
    pub reason: Option<Arc<str>>,
}

impl<'p> Side<'p> {
    /// Rules come in order of attribution, so the first of equally strict ones stays; faults of the
    /// arguments may come out of turn and are compared by name.
    pub fn record(&mut self, outcome: Outcome, by: &'p Arc<RuleId>, reason: Option<&Arc<str>>) {
        let better = match &self.found {
            None => true,
            Some(found) => {
                let (old, new) = (found.outcome.strictness(), outcome.strictness());
                new > old || (new == old && by < found.by)
            }
        };
        if better {
            self.found = Some(Found {
                outcome,
                by,
                reason: reason.cloned(),
            });
        }
    }

    /// A rule matches that would let the call through, of a policy that is not accepted: it lets
    /// nothing through, and what others let through needs the approval that it asks for.
    pub fn restrict(&mut self, by: &'p Arc<RuleId>, why: &'p Arc<str>, approval: bool) {
        if self.restricting.is_none_or(|(first, _)| by < first) {
            self.restricting = Some((by, why));
        }
        if approval && self.approval.is_none_or(|first| by < first) {
            self.approval = Some(by);
        }
    }

    /// Whether the tool is hidden from the caller whatever the arguments.
    pub fn hides(&self, default: &DefaultRule) -> bool {
        match &self.found {
            Some(found) => found.outcome == Outcome::Hide,
            None => {
                !self.may_show
                    && self.restricting.is_none()
                    && default.action == DefaultAction::Hide
            }
        }
    }

    pub fn finish(self, default: &'p DefaultRule) -> Found<'p> {
        let approval = self.approval;
        let found = self.decided(default);
        match approval {
            Some(by) if found.outcome == Outcome::Allow => Found {
                outcome: Outcome::RequireApproval,
                by,
                reason: None,
            },
            _ => found,
        }
    }

    fn decided(self, default: &'p DefaultRule) -> Found<'p> {
        if let Some(found) = self.found {
            return found;
        }
        if let (Some((by, why)), DefaultAction::Deny | DefaultAction::Hide) =
            (self.restricting, default.action)
        {
            return Found {
                outcome: Outcome::Deny(Denial::NotAccepted),
                by,
                reason: Some(Arc::clone(why)),
            };
        }
        let (outcome, reason) = match default.action {
            DefaultAction::Allow => (Outcome::Allow, None),
            DefaultAction::Deny => (Outcome::Deny(Denial::Rule), Some("no rule allows this")),
            DefaultAction::Hide if self.may_show => (
                Outcome::Deny(Denial::NotAllowed),
                Some("no rule allows these arguments"),
            ),
            DefaultAction::Hide => (Outcome::Hide, None),
        };
        Found {
            outcome,
            by: &default.by,
            reason: reason.map(Arc::from),
        }
    }
}

/// Which of a tool's rules match; on the stack for up to 256.
#[derive(Default)]
pub(super) struct Bits {
    first: [u64; 4],
    more: Vec<u64>,
}

impl Bits {
    pub fn set(&mut self, at: usize) {
        let word = match at / 64 {
            word @ 0..4 => self.first.get_mut(word),
            word => {
                if self.more.len() <= word - 4 {
                    self.more.resize(word - 3, 0);
                }
                self.more.get_mut(word - 4)
            }
        };
        if let Some(word) = word {
            *word |= 1 << (at % 64);
        }
    }

    pub fn get(&self, at: usize) -> bool {
        let word = match at / 64 {
            word @ 0..4 => self.first.get(word),
            word => self.more.get(word - 4),
        };
        word.is_some_and(|word| word & (1 << (at % 64)) != 0)
    }
}
