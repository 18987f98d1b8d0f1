//! Fields that nobody declared: kept where a misspelt one could loosen a rule, dropped everywhere
//! else.

use std::collections::BTreeSet;

use kube::api::PostParams;
use serde_json::{Value, json};

use super::objects::{all, is_core};
use super::{api, object};
use crate::support::Cluster;

const MISSPELT: &str = "misspelt";

/// Adds an undeclared field to every object of a document that the schema declares, and tells
/// where.
fn misspell(schema: &Value, value: &mut Value, path: &str, at: &mut BTreeSet<String>) {
    if is_core(&format!("{path}.")) {
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                misspell(
                    &schema["properties"][name],
                    value,
                    &format!("{path}.{name}"),
                    at,
                );
            }
            if schema["properties"].is_object() {
                fields.insert(MISSPELT.to_owned(), json!({"deep": {"er": [1]}}));
                at.insert(path.to_owned());
            }
        }
        Value::Array(items) => {
            for value in items {
                misspell(&schema["items"], value, &format!("{path}[]"), at);
            }
        }
        _ => {}
    }
}

/// Where such a field is still there, whole.
fn kept(value: &Value, path: &str, at: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == MISSPELT {
                    assert_eq!(value, &json!({"deep": {"er": [1]}}), "{path}");
                    at.insert(path.to_owned());
                } else {
                    kept(value, &format!("{path}.{name}"), at);
                }
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|value| kept(value, &format!("{path}[]"), at)),
        _ => {}
    }
}

#[tokio::test]
async fn unknown_fields_are_kept_where_a_misspelt_one_could_loosen_a_rule_and_dropped_elsewhere() {
    let Some(cluster) = Cluster::get("unknown fields") else {
        return;
    };
    let namespace = cluster.namespace("unknown").await;
    let client = cluster.admin_client();
    let (mut put, mut found) = (BTreeSet::new(), BTreeSet::new());
    for mut document in all() {
        let kind = document["kind"].as_str().unwrap().to_owned();
        let schema = super::schema(&kind);
        misspell(
            &schema["properties"]["spec"],
            &mut document["spec"],
            &format!("{kind}.spec"),
            &mut put,
        );
        document[MISSPELT] = json!(true);
        let objects = api(&client, &namespace.name, &kind);
        let stored = objects
            .create(&PostParams::default(), &object(&document))
            .await
            .unwrap();
        assert!(stored.data.get(MISSPELT).is_none(), "{kind}");
        kept(&stored.data["spec"], &format!("{kind}.spec"), &mut found);
    }
    let expected = [
        "McpPolicy.spec.namespaceSelector",
        "McpPolicy.spec.prompts[]",
        "McpPolicy.spec.resources[]",
        "McpPolicy.spec.rules[]",
        "McpPolicy.spec.rules[].approval",
        "McpPolicy.spec.rules[].approval.observe",
        "McpPolicy.spec.rules[].limits[]",
        "McpPolicy.spec.rules[].tools",
        "McpPolicy.spec.targetRefs[]",
        "McpPolicy.spec.targetSelector",
        "McpServer.spec.tools[]",
        "McpServer.spec.upstream.http",
        "McpServer.spec.upstream.http.credentials[]",
        "McpServer.spec.upstream.stdio",
        "McpServer.spec.upstream.stdio.credentials[]",
    ];
    assert_eq!(found, expected.map(str::to_owned).into());
    let dropped = [
        "McpServer.spec",
        "McpServer.spec.gateway",
        "McpPolicy.spec",
        "McpApproval.spec",
    ];
    assert!(dropped.iter().all(|path| put.contains(*path)), "{put:?}");
}

#[tokio::test]
async fn an_unknown_field_fails_strict_validation_only_where_it_is_not_kept() {
    let Some(cluster) = Cluster::get("strict validation") else {
        return;
    };
    let namespace = cluster.namespace("strict").await;
    let manifest = |gateway: &str, tool: &str| {
        json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
            "metadata": {"name": "a", "namespace": namespace.name},
            "spec": {"upstream": {"http": {"url": "http://a/mcp"}}, "gateway": {gateway: 1}, "tools": [{"name": "t", tool: []}]}})
    };
    let apply = |document: Value| cluster.kubectl_with(["apply", "-f", "-"], &document.to_string());
    let refused = apply(manifest("replica", "redact")).refused();
    assert!(
        refused.contains(r#"unknown field "spec.gateway.replica""#),
        "{refused}"
    );
    assert_eq!(
        apply(manifest("replicas", "redacts")).ok(),
        "mcpserver.portcullis.dev/a created\n"
    );
}
