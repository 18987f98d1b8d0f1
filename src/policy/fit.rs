//! Whether a server and its policies can be carried out together, beside what the compiler says of them.
//!
//! In: a [`Bundle`]. Out: what does not fit, and what to do. Pure.

use std::time::Duration;

use super::bundle::Bundle;

/// A ConfigMap takes 1 MiB with all that is in it (`MaxSecretSize` of the API server); something is left for its metadata.
pub const LARGEST_BUNDLE: usize = 1_000_000;
/// A limit over a longer window must survive a restart of the gateway.
const LONGEST_LOCAL: Duration = Duration::from_secs(3_600);

/// Whether the bundle has limits that are counted in the gateway's memory.
///
/// # Errors
/// Where that cannot keep them: which limit, and what to do.
pub fn counted_alone(bundle: &Bundle) -> Result<bool, String> {
    let spec = &bundle.server.spec;
    let gateway = spec.gateway();
    let shared = spec
        .counters
        .as_ref()
        .is_some_and(|counters| counters.redis.is_some());
    let mut limits = bundle.policies.iter().flat_map(|policy| {
        policy
            .spec
            .rules
            .iter()
            .flat_map(move |rule| rule.limits.iter().map(move |limit| (policy, rule, limit)))
    });
    if shared {
        return Ok(false);
    }
    let mut any = false;
    for (policy, rule, limit) in limits.by_ref() {
        any = true;
        let at = format!(
            "Rule {} of policy {}/{} has the limit {}",
            rule.name, policy.namespace, policy.name, limit.counter
        );
        let several = if gateway.autoscaling.is_some() {
            Some("an autoscaler".to_owned())
        } else {
            (gateway.replicas() > 1).then(|| format!("{} replicas", gateway.replicas()))
        };
        if let Some(several) = several {
            return Err(format!(
                "{at}, and the gateway has {several}: each replica would admit that many. Write counters.redis, or run one replica."
            ));
        }
        let window = limit.window.parse().unwrap_or(Duration::MAX);
        if window > LONGEST_LOCAL {
            return Err(format!(
                "{at} over {}: counted in the gateway's memory, a window over 1h would not survive a restart. Write counters.redis, or a shorter window.",
                limit.window
            ));
        }
    }
    Ok(any)
}

/// Whether the bundle fits into a ConfigMap.
///
/// # Errors
/// Its size and its largest policy.
pub fn size(bundle: &Bundle) -> Result<(), String> {
    let text = serde_json::to_string(bundle).map_err(|error| error.to_string())?;
    if text.len() > LARGEST_BUNDLE {
        return Err(too_large(text.len(), largest(bundle).unwrap_or_default()));
    }
    Ok(())
}

/// The largest policy of a bundle: its size, namespace and name.
fn largest(bundle: &Bundle) -> Option<(usize, &str, &str)> {
    let sized = bundle.policies.iter().map(|policy| {
        let size = serde_json::to_string(policy).map_or(0, |text| text.len());
        (size, policy.namespace.as_str(), policy.name.as_str())
    });
    sized.max_by_key(|(size, ..)| *size)
}

/// Says that a server and its policies have that size, and which policy is the largest: its size, namespace and name.
pub fn too_large(size: usize, (largest, namespace, name): (usize, &str, &str)) -> String {
    let named = if name.is_empty() {
        String::new()
    } else {
        format!(" The largest policy is {namespace}/{name} with {largest} bytes.")
    };
    format!(
        "The server and its policies are {size} bytes together, and {LARGEST_BUNDLE} fit into one bundle.{named} Split the server, or shorten policies."
    )
}
