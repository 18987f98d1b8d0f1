//! Crashes between two writes, and answers that do not come as they should.

use std::time::Duration;

use super::proxy::{End, Fault, Watching};
use super::stage::{Stage, shared};
use super::story::play;

/// Each write of each reconciliation is the last thing that some operator does. One that comes
/// again is so at its first, second, fourth, eighth time …: calls go on, so that ledger and status
/// are written after every start, and no operator would ever come to anything else.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_is_killed_after_each_write_ends_where_an_undisturbed_one_does() {
    let Some(cluster) = shared("kill -9 after each write").await else {
        return;
    };
    let stage = Stage::open(cluster).await;
    stage.proxy.plan(|asked| {
        if asked.writes() && asked.time.is_power_of_two() {
            Fault::Kill
        } else {
            Fault::None
        }
    });
    play(&stage).await;
    // One for each child, and then some.
    let starts = stage.operator.starts();
    assert!(starts > 15, "it was started only {starts} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_lost_doubled_or_late_change_nothing() {
    let Some(cluster) = shared("lost, doubled and late answers").await else {
        return;
    };
    let stage = Stage::open(cluster).await;
    stage.proxy.plan(|asked| {
        if asked.watches() {
            return Fault::Watch(Watching {
                lasts: None,
                end: End::Clean,
                doubled: true,
            });
        }
        match asked.time % 5 {
            1 => Fault::Lost,
            2 => Fault::Twice,
            3 => Fault::Unheard,
            4 => Fault::Late(Duration::from_millis(400)),
            _ => Fault::None,
        }
    });
    play(&stage).await;
}
