//! Whatever becomes of the object that violations are stored in, and of the pods that count them:
//! nothing is stuck, and nothing is counted twice.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use portcullis::status::accounting::Ledger;
use serde_json::json;

use super::rig::{Room, SYSTEM, allow, call, deny, policy};
use crate::support::eventually;
use crate::support::wire::client::Client as McpClient;
use crate::support::wire::upstream::Fake;

const LEDGER: &str = "mlflow-gateway-ledger";
const MANAGED: &str = "app.kubernetes.io/managed-by";

/// A server whose policy denies `delete_run`, ready, with an agent; nothing is denied yet.
async fn denying(room: &Room, fake: &Fake) -> McpClient {
    room.serve("mlflow", fake);
    let rules = json!([
        allow("reads", &["get_*"]),
        deny("no", &["delete_*"], "never")
    ]);
    room.apply(&policy("p", "mlflow", rules));
    room.ready("mlflow").await;
    room.agent("mlflow").await
}

async fn denied(agent: &McpClient, times: usize) {
    for _ in 0..times {
        assert!(call(agent, "delete_run").await.is_err());
    }
}

/// Waits until the ledger has our label and can be read.
async fn sound(room: &Room) {
    let maps: Api<ConfigMap> = Api::namespaced(room.client.clone(), room.name());
    eventually("the ledger is put right", || async {
        let map = maps.get(LEDGER).await.unwrap();
        let text = map.data.clone().unwrap_or_default().remove("ledger.json");
        let readable = text.is_some_and(|text| serde_json::from_str::<Ledger>(&text).is_ok());
        if readable && map.labels().contains_key(MANAGED) {
            Ok(())
        } else {
            Err(map)
        }
    })
    .await;
}

fn kubectl(room: &Room, arguments: &[&str]) {
    let all = arguments.iter().copied().chain(["-n", room.name()]);
    room.cluster.kubectl_args(all).ok();
}

fn crash_operators(room: &Room, pods: &[String]) {
    for pod in pods {
        room.kubelet().crash(SYSTEM, pod);
    }
}

async fn operators(room: &Room) -> Vec<String> {
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(room.client.clone(), SYSTEM);
    let labels = ListParams::default().labels("app.kubernetes.io/component=operator");
    let pods = pods.list(&labels).await.unwrap();
    pods.iter().map(ResourceExt::name_any).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_somebody_damaged_relabelled_or_removed_is_put_right() {
    let Some(room) = Room::open("ledger").await else {
        return;
    };
    let fake = Fake::start(&["get_run", "delete_run"]).await;
    let agent = denying(&room, &fake).await;
    denied(&agent, 2).await;
    room.violations("mlflow", 2).await;
    // The gateway that counted these is gone: they are in the ledger alone.
    room.replace_gateway("mlflow").await;
    let agent = room.agent("mlflow").await;
    denied(&agent, 1).await;
    room.violations("mlflow", 3).await;
    let damage = json!({"data": {"ledger.json": "x"}}).to_string();
    let patch = ["patch", "configmap", LEDGER, "--type=merge", "-p", &damage];
    kubectl(&room, &patch);
    denied(&agent, 1).await;
    room.violations("mlflow", 4).await;
    sound(&room).await;
    let events: Api<Event> = Api::namespaced(room.client.clone(), room.name());
    eventually("somebody is told", || async {
        let events = events.list(&ListParams::default()).await.unwrap();
        let mut reasons = events.items.into_iter().filter_map(|event| event.reason);
        reasons
            .find(|reason| reason == "LedgerUnreadable")
            .ok_or("nobody")
    })
    .await;
    // Well-formed, and with none of what was counted.
    let none = serde_json::to_string(&Ledger::default()).unwrap();
    let forged = json!({"data": {"ledger.json": none}}).to_string();
    let patch = ["patch", "configmap", LEDGER, "--type=merge", "-p", &forged];
    kubectl(&room, &patch);
    denied(&agent, 1).await;
    room.violations("mlflow", 5).await;
    // Out of the operator's sight, and changed.
    kubectl(
        &room,
        &["label", "configmap", LEDGER, &format!("{MANAGED}-")],
    );
    denied(&agent, 1).await;
    room.violations("mlflow", 6).await;
    sound(&room).await;
    kubectl(&room, &["delete", "configmap", LEDGER]);
    denied(&agent, 1).await;
    room.violations("mlflow", 7).await;
    sound(&room).await;
    // An operator that has never seen it finds it none the less.
    let pods = operators(&room).await;
    kubectl(
        &room,
        &["label", "configmap", LEDGER, &format!("{MANAGED}-")],
    );
    crash_operators(&room, &pods);
    denied(&agent, 1).await;
    room.violations("mlflow", 8).await;
    sound(&room).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_was_out_of_sight_is_not_counted_twice() {
    let Some(room) = Room::open("out-of-sight").await else {
        return;
    };
    let fake = Fake::start(&["get_run", "delete_run"]).await;
    let agent = denying(&room, &fake).await;
    denied(&agent, 3).await;
    room.violations("mlflow", 3).await;
    let ready = async |replicas: i64| {
        eventually(&format!("{replicas} ready"), || async {
            let status = room.servers().get("mlflow").await.unwrap().status;
            let ready = status.and_then(|status| status.replicas).unwrap().ready;
            if ready == replicas {
                Ok(())
            } else {
                Err(ready)
            }
        })
        .await;
    };
    let pod = room.gateway_pods("mlflow").await.remove(0);
    let name = pod.name_any();
    kubectl(&room, &["label", "pod", &name, &format!("{MANAGED}-")]);
    ready(0).await;
    let label = format!("{MANAGED}={}", pod.labels()[MANAGED]);
    kubectl(&room, &["label", "pod", &name, &label]);
    ready(1).await;
    denied(&agent, 1).await;
    room.violations("mlflow", 4).await;
    // The Deployment is gone and comes again; its pod stays.
    let orphan = ["delete", "deployment", "mlflow-gateway", "--cascade=orphan"];
    kubectl(&room, &orphan);
    ready(1).await;
    room.ready("mlflow").await;
    let agent = room.agent("mlflow").await;
    denied(&agent, 1).await;
    room.violations("mlflow", 5).await;
}
