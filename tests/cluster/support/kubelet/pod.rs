//! The life of one pod: volumes, init containers, containers, probes, status, and its end.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Pod};
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::Kubelet;
use super::container::{Plan, plan};
use super::process::Process;
use super::status::{Board, State};
use super::volume::{Mounted, mount};
use super::{Running, service};

/// How soon a crashed container is started again; a kubelet waits longer the second time.
const AGAIN: Duration = Duration::from_millis(500);
const PROBE_PERIOD: Duration = Duration::from_millis(100);
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Everything about a pod that does not change.
struct Life {
    kubelet: Arc<Kubelet>,
    pod: Pod,
    uid: String,
    address: IpAddr,
    folder: PathBuf,
    board: Board,
    changes: watch::Receiver<Option<Pod>>,
}

/// Runs the pod until its object is gone.
pub async fn live(kubelet: Arc<Kubelet>, pod: Pod, changes: watch::Receiver<Option<Pod>>) {
    let uid = pod.uid().unwrap_or_default();
    let address = kubelet.addresses.take();
    let folder = kubelet.folder.join("pods").join(&uid);
    let running = Running {
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        groups: Vec::new(),
    };
    kubelet.running.lock().unwrap().insert(uid.clone(), running);
    let life = Life {
        board: Board::start(&kubelet, &pod, address, changes.clone()),
        kubelet,
        pod,
        uid,
        address,
        folder,
        changes,
    };
    // Held here, so that files stay until the last process ended.
    let mut volumes = BTreeMap::new();
    let prepared = tokio::select! {
        _ = ending(life.changes.clone()) => false,
        () = life.prepare(&mut volumes) => true,
    };
    if prepared {
        life.board.initialized();
        let containers = life.pod.spec.iter().flat_map(|spec| &spec.containers);
        join_all(containers.map(|container| life.run(container, &volumes))).await;
    }
    drop(volumes);
    life.remove().await;
}

/// Resolves when the pod is to end, with the time that it has.
async fn ending(mut changes: watch::Receiver<Option<Pod>>) -> Duration {
    loop {
        match changes
            .borrow_and_update()
            .as_ref()
            .map(|pod| &pod.metadata)
        {
            None => return Duration::ZERO,
            Some(metadata) if metadata.deletion_timestamp.is_some() => {
                let seconds = metadata.deletion_grace_period_seconds.unwrap_or_default();
                return Duration::from_secs(seconds.try_into().unwrap_or_default());
            }
            Some(_) => {}
        }
        if changes.changed().await.is_err() {
            return Duration::ZERO;
        }
    }
}

impl Life {
    /// Mounts the volumes and runs the init containers, one after the other.
    async fn prepare(&self, volumes: &mut BTreeMap<String, Mounted>) {
        let spec = self.pod.spec.clone().unwrap_or_default();
        let folder = self.folder.join("volumes");
        for volume in spec.volumes.iter().flatten() {
            let what = format!("volume {}", volume.name);
            let mounted = self
                .until_done(&what, || mount(&self.kubelet, &self.pod, volume, &folder))
                .await;
            volumes.insert(volume.name.clone(), mounted);
        }
        for container in spec.init_containers.iter().flatten() {
            loop {
                match Process::start(&self.plan(container, volumes).await) {
                    Ok(mut process) => {
                        let status = process.wait().await;
                        if status.is_some_and(|status| status.success()) {
                            break;
                        }
                        self.note(&format!("init container {}: {status:?}", container.name));
                    }
                    Err(error) => self.note(&format!("init container {}: {error}", container.name)),
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// Tries until it succeeds, as a kubelet does, and tells each new reason once.
    async fn until_done<T, F: Future<Output = Result<T, String>>>(
        &self,
        what: &str,
        mut attempt: impl FnMut() -> F,
    ) -> T {
        let mut told = String::new();
        loop {
            match attempt().await {
                Ok(value) => return value,
                Err(error) if error != told => {
                    self.note(&format!("{what}: {error}"));
                    told = error;
                }
                Err(_) => {}
            }
            tokio::time::sleep(PROBE_PERIOD).await;
        }
    }

    async fn plan(&self, container: &Container, volumes: &BTreeMap<String, Mounted>) -> Plan {
        let address = self.address.to_string();
        self.until_done(&format!("container {}", container.name), || {
            plan(
                &self.kubelet,
                &self.pod,
                container,
                volumes,
                &self.folder,
                &address,
            )
        })
        .await
    }

    /// Keeps a container running until the pod ends, then ends it.
    async fn run(&self, container: &Container, volumes: &BTreeMap<String, Mounted>) {
        loop {
            let plan = tokio::select! {
                _ = ending(self.changes.clone()) => return,
                plan = self.plan(container, volumes) => plan,
            };
            let code = match Process::start(&plan) {
                Ok(mut process) => {
                    self.board.set(&container.name, State::Running);
                    self.group(process.group, true);
                    let group = process.group;
                    let ended = tokio::select! {
                        status = process.wait() => Ok(status),
                        grace = ending(self.changes.clone()) => Err(grace),
                        never = self.probe(container) => match never {},
                    };
                    let status = match ended {
                        Ok(status) => status,
                        Err(grace) => tokio::select! {
                            status = process.stop(grace) => status,
                            never = self.probe(container) => match never {},
                        },
                    };
                    self.group(group, false);
                    // What a shell makes of it: 128 and the signal.
                    status.and_then(|status| {
                        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
                        status.code().or(signal.map(|signal| 128 + signal))
                    })
                }
                Err(error) => {
                    self.note(&format!("container {}: {error}", container.name));
                    None
                }
            };
            self.board
                .set(&container.name, State::Terminated(code.unwrap_or(255)));
            tokio::select! {
                _ = ending(self.changes.clone()) => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    /// Sets whether the container is ready, for as long as it runs.
    async fn probe(&self, container: &Container) -> Infallible {
        let probe = container.readiness_probe.as_ref();
        let Some(get) = probe.and_then(|probe| probe.http_get.as_ref()) else {
            self.board.ready(&container.name, true);
            return std::future::pending().await;
        };
        loop {
            let answered = tokio::time::timeout(PROBE_TIMEOUT, self.healthy(get)).await;
            self.board
                .ready(&container.name, answered == Ok(Some(true)));
            tokio::time::sleep(PROBE_PERIOD).await;
        }
    }

    /// Whether it answers 2xx or 3xx, as probes count it.
    async fn healthy(&self, get: &HTTPGetAction) -> Option<bool> {
        let port = service::number(&self.pod, &get.port)?;
        let path = get.path.as_deref().unwrap_or("/");
        let mut stream = TcpStream::connect((self.address, port)).await.ok()?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}:{port}\r\nConnection: close\r\n\r\n",
            self.address
        );
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        let line = String::from_utf8_lossy(answer.get(..12)?).into_owned();
        let code: u16 = line.strip_prefix("HTTP/1.1 ")?.parse().ok()?;
        Some((200..400).contains(&code))
    }

    fn group(&self, group: rustix::process::Pid, runs: bool) {
        if let Some(pod) = self.kubelet.running.lock().unwrap().get_mut(&self.uid) {
            pod.groups.retain(|known| *known != group);
            if runs {
                pod.groups.push(group);
            }
        }
    }

    fn note(&self, line: &str) {
        let (namespace, name) = (
            self.pod.namespace().unwrap_or_default(),
            self.pod.name_any(),
        );
        self.kubelet.note(&format!("{namespace}/{name}: {line}"));
    }

    /// Confirms that nothing of it runs any more: only then does the object go.
    async fn remove(self) {
        self.kubelet.running.lock().unwrap().remove(&self.uid);
        let _ = std::fs::remove_dir_all(&self.folder);
        self.board.close().await;
        self.kubelet.addresses.give_back(self.address);
        let pods: Api<Pod> = Api::namespaced(
            self.kubelet.client.clone(),
            &self.pod.namespace().unwrap_or_default(),
        );
        let now = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(self.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        while self.changes.borrow().is_some() {
            match pods.delete(&self.pod.name_any(), &now).await {
                Ok(_) => return,
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return,
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }
}
