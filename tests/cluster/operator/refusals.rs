//! What the API server, or somebody with rights in the namespace, puts in the operator's way: it is
//! told, nothing else is held up by it, and it is put right.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use portcullis::api::condition::ConditionType;
use portcullis::api::server::Enforcement;
use portcullis::policy::bundle::Bundle;
use serde_json::{Value, json};

use super::rig::{Room, SYSTEM, allow, call, deny, find, policy, server};
use crate::support::eventually;
use crate::support::wire::client::Client;
use crate::support::wire::upstream::Fake;

async fn opened(what: &'static str) -> Option<(Room, Fake)> {
    let room = Room::open(what).await?;
    let fake = Fake::start(&["get_run", "set_tag"]).await;
    Some((room, fake))
}

/// Waits until a write is refused for that reason.
async fn refused_for(agent: &Client, reason: &str) {
    eventually("the edit is in force", || async {
        match call(agent, "set_tag").await {
            Err(why) if why.contains(reason) => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

/// Has the API server refuse every other object of a kind.
async fn no_more(room: &Room, kind: &str) {
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none-more"},
        "spec": {"hard": {kind: "0"}}});
    room.apply(&quota);
    let output = format!("jsonpath={{.status.used.{kind}}}");
    eventually("the quota counts", || async {
        let arguments = ["get", "resourcequota", "none-more", "-n", room.name(), "-o"];
        let used = room
            .cluster
            .kubectl_args(arguments.into_iter().chain([output.as_str()]));
        if used.out.is_empty() {
            Err(used.err)
        } else {
            Ok(())
        }
    })
    .await;
}

fn all(name: &str, rules: Value) -> Value {
    let mut document = policy(name, "unused", rules);
    document["spec"]
        .as_object_mut()
        .unwrap()
        .remove("targetRefs");
    document["spec"]["targetSelector"] = json!({"matchLabels": {"team": "ml"}});
    document
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_a_quota_forbids_is_told_and_holds_up_no_policy() {
    let Some((room, fake)) = opened("a quota").await else {
        return;
    };
    room.serve("mlflow", &fake);
    room.apply(&all("p", json!([allow("reads", &["get_*"])])));
    room.ready("mlflow").await;
    no_more(&room, "services").await;
    room.serve("second", &fake);
    let refused = room
        .server_is("second", ConditionType::Accepted, "False", "Invalid")
        .await;
    let conditions = refused.status.unwrap().conditions;
    let message = &find(&conditions, ConditionType::Accepted).unwrap().message;
    assert!(
        message.contains("Service") && message.contains("quota"),
        "{message}"
    );
    // Its policies go on.
    room.apply(&all(
        "p",
        json!([
            allow("reads", &["get_*"]),
            deny("writes", &["set_*"], "Not you.")
        ]),
    ));
    let agent = room.agent("mlflow").await;
    refused_for(&agent, "Not you.").await;
    eventually("the policy says so", || async {
        let policy = room.policies().get("p").await.unwrap();
        let status = policy.status.unwrap_or_default();
        let current = status
            .conditions
            .iter()
            .all(|one| one.observed_generation == policy.metadata.generation);
        let servers = status.ancestors.len();
        if current && servers == 2 {
            Ok(())
        } else {
            Err(status)
        }
    })
    .await;
    room.cluster
        .kubectl(["delete", "resourcequota", "none-more", "-n", room.name()])
        .ok();
    room.ready("second").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_only_the_api_server_refuses_is_told() {
    let Some((room, fake)) = opened("a wrong quantity").await else {
        return;
    };
    let mut document = server("mlflow", &fake);
    document["spec"]["gateway"] = json!({"pod": {"nodeSelector": {"not a label": "x"}}});
    room.apply(&document);
    room.server_is("mlflow", ConditionType::Accepted, "False", "Invalid")
        .await;
    room.serve("mlflow", &fake);
    room.server_is("mlflow", ConditionType::Accepted, "True", "Accepted")
        .await;
}

/// The spec is taken back half-way: what was in force before stays, and its policies go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_refused_does_not_escape_a_new_guardrail() {
    let Some((room, fake)) = opened("guardrails over refused servers").await else {
        return;
    };
    let mut document = server("mlflow", &fake);
    document["metadata"]["labels"]["held"] = json!(room.name());
    room.apply(&document);
    room.apply(&policy("p", "mlflow", json!([allow("all", &["*"])])));
    room.ready("mlflow").await;
    let agent = room.agent("mlflow").await;
    assert_eq!(call(&agent, "set_tag").await, Ok(()));
    document["spec"]["counters"] = json!({"local": {"persistentVolumeClaim": {"claimName": "c"}}});
    document["spec"]["gateway"] = json!({"replicas": 2});
    room.apply(&document);
    room.server_is("mlflow", ConditionType::Accepted, "False", "Invalid")
        .await;
    let name = format!("no-writes-{}", room.name());
    let mut guardrail = policy(
        &name,
        "unused",
        json!([deny("writes", &["set_*"], "Nobody writes.")]),
    );
    guardrail["spec"]
        .as_object_mut()
        .unwrap()
        .remove("targetRefs");
    guardrail["spec"]["targetSelector"] = json!({"matchLabels": {"held": room.name()}});
    room.cluster
        .kubectl_with(["apply", "-n", SYSTEM, "-f", "-"], &guardrail.to_string())
        .ok();
    refused_for(&agent, "Nobody writes.").await;
    assert_eq!(call(&agent, "get_run").await, Ok(()));
    room.cluster
        .kubectl(["delete", "mcppolicies.portcullis.dev", &name, "-n", SYSTEM])
        .ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_whose_labels_were_taken_off_is_still_written() {
    let Some((room, fake)) = opened("a bundle without its labels").await else {
        return;
    };
    room.serve("mlflow", &fake);
    room.apply(&policy("p", "mlflow", json!([allow("all", &["*"])])));
    room.ready("mlflow").await;
    let maps: Api<ConfigMap> = Api::namespaced(room.client.clone(), room.name());
    let other = json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "Helm"}}});
    maps.patch(
        "mlflow-gateway",
        &PatchParams::default(),
        &Patch::Merge(&other),
    )
    .await
    .unwrap();
    room.apply(&policy(
        "p",
        "mlflow",
        json!([
            allow("reads", &["get_*"]),
            deny("writes", &["set_*"], "Not you.")
        ]),
    ));
    let agent = room.agent("mlflow").await;
    refused_for(&agent, "Not you.").await;
    let labels = maps.get("mlflow-gateway").await.unwrap().labels().clone();
    assert_eq!(labels["app.kubernetes.io/managed-by"], "portcullis");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selector_that_selects_less_is_put_right() {
    let Some((room, fake)) = opened("a selector with one label more").await else {
        return;
    };
    room.serve("mlflow", &fake);
    room.open_to_all("mlflow");
    room.ready("mlflow").await;
    let services: Api<Service> = Api::namespaced(room.client.clone(), room.name());
    let more = json!({"spec": {"selector": {"nobody": "has-this"}}});
    services
        .patch(
            "mlflow-gateway",
            &PatchParams::default(),
            &Patch::Merge(&more),
        )
        .await
        .unwrap();
    eventually("the selector is put right", || async {
        let service = services.get("mlflow-gateway").await.unwrap();
        let selector = service.spec.unwrap().selector.unwrap();
        if selector.contains_key("nobody") {
            Err(selector)
        } else {
            Ok(())
        }
    })
    .await;
    // Without this label the operator's watches do not bring it any more.
    let fewer = json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": null}}});
    services
        .patch(
            "mlflow-gateway",
            &PatchParams::default(),
            &Patch::Merge(&fewer),
        )
        .await
        .unwrap();
    eventually("the label is there again", || async {
        let labels = services
            .get("mlflow-gateway")
            .await
            .unwrap()
            .labels()
            .clone();
        if labels.contains_key("app.kubernetes.io/managed-by") {
            Ok(())
        } else {
            Err(labels)
        }
    })
    .await;
}

fn turn_to_stdio(room: &Room, fake: &Fake) {
    let mut document = server("mlflow", fake);
    document["spec"]["upstream"] =
        json!({"stdio": {"image": "mlflow-mcp", "command": ["mlflow-mcp"]}});
    let arguments = ["replace", "-n", room.name(), "-f", "-"];
    room.cluster
        .kubectl_with(arguments, &document.to_string())
        .ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_turns_from_http_to_stdio_gets_its_bearer() {
    let Some((room, fake)) = opened("from http to stdio").await else {
        return;
    };
    room.serve("mlflow", &fake);
    room.open_to_all("mlflow");
    let before = room.ready("mlflow").await;
    turn_to_stdio(&room, &fake);
    let secrets: Api<Secret> = Api::namespaced(room.client.clone(), room.name());
    let bearer = format!("mlflow-upstream-bearer-{}", before.uid().unwrap());
    eventually("the bearer", || async {
        secrets
            .get(&bearer)
            .await
            .map(|_| ())
            .map_err(|error| error.to_string())
    })
    .await;
}

/// What pods need is refused: the server stays as it was, and its policies go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_a_quota_forbids_leaves_the_server_as_it_was_under_the_policies_of_now() {
    let Some((room, fake)) = opened("a quota on Secrets").await else {
        return;
    };
    room.serve("mlflow", &fake);
    room.apply(&policy("p", "mlflow", json!([allow("all", &["*"])])));
    room.ready("mlflow").await;
    let agent = room.agent("mlflow").await;
    assert_eq!(call(&agent, "set_tag").await, Ok(()));
    no_more(&room, "secrets").await;
    turn_to_stdio(&room, &fake);
    let refused = room
        .server_is("mlflow", ConditionType::Accepted, "False", "Invalid")
        .await;
    let conditions = refused.status.unwrap().conditions;
    let message = &find(&conditions, ConditionType::Accepted).unwrap().message;
    assert!(
        message.contains("Secret") && message.contains("quota"),
        "{message}"
    );
    room.apply(&policy(
        "p",
        "mlflow",
        json!([
            allow("reads", &["get_*"]),
            deny("writes", &["set_*"], "Not you.")
        ]),
    ));
    refused_for(&agent, "Not you.").await;
    assert_eq!(call(&agent, "get_run").await, Ok(()));
    room.cluster
        .kubectl(["delete", "resourcequota", "none-more", "-n", room.name()])
        .ok();
    room.server_is("mlflow", ConditionType::Accepted, "True", "Accepted")
        .await;
}

/// Whoever may write ConfigMaps writes bundles of their own, well-formed and with their revision,
/// again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_of_somebody_elses_is_never_in_force_told_and_written_over_each_time() {
    let Some((room, fake)) = opened("a forged bundle").await else {
        return;
    };
    room.serve("mlflow", &fake);
    let rules = json!([
        allow("reads", &["get_*"]),
        deny("writes", &["set_*"], "Not you.")
    ]);
    room.apply(&policy("p", "mlflow", rules));
    room.ready("mlflow").await;
    let agent = room.agent("mlflow").await;
    refused_for(&agent, "Not you.").await;
    let maps: Api<ConfigMap> = Api::namespaced(room.client.clone(), room.name());
    let text = || async {
        let map = maps.get("mlflow-gateway").await.unwrap();
        map.data.and_then(|mut data| data.remove("bundle.json"))
    };
    let first = text().await.unwrap();
    let ours = Bundle::parse(first.as_bytes()).unwrap();
    let forged = |sequence: u64| {
        let mut forged = ours.clone();
        forged.server.spec.enforcement = Some(Enforcement::Audit);
        forged.sequence = sequence;
        serde_json::to_string(&forged.sealed().unwrap()).unwrap()
    };
    let raised = serde_json::to_string(&Bundle {
        sequence: u64::MAX,
        ..ours.clone()
    })
    .unwrap();
    let writes = [
        forged(ours.sequence + 1),
        forged(u64::MAX),
        raised,
        "{}".to_owned(),
        forged(u64::MAX),
        first,
        String::new(),
    ];
    for written in writes {
        let patch = Patch::Merge(json!({"data": {"bundle.json": written}}));
        let params = PatchParams {
            field_manager: Some("mallory".to_owned()),
            ..PatchParams::default()
        };
        maps.patch("mlflow-gateway", &params, &patch).await.unwrap();
        // At once each time, above what was there, and nothing of it is ever in force.
        eventually("it is written over", || async {
            let now = text().await.unwrap_or_default();
            assert!(call(&agent, "set_tag").await.is_err());
            match Bundle::parse(now.as_bytes()) {
                Ok(bundle) if bundle.revision == ours.revision && now != written => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
    let told = room
        .server_is("mlflow", ConditionType::Tampered, "True", "ForeignChange")
        .await;
    let conditions = told.status.unwrap().conditions;
    let message = &find(&conditions, ConditionType::Tampered).unwrap().message;
    assert!(
        message.contains("mallory") && message.contains("data.bundle.json"),
        "{message}"
    );
    tampering_is_told(&room, "mallory", "data.bundle.json").await;
    room.ready("mlflow").await;
    // Policies go on coming into force.
    room.apply(&policy(
        "p",
        "mlflow",
        json!([
            allow("reads", &["get_*"]),
            deny("writes", &["set_*"], "Later.")
        ]),
    ));
    refused_for(&agent, "Later.").await;
}

/// An Event names the field and who changed it.
async fn tampering_is_told(room: &Room, manager: &str, field: &str) {
    eventually("an Event about it", || async {
        let events = room
            .cluster
            .kubectl([
                "get",
                "events.events.k8s.io",
                "-n",
                room.name(),
                "-o",
                "jsonpath={range .items[*]}{.type} {.reason} {.note}{\"\\n\"}{end}",
            ])
            .ok();
        let mut lines = events.lines();
        let found = lines.any(|line| {
            line.starts_with("Warning Tampered") && line.contains(manager) && line.contains(field)
        });
        if found { Ok(()) } else { Err(events.clone()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_adds_to_what_pods_may_do_is_removed_each_time_and_told() {
    let Some((room, fake)) = opened("widening drift").await else {
        return;
    };
    room.serve("mlflow", &fake);
    room.apply(&policy("p", "mlflow", json!([allow("all", &["*"])])));
    room.ready("mlflow").await;
    let deployments: Api<Deployment> = Api::namespaced(room.client.clone(), room.name());
    let before = deployments.get("mlflow-gateway").await.unwrap();
    let pod = |deployment: Deployment| deployment.spec.unwrap().template.spec.unwrap();
    let before = pod(before);
    let gateway = |more: Value| {
        let mut container = json!({"name": "gateway"});
        let map = container.as_object_mut().unwrap();
        map.extend(more.as_object().unwrap().clone());
        json!({ "containers": [container] })
    };
    let widened = [
        json!({"hostNetwork": true}),
        json!({"hostPID": true, "shareProcessNamespace": null}),
        json!({"hostNetwork": true}),
        gateway(json!({"env": [{"name": "KUBECONFIG", "value": "/tmp/x"}]})),
        gateway(json!({"lifecycle": {"postStart": {"exec": {"command": ["x"]}}}})),
        gateway(json!({"ports": [{"name": "more", "containerPort": 7777}]})),
        json!({"containers": [{"name": "side", "image": "evil"}]}),
        json!({"volumes": [{"name": "host", "hostPath": {"path": "/"}}]}),
        json!({"initContainers": [{"name": "first", "image": "evil"}]}),
        json!({"priorityClassName": "system-node-critical"}),
    ];
    for change in widened {
        let patch = json!({"spec": {"template": {"spec": change}}});
        let params = PatchParams {
            field_manager: Some("mallory".to_owned()),
            ..PatchParams::default()
        };
        deployments
            .patch("mlflow-gateway", &params, &Patch::Strategic(&patch))
            .await
            .unwrap();
        eventually("it is removed", || async {
            let now = pod(deployments.get("mlflow-gateway").await.unwrap());
            if now == before { Ok(()) } else { Err(now) }
        })
        .await;
    }
    let told = room
        .server_is("mlflow", ConditionType::Tampered, "True", "ForeignChange")
        .await;
    let conditions = told.status.unwrap().conditions;
    let message = &find(&conditions, ConditionType::Tampered).unwrap().message;
    assert!(message.contains("mallory"), "{message}");
    tampering_is_told(&room, "mallory", "spec.template.spec.hostNetwork").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_somebody_wiped_is_written_again() {
    let Some((room, fake)) = opened("a wiped status").await else {
        return;
    };
    room.serve("mlflow", &fake);
    room.apply(&policy("p", "mlflow", json!([allow("all", &["*"])])));
    room.ready("mlflow").await;
    room.policy_is("p", ConditionType::Ready, "True", "Ready")
        .await;
    let wipe = Patch::Merge(json!({"status": null}));
    let params = PatchParams::default();
    room.servers()
        .patch_status("mlflow", &params, &wipe)
        .await
        .unwrap();
    room.policies()
        .patch_status("p", &params, &wipe)
        .await
        .unwrap();
    room.ready("mlflow").await;
    room.policy_is("p", ConditionType::Ready, "True", "Ready")
        .await;
}
