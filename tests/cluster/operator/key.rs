//! An operator without its key reconciles nothing, and does not pretend to.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use crate::support::wire::client::Client;
use crate::support::{Cluster, eventually};

struct Operator(Child);

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_waits_for_its_key_is_not_ready_and_says_why() {
    let Some(cluster) = Cluster::get("the operator's key") else {
        return;
    };
    cluster.install_definitions();
    let namespace = cluster.namespace("keyless").await;
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    let admin: SocketAddr = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let _operator = Operator(
        Command::new(env!("CARGO_BIN_EXE_portcullis-operator"))
            .arg(format!("--namespace={namespace}"))
            .arg(format!("--watch-namespace={namespace}"))
            .arg("--pod-name=keyless")
            .arg("--gateway-image=portcullis-gateway")
            .arg(format!("--key-file={}", key.display()))
            .arg(format!("--admin-listen={admin}"))
            .env("KUBECONFIG", cluster.admin_kubeconfig())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let answer = || async {
        if tokio::net::TcpStream::connect(admin).await.is_err() {
            return (0, "it does not listen yet".to_owned());
        }
        let reply = Client::new(admin, "/readyz").send("GET", None).await;
        (reply.status, reply.text().to_owned())
    };
    let missing = key.display().to_string();
    eventually("it says what is missing", || async {
        match answer().await {
            (503, text) if text.contains(&missing) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    std::fs::write(&key, "thirty-two bytes that nobody guesses").unwrap();
    eventually("it is ready", || async {
        match answer().await {
            (200, _) => Ok(()),
            other => Err(other),
        }
    })
    .await;
}
