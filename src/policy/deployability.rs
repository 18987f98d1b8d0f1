//! Checks beyond the compiler's: whether a server can enforce a policy, and whether a bundle can be
//! stored.
//!
//! In: a server's spec, a policy's spec, a [`Bundle`]. Out: the part that does not fit, and what to
//! change. Pure.

use std::time::Duration;

use super::bundle::Bundle;
use crate::api::Risk;
use crate::api::policy::McpPolicySpec;
use crate::api::server::{Catalog, Counters, McpServerSpec};
use crate::catalog;

/// A ConfigMap takes 1 MiB with all that is in it (`MaxSecretSize` of the API server); the rest is
/// for its metadata.
pub const MAX_BUNDLE_BYTES: usize = 1_000_000;
/// A limit over a longer window must survive the gateway's pod.
const LONGEST_LOCAL: Duration = Duration::from_secs(3_600);

/// Whether a server's limits are counted outside its gateways.
fn is_shared(server: &McpServerSpec) -> bool {
    server.redis().is_some()
}

/// The claim on which the only gateway of a server counts.
pub fn claim(server: &McpServerSpec) -> Option<&str> {
    server.counters.as_ref().and_then(Counters::claim)
}

/// Whether a policy's limits are counted by the server's gateway, which then must be the only one.
pub fn counts_alone(server: &McpServerSpec, policy: &McpPolicySpec) -> bool {
    !is_shared(server) && policy.rules.iter().any(|rule| !rule.limits.is_empty())
}

/// Whether the gateways of a server in a cluster can enforce a policy's limits.
///
/// # Errors
/// The first limit that they cannot enforce, and what to change.
pub fn limits(server: &McpServerSpec, policy: &McpPolicySpec) -> Result<(), String> {
    if is_shared(server) {
        return Ok(());
    }
    let gateway = server.gateway();
    let several = if gateway.autoscaling.is_some() {
        Some("an autoscaler".to_owned())
    } else {
        (gateway.replicas() > 1).then(|| format!("{} replicas", gateway.replicas()))
    };
    let limits = policy
        .rules
        .iter()
        .flat_map(|rule| rule.limits.iter().map(move |limit| (rule, limit)));
    for (rule, limit) in limits {
        let (rule, counter) = (&rule.name, &limit.counter);
        if let Some(several) = &several {
            return Err(format!(
                "Rule {rule} has the limit {counter}, and the server's gateway has {several}: each replica would admit that \
                 many calls. Write counters.redis, run one replica without an autoscaler, or remove the limit."
            ));
        }
        let window = limit.window.parse().unwrap_or(Duration::MAX);
        if window > LONGEST_LOCAL && claim(server).is_none() {
            return Err(format!(
                "Rule {rule} has the limit {counter} over {}: a gateway's pod that is deleted forgets what it has \
                 counted. Write counters.local.persistentVolumeClaim or counters.redis, or a window of at most 1h.",
                limit.window
            ));
        }
    }
    Ok(())
}

/// Whether what the rules of a policy observe at a server only reads.
///
/// # Errors
/// The first rule that observes something else, and what to change.
pub fn observations(server: &McpServerSpec, policy: &McpPolicySpec) -> Result<(), String> {
    for rule in &policy.rules {
        let observe = rule
            .approval
            .as_ref()
            .and_then(|approval| approval.observe.as_ref());
        let Some(tool) = observe.map(|observe| observe.tool.as_str()) else {
            continue;
        };
        let stated = server.tools.iter().find(|stated| stated.name == tool);
        let risk = stated.and_then(|stated| stated.risk).or_else(|| {
            let known = catalog::lookup(tool).filter(|_| server.catalog() == Catalog::MLflow);
            known.map(|entry| entry.risk).max()
        });
        match risk {
            Some(Risk::Read) => {}
            Some(other) => {
                return Err(format!(
                    "Rule {} observes {tool}, whose risk is {other}, and only a tool that reads may be called before anybody has \
                     approved: name a tool with the risk Read in approval.observe.",
                    rule.name
                ));
            }
            None => {
                return Err(format!(
                    "Rule {} observes {tool}, which is not in the catalogue: if it only reads, write `- {{ name: {tool}, risk: Read }}` \
                     into spec.tools of the McpServer.",
                    rule.name
                ));
            }
        }
    }
    Ok(())
}

/// Bytes of a bundle as it is stored.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn size(bundle: &Bundle) -> Result<usize, serde_json::Error> {
    serde_json::to_string(bundle).map(|text| text.len())
}
