//! What the chart renders for several kinds of user.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::helm::{CHART, Helm};
use super::values::{ALWAYS, EVERYTHING};

const DEPLOYMENT: &str = "Deployment portcullis-system/portcullis-operator";

fn without<'n>(names: &[&'n str], out: &[&str]) -> Vec<&'n str> {
    names
        .iter()
        .copied()
        .filter(|name| !out.contains(name))
        .collect()
}

fn container(deployment: &Value) -> &Value {
    &deployment["spec"]["template"]["spec"]["containers"][0]
}

#[test]
fn helm_lint_finds_nothing() {
    let Some(helm) = Helm::get("helm lint") else {
        return;
    };
    for values in [
        "{}",
        EVERYTHING,
        "{ watchNamespaces: [a, b], crds: { enabled: false } }",
    ] {
        let printed = helm
            .run(["lint", "--strict", CHART, "--values", "-"], values)
            .ok();
        assert!(
            printed.contains("1 chart(s) linted, 0 chart(s) failed"),
            "{printed}"
        );
    }
}

#[test]
fn the_defaults_render_what_is_always_needed_and_nothing_else() {
    let Some(helm) = Helm::get("the default rendering of the chart") else {
        return;
    };
    let objects = helm.template("{}");
    assert_eq!(objects.names(), ALWAYS);
    let deployment = objects.get(DEPLOYMENT);
    assert_eq!(
        container(deployment)["args"],
        json!([
            "--namespace=$(POD_NAMESPACE)",
            "--pod-name=$(POD_NAME)",
            "--gateway-image=portcullis-gateway:0.1.0",
            "--gateway-image-pull-policy=IfNotPresent",
            "--key-file=/etc/portcullis/key/key",
            "--key-secret=portcullis-operator-key",
            "--lease-name=portcullis-operator",
            "--lease-duration=15s",
            "--admin-listen=[::]:8081",
            "--approval-retention=168h",
            concat!(
                r#"--admin-from=[{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"portcullis-system"}},"#,
                r#""podSelector":{"matchLabels":{"app.kubernetes.io/component":"operator","#,
                r#""app.kubernetes.io/instance":"portcullis","app.kubernetes.io/name":"portcullis"}}}]"#
            ),
            "--log-format=json",
        ])
    );
    assert_eq!(deployment["spec"]["replicas"], 2);
    for (name, object) in &objects.0 {
        let keep = &object["metadata"]["annotations"]["helm.sh/resource-policy"];
        assert_eq!(
            keep == "keep",
            name.starts_with("CustomResourceDefinition"),
            "{name}"
        );
    }
}

#[test]
fn everything_optional_renders_together() {
    let Some(helm) = Helm::get("the full rendering of the chart") else {
        return;
    };
    let objects = helm.template(EVERYTHING);
    let mut expected: Vec<&str> = ALWAYS.to_vec();
    expected.extend([
        "ConfigMap portcullis-system/portcullis-dashboard",
        "PodMonitor portcullis-system/portcullis-gateways",
        "PrometheusRule portcullis-system/portcullis",
        "ServiceMonitor portcullis-system/portcullis-operator",
    ]);
    expected.sort_unstable();
    assert_eq!(objects.names(), expected);

    let deployment = objects.get(DEPLOYMENT);
    let digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    assert_eq!(
        container(deployment)["image"],
        format!("registry.example/platform/portcullis-operator@{digest}")
    );
    assert_eq!(
        container(deployment)["args"],
        json!([
            "--namespace=$(POD_NAMESPACE)",
            "--pod-name=$(POD_NAME)",
            "--gateway-image=registry.example/platform/gw:v9",
            "--gateway-image-pull-policy=Always",
            "--key-file=/etc/portcullis/key/key",
            "--lease-name=portcullis-operator",
            "--lease-duration=30s",
            "--admin-listen=[::]:8081",
            "--approval-retention=24h",
            concat!(
                r#"--admin-from=[{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"portcullis-system"}},"#,
                r#""podSelector":{"matchLabels":{"app.kubernetes.io/component":"operator","#,
                r#""app.kubernetes.io/instance":"portcullis","app.kubernetes.io/name":"portcullis"}}},"#,
                r#"{"namespaceSelector":{"matchLabels":{"kubernetes.io/metadata.name":"monitoring"}}}]"#
            ),
            "--log-format=text",
        ])
    );
    let spec = &deployment["spec"]["template"]["spec"];
    assert_eq!(
        spec["volumes"],
        json!([{ "name": "key", "secret": {
            "secretName": "our-key", "optional": false, "items": [{ "key": "hmac", "path": "key" }] } }])
    );
    // With a key of the user's own, the operator has none to make.
    assert_eq!(
        verbs_on(
            objects.get("Role portcullis-system/portcullis-operator-own"),
            "secrets"
        ),
        BTreeSet::new()
    );
    assert_eq!(
        objects.get("NetworkPolicy portcullis-system/portcullis-operator")["spec"]["ingress"],
        json!([{
            "ports": [{ "port": "admin", "protocol": "TCP" }],
            "from": [
                { "podSelector": { "matchLabels": {
                    "app.kubernetes.io/name": "portcullis",
                    "app.kubernetes.io/instance": "portcullis",
                    "app.kubernetes.io/component": "test" } } },
                { "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "monitoring" } } },
            ],
        }])
    );
    let dashboard = objects.get("ConfigMap portcullis-system/portcullis-dashboard");
    let shown: Value =
        serde_json::from_str(dashboard["data"]["portcullis.json"].as_str().unwrap()).unwrap();
    let file = std::fs::read_to_string(format!("{CHART}/files/dashboard.json")).unwrap();
    assert_eq!(shown, serde_json::from_str::<Value>(&file).unwrap());

    // Braces for Prometheus survive Helm's templates.
    let rules = objects
        .get("PrometheusRule portcullis-system/portcullis")
        .to_string();
    assert!(
        rules.contains("McpServer {{ $labels.namespace }}/{{ $labels.name }} is not ready"),
        "{rules}"
    );
    assert!(rules.contains("> 7"), "{rules}");
}

#[test]
fn with_watch_namespaces_the_operator_has_no_right_elsewhere() {
    let Some(helm) = Helm::get("rendering the chart for some namespaces") else {
        return;
    };
    let everywhere = helm.template("{}");
    let some = helm.template("watchNamespaces: [ml, research]");
    let mut expected = without(
        ALWAYS,
        &[
            "ClusterRole portcullis-operator",
            "ClusterRoleBinding portcullis-operator",
        ],
    );
    expected.extend([
        "Role ml/portcullis-operator",
        "Role research/portcullis-operator",
        "RoleBinding ml/portcullis-operator",
        "RoleBinding research/portcullis-operator",
    ]);
    expected.sort_unstable();
    assert_eq!(some.names(), expected);
    for role in [
        "Role ml/portcullis-operator",
        "Role research/portcullis-operator",
    ] {
        assert_eq!(
            some.get(role)["rules"],
            everywhere.get("ClusterRole portcullis-operator")["rules"]
        );
    }
    let args = container(some.get(DEPLOYMENT))["args"].as_array().unwrap();
    let watched: Vec<_> = args
        .iter()
        .filter(|arg| arg.as_str().unwrap().starts_with("--watch-namespace"))
        .collect();
    assert_eq!(
        watched,
        ["--watch-namespace=ml", "--watch-namespace=research"]
    );

    // Guardrails are read where the operator lives, watched or not, and not twice.
    let own = "Role portcullis-system/portcullis-operator-own";
    assert_eq!(
        verbs_on(some.get(own), "mcppolicies"),
        BTreeSet::from(["get", "list", "watch"])
    );
    let watches_itself = helm.template("watchNamespaces: [portcullis-system]");
    assert_eq!(
        verbs_on(watches_itself.get(own), "mcppolicies"),
        BTreeSet::new()
    );
    assert_eq!(
        verbs_on(everywhere.get(own), "mcppolicies"),
        BTreeSet::new()
    );
}

#[test]
fn what_is_switched_off_is_not_rendered() {
    let Some(helm) = Helm::get("rendering the chart with parts switched off") else {
        return;
    };
    let objects = helm.template(
        "{ crds: { enabled: false }, rbac: { userRoles: false }, admissionPolicies: { enabled: false },
           podDisruptionBudget: { enabled: false }, networkPolicy: { enabled: false } }",
    );
    assert_eq!(
        objects.names(),
        [
            "ClusterRole portcullis-operator",
            "ClusterRoleBinding portcullis-operator",
            "Deployment portcullis-system/portcullis-operator",
            "Pod portcullis-system/portcullis-operator-test",
            "Role portcullis-system/portcullis-operator-own",
            "RoleBinding portcullis-system/portcullis-operator-own",
            "Service portcullis-system/portcullis-operator-metrics",
            "ServiceAccount portcullis-system/portcullis-operator",
        ]
    );
    let one = helm.template("operator: { replicas: 1 }");
    assert_eq!(
        one.names(),
        without(
            ALWAYS,
            &["PodDisruptionBudget portcullis-system/portcullis-operator"]
        ),
        "a budget for one replica would stop every drain"
    );
    let unkept = helm.template("crds: { keep: false }");
    let definition = unkept.get("CustomResourceDefinition mcpservers.portcullis.dev");
    assert_eq!(definition["metadata"].get("annotations"), None);
}

#[test]
fn the_definitions_are_those_of_the_repository() {
    let Some(helm) = Helm::get("the definitions that the chart renders") else {
        return;
    };
    let objects = helm.template("{}");
    for name in ["mcpservers", "mcppolicies", "mcpapprovals"] {
        let file = format!("{}/crds/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        let plain: Value = serde_saphyr::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let rendered = objects.get(&format!("CustomResourceDefinition {name}.portcullis.dev"));
        assert!(rendered["spec"] == plain["spec"], "{name} differs");
    }
}

/// Escalation prevention: the API server lets the operator put into a gateway's Role only what it
/// holds itself.
#[test]
fn the_operator_holds_each_rule_of_a_gateway() {
    let Some(helm) = Helm::get("the rules that the chart renders") else {
        return;
    };
    let objects = helm.template("{}");
    let rules = objects.get("ClusterRole portcullis-operator")["rules"]
        .as_array()
        .unwrap();
    for rule in [
        json!({ "apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "watch"] }),
        json!({ "apiGroups": ["portcullis.dev"], "resources": ["mcpapprovals"],
                "verbs": ["get", "list", "watch", "create"] }),
        json!({ "apiGroups": ["portcullis.dev"], "resources": ["mcpapprovals/status"], "verbs": ["update"] }),
    ] {
        assert!(rules.contains(&rule), "{rule}");
    }
}

#[test]
fn a_release_of_another_name_has_names_of_its_own() {
    let Some(helm) = Helm::get("rendering the chart under another name") else {
        return;
    };
    let printed = helm.run(
        [
            "template",
            "edge",
            CHART,
            "--namespace",
            "edge",
            "--show-only",
            "templates/operator/deployment.yaml",
        ],
        "",
    );
    let text = printed.ok();
    assert!(text.contains("name: edge-portcullis-operator\n"), "{text}");
    assert!(
        text.contains("--key-secret=edge-portcullis-operator-key\n"),
        "{text}"
    );
    assert!(
        text.contains("--lease-name=edge-portcullis-operator\n"),
        "{text}"
    );
}

#[test]
fn the_service_accounts_that_decide_are_user_names_in_the_policy() {
    let Some(helm) = Helm::get("rendering the admission policies") else {
        return;
    };
    let objects = helm.template(EVERYTHING);
    let decisions = objects
        .get("ValidatingAdmissionPolicy portcullis-decisions")
        .to_string();
    assert!(
        decisions.contains("variables.user in ['system:serviceaccount:ops:approver-bot']"),
        "{decisions}"
    );
    let approvals = objects
        .get("ValidatingAdmissionPolicy portcullis-mcpapprovals")
        .to_string();
    assert!(
        approvals.contains(
            "['system:serviceaccount:portcullis-system:portcullis-operator', \
             'system:serviceaccount:team-b:b-portcullis-operator']"
        ),
        "{approvals}"
    );
}

/// The verbs that a role gives on a core or portcullis.dev resource.
fn verbs_on<'r>(role: &'r Value, resource: &str) -> BTreeSet<&'r str> {
    let rules = role["rules"].as_array().unwrap().iter();
    rules
        .filter(|rule| {
            rule["resources"]
                .as_array()
                .unwrap()
                .iter()
                .any(|name| name == resource)
        })
        .flat_map(|rule| rule["verbs"].as_array().unwrap())
        .map(|verb| verb.as_str().unwrap())
        .collect()
}
