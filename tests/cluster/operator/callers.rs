//! Callers with tokens of this cluster's service accounts, minted by the real API server and
//! verified by gateways that ask nobody.

use std::net::SocketAddr;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use portcullis::api::condition::ConditionType;
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

async fn secret(room: &Room, name: &str, value: &str) {
    let secrets: Api<Secret> = Api::namespaced(room.client.clone(), room.name());
    let secret: Secret = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name },
        "stringData": { "authorization": value } }))
    .unwrap();
    let force = PatchParams::apply("test").force();
    let patch = Patch::Apply(&secret);
    secrets.patch(name, &force, &patch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn service_accounts_reach_the_server_with_credentials_of_their_own() {
    let Some(room) = Room::open("credentials of callers").await else {
        return;
    };
    let fake = Fake::start(&["get"]).await;
    let mut object = server(SERVER, &fake);
    object["spec"]["authentication"] = json!({ "serviceAccounts": {} });
    let entry = |name: &str| {
        json!({ "callers": [format!("serviceaccount:{}/{name}", room.name())], "headers": [
            { "name": "Authorization", "valueFrom": { "secretKeyRef": { "name": name, "key": "authorization" } } }] })
    };
    object["spec"]["upstream"]["http"]["credentials"] = json!([entry("trainer"), entry("reader")]);
    secret(&room, "trainer", "Basic the-trainer").await;
    room.apply(&object);
    room.open_to_all(SERVER);
    // The reader's is missing: the status names it, and the trainer is served.
    let shown = room
        .server_is(SERVER, ConditionType::Ready, "False", "SecretMissing")
        .await;
    let status = serde_json::to_string(&shown.status).unwrap();
    assert!(status.contains("reader/authorization"), "{status}");
    for name in ["trainer", "reader", "stranger"] {
        account(&room, name).await;
    }
    let pods = room.gateway_pods(SERVER).await;
    let ip = pods[0].status.as_ref().unwrap().pod_ip.as_ref().unwrap();
    let gateway = Client::new(SocketAddr::new(ip.parse().unwrap(), 8080), "/mcp");
    let audience = format!("portcullis:{}/{SERVER}", room.name());
    let agent = async |name: &str| {
        let token = token(&room, name, &audience).await;
        gateway.with("Authorization", &format!("Bearer {token}"))
    };
    let trainer = agent("trainer").await;
    eventually("the keys are delivered", || async {
        let reply = trainer.initialize("2025-11-25", json!({})).await;
        if reply.header("mcp-session-id").is_some() {
            Ok(())
        } else {
            Err(reply.status)
        }
    })
    .await;
    let carried = || {
        let call = fake.got("tools/call").pop().unwrap();
        call.header("authorization").unwrap_or("none").to_owned()
    };
    let trainer = trainer.session().await;
    assert!(!trainer.call("get", json!({})).await.tool().0);
    assert_eq!(carried(), "Basic the-trainer");
    for (name, says) in [
        ("reader", "The credential of serviceaccount:"),
        ("stranger", "has no credential for serviceaccount:"),
    ] {
        let client = agent(name).await;
        let (_, refused) = client.initialize("2025-11-25", json!({})).await.error();
        assert!(
            refused.contains(says) && refused.contains(name),
            "{refused}"
        );
        let (is_error, text) = client.call("get", json!({})).await.tool();
        assert!(is_error && text.contains(says), "{text}");
    }
    secret(&room, "reader", "Basic the-reader").await;
    room.ready(SERVER).await;
    let reader = agent("reader").await.session().await;
    assert!(!reader.call("get", json!({})).await.tool().0);
    assert_eq!(carried(), "Basic the-reader");
    // Rotated: its session ends, and the next one has the new value.
    secret(&room, "reader", "Basic rotated").await;
    eventually("the session of the former value ends", || async {
        match reader.call("get", json!({})).await.status {
            404 => Ok(()),
            status => Err(status),
        }
    })
    .await;
    let reader = agent("reader").await.session().await;
    assert!(!reader.call("get", json!({})).await.tool().0);
    assert_eq!(carried(), "Basic rotated");
    assert!(!trainer.call("get", json!({})).await.tool().0);
    // What was refused is in the status, by caller.
    let shown = room.violations(SERVER, 2).await;
    let recent = serde_json::to_value(&shown.status.unwrap().violations).unwrap();
    assert_eq!(recent["denied"], 2, "{recent}");
    assert!(
        recent["recent"]
            .as_array()
            .unwrap()
            .iter()
            .all(|one| one["rule"] == "(credentials)"),
        "{recent}"
    );
    // No value is in any object that the operator wrote.
    let maps: Api<ConfigMap> = Api::namespaced(room.client.clone(), room.name());
    let maps = maps.list(&ListParams::default()).await.unwrap().items;
    let servers = room
        .servers()
        .list(&ListParams::default())
        .await
        .unwrap()
        .items;
    let written = format!(
        "{} {}",
        serde_json::to_string(&maps).unwrap(),
        serde_json::to_string(&servers).unwrap()
    );
    assert!(
        written.contains("trainer") && !written.contains("Basic "),
        "{written}"
    );
}
