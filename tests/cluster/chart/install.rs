//! The chart on a real API server: installed, upgraded, uninstalled; and what the operator may do there.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role};
use kube::Api;
use kube::api::{ListParams, ObjectMeta, PostParams};
use serde_json::{Value, json};

use super::admission::guarded;
use super::helm::CHART;
use crate::support::control_plane::Options;
use crate::support::tool::{self, Printed};
use crate::support::{Cluster, eventually};

const SYSTEM: &str = "portcullis-system";
const RESTRICTED: &str = "apiVersion: v1
kind: Namespace
metadata: { name: portcullis-system, labels: { pod-security.kubernetes.io/enforce: restricted } }
";

fn helm<const N: usize>(cluster: &Cluster, arguments: [&str; N]) -> Printed {
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

/// Both operators' pods: the API server took them, although the namespace enforces the restricted Pod Security Standard.
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
        6,
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
    // As docs/install.md has it, but for the shell's own kubectl.
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/install.md")).unwrap();
    let command = page
        .lines()
        .find_map(|line| line.strip_suffix(" | kubectl apply --server-side -f -"))
        .unwrap();
    let rendered = std::process::Command::new("bash")
        .args(["-c", command])
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

/// Whether a service account may, by the API server's own word.
fn may(cluster: &Cluster, user: &str, verb: &str, resource: &str, namespace: &str) -> bool {
    let user = format!("--as=system:serviceaccount:{user}");
    // What follows a slash is a name, what follows a colon a subresource.
    let (resource, sub) = resource.split_once(':').unwrap_or((resource, ""));
    let sub = format!("--subresource={sub}");
    let printed = cluster.kubectl([
        "auth",
        "can-i",
        verb,
        resource,
        &sub,
        "--namespace",
        namespace,
        &user,
    ]);
    printed.out.trim() == "yes"
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_may_do_what_it_needs_and_no_more() {
    let Some(cluster) = guarded("the operator's rights").await else {
        return;
    };
    let namespace = cluster.namespace("rights").await;
    let place = namespace.name.as_str();
    let operator = "portcullis-system:portcullis-operator";
    let expected = [
        (place, "create", "secrets", true),
        (place, "get", "secrets", false),
        (place, "list", "secrets", false),
        (place, "watch", "secrets", false),
        (place, "update", "secrets", false),
        (place, "delete", "secrets", false),
        (place, "create", "pods", false),
        (place, "delete", "pods", false),
        (place, "create", "pods:exec", false),
        (place, "create", "pods:attach", false),
        (place, "create", "pods:portforward", false),
        (place, "create", "serviceaccounts:token", false),
        (place, "impersonate", "serviceaccounts", false),
        (place, "escalate", "roles.rbac.authorization.k8s.io", false),
        (place, "bind", "roles.rbac.authorization.k8s.io", false),
        (
            place,
            "create",
            "clusterroles.rbac.authorization.k8s.io",
            false,
        ),
        (place, "delete", "configmaps", false),
        (place, "update", "mcpservers.portcullis.dev", false),
        (place, "patch", "mcppolicies.portcullis.dev", false),
        (place, "create", "mcppolicies.portcullis.dev", false),
        (place, "update", "mcpapprovals.portcullis.dev", false),
        (place, "delete", "mcpapprovals.portcullis.dev", true),
        (place, "update", "mcpapprovals.portcullis.dev:status", true),
        (place, "patch", "mcpservers.portcullis.dev:status", true),
        (place, "create", "deployments.apps", true),
        (place, "create", "leases.coordination.k8s.io", false),
        (SYSTEM, "create", "leases.coordination.k8s.io", true),
        (
            SYSTEM,
            "update",
            "leases.coordination.k8s.io/portcullis-operator",
            true,
        ),
        (
            SYSTEM,
            "watch",
            "leases.coordination.k8s.io/portcullis-operator",
            true,
        ),
        (SYSTEM, "update", "leases.coordination.k8s.io/other", false),
        (SYSTEM, "list", "leases.coordination.k8s.io", false),
        (
            SYSTEM,
            "delete",
            "leases.coordination.k8s.io/portcullis-operator",
            false,
        ),
        (SYSTEM, "get", "secrets", false),
    ];
    let wrong: Vec<_> = expected
        .iter()
        .filter(|(place, verb, resource, answer)| {
            may(cluster, operator, verb, resource, place) != *answer
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_can_make_a_gateways_role_and_no_wider_one() {
    let Some(cluster) = guarded("escalation prevention").await else {
        return;
    };
    let namespace = cluster.namespace("roles").await;
    let place = namespace.name.as_str();
    let operator = cluster.impersonate_account(SYSTEM, "portcullis-operator");
    let rule = |group: &str, resource: &str, names: &[&str], verbs: &[&str]| PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        resource_names: (!names.is_empty())
            .then(|| names.iter().map(|&name| name.to_owned()).collect()),
        verbs: verbs.iter().map(|&verb| verb.to_owned()).collect(),
        ..PolicyRule::default()
    };
    let gateway = vec![
        rule("", "configmaps", &["mlflow-gateway"], &["get", "watch"]),
        rule(
            "portcullis.dev",
            "mcpapprovals",
            &[],
            &["get", "list", "watch", "create"],
        ),
        rule("portcullis.dev", "mcpapprovals/status", &[], &["update"]),
    ];
    let roles: Api<Role> = Api::namespaced(operator, place);
    let role = |name: &str, rules: Vec<PolicyRule>| Role {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        rules: Some(rules),
    };
    roles
        .create(
            &PostParams::default(),
            &role("mlflow-gateway", gateway.clone()),
        )
        .await
        .unwrap();
    for (name, more) in [
        ("secrets", rule("", "secrets", &[], &["get"])),
        (
            "decides",
            rule("portcullis.dev", "mcpapprovals", &[], &["update"]),
        ),
        ("runs", rule("", "pods", &[], &["create"])),
    ] {
        let mut rules = gateway.clone();
        rules.push(more);
        let refused = roles
            .create(&PostParams::default(), &role(name, rules))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("attempting to grant RBAC permissions not currently held"),
            "{name}: {refused}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_watch_namespaces_it_may_work_there_and_read_its_own_guardrails() {
    let Some(cluster) = guarded("the rights of an operator of some namespaces").await else {
        return;
    };
    let (watched, other) = (
        cluster.namespace("watched").await,
        cluster.namespace("unwatched").await,
    );
    let names = format!("watchNamespaces={{{watched}}}");
    // A second release beside the first, as docs/install.md has it.
    helm(
        cluster,
        [
            "install",
            "edge",
            CHART,
            "--namespace",
            "edge",
            "--create-namespace",
            "--set",
            &names,
            "--set",
            "crds.enabled=false,admissionPolicies.enabled=false,rbac.userRoles=false",
        ],
    )
    .ok();
    let operator = "edge:edge-portcullis-operator";
    let expected = [
        (watched.name.as_str(), "create", "deployments.apps", true),
        (&watched.name, "create", "secrets", true),
        (&watched.name, "list", "mcpservers.portcullis.dev", true),
        (&other.name, "create", "deployments.apps", false),
        (&other.name, "create", "secrets", false),
        (&other.name, "list", "mcpservers.portcullis.dev", false),
        (&other.name, "get", "configmaps", false),
        ("edge", "list", "mcppolicies.portcullis.dev", true),
        ("edge", "list", "mcpservers.portcullis.dev", false),
        ("edge", "create", "deployments.apps", false),
        ("edge", "create", "secrets", true),
        (
            "edge",
            "update",
            "leases.coordination.k8s.io/edge-portcullis-operator",
            true,
        ),
    ];
    let wrong: Vec<_> = expected
        .iter()
        .filter(|(place, verb, resource, answer)| {
            may(cluster, operator, verb, resource, place) != *answer
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    helm(cluster, ["uninstall", "edge", "--namespace", "edge"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn people_get_what_their_role_in_the_namespace_implies() {
    let Some(cluster) = guarded("the roles of people").await else {
        return;
    };
    let namespace = cluster.namespace("people").await;
    let place = namespace.name.as_str();
    let resources = ["mcpservers", "mcppolicies", "mcpapprovals"];
    let verbs = ["get", "create", "update", "patch", "delete"];
    let rights = |user: &str| {
        let user = format!("--as={user}");
        let mut found = BTreeMap::new();
        for resource in resources {
            let name = format!("{resource}.portcullis.dev");
            let may = |verb: &&str| {
                let printed =
                    cluster.kubectl(["auth", "can-i", verb, &name, "--namespace", place, &user]);
                printed.out.trim() == "yes"
            };
            found.insert(resource, verbs.into_iter().filter(may).collect::<Vec<_>>());
        }
        found
    };
    for role in ["view", "edit", "admin", "portcullis-approver"] {
        super::admission::grant(cluster, place, &format!("has-{role}"), role);
    }
    let read = BTreeMap::from(resources.map(|name| (name, vec!["get"])));
    // Aggregation is the controller manager's, so it takes a moment.
    eventually("view has what the chart adds", || async {
        let found = rights("has-view");
        if found == read { Ok(()) } else { Err(found) }
    })
    .await;
    assert_eq!(
        rights("has-edit"),
        read,
        "who edits a server runs images and uses Secrets"
    );
    let mut writes = read.clone();
    writes.insert("mcpservers", verbs.to_vec());
    writes.insert("mcppolicies", verbs.to_vec());
    eventually("admin has what the chart adds", || async {
        let found = rights("has-admin");
        if found == writes { Ok(()) } else { Err(found) }
    })
    .await;
    let approver = BTreeMap::from([
        ("mcpservers", vec![]),
        ("mcppolicies", vec![]),
        ("mcpapprovals", vec!["get", "update", "patch"]),
    ]);
    assert_eq!(rights("has-portcullis-approver"), approver);
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
