//! Whether a caller can see a tool in a list.

use super::side::Side;
use super::{Verdict, env, verdict};
use crate::api::policy::{Action, DefaultAction};
use crate::policy::check::{Args, Fuel};
use crate::policy::decision::Caller;
use crate::policy::inventory::{Bound, Tool, shows};
use jiff::Timestamp;

impl Bound {
    /// Whether the tool is in the caller's list.
    pub fn visible(&self, tool: &str, caller: &Caller, session: &str, now: Timestamp) -> bool {
        if self.program.audit {
            return true;
        }
        if self.program.closed.is_some() {
            return false;
        }
        let Some(tool) = self.tool(tool).filter(|tool| tool.withheld.is_none()) else {
            return false;
        };
        let fuel = Fuel::full();
        let env = env(tool, (caller, session), now, Args::default(), &fuel);
        let mut side = Side::default();
        for (_, rule) in self
            .applicable(tool, caller)
            .filter(|(_, rule)| !rule.audit)
        {
            if rule.when_reads_args() {
                side.may_show |= shows(rule.action);
                continue;
            }
            match verdict(rule, &env) {
                Verdict::DoesNot => {}
                Verdict::Matches if rule.action == Action::Hide => return false,
                Verdict::Matches | Verdict::Failed(_) => side.may_show = true,
            }
        }
        !side.hides(&self.program.default)
    }

    /// Whether some caller can list the tool: tried with a sample of every caller that a rule
    /// names, taking conditions to hold where they show it and not to where they hide it.
    pub fn visible_to_some(&self, tool: &Tool) -> bool {
        if self.program.audit {
            return true;
        }
        if self.program.closed.is_some() || tool.withheld.is_some() {
            return false;
        }
        let enforced = || {
            tool.rules
                .iter()
                .filter_map(|at| self.program.rules.get(*at as usize))
                .filter(|rule| !rule.audit)
        };
        let named = enforced()
            .flat_map(|rule| rule.callers.any_of.iter().chain(&rule.callers.except))
            .map(|g| g.sample());
        let usual = ["key:x", "serviceaccount:x/x", "jwt:x/x", "anonymous"].map(str::to_owned);
        usual.into_iter().chain(named).take(256).any(|grant| {
            let mut shown = self.program.default.action != DefaultAction::Hide;
            for rule in enforced().filter(|rule| rule.callers.matches(&grant)) {
                if rule.action == Action::Hide && rule.when.is_none() {
                    return false;
                }
                shown |= shows(rule.action);
            }
            shown
        })
    }
}
