//! What is to be done about one child.
//!
//! In: the child as it should be, as it is, and what was last written. Out: one step. Pure. Must
//! not do: fight: what another manager changes back is reverted again only after a wait that
//! grows, unless it lets pods do more.

mod changes;

pub use self::changes::*;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::controller::runtime::drift;
use crate::controller::runtime::kinds::Child;
use crate::controller::runtime::objects::ObservedChild;
use crate::controller::runtime::quantity::quantity;

/// Annotation with the hash of what was applied: what is no longer wanted is known by it, also
/// after a restart.
pub const HASH: &str = "portcullis.dev/applied";
/// What another writer changed is reverted at once, and the same drift again only after this time,
/// which doubles each time.
const WAITS: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3_600));
/// What lets pods do more is reverted each time, with no more than this between.
const WIDENED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(1));
/// What the answer to our own write already has again.
const UNSETTLED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3_600));
/// What was written is in the caches after this time, or another writer has removed it.
pub const WATCH_LAG: Duration = Duration::from_secs(2);

/// What was last written of a child.
#[derive(Clone, Debug)]
pub struct AppliedState {
    hash: String,
    /// What the API server made of it.
    stamp: String,
    version: String,
    /// When.
    at: Instant,
    repairs: u32,
    repaired: Option<Instant>,
    /// What the API server made of it holds fields that we did not write: an admission webhook adds
    /// them, or another writer was faster.
    unsettled: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum ChildAction {
    Create,
    Apply {
        /// Another writer changed what is ours.
        drift: bool,
    },
    /// As it should be.
    Nothing,
    /// To be reverted, but not so soon after the last time.
    Wait(Duration),
    /// Another owner's.
    Foreign,
}

/// Puts the hash of a child's content onto it.
pub fn stamped(mut child: Child) -> Child {
    let hash = hash(&child.body);
    if let Some(metadata) = child
        .body
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
    {
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(HASH.to_owned(), json!(hash));
        }
    }
    child
}

fn hash(body: &Value) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, body.to_string().as_bytes());
    hex::encode(&digest.as_ref()[..8])
}

fn hash_of(body: &Value) -> Option<&str> {
    body.pointer("/metadata/annotations")?.get(HASH)?.as_str()
}

/// The next step for a stamped child.
pub fn step(
    child: &Child,
    live: Option<&ObservedChild>,
    mark: Option<&AppliedState>,
    owner: &str,
    now: Instant,
) -> ChildAction {
    let Some(live) = live else {
        // The watch may not have brought what was made just now.
        let young =
            mark.and_then(|mark| WATCH_LAG.checked_sub(now.saturating_duration_since(mark.at)));
        return young
            .filter(|left| !left.is_zero())
            .map_or(ChildAction::Create, ChildAction::Wait);
    };
    if live.controller() != Some(owner) {
        return ChildAction::Foreign;
    }
    let value = live.value();
    let wanted = hash_of(&child.body);
    let mark = mark.filter(|mark| Some(mark.hash.as_str()) == wanted);
    let is_other = hash_of(&value) != wanted;
    let labelled = labelled(&value, &child.body);
    let changes = drift::changes(child, live);
    let Some(mark) = mark else {
        // What is wanted has changed, or nothing is known of it after a restart. Neither labels nor
        // annotations change the generation.
        let drift = !is_other;
        return match drift && labelled && changes.is_empty() {
            true => ChildAction::Nothing,
            false => ChildAction::Apply { drift },
        };
    };
    // The caches may be behind a write of ours.
    if older(live, mark) && (is_other || labelled) {
        return ChildAction::Nothing;
    }
    let step_after = |waits| match wait(waits, mark.repairs, mark.repaired, now) {
        Some(left) => ChildAction::Wait(left),
        None => ChildAction::Apply { drift: true },
    };
    let is_ours = mark.stamp == live.stamp();
    // What widens what pods may do is not waited with, however often, and whatever else was changed
    // with it.
    if !is_ours && changes.iter().any(|change| change.widens) {
        return step_after(WIDENED);
    }
    if is_other || !labelled {
        return step_after(WAITS);
    }
    match changes.is_empty() {
        true => ChildAction::Nothing,
        false if is_ours && mark.unsettled => step_after(UNSETTLED),
        // The API server writes some values otherwise (1000m as 1): what it made of ours is ours.
        false if is_ours => ChildAction::Nothing,
        false => step_after(WAITS),
    }
}

/// How long drift that was reverted `repairs` times, most recently at `last`, is left alone; None
/// if it is not. The first wait and the longest are given.
pub fn wait(
    (first, longest): (Duration, Duration),
    repairs: u32,
    last: Option<Instant>,
    now: Instant,
) -> Option<Duration> {
    let last = last?;
    let wait = first
        .saturating_mul(
            1_u32
                .checked_shl(repairs.saturating_sub(1))
                .unwrap_or(u32::MAX),
        )
        .min(longest);
    let left = wait.checked_sub(now.saturating_duration_since(last))?;
    (!left.is_zero()).then_some(left)
}

/// Whether what the caches hold is from before our last write. Resource versions grow (KEP-5504).
fn older(live: &ObservedChild, mark: &AppliedState) -> bool {
    match (
        live.resource_version().parse::<u64>(),
        mark.version.parse::<u64>(),
    ) {
        (Ok(live), Ok(mark)) => live < mark,
        _ => false,
    }
}

/// Remembers what a write came to.
pub fn mark(
    child: &Child,
    live: &ObservedChild,
    before: Option<&AppliedState>,
    drift: bool,
    now: Instant,
) -> AppliedState {
    let hash = hash_of(&child.body).unwrap_or_default().to_owned();
    let before = before.filter(|before| before.hash == hash);
    let repairs = before.map_or(0, |before| before.repairs);
    AppliedState {
        hash,
        unsettled: drift::changes(child, live)
            .iter()
            .any(|change| change.added),
        stamp: live.stamp(),
        version: live.resource_version().to_owned(),
        at: now,
        repairs: repairs + u32::from(drift),
        repaired: if drift {
            Some(now)
        } else {
            before.and_then(|before| before.repaired)
        },
    }
}

/// Whether labels, annotations and owners are as they should be.
fn labelled(live: &Value, wanted: &Value) -> bool {
    match (live.get("metadata"), wanted.get("metadata")) {
        (Some(live), Some(wanted)) => covers(live, wanted),
        _ => false,
    }
}

/// Whether `live` has everything that `wanted` has; more does not matter, as defaults and other
/// managers add to it.
fn covers(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, wanted)| has(live.get(key), key, wanted)),
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len()
                && live
                    .iter()
                    .zip(wanted)
                    .all(|(live, wanted)| covers(live, wanted))
        }
        (live, wanted) => live == wanted,
    }
}

/// Whether a field is there as wanted. In a selector more does matter: it selects less, or nothing.
fn has(live: Option<&Value>, key: &str, wanted: &Value) -> bool {
    let selects = matches!(key, "selector" | "podSelector" | "namespaceSelector");
    match live {
        Some(live) if selects => covers(live, wanted) && covers(wanted, live),
        Some(live) if matches!(key, "requests" | "limits") => quantities(live, wanted),
        Some(live) => covers(live, wanted),
        // Empty values are left out on their way; a false that we write is always one that differs
        // from none.
        None => is_nothing(wanted),
    }
}

/// Whether resources are as wanted, however the API server writes them (1000m as 1).
pub fn quantities(live: &Value, wanted: &Value) -> bool {
    let (Some(live), Some(wanted)) = (live.as_object(), wanted.as_object()) else {
        return live == wanted;
    };
    wanted.iter().all(|(name, wanted)| {
        let Some(live) = live.get(name) else {
            return false;
        };
        let same = |live: f64, wanted: f64| (live - wanted).abs() <= wanted.abs() * 1e-12;
        live == wanted
            || quantity(live)
                .zip(quantity(wanted))
                .is_some_and(|(live, wanted)| same(live, wanted))
    })
}

pub fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_nothing),
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Number(_) | Value::Bool(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::runtime::kinds::Kind;

    fn child(spec: Value) -> Child {
        let mut body = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "m-gateway", "namespace": "ml"},
        });
        body["spec"] = spec;
        stamped(Child {
            kind: Kind::Deployment,
            name: "m-gateway".to_owned(),
            body,
        })
    }

    /// The child as the API server has it, with changes of others.
    fn live(child: &Child, generation: i64, change: impl FnOnce(&mut Value)) -> ObservedChild {
        let mut body = child.body.clone();
        body["metadata"]["generation"] = json!(generation);
        body["metadata"]["resourceVersion"] = json!(generation.to_string());
        body["metadata"]["ownerReferences"] = json!([{"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer", "name": "m", "uid": "owner", "controller": true}]);
        body["spec"]["defaulted"] = json!(true);
        change(&mut body);
        serde_json::from_value(body).unwrap()
    }

    fn decide(child: &Child, live: &ObservedChild, mark: Option<&AppliedState>) -> ChildAction {
        step(child, Some(live), mark, "owner", Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_as_it_should_be_is_left_alone_also_after_a_restart() {
        let wanted = child(json!({"replicas": 2, "paused": "", "selector": null}));
        assert_eq!(
            step(&wanted, None, None, "owner", Instant::now()),
            ChildAction::Create
        );
        let there = live(&wanted, 1, |body| {
            body["spec"].as_object_mut().unwrap().remove("paused");
            body["spec"].as_object_mut().unwrap().remove("selector");
        });
        assert_eq!(decide(&wanted, &there, None), ChildAction::Nothing);
        let listed = live(&wanted, 1, |body| {
            body.as_object_mut()
                .unwrap()
                .retain(|key, _| key != "apiVersion" && key != "kind");
        });
        assert_eq!(decide(&wanted, &listed, None), ChildAction::Nothing);
        assert_eq!(
            step(&wanted, Some(&there), None, "another", Instant::now()),
            ChildAction::Foreign
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_longer_wanted_is_seen_by_the_hash() {
        let before = child(json!({"replicas": 2, "nodeSelector": {"a": "b"}}));
        let wanted = child(json!({"replicas": 2}));
        let there = live(&before, 1, |_| {});
        assert_eq!(
            decide(&wanted, &there, None),
            ChildAction::Apply { drift: false }
        );
        // Until the watch brings what was written, it is not written again.
        let again = step(
            &wanted,
            None,
            Some(&mark(&wanted, &there, None, false, Instant::now())),
            "owner",
            Instant::now(),
        );
        assert_eq!(again, ChildAction::Wait(WATCH_LAG));
        let written = mark(
            &wanted,
            &live(&wanted, 2, |_| {}),
            None,
            false,
            Instant::now(),
        );
        assert_eq!(
            decide(&wanted, &there, Some(&written)),
            ChildAction::Nothing
        );
    }

    #[tokio::test(start_paused = true)]
    async fn drift_is_put_right_once_and_again_only_after_a_while() {
        let wanted = child(json!({"replicas": 2}));
        let first = mark(
            &wanted,
            &live(&wanted, 1, |_| {}),
            None,
            false,
            Instant::now(),
        );
        let drifted = |generation| {
            live(&wanted, generation, |body| {
                body["spec"]["replicas"] = json!(5)
            })
        };
        assert_eq!(
            decide(&wanted, &drifted(2), Some(&first)),
            ChildAction::Apply { drift: true }
        );
        let second = mark(
            &wanted,
            &live(&wanted, 3, |_| {}),
            Some(&first),
            true,
            Instant::now(),
        );
        assert_eq!(
            decide(&wanted, &drifted(4), Some(&second)),
            ChildAction::Wait(WAITS.0)
        );
        tokio::time::advance(WAITS.0).await;
        assert_eq!(
            decide(&wanted, &drifted(4), Some(&second)),
            ChildAction::Apply { drift: true }
        );
        let third = mark(
            &wanted,
            &live(&wanted, 5, |_| {}),
            Some(&second),
            true,
            Instant::now(),
        );
        assert_eq!(
            decide(&wanted, &drifted(6), Some(&third)),
            ChildAction::Wait(WAITS.0 * 2)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_selector_that_selects_less_and_a_lost_label_or_refusal_are_drift() {
        let wanted = child(json!({
            "selector": {"app": "m"}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"a": "b"}}}]}],
            "template": {"privileged": false},
        }));
        let changed = |change: fn(&mut Value)| decide(&wanted, &live(&wanted, 2, change), None);
        let drift = ChildAction::Apply { drift: true };
        assert_eq!(changed(|_| {}), ChildAction::Nothing);
        assert_eq!(
            changed(|body| body["spec"]["selector"]["x"] = json!("y")),
            drift
        );
        assert_eq!(
            changed(
                |body| body["spec"]["ingress"][0]["from"][0]["podSelector"]["matchExpressions"] =
                    json!([{}])
            ),
            drift
        );
        assert_eq!(
            changed(|body| {
                body["spec"]["template"]
                    .as_object_mut()
                    .unwrap()
                    .remove("privileged");
            }),
            drift
        );
        // Labels leave the generation as it is.
        let first = mark(
            &wanted,
            &live(&wanted, 1, |_| {}),
            None,
            false,
            Instant::now(),
        );
        let unnamed = live(&wanted, 1, |body| body["metadata"]["name"] = json!("other"));
        assert_eq!(decide(&wanted, &unnamed, Some(&first)), drift);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_off_our_mark_is_not_fought_without_a_pause() {
        let wanted = child(json!({"replicas": 2}));
        let unmarked = |generation| {
            live(&wanted, generation, |body| {
                body["metadata"]["annotations"] = json!({})
            })
        };
        let first = mark(
            &wanted,
            &live(&wanted, 1, |_| {}),
            None,
            false,
            Instant::now(),
        );
        let drift = ChildAction::Apply { drift: true };
        assert_eq!(decide(&wanted, &unmarked(1), Some(&first)), drift);
        let again = mark(
            &wanted,
            &live(&wanted, 1, |_| {}),
            Some(&first),
            true,
            Instant::now(),
        );
        assert_eq!(
            decide(&wanted, &unmarked(1), Some(&again)),
            ChildAction::Wait(WAITS.0)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn resources_are_compared_by_their_values() {
        let wanted =
            child(json!({"resources": {"requests": {"cpu": "1000m", "memory": "1024Mi"}}}));
        let written = |cpu: &'static str, memory: &'static str| {
            let there = live(&wanted, 1, |body| {
                body["spec"]["resources"]["requests"] = json!({"cpu": cpu, "memory": memory})
            });
            decide(&wanted, &there, None)
        };
        assert_eq!(written("1", "1Gi"), ChildAction::Nothing);
        assert_eq!(written("1001m", "1Gi"), ChildAction::Apply { drift: true });
        assert_eq!(written("1", "1025Mi"), ChildAction::Apply { drift: true });
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_api_server_writes_otherwise_is_not_written_again_and_again() {
        let wanted = child(json!({"cpu": "1000m"}));
        let normal =
            |generation| live(&wanted, generation, |body| body["spec"]["cpu"] = json!("1"));
        assert_eq!(
            decide(&wanted, &normal(1), None),
            ChildAction::Apply { drift: true }
        );
        let written = mark(&wanted, &normal(1), None, true, Instant::now());
        assert_eq!(
            decide(&wanted, &normal(1), Some(&written)),
            ChildAction::Nothing
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_widens_is_reverted_each_time_whatever_was_changed_with_it() {
        let wanted = child(json!({"template": {"spec": {"containers": []}}}));
        let first = live(&wanted, 1, |_| {});
        let mut last = mark(&wanted, &first, None, false, Instant::now());
        let covers: [fn(&mut Value); 3] = [
            |_| {},
            |body| body["metadata"]["annotations"][HASH] = json!("another"),
            |body| body["metadata"]["name"] = json!("another"),
        ];
        for (round, cover) in (2..).zip(covers.into_iter().cycle().take(9)) {
            let widened = live(&wanted, 2 * round, |body| {
                body["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
                cover(body);
            });
            let decided = decide(&wanted, &widened, Some(&last));
            assert_eq!(decided, ChildAction::Apply { drift: true }, "{round}");
            let reverted = live(&wanted, 2 * round + 1, |_| {});
            last = mark(&wanted, &reverted, Some(&last), true, Instant::now());
            tokio::time::advance(WIDENED.1).await;
        }
        // Alone, either waits.
        let marked = live(&wanted, 30, |body| {
            body["metadata"]["annotations"][HASH] = json!("another");
        });
        let decided = decide(&wanted, &marked, Some(&last));
        assert!(
            matches!(decided, ChildAction::Wait(left) if left > WIDENED.1),
            "{decided:?}"
        );
    }
}
