//! An operator that all of these tests share, and a room for each.

use std::net::SocketAddr;
use std::sync::OnceLock;

use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client, ResourceExt};
use portcullis::api::condition::{Condition, ConditionType};
use portcullis::api::policy::McpPolicy;
use portcullis::api::server::McpServer;
use serde_json::{Value, json};

use k8s_openapi::api::core::v1::Pod;

use crate::support::control_plane::Options;
use crate::support::kubelet::Kubelet;
use crate::support::wire::client::Client as McpClient;
use crate::support::wire::upstream::Fake;
use crate::support::{Cluster, Namespace, eventually, tool};

pub const SYSTEM: &str = "portcullis-system";
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/portcullis");

/// The cluster with the operator in it: two replicas.
pub fn operated(what: &str) -> Option<&'static Cluster> {
    static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
    SHARED.get_or_init(|| start(what)).as_ref()
}

fn start(what: &str) -> Option<Cluster> {
    let cluster = Cluster::start(what, &Options::default())?;
    let arguments = [
        "install",
        "portcullis",
        CHART,
        "--namespace",
        SYSTEM,
        "--create-namespace",
        "--set",
        "operator.lease.duration=5s,operator.logFormat=text",
    ];
    tool::run(
        &cluster.program("helm"),
        cluster.admin_kubeconfig(),
        arguments,
        "",
    )
    .ok();
    Some(cluster)
}

/// One test's namespace, and what is needed to use it.
pub struct Room {
    pub cluster: &'static Cluster,
    pub namespace: Namespace,
    pub client: Client,
}

impl Room {
    /// None where there is no API server, which is told.
    pub async fn open(what: &'static str) -> Option<Room> {
        let cluster = tokio::task::spawn_blocking(move || operated(what))
            .await
            .unwrap()?;
        Some(Room {
            cluster,
            namespace: cluster.namespace("op").await,
            client: cluster.admin_client(),
        })
    }

    /// The same in a cluster of the test's own, which it may break.
    pub async fn alone(what: &'static str) -> Option<Room> {
        let cluster = tokio::task::spawn_blocking(move || start(what))
            .await
            .unwrap()?;
        // As the shared one, it ends with this process.
        let cluster: &'static Cluster = Box::leak(Box::new(cluster));
        Some(Room {
            cluster,
            namespace: cluster.namespace("op").await,
            client: cluster.admin_client(),
        })
    }

    pub fn name(&self) -> &str {
        &self.namespace.name
    }

    pub fn kubelet(&self) -> &Kubelet {
        self.cluster.kubelet("gateways").unwrap()
    }

    pub fn servers(&self) -> Api<McpServer> {
        Api::namespaced(self.client.clone(), self.name())
    }

    pub fn policies(&self) -> Api<McpPolicy> {
        Api::namespaced(self.client.clone(), self.name())
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), self.name())
    }

    /// As a person would: `kubectl apply`.
    pub fn apply(&self, document: &Value) {
        self.cluster
            .kubectl_with(
                ["apply", "-n", self.name(), "-f", "-"],
                &document.to_string(),
            )
            .ok();
    }

    pub fn serve(&self, name: &str, fake: &Fake) {
        self.apply(&server(name, fake));
    }

    /// Lets every call to a server through: one that refuses every call is not ready.
    pub fn open_to_all(&self, server: &str) {
        let rules = json!([allow("all", &["*"])]);
        self.apply(&policy(&format!("open-{server}"), server, rules));
    }

    /// Waits for a condition of a server with that status and reason.
    pub async fn server_is(
        &self,
        name: &str,
        kind: ConditionType,
        status: &str,
        reason: &str,
    ) -> McpServer {
        eventually(&format!("{kind}={status}, {reason} of {name}"), || async {
            let server = self.servers().get(name).await.unwrap();
            let conditions = server
                .status
                .as_ref()
                .map(|status| status.conditions.clone())
                .unwrap_or_default();
            match find(&conditions, kind) {
                Some(condition) if condition.status == status && condition.reason == reason => {
                    Ok(server)
                }
                _ => Err(conditions),
            }
        })
        .await
    }

    pub async fn ready(&self, name: &str) -> McpServer {
        self.server_is(name, ConditionType::Ready, "True", "Ready")
            .await
    }

    pub async fn policy_is(
        &self,
        name: &str,
        kind: ConditionType,
        status: &str,
        reason: &str,
    ) -> McpPolicy {
        eventually(&format!("{kind}={status}, {reason} of {name}"), || async {
            let policy = self.policies().get(name).await.unwrap();
            let conditions = policy
                .status
                .as_ref()
                .map(|status| status.conditions.clone())
                .unwrap_or_default();
            match find(&conditions, kind) {
                Some(condition) if condition.status == status && condition.reason == reason => {
                    Ok(policy)
                }
                _ => Err(conditions),
            }
        })
        .await
    }

    /// Waits until every gateway of a server enforces those policies and no others.
    pub async fn holds(&self, name: &str, policies: &[&str]) {
        eventually(&format!("{name} enforces {policies:?}"), || async {
            let status = self.servers().get(name).await.unwrap().status;
            let status = status.unwrap_or_default();
            let held: Vec<&str> = status
                .policies
                .iter()
                .map(|one| one.name.as_str())
                .collect();
            let programmed = find(&status.conditions, ConditionType::Programmed)
                .is_some_and(|condition| condition.status == "True");
            if held == policies && programmed {
                Ok(())
            } else {
                Err(format!("{held:?}, {programmed}"))
            }
        })
        .await;
    }

    /// A client of a server's gateway, through its Service, in a session.
    pub async fn agent(&self, server: &str) -> McpClient {
        let address = self
            .kubelet()
            .service(self.name(), &format!("{server}-gateway"), 8080)
            .await;
        McpClient::new(address, "/mcp").session().await
    }

    /// A client of a server's one gateway pod in a session, once it answers: it may have been
    /// killed a moment ago.
    pub async fn living_agent(&self, server: &str) -> McpClient {
        let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
        let address = eventually("the gateway answers", || async {
            let pods = self.gateway_pods(server).await;
            let pod = pods.into_iter().next().ok_or("no pod")?;
            let address = pod
                .status
                .and_then(|status| status.pod_ip)
                .ok_or("no address")?;
            let address = SocketAddr::new(address.parse().unwrap(), 8080);
            let client = McpClient::new(address, "/mcp");
            client.try_post(&ping).await.ok_or("no answer")?;
            match client.initialize("2025-11-25", json!({})).await.status == 200 {
                true => Ok(address),
                false => Err("no policy"),
            }
        })
        .await;
        McpClient::new(address, "/mcp").session().await
    }

    pub async fn gateway_pods(&self, server: &str) -> Vec<Pod> {
        let labels = format!("app.kubernetes.io/component=gateway,portcullis.dev/server={server}");
        self.pods()
            .list(&ListParams::default().labels(&labels))
            .await
            .unwrap()
            .items
    }

    /// Deletes a gateway's pod and waits until another is ready.
    pub async fn replace_gateway(&self, server: &str) {
        let before = self.gateway_pods(server).await;
        for pod in &before {
            self.pods()
                .delete(&pod.name_any(), &DeleteParams::default())
                .await
                .unwrap();
        }
        eventually("another gateway", || async {
            let pods = self.gateway_pods(server).await;
            let fresh = pods
                .iter()
                .any(|pod| before.iter().all(|old| old.uid() != pod.uid()) && pod_ready(pod));
            let old = pods
                .iter()
                .any(|pod| before.iter().any(|old| old.uid() == pod.uid()));
            if fresh && !old {
                Ok(())
            } else {
                Err(pods.iter().map(ResourceExt::name_any).collect::<Vec<_>>())
            }
        })
        .await;
    }

    /// The violations in a server's status, once they are as many.
    pub async fn violations(&self, server: &str, total: i64) -> McpServer {
        eventually(&format!("{total} violations at {server}"), || async {
            let object = self.servers().get(server).await.unwrap();
            let counts = object
                .status
                .as_ref()
                .and_then(|status| status.violations.clone())
                .unwrap_or_default()
                .counts;
            if counts.total == total {
                Ok(object)
            } else {
                Err(counts)
            }
        })
        .await
    }
}

pub fn pod_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| {
        all.iter()
            .any(|one| one.type_ == "Ready" && one.status == "True")
    })
}

pub fn find(conditions: &[Condition], kind: ConditionType) -> Option<&Condition> {
    conditions
        .iter()
        .find(|condition| condition.type_ == kind.as_str())
}

/// An open server in front of a fake upstream.
pub fn server(name: &str, fake: &Fake) -> Value {
    json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer", "metadata": {"name": name, "labels": {"team": "ml"}},
        "spec": {
            "upstream": {"http": {"url": format!("http://{}/mcp", fake.addr)}},
            "authentication": {"anonymous": "Allow"},
        },
    })
}

/// A policy over one server.
pub fn policy(name: &str, server: &str, rules: Value) -> Value {
    json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpPolicy", "metadata": {"name": name},
        "spec": {"targetRefs": [{"group": "portcullis.dev", "kind": "McpServer", "name": server}], "rules": rules},
    })
}

pub fn allow(name: &str, tools: &[&str]) -> Value {
    json!({"name": name, "tools": {"names": tools}, "action": "Allow"})
}

pub fn deny(name: &str, tools: &[&str], reason: &str) -> Value {
    json!({"name": name, "tools": {"names": tools}, "action": "Deny", "reason": reason})
}

/// Whether a call is let through; the text says why not.
pub async fn call(agent: &McpClient, tool: &str) -> Result<(), String> {
    let reply = agent.call(tool, json!({})).await;
    let message = reply.json();
    if let Some(error) = message.get("error") {
        return Err(error["message"].as_str().unwrap_or_default().to_owned());
    }
    match reply.tool() {
        (false, _) => Ok(()),
        (true, text) => Err(text),
    }
}
