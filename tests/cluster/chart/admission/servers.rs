//! Who writes an McpServer must be allowed what it makes the operator do.

use serde_json::{Value, json};

use super::super::secret_fields;
use super::{create, guarded, patch, patch_status, pretend_create, server, writer};
use crate::support::cluster::Subject;

fn stdio() -> Value {
    json!({ "upstream": { "stdio": { "image": "registry.example/mlflow-mcp:0.4.1", "command": ["mlflow-mcp"] } } })
}

fn http() -> Value {
    json!({ "upstream": { "http": { "url": "http://mlflow-mcp.example/mcp" } } })
}

fn needs_pods(user: &str, namespace: &str) -> Result<(), String> {
    Err(format!(
        "portcullis-mcpservers: upstream.stdio runs an image in this namespace, so writing it needs the right to create \
         pods, which {user} does not have in {namespace}; ask for that right, or let a user who has it write this"
    ))
}

fn needs_secrets(user: &str, namespace: &str) -> Result<(), String> {
    Err(format!(
        "portcullis-mcpservers: this McpServer uses a Secret (or a volume that may), so writing it needs the right to get \
         Secrets, which {user} does not have in {namespace}; ask for that right, or let a user who has it write this"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_create_pods_cannot_have_a_server_run() {
    let Some(cluster) = guarded("the policy on stdio servers").await else {
        return;
    };
    let namespace = cluster.namespace("stdio").await;
    let place = namespace.name.as_str();
    let dev = writer(cluster, "dev");
    assert_eq!(
        create(&dev, place, &server("run", &stdio())).await,
        needs_pods("dev", place)
    );
    // Nor by a detour over a server that is only reached.
    assert_eq!(
        create(&dev, place, &server("reached", &http())).await,
        Ok(())
    );
    let change =
        json!({ "spec": { "upstream": { "http": null, "stdio": stdio()["upstream"]["stdio"] } } });
    assert_eq!(
        patch(&dev, place, "McpServer", "reached", change).await,
        needs_pods("dev", place)
    );

    let ops = writer(cluster, "ops");
    cluster
        .grant(place, Subject::User("ops"), "pod-creator")
        .await;
    assert_eq!(create(&ops, place, &server("run", &stdio())).await, Ok(()));
    // What somebody else was allowed to write is no door either.
    let change =
        json!({ "spec": { "upstream": { "stdio": { "image": "registry.example/other:1" } } } });
    assert_eq!(
        patch(&dev, place, "McpServer", "run", change).await,
        needs_pods("dev", place)
    );
    // A right in another namespace is none here.
    let other = cluster.namespace("other").await;
    assert_eq!(
        create(&ops, &other.name, &server("run", &stdio())).await,
        needs_pods("ops", &other.name)
    );
}

/// Labels would put the gateway among another Service's pods, a Service of type LoadBalancer opens
/// the cluster.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_create_what_a_gateway_has_cannot_shape_it() {
    let Some(cluster) = guarded("the policy on gateways' pods").await else {
        return;
    };
    let namespace = cluster.namespace("shaped").await;
    let place = namespace.name.as_str();
    let dev = writer(cluster, "dev");
    let with = |gateway: Value| {
        let mut spec = http();
        spec["gateway"] = gateway;
        spec
    };
    for (field, shape, what) in [
        (
            "pod",
            json!({ "labels": { "app": "payments" } }),
            "a pod in this namespace, so writing it needs the right to create pods",
        ),
        (
            "service",
            json!({ "type": "LoadBalancer" }),
            "a Service in this namespace, so writing it needs the right to create Services",
        ),
        (
            "networkPolicy",
            json!({ "enabled": false }),
            "NetworkPolicies in this namespace, so writing it needs the right to create NetworkPolicies",
        ),
    ] {
        let (name, spec) = (field.to_lowercase(), with(json!({ (field): shape })));
        let refused = format!(
            "portcullis-mcpservers: gateway.{field} shapes {what}, which dev does not have in {place}; ask for that right, \
             or let a user who has it write this"
        );
        assert_eq!(
            create(&dev, place, &server(&name, &spec)).await,
            Err(refused.clone())
        );
        let plain = with(json!({ "replicas": 2 }));
        assert_eq!(create(&dev, place, &server(&name, &plain)).await, Ok(()));
        let change = json!({ "spec": { "gateway": { (field): shape } } });
        assert_eq!(
            patch(&dev, place, "McpServer", &name, change).await,
            Err(refused)
        );
    }
}

/// The kubelet gives what is on a claim to the gateway's group, and the gateway writes there.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_create_pods_cannot_mount_a_claim_into_a_gateway() {
    let Some(cluster) = guarded("the policy on gateways' claims").await else {
        return;
    };
    let namespace = cluster.namespace("claims").await;
    let place = namespace.name.as_str();
    let dev = writer(cluster, "dev");
    let with = |local: Value| {
        let mut spec = http();
        spec["counters"] = json!({ "local": local });
        spec
    };
    let claimed = json!({ "persistentVolumeClaim": { "claimName": "payments" } });
    let refused = format!(
        "portcullis-mcpservers: counters.local.persistentVolumeClaim mounts a claim of this namespace into a pod, so writing it \
         needs the right to create pods, which dev does not have in {place}; ask for that right, or let a user who has it write \
         this"
    );
    let server_with = |local: &Value| server("claimed", &with(local.clone()));
    assert_eq!(
        create(&dev, place, &server_with(&claimed)).await,
        Err(refused.clone())
    );
    assert_eq!(create(&dev, place, &server_with(&json!({}))).await, Ok(()));
    let change = json!({ "spec": { "counters": { "local": claimed } } });
    assert_eq!(
        patch(&dev, place, "McpServer", "claimed", change).await,
        Err(refused)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_field_that_names_a_secret_needs_the_right_to_get_secrets() {
    let Some(cluster) = guarded("the policy on Secrets").await else {
        return;
    };
    let namespace = cluster.namespace("secrets").await;
    let place = namespace.name.as_str();
    // Both may run images; one may read Secrets as well.
    let (dev, ops) = (writer(cluster, "dev"), writer(cluster, "ops"));
    for user in ["dev", "ops"] {
        cluster
            .grant(place, Subject::User(user), "pod-creator")
            .await;
    }
    cluster
        .grant(place, Subject::User("ops"), "secret-reader")
        .await;
    let mut wrong = Vec::new();
    for (field, spec) in secret_fields::cases() {
        let object = server("uses-secrets", &spec);
        let without = pretend_create(&dev, place, &object).await;
        if without != needs_secrets("dev", place) {
            wrong.push(format!("{field}, without the right: {without:?}"));
        }
        let with = pretend_create(&ops, place, &object).await;
        if with != Ok(()) {
            wrong.push(format!("{field}, with the right: {with:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_a_kind_that_cannot_name_a_secret_needs_no_right_to_secrets() {
    let Some(cluster) = guarded("the policy on volumes").await else {
        return;
    };
    let namespace = cluster.namespace("volumes").await;
    let place = namespace.name.as_str();
    let dev = writer(cluster, "dev");
    cluster
        .grant(place, Subject::User("dev"), "pod-creator")
        .await;
    let named = json!({ "name": "c" });
    let mut spec = stdio();
    spec["upstream"]["stdio"]["volumes"] = json!([
        { "name": "a", "emptyDir": {} },
        { "name": "b", "configMap": named },
        { "name": "c", "persistentVolumeClaim": { "claimName": "c" } },
        { "name": "d", "downwardAPI": { "items": [] } },
        { "name": "e", "projected": { "sources": [{ "configMap": named }, { "serviceAccountToken": { "path": "t" } }] } },
        { "name": "f", "image": { "reference": "registry.example/data:1" } },
        { "name": "g", "ephemeral": { "volumeClaimTemplate": { "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } } } },
    ]);
    spec["upstream"]["stdio"]["env"] = json!([
        { "name": "A", "value": "b" }, { "name": "B", "valueFrom": { "configMapKeyRef": { "name": "c", "key": "k" } } },
        { "name": "C", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
    ]);
    spec["upstream"]["stdio"]["envFrom"] = json!([{ "configMapRef": named }]);
    assert_eq!(
        pretend_create(&dev, place, &server("volumes", &spec)).await,
        Ok(())
    );
    spec["upstream"]["stdio"]["volumes"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "name": "h", "nfs": { "server": "s", "path": "/" } }));
    assert_eq!(
        pretend_create(&dev, place, &server("volumes", &spec)).await,
        needs_secrets("dev", place),
        "a kind that is not on the list needs the right"
    );
}

/// The Secret would go to the new address.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_url_needs_the_right_to_the_secret_that_is_sent_there() {
    let Some(cluster) = guarded("the policy on changed addresses").await else {
        return;
    };
    let namespace = cluster.namespace("url").await;
    let place = namespace.name.as_str();
    let (dev, ops) = (writer(cluster, "dev"), writer(cluster, "ops"));
    cluster
        .grant(place, Subject::User("ops"), "secret-reader")
        .await;
    let mut spec = http();
    spec["upstream"]["http"]["headers"] = json!([{ "name": "Authorization", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } }]);
    assert_eq!(create(&ops, place, &server("sends", &spec)).await, Ok(()));
    let change = json!({ "spec": { "upstream": { "http": { "url": "http://dev.example/mcp" } } } });
    assert_eq!(
        patch(&dev, place, "McpServer", "sends", change.clone()).await,
        needs_secrets("dev", place)
    );
    assert_eq!(
        patch(&ops, place, "McpServer", "sends", change).await,
        Ok(())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_spec_may_be_changed_by_everybody_who_may_update() {
    let Some(cluster) = guarded("updates that the policies let pass").await else {
        return;
    };
    let namespace = cluster.namespace("labels").await;
    let place = namespace.name.as_str();
    let (dev, ops) = (writer(cluster, "dev"), writer(cluster, "ops"));
    for role in ["pod-creator", "secret-reader"] {
        cluster.grant(place, Subject::User("ops"), role).await;
    }
    let mut spec = stdio();
    spec["upstream"]["stdio"]["imagePullSecrets"] = json!([{ "name": "pull" }]);
    assert_eq!(create(&ops, place, &server("run", &spec)).await, Ok(()));
    let label = json!({ "metadata": { "labels": { "team": "ml" }, "annotations": { "example.com/note": "x" } } });
    assert_eq!(patch(&dev, place, "McpServer", "run", label).await, Ok(()));
    assert_eq!(
        patch(&dev, place, "McpServer", "run", json!({ "spec": spec })).await,
        Ok(()),
        "nothing changes"
    );
    assert_eq!(
        patch_status(
            &dev,
            place,
            "McpServer",
            "run",
            json!({ "url": "http://x" })
        )
        .await,
        Ok(())
    );
    // A server without images and Secrets is anybody's.
    assert_eq!(
        create(&dev, place, &server("reached", &http())).await,
        Ok(())
    );
    let change =
        json!({ "spec": { "upstream": { "http": { "url": "http://other.example/mcp" } } } });
    assert_eq!(
        patch(&dev, place, "McpServer", "reached", change).await,
        Ok(())
    );
}

/// The API server stops an expression that costs too much, which would refuse honest users.
#[tokio::test(flavor = "multi_thread")]
async fn the_largest_server_stays_within_the_budget_of_an_expression() {
    let Some(cluster) = guarded("the cost of the policies").await else {
        return;
    };
    let namespace = cluster.namespace("cost").await;
    let place = namespace.name.as_str();
    let ops = writer(cluster, "ops");
    for role in ["pod-creator", "secret-reader"] {
        cluster.grant(place, Subject::User("ops"), role).await;
    }
    let many =
        |count: usize, item: &dyn Fn(usize) -> Value| (0..count).map(item).collect::<Vec<_>>();
    let mut spec = stdio();
    let stdio = &mut spec["upstream"]["stdio"];
    stdio["env"] = json!(many(
        256,
        &|i| json!({ "name": format!("V{i}"), "value": "x".repeat(400) })
    ));
    stdio["envFrom"] = json!(many(
        64,
        &|i| json!({ "configMapRef": { "name": format!("c{i}") } })
    ));
    let sources = many(64, &|i| json!({ "configMap": { "name": format!("c{i}") } }));
    stdio["volumes"] = json!(many(
        64,
        &|i| json!({ "name": format!("v{i}"), "projected": { "sources": sources } })
    ));
    spec["authentication"]["jwt"] = json!(many(16, &|i| json!({
        "name": format!("p{i}"), "issuer": "https://sso.example", "audiences": ["a"],
        "jwks": { "secretKeyRef": { "name": "s", "key": "k" } } })));
    assert_eq!(create(&ops, place, &server("large", &spec)).await, Ok(()));
    let change = json!({ "spec": { "enforcement": "Audit" } });
    assert_eq!(
        patch(&ops, place, "McpServer", "large", change).await,
        Ok(())
    );
}

/// Whoever may write McpServers need not have the right to make pods, so the platform says how much
/// they may take.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_asks_for_no_more_than_the_platform_allows() {
    let Some(cluster) = guarded("the bounds of gateways").await else {
        return;
    };
    let namespace = cluster.namespace("bounds").await;
    let place = namespace.name.as_str();
    let dev = writer(cluster, "dev");
    let with = |gateway: Value| {
        let mut spec = http();
        spec["gateway"] = gateway;
        spec
    };
    let largest = [
        json!({ "replicas": 10 }),
        json!({ "autoscaling": { "minReplicas": 2, "maxReplicas": 10 } }),
        json!({ "resources": { "requests": { "cpu": 4, "memory": "4Gi" }, "limits": { "cpu": "4000m", "memory": "4096Mi", "ephemeral-storage": "1Gi" } } }),
    ];
    for (n, gateway) in largest.into_iter().enumerate() {
        let document = server(&format!("fits{n}"), &with(gateway));
        assert_eq!(create(&dev, place, &document).await, Ok(()));
    }
    let too_much = [
        (json!({ "replicas": 11 }), "gateway.replicas"),
        (
            json!({ "autoscaling": { "maxReplicas": 11 } }),
            "gateway.autoscaling",
        ),
        (
            json!({ "autoscaling": { "minReplicas": 1000, "maxReplicas": 1000 } }),
            "gateway.autoscaling",
        ),
        (
            json!({ "resources": { "requests": { "cpu": "4001m" } } }),
            "requests.cpu may be at most 4 here",
        ),
        (
            json!({ "resources": { "limits": { "cpu": 5 } } }),
            "limits.cpu may be at most 4 here",
        ),
        (
            json!({ "resources": { "requests": { "memory": "5Gi" } } }),
            "requests.memory may be at most 4Gi here",
        ),
        (
            json!({ "resources": { "limits": { "memory": "1Ti" } } }),
            "limits.memory may be at most 4Gi here",
        ),
        (
            json!({ "resources": { "limits": { "nvidia.com/gpu": 1 } } }),
            "a gateway has no use for others",
        ),
    ];
    for (n, (gateway, says)) in too_much.into_iter().enumerate() {
        let name = format!("more{n}");
        let refused = create(&dev, place, &server(&name, &with(gateway.clone()))).await;
        let told = refused.unwrap_err();
        assert!(
            told.starts_with("portcullis-mcpservers: ") && told.contains(says),
            "{gateway}: {told}"
        );
        // Nor by a change of one that fits.
        let change = json!({ "spec": { "gateway": gateway } });
        let told = patch(&dev, place, "McpServer", "fits0", change).await;
        assert!(told.is_err(), "{gateway}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_label_that_guardrails_select_by_is_changed_by_those_who_may_write_guardrails() {
    let Some(cluster) = guarded("locked labels").await else {
        return;
    };
    let namespace = cluster.namespace("labels").await;
    let place = namespace.name.as_str();
    let dev = cluster.impersonate("dev", &["editors-of-servers"]);
    cluster
        .grant(place, Subject::User("dev"), "server-writer")
        .await;
    let mut labelled = server("mlflow", &http());
    labelled["metadata"]["labels"] = json!({ "team": "ml", "free": "a" });
    assert_eq!(create(&dev, place, &labelled).await, Ok(()));
    let change = |labels: Value| json!({ "metadata": { "labels": labels } });
    for labels in [
        json!({ "team": "other" }),
        json!({ "team": null }),
        json!({ "example.com/tier": "x" }),
        json!(null),
    ] {
        let told = patch(&dev, place, "McpServer", "mlflow", change(labels.clone())).await;
        let told = told.unwrap_err();
        assert!(
            told.starts_with("portcullis-mcpserver-labels: ")
                && told.contains("team, example.com/tier"),
            "{labels}: {told}"
        );
    }
    let free = change(json!({ "free": "b", "another": "c" }));
    assert_eq!(
        patch(&dev, place, "McpServer", "mlflow", free).await,
        Ok(())
    );
    // Who may write every resource of Portcullis everywhere may write guardrails.
    let platform = writer(cluster, "platform");
    let moved = change(json!({ "team": "other" }));
    assert_eq!(
        patch(&platform, place, "McpServer", "mlflow", moved).await,
        Ok(())
    );
}
