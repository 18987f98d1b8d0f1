//! What the operator is given to do.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node};
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource, ResourceExt as _};
use portcullis::api::policy::McpPolicy;
use portcullis::api::server::McpServer;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::Done;

const NAMESPACE: &str = "portcullis-bench";
const AT_ONCE: usize = 32;
/// Of each server's policies so many are edited again and again.
const POLICIES_EDITED: usize = 2;

pub struct Bench {
    client: Client,
}

impl Bench {
    pub fn new(client: Client) -> Self {
        Bench { client }
    }

    pub fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// A namespace, servers and policies. Behind the first server is one that answers.
    pub async fn fill(&self, servers: usize, policies: usize, upstream: SocketAddr) -> Done<()> {
        // Pods stay pending but for the one that is bound by hand.
        let cordon = json!({"spec": {"unschedulable": true}});
        Api::<Node>::all(self.client.clone())
            .patch("node-1", &PatchParams::default(), &Patch::Merge(&cordon))
            .await?;
        let namespace: Namespace =
            serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
        Api::all(self.client.clone())
            .create(&PostParams::default(), &namespace)
            .await?;
        let all = (0..servers).map(|at| server(at, upstream));
        self.create::<McpServer>(all).await?;
        let all = (0..servers).flat_map(|at| (0..policies).map(move |number| policy(at, number)));
        self.create::<McpPolicy>(all).await
    }

    async fn create<K>(&self, objects: impl Iterator<Item = Value>) -> Done<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + serde::Serialize
            + std::fmt::Debug,
    {
        let api: Api<K> = self.api();
        stream::iter(objects.map(Ok::<_, crate::Failure>))
            .try_for_each_concurrent(AT_ONCE, |object| {
                let api = api.clone();
                async move {
                    api.create(&PostParams::default(), &serde_json::from_value(object)?)
                        .await?;
                    Ok(())
                }
            })
            .await
    }

    /// Waits until nothing has changed in any Deployment for ten seconds.
    pub async fn followed(&self) -> Done<()> {
        let api: Api<Deployment> = self.api();
        let (mut last, mut since) = (Vec::new(), Instant::now());
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(600) {
            let all = api.list_metadata(&ListParams::default()).await?;
            let now: Vec<_> = all
                .items
                .into_iter()
                .map(|one| one.metadata.resource_version)
                .collect();
            if now != last {
                (last, since) = (now, Instant::now());
            } else if since.elapsed() >= Duration::from_secs(10) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        Err("the controller manager does not come to rest".into())
    }

    /// Whether every object has a status of its own generation.
    pub async fn check<K>(&self, count: usize) -> Done<()>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + serde::Serialize
            + std::fmt::Debug,
    {
        let objects = self.api::<K>().list(&ListParams::default()).await?.items;
        let mut done = 0;
        for object in &objects {
            let value = serde_json::to_value(object)?;
            done += usize::from(
                value.pointer("/status/observedGeneration")
                    == value.pointer("/metadata/generation"),
            );
        }
        if done == count {
            Ok(())
        } else {
            Err(format!("{done} of {count} {} have a status", K::plural(&())).into())
        }
    }

    /// One policy over the first servers.
    pub async fn wide(&self, count: usize) -> Done<()> {
        let servers: Api<McpServer> = self.api();
        for at in 0..count {
            let labelled = json!({"metadata": {"labels": {"wide": "yes"}}});
            servers
                .patch(
                    &format!("s-{at}"),
                    &PatchParams::default(),
                    &Patch::Merge(&labelled),
                )
                .await?;
        }
        let wide = json!({
            "apiVersion": portcullis::api::API_VERSION, "kind": "McpPolicy", "metadata": {"name": "wide"},
            "spec": {"targetSelector": {"matchLabels": {"wide": "yes"}}, "rules": [rule("none", "first")]},
        });
        self.create::<McpPolicy>(std::iter::once(wide)).await
    }

    /// Edits policies, and lets servers come and go, for so long; how many edits that were.
    pub async fn churn(
        &self,
        servers: usize,
        lasts: Duration,
        upstream: SocketAddr,
    ) -> Done<usize> {
        let started = Instant::now();
        let mut edits = 0;
        while started.elapsed() < lasts {
            let round = edits;
            let edited = (round..round + AT_ONCE).map(|at| {
                let policy = format!("p-{}-{}", at % servers, at % POLICIES_EDITED);
                async move { self.edit(&policy, &format!("round {round}")).await }
            });
            futures::future::try_join_all(edited).await?;
            edits += AT_ONCE;
            let name = "s-passing";
            let mut passing = server(servers, upstream);
            passing["metadata"]["name"] = json!(name);
            self.create::<McpServer>(std::iter::once(passing)).await?;
            let api = self.api::<McpServer>();
            api.delete(name, &DeleteParams::default()).await?;
        }
        Ok(edits)
    }

    /// Makes a policy give another reason.
    pub async fn edit(&self, policy: &str, reason: &str) -> Done<()> {
        let patch = json!({"spec": {"rules": [rule("deletions", reason)]}});
        self.api::<McpPolicy>()
            .patch(policy, &PatchParams::default(), &Patch::Merge(&patch))
            .await?;
        Ok(())
    }

    /// Waits until that replica holds the Lease.
    pub async fn led_by(&self, name: &str) -> Done<()> {
        let leases: Api<Lease> = self.api();
        for _ in 0..6_000 {
            let lease = leases.get("portcullis-operator").await?;
            if lease.spec.and_then(|spec| spec.holder_identity).as_deref() == Some(name) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Err(format!("{name} does not come to lead").into())
    }
}

fn server(at: usize, upstream: SocketAddr) -> Value {
    let url = match at {
        0 => format!("http://{upstream}/mcp"),
        _ => "http://127.0.0.1:9/mcp".to_owned(),
    };
    json!({
        "apiVersion": portcullis::api::API_VERSION, "kind": "McpServer", "metadata": {"name": format!("s-{at}")},
        "spec": {"upstream": {"http": {"url": url}}, "authentication": {"anonymous": "Allow"}},
    })
}

fn rule(name: &str, reason: &str) -> Value {
    json!({"name": name, "tools": {"names": ["delete_*"], "risks": ["Destructive"]}, "action": "Deny", "reason": reason})
}

fn policy(at: usize, number: usize) -> Value {
    let rules = [
        rule("deletions", "Not here."),
        json!({"name": "reads", "tools": {"risks": ["Read"]}, "action": "Allow"}),
        json!({"name": "aliases", "tools": {"names": ["set_model_alias"]}, "when": "args.alias in [\"champion\"]", "action": "Deny"}),
    ];
    json!({
        "apiVersion": portcullis::api::API_VERSION, "kind": "McpPolicy", "metadata": {"name": format!("p-{at}-{number}")},
        "spec": {"targetRefs": [{"group": "portcullis.dev", "kind": "McpServer", "name": format!("s-{at}")}], "rules": rules},
    })
}

/// Edits a policy and waits until the bundle of each of those servers says so: the time from the
/// API server's answer.
pub async fn edited(
    bench: &Bench,
    policy: &str,
    round: usize,
    servers: &[String],
) -> Done<Duration> {
    let maps: Api<ConfigMap> = bench.api();
    let listed = maps.list(&ListParams::default().limit(1)).await?;
    let version = listed.metadata.resource_version.unwrap_or_default();
    let labels = WatchParams::default().labels("app.kubernetes.io/managed-by=portcullis");
    let mut events = std::pin::pin!(maps.watch(&labels, &version).await?);
    let marker = format!("edit {policy} {round}");
    bench.edit(policy, &marker).await?;
    let accepted = Instant::now();
    let mut left: BTreeSet<String> = servers
        .iter()
        .map(|server| format!("{server}-gateway"))
        .collect();
    while !left.is_empty() {
        let event = tokio::time::timeout(Duration::from_secs(60), events.next())
            .await?
            .ok_or("the watch ended")??;
        if let WatchEvent::Added(map) | WatchEvent::Modified(map) = event
            && map
                .data
                .iter()
                .flatten()
                .any(|(_, text)| text.contains(&marker))
        {
            left.remove(&map.name_any());
        }
    }
    Ok(accepted.elapsed())
}
