//! What the rules of a server say, in one digest.
//!
//! In: what a bundle holds. Out: the same digest for the same server and policies, wherever they
//! are enforced and however often they were changed and changed back: a line of a log leads to the
//! files that decided it. Must not do: depend on UIDs, generations, keys, the order of policies, or
//! on whether a default is written out, as an API server does.

use super::canonical;
use serde_json::{Value, json};

/// Fields whose default an API server writes into the object, and that default. A test compares
/// this list with the schemas.
pub const DEFAULTS_OF_SERVER: [(&str, &str); 20] = [
    ("audit.arguments", "\"Keys\""),
    ("audit.onFailure", "\"Deny\""),
    ("authentication.anonymous", "\"Deny\""),
    ("catalog", "\"MLflow\""),
    ("clientFeatures.elicitation", "\"Deny\""),
    ("clientFeatures.roots", "\"Deny\""),
    ("clientFeatures.sampling", "\"Deny\""),
    ("counters.redis.onUnavailable", "\"Deny\""),
    ("enforcement", "\"Enforce\""),
    ("gateway.autoscaling.maxReplicas", "8"),
    ("gateway.autoscaling.minReplicas", "2"),
    ("gateway.autoscaling.targetCPUUtilizationPercentage", "70"),
    ("gateway.networkPolicy.enabled", "true"),
    ("gateway.port", "8080"),
    ("gateway.service.type", "\"ClusterIP\""),
    ("upstream.maxRequestBytes", "\"4Mi\""),
    ("upstream.stdio.runAsUser", "65532"),
    ("upstream.stdio.sessionIdleTimeout", "\"30m\""),
    ("upstream.stdio.sessions", "\"Shared\""),
    ("upstream.timeout", "\"60s\""),
];
/// The same of policies.
pub const DEFAULTS_OF_POLICY: [(&str, &str); 1] = [("mode", "\"Enforce\"")];

/// The namespace, the name and the spec of an object.
pub(super) type Named<'a> = (&'a str, &'a str, Value);

/// The digest, in hexadecimal: of a server, the policies over it, and the names of those that were
/// never accepted.
pub(super) fn digest<'a>(
    server: Named<'_>,
    policies: impl Iterator<Item = Named<'a>>,
    blocked: &[&str],
) -> String {
    let plain = |spec: Value, defaults: &[(&str, &str)]| {
        let mut spec = spec;
        for (path, default) in defaults {
            leave_out(&mut spec, path, default);
        }
        // The only object that is itself a default.
        if let Some(members) = spec.as_object_mut()
            && members.get("gateway") == Some(&json!({}))
        {
            members.remove("gateway");
        }
        spec
    };
    let object = |(namespace, name, spec): Named<'_>, defaults| json!({"namespace": namespace, "name": name, "spec": plain(spec, defaults)});
    let policies: Vec<Value> = policies
        .map(|policy| object(policy, &DEFAULTS_OF_POLICY[..]))
        .collect();
    let content = json!({
        "server": object(server, &DEFAULTS_OF_SERVER[..]),
        "policies": policies,
        "blocked": blocked,
    });
    hex::encode(canonical::sha256(canonical::plain(&content).as_bytes()))
}

/// Removes a field that says what it would say anyway.
fn leave_out(value: &mut Value, path: &str, default: &str) {
    let Some(members) = value.as_object_mut() else {
        return;
    };
    match path.split_once('.') {
        Some((first, rest)) => {
            if let Some(below) = members.get_mut(first) {
                leave_out(below, rest, default);
            }
        }
        None => {
            if members
                .get(path)
                .is_some_and(|value| serde_json::to_string(value).is_ok_and(|text| text == default))
            {
                members.remove(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::tests::bundle;

    const RULES: &str = "rules: [{name: reads, tools: {risks: [Read]}, action: Allow}]";

    #[test]
    fn what_is_said_has_one_digest_however_it_came_about() {
        let first = bundle("", &[("p", RULES), ("q", RULES)]);
        let digest = first.rules_revision();
        let mut later = first.clone();
        later.sequence = 9;
        later.server.uid = "another".to_owned();
        later.report_token_sha256 = Some("a".repeat(64));
        for policy in &mut later.policies {
            policy.uid = "another".to_owned();
            policy.generation += 2;
        }
        assert_eq!(later.sealed().unwrap().rules_revision(), digest);
        // As an API server would fill them in.
        let filled = bundle(
            "upstream: {}\ncatalog: MLflow\nenforcement: Enforce\ngateway: {}",
            &[("p", &format!("mode: Enforce\n{RULES}")), ("q", RULES)],
        );
        assert_eq!(filled.rules_revision(), digest);
    }

    #[test]
    fn what_is_said_otherwise_has_another() {
        let digest = bundle("", &[("p", RULES)]).rules_revision();
        for (server, policies) in [
            (
                "",
                vec![(
                    "p",
                    "rules: [{name: reads, tools: {risks: [Read]}, action: Deny}]",
                )],
            ),
            ("", vec![("q", RULES)]),
            ("", vec![("p", RULES), ("q", RULES)]),
            ("upstream: {}\nenforcement: Audit", vec![("p", RULES)]),
            ("upstream: {}\ngateway: {port: 8081}", vec![("p", RULES)]),
        ] {
            assert_ne!(
                bundle(server, &policies).rules_revision(),
                digest,
                "{server} {policies:?}"
            );
        }
        let audit = bundle("", &[("p", &format!("mode: Audit\n{RULES}"))]);
        assert_ne!(audit.rules_revision(), digest);
    }
}
