//! API servers that are behind, that restart, that ask to be left alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::proxy::Fault;
use super::stage::{Stage, shared};
use super::story::Story;
use super::watches::WATCHED;
use crate::support::control_plane::{Options, Program};
use crate::support::{Cluster, eventually};

/// One API server of several is behind: what it lists is current (a list without a resource version
/// is read from etcd), what its watches tell comes late, and a watch from a version that it has not
/// seen yet it refuses.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_whose_api_server_is_behind_catches_up() {
    let Some(cluster) = shared("a stale API server").await else {
        return;
    };
    let stage = Stage::open(cluster).await;
    let story = Story::begin(&stage).await;
    stage.proxy.hold(&WATCHED);
    story.edit_begun().await;
    stage.renewals(3).await;
    // Started anew, it knows what is; the watches are refused.
    let behind = Arc::new(AtomicBool::new(true));
    let is_behind = Arc::clone(&behind);
    stage.proxy.plan(move |asked| {
        if asked.watches() && is_behind.load(Ordering::SeqCst) {
            Fault::Refuse(504)
        } else {
            Fault::None
        }
    });
    (stage.operator.killer())();
    story.edited().await;
    behind.store(false, Ordering::SeqCst);
    stage.proxy.release();
    story.scale().await;
    story.refuse().await;
    story.finish().await;
}

/// A standby's caches may be behind the leader's writes in one kind and not in another.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_whose_caches_are_behind_puts_no_old_policy_back_in_force() {
    let Some(cluster) = shared("a stale standby").await else {
        return;
    };
    let mut stage = Stage::open(cluster).await;
    stage.renewals(1).await;
    let (proxy, _standby) = stage.replica("b").await;
    eventually("the standby watches", || async {
        let unseen: Vec<_> = WATCHED
            .into_iter()
            .filter(|resource| proxy.seen("watch", resource) == 0)
            .collect();
        if unseen.is_empty() {
            Ok(())
        } else {
            Err(unseen)
        }
    })
    .await;
    let story = Story::begin(&stage).await;
    proxy.hold(&["mcppolicies", "mcpservers"]);
    story.edit().await;
    let Story { traffic, .. } = story;
    stage.operator.end();
    let story = Story {
        stage: &stage,
        traffic,
    };
    eventually("the standby leads", || async {
        match stage.lease().await {
            Ok((holder, _)) if holder == "b" => Ok(()),
            other => Err(other),
        }
    })
    .await;
    stage.renewals(3).await;
    proxy.release();
    story.scale().await;
    story.refuse().await;
    story.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_restarts_ten_times_is_waited_for() {
    let what = "restarts of the API server";
    let start = || Cluster::start(what, &Options::default());
    let Some(cluster) = tokio::task::spawn_blocking(start).await.unwrap() else {
        return;
    };
    let cluster = Arc::new(cluster);
    {
        let installing = Arc::clone(&cluster);
        tokio::task::spawn_blocking(move || installing.install_definitions())
            .await
            .unwrap();
        let stage = Stage::open(&cluster).await;
        let story = Story::begin(&stage).await;
        let restarts = async {
            for _ in 0..10 {
                let restarting = Arc::clone(&cluster);
                let restart = move || {
                    let control_plane = restarting.control_plane().unwrap();
                    control_plane.kill(Program::ApiServer);
                    control_plane.start_again(Program::ApiServer);
                };
                tokio::task::spawn_blocking(restart).await.unwrap();
                stage.renewals(1).await;
            }
        };
        // What comes of the edit may take longer than all restarts, on a machine where each takes
        // long.
        tokio::join!(restarts, story.edit_begun());
        story.edited().await;
        story.scale().await;
        story.refuse().await;
        story.finish().await;
    }
    // Ends processes and waits for them, and must not do that on a thread of the runtime.
    tokio::task::spawn_blocking(move || drop(cluster))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_refuses_most_requests_is_not_given_up() {
    let Some(cluster) = shared("storms of 429 and 503").await else {
        return;
    };
    let stage = Stage::open(cluster).await;
    // Leader election has a priority level of its own (API priority and fairness): most of it gets
    // through.
    stage.proxy.plan(|asked| match asked.time % 6 {
        1 | 4 if asked.resource == "leases" => Fault::Refuse(503),
        _ if asked.resource == "leases" => Fault::None,
        1 => Fault::Refuse(429),
        2..=4 => Fault::Refuse(503),
        _ => Fault::None,
    });
    let story = Story::begin(&stage).await;
    story.edit().await;
    story.scale().await;
    story.refuse().await;
    story.finish().await;
}
