//! The status of a pod, written whenever it changes or somebody else has changed it, and not
//! otherwise.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Kubelet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Waiting,
    Running,
    /// With the exit code.
    Terminated(i32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    image: String,
    state: State,
    since: String,
    ready: bool,
    starts: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct View {
    address: String,
    started: String,
    initialized: bool,
    containers: Vec<Entry>,
}

/// What is known of the pod, with a task that writes it.
pub struct Board {
    view: watch::Sender<View>,
    writer: JoinHandle<()>,
}

impl Board {
    /// `object` is the pod as the API server has it, from now on.
    pub fn start(
        kubelet: &Arc<Kubelet>,
        pod: &Pod,
        address: IpAddr,
        object: watch::Receiver<Option<Pod>>,
    ) -> Self {
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let view = View {
            address: address.to_string(),
            started: Timestamp::now().to_string(),
            initialized: false,
            containers: containers
                .map(|container| Entry {
                    name: container.name.clone(),
                    image: container.image.clone().unwrap_or_default(),
                    state: State::Waiting,
                    since: String::new(),
                    ready: false,
                    starts: 0,
                })
                .collect(),
        };
        let pods: Api<Pod> =
            Api::namespaced(kubelet.client.clone(), &pod.namespace().unwrap_or_default());
        let (view, changes) = watch::channel(view);
        let writer = tokio::spawn(write(
            Arc::clone(kubelet),
            pods,
            pod.name_any(),
            pod.uid(),
            changes,
            object,
        ));
        Board { view, writer }
    }

    pub fn initialized(&self) {
        self.view
            .send_if_modified(|view| !std::mem::replace(&mut view.initialized, true));
    }

    pub fn set(&self, container: &str, state: State) {
        self.change(container, |entry| {
            entry.state = state;
            entry.since = Timestamp::now().to_string();
            match state {
                State::Running => entry.starts += 1,
                _ => entry.ready = false,
            }
        });
    }

    pub fn ready(&self, container: &str, ready: bool) {
        self.change(container, |entry| entry.ready = ready);
    }

    fn change(&self, container: &str, change: impl FnOnce(&mut Entry)) {
        self.view.send_if_modified(|view| {
            let Some(entry) = view
                .containers
                .iter_mut()
                .find(|entry| entry.name == container)
            else {
                return false;
            };
            let before = entry.clone();
            change(entry);
            *entry != before
        });
    }

    /// Nothing is written after this.
    pub async fn close(self) {
        self.writer.abort();
        let _ = self.writer.await;
    }
}

async fn write(
    kubelet: Arc<Kubelet>,
    pods: Api<Pod>,
    name: String,
    uid: Option<String>,
    mut changes: watch::Receiver<View>,
    mut object: watch::Receiver<Option<Pod>>,
) {
    // When each condition came to be as it is.
    let mut since: [(bool, String); 3] =
        std::array::from_fn(|_| (false, Timestamp::now().to_string()));
    loop {
        let status = changes.borrow_and_update().status(&mut since);
        // The UID keeps it from a pod of the same name that came after.
        let patch = Patch::Strategic(json!({"metadata": {"uid": uid}, "status": status}));
        loop {
            match pods
                .patch_status(&name, &PatchParams::default(), &patch)
                .await
            {
                Ok(_) => break,
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return,
                Err(error) => {
                    kubelet.note(&format!("status of {name}: {error}"));
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
        let ready = changes.borrow().ready();
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                return;
            },
            () = denied(&mut object, ready) => {}
        }
    }
}

/// Waits until somebody else says otherwise: the node controller makes pods unready when it has not
/// heard of their node.
async fn denied(object: &mut watch::Receiver<Option<Pod>>, ready: bool) {
    let told = if ready { "True" } else { "False" };
    while object.changed().await.is_ok() {
        let pod = object.borrow_and_update();
        let status = pod.as_ref().and_then(|pod| pod.status.as_ref());
        let conditions = status.and_then(|status| status.conditions.as_ref());
        let mut ready = conditions.into_iter().flatten();
        if ready.any(|condition| condition.type_ == "Ready" && condition.status != told) {
            return;
        }
    }
    std::future::pending().await
}

impl View {
    fn ready(&self) -> bool {
        !self.containers.is_empty() && self.containers.iter().all(|entry| entry.ready)
    }

    fn status(&self, since: &mut [(bool, String); 3]) -> Value {
        let ready = self.ready();
        let held = [self.initialized, ready, ready];
        let kinds = ["Initialized", "ContainersReady", "Ready"];
        for (held, since) in held.iter().zip(since.iter_mut()) {
            if *held != since.0 {
                *since = (*held, Timestamp::now().to_string());
            }
        }
        let conditions: Vec<Value> = kinds
            .iter()
            .zip(since.iter())
            .map(|(kind, (held, since))| {
                json!({"type": kind, "status": if *held { "True" } else { "False" }, "lastTransitionTime": since})
            })
            .collect();
        let started = self.containers.iter().any(|entry| entry.starts > 0);
        json!({
            "phase": if started { "Running" } else { "Pending" },
            "startTime": self.started,
            "hostIP": "127.0.0.1", "hostIPs": [{"ip": "127.0.0.1"}],
            "podIP": self.address, "podIPs": [{"ip": self.address}],
            "conditions": conditions,
            "containerStatuses": self.containers.iter().map(Entry::status).collect::<Vec<_>>(),
        })
    }
}

impl Entry {
    fn status(&self) -> Value {
        let state = match self.state {
            State::Waiting => json!({"waiting": {"reason": "ContainerCreating"}}),
            State::Running => json!({"running": {"startedAt": self.since}}),
            State::Terminated(code) => {
                let reason = if code == 0 { "Completed" } else { "Error" };
                json!({"terminated": {"exitCode": code, "reason": reason, "startedAt": null, "finishedAt": self.since}})
            }
        };
        json!({
            "name": self.name, "image": self.image, "imageID": "", "ready": self.ready,
            "started": self.state == State::Running, "restartCount": self.starts.saturating_sub(1), "state": state,
        })
    }
}
