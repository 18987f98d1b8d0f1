//! What limits have counted, over the ends of containers and of pods.

use kube::ResourceExt;
use portcullis::api::condition::ConditionType;
use serde_json::{Value, json};

use super::rig::{Room, call, policy, server};
use crate::support::eventually;
use crate::support::wire::upstream::Fake;

fn limited(window: &str) -> Value {
    json!([{"name": "reads", "tools": {"names": ["get_run"]}, "action": "Allow",
        "limits": [{"counter": "c", "max": 2, "window": window}]}])
}

/// Calls once; the tools may not have been listed yet after a start.
async fn get_run(room: &Room) -> Result<(), String> {
    let agent = room.living_agent("mlflow").await;
    eventually("the tools are known", || async {
        match call(&agent, "get_run").await {
            Err(why) if !why.starts_with("Limit of 2") => Err(why),
            answer => Ok(answer),
        }
    })
    .await
}

async fn crash(room: &Room) {
    let pod = room.gateway_pods("mlflow").await.remove(0).name_any();
    room.kubelet().crash(room.name(), &pod);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_is_killed_forgets_nothing_and_a_claim_keeps_it_over_pods() {
    let Some(room) = Room::open("limits that last").await else {
        return;
    };
    let fake = Fake::start(&["get_run"]).await;
    room.serve("mlflow", &fake);
    room.apply(&policy("p", "mlflow", limited("1h")));
    room.ready("mlflow").await;
    room.server_is("mlflow", ConditionType::LimitsDurable, "False", "PodLocal")
        .await;
    for _ in 0..2 {
        assert_eq!(get_run(&room).await, Ok(()));
        crash(&room).await;
    }
    let refused = get_run(&room).await.unwrap_err();
    assert!(
        refused.starts_with("Limit of 2 per 1h reached"),
        "{refused}"
    );
    assert_eq!(fake.calls(), 2);

    let volume = format!("{}-counters", room.name());
    room.apply(&json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "",
            "hostPath": {"path": "/nowhere"}, "claimRef": {"namespace": room.name(), "name": "counters"}},
    }));
    room.apply(&json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "counters"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeName": volume,
            "resources": {"requests": {"storage": "1Gi"}}},
    }));
    let mut claimed = server("mlflow", &fake);
    claimed["spec"]["counters"] =
        json!({"local": {"persistentVolumeClaim": {"claimName": "counters"}}});
    room.apply(&claimed);
    room.apply(&policy("p", "mlflow", limited("31d")));
    room.server_is("mlflow", ConditionType::LimitsDurable, "True", "Journal")
        .await;
    room.policy_is("p", ConditionType::Accepted, "True", "Accepted")
        .await;
    // The pod with the emptyDir makes way for one with the claim.
    eventually("the gateway has the claim", || async {
        let pods = room.gateway_pods("mlflow").await;
        let has = |pod: &k8s_openapi::api::core::v1::Pod| {
            let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
            volumes.is_some_and(|all| all.iter().any(|one| one.persistent_volume_claim.is_some()))
        };
        if !pods.is_empty() && pods.iter().all(has) {
            Ok(())
        } else {
            Err(pods.iter().map(ResourceExt::name_any).collect::<Vec<_>>())
        }
    })
    .await;
    room.ready("mlflow").await;
    assert_eq!(get_run(&room).await, Ok(()));
    room.replace_gateway("mlflow").await;
    assert_eq!(get_run(&room).await, Ok(()));
    room.replace_gateway("mlflow").await;
    let refused = get_run(&room).await.unwrap_err();
    assert!(
        refused.starts_with("Limit of 2 per 31d reached"),
        "{refused}"
    );
}
