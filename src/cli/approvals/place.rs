//! Where approvals are: in `portcullis serve` on this machine, or in a cluster.
//!
//! In: a socket or a kubeconfig. Out: the approvals there, and a person's decision put into one.
//! Must not do: record a decision on any other request than the one that the person reviewed.

use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use serde_json::json;

use super::super::cluster::{Cluster, ClusterArgs, Conflict};
use super::super::output::{Failure, visible};
use super::super::socket::{self, DecisionRequest};
use crate::api::Time;
use crate::api::approval::{Decision, McpApproval, Phase, Verdict};

/// A decision that lost against another write of the object is tried again this often.
const ATTEMPTS: usize = 5;
/// The interval at which approvals of `serve`, which has no watch, are read.
const LOOK: Duration = Duration::from_secs(1);

/// Where to look
#[derive(Debug, Default, clap::Args)]
pub(super) struct PlaceArgs {
    /// The socket of `portcullis serve` [default: $PORTCULLIS_SOCKET or
    /// $XDG_RUNTIME_DIR/portcullis/serve.sock]
    #[arg(long, global = true, value_name = "PATH", conflicts_with_all = ["context", "kubeconfig", "namespace", "all_namespaces"])]
    socket: Option<PathBuf>,
    /// Look in the cluster of this context of the kubeconfig; an empty name is the current context
    #[arg(long, global = true, value_name = "CONTEXT")]
    context: Option<String>,
    /// Look in a cluster, with this kubeconfig [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Look in a cluster, in this namespace [default: that of the context]
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Look in a cluster, in all namespaces
    #[arg(short = 'A', long, global = true, conflicts_with = "namespace")]
    all_namespaces: bool,
}

/// Where approvals are.
pub(super) enum Place {
    Serve(PathBuf),
    Cluster {
        cluster: Box<Cluster>,
        all_namespaces: bool,
        /// How to name this program and this cluster in a command line.
        flags: String,
        program: &'static str,
    },
}

impl PlaceArgs {
    /// The place that was asked for. As a plugin of kubectl it is a cluster whatever the flags.
    pub(super) fn place(self, plugin: bool) -> Result<Place, Failure> {
        let cluster = plugin && self.socket.is_none()
            || self.context.is_some()
            || self.kubeconfig.is_some()
            || self.namespace.is_some()
            || self.all_namespaces;
        if !cluster {
            return Ok(Place::Serve(
                self.socket.unwrap_or_else(socket::default_path),
            ));
        }
        let mut flags = String::new();
        if let Some(context) = self
            .context
            .as_deref()
            .filter(|context| !context.is_empty())
        {
            flags += &format!(" --context {}", visible(context));
        }
        if let Some(file) = &self.kubeconfig {
            flags += &format!(" --kubeconfig {}", visible(&file.display().to_string()));
        }
        let args = ClusterArgs {
            context: Some(self.context.unwrap_or_default()),
            kubeconfig: self.kubeconfig,
            namespace: self.namespace,
        };
        let Some(cluster) = args.cluster()? else {
            return Err(Failure::new("no cluster was named; write --context"));
        };
        Ok(Place::Cluster {
            cluster: Box::new(cluster),
            all_namespaces: self.all_namespaces,
            flags,
            program: if plugin {
                "kubectl portcullis"
            } else {
                "portcullis"
            },
        })
    }
}

impl Place {
    /// The beginning of a command line that does something to an approval here.
    pub(super) fn command(&self, verb: &str, approval: &McpApproval) -> String {
        let name = approval.metadata.name.as_deref().unwrap_or_default();
        match self {
            Place::Serve(_) => format!("portcullis approvals {verb} {name}"),
            Place::Cluster { flags, program, .. } => {
                let namespace = approval.metadata.namespace.as_deref().unwrap_or_default();
                format!("{program} approvals {verb} {name} -n {namespace}{flags}")
            }
        }
    }

    /// Whether approvals of several namespaces are shown.
    pub(super) fn is_wide(&self) -> bool {
        matches!(
            self,
            Place::Cluster {
                all_namespaces: true,
                ..
            }
        )
    }

    /// Every approval, each with the phase that it has now.
    pub(super) fn all(&self) -> Result<Vec<McpApproval>, Failure> {
        match self {
            Place::Serve(path) => socket::request(path, Method::GET, "/approvals", None)
                .map_err(|error| Failure::new(error.to_string())),
            Place::Cluster {
                cluster,
                all_namespaces,
                ..
            } => {
                let namespace = (!all_namespaces).then(|| cluster.namespace());
                let mut found = cluster.list::<McpApproval>(namespace)?;
                found.iter_mut().for_each(with_phase);
                Ok(found)
            }
        }
    }

    /// Writes a person's decision into the request that they reviewed.
    pub(super) fn decide(
        &self,
        seen: &McpApproval,
        verdict: Verdict,
        reason: Option<String>,
    ) -> Result<McpApproval, Failure> {
        match self {
            Place::Serve(path) => {
                let name = seen.metadata.name.as_deref().unwrap_or_default();
                let namespace = seen.metadata.namespace.as_deref().unwrap_or_default();
                let request = DecisionRequest {
                    verdict,
                    digest: Some(seen.spec.arguments_digest.clone()),
                    reason,
                };
                let target = format!("/approvals/{namespace}/{name}");
                socket::request(path, Method::POST, &target, Some(&request)).map_err(|error| {
                    match error {
                        socket::ClientError::Refused(message) => Failure { message, code: 1 },
                        other => Failure::new(other.to_string()),
                    }
                })
            }
            Place::Cluster { cluster, .. } => decide(cluster, seen, verdict, reason),
        }
    }

    /// Tells of each approval that is there and of each change, for ever.
    pub(super) fn watch(
        &self,
        mut tell: impl FnMut(&McpApproval) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut told = std::collections::HashMap::new();
        let mut news = move |mut approval: McpApproval| {
            with_phase(&mut approval);
            let key = (
                approval.metadata.uid.clone(),
                approval.metadata.namespace.clone(),
                approval.metadata.name.clone(),
            );
            let state = (
                approval.status.as_ref().and_then(|status| status.phase),
                approval.spec.decisions.len(),
            );
            if told.insert(key, state) == Some(state) {
                return Ok(());
            }
            tell(&approval)
        };
        match self {
            Place::Serve(_) => loop {
                for approval in self.all()? {
                    news(approval)?;
                }
                std::thread::sleep(LOOK);
            },
            Place::Cluster {
                cluster,
                all_namespaces,
                ..
            } => {
                let namespace = (!all_namespaces).then(|| cluster.namespace());
                cluster.watch::<McpApproval>(namespace, news)
            }
        }
    }
}

fn with_phase(approval: &mut McpApproval) {
    let phase = approval.phase_at(Timestamp::now());
    approval.status.get_or_insert_default().phase = Some(phase);
}

/// Adds one entry, in the name by which the API server knows who asks, to exactly the state that
/// was read.
fn decide(
    cluster: &Cluster,
    seen: &McpApproval,
    verdict: Verdict,
    reason: Option<String>,
) -> Result<McpApproval, Failure> {
    let no = |message: String| Failure { message, code: 1 };
    let name = seen.metadata.name.as_deref().unwrap_or_default();
    let namespace = seen.metadata.namespace.as_deref().unwrap_or_default();
    let by = cluster.user()?;
    for _ in 0..ATTEMPTS {
        let now = Timestamp::now();
        let current: Option<McpApproval> = cluster.get(namespace, name)?;
        let current = current.ok_or_else(|| {
            no(format!(
                "`{name}` is gone; the agent has to make the call again"
            ))
        })?;
        if current.metadata.uid != seen.metadata.uid
            || current.spec.arguments_digest != seen.spec.arguments_digest
        {
            return Err(no(format!(
                "`{name}` is another request than the one you reviewed; review it again"
            )));
        }
        let phase = current.phase_at(now);
        if phase != Phase::Pending {
            return Err(no(format!(
                "`{name}` does not wait for a decision any more: it is {phase:?}"
            )));
        }
        if current.spec.decisions.iter().any(|one| one.by == by) {
            return Err(no(format!(
                "you have decided `{name}` already; it waits for other people"
            )));
        }
        let mut decisions = current.spec.decisions.clone();
        decisions.push(Decision {
            verdict,
            by: by.clone(),
            reason: reason.clone(),
            at: Some(Time(now)),
        });
        let change = json!({
            "metadata": { "resourceVersion": current.metadata.resource_version },
            "spec": { "decisions": decisions },
        });
        match cluster.merge::<McpApproval>(namespace, name, &change)? {
            Ok(decided) => return Ok(decided),
            // Another person decided, or the operator wrote the phase.
            Err(Conflict::Changed) => {}
            Err(Conflict::Refused(message)) => return Err(no(message)),
        }
    }
    Err(Failure::new(format!(
        "`{name}` is changed by others all the time; try again"
    )))
}
