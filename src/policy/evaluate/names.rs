//! Prompts and resources: rules by name, without limits, conditions or approval.

use super::side::Side;
use super::{denied, forwarded, outcome_of, plain};
use crate::api::policy::{Action, DefaultAction};
use crate::policy::decision::{Caller, Decision, Outcome, RuleId, Shadow};
use crate::policy::inventory::Bound;
use crate::policy::matcher::Glob;
use crate::policy::program::{Default as DefaultRule, NameRule, Program};
use crate::policy::uri::{template_fault, uri_fault};
use std::sync::Arc;

impl Bound {
    /// Decides a request for a prompt.
    pub fn prompt(&self, name: &str, caller: &Caller) -> Decision {
        let matches = |rule: &NameRule| rule.names.matches(name);
        self.by_name(&self.program.prompts, matches, caller)
    }

    /// Whether the prompt is in the caller's list.
    pub fn prompt_visible(&self, name: &str, caller: &Caller) -> bool {
        listed(&self.prompt(name, caller), &self.program)
    }

    /// Decides a request for a resource.
    pub fn resource(&self, uri: &str, caller: &Caller) -> Decision {
        self.by_uri(uri, uri_fault(uri), caller)
    }

    fn by_uri(&self, uri: &str, fault: Option<String>, caller: &Caller) -> Decision {
        let Some(fault) = fault else {
            let matches = |rule: &NameRule| may_name(rule, uri);
            return self.by_name(&self.program.resources, matches, caller);
        };
        let reason = format!("the URI is refused: {fault}");
        let decision = plain(
            Outcome::BadArguments,
            &self.program.inventory,
            Some(reason.into()),
        );
        if self.program.audit {
            forwarded(decision)
        } else {
            decision
        }
    }

    /// Whether the resource is in the caller's list.
    pub fn resource_visible(&self, uri: &str, caller: &Caller) -> bool {
        listed(&self.resource(uri, caller), &self.program)
    }

    /// Whether a template is in the caller's list: its text is matched as a URI is, with what it
    /// leaves open as it stands.
    pub fn template_visible(&self, template: &str, caller: &Caller) -> bool {
        listed(&self.template(template, caller), &self.program)
    }

    /// Decides what names a resource template, as completions do.
    pub fn template(&self, template: &str, caller: &Caller) -> Decision {
        self.by_uri(template, template_fault(template), caller)
    }

    /// Whether every prompt that the server may have is in the caller's list.
    pub fn shows_every_prompt(&self, caller: &Caller) -> bool {
        self.shows_everything(&self.program.prompts, caller)
    }

    /// Whether every resource that the server may have is in the caller's list.
    pub fn shows_every_resource(&self, caller: &Caller) -> bool {
        self.shows_everything(&self.program.resources, caller)
    }

    fn shows_everything(&self, rules: &[NameRule], caller: &Caller) -> bool {
        let program = &*self.program;
        let mut shown = false;
        for rule in rules
            .iter()
            .filter(|rule| !rule.audit && rule.callers.matches(&caller.grant))
        {
            match outcome_of(rule.action) {
                Outcome::Hide => return program.audit,
                Outcome::Allow => {
                    let names = &rule.names;
                    shown |= names.except.is_empty() && names.any_of.iter().any(Glob::is_any);
                }
                _ => {}
            }
        }
        program.audit || shown && program.closed.is_none()
    }

    fn by_name(
        &self,
        rules: &[NameRule],
        matches: impl Fn(&NameRule) -> bool,
        caller: &Caller,
    ) -> Decision {
        let program = &*self.program;
        if let Some(closed) = &program.closed {
            let decision = denied(closed);
            return if program.audit {
                forwarded(decision)
            } else {
                decision
            };
        }
        let (mut enforced, mut both) = (Side::default(), Side::default());
        for rule in rules
            .iter()
            .filter(|rule| matches(rule) && rule.callers.matches(&caller.grant))
        {
            let outcome = outcome_of(rule.action);
            both.record(outcome, &rule.id, rule.reason.as_ref());
            if !rule.audit {
                enforced.record(outcome, &rule.id, rule.reason.as_ref());
            }
        }
        // What no rule of any policy matches is hidden, whatever the default for tools.
        let hide = |by: &Arc<RuleId>| DefaultRule {
            action: DefaultAction::Hide,
            by: Arc::clone(by),
        };
        let (default, shadow_default) =
            (hide(&program.default.by), hide(&program.shadow_default.by));
        let found = enforced.finish(&default);
        let mut decision = plain(found.outcome, found.by, found.reason);
        let found = both.finish(&shadow_default);
        if found.outcome.strictness() > decision.outcome.strictness() {
            decision.shadow = Some(Box::new(Shadow {
                outcome: found.outcome,
                by: Arc::clone(found.by),
                reason: found.reason,
            }));
        }
        if program.audit {
            forwarded(decision)
        } else {
            decision
        }
    }
}

/// Whether a rule is for a URI, however much of its query the server reads: what restricts is for
/// all that it may be read as, what allows is for nothing that it may be read as and that is
/// excepted.
fn may_name(rule: &NameRule, uri: &str) -> bool {
    let whole = rule.names.matches(uri);
    let Some((before, query)) = uri.split_once('?') else {
        return whole;
    };
    match rule.action {
        Action::Allow => {
            let mut except = rule.names.except.iter();
            whole
                && !except.any(|glob| glob.matches(before))
                && !rule.except_queries.match_some(before, query)
        }
        _ => whole || rule.names.matches(before) || rule.queries.match_some(before, query),
    }
}

fn listed(decision: &Decision, program: &Program) -> bool {
    program.audit
        || (program.closed.is_none()
            && decision.outcome.strictness() < Outcome::Hide.strictness()
            && decision.outcome != Outcome::BadArguments)
}
