//! Whether the caches of a new leader are as new as its leadership.
//!
//! In: lists that the API server reads after the Lease was taken. Out: caches that hold all of
//! them. Must not do: let a leader act on servers or policies older than those the leader before it
//! acted on: an edited policy would be put back. Nor take a gateway's pod for gone that it has only
//! not seen yet.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use kube::api::ListParams;
use kube::core::{NamespaceResourceScope, ObjectList, ObjectMeta};
use tokio::time::Instant;

use crate::api::policy::McpPolicy;
use crate::api::server::McpServer;
use crate::controller::context::Context;
use crate::controller::runtime::objects::ObjectId;
use crate::controller::runtime::reflector;
use crate::controller::runtime::store::Store;
use crate::controller::runtime::written::is_newer;
use crate::controller::watches::{self, policy_scopes, scopes};

/// Between two looks.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Between two looks at a namespace that is left alone.
const EXCLUDED_CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Objects in one answer, which is held as a whole: metadata may have more than 1 MiB too, for who
/// manages which field.
const LIST_PAGE_OBJECTS: u32 = 100;
/// Watches that are further behind are not waited for: another replica, or this one after a
/// restart, is faster.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(10);

/// The caches did not catch up.
#[derive(Debug, thiserror::Error)]
#[error(
    "the watches are behind the API server by more than {} s; this replica exits and lists everything after its restart",
    CATCH_UP_TIMEOUT.as_secs()
)]
pub struct Behind;

/// Waits until servers, policies and gateways' pods are at least as they were when this was called.
/// A namespace in which they may not be listed any more is left alone until they may.
pub async fn wait(ctx: &Arc<Context>) -> Result<(), Behind> {
    let all = async {
        for scope in scopes(&ctx.args.watch_namespace) {
            kind::<McpServer, _>(ctx, |ctx| &ctx.caches.servers, scope.clone(), "").await;
            let labels = watches::pod_labels();
            kind::<Pod, _>(ctx, |ctx| &ctx.caches.pods, scope.clone(), &labels).await;
            kind::<ReplicaSet, _>(ctx, |ctx| &ctx.caches.replica_sets, scope, &labels).await;
        }
        for scope in policy_scopes(&ctx.args.watch_namespace, &ctx.args.namespace) {
            kind::<McpPolicy, _>(ctx, |ctx| &ctx.caches.policies, scope, "").await;
        }
    };
    tokio::time::timeout(CATCH_UP_TIMEOUT, all)
        .await
        .map_err(|_| Behind)
}

async fn kind<K, C>(
    ctx: &Arc<Context>,
    cache: fn(&Context) -> &Store<C>,
    scope: Option<String>,
    labels: &str,
) where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + 'static,
    C: Resource + 'static,
{
    let started = Instant::now();
    while let Err(why) = look::<K, C>(ctx, cache, scope.as_deref(), labels).await {
        // The guardrails are in the operator's own namespace: nothing goes without those.
        let aside = scope.as_ref().filter(|scope| **scope != ctx.args.namespace);
        if let (Not::Allowed, Some(namespace)) = (&why, aside) {
            let watch = reflector::number();
            watches::lose(ctx, namespace, watch);
            let (namespace, labels) = (namespace.clone(), labels.to_owned());
            tokio::spawn(later::<K, C>(
                Arc::clone(ctx),
                cache,
                namespace,
                labels,
                watch,
            ));
            return;
        }
        tracing::debug!(
            kind = %K::kind(&()),
            waited = ?started.elapsed(),
            "waiting for the watch to catch up"
        );
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}

/// Leaves a namespace alone until its list can be read and the caches have it.
async fn later<K, C>(
    ctx: Arc<Context>,
    cache: fn(&Context) -> &Store<C>,
    namespace: String,
    labels: String,
    watch: usize,
) where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    C: Resource,
{
    loop {
        tokio::time::sleep(EXCLUDED_CHECK_INTERVAL).await;
        if look::<K, C>(&ctx, cache, Some(&namespace), &labels)
            .await
            .is_ok()
        {
            return watches::regain(&ctx, &namespace, watch);
        }
    }
}

/// Why it is not known that a cache is current.
enum Not {
    Yet,
    Allowed,
}

/// Whether a cache is not older than a list that is read now.
async fn look<K, C>(
    ctx: &Context,
    cache: fn(&Context) -> &Store<C>,
    scope: Option<&str>,
    labels: &str,
) -> Result<(), Not>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    C: Resource,
{
    let (listed, at) = list::<K>(ctx, scope, labels).await.map_err(|error| {
        tracing::warn!(%error, "whether the caches are current is not known yet");
        match error {
            kube::Error::Api(status) if status.code == 403 => Not::Allowed,
            _ => Not::Yet,
        }
    })?;
    let listed: Vec<&ObjectMeta> = listed.iter().map(Resource::meta).collect();
    let within = |metadata: &ObjectMeta| scope.is_none() || metadata.namespace.as_deref() == scope;
    let cached = cache(ctx).filter(|object| within(object.meta()));
    let cached: Vec<&ObjectMeta> = cached.iter().map(|object| object.meta()).collect();
    if holds(&cached, &listed, &at) {
        Ok(())
    } else {
        Err(Not::Yet)
    }
}

/// Everything of a kind in a namespace, or in all, with the version at which it was read. The first
/// page is asked for without a resource version: what the API server gives is not older than this
/// request. The others are of that same moment.
async fn list<K>(
    ctx: &Context,
    namespace: Option<&str>,
    labels: &str,
) -> Result<(Vec<ObjectId<K>>, String), kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let request = kube::core::Request::new(K::url_path(&(), namespace));
    let mut params = ListParams::default()
        .limit(LIST_PAGE_OBJECTS)
        .labels(labels);
    let mut all = Vec::new();
    loop {
        let page = request
            .list_metadata(&params)
            .map_err(kube::Error::BuildRequest)?;
        let page: ObjectList<ObjectId<K>> = ctx.client.request(page).await?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|next| !next.is_empty()) {
            Some(next) => params = params.continue_token(&next),
            None => return Ok((all, page.metadata.resource_version.unwrap_or_default())),
        }
    }
}

/// Whether what is cached is not older than a list that was read at version `at`.
fn holds(cached: &[&ObjectMeta], listed: &[&ObjectMeta], at: &str) -> bool {
    fn by_name<'o>(all: &[&'o ObjectMeta]) -> HashMap<(Option<&'o str>, Option<&'o str>), &'o str> {
        all.iter()
            .map(|one| {
                let version = one.resource_version.as_deref().unwrap_or_default();
                ((one.namespace.as_deref(), one.name.as_deref()), version)
            })
            .collect()
    }
    let (cached, listed) = (by_name(cached), by_name(listed));
    let has_all = listed.iter().all(|(name, version)| {
        cached
            .get(name)
            .is_some_and(|cached| !is_newer(version, cached))
    });
    // What the list no longer has was removed, unless it came after it.
    let has_no_more = cached
        .iter()
        .all(|(name, version)| listed.contains_key(name) || is_newer(version, at));
    has_all && has_no_more
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, version: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            resource_version: Some(version.to_owned()),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn caches_are_current_if_nothing_in_them_is_older_than_the_list() {
        let current = |cached: &[ObjectMeta], listed: &[ObjectMeta]| {
            let cached: Vec<&ObjectMeta> = cached.iter().collect();
            let listed: Vec<&ObjectMeta> = listed.iter().collect();
            holds(&cached, &listed, "100")
        };
        let listed = [object("a", "98"), object("b", "7")];
        assert!(current(&listed, &listed));
        assert!(current(&[object("a", "103"), object("b", "7")], &listed));
        let came_after = [object("a", "98"), object("b", "7"), object("c", "101")];
        assert!(current(&came_after, &listed));
        assert!(!current(&[object("a", "97"), object("b", "7")], &listed));
        assert!(!current(&[object("a", "98")], &listed));
        let was_removed = [object("a", "98"), object("b", "7"), object("c", "99")];
        assert!(!current(&was_removed, &listed));
    }

    use crate::controller::testing::{TestOperator, http, mcp_server, queued};
    use crate::scripted_api::{Exchange, Script, answer, refusal};
    use http::Method;
    use serde_json::{Value, json};

    fn list(resource: &str, more: &str, items: &[Value]) -> Exchange {
        let body = json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
            "metadata": {"resourceVersion": "90"}, "items": items,
        });
        answer(Method::GET, &[resource, more], 200, body)
    }

    fn item(version: &str) -> Value {
        json!({"metadata": {"namespace": "ml", "name": "m", "uid": "u", "resourceVersion": version}})
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_leader_waits_until_the_watches_have_what_the_api_server_lists() {
        let script = Script::new(vec![
            answer(
                Method::GET,
                &["mcpservers"],
                500,
                refusal(500, "InternalError"),
            ),
            // Newer than the caches, then not.
            list("mcpservers", "", &[item("41")]),
            list("mcpservers", "", &[item("40")]),
            list("/pods", "labelSelector", &[]),
            list("replicasets", "labelSelector", &[]),
            list("mcppolicies", "", &[]),
        ]);
        let operator = TestOperator::new(&script);
        operator.server(&mcp_server("m", 1, &http()));
        wait(&operator.ctx).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_whose_watches_are_far_behind_ends() {
        let script = Script::open(Vec::new());
        let operator = TestOperator::new(&script);
        let behind = wait(&operator.ctx).await.unwrap_err();
        assert!(behind.to_string().contains("more than 10 s"), "{behind}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_of_many_pages_is_read_to_its_end() {
        let mut first = json!({"metadata": {"resourceVersion": "90", "continue": "next"}, "items": [item("40")]});
        first["kind"] = json!("PartialObjectMetadataList");
        let script = Script::new(vec![
            answer(Method::GET, &["mcpservers", "limit=100"], 200, first),
            list(
                "mcpservers",
                "continue=next",
                &[json!({"metadata": {"name": "n", "resourceVersion": "1"}})],
            ),
        ]);
        let operator = TestOperator::new(&script);
        let (all, at) = super::list::<McpServer>(&operator.ctx, None, "")
            .await
            .unwrap();
        assert_eq!((all.len(), at.as_str()), (2, "90"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_that_may_no_longer_be_listed_is_left_alone_until_it_may() {
        let forbidden = || {
            answer(
                Method::GET,
                &["/ml/mcpservers"],
                403,
                refusal(403, "Forbidden"),
            )
        };
        let script = Script::new(vec![
            forbidden(),
            list("/ml/pods", "", &[]),
            list("/ml/replicasets", "", &[]),
            list("/ml/mcppolicies", "", &[]),
            // Its own namespace is asked for until it may be listed.
            answer(
                Method::GET,
                &["/ops/mcppolicies"],
                403,
                refusal(403, "Forbidden"),
            ),
            list("/ops/mcppolicies", "", &[]),
            forbidden(),
            list("/ml/mcpservers", "", &[item("40")]),
        ]);
        let operator = TestOperator::with(&script, &["--watch-namespace=ml"]);
        operator.server(&mcp_server("m", 1, &http()));
        wait(&operator.ctx).await.unwrap();
        assert!(!operator.ctx.caches.sees("ml"));
        while !operator.ctx.caches.sees("ml") {
            tokio::time::sleep(EXCLUDED_CHECK_INTERVAL).await;
        }
        assert_eq!(queued(&operator.ctx.queues.servers).await, ["m"]);
    }
}
