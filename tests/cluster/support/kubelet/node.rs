//! The Node object: registered, ready, kept alive by its lease.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use serde_json::json;
use tokio::time::MissedTickBehavior;

use super::super::soon;
use super::NODE;

/// Before a lease that could not be renewed is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// Registers it and waits until the node controller lets pods be bound to it.
pub async fn register(client: &Client) {
    let nodes: Api<Node> = Api::all(client.clone());
    let labels = [
        ("kubernetes.io/hostname", NODE),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", std::env::consts::ARCH),
    ];
    let node = Node {
        metadata: ObjectMeta {
            name: Some(NODE.to_owned()),
            labels: Some(
                labels
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            ),
            ..ObjectMeta::default()
        },
        ..Node::default()
    };
    nodes.create(&PostParams::default(), &node).await.unwrap();
    renew(client).await.unwrap();
    report(client).await.unwrap();
    let bindable = |node: Option<&Node>| {
        let spec = node.and_then(|node| node.spec.as_ref());
        spec.is_some_and(|spec| spec.taints.as_ref().is_none_or(Vec::is_empty))
    };
    soon(
        "the node is without taints",
        await_condition(nodes, NODE, bindable),
    )
    .await
    .unwrap();
}

/// Says that the node is ready.
async fn report(client: &Client) -> Result<(), kube::Error> {
    // The node has more than any test asks for.
    let room: BTreeMap<&str, &str> = [("cpu", "512"), ("memory", "1Ti"), ("pods", "5000")].into();
    let conditions: Vec<_> = [
        ("MemoryPressure", "False"),
        ("DiskPressure", "False"),
        ("PIDPressure", "False"),
        ("Ready", "True"),
    ]
    .map(|(kind, status)| {
        let now = Timestamp::now().to_string();
        json!({"type": kind, "status": status, "reason": "Registered", "message": "pods run as processes of the tests",
            "lastHeartbeatTime": now, "lastTransitionTime": now})
    })
    .into();
    let status = json!({"status": {
        "capacity": room, "allocatable": room, "conditions": conditions,
        "addresses": [{"type": "Hostname", "address": NODE}, {"type": "InternalIP", "address": "127.0.0.1"}],
    }});
    let nodes: Api<Node> = Api::all(client.clone());
    nodes
        .patch_status(NODE, &PatchParams::default(), &Patch::Strategic(status))
        .await
        .map(|_| ())
}

/// Renews the lease for as long as the node lives. Without it, or while the node controller cannot
/// see it, the controller takes the node and its pods for unready; it is the node that says then
/// that they are not.
pub async fn keep_alive(client: Client) {
    let mut beat = tokio::time::interval(Duration::from_secs(5));
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        while let Err(_away) = confirm(&client).await {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

async fn confirm(client: &Client) -> Result<(), kube::Error> {
    renew(client).await?;
    let nodes: Api<Node> = Api::all(client.clone());
    let status = nodes.get(NODE).await?.status.unwrap_or_default();
    let mut conditions = status.conditions.into_iter().flatten();
    if conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True") {
        return Ok(());
    }
    report(client).await
}

async fn renew(client: &Client) -> Result<(), kube::Error> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(NODE.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(NODE.to_owned()),
            lease_duration_seconds: Some(40),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    };
    match leases.create(&PostParams::default(), &lease).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let patch = Patch::Merge(json!({"spec": lease.spec}));
            leases.patch(NODE, &PatchParams::default(), &patch).await?;
            Ok(())
        }
        other => other.map(|_| ()),
    }
}
