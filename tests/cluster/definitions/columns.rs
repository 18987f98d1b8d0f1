//! What `kubectl get` shows.

use kube::Client;
use kube::api::{Patch, PatchParams, PostParams};
use portcullis::api::API_VERSION;
use serde_json::{Value, json};

use super::cases::approval;
use super::{api, object};
use crate::support::tool::Printed;
use crate::support::{Cluster, eventually};

async fn store(client: &Client, namespace: &str, document: &Value) {
    let name = document["metadata"]["name"].as_str().unwrap();
    let objects = api(client, namespace, document["kind"].as_str().unwrap());
    objects
        .create(&PostParams::default(), &object(document))
        .await
        .unwrap();
    let patch = Patch::Merge(json!({"status": document["status"]}));
    objects
        .patch_status(name, &PatchParams::default(), &patch)
        .await
        .unwrap();
}

fn conditions(of: &[(&str, &str)]) -> Value {
    let condition = |(kind, status): &(&str, &str)| {
        json!({"type": kind, "status": status, "reason": "Test", "message": "A sentence.",
            "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1})
    };
    of.iter().map(condition).collect()
}

/// The table without the column that depends on the clock.
fn without_age(printed: Printed) -> Vec<Vec<String>> {
    let mut table = printed.table();
    let age = table[0].iter().position(|name| name == "AGE").unwrap();
    for row in &mut table {
        row.remove(age);
    }
    table
}

#[tokio::test]
async fn kubectl_get_shows_the_columns_of_the_design() {
    let Some(cluster) = Cluster::get("printer columns") else {
        return;
    };
    let namespace = cluster.namespace("columns").await;
    let client = cluster.admin_client();
    let counts =
        json!({"total": 17, "hidden": 3, "denied": 9, "limited": 5, "unapproved": 0, "audited": 2});
    let server = json!({"apiVersion": API_VERSION, "kind": "McpServer", "metadata": {"name": "mlflow"},
    "spec": {"upstream": {"http": {"url": "http://a/mcp"}}},
    "status": {
        "conditions": conditions(&[("Accepted", "True"), ("Ready", "True")]),
        "url": "http://mlflow-gateway.ml.svc:8080/mcp", "revision": "5f2c",
        "replicas": {"desired": 2, "ready": 2, "programmed": 1, "summary": "1/2"},
        "policyCount": 1,
        "tools": {"discovered": 40, "visible": 31, "hidden": 9, "unclassified": 0, "drifted": 0, "summary": "31/40"},
        "violations": counts,
    }});
    let policy = json!({"apiVersion": API_VERSION, "kind": "McpPolicy", "metadata": {"name": "mlflow-default"},
    "spec": {"targetSelector": {}},
    "status": {
        "conditions": conditions(&[("Accepted", "True"), ("Programmed", "False")]),
        "targets": {"matched": 3, "programmed": 2, "summary": "2/3"},
        "violations": counts,
    }});
    let mut request = approval(json!({"status": {"phase": "Approved"}}));
    request["metadata"]["name"] = json!("mlflow-0-0");
    for document in [&server, &policy, &request] {
        store(&client, &namespace.name, document).await;
    }
    let patch =
        Patch::Merge(json!({"spec": {"decisions": [{"verdict": "Approved", "by": "alice@corp"}]}}));
    let approvals = api(&client, &namespace.name, "McpApproval");
    approvals
        .patch("mlflow-0-0", &PatchParams::default(), &patch)
        .await
        .unwrap();

    let get = |what: &str, output: &str| {
        without_age(cluster.kubectl(["get", what, "-n", &namespace.name, output]))
    };
    assert_eq!(
        get("pcs", "--output="),
        [
            [
                "NAME",
                "READY",
                "MODE",
                "URL",
                "VISIBLE",
                "POLICIES",
                "VIOLATIONS",
                "AUDITED"
            ],
            [
                "mlflow",
                "True",
                "Enforce",
                "http://mlflow-gateway.ml.svc:8080/mcp",
                "31/40",
                "1",
                "17",
                "2"
            ],
        ]
    );
    assert_eq!(
        get("mcpservers.portcullis.dev", "--output=wide"),
        [
            [
                "NAME",
                "READY",
                "MODE",
                "URL",
                "VISIBLE",
                "POLICIES",
                "VIOLATIONS",
                "AUDITED",
                "REVISION",
                "REPLICAS"
            ],
            [
                "mlflow",
                "True",
                "Enforce",
                "http://mlflow-gateway.ml.svc:8080/mcp",
                "31/40",
                "1",
                "17",
                "2",
                "5f2c",
                "1/2"
            ],
        ]
    );
    assert_eq!(
        get("pcp", "--output="),
        [
            [
                "NAME",
                "MODE",
                "ACCEPTED",
                "PROGRAMMED",
                "TARGETS",
                "VIOLATIONS",
                "AUDITED"
            ],
            [
                "mlflow-default",
                "Enforce",
                "True",
                "False",
                "2/3",
                "17",
                "2"
            ],
        ]
    );
    assert_eq!(
        get("pca", "--output="),
        [
            ["NAME", "SERVER", "TOOL", "GRANT", "PHASE", "BY"],
            [
                "mlflow-0-0",
                "mlflow",
                "t",
                "anonymous",
                "Approved",
                "alice@corp"
            ],
        ]
    );
    let category = cluster.kubectl(["get", "portcullis", "-n", &namespace.name, "--output=name"]);
    assert_eq!(
        category.ok(),
        "mcpapproval.portcullis.dev/mlflow-0-0\nmcppolicy.portcullis.dev/mlflow-default\nmcpserver.portcullis.dev/mlflow\n"
    );
}

#[tokio::test]
async fn kubectl_explain_describes_a_field() {
    let Some(cluster) = Cluster::get("kubectl explain") else {
        return;
    };
    // A definition is served before its OpenAPI document is.
    let told = eventually("the field is documented", || async {
        let printed = cluster.kubectl(["explain", "mcppolicies.spec.rules.limits.max"]);
        if printed.code == Some(0) {
            Ok(printed.out)
        } else {
            Err(printed.err)
        }
    })
    .await;
    assert!(
        told.contains("FIELD: max <integer>") && told.contains("DESCRIPTION:\n    "),
        "{told}"
    );
    assert!(!told.contains("<empty>"), "{told}");
}
