//! Selects the policies of a server, and builds its bundle.
//!
//! In: servers and policies as objects. Out: a [`Bundle`] for each server. Must not do: check the
//! policies; its input is the last accepted version of each.

use super::bundle::{Blocked, Bundle, BundleError, BundlePolicy, BundleServer, FORMAT};
use crate::api::policy::McpPolicy;
use crate::api::server::McpServer;
use kube::core::ObjectMeta;
use std::collections::BTreeMap;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// The label that the API server puts on every namespace (Kubernetes, "Well-Known Labels").
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Whether a policy applies to a server, of which only the metadata matters.
///
/// By name or label within one namespace; a policy in the operator's own namespace is a guardrail,
/// and its `targetSelector` reaches every namespace that its `namespaceSelector` selects.
/// `namespace` is the labels of the server's namespace; None if they are not known, which is good
/// enough for policies that need none of them ([`needs_namespace_labels`]).
pub fn targets(
    policy: &McpPolicy,
    server: &ObjectMeta,
    namespace: Option<&Labels>,
    operator_namespace: &str,
) -> bool {
    let (policy_namespace, server_namespace) =
        (namespace_of(&policy.metadata), namespace_of(server));
    let name = server.name.as_deref().unwrap_or_default();
    let same = policy_namespace == server_namespace;
    let named = same
        && policy
            .spec
            .target_refs
            .iter()
            .any(|target| target.name == name);
    let has = |labels: Option<&Labels>, (key, value): (&String, &String)| {
        labels.and_then(|labels| labels.get(key)) == Some(value)
    };
    let selector = policy.spec.target_selector.as_ref();
    let selected = (same || policy_namespace == operator_namespace)
        && selector.is_some_and(|selector| {
            let mut wanted = selector.match_labels.iter();
            wanted.all(|label| has(server.labels.as_ref(), label))
        });
    let within = || {
        let selector = policy.spec.namespace_selector.as_ref();
        selector.is_none_or(|selector| {
            selector.match_labels.iter().all(|label| match label {
                (key, name) if key == NAMESPACE_NAME => name == server_namespace,
                label => has(namespace, label),
            })
        })
    };
    named || selected && within()
}

/// Whether other labels of namespaces matter to a policy than their names.
pub fn needs_namespace_labels(policy: &McpPolicy) -> bool {
    let selector = policy.spec.namespace_selector.as_ref();
    selector.is_some_and(|selector| {
        let mut keys = selector.match_labels.keys();
        keys.any(|key| key != NAMESPACE_NAME)
    })
}

/// The bundle of one server under those accepted policies; `blocked` are those that target it and
/// were never accepted.
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
            namespace: namespace_of(&policy.metadata).to_owned(),
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
            namespace: namespace_of(&server.metadata).to_owned(),
            name: server.metadata.name.clone().unwrap_or_default(),
            uid: server.metadata.uid.clone().unwrap_or_default(),
            spec: server.spec.clone(),
        },
        policies,
        blocked,
        issuers: Vec::new(),
        signature: None,
        report_token_sha256: None,
        rules: String::new(),
    };
    bundle.sealed()
}

fn namespace_of(metadata: &ObjectMeta) -> &str {
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
            let policy = policy(namespace, target.clone());
            targets(&policy, &server.metadata, None, "portcullis-system")
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
    fn a_guardrail_reaches_the_namespaces_that_it_selects() {
        let of = |labels: serde_json::Value| {
            let selector = json!({"matchLabels": labels});
            policy(
                "portcullis-system",
                json!({"targetSelector": {}, "namespaceSelector": selector}),
            )
        };
        let mlflow = server("ml", "mlflow", "ml");
        let labels = |value: &str| Labels::from([("tier".to_owned(), value.to_owned())]);
        let reaches = |policy: &McpPolicy, namespace: Option<&Labels>| {
            targets(policy, &mlflow.metadata, namespace, "portcullis-system")
        };
        let production = of(json!({"tier": "production"}));
        assert!(reaches(&production, Some(&labels("production"))));
        assert!(!reaches(&production, Some(&labels("test"))));
        assert!(!reaches(&production, None));
        assert!(needs_namespace_labels(&production));
        // A namespace cannot have another name by its labels.
        let named = of(json!({"kubernetes.io/metadata.name": "ml"}));
        assert!(reaches(&named, None) && !needs_namespace_labels(&named));
        let other = of(json!({"kubernetes.io/metadata.name": "ops"}));
        let lie = Labels::from([("kubernetes.io/metadata.name".to_owned(), "ops".to_owned())]);
        assert!(!reaches(&other, Some(&lie)));
        let all = of(json!({}));
        assert!(reaches(&all, None) && !needs_namespace_labels(&all));
        // It narrows a policy of the server's own namespace likewise.
        let mut own = production;
        own.metadata.namespace = Some("ml".to_owned());
        assert!(!reaches(&own, Some(&labels("test"))));
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
