use std::sync::Arc;

use super::super::bounds::{MAX_GRANT_CALLS, MAX_GRANT_KEYS, MAX_KEYS, SWEEP_INTERVAL};
use super::*;
use crate::api::policy::Scope;
use crate::policy::decision::{Counter, RuleId};

pub(super) fn charge(counter: &str, value: &str, max: u64, window: u64, cost: u64) -> Charge {
    Charge {
        counter: Arc::new(Counter {
            server: "uid".into(),
            namespace: "ml".to_owned(),
            policy: "p".to_owned(),
            name: counter.to_owned(),
            max,
            window: Duration::from_secs(window),
            window_text: format!("{window}s"),
            scope: Scope::Grant,
            shadow: false,
        }),
        scope: Scope::Grant,
        value: value.to_owned(),
        cost,
        by: Arc::new(RuleId {
            namespace: "ml".to_owned(),
            policy: "p".to_owned(),
            rule: counter.to_owned(),
            qualified: false,
            uid: Arc::from(""),
        }),
        reason: None,
    }
}

#[test]
fn all_charges_are_taken_or_none_and_the_longest_wait_is_reported() {
    let local = Local::default();
    let (short, long) = (
        charge("short", "a", 1, 60, 1),
        charge("long", "a", 1, 3_600, 1),
    );
    let first = local.reserve("g", [&short, &long].into_iter()).unwrap();
    let refused = local.reserve("g", [&short, &long].into_iter()).unwrap_err();
    assert_eq!(
        (refused.by.rule.as_str(), refused.uncounted()),
        ("long", None)
    );
    assert!(refused.retry_after() > Some(Duration::from_secs(3_500)));
    local.give_back(first);
    let kept = local.reserve("g", std::iter::once(&long)).unwrap();
    assert!(local.reserve("g", [&short, &long].into_iter()).is_err());
    assert!(
        local.look("g", std::iter::once(&short)).is_ok(),
        "a refused call must not use up another counter"
    );
    drop(kept);
}

#[test]
fn a_cost_above_the_limit_never_passes_and_a_lower_limit_counts_what_was_used() {
    let local = Local::default();
    let never = local
        .reserve("g", std::iter::once(&charge("c", "a", 5, 60, 6)))
        .unwrap_err();
    assert_eq!(never.retry_after(), None);
    let _kept = local
        .reserve("g", std::iter::once(&charge("c", "a", 5, 60, 5)))
        .unwrap();
    assert!(
        local
            .reserve("g", std::iter::once(&charge("c", "a", 9, 60, 5)))
            .is_err()
    );
    assert!(
        local
            .reserve("g", std::iter::once(&charge("c", "a", 9, 60, 4)))
            .is_ok()
    );
}

/// Moves the time forward, without waiting.
fn later(local: &Local, by: Duration) {
    local.lock().base.0 += by.as_nanos() as u64;
}

#[test]
fn one_grant_cannot_take_all_keys() {
    let local = Local::default();
    let take = |local: &Local, grant: &str, value: usize| {
        local.reserve(
            grant,
            std::iter::once(&charge("c", &value.to_string(), 2, 60, 1)),
        )
    };
    for value in 0..MAX_GRANT_KEYS {
        assert!(take(&local, "greedy", value).is_ok());
    }
    let refused = take(&local, "greedy", MAX_GRANT_KEYS).unwrap_err();
    assert_eq!(refused.cause, Cause::Capacity);
    assert!(take(&local, "greedy", 7).is_ok(), "known keys still count");
    for value in MAX_GRANT_KEYS..2 * MAX_GRANT_KEYS {
        assert!(take(&local, "calm", value).is_ok());
    }
    let shared = charge("server", "", 9, 60, 1);
    assert!(local.reserve("greedy", std::iter::once(&shared)).is_ok());
    // What counts nothing any more makes room, and is not counted among its keys.
    later(&local, Duration::from_secs(61));
    assert!(take(&local, "greedy", 3 * MAX_GRANT_KEYS).is_ok());
    assert_eq!(local.lock().table.sizes(), (1, 1));
}

#[test]
fn different_calls_leave_room_for_the_callers_other_limits() {
    let local = Local::default();
    let call = |n: usize| {
        let mut charge = charge("repeats", &n.to_string(), 2, 60, 1);
        charge.scope = Scope::Call;
        charge
    };
    for n in 0..MAX_GRANT_CALLS {
        assert!(local.reserve("busy", std::iter::once(&call(n))).is_ok());
    }
    let refused = local
        .reserve("busy", std::iter::once(&call(MAX_GRANT_CALLS)))
        .unwrap_err();
    assert_eq!(refused.cause, Cause::Capacity);
    assert!(local.reserve("busy", std::iter::once(&call(0))).is_ok());
    let writes = charge("writes", "busy", 2, 60, 1);
    assert!(local.reserve("busy", std::iter::once(&writes)).is_ok());
    let other = call(MAX_GRANT_CALLS);
    assert!(local.reserve("calm", std::iter::once(&other)).is_ok());
}

#[test]
fn new_keys_are_refused_when_full_and_live_ones_go_on() {
    let local = Local::default();
    let mut kept = Vec::new();
    for n in 0..MAX_KEYS {
        let key = charge("c", &n.to_string(), 2, 3_600, 1);
        let grant = (n % 10).to_string();
        kept.push(local.reserve(&grant, std::iter::once(&key)).unwrap());
    }
    let refused = local
        .reserve("g", std::iter::once(&charge("c", "new", 2, 3_600, 1)))
        .unwrap_err();
    assert_eq!(refused.cause, Cause::Capacity);
    assert!(
        local
            .reserve("g", std::iter::once(&charge("c", "7", 2, 3_600, 1)))
            .is_ok()
    );
    local.give_back(kept.swap_remove(0));
    later(&local, SWEEP_INTERVAL);
    assert!(
        local
            .reserve("g", std::iter::once(&charge("c", "new", 2, 3_600, 1)))
            .is_ok(),
        "an idle key makes room"
    );
}

#[test]
fn no_more_than_max_pass_however_many_ask_at_once() {
    let local = Local::default();
    let passed: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    (0..100)
                        .filter(|_| {
                            local
                                .reserve("g", std::iter::once(&charge("c", "a", 30, 3_600, 1)))
                                .is_ok()
                        })
                        .count()
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .sum()
    });
    assert_eq!(passed, 30);
}
