//! A stdio server in a pod of its own: the bridge there, the gateway here, and the bearer that both
//! mount.

use std::net::TcpListener;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use super::pod::{Pod, UID, Volumes, bundle, gateway};
use crate::support::client::Client;
use crate::support::rig::allow_all;

/// The bridge as the operator starts it, with the scripted server behind it.
struct Bridge(Child, String);

impl Bridge {
    async fn start(volumes: &Volumes) -> Self {
        Self::with(volumes, &["--sessions=shared".to_owned()]).await
    }

    async fn with(volumes: &Volumes, arguments: &[String]) -> Self {
        // Free a moment ago: good enough on loopback.
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let bearer = volumes.path("bridge/bearer");
        let child = gateway()
            .arg("bridge")
            .arg(format!("--listen={address}"))
            .arg(format!("--bearer-file={}", bearer.display()))
            .arg("--name=ml/fake")
            .args(arguments)
            .args(["--pass-env=*", "--", "python3"])
            .env("TOOLS", "echo,variables")
            .arg(
                std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
                    .join("tests/gateway/fixtures/scripted_server.py"),
            )
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let bridge = Bridge(child, format!("http://{address}/mcp"));
        crate::support::eventually("the bridge listens", || {
            std::net::TcpStream::connect(address).is_ok()
        })
        .await;
        bridge
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_stdio_server_is_reached_through_its_bridge_with_the_mounted_bearer() {
    let volumes = Volumes::new();
    let spec = json!({
        "upstream": {"stdio": {"image": "scripted:1", "command": ["scripted"]}},
        "authentication": {"anonymous": "Allow"},
    });
    volumes.bundle(&bundle(1, &spec, &[allow_all()]));
    // Each pod has a copy of its own.
    volumes.write("bridge/bearer", "the-bearer-of-both-pods\n");
    let bridge = Bridge::start(&volumes).await;
    let url = format!("--upstream-url={}", bridge.1);
    let file = format!(
        "--upstream-bearer-file={}",
        volumes.path("upstream/bearer").display()
    );
    let pod = Pod::start(&volumes, &[&url, &file]).await;
    pod.is_unready(&format!(
        "Secrets are missing: fake-upstream-bearer-{UID}/bearer"
    ))
    .await;
    volumes.write("upstream/bearer", "not-the-bearer-of-both");
    pod.until("the bridge refuses another bearer", async |pod| {
        let report = pod.report().await;
        report["listing"]["error"]
            .as_str()
            .is_some_and(|error| error.contains("401"))
    })
    .await;
    volumes.write("upstream/bearer", "the-bearer-of-both-pods");
    pod.until("the tools are listed", async |pod| {
        let report = pod.report().await;
        report["listing"].is_object() && report["listing"].get("error").is_none()
    })
    .await;
    let client = pod.client.session().await;
    assert!(client.tools().await.contains(&"echo".to_owned()));
    let (error, text) = client.call("echo", json!({"text": "hello"})).await.tool();
    assert!(!error && text.contains("hello"), "{text}");
    // The Secret is made again, and one copy changes after the other.
    let goes_on = async |when: &str| {
        for _ in 0..20 {
            let (error, text) = client.call("echo", json!({"text": when})).await.tool();
            assert!(!error && text.contains(when), "{text}");
        }
    };
    let read = pod.logged().matches("reloaded the mounted Secrets").count();
    volumes.write("upstream/bearer", "another-bearer-of-both-pods");
    pod.until("the gateway has read it", async |pod| {
        pod.logged().matches("reloaded the mounted Secrets").count() > read
    })
    .await;
    goes_on("while the bridge has the old one").await;
    volumes.write("bridge/bearer", "another-bearer-of-both-pods");
    goes_on("while the bridge reads the new one").await;
    let shown = format!("{} {}", pod.logged(), pod.report().await);
    assert!(!shown.contains("bearer-of-both"), "{shown}");
}

fn credential(of: &str) -> String {
    let secret = format!(r#"{{"name":"PASSWORD","secret":"{of}","key":"password"}}"#);
    format!(r#"--credential=[{{"name":"USER","value":"{of}"}},{secret}]"#)
}

/// Gateway and bridge are in two pods, each with its own idea of the credentials for a while:
/// nobody gets another one's, or what all have.
#[tokio::test(flavor = "multi_thread")]
async fn the_pod_of_the_server_gives_each_caller_its_own_variables() {
    let volumes = Volumes::new();
    let entry = |of: &str| {
        json!({"callers": [format!("key:{of}")], "env": [{"name": "USER", "value": of},
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": of, "key": "password"}}}]})
    };
    let spec = |credentials: Value| {
        json!({
            "upstream": {"stdio": {"image": "scripted:1", "command": ["scripted"], "sessions": "PerSession",
                "credentials": credentials}},
            "authentication": {"apiKeys": {"secretRef": {"name": "agents"}}},
        })
    };
    volumes.bundle(&bundle(
        1,
        &spec(json!([entry("alice"), entry("bob")])),
        &[allow_all()],
    ));
    for of in ["alice", "bob", "stranger"] {
        volumes.secret("agents", of, format!("the-api-key-of-{of}"));
    }
    volumes.write("bridge/bearer", "the-bearer-of-both-pods");
    volumes.write("upstream/bearer", "the-bearer-of-both-pods");
    volumes.write("credentials/alice/password", "alice-at-mlflow");
    let dir = format!(
        "--credentials-dir={}",
        volumes.path("credentials").display()
    );
    let per_session = "--sessions=per-session".to_owned();
    let arguments = [
        per_session.clone(),
        dir,
        credential("bob"),
        credential("alice"),
    ];
    let bridge = Bridge::with(&volumes, &arguments).await;
    let file = format!(
        "--upstream-bearer-file={}",
        volumes.path("upstream/bearer").display()
    );
    let pod = Pod::start(&volumes, &[&format!("--upstream-url={}", bridge.1), &file]).await;
    pod.is_ready().await;
    pod.until("the tools are listed", async |pod| {
        let report = pod.report().await;
        report["tools"]
            .as_array()
            .is_some_and(|tools| !tools.is_empty())
    })
    .await;
    let as_caller = |of: &str| {
        let key = format!("Bearer the-api-key-of-{of}");
        pod.client.with("Authorization", &key)
    };
    let variables = async |client: &Client| {
        let names = json!({"names": ["USER", "PASSWORD"]});
        let (_, text) = client.call("variables", names).await.tool();
        serde_json::from_str::<Value>(&text).unwrap_or(json!(text))
    };
    let alice = as_caller("alice").session().await;
    let own = json!({"USER": "alice", "PASSWORD": "alice-at-mlflow"});
    assert_eq!(variables(&alice).await, own);
    // His Secret is missing in the pod.
    let (_, refused) = as_caller("bob")
        .initialize("2025-11-25", json!({}))
        .await
        .error();
    assert!(refused.contains("credential is not there"), "{refused}");
    let (_, refused) = as_caller("stranger")
        .initialize("2025-11-25", json!({}))
        .await
        .error();
    assert!(
        refused.contains("has no credential for key:stranger"),
        "{refused}"
    );
    volumes.write("credentials/bob/password", "bob-at-mlflow");
    let bob = loop {
        let reply = as_caller("bob").initialize("2025-11-25", json!({})).await;
        if let Some(id) = reply.header("mcp-session-id") {
            break as_caller("bob").with("Mcp-Session-Id", id);
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!(variables(&bob).await["PASSWORD"], "bob-at-mlflow");
    // It changes: his session ends, hers continues.
    volumes.write("credentials/bob/password", "rotated");
    pod.until("the session of the value before has ended", async |_| {
        bob.call("echo", json!({"text": "x"})).await.status == 404
    })
    .await;
    let bob = as_caller("bob").session().await;
    assert_eq!(variables(&bob).await["PASSWORD"], "rotated");
    assert_eq!(variables(&alice).await, own);
    // The gateway has a bundle that the pod of the server has not caught up with.
    let mut changed = entry("alice");
    changed["env"][0]["value"] = json!("carol");
    volumes.bundle(&bundle(
        2,
        &spec(json!([changed, entry("bob")])),
        &[allow_all()],
    ));
    pod.until("her session ends", async |_| {
        alice.call("echo", json!({"text": "x"})).await.status == 404
    })
    .await;
    let (_, refused) = as_caller("alice")
        .initialize("2025-11-25", json!({}))
        .await
        .error();
    assert!(
        refused.contains("does not know this caller's credential yet"),
        "{refused}"
    );
    assert_eq!(variables(&bob).await["PASSWORD"], "rotated");
    let mut without = spec(json!([]));
    without["upstream"]["stdio"]
        .as_object_mut()
        .unwrap()
        .remove("credentials");
    volumes.bundle(&bundle(3, &without, &[allow_all()]));
    pod.until("his session ends as well", async |_| {
        bob.call("echo", json!({"text": "x"})).await.status == 404
    })
    .await;
    let (_, refused) = as_caller("bob")
        .initialize("2025-11-25", json!({}))
        .await
        .error();
    assert!(
        refused.contains("starts no process without a caller's credential"),
        "{refused}"
    );
    // The other way round: the pod knows of no credentials yet.
    let plain = Bridge::with(&volumes, &[per_session]).await;
    let volumes = Volumes(std::sync::Arc::clone(&volumes.0));
    volumes.bundle(&bundle(4, &spec(json!([entry("alice")])), &[allow_all()]));
    let pod = Pod::start(&volumes, &[&format!("--upstream-url={}", plain.1), &file]).await;
    pod.is_ready().await;
    let client = pod
        .client
        .with("Authorization", "Bearer the-api-key-of-alice");
    let (_, refused) = client.initialize("2025-11-25", json!({})).await.error();
    assert!(
        refused.contains("has no credentials of callers yet"),
        "{refused}"
    );
    let shown = format!("{} {}", pod.logged(), pod.report().await);
    assert!(
        !shown.contains("at-mlflow") && !shown.contains("rotated"),
        "{shown}"
    );
}
