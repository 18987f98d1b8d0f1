//! Watches that end, that are refused, that say nothing, and what happened while nobody watched.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::ResourceExt;
use serde_json::json;

use super::proxy::{End, Fault, Watching};
use super::stage::{Stage, shared};
use super::story::{Story, play, round};
use crate::operator::rig::{deny, policy, server};
use crate::support::eventually;

/// What the operator watches of what people write, and of what it made.
pub const WATCHED: [&str; 14] = [
    "mcpservers",
    "mcppolicies",
    "mcpapprovals",
    "pods",
    "replicasets",
    "deployments",
    "services",
    "configmaps",
    "serviceaccounts",
    "roles",
    "rolebindings",
    "networkpolicies",
    "poddisruptionbudgets",
    "horizontalpodautoscalers",
];

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_are_dropped_every_second_miss_nothing() {
    let Some(cluster) = shared("dropped watches").await else {
        return;
    };
    let stage = Stage::open(cluster).await;
    stage.proxy.plan(|asked| {
        if !asked.watches() {
            return Fault::None;
        }
        // Ended as an API server does it, and broken in the middle.
        let end = if asked.time % 2 == 0 {
            End::Clean
        } else {
            End::Cut
        };
        Fault::Watch(Watching {
            lasts: Some(Duration::from_secs(1)),
            end,
            doubled: false,
        })
    });
    play(&stage).await;
    let watches = stage.proxy.seen("watch", "mcpservers");
    assert!(watches > 5, "watched only {watches} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_version_that_is_gone_leads_to_a_new_list_and_nothing_else() {
    let Some(cluster) = shared("410 Gone").await else {
        return;
    };
    let stage = Stage::open(cluster).await;
    stage.proxy.plan(|asked| {
        if !asked.watches() {
            return Fault::None;
        }
        // Told at once, or by an event later (API concepts, "410 Gone responses").
        if asked.time % 3 == 0 {
            return Fault::Refuse(410);
        }
        Fault::Watch(Watching {
            lasts: Some(Duration::from_millis(1_500)),
            end: End::Gone,
            doubled: false,
        })
    });
    play(&stage).await;
    let lists = stage.proxy.seen("list", "mcpservers");
    assert!(lists > 3, "listed only {lists} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_say_nothing_any_more_are_begun_again() {
    let Some(cluster) = shared("silent watches").await else {
        return;
    };
    // The API server ends them in time, and the operator does not hear of that.
    let stage = Stage::open_with(cluster, &["--watch-duration=5s"]).await;
    let story = Story::begin(&stage).await;
    stage.proxy.silence(&WATCHED);
    story.edit().await;
    story.scale().await;
    story.refuse().await;
    story.finish().await;
}

/// Nobody watches for a while. Objects come and go in it, one is made anew under its name, another
/// is edited; then the old resource versions are gone, so that only a new list tells.
#[tokio::test(flavor = "multi_thread")]
async fn what_came_and_went_unseen_leaves_no_trace() {
    let Some(cluster) = shared("changes unseen").await else {
        return;
    };
    let stage = Stage::open(cluster).await;
    let story = Story::begin(&stage).await;
    stage.apply(&server("other", &stage.fake)).await;
    let children = || async {
        let kinds = "deployments,services,configmaps,serviceaccounts,roles,rolebindings,networkpolicies,secrets";
        let printed = stage
            .kubectl(
                &["get", kinds, "-n", stage.name(), "-l", "portcullis.dev/server=other", "-o",
                    "jsonpath={range .items[*]}{.kind} {.metadata.ownerReferences[0].uid}{\"\\n\"}{end}"],
                "",
            )
            .await;
        let lines: BTreeSet<String> = printed.lines().map(str::to_owned).collect();
        lines
    };
    let made = |uid: String| {
        let kinds = [
            "ConfigMap",
            "Deployment",
            "NetworkPolicy",
            "Role",
            "RoleBinding",
            "Secret",
            "Service",
            "ServiceAccount",
        ];
        kinds
            .map(|kind| format!("{kind} {uid}"))
            .into_iter()
            .collect::<BTreeSet<_>>()
    };
    let uid = || async { stage.servers().get("other").await.unwrap().uid().unwrap() };
    let first = uid().await;
    all_are(&children, made(first.clone())).await;

    let blind = Arc::new(AtomicBool::new(true));
    let told = Mutex::new(BTreeSet::new());
    let is_blind = Arc::clone(&blind);
    stage.proxy.plan(move |asked| match asked.verb {
        "list" | "watch" if is_blind.load(Ordering::SeqCst) => Fault::Unheard,
        "watch" => {
            let watch = (asked.namespace.clone(), asked.resource.clone());
            if told.lock().unwrap().insert(watch) {
                Fault::Refuse(410)
            } else {
                Fault::None
            }
        }
        _ => Fault::None,
    });
    stage.proxy.cut();
    let delete = async |what: &str| {
        stage
            .kubectl(&["delete", "-n", stage.name(), what, "--wait=true"], "")
            .await
    };
    stage.apply(&server("ghost", &stage.fake)).await;
    let all = deny("all", &["*"], "A ghost.");
    stage.apply(&policy("ghost", "mlflow", json!([all]))).await;
    delete("mcpservers/ghost").await;
    delete("mcppolicies/ghost").await;
    delete("mcpservers/other").await;
    stage.apply(&server("other", &stage.fake)).await;
    let second = uid().await;
    assert_ne!(first, second);
    story.traffic.may_be(2);
    stage.apply(&round(2)).await;
    blind.store(false, Ordering::SeqCst);

    all_are(&children, made(second)).await;
    delete("mcpservers/other").await;
    all_are(&children, BTreeSet::new()).await;
    story.edited().await;
    story.scale().await;
    story.refuse().await;
    let ghosts: Vec<_> = stage
        .writes()
        .into_iter()
        .filter(|write| write.name.starts_with("ghost"))
        .collect();
    assert_eq!(ghosts, []);
    story.finish().await;
}

async fn all_are<F: Future<Output = BTreeSet<String>>>(
    children: impl Fn() -> F,
    expected: BTreeSet<String>,
) {
    eventually("the children of the other server", || async {
        let found = children().await;
        if found == expected {
            Ok(())
        } else {
            Err(found)
        }
    })
    .await;
}
