//! One of the gateways, as a process, and how soon it answers as an edited policy says.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Binding, Pod};
use kube::api::{ListParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::Done;
use crate::cluster::Bench;
use crate::support::wire::client::{Client, Exchange};

/// Between two calls: what a figure may be too high by.
const PAUSE: Duration = Duration::from_micros(500);

/// A client of a running gateway.
pub struct Gateway {
    agent: Client,
    exchange: Exchange,
}

impl Gateway {
    /// Lets the gateway of a server run: its pod is bound to the node, to which the scheduler binds
    /// none.
    pub async fn run(bench: &Bench, server: &str) -> Done<Self> {
        let pods: Api<Pod> = bench.api();
        let labels = format!("app.kubernetes.io/component=gateway,portcullis.dev/server={server}");
        let listed = pods.list(&ListParams::default().labels(&labels)).await?;
        let [pod] = listed.items.as_slice() else {
            return Err(format!("{} pods of {server}", listed.items.len()).into());
        };
        let name = pod.name_any();
        let binding: Binding = serde_json::from_value(
            json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "node-1"}}),
        )?;
        let _: serde_json::Value = pods
            .create_subresource("binding", &name, &PostParams::default(), &binding)
            .await?;
        let ready = |pod: Option<&Pod>| {
            let conditions = pod.and_then(|pod| pod.status.as_ref()?.conditions.as_ref());
            conditions.is_some_and(|all| {
                all.iter()
                    .any(|one| one.type_ == "Ready" && one.status == "True")
            })
        };
        let ready = await_condition(pods, &name, ready);
        let pod = tokio::time::timeout(Duration::from_secs(60), ready).await??;
        let address: IpAddr = pod
            .and_then(|pod| pod.status?.pod_ip)
            .ok_or("a pod without an address")?
            .parse()?;
        let agent = Client::new(SocketAddr::new(address, 8080), "/mcp")
            .session()
            .await;
        Ok(Gateway {
            exchange: Exchange::open(agent.addr).await,
            agent,
        })
    }

    /// Edits a policy and calls until the answer says so: the time from the API server's answer.
    pub async fn edited(&mut self, bench: &Bench, policy: &str, round: usize) -> Done<Duration> {
        let message = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call",
            "params": {"name": "delete_run", "arguments": {}}});
        let call = self
            .agent
            .bytes("POST", Some(message.to_string().as_bytes()));
        let marker = format!("call {policy} {round}");
        bench.edit(policy, &marker).await?;
        let accepted = Instant::now();
        while accepted.elapsed() < Duration::from_secs(60) {
            self.exchange.write(&call).await;
            let reply = self.exchange.next_reply().await;
            let took = accepted.elapsed();
            if reply.text().contains(&marker) {
                return Ok(took);
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(format!("the gateway never says {marker:?}").into())
    }
}
