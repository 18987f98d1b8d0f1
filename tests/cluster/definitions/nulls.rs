//! A null, an empty map, an empty list or an empty text in the place of each optional field:
//! `validate` and the cluster say the same of it.

use kube::api::PostParams;
use portcullis::api::API_VERSION;
use portcullis::api::loose::Loose;
use portcullis::api::policy::McpPolicy;
use portcullis::api::server::McpServer;
use portcullis::manifest::{self, Object};
use portcullis::policy::compile::{diagnose_policy, diagnose_server};
use portcullis::policy::diagnostic::{Diagnostic, Level};
use serde_json::{Value, json};

use super::objects::{all, is_core};
use super::{api, object};
use crate::support::Cluster;

/// JSON pointers to the optional fields that a document has, Kubernetes' own types left out.
fn optional(schema: &Value, value: &Value, pointer: &str, path: &str, found: &mut Vec<String>) {
    if is_core(&format!("{path}.")) {
        return;
    }
    let required: Vec<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    match value {
        Value::Object(fields) if schema["properties"].is_object() => {
            for (name, value) in fields {
                let (below, path) = (format!("{pointer}/{name}"), format!("{path}.{name}"));
                if !required.contains(&name.as_str()) {
                    found.push(below.clone());
                }
                optional(&schema["properties"][name], value, &below, &path, found);
            }
        }
        Value::Array(items) => {
            for (at, value) in items.iter().enumerate() {
                optional(
                    &schema["items"],
                    value,
                    &format!("{pointer}/{at}"),
                    &format!("{path}[]"),
                    found,
                );
            }
        }
        _ => {}
    }
}

fn wrong(findings: &[Diagnostic]) -> Option<String> {
    findings
        .iter()
        .find(|finding| finding.level == Level::Error)
        .map(ToString::to_string)
}

/// Why `portcullis validate` refuses a document.
fn refused_by_validate(document: &Value) -> Option<String> {
    let manifests = match manifest::parse("f.json", &document.to_string()) {
        Ok(manifests) => manifests,
        Err(errors) => return Some(errors[0].to_string()),
    };
    match &manifests.objects[0].object {
        Object::Policy(policy) => wrong(&diagnose_policy("ml", "p", "ml", &policy.spec)),
        Object::Server(server) => wrong(&diagnose_server(&server.spec)),
        Object::Secret(_) | Object::Namespace(_) => panic!(),
    }
}

/// Why the operator refuses what an API server stored.
fn refused_by_operator(stored: &Value) -> Option<String> {
    let text = stored.to_string();
    if stored["kind"] == "McpPolicy" {
        let policy: Loose<McpPolicy> = serde_json::from_str(&text).unwrap();
        match policy.object() {
            Ok(policy) => wrong(&diagnose_policy("ml", "p", "ml", &policy.spec)),
            Err(undecoded) => Some(undecoded.error.clone()),
        }
    } else {
        let server: Loose<McpServer> = serde_json::from_str(&text).unwrap();
        match server.object() {
            Ok(server) => wrong(&diagnose_server(&server.spec)),
            Err(undecoded) => Some(undecoded.error.clone()),
        }
    }
}

#[tokio::test]
async fn what_validate_refuses_for_being_empty_the_cluster_refuses_too() {
    let Some(cluster) = Cluster::get("empty values") else {
        return;
    };
    let namespace = cluster.namespace("nulls").await;
    let client = cluster.admin_client();
    // Stored by nobody, but through everything that comes before.
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let (mut tried, mut in_words, mut different) = (0, 0, Vec::new());
    for document in all() {
        let kind = document["kind"].as_str().unwrap().to_owned();
        if kind == "McpApproval" {
            continue;
        }
        let mut fields = Vec::new();
        let schema = &super::schema(&kind)["properties"]["spec"];
        optional(schema, &document["spec"], "/spec", "spec", &mut fields);
        assert_eq!(refused_by_validate(&document), None, "{document}");
        for field in fields {
            for empty in [Value::Null, json!({}), json!([]), json!("")] {
                let mut changed = document.clone();
                *changed.pointer_mut(&field).unwrap() = empty.clone();
                let validate = refused_by_validate(&changed);
                let answer = api(&client, &namespace.name, &kind)
                    .create(&params, &object(&changed))
                    .await;
                let cluster = match answer {
                    Ok(mut stored) => {
                        stored.types.get_or_insert_default().kind.clone_from(&kind);
                        let mut stored = serde_json::to_value(stored).unwrap();
                        stored["kind"] = json!(kind);
                        stored["apiVersion"] = json!(API_VERSION);
                        refused_by_operator(&stored)
                    }
                    Err(kube::Error::Api(status)) => Some(status.message.clone()),
                    Err(error) => panic!("{error}"),
                };
                tried += 1;
                if empty.is_null() {
                    // One of some words cannot be null, which the API server says itself, and some
                    // fields have rules of their own that say what to write.
                    let said = cluster.clone().unwrap_or_default();
                    assert_ne!(said, "", "{kind} {field}");
                    in_words +=
                        usize::from(said.contains("is null: write a value or remove the field"));
                }
                if validate.is_some() != cluster.is_some() {
                    different.push(format!(
                        "{kind} {field} = {empty}: validate {validate:?}, cluster {cluster:?}"
                    ));
                }
            }
        }
    }
    assert!(tried > 300 && in_words > 40, "{tried}, {in_words}");
    assert_eq!(different, Vec::<String>::new());
}
