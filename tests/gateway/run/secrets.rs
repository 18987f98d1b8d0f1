//! Secrets: what is missing is waited for and told, what changes takes effect without a restart,
//! and no value is ever shown.

use serde_json::{Value, json};

use super::pod::{Pod, UID, Volumes, bundle};
use crate::support::rig::{allow_all, open_to_all};
use crate::support::upstream::Fake;

/// API keys towards agents, and a credential towards the server.
fn guarded(fake: &Fake) -> Value {
    json!({
        "upstream": {"http": {
            "url": format!("http://{}/mcp", fake.addr),
            "headers": [{"name": "X-Token", "valueFrom": {"secretKeyRef": {"name": "mlflow-mcp", "key": "token"}}}],
        }},
        "authentication": {"apiKeys": {"secretRef": {"name": "agents"}}},
    })
}

#[tokio::test]
async fn missing_secrets_keep_the_gateway_unready_and_are_reported_until_they_are_there() {
    let fake = Fake::start(&["echo"]).await;
    let volumes = Volumes::empty();
    volumes.bundle(&bundle(1, &guarded(&fake), &[allow_all()]));
    // What kubelets make of an optional Secret that is not there.
    std::fs::create_dir(volumes.path("secrets/agents")).unwrap();
    let pod = Pod::start(&volumes, &[]).await;
    let sealing = format!("fake-gateway-sealing-{UID}/keys");
    pod.is_unready(&format!(
        "Secrets are missing: agents, {sealing}, mlflow-mcp/token"
    ))
    .await;
    assert_eq!(
        pod.report().await["missingSecretKeys"],
        json!(["agents", sealing, "mlflow-mcp/token"])
    );
    let reply = pod.client.initialize("2025-11-25", json!({})).await;
    assert_eq!(reply.status, 503);
    volumes.secret("agents", "trainer", "trainers-own-key");
    volumes.secret("mlflow-mcp", "token", "tracking-token");
    pod.is_unready(&format!("Secrets are missing: {sealing}"))
        .await;
    volumes.seal(&[portcullis::protocol::seal::generate_key().unwrap()]);
    pod.is_ready().await;
    assert_eq!(pod.report().await["missingSecretKeys"], json!([]));
}

#[tokio::test]
async fn secrets_that_change_take_effect_without_a_restart_and_are_never_shown() {
    let fake = Fake::start(&["echo"]).await;
    let volumes = Volumes::new();
    volumes.bundle(&bundle(1, &guarded(&fake), &[allow_all()]));
    volumes.secret("agents", "trainer", "trainers-first-key\n");
    volumes.secret("mlflow-mcp", "token", "first-token");
    let pod = Pod::start(&volumes, &[]).await;
    pod.is_ready().await;
    let with = |key: &str| pod.client.with("Authorization", &format!("Bearer {key}"));
    let first = with("trainers-first-key").session().await;
    assert!(!first.call("echo", json!({})).await.tool().0);
    let token = || {
        fake.got("tools/call")
            .last()
            .unwrap()
            .header("x-token")
            .map(str::to_owned)
    };
    assert_eq!(token().as_deref(), Some("first-token"));

    volumes.secret("mlflow-mcp", "token", "second-token");
    pod.until("the new token is sent", async |_| {
        // Between two servers nothing is known of the tools.
        let reply = first.call("echo", json!({})).await;
        assert_eq!(reply.status, 200);
        token().as_deref() == Some("second-token")
    })
    .await;
    volumes.secret("agents", "trainer", "trainers-second-key");
    pod.until("the first key is refused", async |_| {
        with("trainers-first-key")
            .initialize("2025-11-25", json!({}))
            .await
            .status
            == 401
    })
    .await;
    with("trainers-second-key").session().await;

    // Something else that is wrong does not keep a revoked key alive.
    volumes.secret("mlflow-mcp", "token", "no\nheader");
    volumes.secret("agents", "trainer", "trainers-third-key");
    pod.until("the second key is refused", async |_| {
        with("trainers-second-key")
            .initialize("2025-11-25", json!({}))
            .await
            .status
            == 401
    })
    .await;
    let report = pod.report().await;
    let error = report["bundleError"].as_str().unwrap();
    assert!(
        error.contains("X-Token") && !error.contains("no\nheader"),
        "{error}"
    );
    volumes.secret("mlflow-mcp", "token", "third-token");
    pod.until("what was wrong is forgotten", async |pod| {
        pod.report().await.get("bundleError").is_none()
    })
    .await;
    with("trainers-third-key").session().await;

    let shown = format!(
        "{} {} {:?}",
        pod.logged(),
        pod.report().await,
        pod.audited()
    );
    for value in ["trainers-", "-token", "no\\nheader"] {
        assert!(!shown.contains(value), "{value} in {shown}");
    }
}

#[tokio::test]
async fn replicas_whose_sealing_keys_change_one_after_another_serve_each_others_sessions() {
    let fake = Fake::start(&["echo"]).await;
    let spec = open_to_all(&fake);
    let key = || portcullis::protocol::seal::generate_key().unwrap();
    let (first, second) = (key(), key());
    let (one, other) = (Volumes::empty(), Volumes::empty());
    for volumes in [&one, &other] {
        volumes.seal(std::slice::from_ref(&first));
        volumes.bundle(&bundle(1, &spec, &[allow_all()]));
    }
    let (pod, replica) = (Pod::start(&one, &[]).await, Pod::start(&other, &[]).await);
    pod.is_ready().await;
    replica.is_ready().await;
    let old = pod.client.session().await;
    let at = |pod: &Pod| {
        let mut client = old.clone();
        client.addr = pod.client.addr;
        client
    };
    assert!(!at(&replica).call("echo", json!({})).await.tool().0);

    // The Secret gets another key, which one of them reads first: whichever seals, both open.
    let read_again = async |pod: &Pod| {
        pod.until("it has read its keys", async |pod| {
            pod.logged().contains("reloaded the mounted Secrets")
        })
        .await;
    };
    let opens = async |sealed_by: &Pod, at: &Pod| {
        let mut new = sealed_by.client.session().await;
        new.addr = at.client.addr;
        assert_eq!(new.request("tools/list", json!({})).await.status, 200);
    };
    one.seal(std::slice::from_ref(&second));
    read_again(&pod).await;
    opens(&pod, &replica).await;
    opens(&replica, &pod).await;
    other.seal(std::slice::from_ref(&second));
    read_again(&replica).await;
    opens(&pod, &replica).await;
    opens(&replica, &pod).await;
    for pod in [&pod, &replica] {
        let status = at(pod).request("tools/list", json!({})).await.status;
        assert_eq!(status, 200, "a session that the first key sealed");
    }

    one.seal(&["no key at all".to_owned()]);
    pod.until("a bad key is reported", async |pod| {
        let report = pod.report().await;
        report["bundleError"].as_str().is_some_and(|error| {
            assert!(!error.contains("no key at all"), "{error}");
            error.contains("one of the sealing keys is not")
        })
    })
    .await;
    assert_eq!(old.request("tools/list", json!({})).await.status, 200);
    one.seal(&[second]);
    pod.until("a good key ends that", async |pod| {
        pod.report().await["bundleError"].is_null()
    })
    .await;
    assert_eq!(old.request("tools/list", json!({})).await.status, 200);
}
