//! The real `mlflow-mcp` under the bridge.

use portcullis::gateway::bridge::{Bridge, BridgeConfig, Sessions};
use serde_json::json;

use super::harness::Rig;
use crate::support::installed;

#[tokio::test(flavor = "multi_thread")]
async fn the_real_server_is_initialized_and_lists_its_40_tools() {
    let Some(executable) = installed("PORTCULLIS_TEST_MLFLOW_MCP", "mlflow-mcp under the bridge")
    else {
        return;
    };
    for sessions in [Sessions::Shared, Sessions::PerSession] {
        let folder = tempfile::tempdir().unwrap();
        let mut config = BridgeConfig::new("mlflow", &executable);
        config.sessions = sessions;
        // Nobody listens there: listing tools needs no MLflow.
        config.env = vec![("MLFLOW_TRACKING_URI".into(), "http://127.0.0.1:9".into())];
        let bridge = Bridge::start(config).unwrap();
        let rig = Rig { bridge, folder };
        let session = rig.open().await;
        let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
        let answer = rig.post(&session, &list).await.json().await;
        let tools = answer["result"]["tools"].as_array().unwrap();
        assert_eq!(tools.len(), 40, "{sessions:?}");
        assert!(tools.iter().any(|tool| tool["name"] == "delete_experiment"));
        let unknown = rig.call(&session, 2, "no_such_tool", json!({})).await;
        assert_eq!(unknown["id"], 2);
        rig.bridge.shutdown().await;
    }
}
