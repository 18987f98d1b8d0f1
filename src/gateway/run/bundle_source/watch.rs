//! The gateway's ConfigMap through the API: read once, then watched by name, for as long as the
//! gateway runs.
//!
//! In: which ConfigMap; the cluster's address and credentials as every Kubernetes client finds
//! them. Out: the notices of [`Follower`]. Must not do: anything but `get` and `watch` of that one
//! object, which is all that its Role grants. It never lists.

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, TryStreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{WatchEvent as ApiEvent, WatchParams};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::follow::{BundleNotice, Follower, ObservedConfigMap, WatchEvent, WatchStep};
use crate::api::contract::BUNDLE_KEY;
use crate::gateway::cluster_api::{self, random};

/// A request has this long to be answered.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A watch that has not ended this long after its timeout hangs.
const WATCH_OVERTIME: Duration = Duration::from_secs(5);

/// The ConfigMap that is followed.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Watches are renewed after this long. One that went silent without ending, as where a network
    /// drops connections without a word, is noticed then.
    pub renewed_after: Duration,
}

type ConfigMapEvents = Pin<Box<dyn Stream<Item = kube::Result<ApiEvent<ConfigMap>>> + Send>>;

struct Watch {
    events: ConfigMapEvents,
    opened: Instant,
}

/// Follows until the receiver is dropped.
pub async fn follow(target: Target, notices: mpsc::Sender<BundleNotice>) {
    let mut follower = Follower::default();
    let mut step = Follower::start();
    let mut api = None;
    let mut watch = None;
    loop {
        let event = match &step {
            WatchStep::Read { reconnect } => {
                watch = None;
                if *reconnect {
                    api = None;
                }
                read(&target, &mut api).await
            }
            WatchStep::Watch { from } => match &api {
                Some(api) => open(&target, api, from, &mut watch).await,
                None => WatchEvent::Silent,
            },
            WatchStep::Listen => match &mut watch {
                Some(watch) => listen(&target, watch).await,
                None => WatchEvent::Silent,
            },
        };
        let action = follower.next(event, random());
        if let Some(notice) = action.notice
            && notices.send(notice).await.is_err()
        {
            return;
        }
        if !action.after.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(action.after) => {}
                () = notices.closed() => return,
            }
        }
        step = action.step;
    }
}

async fn read(target: &Target, api: &mut Option<Api<ConfigMap>>) -> WatchEvent {
    let read = async {
        let api = match api {
            Some(api) => api,
            None => api.insert(connect(&target.namespace).await?),
        };
        api.get_opt(&target.name)
            .await
            .map_err(|error| failed(&error))
    };
    match timeout(REQUEST_TIMEOUT, read).await {
        Ok(Ok(object)) => WatchEvent::Read(object.map(seen)),
        Ok(Err(heard)) => heard,
        Err(_) => WatchEvent::Silent,
    }
}

async fn connect(namespace: &str) -> Result<Api<ConfigMap>, WatchEvent> {
    let client = cluster_api::connect().await.map_err(WatchEvent::Failed)?;
    Ok(Api::namespaced(client, namespace))
}

async fn open(
    target: &Target,
    api: &Api<ConfigMap>,
    from: &str,
    watch: &mut Option<Watch>,
) -> WatchEvent {
    let seconds = u32::try_from(target.renewed_after.as_secs()).unwrap_or(u32::MAX);
    let one = WatchParams::default()
        .fields(&format!("metadata.name={}", target.name))
        .timeout(seconds);
    match timeout(REQUEST_TIMEOUT, api.watch(&one, from)).await {
        Ok(Ok(events)) => {
            *watch = Some(Watch {
                events: Box::pin(events),
                opened: Instant::now(),
            });
            WatchEvent::Opened
        }
        Ok(Err(error)) => failed(&error),
        Err(_) => WatchEvent::Silent,
    }
}

async fn listen(target: &Target, watch: &mut Watch) -> WatchEvent {
    let until = watch.opened + target.renewed_after + WATCH_OVERTIME;
    match timeout_at(until, watch.events.try_next()).await {
        Err(_) => WatchEvent::Silent,
        Ok(Ok(None)) => WatchEvent::Ended(watch.opened.elapsed()),
        Ok(Ok(Some(event))) => match event {
            ApiEvent::Added(object) | ApiEvent::Modified(object) => {
                WatchEvent::Changed(seen(object))
            }
            ApiEvent::Deleted(object) => WatchEvent::Deleted(version(&object)),
            ApiEvent::Bookmark(bookmark) => {
                WatchEvent::Bookmark(bookmark.metadata.resource_version)
            }
            ApiEvent::Error(status) => refused(status.code, &status.message),
        },
        // Cut off, for example by a load balancer or a server that stops: the next watch resumes
        // from the last version.
        Ok(Err(kube::Error::ReadEvents(_))) => WatchEvent::Ended(watch.opened.elapsed()),
        Ok(Err(error)) => failed(&error),
    }
}

fn seen(object: ConfigMap) -> ObservedConfigMap {
    ObservedConfigMap {
        version: version(&object),
        bundle: object.data.and_then(|mut data| data.remove(BUNDLE_KEY)),
    }
}

fn version(object: &ConfigMap) -> String {
    object.metadata.resource_version.clone().unwrap_or_default()
}

fn failed(error: &kube::Error) -> WatchEvent {
    if let kube::Error::Api(status) = error {
        return refused(status.code, &status.message);
    }
    WatchEvent::Failed(cluster_api::describe(error))
}

/// A refusal by the API, with what to look at.
fn refused(code: u16, message: &str) -> WatchEvent {
    let hint = match code {
        410 => return WatchEvent::Expired,
        401 => "; the pod's service account token is not accepted",
        403 => "; the gateway's Role and RoleBinding must grant get and watch on its ConfigMap",
        _ => "",
    };
    WatchEvent::Failed(format!("HTTP {code}: {message}{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_to_look_at_and_an_expired_version_is_no_failure() {
        assert_eq!(
            refused(410, "too old resource version"),
            WatchEvent::Expired
        );
        assert_eq!(
            refused(403, "configmaps is forbidden"),
            WatchEvent::Failed(
                "HTTP 403: configmaps is forbidden; the gateway's Role and RoleBinding must grant get and watch on its ConfigMap"
                    .to_owned()
            )
        );
        assert_eq!(
            refused(500, "oops"),
            WatchEvent::Failed("HTTP 500: oops".to_owned())
        );
    }
}
