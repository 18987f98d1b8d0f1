//! A stdio server in a pod of its own: the bridge there, the gateway here, and the bearer that both mount.

use std::net::TcpListener;
use std::process::{Child, Stdio};

use serde_json::json;

use super::pod::{Pod, UID, Volumes, bundle, gateway};
use crate::support::rig::allow_all;

/// The bridge as the operator starts it, with the scripted server behind it.
struct Bridge(Child, String);

impl Bridge {
    async fn start(volumes: &Volumes) -> Self {
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
            .args([
                "--name=ml/fake",
                "--sessions=shared",
                "--pass-env=*",
                "--",
                "python3",
            ])
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
