//! The keys that pods mount.
//!
//! In: a server's pods. Out: Secrets, made if they may be missing. Must not do: read one, which the
//! operator has no right to.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::build::metadata::metadata;
use super::error::ApplyError;
use super::fetch::Refs;
use super::memory::Remembered;
use crate::api::contract::{BEARER_KEY, SEALING_KEY};
use crate::api::server::McpServer;
use crate::controller::key;
use crate::controller::names::{GATEWAY, UPSTREAM};
use crate::controller::runtime::objects::GatewayPod;
use crate::controller::runtime::throttle::{sooner, throttled};
use crate::controller::runtime::writer;

/// Between two attempts to make a Secret that a pod may be waiting for.
const SECRET_AGAIN: Duration = Duration::from_secs(15);

/// Makes the Secrets that pods wait for. They are made once and never read. While a pod that mounts
/// one is not ready, the Secret may be missing (a user has deleted it, and the kubelet waits for
/// it), so the operator tries to create it again. Returns when to try the next time.
pub async fn make(
    client: &kube::Client,
    refs: &Refs,
    server: &McpServer,
    memory: &Remembered,
) -> Result<Option<Duration>, ApplyError> {
    let ident = &refs.ident;
    let runs = |pods: &[Arc<GatewayPod>]| {
        let mut lasting = pods.iter().filter(|pod| !pod.terminating).peekable();
        lasting.peek().is_some() && lasting.all(|pod| pod.ready)
    };
    let gateway = runs(&refs.pods);
    let mut wanted = vec![(ident.sealing_secret(), GATEWAY, SEALING_KEY, gateway)];
    if server.spec.upstream.stdio.is_some() {
        let both = gateway && runs(&refs.upstream_pods);
        wanted.push((ident.bearer_secret(), UPSTREAM, BEARER_KEY, both));
    }
    let mut again = None;
    for (name, component, key, mounted) in wanted {
        let missing = memory.lock().reports.values().any(|report| {
            let keys = &report.missing_secret_keys;
            keys.iter()
                .any(|key| key.split('/').next() == Some(name.as_str()))
        });
        if mounted && !missing {
            continue;
        }
        let made = memory.lock().secrets_made.get(&name).copied();
        if let Some(left) = throttled(made, SECRET_AGAIN, Instant::now()) {
            again = sooner(again, Some(left));
            continue;
        }
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata(ident, &name, component),
            "stringData": { key: key::random_text()? },
        });
        writer::secret(client, &secret, &ident.namespace)
            .await
            .map_err(ApplyError::Secret)?;
        memory.lock().secrets_made.insert(name, Instant::now());
        again = sooner(again, Some(SECRET_AGAIN));
    }
    Ok(again)
}
