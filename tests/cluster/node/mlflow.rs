//! The real `mlflow-mcp` in a pod, under the bridge.

use serde_json::json;

use super::Room;
use crate::support::Cluster;
use crate::support::wire::client::Client as McpClient;
use crate::support::wire::installed;

/// A Deployment, its scheduler, its replica set: all real; the bridge and the MCP server too.
#[tokio::test(flavor = "multi_thread")]
async fn the_bridge_with_the_real_mlflow_mcp_is_reached_through_its_service() {
    let what = "mlflow-mcp in a pod";
    let Some(room) = Room::open(what).await else {
        return;
    };
    if installed("PORTCULLIS_TEST_MLFLOW_MCP", what).is_none() {
        return;
    }
    let cluster = Cluster::get(what).unwrap();
    let namespace = room.namespace.name.as_str();
    room.put_secret("bearer", "bearer", "0123456789abcdef0123456789abcdef")
        .await;
    let labels =
        json!({"app.kubernetes.io/component": "upstream", "portcullis.dev/server": "mlflow"});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "mlflow-upstream"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "server", "image": "localhost/mlflow-mcp:0.4.1",
                "command": ["/portcullis-gateway", "bridge", "--listen=0.0.0.0:8000",
                    "--bearer-file=/etc/portcullis-bearer/bearer", "--pass-env=*", "--", "mlflow-mcp"],
                "env": [{"name": "MLFLOW_TRACKING_URI", "value": "http://127.0.0.1:9"}],
                "ports": [{"name": "mcp", "containerPort": 8000}],
                "readinessProbe": {"httpGet": {"path": "/readyz", "port": "mcp"}},
                "volumeMounts": [{"name": "bearer", "mountPath": "/etc/portcullis-bearer"}],
            }],
            "volumes": [{"name": "bearer", "secret": {"secretName": "bearer"}}],
        }},
    }});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "mlflow-upstream"},
        "spec": {"selector": labels, "ports": [{"name": "mcp", "port": 8000, "targetPort": "mcp"}]}});
    let documents = json!({"apiVersion": "v1", "kind": "List", "items": [deployment, service]});
    cluster
        .kubectl_with(
            ["apply", "-n", namespace, "-f", "-"],
            &documents.to_string(),
        )
        .ok();
    cluster
        .kubectl([
            "rollout",
            "status",
            "deployment/mlflow-upstream",
            "-n",
            namespace,
            "--timeout=80s",
        ])
        .ok();

    let address = room
        .kubelet
        .service(namespace, "mlflow-upstream", 8000)
        .await;
    let stranger = McpClient::new(address, "/mcp");
    assert_eq!(
        stranger.initialize("2025-11-25", json!({})).await.status,
        401
    );
    let client = stranger.with("Authorization", "Bearer 0123456789abcdef0123456789abcdef");
    let session = client.session().await;
    assert_eq!(session.tools().await.len(), 40);
}
