//! Which policies a server is under, and the bundle that follows.
//!
//! In: servers and policies as objects. Out: a [`Bundle`] for each server. Must not do: judge the policies; it is given those
//! that were accepted, in their last accepted form.

use super::bundle::{Blocked, Bundle, BundleError, BundlePolicy, BundleServer, FORMAT};
use crate::api::policy::McpPolicy;
use crate::api::server::McpServer;
use kube::core::ObjectMeta;

/// Whether a policy applies to a server.
///
/// By name or label within one namespace; a policy in the operator's own namespace is a guardrail, and its `targetSelector`
/// reaches every namespace.
pub fn targets(policy: &McpPolicy, server: &McpServer, operator_namespace: &str) -> bool {
    targets_metadata(policy, &server.metadata, operator_namespace)
}

/// As [`targets`], for a server of which only the metadata is known.
pub fn targets_metadata(policy: &McpPolicy, server: &ObjectMeta, operator_namespace: &str) -> bool {
    let (policy_namespace, server_namespace) = (namespace(&policy.metadata), namespace(server));
    let name = server.name.as_deref().unwrap_or_default();
    let same = policy_namespace == server_namespace;
    let named = same
        && policy
            .spec
            .target_refs
            .iter()
            .any(|target| target.name == name);
    let selected = (same || policy_namespace == operator_namespace)
        && policy
            .spec
            .target_selector
            .as_ref()
            .is_some_and(|selector| {
                let labels = server.labels.as_ref();
                selector
                    .match_labels
                    .iter()
                    .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
            });
    named || selected
}

/// The bundle of one server under those accepted policies; `blocked` are those that target it and were never accepted.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn bundle<'a>(
    server: &McpServer,
    accepted: impl IntoIterator<Item = &'a McpPolicy>,
    blocked: Vec<Blocked>,
    sequence: u64,
) -> Result<Bundle, BundleError> {
    let mut policies: Vec<BundlePolicy> = accepted
        .into_iter()
        .map(|policy| BundlePolicy {
            namespace: namespace(&policy.metadata).to_owned(),
            name: policy.metadata.name.clone().unwrap_or_default(),
            uid: policy.metadata.uid.clone().unwrap_or_default(),
            generation: policy.metadata.generation.unwrap_or(1),
            spec: policy.spec.clone(),
            not_accepted: None,
        })
        .collect();
    // One order, so that the same policies always have the same revision.
    policies.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let bundle = Bundle {
        format: FORMAT,
        sequence,
        revision: String::new(),
        server: BundleServer {
            namespace: namespace(&server.metadata).to_owned(),
            name: server.metadata.name.clone().unwrap_or_default(),
            uid: server.metadata.uid.clone().unwrap_or_default(),
            spec: server.spec.clone(),
        },
        policies,
        blocked,
        issuers: Vec::new(),
        signature: None,
        report_token_sha256: None,
    };
    bundle.sealed()
}

fn namespace(metadata: &ObjectMeta) -> &str {
    metadata.namespace.as_deref().unwrap_or("default")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn server(namespace: &str, name: &str, team: &str) -> McpServer {
        serde_json::from_value(json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
            "metadata": {"namespace": namespace, "name": name, "labels": {"team": team}},
            "spec": {"upstream": {"http": {"url": "http://mlflow/mcp"}}},
        }))
        .unwrap()
    }

    fn policy(namespace: &str, target: serde_json::Value) -> McpPolicy {
        serde_json::from_value(json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpPolicy",
            "metadata": {"namespace": namespace, "name": "p"}, "spec": target,
        }))
        .unwrap()
    }

    #[test]
    fn a_policy_reaches_its_own_namespace_and_a_guardrail_reaches_all() {
        let by_name = json!({"targetRefs": [{"group": "portcullis.dev", "kind": "McpServer", "name": "mlflow"}]});
        let by_label = json!({"targetSelector": {"matchLabels": {"team": "ml"}}});
        let everything = json!({"targetSelector": {}});
        let mlflow = server("ml", "mlflow", "ml");
        let reaches = |namespace: &str, target: &serde_json::Value, server: &McpServer| {
            targets(
                &policy(namespace, target.clone()),
                server,
                "portcullis-system",
            )
        };
        assert!(reaches("ml", &by_name, &mlflow));
        assert!(reaches("ml", &by_label, &mlflow));
        assert!(!reaches("ml", &by_name, &server("ml", "other", "ml")));
        assert!(!reaches("ml", &by_label, &server("ml", "mlflow", "ops")));
        assert!(!reaches("ops", &by_name, &mlflow));
        assert!(!reaches("ops", &everything, &mlflow));
        assert!(reaches("portcullis-system", &everything, &mlflow));
        assert!(reaches("portcullis-system", &by_label, &mlflow));
        assert!(!reaches("portcullis-system", &by_name, &mlflow));
    }

    #[test]
    fn the_revision_depends_on_what_is_said_and_not_on_order_or_sequence() {
        let server = server("ml", "mlflow", "ml");
        let a = policy("ml", json!({"targetSelector": {}}));
        let mut b = a.clone();
        b.metadata.name = Some("q".to_owned());
        let one = bundle(&server, [&a, &b], Vec::new(), 1).unwrap();
        let two = bundle(&server, [&b, &a], Vec::new(), 2).unwrap();
        assert_eq!(one.revision, two.revision);
        assert_ne!(
            one.revision,
            bundle(&server, [&a], Vec::new(), 1).unwrap().revision
        );
    }
}
