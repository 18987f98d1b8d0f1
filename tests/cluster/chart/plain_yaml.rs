//! docs/install-yaml.md, command by command, on a real API server: installed with kubectl alone,
//! handed over to Helm and back, removed. Servers, policies and gateways stay as long as the page
//! says so, and nothing stays after the last command.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use kube::ResourceExt;
use serde_json::{Value, json};

use super::install::SYSTEM;
use super::pages;
use crate::operator::rig::{self, Room};
use crate::support::control_plane::Options;
use crate::support::wire::upstream::Fake;
use crate::support::{Cluster, eventually};

/// The marker of the blocks that run here.
const ON_A_CLUSTER: &str = "run: on a cluster";
/// What a namespace has without anybody's doing.
const OF_EVERY_NAMESPACE: [&str; 2] = ["configmap/kube-root-ca.crt", "serviceaccount/default"];

/// Runs the block of a page's section that has these words, as a reader would: in the repository,
/// with kubectl and helm on the path.
fn follow(cluster: &Cluster, page: &str, heading: &str, words: &str) {
    let page = pages::page(page);
    let heading_of = |line: usize| {
        let above = page.text.lines().take(line);
        let heading = above.filter_map(|line| line.strip_prefix("## ")).last();
        heading.unwrap_or_default()
    };
    let mut blocks = page.blocks();
    blocks.retain(|block| heading_of(block.line) == heading && block.text.contains(words));
    let [block] = blocks.as_slice() else {
        panic!(
            "{}, {heading}: {} blocks have `{words}`",
            page.path,
            blocks.len()
        );
    };
    assert_eq!(
        block.marker.as_deref(),
        Some(ON_A_CLUSTER),
        "{}:{}",
        page.path,
        block.line
    );
    run(cluster, &block.text);
}

fn run(cluster: &Cluster, commands: &str) {
    let system = std::env::var_os("PATH").unwrap();
    let kubectl = cluster.program("kubectl");
    let first = kubectl.parent().map(PathBuf::from);
    let path = std::env::join_paths(first.into_iter().chain(std::env::split_paths(&system)));
    let home = tempfile::tempdir().unwrap();
    let output = Command::new("timeout")
        .args(["120", "bash", "-euo", "pipefail", "-c", commands])
        .env("PATH", path.unwrap())
        .env("KUBECONFIG", cluster.admin_kubeconfig())
        .env("HOME", home.path())
        .current_dir(pages::root())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{commands}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// Every object of a namespace, of whatever kind, apart from what comes and goes by itself.
fn objects(cluster: &Cluster, namespace: &str) -> Vec<String> {
    let kinds = cluster
        .kubectl([
            "api-resources",
            "--namespaced",
            "--verbs=list",
            "-o",
            "name",
        ])
        .ok();
    let kinds: Vec<String> = lines(&kinds)
        .into_iter()
        .filter(|kind| !kind.starts_with("events"))
        .collect();
    let kinds = kinds.join(",");
    let found = cluster
        .kubectl(["get", &kinds, "-n", namespace, "-o", "name"])
        .ok();
    let mut found = lines(&found);
    found.retain(|name| !OF_EVERY_NAMESPACE.contains(&name.as_str()));
    found
}

/// What of the cluster's own objects is Portcullis's.
fn of_the_cluster(cluster: &Cluster) -> Vec<String> {
    let kinds = cluster
        .kubectl([
            "api-resources",
            "--namespaced=false",
            "--verbs=list",
            "-o",
            "name",
        ])
        .ok();
    let kinds = lines(&kinds).join(",");
    let found = cluster.kubectl(["get", &kinds, "-o", "name"]).ok();
    let mut found = lines(&found);
    found.retain(|name| {
        // The API server makes an APIService of each definition's group, and removes it.
        let own = !name.starts_with("apiservice.") && name != "namespace/portcullis-system";
        own && name.contains("portcullis")
    });
    found
}

/// Something whose UID tells whether it is still the same.
async fn kept(room: &Room) -> Vec<String> {
    let server = room.servers().get("mlflow").await.unwrap();
    let policy = room.policies().get("open").await.unwrap();
    let gateways = room.gateway_pods("mlflow").await;
    let all = [server.uid(), policy.uid()].into_iter();
    all.chain(gateways.iter().map(ResourceExt::uid))
        .flatten()
        .collect()
}

/// That nothing of this team's own was replaced, and that its calls go on.
async fn goes_on(room: &Room, before: &[String]) {
    assert_eq!(kept(room).await, before);
    let agent = room.agent("mlflow").await;
    assert_eq!(rig::call(&agent, "get_run").await, Ok(()));
    assert!(rig::call(&agent, "delete_run").await.is_err());
}

/// The operator acts: a new server becomes ready.
async fn operates(room: &Room, name: &str, fake: &Fake) {
    room.serve(name, fake);
    room.open_to_all(name);
    room.ready(name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_yaml_is_handed_over_to_helm_and_back_and_removed_as_its_page_says() {
    let Some(cluster) = Cluster::start("plain YAML, Helm and back", &Options::default()) else {
        return;
    };
    if cluster.kubelet("plain YAML, Helm and back").is_none() {
        return;
    }
    // A room lasts as long as the process.
    let cluster: &'static Cluster = Box::leak(Box::new(cluster));
    let page = "docs/install-yaml.md";
    let at_first = of_the_cluster(cluster);
    assert_eq!(at_first, Vec::<String>::new());

    follow(cluster, page, "", "rollout status");
    let room = Room {
        cluster,
        namespace: cluster.namespace("op").await,
        client: cluster.admin_client(),
    };
    let fake = Fake::start(&["get_run", "delete_run"]).await;
    room.serve("mlflow", &fake);
    let rules: Value = json!([rig::allow("reads", &["get_run"])]);
    room.apply(&rig::policy("open", "mlflow", rules));
    room.ready("mlflow").await;
    room.holds("mlflow", &["open"]).await;
    let before = kept(&room).await;
    assert_eq!(before.len(), 3);
    goes_on(&room, &before).await;

    follow(
        cluster,
        page,
        "From plain YAML to Helm, and back",
        "helm install",
    );
    let releases = cluster.helm(["list", "-n", SYSTEM, "-q"]).ok();
    assert_eq!(releases, "portcullis\n");
    goes_on(&room, &before).await;
    operates(&room, "under-helm", &fake).await;

    follow(
        cluster,
        page,
        "From plain YAML to Helm, and back",
        "helm uninstall",
    );
    assert_eq!(cluster.helm(["list", "-n", SYSTEM, "-q"]).ok(), "");
    goes_on(&room, &before).await;
    operates(&room, "under-yaml-again", &fake).await;
    let operator = cluster
        .kubectl(["get", "deployment", "-n", SYSTEM, "-o", "yaml"])
        .ok();
    assert!(!operator.contains("managed-by: Helm"), "{operator}");

    // The operator goes; what is of this team's own stays, and works.
    follow(cluster, page, "Remove it", "kubectl delete clusterrole");
    eventually("nothing of the operator is left", || async {
        let left = objects(cluster, SYSTEM);
        match left.as_slice() {
            [key] if key == "secret/portcullis-operator-key" => Ok(()),
            _ => Err(left),
        }
    })
    .await;
    let definitions = ["mcpapprovals", "mcppolicies", "mcpservers"]
        .map(|name| format!("customresourcedefinition.apiextensions.k8s.io/{name}.portcullis.dev"));
    assert_eq!(of_the_cluster(cluster), definitions);
    goes_on(&room, &before).await;

    // At last everything goes, gateways too.
    follow(
        cluster,
        "docs/install.md",
        "Uninstall",
        "kubectl delete crd",
    );
    eventually("nothing is left at all", || async {
        let left = [objects(cluster, SYSTEM), objects(cluster, room.name())].concat();
        let left = [left, of_the_cluster(cluster)].concat();
        left.is_empty().then_some(()).ok_or(left)
    })
    .await;
    let marked = pages::all().into_iter().flat_map(|page| page.blocks());
    let marked = marked.filter(|block| block.marker.as_deref() == Some(ON_A_CLUSTER));
    assert_eq!(marked.count(), 5, "each block with this marker runs above");
}
