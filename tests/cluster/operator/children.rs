//! Children: nobody else's are touched, ours are kept as they should be.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use portcullis::api::condition::ConditionType;
use serde_json::json;

use super::rig::{Room, allow, call, policy, server};
use crate::support::eventually;
use crate::support::wire::upstream::Fake;

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_is_a_conflict_and_the_other_object_is_left_alone() {
    let Some(room) = Room::open("name conflicts").await else {
        return;
    };
    let services: Api<Service> = Api::namespaced(room.client.clone(), room.name());
    let taken: Service = serde_json::from_value(json!({
        "metadata": {"name": "mlflow-gateway", "labels": {"mine": "yes"}},
        "spec": {"selector": {"app": "mine"}, "ports": [{"port": 80}]},
    }))
    .unwrap();
    let before = services
        .create(&PostParams::default(), &taken)
        .await
        .unwrap();
    let fake = Fake::start(&["get_run"]).await;
    room.serve("mlflow", &fake);
    room.server_is("mlflow", ConditionType::Accepted, "False", "NameConflict")
        .await;
    let after = services.get("mlflow-gateway").await.unwrap();
    assert_eq!(
        after.metadata.resource_version,
        before.metadata.resource_version
    );
    services
        .delete("mlflow-gateway", &DeleteParams::default())
        .await
        .unwrap();
    // Nobody touches the server: the operator tries again by itself.
    room.open_to_all("mlflow");
    room.ready("mlflow").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_somebody_deleted_are_back_when_a_pod_needs_them() {
    let Some(room) = Room::open("deleted keys").await else {
        return;
    };
    let fake = Fake::start(&["get_run"]).await;
    room.serve("mlflow", &fake);
    room.open_to_all("mlflow");
    let server = room.ready("mlflow").await;
    let secrets: Api<Secret> = Api::namespaced(room.client.clone(), room.name());
    let name = format!("mlflow-gateway-sealing-{}", server.uid().unwrap());
    let before = secrets.get(&name).await.unwrap();
    secrets
        .delete(&name, &DeleteParams::default())
        .await
        .unwrap();
    room.replace_gateway("mlflow").await;
    let after = secrets.get(&name).await.unwrap();
    assert_ne!(before.uid(), after.uid());
    assert!(before.data != after.data, "a key is never made twice");
    assert_eq!(call(&room.agent("mlflow").await, "get_run").await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_changes_or_deletes_is_put_right() {
    let Some(room) = Room::open("drift").await else {
        return;
    };
    let fake = Fake::start(&["get_run"]).await;
    room.serve("mlflow", &fake);
    room.apply(&policy("p", "mlflow", json!([allow("reads", &["get_*"])])));
    room.ready("mlflow").await;
    let services: Api<Service> = Api::namespaced(room.client.clone(), room.name());
    let foreign = PatchParams::apply("somebody").force();
    let patch = json!({"apiVersion": "v1", "kind": "Service", "spec": {"selector": {"portcullis.dev/server": "another"}}});
    services
        .patch("mlflow-gateway", &foreign, &Patch::Apply(&patch))
        .await
        .unwrap();
    eventually("the selector is put right", || async {
        let selector = services
            .get("mlflow-gateway")
            .await
            .unwrap()
            .spec
            .unwrap()
            .selector
            .unwrap();
        if selector["portcullis.dev/server"] == "mlflow" {
            Ok(())
        } else {
            Err(selector)
        }
    })
    .await;
    // A port in the place of ours, under the same name: both together would be refused.
    let ports = json!({"spec": {"ports": [{"name": "http", "port": 9999, "targetPort": "http"}]}});
    services
        .patch(
            "mlflow-gateway",
            &PatchParams::default(),
            &Patch::Merge(&ports),
        )
        .await
        .unwrap();
    let deployments: Api<Deployment> = Api::namespaced(room.client.clone(), room.name());
    let image = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "gateway", "image": "evil"}, {"name": "beside", "image": "evil"}]}}}});
    deployments
        .patch(
            "mlflow-gateway",
            &PatchParams::default(),
            &Patch::Strategic(&image),
        )
        .await
        .unwrap();
    eventually("the containers are put right", || async {
        let deployment = deployments.get("mlflow-gateway").await.unwrap();
        let pod = deployment.spec.unwrap().template.spec.unwrap();
        let images: Vec<String> = pod
            .containers
            .into_iter()
            .filter_map(|container| container.image)
            .collect();
        match images.as_slice() {
            [one] if one.contains("portcullis-gateway") => Ok(()),
            _ => Err(images),
        }
    })
    .await;
    for (kind, name) in [
        ("serviceaccount", "mlflow-gateway"),
        ("role", "mlflow-gateway"),
        ("networkpolicy", "mlflow-gateway"),
    ] {
        room.cluster
            .kubectl(["delete", kind, name, "-n", room.name()])
            .ok();
        eventually("it is there again", || async {
            let printed = room
                .cluster
                .kubectl([
                    "get",
                    kind,
                    name,
                    "-n",
                    room.name(),
                    "--ignore-not-found",
                    "-o",
                    "name",
                ])
                .ok();
            if printed.trim().is_empty() {
                Err(printed)
            } else {
                Ok(())
            }
        })
        .await;
    }
    room.ready("mlflow").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_bundle_is_written_again_above_what_gateways_have() {
    let Some(room) = Room::open("deleted bundles").await else {
        return;
    };
    let fake = Fake::start(&["get_run"]).await;
    room.serve("mlflow", &fake);
    room.apply(&policy("p", "mlflow", json!([allow("reads", &["get_*"])])));
    room.ready("mlflow").await;
    let maps: Api<ConfigMap> = Api::namespaced(room.client.clone(), room.name());
    let sequence = |map: &ConfigMap| {
        let bundle: serde_json::Value =
            serde_json::from_str(&map.data.as_ref().unwrap()["bundle.json"]).unwrap();
        bundle["sequence"].as_u64().unwrap()
    };
    let before = maps.get("mlflow-gateway").await.unwrap();
    maps.delete("mlflow-gateway", &DeleteParams::default())
        .await
        .unwrap();
    let after = eventually("another bundle", || async {
        maps.get_opt("mlflow-gateway").await.unwrap().ok_or("none")
    })
    .await;
    assert_ne!(after.uid(), before.uid());
    assert!(sequence(&after) > sequence(&before));
    assert_eq!(call(&room.agent("mlflow").await, "get_run").await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_is_named_and_taken_when_it_comes() {
    let Some(room) = Room::open("missing Secrets").await else {
        return;
    };
    let fake = Fake::start(&["get_run"]).await;
    let mut document = server("mlflow", &fake);
    document["spec"]["authentication"] = json!({"apiKeys": {"secretRef": {"name": "agents"}}});
    room.apply(&document);
    room.apply(&policy("p", "mlflow", json!([allow("reads", &["get_*"])])));
    let waiting = room
        .server_is("mlflow", ConditionType::Ready, "False", "SecretMissing")
        .await;
    let text = serde_json::to_string(&waiting.status).unwrap();
    assert!(text.contains("agents"), "{text}");
    let secrets: Api<Secret> = Api::namespaced(room.client.clone(), room.name());
    let secret: Secret = serde_json::from_value(json!({
        "metadata": {"name": "agents"}, "stringData": {"trainer": "not-a-secret-but-a-test-0123456789"},
    }))
    .unwrap();
    secrets
        .create(&PostParams::default(), &secret)
        .await
        .unwrap();
    room.ready("mlflow").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_made_anew_does_not_adopt_what_the_one_before_left() {
    let Some(room) = Room::open("owners made anew").await else {
        return;
    };
    let fake = Fake::start(&["get_run"]).await;
    room.serve("mlflow", &fake);
    room.open_to_all("mlflow");
    let first = room.ready("mlflow").await;
    room.cluster
        .kubectl([
            "delete",
            "mcpservers.portcullis.dev",
            "mlflow",
            "-n",
            room.name(),
            "--cascade=orphan",
        ])
        .ok();
    room.serve("mlflow", &fake);
    let second = room
        .server_is("mlflow", ConditionType::Accepted, "False", "NameConflict")
        .await;
    assert_ne!(first.uid(), second.uid());
    let maps: Api<ConfigMap> = Api::namespaced(room.client.clone(), room.name());
    let map = maps.get("mlflow-gateway").await.unwrap();
    assert!(!map.data.unwrap()["bundle.json"].contains(&second.uid().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_follow_the_spec_and_whoever_scales() {
    let Some(room) = Room::open("replicas").await else {
        return;
    };
    let fake = Fake::start(&["get_run"]).await;
    room.serve("mlflow", &fake);
    room.open_to_all("mlflow");
    room.ready("mlflow").await;
    let with = |gateway: serde_json::Value| {
        let mut document = server("mlflow", &fake);
        document["spec"]["gateway"] = gateway;
        document
    };
    room.apply(&with(json!({"replicas": 2})));
    eventually("two replicas run the revision", || async {
        let status = room
            .servers()
            .get("mlflow")
            .await
            .unwrap()
            .status
            .unwrap_or_default();
        let summary = status.replicas.map(|replicas| replicas.summary);
        if summary.as_deref() == Some("2/2") {
            Ok(())
        } else {
            Err(summary)
        }
    })
    .await;
    let budget = |room: &Room| {
        room.cluster
            .kubectl([
                "get",
                "pdb",
                "mlflow-gateway",
                "-n",
                room.name(),
                "--ignore-not-found",
                "-o",
                "name",
            ])
            .ok()
    };
    assert!(!budget(&room).trim().is_empty());
    room.apply(&with(json!({})));
    eventually("one replica, and no budget", || async {
        let pods = room.gateway_pods("mlflow").await.len();
        if pods == 1 && budget(&room).trim().is_empty() {
            Ok(())
        } else {
            Err(pods)
        }
    })
    .await;
    room.cluster
        .kubectl([
            "scale",
            "deployment/mlflow-gateway",
            "-n",
            room.name(),
            "--replicas=2",
        ])
        .ok();
    eventually("scaled by hand, it stays so", || async {
        let status = room
            .servers()
            .get("mlflow")
            .await
            .unwrap()
            .status
            .unwrap_or_default();
        let summary = status.replicas.map(|replicas| replicas.summary);
        if summary.as_deref() == Some("2/2") {
            Ok(())
        } else {
            Err(summary)
        }
    })
    .await;
}
