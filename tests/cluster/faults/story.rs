//! The story that every case plays: a server and a policy come, the policy is edited, the server
//! grows, an edit is refused. Calls go on all the while.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use portcullis::api::condition::{Condition, ConditionType};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::stage::Stage;
use super::state::{self, Counts};
use super::traffic::Traffic;
use crate::operator::rig::{allow, deny, find, policy, server};
use crate::support::eventually;

const SERVER: &str = "mlflow";
const POLICY: &str = "tags";

/// The policy as it is in one round.
pub fn round(number: u32) -> Value {
    let reason = format!("This is round {number}.");
    policy(
        POLICY,
        SERVER,
        json!([
            allow("reads", &["get_*"]),
            deny("writes", &["set_*"], &reason)
        ]),
    )
}

/// One that cannot be compiled.
fn broken() -> Value {
    policy(
        POLICY,
        SERVER,
        json!([{"name": "reads", "tools": {"names": ["get_*"]}, "when": "args.x ==", "action": "Allow"}]),
    )
}

/// The story, up to the part that was played.
pub struct Story<'s, 'c> {
    pub stage: &'s Stage<'c>,
    pub traffic: Traffic,
}

impl<'s, 'c> Story<'s, 'c> {
    /// A server with a policy becomes a gateway, and calls begin.
    pub async fn begin(stage: &'s Stage<'c>) -> Self {
        stage.apply(&server(SERVER, &stage.fake)).await;
        stage.apply(&round(1)).await;
        ready(stage, "1/1").await;
        // The policy was there before the gateway was ready, but not necessarily before its first
        // bundle.
        policy_is(stage, ConditionType::Programmed, "True", "Programmed").await;
        let gateway = gateways(stage, 1).await[0];
        Story {
            stage,
            traffic: Traffic::start(gateway).await,
        }
    }

    /// The policy says something else, and that is in force.
    pub async fn edit(&self) {
        self.edit_begun().await;
        self.edited().await;
    }

    /// The edit, without waiting for what comes of it.
    pub async fn edit_begun(&self) {
        self.traffic.may_be(2);
        self.stage.apply(&round(2)).await;
    }

    pub async fn edited(&self) {
        policy_is(self.stage, ConditionType::Programmed, "True", "Programmed").await;
        self.traffic.is(2);
    }

    /// There is a second gateway.
    pub async fn scale(&self) {
        let mut larger = server(SERVER, &self.stage.fake);
        larger["spec"]["gateway"] = json!({ "replicas": 2 });
        self.stage.apply(&larger).await;
        ready(self.stage, "2/2").await;
        let known = self.traffic.gateways();
        let all = gateways(self.stage, 2).await;
        for gateway in all.into_iter().filter(|one| !known.contains(one)) {
            self.traffic.also(gateway);
        }
    }

    /// An edit that is not accepted leaves in force what is.
    pub async fn refuse(&self) {
        self.stage.apply(&broken()).await;
        policy_is(self.stage, ConditionType::Accepted, "False", "Invalid").await;
    }

    /// The oracle. Returns the state that it ends in.
    async fn converge(self, expected: Option<&Value>) -> Value {
        let counted = Counts::from(self.traffic.stop().await);
        let ended = eventually("the end of a run without faults", || async {
            let read = state::read(self.stage).await;
            let instead = match read {
                Ok((found, counts)) if counts == counted => match expected {
                    Some(expected) if *expected != found => state::difference(expected, &found),
                    _ => return Ok(found),
                },
                Ok((_, counts)) => format!("counted: {counts:?}, answered: {counted:?}"),
                Err(error) => error,
            };
            // Gateways are asked for their counts every ten seconds; to read it all costs more than
            // to wait.
            self.stage.renewals(1).await;
            Err(instead)
        })
        .await;
        self.stage.writes_nothing_more().await;
        ended
    }

    /// Fails unless it ends as a run without faults does, with nothing written after that.
    pub async fn finish(self) {
        let expected = undisturbed(self.stage).await;
        self.converge(Some(expected)).await;
    }
}

/// The rest of the story, for faults that do not depend on what happens in it.
pub async fn play(stage: &Stage<'_>) {
    let story = Story::begin(stage).await;
    story.edit().await;
    story.scale().await;
    story.refuse().await;
    story.finish().await;
}

/// How the story ends without faults; played once for all cases, on the cluster of the first.
async fn undisturbed(stage: &Stage<'_>) -> &'static Value {
    static ENDED: OnceCell<Value> = OnceCell::const_new();
    ENDED
        .get_or_init(|| async {
            let stage = Stage::open(stage.cluster).await;
            let story = Story::begin(&stage).await;
            story.edit().await;
            story.scale().await;
            story.refuse().await;
            story.converge(None).await
        })
        .await
}

/// Where that many gateways of the server are.
async fn gateways(stage: &Stage<'_>, count: usize) -> Vec<SocketAddr> {
    let labels = format!("app.kubernetes.io/component=gateway,portcullis.dev/server={SERVER}");
    let pods: Api<Pod> = Api::namespaced(stage.client.clone(), stage.name());
    eventually("the gateways' addresses", || async {
        let pods = pods.list(&ListParams::default().labels(&labels)).await;
        let pods = pods.map_err(|error| error.to_string())?.items;
        let found: Vec<SocketAddr> = pods
            .iter()
            .filter_map(|pod| pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok())
            .map(|address: IpAddr| SocketAddr::new(address, 8080))
            .collect();
        if found.len() == count {
            Ok(found)
        } else {
            Err(format!("{found:?}"))
        }
    })
    .await
}

async fn ready(stage: &Stage<'_>, replicas: &str) {
    eventually(&format!("{replicas} gateways are ready"), || async {
        let server = stage.servers().get(SERVER).await;
        let server = server.map_err(|error| error.to_string())?;
        let generation = server.metadata.generation;
        let status = server.status.unwrap_or_default();
        let summary = status
            .replicas
            .as_ref()
            .map(|counts| counts.summary.clone());
        let holds = is(
            &status.conditions,
            ConditionType::Ready,
            "True",
            "Ready",
            generation,
        );
        if holds && summary.as_deref() == Some(replicas) {
            Ok(())
        } else {
            Err(format!("{summary:?} {:?}", status.conditions))
        }
    })
    .await;
}

async fn policy_is(stage: &Stage<'_>, kind: ConditionType, status: &str, reason: &str) {
    eventually(&format!("{kind}={status}, {reason}"), || async {
        let policy = stage.policies().get(POLICY).await;
        let policy = policy.map_err(|error| error.to_string())?;
        let generation = policy.metadata.generation;
        let conditions = policy.status.unwrap_or_default().conditions;
        if is(&conditions, kind, status, reason, generation) {
            Ok(())
        } else {
            Err(format!("{conditions:?}"))
        }
    })
    .await;
}

fn is(
    conditions: &[Condition],
    kind: ConditionType,
    status: &str,
    reason: &str,
    generation: Option<i64>,
) -> bool {
    find(conditions, kind).is_some_and(|condition| {
        condition.status == status
            && condition.reason == reason
            && condition.observed_generation == generation
    })
}
