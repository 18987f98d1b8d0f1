//! A stand-in for the kubelet and kube-proxy of one node: pods of Portcullis run as processes on
//! loopback addresses.
//!
//! In: what the scheduler bound to the node and a real kubelet could read with the node's own
//! identity (node authorizer and NodeRestriction are on). Out: the container's real program with
//! the mounts, variables, token and address that its pod would have; status as a kubelet writes it;
//! for Services, an address that forwards to ready pods. Must not do: anything that a pod cannot
//! rely on. What it does not do, and a real node does: images, users, capabilities, resources,
//! read-only roots, liveness probes, lifecycle hooks, NetworkPolicy. A container's paths, `[::]`
//! and Service names are rewritten in its arguments and variables (see container.rs), as it has
//! neither a root nor a network of its own.
//!
//! Only pods with the label app.kubernetes.io/component of gateway, upstream or operator run;
//! others stay Pending. The label says which program is the image's entry point.

mod address;
mod clock;
mod container;
mod node;
mod pod;
mod process;
mod service;
mod status;
mod volume;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config, ResourceExt};
use tokio::runtime::Handle;
use tokio::sync::watch;

use address::Addresses;
use clock::Clocks;

const NODE: &str = "node-1";
const COMPONENT: &str = "app.kubernetes.io/component";
const COMPONENTS: [&str; 3] = ["gateway", "upstream", "operator"];

/// The node.
pub struct Kubelet {
    background: Handle,
    client: Client,
    server: String,
    folder: PathBuf,
    addresses: Addresses,
    running: Mutex<BTreeMap<String, Running>>,
    services: service::Services,
    clocks: OnceLock<Clocks>,
}

/// A pod as others see it: by UID.
#[derive(Clone, Debug)]
struct Running {
    namespace: String,
    name: String,
    /// Process groups of its containers.
    groups: Vec<rustix::process::Pid>,
}

impl Kubelet {
    /// Registers the node, waits until pods can be bound to it, and plays its kubelet from then on.
    pub async fn start(node: Config, folder: PathBuf, background: Handle) -> Arc<Self> {
        let server = node.cluster_url.to_string();
        let port = node
            .cluster_url
            .port_u16()
            .expect("the API server's address has a port");
        let client = Client::try_from(node).unwrap();
        let kubelet = Arc::new(Kubelet {
            background,
            client,
            server,
            folder,
            addresses: Addresses::of(port),
            running: Mutex::default(),
            services: service::Services::default(),
            clocks: OnceLock::new(),
        });
        node::register(&kubelet.client).await;
        tokio::spawn(node::keep_alive(kubelet.client.clone()));
        tokio::spawn(Arc::clone(&kubelet).follow());
        kubelet
    }

    /// The address under which a Service's port would be reached: connections go to its ready pods
    /// in turn.
    pub async fn service(&self, namespace: &str, name: &str, port: u16) -> SocketAddr {
        self.services.address(self, namespace, name, port).await
    }

    /// Kills what runs in a pod, as if it had crashed; it is started again.
    pub fn crash(&self, namespace: &str, name: &str) {
        assert!(
            self.crash_what_runs(namespace, name),
            "pod {namespace}/{name} has no process"
        );
    }

    /// The same; false if nothing runs there at the moment, as after another crash.
    pub fn crash_what_runs(&self, namespace: &str, name: &str) -> bool {
        let running = self.running.lock().unwrap();
        let pod = running
            .values()
            .find(|pod| pod.namespace == namespace && pod.name == name);
        let pod = pod.unwrap_or_else(|| panic!("no pod {namespace}/{name} runs"));
        for group in &pod.groups {
            rustix::process::kill_process_group(*group, rustix::process::Signal::KILL).unwrap();
        }
        !pod.groups.is_empty()
    }

    /// From now on, each gateway that starts has a wall clock of its pod's own, made with
    /// libfaketime, which [`Kubelet::step_clock`] sets.
    pub fn give_gateways_clocks(&self, library: PathBuf) {
        let clocks = Clocks::new(library, &self.folder);
        assert!(
            self.clocks.set(clocks).is_ok(),
            "gateways have clocks already"
        );
    }

    /// Sets a pod's clock to a number of seconds ahead of the tests' own or, with a minus, behind
    /// it.
    pub fn step_clock(&self, namespace: &str, name: &str, seconds: i64) {
        let clocks = self.clocks.get().expect("gateways have clocks");
        clocks.set(namespace, name, seconds).unwrap();
    }

    /// What a container of a pod wrote to its standard output and error.
    pub fn log(&self, namespace: &str, name: &str, container: &str) -> String {
        std::fs::read_to_string(self.log_file(namespace, name, container)).unwrap_or_default()
    }

    fn log_file(&self, namespace: &str, name: &str, container: &str) -> PathBuf {
        self.folder
            .join(format!("{namespace}_{name}_{container}.log"))
    }

    /// Starts and ends pods as they come and go.
    async fn follow(self: Arc<Self>) {
        let pods: Api<Pod> = Api::all(self.client.clone());
        let bound = watcher::Config::default().fields(&format!("spec.nodeName={NODE}"));
        let mut events = pin!(watcher(pods, bound).backoff(Quickly));
        let mut known: BTreeMap<String, watch::Sender<Option<Pod>>> = BTreeMap::new();
        let mut listed: Vec<String> = Vec::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(pod)) => self.changed(&mut known, pod),
                Ok(Event::Delete(pod)) => gone(&mut known, &pod.uid().unwrap_or_default()),
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(pod)) => {
                    listed.extend(pod.uid());
                    self.changed(&mut known, pod);
                }
                Ok(Event::InitDone) => {
                    let missing = known.keys().filter(|uid| !listed.contains(uid));
                    for uid in missing.cloned().collect::<Vec<_>>() {
                        gone(&mut known, &uid);
                    }
                }
                Err(error) => self.note(&format!("watching pods: {error}")),
            }
        }
    }

    fn changed(
        self: &Arc<Self>,
        known: &mut BTreeMap<String, watch::Sender<Option<Pod>>>,
        pod: Pod,
    ) {
        let component = pod.labels().get(COMPONENT).map(String::as_str);
        if !component.is_some_and(|component| COMPONENTS.contains(&component)) {
            return;
        }
        let uid = pod.uid().unwrap_or_default();
        if let Some(sender) = known.get(&uid) {
            sender.send_replace(Some(pod));
            return;
        }
        let (sender, receiver) = watch::channel(Some(pod.clone()));
        known.insert(uid, sender);
        tokio::spawn(pod::live(Arc::clone(self), pod, receiver));
    }

    /// Adds a line to the node's own log.
    fn note(&self, line: &str) {
        use std::io::Write;
        let file = self.folder.join("kubelet.log");
        if let Ok(mut file) = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(file)
        {
            let _ = writeln!(file, "{line}");
        }
    }
}

fn gone(known: &mut BTreeMap<String, watch::Sender<Option<Pod>>>, uid: &str) {
    if let Some(sender) = known.remove(uid) {
        sender.send_replace(None);
    }
}

/// Tries again soon, for ever: API servers of tests are restarted on purpose, and nobody else is
/// troubled by it.
#[derive(Clone, Copy)]
struct Quickly;

impl Iterator for Quickly {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::from_millis(200))
    }
}

impl kube::runtime::utils::Backoff for Quickly {
    fn reset(&mut self) {}
}
