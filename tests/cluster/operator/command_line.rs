//! `portcullis status` and `portcullis validate` against a cluster.

use std::path::Path;

use portcullis::api::condition::ConditionType;
use serde_json::{Value, json};

use super::rig::{Room, allow, call, deny, policy, server};
use crate::support::eventually;
use crate::support::tool::{self, Printed};
use crate::support::wire::proxy::tunnels;
use crate::support::wire::upstream::Fake;

fn portcullis(room: &Room, arguments: &[&str]) -> Printed {
    let program = Path::new(env!("CARGO_BIN_EXE_portcullis"));
    let all = arguments
        .iter()
        .copied()
        .chain(["--context=", "-n", room.name()]);
    tool::run(program, room.cluster.admin_kubeconfig(), all, "")
}

/// The rows of a table without its first columns, and without the age, which goes on.
fn rows(table: &str, skip: usize) -> Vec<Vec<&str>> {
    let mut rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().skip(skip).collect())
        .filter(|row: &Vec<&str>| !row.is_empty())
        .collect();
    let age = rows[0].iter().position(|name| *name == "AGE").unwrap();
    for row in &mut rows {
        row.remove(age);
    }
    rows
}

fn validate(room: &Room, folder: &Path, documents: &[Value]) -> Printed {
    let text: Vec<String> = documents.iter().map(Value::to_string).collect();
    let file = folder.join("files.yaml");
    std::fs::write(&file, text.join("\n---\n")).unwrap();
    portcullis(room, &["validate", &file.display().to_string()])
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_the_table_of_kubectl() {
    let Some(room) = Room::open("portcullis status").await else {
        return;
    };
    let fake = Fake::start(&["get_run", "delete_run"]).await;
    room.serve("mlflow", &fake);
    let rules = json!([
        allow("reads", &["get_*"]),
        deny("no", &["delete_*"], "never")
    ]);
    room.apply(&policy("p", "mlflow", rules));
    room.ready("mlflow").await;
    let agent = room.agent("mlflow").await;
    assert!(call(&agent, "delete_run").await.is_err());
    room.violations("mlflow", 1).await;
    room.policy_is("p", ConditionType::Ready, "True", "Ready")
        .await;
    eventually("the policy has its violation", || async {
        let status = room.policies().get("p").await.unwrap().status;
        let counts = status
            .and_then(|status| status.violations)
            .unwrap_or_default()
            .counts;
        (counts.total == 1).then_some(()).ok_or(counts)
    })
    .await;
    for (more, wide) in [(&[][..], &[][..]), (&["-o", "wide"], &["-o", "wide"])] {
        let told: Vec<&str> = ["status"].iter().chain(more).copied().collect();
        let shown = portcullis(&room, &told).ok();
        let (servers, policies) = shown.split_once("\n\n").unwrap();
        for (kind, table) in [("mcpservers", servers), ("mcppolicies", policies)] {
            let resource = format!("{kind}.portcullis.dev");
            let arguments = ["get", resource.as_str(), "-n", room.name()];
            let all = arguments.iter().chain(wide).copied();
            let kubectl = room.cluster.kubectl_args(all).ok();
            // Ours begins with the namespace, and is headed by the kind.
            assert_eq!(rows(table, 2), rows(&kubectl, 1), "{table}\n{kubectl}");
        }
    }
    let whole = portcullis(&room, &["status", "-o", "json"]).ok();
    let whole: Value = serde_json::from_str(&whole).unwrap();
    assert_eq!(whole["items"][0]["status"]["violations"]["denied"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn validate_asks_the_cluster_and_stores_nothing() {
    let Some(room) = Room::open("portcullis validate").await else {
        return;
    };
    let fake = Fake::start(&["get_run"]).await;
    let folder = tempfile::tempdir().unwrap();
    let reads = |name: &str, of: &str| {
        let mut document = policy(name, of, json!([allow("reads", &["get_*"])]));
        document["metadata"]["namespace"] = json!(room.name());
        document
    };
    // The server is in the cluster and in no file; another is in none of them.
    room.serve("mlflow", &fake);
    let valid = validate(&room, folder.path(), &[reads("p", "mlflow")]).ok();
    assert!(valid.contains("valid"), "{valid}");
    let missing = validate(&room, folder.path(), &[reads("p", "absent")]);
    let told = format!("{}{}", missing.out, missing.err);
    assert!(told.contains("absent"), "{told}");
    // A rule of the definition.
    let mut both = reads("p", "mlflow");
    both["spec"]["targetSelector"] = json!({"matchLabels": {"team": "ml"}});
    let refused = validate(&room, folder.path(), &[both]);
    assert_ne!(refused.code, Some(0), "{}", refused.out);
    assert!(
        refused.out.contains("either targetRefs or targetSelector"),
        "{}",
        refused.out
    );
    // What only the compiler knows, with its place.
    let mut wrong = reads("p", "mlflow");
    wrong["spec"]["rules"][0]["when"] = json!("args.");
    let refused = validate(&room, folder.path(), &[wrong]);
    assert_ne!(refused.code, Some(0), "{}", refused.out);
    assert!(
        refused.out.contains("spec.rules[0].when"),
        "{}",
        refused.out
    );
    // What follows from the server in the cluster: two replicas, and a limit in the file.
    let mut two = server("mlflow", &fake);
    two["spec"]["gateway"] = json!({"replicas": 2});
    room.apply(&two);
    let mut limited = reads("p", "mlflow");
    limited["spec"]["rules"][0]["limits"] = json!([{"counter": "c", "max": 3, "window": "1m"}]);
    let refused = validate(&room, folder.path(), &[limited]);
    assert_ne!(refused.code, Some(0), "{}", refused.out);
    let name = format!("McpServer {}/mlflow", room.name());
    assert!(
        refused.out.contains(&name) && refused.out.contains("2 replicas"),
        "{}",
        refused.out
    );
    let policies = room.policies().list(&Default::default()).await.unwrap();
    assert_eq!(policies.items.len(), 0, "nothing is stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_is_reached_through_the_proxy_of_the_environment_as_by_kubectl() {
    let Some(room) = Room::open("portcullis through a proxy").await else {
        return;
    };
    let (named, port) = room.cluster.unresolvable_kubeconfig();
    let established = "HTTP/1.1 200 Connection established\r\n\r\n";
    let (proxy, heads) = tunnels(port, established).await;
    let home = tempfile::tempdir().unwrap();
    let list = |kubeconfig: &Path, no_proxy: &str| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["approvals", "list", "--context=", "-n", room.name()])
            .env("KUBECONFIG", kubeconfig)
            .env("HOME", home.path())
            .env(
                "HTTPS_PROXY",
                format!("http://joe:hunter2@127.0.0.1:{proxy}"),
            )
            .env("NO_PROXY", no_proxy)
            .env_remove("no_proxy")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!told.contains("hunter2"), "{told}");
        let asked = std::mem::take(&mut *heads.lock().unwrap());
        (output.status.success(), told, asked)
    };
    // Also where NO_PROXY names the proxy's own host, which says nothing about the server.
    for no_proxy in ["", "other.example,127.0.0.1"] {
        let (listed, told, asked) = list(&named, no_proxy);
        assert!(listed, "{told}");
        let wanted = format!("CONNECT kubernetes.invalid:{port} HTTP/1.1\r\n");
        assert!(!asked.is_empty(), "{no_proxy}");
        for head in asked {
            assert!(head.starts_with(&wanted), "{head}");
            // joe:hunter2
            assert!(head.contains("Basic am9lOmh1bnRlcjI="), "{head}");
        }
    }
    for no_proxy in ["kubernetes.invalid", ".invalid", "*"] {
        let (listed, told, asked) = list(&named, no_proxy);
        assert!(!listed, "nobody resolves it: {told}");
        assert_eq!(asked, Vec::<String>::new(), "{no_proxy}");
    }
    // This machine itself is never behind the proxy.
    let (listed, told, asked) = list(room.cluster.admin_kubeconfig(), "");
    assert!(listed, "{told}");
    assert_eq!(asked, Vec::<String>::new());
}
