use std::collections::BTreeMap;

use k8s_openapi::api::{apps, autoscaling, core, networking, policy, rbac};
use serde::Serialize;
use serde::de::DeserializeOwned;

use serde_json::json;

use super::metadata::{metadata, selector};
use super::pod::container_security;
use super::wanted::{Replicas, Settings};
use super::*;
use crate::api::server::McpServerSpec;
use crate::controller::args::{Egress, Peers};
use crate::controller::names::GATEWAY;

fn ident() -> Ident {
    Ident {
        namespace: "ml".to_owned(),
        name: "mlflow".to_owned(),
        uid: "u-1".to_owned(),
    }
}

fn settings() -> Settings {
    Settings {
        gateway_image: "portcullis/gateway:1".to_owned(),
        gateway_image_pull_policy: "IfNotPresent".to_owned(),
        admin_from: Peers(
            serde_json::from_value(
                json!([{ "namespaceSelector": { "matchLabels": { "name": "ops" } } }]),
            )
            .unwrap(),
        ),
        gateway_egress: Egress::default(),
    }
}

/// The NetworkPolicy of a component, if it has one.
fn network(spec: Value, egress: Egress, component: &str) -> Option<Value> {
    let settings = Settings {
        gateway_egress: egress,
        ..settings()
    };
    let children = children(spec, &settings, false, None);
    let name = format!("mlflow-{component}");
    let mut all = children.into_iter();
    let found = all.find(|one| one.kind == Kind::NetworkPolicy && one.name == name);
    found.map(|found| found.body["spec"].clone())
}

#[test]
fn gateways_connect_where_the_platform_lets_them_and_to_their_own_bridge() {
    let network = |spec: Value, egress: Egress| network(spec, egress, "gateway").unwrap();
    let open = network(http(), Egress(None));
    assert_eq!(
        (&open["policyTypes"], &open["egress"]),
        (&json!(["Ingress"]), &Value::Null)
    );
    let rules = json!([{ "ports": [{ "port": 53, "protocol": "UDP" }] }]);
    let some = Egress(serde_json::from_value(rules.clone()).unwrap());
    let closed = network(http(), some.clone());
    assert_eq!(closed["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(closed["egress"], rules);
    let own = json!({ "upstream": { "stdio": { "image": "i", "command": ["c"] } } });
    let stdio = network(own, some);
    assert_eq!(stdio["egress"][1]["ports"][0]["port"], json!(8000));
    let none = network(http(), Egress(Some(Vec::new())));
    assert_eq!(none["egress"], json!([]));
}

#[test]
fn a_server_adds_peers_and_ports_of_a_mesh_to_its_network_policies() {
    let mut spec = stdio();
    let from = json!([{ "namespaceSelector": { "matchLabels": { "agents": "yes" } } }]);
    // A port that is null would open every port.
    let ports = json!([{ "port": 15008 }, { "port": null, "protocol": "TCP" }]);
    spec["gateway"] = json!({ "networkPolicy": { "from": from, "ports": ports } });
    let port = |port: u16| json!({ "port": port, "protocol": "TCP" });
    let gateway = network(spec.clone(), Egress(None), "gateway").unwrap();
    assert_eq!(
        gateway["ingress"][0],
        json!({ "from": from, "ports": [port(8080), { "port": 15008 }] })
    );
    // Only the platform says who can reach the admin port.
    assert_eq!(gateway["ingress"][1]["ports"], json!([port(9090)]));
    assert_ne!(gateway["ingress"][1]["from"], from);
    let upstream = network(spec, Egress(None), "upstream").unwrap();
    assert_eq!(
        upstream["ingress"][0]["ports"],
        json!([port(8000), { "port": 15008 }])
    );
    // Not from everyone whom the gateway serves.
    assert_eq!(
        upstream["ingress"][0]["from"][0]["podSelector"]["matchLabels"],
        json!(selector(&ident(), GATEWAY).match_labels)
    );
}

#[test]
fn a_server_without_network_policies_still_connects_only_where_the_platform_lets_it() {
    let mut spec = stdio();
    spec["gateway"] = json!({ "networkPolicy": { "enabled": false } });
    for component in ["gateway", "upstream"] {
        assert_eq!(
            network(spec.clone(), Egress(None), component),
            None,
            "{component}"
        );
    }
    let removed = possible(&ident());
    for name in ["mlflow-gateway", "mlflow-upstream"] {
        assert!(
            removed.contains(&(Kind::NetworkPolicy, name.to_owned())),
            "{name}"
        );
    }
    let egress = network(spec, Egress(Some(Vec::new())), "gateway").unwrap();
    assert_eq!(egress["policyTypes"], json!(["Egress"]));
    assert_eq!(egress["egress"].as_array().unwrap().len(), 1);
}

#[test]
fn services_name_the_protocol_of_their_port_unless_a_cloud_would_probe_it() {
    let protocol = |gateway: Value| {
        let mut spec = stdio();
        spec["gateway"] = gateway;
        let children = built(spec, false, None);
        let service = &children[&(Kind::Service, "mlflow-gateway".to_owned())];
        service["spec"]["ports"][0]["appProtocol"].clone()
    };
    let tls = json!({ "secretRef": { "name": "tls" } });
    let stated = "kubernetes.io/ws";
    assert_eq!(protocol(json!({})), "http");
    assert_eq!(protocol(json!({ "tls": tls })), "https");
    assert_eq!(
        protocol(json!({ "service": { "type": "NodePort" } })),
        "http"
    );
    for none in [
        json!({ "type": "LoadBalancer" }),
        json!({ "appProtocol": "" }),
    ] {
        assert_eq!(protocol(json!({ "service": none })), Value::Null);
    }
    let service = json!({ "type": "LoadBalancer", "appProtocol": stated });
    assert_eq!(protocol(json!({ "service": service })), stated);
    let upstream = &built(stdio(), false, None)[&(Kind::Service, "mlflow-upstream".to_owned())];
    assert_eq!(upstream["spec"]["ports"][0]["appProtocol"], "http");
}

/// A quota on limits refuses every pod that has a container without.
#[test]
fn every_container_has_limits_whatever_of_its_resources_is_stated() {
    let mut shared = stdio();
    shared["upstream"]["stdio"]["sessions"] = json!("Shared");
    for (spec, memory) in [(shared, "2Gi"), (stdio(), "4Gi")] {
        let children = built(spec, false, None);
        for (component, memory) in [("gateway", "512Mi"), ("upstream", memory)] {
            let pod = &deployment(&children, component)["spec"]["template"]["spec"];
            let server = &pod["containers"][0]["resources"];
            assert_eq!(
                server["limits"],
                json!({ "cpu": "2", "memory": memory }),
                "{component}"
            );
            let all = ["containers", "initContainers"].map(|list| pod[list].as_array());
            for container in all.into_iter().flatten().flatten() {
                for amount in ["cpu", "memory"] {
                    let limits = &container["resources"]["limits"];
                    assert!(limits[amount].is_string(), "{component}: {container}");
                }
            }
        }
    }
    let mut stated = stdio();
    stated["gateway"] = json!({ "resources": {} });
    stated["upstream"]["stdio"]["resources"] = json!({
        "requests": { "cpu": "3" }, "limits": { "memory": "64Mi", "ephemeral-storage": "1Gi" },
    });
    let children = built(stated, false, None);
    let resources = |component| {
        let pod = &deployment(&children, component)["spec"]["template"]["spec"];
        pod["containers"][0]["resources"].clone()
    };
    let usual = json!({
        "requests": { "cpu": "50m", "memory": "32Mi" }, "limits": { "cpu": "2", "memory": "512Mi" },
    });
    assert_eq!(resources("gateway"), usual);
    // What is requested is not more than the limit.
    let completed = json!({
        "requests": { "cpu": "3" },
        "limits": { "cpu": "3", "memory": "64Mi", "ephemeral-storage": "1Gi" },
    });
    assert_eq!(resources("upstream"), completed);
}

fn children(
    spec: Value,
    settings: &Settings,
    alone: bool,
    replicas: Option<Replicas>,
) -> Vec<Child> {
    let spec: McpServerSpec = serde_json::from_value(spec).unwrap();
    build(&Wanted {
        ident: &ident(),
        spec: &spec,
        settings,
        alone,
        bundle_keys: &[],
        replicas,
    })
    .unwrap()
}

fn built(spec: Value, alone: bool, replicas: Option<Replicas>) -> BTreeMap<(Kind, String), Value> {
    children(spec, &settings(), alone, replicas)
        .into_iter()
        .map(|child| ((child.kind, child.name), child.body))
        .collect()
}

fn http() -> Value {
    json!({ "upstream": { "http": { "url": "http://mlflow/mcp" } } })
}

fn stdio() -> Value {
    json!({
        "upstream": { "stdio": {
            "image": "example/mlflow-mcp:1",
            "command": ["mlflow-mcp"],
            "args": ["--verbose"],
            "env": [{ "name": "MLFLOW_TRACKING_URI", "value": "http://mlflow" }],
            "sessions": "PerSession",
            "volumeMounts": [{ "name": "mine", "mountPath": "/tmp/" }],
            "volumes": [{ "name": "mine", "emptyDir": {} }],
        }, "maxRequestBytes": "1Mi" },
        "authentication": { "apiKeys": { "secretRef": { "name": "agents" } } },
    })
}

fn deployment(children: &BTreeMap<(Kind, String), Value>, component: &str) -> Value {
    children[&(Kind::Deployment, format!("mlflow-{component}"))].clone()
}

/// The body, read and written as its type: what the type does not know would be lost.
fn as_typed<T: DeserializeOwned + Serialize>(body: &Value) -> Value {
    serde_json::to_value(serde_json::from_value::<T>(body.clone()).unwrap()).unwrap()
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.clone(), without_nulls(value)))
            .collect(),
        Value::Array(list) => list.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

#[test]
fn every_field_of_every_child_is_one_that_its_kind_has() {
    let mut spec = stdio();
    spec["gateway"] = json!({
        "autoscaling": {}, "tls": { "secretRef": { "name": "tls" } },
        "service": { "type": "LoadBalancer", "annotations": { "a": "b" }, "appProtocol": "tcp" },
        "networkPolicy": { "from": [{ "ipBlock": { "cidr": "10.0.0.0/8" } }],
                           "ports": [{ "port": 15000, "endPort": 15100, "protocol": "UDP" }] },
        "imagePullSecrets": [{ "name": "pull" }],
        "pod": { "labels": { "team": "ml" }, "annotations": { "x": "y" }, "nodeSelector": { "disk": "ssd" },
                 "tolerations": [{ "key": "k", "operator": "Exists" }], "priorityClassName": "high",
                 "affinity": { "nodeAffinity": {} } },
    });
    for (key, body) in built(spec, false, None) {
        let typed = match key.0 {
            Kind::ServiceAccount => as_typed::<core::v1::ServiceAccount>(&body),
            Kind::Role => as_typed::<rbac::v1::Role>(&body),
            Kind::RoleBinding => as_typed::<rbac::v1::RoleBinding>(&body),
            Kind::ConfigMap => as_typed::<core::v1::ConfigMap>(&body),
            Kind::Service => as_typed::<core::v1::Service>(&body),
            Kind::NetworkPolicy => as_typed::<networking::v1::NetworkPolicy>(&body),
            Kind::Deployment => as_typed::<apps::v1::Deployment>(&body),
            Kind::PodDisruptionBudget => as_typed::<policy::v1::PodDisruptionBudget>(&body),
            Kind::HorizontalPodAutoscaler => {
                as_typed::<autoscaling::v2::HorizontalPodAutoscaler>(&body)
            }
        };
        assert_eq!(typed, without_nulls(&body), "{key:?}");
    }
}

#[test]
fn every_child_belongs_to_its_server_and_says_so() {
    for ((_, name), body) in built(stdio(), true, None) {
        let component = if name.ends_with("upstream") {
            "upstream"
        } else {
            "gateway"
        };
        let own = serde_json::to_value(metadata(&ident(), &name, component)).unwrap();
        assert_eq!(body["metadata"], own);
        assert_eq!(body["metadata"]["ownerReferences"][0]["uid"], "u-1");
    }
}

#[test]
fn a_plain_server_has_what_its_gateway_needs_and_no_more() {
    let kinds: Vec<(Kind, String)> = built(http(), false, None).into_keys().collect();
    let gateway = || "mlflow-gateway".to_owned();
    assert_eq!(
        kinds,
        [
            (Kind::ServiceAccount, gateway()),
            (Kind::Role, gateway()),
            (Kind::RoleBinding, gateway()),
            (Kind::Service, gateway()),
            (Kind::NetworkPolicy, gateway()),
            (Kind::Deployment, gateway()),
        ]
    );
}

#[test]
fn a_gateway_may_read_its_own_bundle_and_ask_for_approvals_and_nothing_else() {
    let children = built(http(), false, None);
    assert_eq!(
        children[&(Kind::Role, "mlflow-gateway".to_owned())]["rules"],
        json!([
            { "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["mlflow-gateway"], "verbs": ["get", "watch"] },
            { "apiGroups": ["portcullis.dev"], "resources": ["mcpapprovals"], "verbs": ["get", "list", "watch", "create"] },
            { "apiGroups": ["portcullis.dev"], "resources": ["mcpapprovals/status"], "verbs": ["update"] },
        ])
    );
}

#[test]
fn the_server_is_started_by_the_bridge_and_reached_only_with_its_bearer() {
    let children = built(stdio(), false, None);
    let upstream = deployment(&children, "upstream");
    let pod = &upstream["spec"]["template"]["spec"];
    assert_eq!(pod["initContainers"][0]["image"], "portcullis/gateway:1");
    assert_eq!(
        pod["initContainers"][0]["args"],
        json!(["install", "/portcullis"])
    );
    let server = &pod["containers"][0];
    assert_eq!(server["command"], json!(["/portcullis/portcullis-gateway"]));
    assert_eq!(
        server["args"],
        json!([
            "bridge",
            "--listen=[::]:8000",
            "--bearer-file=/etc/portcullis-bearer/bearer",
            "--name=ml/mlflow",
            "--sessions=per-session",
            "--session-idle-timeout=1800",
            "--max-request-bytes=1114112",
            "--termination-log=/dev/termination-log",
            "--pass-env=*",
            "--",
            "mlflow-mcp",
            "--verbose"
        ])
    );
    assert_eq!(pod["automountServiceAccountToken"], false);
    let secret = pod["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|volume| volume["name"] == "portcullis-bearer")
        .unwrap();
    assert_eq!(
        secret["secret"],
        json!({ "secretName": "mlflow-upstream-bearer-u-1", "defaultMode": 0o440 })
    );
    let paths: Vec<&str> = server["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["mountPath"].as_str().unwrap())
        .collect();
    assert_eq!(
        paths,
        [
            "/tmp/",
            "/portcullis",
            "/etc/portcullis-bearer",
            "/home/portcullis"
        ],
        "the user's own /tmp is left alone"
    );
    let gateway = deployment(&children, "gateway");
    let args = gateway["spec"]["template"]["spec"]["containers"][0]["args"]
        .as_array()
        .unwrap();
    assert!(args.contains(&json!(
        "--upstream-url=http://mlflow-upstream.ml.svc:8000/mcp"
    )));
    assert!(args.contains(&json!(
        "--upstream-bearer-file=/etc/portcullis/upstream/bearer"
    )));
    let policy = &children[&(Kind::NetworkPolicy, "mlflow-upstream".to_owned())]["spec"];
    assert_eq!(
        policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"],
        json!(selector(&ident(), GATEWAY).match_labels)
    );
}

#[test]
fn credentials_of_callers_are_mounted_where_they_are_used_and_nowhere_else() {
    let secrets = |children: &BTreeMap<(Kind, String), Value>, component: &str| {
        let pod = deployment(children, component)["spec"]["template"]["spec"].clone();
        let mounts = pod["containers"][0]["volumeMounts"].clone();
        let path = |volume: &Value| {
            let mut all = mounts.as_array().unwrap().iter();
            let mount = all.find(|mount| mount["name"] == volume["name"]).unwrap();
            assert_eq!(mount["readOnly"], true);
            mount["mountPath"].as_str().unwrap().to_owned()
        };
        let volumes = pod["volumes"].as_array().unwrap().iter();
        let secrets = volumes.filter(|volume| volume["secret"]["optional"] == true);
        secrets.map(path).collect::<Vec<_>>()
    };
    let secret = |variable: &str, name: &str| json!({ "name": variable, "valueFrom": { "secretKeyRef": { "name": name, "key": "k" } } });
    let mut spec = stdio();
    spec["upstream"]["stdio"]["credentials"] = json!([
        { "callers": ["key:a"], "env": [{ "name": "USER", "value": "a" }, secret("PASSWORD", "of-a")] },
        { "callers": ["key:b"], "env": [secret("USER", "of-b"), secret("PASSWORD", "of-b")] },
    ]);
    let children = built(spec, false, None);
    assert_eq!(
        secrets(&children, "upstream"),
        [
            "/etc/portcullis-credentials/of-a",
            "/etc/portcullis-credentials/of-b"
        ]
    );
    // The gateway names a credential, and never has it.
    assert_eq!(
        secrets(&children, "gateway"),
        [
            "/etc/portcullis/sealing",
            "/etc/portcullis/upstream",
            "/etc/portcullis/secrets/agents"
        ]
    );
    let upstream = deployment(&children, "upstream");
    let args = upstream["spec"]["template"]["spec"]["containers"][0]["args"]
        .as_array()
        .unwrap();
    let end = args.iter().position(|arg| arg == "--").unwrap();
    assert_eq!(
        args[end - 3..end],
        [
            json!("--credentials-dir=/etc/portcullis-credentials"),
            json!(
                r#"--credential=[{"name":"USER","value":"a"},{"name":"PASSWORD","secret":"of-a","key":"k"}]"#
            ),
            json!(
                r#"--credential=[{"name":"USER","secret":"of-b","key":"k"},{"name":"PASSWORD","secret":"of-b","key":"k"}]"#
            ),
        ]
    );
    let mut spec = http();
    spec["upstream"]["http"]["credentials"] = json!([
        { "callers": ["key:a"], "headers": [secret("Authorization", "of-a")] },
        { "callers": ["key:b"], "headers": [secret("Authorization", "of-b")] },
    ]);
    let children = built(spec, false, None);
    assert_eq!(
        secrets(&children, "gateway"),
        [
            "/etc/portcullis/sealing",
            "/etc/portcullis/secrets/of-a",
            "/etc/portcullis/secrets/of-b"
        ]
    );
}

/// <https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted>
#[test]
fn pods_meet_the_restricted_standard() {
    let children = built(stdio(), false, None);
    for component in ["gateway", "upstream"] {
        let deployment = deployment(&children, component);
        let pod = &deployment["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_ne!(pod["securityContext"]["runAsUser"], 0);
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"],
            "RuntimeDefault"
        );
        let none = Vec::new();
        let containers = pod["containers"]
            .as_array()
            .unwrap()
            .iter()
            .chain(pod["initContainers"].as_array().unwrap_or(&none));
        for container in containers {
            assert_eq!(container["securityContext"], json!(container_security()));
        }
    }
}

#[test]
fn secrets_are_mounted_and_may_be_missing() {
    let mut spec = http();
    spec["upstream"]["http"] = json!({
        "url": "https://mlflow/mcp",
        "headers": [{ "name": "Authorization", "valueFrom": { "secretKeyRef": { "name": "token", "key": "t" } } }],
        "tls": { "caSecretRef": { "name": "ca", "key": "ca.crt" } },
    });
    spec["authentication"] = json!({ "apiKeys": { "secretRef": { "name": "agents" } } });
    let children = built(spec, false, None);
    let pod = deployment(&children, "gateway")["spec"]["template"]["spec"].clone();
    let mounted: Vec<(String, String)> = pod["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|volume| volume.get("secret").is_some())
        .map(|volume| {
            assert_eq!(volume["secret"]["optional"], true);
            let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
            let mount = mounts
                .iter()
                .find(|mount| mount["name"] == volume["name"])
                .unwrap();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            (
                text(&volume["secret"]["secretName"]),
                text(&mount["mountPath"]),
            )
        })
        .collect();
    let at = |name: &str, path: &str| (name.to_owned(), format!("/etc/portcullis/{path}"));
    assert_eq!(
        mounted,
        [
            at("mlflow-gateway-sealing-u-1", "sealing"),
            at("agents", "secrets/agents"),
            at("ca", "secrets/ca"),
            at("token", "secrets/token"),
        ]
    );
}

#[test]
fn nobody_reaches_the_admin_port_unless_the_operator_says_who() {
    let children = built(http(), false, None);
    let policy = &children[&(Kind::NetworkPolicy, "mlflow-gateway".to_owned())]["spec"];
    assert_eq!(policy["ingress"].as_array().unwrap().len(), 2);
    assert_eq!(
        policy["ingress"][0],
        json!({ "ports": [{ "port": 8080, "protocol": "TCP" }] })
    );
    assert_eq!(
        policy["ingress"][1]["from"][0]["namespaceSelector"]["matchLabels"]["name"],
        "ops"
    );
    let spec: McpServerSpec = serde_json::from_value(http()).unwrap();
    let closed = Settings {
        admin_from: Peers::default(),
        ..settings()
    };
    let children = build(&Wanted {
        ident: &ident(),
        spec: &spec,
        settings: &closed,
        alone: false,
        bundle_keys: &[],
        replicas: None,
    })
    .unwrap();
    let policy = children
        .iter()
        .find(|child| child.kind == Kind::NetworkPolicy)
        .unwrap();
    assert_eq!(policy.body["spec"]["ingress"].as_array().unwrap().len(), 1);
}

#[test]
fn replicas_are_left_to_whoever_scales_but_limits_in_memory_allow_one_gateway_only() {
    let now = |now, others| Some(Replicas { now, others });
    let replicas = |gateway: Value, alone: bool, live: Option<Replicas>| {
        let mut spec = http();
        spec["gateway"] = gateway;
        let deployment = deployment(&built(spec, alone, live), "gateway");
        (
            deployment["spec"].get("replicas").cloned(),
            deployment["spec"]["strategy"]["type"].clone(),
        )
    };
    let some = |replicas: i64| Some(json!(replicas));
    assert_eq!(replicas(json!({}), false, None).0, some(1));
    assert_eq!(
        replicas(json!({ "replicas": 3 }), false, now(1, false)).0,
        some(3)
    );
    assert_eq!(
        replicas(json!({}), false, now(4, true)).0,
        None,
        "kubectl scale"
    );
    assert_eq!(
        replicas(json!({}), false, now(4, false)).0,
        some(1),
        "replicas: 4 was taken out of the spec"
    );
    assert_eq!(
        replicas(json!({ "autoscaling": {} }), false, None).0,
        some(2)
    );
    assert_eq!(
        replicas(json!({ "autoscaling": {} }), false, now(5, false)).0,
        some(5),
        "the autoscaler has not taken over yet"
    );
    assert_eq!(
        replicas(json!({ "autoscaling": {} }), false, now(5, true)).0,
        None
    );
    assert_eq!(
        replicas(json!({}), true, now(4, true)),
        (some(1), json!("Recreate"))
    );
    assert_eq!(replicas(json!({ "replicas": 0 }), true, None).0, some(0));
}

#[test]
fn several_replicas_are_disrupted_one_at_a_time() {
    let has = |gateway: Value| {
        let mut spec = http();
        spec["gateway"] = gateway;
        let children = built(spec, false, None);
        let name = "mlflow-gateway".to_owned();
        (
            children.contains_key(&(Kind::PodDisruptionBudget, name.clone())),
            children.contains_key(&(Kind::HorizontalPodAutoscaler, name)),
        )
    };
    assert_eq!(has(json!({ "replicas": 1 })), (false, false));
    assert_eq!(has(json!({ "replicas": 2 })), (true, false));
    assert_eq!(has(json!({ "autoscaling": {} })), (true, true));
    assert_eq!(
        has(json!({ "autoscaling": { "minReplicas": 1 } })),
        (false, true)
    );
}

/// Servers that together use every field that a child depends on.
fn samples() -> BTreeMap<&'static str, Vec<Child>> {
    let pod = json!({
        "labels": { "team": "ml", "app.kubernetes.io/name": "theirs" }, "annotations": { "x": "y" },
        "nodeSelector": { "disk": "ssd" }, "priorityClassName": "high",
        "tolerations": [{ "key": "k", "operator": "Exists", "tolerationSeconds": 0 }],
        "affinity": { "nodeAffinity": {} },
    });
    let resources = json!({ "requests": { "cpu": "1000m" }, "limits": { "memory": "1Gi" } });
    let mut full_stdio = stdio();
    full_stdio["upstream"]["stdio"].as_object_mut().unwrap().extend(
        json!({
            "pod": pod, "resources": resources, "serviceAccountName": "theirs", "runAsUser": 1_000,
            "imagePullSecrets": [{ "name": "pull" }, { "name": "own" }],
            "env": [
                { "name": "A", "value": "" }, { "name": "HOME", "value": "/h" }, { "name": "A", "value": "last" },
                { "name": "B", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k", "optional": false } } },
            ],
            "envFrom": [{ "prefix": "P_", "secretRef": { "name": "s" } }],
            "volumes": [{ "name": "mine", "emptyDir": {} }, { "name": "map", "configMap": { "name": "m", "defaultMode": 0 } }],
        })
        .as_object()
        .unwrap()
        .clone(),
    );
    full_stdio["gateway"] = json!({
        "replicas": 3, "port": 8443, "tls": { "secretRef": { "name": "tls" } }, "pod": pod, "resources": resources,
        "service": { "type": "LoadBalancer", "annotations": { "a": "b" } }, "imagePullSecrets": [{ "name": "pull" }],
    });
    let mut scaled = http();
    scaled["upstream"]["http"] = json!({
        "url": "https://mlflow/mcp", "tls": { "caSecretRef": { "name": "ca", "key": "ca.crt" } },
        "headers": [{ "name": "Authorization", "valueFrom": { "secretKeyRef": { "name": "token", "key": "t" } } }],
    });
    scaled["gateway"] =
        json!({ "autoscaling": { "minReplicas": 2, "maxReplicas": 5 }, "resources": {} });
    let egress = json!([{ "to": [{ "ipBlock": { "cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"] } }], "ports": [{ "port": 53, "protocol": "UDP" }] }, {}]);
    let closed = Settings {
        admin_from: Peers::default(),
        gateway_egress: Egress(serde_json::from_value(egress).unwrap()),
        ..settings()
    };
    let key = crate::controller::key::OperatorKey::new(b"0123456789abcdef", "key").unwrap();
    let of = |spec: &Value, settings: &Settings, alone, replicas| {
        build(&Wanted {
            ident: &ident(),
            spec: &serde_json::from_value::<McpServerSpec>(spec.clone()).unwrap(),
            settings,
            alone,
            bundle_keys: key.public(),
            replicas,
        })
        .unwrap()
    };
    let live = |now, others| Some(Replicas { now, others });
    BTreeMap::from([
        ("http", of(&http(), &settings(), false, None)),
        ("http, closed", of(&http(), &closed, false, live(4, true))),
        (
            "http, alone",
            of(&http(), &settings(), true, live(2, false)),
        ),
        ("scaled", of(&scaled, &settings(), false, live(9, false))),
        ("stdio", of(&stdio(), &settings(), false, None)),
        (
            "stdio, full",
            of(&full_stdio, &closed, false, live(1, false)),
        ),
    ])
}

/// What the API server is sent, byte by byte: a field that appears, goes, or becomes empty is
/// applied to every child of every server when the operator is upgraded, and another pod template
/// rolls all pods.
#[test]
fn the_children_are_sent_as_the_release_before_sent_them() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/controller/server/build/tests/children.txt"
    );
    let mut text = String::new();
    for (sample, children) in samples() {
        for child in children {
            let (kind, name) = (child.kind.as_str(), &child.name);
            text.push_str(&format!("{sample}: {kind} {name}\n{}\n", child.body));
        }
    }
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let before = std::fs::read_to_string(path).unwrap();
    for (now, before) in text.lines().zip(before.lines()) {
        assert_eq!(
            now, before,
            "if this is meant, run the test once with UPDATE=1"
        );
    }
    assert_eq!(text.lines().count(), before.lines().count());
}
