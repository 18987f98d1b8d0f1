//! Whether a server can be carried out, and the bundle that follows.
//!
//! In: what was fetched, and the bundle that is stored. Out: a [`Verdict`]: a plan, or why there is
//! none and what stays in force then. Pure. Must not do: half-accept anything.

use super::fetch::{Refs, Targeting};
use crate::api::condition::Reason;
use crate::api::server::McpServer;
use crate::controller::key::OperatorKey;
use crate::policy::acceptance::{self, Asked, Candidate, Place, Settled, Unfit};
use crate::policy::bundle::{Blocked, Bundle, BundleIssuer, BundlePolicy};
use crate::status::server::Refusal;

/// What was decided about a server.
pub struct Verdict {
    pub plan: Result<Plan, Refusal>,
    /// The current policies on the server as it was accepted last, if that was another: in force
    /// until the API server has taken all that the plan leads to, or for as long as there is no
    /// plan.
    pub held: Option<Bundle>,
}

/// What is to be carried out.
pub struct Plan {
    pub server: McpServer,
    /// What should be in force; its sequence is given when it is written.
    pub bundle: Bundle,
    /// Limits are counted in the gateway's memory.
    pub alone: bool,
}

/// Judges a server under its policies. `stored` is the bundle that its gateways have now.
pub fn validate(
    refs: &Refs,
    stored: Option<&Bundle>,
    key: &OperatorKey,
    compiled: &mut acceptance::Memory,
) -> Verdict {
    let plan = plan(refs, stored, key, compiled);
    let is_another = match (&plan, stored) {
        (Ok(plan), Some(stored)) => stored.server.spec != plan.server.spec,
        (Err(_), Some(_)) => true,
        (_, None) => false,
    };
    let held = match is_another {
        true => held(refs, stored, key, compiled),
        false => None,
    };
    Verdict { plan, held }
}

fn plan(
    refs: &Refs,
    stored: Option<&Bundle>,
    key: &OperatorKey,
    compiled: &mut acceptance::Memory,
) -> Result<Plan, Refusal> {
    let refused = |reason: Reason, message: String| Refusal { reason, message };
    let server = refs.server.clone().map_err(|error| {
        refused(
            Reason::Invalid,
            format!("Not an McpServer that this release understands: {error}"),
        )
    })?;
    let Settled { bundle, alone } = settled(refs, &server, stored, key, compiled)?;
    Ok(Plan {
        server,
        bundle,
        alone,
    })
}

/// What should be in force while the server cannot be accepted: the server as it was accepted last,
/// under the current policies: no caller escapes a policy because a server is refused. None if no
/// server was ever accepted.
fn held(
    refs: &Refs,
    stored: Option<&Bundle>,
    key: &OperatorKey,
    compiled: &mut acceptance::Memory,
) -> Option<Bundle> {
    let server = McpServer {
        metadata: refs.object.metadata().clone(),
        spec: stored?.server.spec.clone(),
        status: None,
    };
    let settled = settled(refs, &server, stored, key, compiled).ok()?;
    Some(settled.bundle)
}

/// The server under its policies. Of one that is not accepted anywhere the form in the stored
/// bundle stays; one that would enforce and was never accepted blocks everything, as what it would
/// have said is unknown.
fn settled(
    refs: &Refs,
    server: &McpServer,
    stored: Option<&Bundle>,
    key: &OperatorKey,
    compiled: &mut acceptance::Memory,
) -> Result<Settled, Refusal> {
    let (mut candidates, mut blocked) = (Vec::new(), Vec::new());
    for targeting in &refs.policies {
        if targeting.errors.is_empty() {
            candidates.push(Candidate::of(&targeting.policy, targeting.size, stored));
        } else if let Some(entry) = stored.and_then(|stored| last_accepted(stored, targeting)) {
            // Even if what is wrong with it now targets something else: what was accepted did
            // target this.
            candidates.push(Candidate {
                leaving: targeting.policy.metadata.deletion_timestamp.is_some(),
                ..Candidate::again(entry)
            });
        } else if targeting.now && targeting.enforces() {
            blocked.push(block(targeting));
        }
    }
    let asked = Asked {
        server,
        candidates,
        blocked,
        issuers: issuers(refs, server, stored),
        report_token_sha256: Some(key.bearer_sha256(&refs.ident.uid)),
        place: Place::Cluster,
    };
    acceptance::settle(asked, compiled)
        .map_err(|Unfit { reason, message }| Refusal { reason, message })
}

/// The issuers whose keys the gateway needs. While the API server does not say its own, those of
/// the stored bundle stay.
fn issuers(refs: &Refs, server: &McpServer, stored: Option<&Bundle>) -> Vec<BundleIssuer> {
    let authentication = server.spec.authentication.as_ref();
    if authentication.is_none_or(|authentication| authentication.service_accounts.is_none()) {
        return Vec::new();
    }
    match &refs.issuer {
        Some(issuer) => vec![issuer.clone()],
        None => stored.map_or_else(Vec::new, |stored| stored.issuers.clone()),
    }
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
        // Agents read this: not more than the first.
        message: first
            .map(|finding| finding.message.clone())
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests;
