//! The chart on a real API server: installed, upgraded, uninstalled.

use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use super::helm::CHART;
use crate::support::control_plane::Options;
use crate::support::tool::{self, Printed};
use crate::support::{Cluster, eventually};

pub const SYSTEM: &str = "portcullis-system";
const RESTRICTED: &str = "apiVersion: v1
kind: Namespace
metadata: { name: portcullis-system, labels: { pod-security.kubernetes.io/enforce: restricted } }
";

pub fn helm<const N: usize>(cluster: &Cluster, arguments: [&str; N]) -> Printed {
    tool::run(
        &cluster.program("helm"),
        cluster.admin_kubeconfig(),
        arguments,
        "",
    )
}

fn get(cluster: &Cluster, what: &str, name: &str, namespace: &str) -> Value {
    let printed = cluster
        .kubectl([
            "get",
            what,
            name,
            "--namespace",
            namespace,
            "--output",
            "json",
        ])
        .ok();
    serde_json::from_str(&printed).unwrap()
}

/// Both operators' pods: the API server took them, although the namespace enforces the restricted
/// Pod Security Standard.
async fn operators(cluster: &Cluster) {
    let pods: Api<Pod> = Api::namespaced(cluster.admin_client(), SYSTEM);
    let selector = ListParams::default().labels("app.kubernetes.io/component=operator");
    eventually("two operators' pods", || async {
        let count = pods.list(&selector).await.unwrap().items.len();
        if count == 2 { Ok(()) } else { Err(count) }
    })
    .await;
}

/// The chart as an older release might have been: without printer columns for policies.
fn older_chart(folder: &Path) -> String {
    copy(Path::new(CHART), folder);
    let file = folder.join("templates/crds/mcppolicies.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let start = text.find("  - additionalPrinterColumns:").unwrap();
    let end = text[start..].find("    name: v1alpha1").unwrap() + start;
    std::fs::write(&file, format!("{}  -\n{}", &text[..start], &text[end..])).unwrap();
    folder.to_str().unwrap().to_owned()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_installs_upgrades_its_definitions_and_keeps_them_when_it_goes() {
    let Some(cluster) = Cluster::start("installing the chart", &Options::default()) else {
        return;
    };
    cluster
        .kubectl_with(["apply", "--filename", "-"], RESTRICTED)
        .ok();
    let folder = tempfile::tempdir().unwrap();
    let older = older_chart(&folder.path().join("portcullis"));
    let columns = |cluster: &Cluster| {
        let definition = get(cluster, "crd", "mcppolicies.portcullis.dev", "default");
        definition["spec"]["versions"][0]["additionalPrinterColumns"]
            .as_array()
            .map_or(0, Vec::len)
    };
    helm(
        &cluster,
        ["install", "portcullis", &older, "--namespace", SYSTEM],
    )
    .ok();
    operators(&cluster).await;
    assert_eq!(columns(&cluster), 0);

    // `helm test` needs pods that run, but what it would start is taken.
    let pod = helm(
        &cluster,
        [
            "template",
            "portcullis",
            CHART,
            "--namespace",
            SYSTEM,
            "--show-only",
            "templates/tests/ready.yaml",
        ],
    )
    .ok();
    cluster
        .kubectl_with(["create", "--dry-run=server", "--filename", "-"], &pod)
        .ok();

    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/examples/read-only/policy.yaml"
    );
    cluster.kubectl(["create", "namespace", "ml"]).ok();
    eventually("the definitions are served", || async {
        let printed = cluster.kubectl(["apply", "--filename", file]);
        if printed.code == Some(0) {
            Ok(())
        } else {
            Err(printed)
        }
    })
    .await;
    let policies = |cluster: &Cluster| {
        cluster
            .kubectl([
                "get",
                "mcppolicies.portcullis.dev",
                "--namespace",
                "ml",
                "--output",
                "name",
            ])
            .ok()
    };
    let before = policies(&cluster);
    assert!(before.contains("mcppolicy.portcullis.dev/"), "{before}");

    helm(
        &cluster,
        ["upgrade", "portcullis", CHART, "--namespace", SYSTEM],
    )
    .ok();
    assert_eq!(
        columns(&cluster),
        7,
        "Helm upgrades definitions that are templates"
    );
    assert_eq!(policies(&cluster), before);

    helm(&cluster, ["uninstall", "portcullis", "--namespace", SYSTEM]).ok();
    let left = cluster.kubectl(["get", "crd", "--output", "name"]).ok();
    let kept = ["mcpapprovals", "mcppolicies", "mcpservers"].map(|name| {
        format!("customresourcedefinition.apiextensions.k8s.io/{name}.portcullis.dev\n")
    });
    assert_eq!(left, kept.concat());
    assert_eq!(policies(&cluster), before);
    let gone = cluster
        .kubectl([
            "get",
            "clusterroles,clusterrolebindings,validatingadmissionpolicies",
            "--output",
            "name",
            "--selector",
            "app.kubernetes.io/instance=portcullis",
        ])
        .ok();
    assert_eq!(gone, "");

    helm(
        &cluster,
        ["install", "portcullis", CHART, "--namespace", SYSTEM],
    )
    .ok();
    assert_eq!(policies(&cluster), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bundle_is_installed_by_kubectl_alone() {
    let Some(cluster) = Cluster::start("applying the bundle", &Options::default()) else {
        return;
    };
    // As docs/install-yaml.md has it, but for the shell's own kubectl.
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/install-yaml.md"))
            .unwrap();
    let command = page
        .lines()
        .find_map(|line| line.strip_suffix(" | kubectl apply --server-side -f -"))
        .unwrap();
    let rendered = std::process::Command::new("bash")
        .args(["-c", command])
        .env("REGISTRY", "registry.example/platform")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let text = String::from_utf8(rendered.stdout).unwrap();
    cluster
        .kubectl_with(["apply", "--server-side", "--filename", "-"], &text)
        .ok();
    operators(&cluster).await;
    let deployment = get(&cluster, "deployment", "portcullis-operator", SYSTEM);
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(
        container["image"],
        "registry.example/platform/portcullis-operator:0.1.0"
    );
    assert_eq!(
        container["args"][2],
        "--gateway-image=registry.example/platform/portcullis-gateway:0.1.0"
    );
    // Again, as a pipeline does.
    cluster
        .kubectl_with(["apply", "--server-side", "--filename", "-"], &text)
        .ok();
}

#[test]
fn the_notes_name_commands_for_things_that_exist() {
    let Some(cluster) = Cluster::start("the notes of the chart", &Options::default()) else {
        return;
    };
    let printed = helm(
        &cluster,
        [
            "install",
            "portcullis",
            CHART,
            "--namespace",
            SYSTEM,
            "--create-namespace",
        ],
    )
    .ok();
    for word in [
        "kubectl -n portcullis-system rollout status deployment/portcullis-operator",
        "kubectl -n ml port-forward service/mlflow-gateway 8080:8080",
        "--clusterrole=portcullis-approver",
    ] {
        assert!(printed.contains(word), "{printed}");
    }
    assert!(!printed.contains("WARNING"), "{printed}");
    for file in printed
        .split_whitespace()
        .filter(|word| word.starts_with("examples/") && word.ends_with(".yaml"))
    {
        assert!(
            Path::new(env!("CARGO_MANIFEST_DIR")).join(file).is_file(),
            "{file}"
        );
    }
    get(&cluster, "deployment", "portcullis-operator", SYSTEM);
    get(&cluster, "clusterrole", "portcullis-approver", SYSTEM);
    let open = json!({ "admissionPolicies": { "enabled": false } }).to_string();
    let arguments = [
        "upgrade",
        "portcullis",
        CHART,
        "--namespace",
        SYSTEM,
        "--values",
        "-",
    ];
    let printed = tool::run(
        &cluster.program("helm"),
        cluster.admin_kubeconfig(),
        arguments,
        &open,
    )
    .ok();
    assert!(
        printed.contains("WARNING: admissionPolicies.enabled is false"),
        "{printed}"
    );
}
