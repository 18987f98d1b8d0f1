//! Callers with tokens of this cluster's service accounts, minted by the real API server and verified
//! by gateways that ask nobody.

use std::net::SocketAddr;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use super::rig::{Room, policy, server};
use crate::support::eventually;
use crate::support::wire::client::Client;
use crate::support::wire::upstream::Fake;

const SERVER: &str = "mlflow";

async fn account(room: &Room, name: &str) {
    let accounts: Api<ServiceAccount> = Api::namespaced(room.client.clone(), room.name());
    let account: ServiceAccount = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name } }))
    .unwrap();
    accounts
        .create(&PostParams::default(), &account)
        .await
        .unwrap();
}

/// What `kubectl create token` asks for.
async fn token(room: &Room, account: &str, audience: &str) -> String {
    let accounts: Api<ServiceAccount> = Api::namespaced(room.client.clone(), room.name());
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: vec![audience.to_owned()],
            expiration_seconds: Some(600),
            bound_object_ref: None,
        },
        ..TokenRequest::default()
    };
    let asked = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await;
    asked.unwrap().status.unwrap().token
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_calls_with_a_token_for_this_server_and_no_other() {
    let Some(room) = Room::open("service accounts").await else {
        return;
    };
    let fake = Fake::start(&["get"]).await;
    let mut object = server(SERVER, &fake);
    object["spec"]["authentication"] = json!({ "serviceAccounts": {} });
    room.apply(&object);
    let rules = json!([{"name": "trainers", "tools": {"names": ["*"]}, "action": "Allow",
        "callers": [format!("serviceaccount:{}/trainer", room.name())],
        "when": format!("'system:serviceaccounts:{}' in caller.groups", room.name())}]);
    room.apply(&policy("p", SERVER, rules));
    room.ready(SERVER).await;
    room.holds(SERVER, &["p"]).await;
    for name in ["trainer", "stranger"] {
        account(&room, name).await;
    }
    let pods = room.gateway_pods(SERVER).await;
    let ip = pods[0].status.as_ref().unwrap().pod_ip.as_ref().unwrap();
    let address = SocketAddr::new(ip.parse().unwrap(), 8080);
    let gateway = Client::new(address, "/mcp");
    let with = |token: &str| gateway.with("Authorization", &format!("Bearer {token}"));
    let ours = format!("portcullis:{}/{SERVER}", room.name());

    let trainer = token(&room, "trainer", &ours).await;
    eventually("the keys are delivered", || async {
        let status = with(&trainer)
            .initialize("2025-11-25", json!({}))
            .await
            .status;
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
    let agent = with(&trainer).session().await;
    assert!(!agent.call("get", json!({})).await.tool().0);
    let stranger = with(&token(&room, "stranger", &ours).await).session().await;
    let answer: Value = stranger
        .call("get", json!({}))
        .await
        .messages()
        .pop()
        .unwrap();
    assert!(
        answer["error"].is_object() || answer["result"]["isError"] == true,
        "{answer}"
    );

    let elsewhere = format!("portcullis:{}/other", room.name());
    for audience in [&*elsewhere, "https://kubernetes.default.svc", "mlflow"] {
        let token = token(&room, "trainer", audience).await;
        let reply = with(&token).initialize("2025-11-25", json!({})).await;
        assert_eq!(reply.status, 401, "{audience}");
        // The API server is nobody that a client could get a token from by OAuth.
        let challenge = reply.header("www-authenticate").unwrap();
        assert_eq!(
            challenge,
            "Bearer realm=\"portcullis\", error=\"invalid_token\""
        );
    }
    assert_eq!(
        gateway.initialize("2025-11-25", json!({})).await.status,
        401
    );
}
