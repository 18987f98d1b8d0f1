//! Whether a server can be carried out, and the bundle that follows.
//!
//! In: what was fetched, and the bundle that is stored. Out: a [`Plan`], or why there is none; what is in force then stays.
//! Pure. Must not do: half-accept anything.

use super::fetch::{Refs, Targeting};
use crate::api::condition::Reason;
use crate::api::policy::McpPolicy;
use crate::api::server::McpServer;
use crate::controller::key::OperatorKey;
use crate::policy::bundle::{Blocked, Bundle, BundlePolicy};
use crate::policy::compile::{self, compile};
use crate::policy::diagnostic::Diagnostic;
use crate::policy::fit::{self, LARGEST_BUNDLE};
use crate::policy::target;
use crate::status::server::Refusal;

/// What is to be brought about.
pub struct Plan {
    pub server: McpServer,
    /// What should be in force; its sequence is given when it is written.
    pub bundle: Bundle,
    /// The same policies on the server as it was accepted last, if that was another: in force until the API server has taken all
    /// that the server leads to now.
    pub held: Option<Bundle>,
    /// Limits are counted in the gateway's memory.
    pub alone: bool,
}

/// Bundles of one server whose verdicts are remembered: each reconciliation judges five at most, the same each time.
const REMEMBERED: usize = 5;

/// What the compiler said of a server's last bundles, by their revisions: the same is not compiled again at each
/// reconciliation. Newest last.
#[derive(Debug, Default)]
pub struct Compiled(Vec<(String, Result<(), String>)>);

impl Compiled {
    fn of(&mut self, bundle: &Bundle) -> Result<(), String> {
        let known = self.0.iter().position(|(of, _)| *of == bundle.revision);
        let entry = match known {
            Some(at) => self.0.remove(at),
            None => {
                let verdict = compile(bundle)
                    .map(drop)
                    .map_err(|findings| told(&findings));
                (bundle.revision.clone(), verdict)
            }
        };
        let verdict = entry.1.clone();
        if self.0.len() >= REMEMBERED {
            drop(self.0.remove(0));
        }
        self.0.push(entry);
        verdict
    }
}

/// The first of some findings, and how many more there are.
fn told(findings: &[Diagnostic]) -> String {
    let more = match findings.len().saturating_sub(1) {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let first = findings
        .first()
        .map(ToString::to_string)
        .unwrap_or_default();
    format!("{first}{more}")
}

/// Judges a server under its policies. `stored` is the bundle that its gateways have now.
pub fn validate(
    refs: &Refs,
    stored: Option<&Bundle>,
    key: &OperatorKey,
    compiled: &mut Compiled,
) -> Result<Plan, Refusal> {
    let refused = |reason: Reason, message: String| Refusal { reason, message };
    let server = refs.server.clone().map_err(|error| {
        refused(
            Reason::Invalid,
            format!("This is no McpServer that this release understands: {error}"),
        )
    })?;
    if let Some(first) = compile::unsupported(&server.spec).first() {
        return Err(refused(
            Reason::Unsupported,
            format!("{}: {}", first.path, first.message),
        ));
    }
    let bundle = bundle(refs, &server, stored, |_| true)?;
    let (bundle, alone) = judge(bundle, refs, key, compiled)?;
    let held = stored
        .filter(|stored| stored.server.spec != server.spec)
        .and_then(|_| held(refs, stored, key, compiled));
    Ok(Plan {
        server,
        bundle,
        held,
        alone,
    })
}

/// What should be in force while the server cannot be accepted: the server as it was accepted last, under the policies of now.
/// If those are what cannot be accepted, then under those that were, without those that were removed, and with all guardrails
/// of now: nobody escapes a guardrail by a server or a policy that is refused. None if nothing was ever accepted.
pub fn held(
    refs: &Refs,
    stored: Option<&Bundle>,
    key: &OperatorKey,
    compiled: &mut Compiled,
) -> Option<Bundle> {
    let stored = stored?;
    let server = McpServer {
        metadata: refs.object.metadata().clone(),
        spec: stored.server.spec.clone(),
        status: None,
    };
    let is_own = |namespace: Option<&str>| namespace == Some(refs.ident.namespace.as_str());
    let mut fits = |bundle: Bundle| {
        let judged = judge(bundle, refs, key, compiled);
        judged.ok().map(|(bundle, _)| bundle)
    };
    let all = bundle(refs, &server, Some(stored), |_| true).ok();
    if let Some(all) = all.and_then(&mut fits) {
        return Some(all);
    }
    // Policies of the server's own namespace as they were accepted last, of those that are still there.
    let there = |uid: &str| {
        let mut all = refs.policies.iter();
        all.any(|one| one.policy.metadata.uid.as_deref() == Some(uid))
    };
    let own: Vec<BundlePolicy> = stored
        .policies
        .iter()
        .filter(|known| is_own(Some(&known.namespace)) && there(&known.uid))
        .cloned()
        .collect();
    let guardrails = bundle(refs, &server, Some(stored), |targeting| {
        !is_own(targeting.policy.metadata.namespace.as_deref())
    });
    let guardrails = guardrails.ok()?;
    if let Some(held) = fits(with(&guardrails, &own)) {
        return Some(held);
    }
    // A guardrail that cannot be carried out on this server keeps no other one from it.
    let mut kept = Bundle {
        policies: Vec::new(),
        ..guardrails.clone()
    };
    for guardrail in &guardrails.policies {
        let before = stored.policies.iter().find(|one| one.uid == guardrail.uid);
        let forms = [Some(guardrail), before].into_iter().flatten();
        // Not what is remembered of: there may be many.
        let judged = |bundle: Bundle| judge(bundle, refs, key, &mut Compiled::default()).is_ok();
        let fitting = forms
            .map(|form| with(&kept, std::slice::from_ref(form)))
            .find(|bundle| judged(bundle.clone()));
        kept = fitting.unwrap_or(kept);
    }
    if let Some(held) = fits(with(&kept, &own)) {
        return Some(held);
    }
    // Nor do policies of the server's own namespace keep a guardrail from it by their size: without them, it is closed.
    let first = own.first()?;
    kept.blocked.push(Blocked {
        policy: format!("{}/{}", first.namespace, first.name),
        uid: first.uid.clone(),
        message: format!(
            "the policies of namespace {} and the guardrails are too much together",
            first.namespace
        ),
    });
    fits(kept)
}

/// A bundle with more policies, in the order that a bundle has.
fn with(bundle: &Bundle, more: &[BundlePolicy]) -> Bundle {
    let mut bundle = bundle.clone();
    bundle.policies.extend_from_slice(more);
    bundle
        .policies
        .sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    bundle
}

/// Judges what would be delivered; with it, whether its limits are counted in the gateway's memory.
fn judge(
    mut bundle: Bundle,
    refs: &Refs,
    key: &OperatorKey,
    compiled: &mut Compiled,
) -> Result<(Bundle, bool), Refusal> {
    let refused = |reason: Reason, message: String| Refusal { reason, message };
    bundle.report_token_sha256 = Some(key.bearer_sha256(&refs.ident.uid));
    bundle.sequence = 0;
    let bundle = bundle
        .sealed()
        .map_err(|error| refused(Reason::Invalid, error.to_string()))?;
    compiled
        .of(&bundle)
        .map_err(|message| refused(Reason::Invalid, message))?;
    let alone = fit::counted_alone(&bundle)
        .map_err(|message| refused(Reason::SharedCountersNeeded, message))?;
    fit::size(&bundle).map_err(|message| refused(Reason::BundleTooLarge, message))?;
    Ok((bundle, alone))
}

/// The server under its accepted policies that are wanted; those that block do so wanted or not. Of one that is not accepted the form in the stored bundle stays; one that would
/// enforce and was never accepted blocks everything, as what it would have said is unknown.
fn bundle(
    refs: &Refs,
    server: &McpServer,
    stored: Option<&Bundle>,
    wanted: impl Fn(&Targeting) -> bool,
) -> Result<Bundle, Refusal> {
    let refused = |reason: Reason, message: String| Refusal { reason, message };
    let (mut accepted, mut carried, mut blocked) =
        (Vec::<&McpPolicy>::new(), Vec::new(), Vec::new());
    let (mut size, mut largest) = (0_usize, None::<&Targeting>);
    for targeting in &refs.policies {
        let left_out = !wanted(targeting);
        if targeting.errors.is_empty() {
            if left_out {
                continue;
            }
            accepted.push(&targeting.policy);
            size = size.saturating_add(targeting.size);
            largest = largest
                .filter(|before| before.size >= targeting.size)
                .or(Some(targeting));
        } else if let Some(entry) = stored.and_then(|stored| last_accepted(stored, targeting)) {
            // Even if what is wrong with it now targets something else: what was accepted did target this.
            if !left_out {
                carried.push(entry.clone());
            }
        } else if targeting.now && targeting.enforces() {
            blocked.push(block(targeting));
        }
    }
    // Before anything is copied: a hundred such policies must not cost a hundred times their size.
    if let (true, Some(largest)) = (size > LARGEST_BUNDLE, largest) {
        let metadata = &largest.policy.metadata;
        let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
        let largest = (
            largest.size,
            namespace.unwrap_or_default(),
            name.unwrap_or_default(),
        );
        return Err(refused(
            Reason::BundleTooLarge,
            fit::too_large(size, largest),
        ));
    }
    let bundle = target::bundle(server, accepted, blocked, 0)
        .map_err(|error| refused(Reason::Invalid, error.to_string()))?;
    Ok(with(&bundle, &carried))
}

fn last_accepted<'a>(stored: &'a Bundle, targeting: &Targeting) -> Option<&'a BundlePolicy> {
    let uid = targeting.policy.metadata.uid.as_deref()?;
    stored.policies.iter().find(|entry| entry.uid == uid)
}

fn block(targeting: &Targeting) -> Blocked {
    let metadata = &targeting.policy.metadata;
    let first = targeting.errors.first();
    Blocked {
        policy: format!(
            "{}/{}",
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.name.as_deref().unwrap_or_default()
        ),
        uid: metadata.uid.clone().unwrap_or_default(),
        // Agents are told this: not more than the first.
        message: first
            .map(|finding| finding.message.clone())
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
