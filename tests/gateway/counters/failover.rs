//! What a failover to a replica forgets while three gateways count: no more than what was counted
//! and had not reached it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use portcullis::gateway::counters::{Cause, SharedCounters};
use portcullis::policy::decision::Charge;
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use tokio::task::JoinSet;

use super::server::Redis;
use super::shared::{HOUR, charge, gateway, take, until};
use super::way::Way;
use crate::support::soon;

const MAX: u64 = 1_000_000;
/// How many call at once at each gateway.
const CALLERS: usize = 4;

/// The units in use of the one counter that this server has, 0 if it has none yet.
async fn counted(server: &mut MultiplexedConnection) -> u64 {
    let keys: Vec<String> = server.keys("portcullis:*").await.unwrap();
    let counter = keys.iter().find(|key| !key.ends_with(":keys"));
    match counter {
        Some(key) => server.hget(key, "u").await.unwrap(),
        None => 0,
    }
}

/// What the callers of a test have come to.
#[derive(Clone, Default)]
struct Tally {
    units: Arc<AtomicU64>,
    /// The server is missed, and that ends them.
    gone: Arc<AtomicBool>,
}

impl Tally {
    fn units(&self) -> u64 {
        self.units.load(Ordering::SeqCst)
    }

    /// Callers at every gateway, at full speed, until the limit has no room for a call.
    fn calls(&self, gateways: &[Arc<SharedCounters>], limit: &Charge) -> JoinSet<()> {
        let mut callers = JoinSet::new();
        for counters in gateways {
            for _ in 0..CALLERS {
                callers.spawn(
                    self.clone()
                        .until_refused(Arc::clone(counters), limit.clone()),
                );
            }
        }
        callers
    }

    async fn until_refused(self, counters: Arc<SharedCounters>, limit: Charge) {
        loop {
            match take(&counters, &limit).await {
                Ok(_) => {
                    self.units.fetch_add(limit.cost, Ordering::SeqCst);
                }
                Err(why) if matches!(why.cause, Cause::Used(_)) => return,
                Err(why) => {
                    assert!(matches!(why.cause, Cause::Unavailable(_)), "{why:?}");
                    if self.gone.load(Ordering::SeqCst) {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failover_under_load_admits_no_more_than_max_and_what_was_counted_at_that_moment() {
    let Some(mut primary) = Redis::start(&[]) else {
        return;
    };
    // Replication is asynchronous: what is on this way has not reached the replica.
    let replication = Way::to(primary.port);
    let of = format!("127.0.0.1 {}", replication.port);
    let Some(replica) = Redis::start(&["--replicaof", &of]) else {
        return;
    };
    let way = Way::to(primary.port);
    let mut gateways: Vec<_> = (0..3).map(|_| gateway(&way.url())).collect();
    let costing = |cost| charge("c", "g", MAX, HOUR, cost);
    let tally = Tally::default();
    let (mut of_primary, mut of_replica) = (primary.connect().await, replica.connect().await);

    let callers = tally.calls(&gateways, &costing(1));
    until("calls pass", async || {
        (tally.units() >= 1_000).then_some(())
    })
    .await;
    let at_first = tally.units();
    until("the replica has as much", async || {
        let () = of_primary.set("a mark", "behind it").await.unwrap();
        let replicas: u64 = redis::cmd("WAIT")
            .arg(&[1, 100])
            .query_async(&mut of_primary)
            .await
            .unwrap();
        (replicas == 1).then_some(())
    })
    .await;
    // The moment: the replica keeps what it has now, whatever of the rest reaches it.
    replication.hold();
    let then = tally.units();
    until("more is counted", async || {
        (tally.units() >= then + 1_000).then_some(())
    })
    .await;
    primary.kill();
    replication.lose();
    tally.gone.store(true, Ordering::SeqCst);
    soon("every caller misses the server", callers.join_all()).await;
    let before = tally.units();

    let () = redis::cmd("REPLICAOF")
        .arg(&["NO", "ONE"])
        .query_async(&mut of_replica)
        .await
        .unwrap();
    let kept = counted(&mut of_replica).await;
    assert!(
        kept >= at_first,
        "the replica had {at_first} units, and has {kept}"
    );
    assert!(
        before > kept,
        "a failover that forgets nothing shows nothing"
    );
    // The same address leads to it, and one gateway is given the new address.
    way.turn(replica.port);
    gateways[2] = gateway(&replica.url());
    tally.gone.store(false, Ordering::SeqCst);
    for cost in [1_000, 1] {
        let callers = tally.calls(&gateways, &costing(cost));
        soon("the limit is used up", callers.join_all()).await;
    }
    let total = tally.units();
    println!(
        "{before} units before the primary was killed, of which the replica had {kept}; {total} of {MAX} in all"
    );
    assert!(
        total - before <= MAX - kept,
        "{} units after the failover, although {kept} of {MAX} were in use",
        total - before
    );
    let moment = before - at_first;
    assert!(
        total <= MAX + moment,
        "{total} units, of {MAX} and {moment} that were counted at the moment of the failover"
    );
}
