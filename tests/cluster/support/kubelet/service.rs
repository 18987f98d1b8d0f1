//! Services: an address on loopback that forwards each connection to a ready pod, looked up when it
//! comes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Api, Client, api::ListParams};
use tokio::net::{TcpListener, TcpStream};

use super::{Kubelet, NODE};

#[derive(Default)]
pub struct Services {
    known: Mutex<BTreeMap<(String, String, u16), SocketAddr>>,
}

impl Services {
    /// The address of a Service's port; the Service need not be there yet.
    pub async fn address(
        &self,
        kubelet: &Kubelet,
        namespace: &str,
        name: &str,
        port: u16,
    ) -> SocketAddr {
        let key = (namespace.to_owned(), name.to_owned(), port);
        let (listener, address) = {
            let mut known = self.known.lock().unwrap();
            if let Some(address) = known.get(&key) {
                return *address;
            }
            let address = SocketAddr::new(kubelet.addresses.take(), port);
            let listener = std::net::TcpListener::bind(address);
            let listener =
                listener.unwrap_or_else(|error| panic!("{address} for Service {name}: {error}"));
            listener.set_nonblocking(true).unwrap();
            known.insert(key.clone(), address);
            (listener, address)
        };
        let forwarder = Forwarder {
            client: kubelet.client.clone(),
            namespace: key.0,
            name: key.1,
            port,
            turn: AtomicUsize::new(0),
        };
        kubelet.background.spawn(async move {
            // It is registered with the runtime in which it is used.
            let listener = TcpListener::from_std(listener).unwrap();
            let forwarder = Arc::new(forwarder);
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&forwarder).forward(connection));
            }
        });
        address
    }
}

struct Forwarder {
    client: Client,
    namespace: String,
    name: String,
    port: u16,
    turn: AtomicUsize,
}

impl Forwarder {
    /// Closes the connection where there is no Service, or no ready pod.
    async fn forward(self: Arc<Self>, mut from: TcpStream) {
        let Ok(targets) = self.targets().await else {
            return;
        };
        for _ in 0..targets.len() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % targets.len();
            if let Ok(mut to) = TcpStream::connect(targets[turn]).await {
                let _ = (from.set_nodelay(true), to.set_nodelay(true));
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                return;
            }
        }
    }

    async fn targets(&self) -> Result<Vec<SocketAddr>, kube::Error> {
        let services: Api<Service> = Api::namespaced(self.client.clone(), &self.namespace);
        let Some(spec) = services
            .get_opt(&self.name)
            .await?
            .and_then(|service| service.spec)
        else {
            return Ok(Vec::new());
        };
        let ports = spec.ports.unwrap_or_default();
        let Some(port) = ports
            .into_iter()
            .find(|port| port.port == i32::from(self.port))
        else {
            return Ok(Vec::new());
        };
        let target = port.target_port.unwrap_or(IntOrString::Int(port.port));
        let selector: Vec<String> = spec
            .selector
            .unwrap_or_default()
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        if selector.is_empty() {
            return Ok(Vec::new());
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let bound = ListParams::default()
            .labels(&selector.join(","))
            .fields(&format!("spec.nodeName={NODE}"));
        let pods = pods.list(&bound).await?;
        Ok(pods
            .items
            .iter()
            .filter_map(|pod| endpoint(pod, &target))
            .collect())
    }
}

/// Where a ready pod that is not about to go serves the port.
fn endpoint(pod: &Pod, target: &IntOrString) -> Option<SocketAddr> {
    let status = pod.status.as_ref()?;
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let ready = conditions
        .iter()
        .any(|c| c.type_ == "Ready" && c.status == "True");
    if !ready || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let address: IpAddr = status.pod_ip.as_ref()?.parse().ok()?;
    Some(SocketAddr::new(address, number(pod, target)?))
}

/// The number of a port that may be given by its name.
pub fn number(pod: &Pod, port: &IntOrString) -> Option<u16> {
    let name = match port {
        IntOrString::Int(number) => return u16::try_from(*number).ok(),
        IntOrString::String(name) => name,
    };
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let port = ports.find(|port| port.name.as_ref() == Some(name))?;
    u16::try_from(port.container_port).ok()
}
