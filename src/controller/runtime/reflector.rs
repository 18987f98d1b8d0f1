//! One watch: what it brings goes into its store.
//!
//! In: the API server's events. Out: each change of an object. Must not do: stop for an API server
//! that is away, or for an answer that it may give at any time (API concepts, "Efficient detection
//! of changes").

use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use kube::Resource;
use kube::api::Api;
use kube::runtime::{WatchStreamExt as _, watcher};
use serde::de::DeserializeOwned;
use tracing::Instrument as _;

use super::store::{ObjectEvent, Store};

/// Before the list that is made because a watch could not be started.
const RELIST_DELAY: Duration = Duration::from_secs(1);

/// Where a watch's objects go.
pub trait Sink<K> {
    /// The objects of this watch, and of others of the kind.
    fn store(&self) -> &Store<K>;
    /// An object came, changed or went.
    fn changed(&self, event: ObjectEvent<'_, K>);
    /// Everything was listed.
    fn listed(&self);
    /// Whether the operator may work without what this watch brings.
    fn may_go_without(&self) -> bool;
    /// The operator may not list. Called once for each time that it may no more.
    fn forbidden(&self);
}

/// A number that no other watch has.
pub fn number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Watches for as long as it runs.
pub async fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    scope: Option<String>,
    sink: impl Sink<K>,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Default,
{
    follow_as(
        api,
        config,
        &K::kind(&K::DynamicType::default()),
        scope,
        sink,
    )
    .await;
}

/// [`follow`] for a kind that is only known at run time.
pub async fn follow_as<K>(
    api: Api<K>,
    config: watcher::Config,
    kind: &str,
    scope: Option<String>,
    sink: impl Sink<K>,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let span = tracing::info_span!("watch", kind, scope);
    let watching = async {
        let mut first = true;
        loop {
            let stream = watcher(api.clone(), config.clone()).default_backoff();
            feed(stream, scope.as_deref(), &sink, &mut first).await;
            tokio::time::sleep(RELIST_DELAY).await;
        }
    };
    watching.instrument(span).await
}

/// Takes what a watch brings, until it has to start again with a list.
async fn feed<K: Resource>(
    stream: impl futures::Stream<Item = Result<watcher::Event<K>, watcher::Error>>,
    scope: Option<&str>,
    sink: &impl Sink<K>,
    first: &mut bool,
) {
    let mut listing = None;
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                let listed = matches!(event, watcher::Event::InitDone);
                let store = sink.store();
                store.take(scope, &mut listing, first, event, |change| {
                    sink.changed(change)
                });
                if listed {
                    sink.listed();
                }
            }
            Err(error) => {
                if is_forbidden(&error) && sink.may_go_without() && sink.store().give_up(first) {
                    sink.forbidden();
                }
                tracing::warn!(%error, "a watch failed; retrying");
                if is_gone(&error) {
                    return;
                }
            }
        }
    }
}

/// Whether the operator may not list.
fn is_forbidden(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 403)
}

/// Whether a watch cannot resume where the last one ended. kube lists again when an event
/// says so, but not when the answer does, which an API server may choose (API concepts, "410 Gone"
/// responses).
fn is_gone(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted_api::{Script, answer, refusal, watch};
    use http::Method;
    use k8s_openapi::api::core::v1::ConfigMap;
    use parking_lot::Mutex;
    use serde_json::{Value, json};
    use std::sync::Arc;

    const PATH: &str = "/api/v1/namespaces/ml/configmaps";

    /// What a watch tells of, as text.
    struct Seen {
        store: Store<ConfigMap>,
        said: Mutex<Vec<String>>,
        optional: bool,
    }

    impl Seen {
        fn new(optional: bool) -> Arc<Seen> {
            Arc::new(Seen {
                store: Store::new(1),
                said: Mutex::default(),
                optional,
            })
        }

        fn say(&self, text: impl Into<String>) {
            self.said.lock().push(text.into());
        }
    }

    impl Sink<ConfigMap> for Arc<Seen> {
        fn store(&self) -> &Store<ConfigMap> {
            &self.store
        }
        fn changed(&self, event: ObjectEvent<'_, ConfigMap>) {
            let name = |object: Option<&Arc<ConfigMap>>| {
                object.map_or("-".to_owned(), |object| {
                    object.metadata.name.clone().unwrap_or_default()
                })
            };
            self.say(format!("{}>{}", name(event.before), name(event.after)));
        }
        fn listed(&self) {
            self.say("listed");
        }
        fn may_go_without(&self) -> bool {
            self.optional
        }
        fn forbidden(&self) {
            self.say("forbidden");
        }
    }

    fn object(name: &str, version: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"namespace": "ml", "name": name, "resourceVersion": version}})
    }

    fn list(version: &str, items: &[Value]) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": version}, "items": items})
    }

    /// Runs a watch until the script is over and the sink has heard that much.
    async fn run(script: &Script, seen: &Arc<Seen>, until: &[&str]) {
        let api = Api::<ConfigMap>::namespaced(script.client(), "ml");
        let config = watcher::Config::default();
        let following = follow(api, config, Some("ml".to_owned()), Arc::clone(seen));
        let heard = async {
            while !(script.is_done() && *seen.said.lock() == until) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let patience = Duration::from_secs(3_600);
        tokio::select! {
            () = following => {}
            result = tokio::time::timeout(patience, heard) => {
                assert!(result.is_ok(), "{:?}, asked: {:?}", seen.said.lock(), script.asked());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_cannot_start_where_the_last_one_ended_begins_with_a_list() {
        let script = Script::open(vec![
            answer(Method::GET, &[PATH], 200, list("5", &[object("a", "1")])),
            answer(
                Method::GET,
                &[PATH, "watch=true", "resourceVersion=5"],
                410,
                refusal(410, "Expired"),
            ),
            answer(Method::GET, &[PATH], 200, list("9", &[object("b", "8")])),
            watch(
                &[PATH, "resourceVersion=9"],
                &[json!({"type": "ADDED", "object": object("c", "10")})],
            ),
        ]);
        let seen = Seen::new(false);
        run(
            &script,
            &seen,
            &["->a", "listed", "->b", "a>-", "listed", "->c"],
        )
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_not_be_listed_is_told_once_and_tried_again() {
        let forbidden = || answer(Method::GET, &[PATH], 403, refusal(403, "Forbidden"));
        let script = Script::open(vec![
            forbidden(),
            forbidden(),
            answer(Method::GET, &[PATH], 200, list("5", &[object("a", "1")])),
        ]);
        let seen = Seen::new(true);
        run(&script, &seen, &["forbidden", "->a", "listed"]).await;
        // Where the operator cannot work without it, it waits.
        let script = Script::open(vec![
            forbidden(),
            answer(Method::GET, &[PATH], 200, list("5", &[])),
        ]);
        let seen = Seen::new(false);
        run(&script, &seen, &["listed"]).await;
        tokio::time::timeout(Duration::from_secs(1), seen.store.listed())
            .await
            .unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_fails_is_asked_again() {
        let script = Script::open(vec![
            answer(Method::GET, &[PATH], 429, refusal(429, "TooManyRequests")).retry_after(1),
            answer(Method::GET, &[PATH], 500, refusal(500, "InternalError")),
            answer(Method::GET, &[PATH], 200, list("5", &[])),
            watch(
                &[PATH, "resourceVersion=5"],
                &[
                    json!({"type": "ADDED", "object": object("a", "6")}),
                    json!({"type": "ERROR", "object": refusal(410, "Expired")}),
                ],
            ),
            answer(Method::GET, &[PATH], 200, list("9", &[object("a", "6")])),
        ]);
        let seen = Seen::new(false);
        run(&script, &seen, &["listed", "->a", "a>a", "listed"]).await;
    }
}
