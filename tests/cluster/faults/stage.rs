//! Where a story is played: namespaces of its own, an operator with the chart's rights, the proxy
//! before it.

use std::path::PathBuf;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use portcullis::api::policy::McpPolicy;
use portcullis::api::server::McpServer;
use serde_json::{Value, json};

use super::operator::{Operator, Start};
use super::proxy::Proxy;
use crate::support::audit::Write;
use crate::support::wire::upstream::Fake;
use crate::support::{Cluster, Namespace, eventually};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/portcullis");
/// What the chart calls the operator's account and Lease.
const ACCOUNT: &str = "portcullis-operator";
/// Renewals of the Lease by which nothing else is written: they come each second, and nothing that
/// the operator puts off for thrift waits longer than ten.
const QUIET: usize = 12;

pub struct Stage<'c> {
    // First, so that it ends before what it works on.
    pub operator: Operator,
    pub proxy: Proxy,
    pub cluster: &'c Cluster,
    pub client: Client,
    pub fake: Fake,
    pub namespace: Namespace,
    system: Namespace,
    key: tempfile::NamedTempFile,
}

/// The cluster that these cases share; None where there is none, or no node that runs pods.
pub async fn shared(what: &'static str) -> Option<&'static Cluster> {
    let cluster = tokio::task::spawn_blocking(move || Cluster::get(what))
        .await
        .unwrap()?;
    cluster.kubelet(what).map(|_| cluster)
}

impl<'c> Stage<'c> {
    /// An operator on `cluster`, not disturbed yet.
    pub async fn open(cluster: &'c Cluster) -> Stage<'c> {
        Self::open_with(cluster, &[]).await
    }

    /// The same, with more arguments for the operator.
    pub async fn open_with(cluster: &'c Cluster, more: &[&str]) -> Stage<'c> {
        let namespace = cluster.namespace("faults").await;
        let system = cluster.namespace("operator").await;
        let set = format!(
            "operator.replicas=0,crds.enabled=false,admissionPolicies.enabled=false,rbac.userRoles=false,watchNamespaces={{{namespace}}}"
        );
        cluster
            .helm([
                "install",
                "portcullis",
                CHART,
                "--namespace",
                &system.name,
                "--set",
                &set,
            ])
            .ok();
        let key = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            key.path(),
            "c2l4dGVlbiBieXRlcyB0byBwcm92ZSBhbiBvcGVyYXRvcg==",
        )
        .unwrap();
        let proxy = Proxy::start(&cluster.config()).await;
        let kubeconfig = kubeconfig(cluster, &system.name, &proxy, "a").await;
        let mut start = start(
            cluster,
            &namespace.name,
            &system.name,
            &key,
            kubeconfig,
            "a",
        );
        let more = more.iter().map(|argument| (*argument).to_owned());
        start.arguments.extend(more);
        let operator = Operator::start(start);
        proxy.on_kill(operator.killer());
        Stage {
            operator,
            proxy,
            cluster,
            client: cluster.admin_client(),
            fake: Fake::start(&["get_run", "set_tag", "delete_run"]).await,
            namespace,
            system,
            key,
        }
    }

    /// One more replica, with a proxy of its own.
    pub async fn replica(&self, name: &str) -> (Proxy, Operator) {
        let proxy = Proxy::start(&self.cluster.config()).await;
        let kubeconfig = kubeconfig(self.cluster, &self.system.name, &proxy, name).await;
        let start = start(
            self.cluster,
            self.name(),
            &self.system.name,
            &self.key,
            kubeconfig,
            name,
        );
        (proxy, Operator::start(start))
    }

    pub fn name(&self) -> &str {
        &self.namespace.name
    }

    pub fn system(&self) -> &str {
        &self.system.name
    }

    pub fn servers(&self) -> Api<McpServer> {
        Api::namespaced(self.client.clone(), self.name())
    }

    pub fn policies(&self) -> Api<McpPolicy> {
        Api::namespaced(self.client.clone(), self.name())
    }

    /// `kubectl apply`, again until the API server has taken it.
    pub async fn apply(&self, document: &Value) {
        self.kubectl(
            &["apply", "-n", self.name(), "-f", "-"],
            &document.to_string(),
        )
        .await;
    }

    /// kubectl, again until it succeeds; what it printed.
    pub async fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        eventually(&format!("kubectl {arguments:?}"), || async {
            let printed = crate::support::tool::run(
                &self.cluster.program("kubectl"),
                self.cluster.admin_kubeconfig(),
                arguments,
                input,
            );
            if printed.code == Some(0) {
                Ok(printed.out)
            } else {
                Err(printed)
            }
        })
        .await
    }

    /// What the operator asked the API server to change in the story's namespace; the Lease is
    /// elsewhere.
    pub fn writes(&self) -> Vec<Write> {
        let user = format!("system:serviceaccount:{}:{ACCOUNT}", self.system.name);
        self.cluster
            .writes()
            .into_iter()
            .filter(|write| write.user == user && write.namespace == self.name())
            .collect()
    }

    /// Who holds the Lease, and the time of its last renewal.
    pub async fn lease(&self) -> Result<(String, String), String> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.system.name);
        let lease = leases
            .get(ACCOUNT)
            .await
            .map_err(|error| error.to_string())?;
        let spec = lease.spec.unwrap_or_default();
        match (spec.holder_identity, spec.renew_time) {
            (Some(holder), Some(time)) if !holder.is_empty() => Ok((holder, time.0.to_string())),
            _ => Err("nobody holds the Lease".to_owned()),
        }
    }

    /// Waits until the Lease was renewed so often.
    pub async fn renewals(&self, count: usize) {
        let mut last = self.lease().await.ok();
        for _ in 0..count {
            last = Some(
                eventually("the Lease is renewed", || async {
                    let now = self.lease().await?;
                    if last.as_ref() == Some(&now) {
                        Err("not yet".to_owned())
                    } else {
                        Ok(now)
                    }
                })
                .await,
            );
        }
    }

    /// Fails if the operator writes anything from now on, for a while in which it shows to be
    /// alive.
    pub async fn writes_nothing_more(&self) {
        // What belongs to the last status, its Event, may still be on its way.
        self.renewals(2).await;
        let before = self.writes();
        self.renewals(QUIET).await;
        let after = self.writes();
        let more = after.get(before.len()..).unwrap_or_default();
        assert_eq!(more, [], "written after convergence");
    }
}

/// The kubeconfig of the operator's own account, with the proxy in place of the API server.
async fn kubeconfig(cluster: &Cluster, system: &str, proxy: &Proxy, name: &str) -> PathBuf {
    use base64::Engine as _;
    let file = cluster.account_kubeconfig(system, ACCOUNT).await;
    let mut document: Value =
        serde_saphyr::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let certificate = base64::engine::general_purpose::STANDARD.encode(&proxy.certificate);
    for entry in document["clusters"].as_array_mut().unwrap() {
        entry["cluster"] = json!({
            "server": format!("https://{}", proxy.addr),
            "certificate-authority-data": certificate,
        });
    }
    let file = file.with_extension(format!("{name}.proxied"));
    std::fs::write(&file, document.to_string()).unwrap();
    file
}

fn start(
    cluster: &Cluster,
    namespace: &str,
    system: &str,
    key: &tempfile::NamedTempFile,
    kubeconfig: PathBuf,
    name: &str,
) -> Start {
    Start {
        kubeconfig,
        arguments: vec![
            format!("--namespace={system}"),
            format!("--pod-name={name}"),
            "--gateway-image=portcullis-gateway".to_owned(),
            format!("--watch-namespace={namespace}"),
            format!("--key-file={}", key.path().display()),
            "--lease-duration=3s".to_owned(),
            "--admin-listen=127.0.0.1:0".to_owned(),
            "--log-format=text".to_owned(),
        ],
        log: cluster
            .folder()
            .join(format!("{namespace}_operator-{name}.log")),
    }
}
