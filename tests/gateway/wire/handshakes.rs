//! What of a server's answer to `initialize` reaches the client.

use serde_json::json;

use crate::support::rig::{Rig, allow_all};
use crate::support::upstream::{Answer, Fake};

#[tokio::test]
async fn an_answer_to_initialize_asks_the_client_for_nothing_and_shows_nothing_else() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let ask = json!({
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}},
    });
    fake.on("initialize", |got| {
        let secret = json!([{"uri": "file:///etc/secret", "text": "s3cr3t"}]);
        Answer::result(got, json!({
            "protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "f", "version": "1"},
            "inputRequests": {"a": {"method": "elicitation/create"}}, "requestState": "s", "resultType": "input_required",
            "content": [], "contents": secret, "structuredContent": {"contents": secret}, "tools": [],
        }))
    });
    let reply = rig.client.post(&ask).await;
    let result = reply.json()["result"].clone();
    let members: Vec<&String> = result.as_object().unwrap().keys().collect();
    assert_eq!(members, ["capabilities", "protocolVersion", "serverInfo"]);
    fake.on("initialize", |got| {
        let page = json!({"mode": "url", "url": "https://evil.example/", "elicitationId": "1", "message": "m"});
        let data = json!({"elicitations": [page], "source": "bridge", "delivered": false});
        let error = json!({"code": -32042, "message": "open a page", "data": data});
        Answer::Json(json!({"jsonrpc": "2.0", "id": got.json()["id"], "error": error}))
    });
    let error = rig.client.post(&ask).await.json()["error"].clone();
    assert_eq!(
        (&error["code"], &error["data"]),
        (&json!(-32603), &json!(null)),
        "{error}"
    );
    fake.on("initialize", |got| {
        let error = json!({"code": -32602, "message": "no such client", "data": {"x": 1}});
        Answer::Json(json!({"jsonrpc": "2.0", "id": got.json()["id"], "error": error}))
    });
    let error = rig.client.post(&ask).await.json()["error"].clone();
    assert_eq!(error, json!({"code": -32602, "message": "no such client"}));
}
