//! From reports to the ledger of a server.
//!
//! In: the stored ledger, reports, the pods that there are. Out: the ledger as it should be stored.
//! Pure. Must not do: count a run that has ended a second time, or forget one that was not stored
//! yet.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::status::accounting::{Account, Kept, Ledger};
use crate::status::report::Report;

/// The newest report of each run, by the UID of its pod and its instance.
pub type Reports = BTreeMap<(String, String), Report>;

/// What is seen of the gateways of a server.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    pub reports: &'a Reports,
    /// The newest instance of each pod that has reported.
    pub newest: &'a BTreeMap<String, String>,
    /// The pods that there are.
    pub pods: &'a BTreeSet<String>,
    /// What they were given, if that is known.
    pub kept: Option<&'a Kept<'a>>,
}

/// The ledger with those reports in it. Runs of pods that are gone, and runs before the newest of a
/// pod, have ended; one that is there again continues.
pub fn advance(stored: &Ledger, seen: Seen<'_>, now: Timestamp) -> Ledger {
    let Seen {
        reports,
        newest,
        pods,
        kept,
    } = seen;
    let mut ledger = stored.clone();
    for ((pod, instance), report) in reports {
        let key = run(pod, instance);
        // A run without violations leaves no trace: a cluster at rest sees no writes.
        if report.violations.is_empty() && ledger.run(&key).is_none() {
            continue;
        }
        let account = Account::of(report);
        let account = match kept {
            Some(kept) => account.placed(kept),
            None => account,
        };
        ledger.take(&key, account);
        if pods.contains(pod) && newest.get(pod) == Some(instance) {
            ledger.resume(&key);
        }
    }
    let may_be_there = |key: &str| {
        let (pod, instance) = key.split_once('/').unwrap_or((key, ""));
        pods.contains(pod) && newest.get(pod).is_none_or(|newest| newest == instance)
    };
    let ended: Vec<String> = ledger
        .running
        .keys()
        .filter(|key| !may_be_there(key))
        .cloned()
        .collect();
    for key in ended {
        ledger.retire(&key, now);
    }
    ledger.fold_ended(now, may_be_there);
    if let Some(kept) = kept {
        ledger.place(kept);
    }
    ledger.fit();
    ledger
}

/// What a run is called in the ledger.
pub fn run(pod: &str, instance: &str) -> String {
    format!("{pod}/{instance}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ViolationOutcome;
    use crate::status::accounting::of_server;
    use crate::status::report::ReportedCount;
    use jiff::SignedDuration;
    use proptest::prelude::*;

    fn report(instance: &str, count: u64) -> Report {
        Report {
            instance: instance.to_owned(),
            violations: (count > 0)
                .then(|| ReportedCount {
                    namespace: "ml".to_owned(),
                    policy: "p".to_owned(),
                    policy_uid: "u".to_owned(),
                    rule: "r".to_owned(),
                    outcome: ViolationOutcome::Denied,
                    count,
                    last_time: Timestamp::UNIX_EPOCH,
                })
                .into_iter()
                .collect(),
            ..Report::default()
        }
    }

    fn total(ledger: &Ledger) -> i64 {
        of_server(ledger).counts.total
    }

    /// One step in the life of a server's gateways and of the operator.
    #[derive(Clone, Debug)]
    enum Event {
        /// A number of further violations at a pod.
        Violations(usize, u64),
        /// The pod's report is read.
        Read(usize),
        /// The ledger is written.
        Store,
        /// The operator restarts, with what is stored only.
        Crash,
        /// The pod's container restarts; its last report is read first, as a graceful shutdown
        /// waits for that.
        Restart(usize),
        /// The pod goes, likewise.
        Gone(usize),
        /// The caches do not show the pod, although it is there: its label is gone, or its
        /// Deployment, or they are behind.
        Hidden(usize),
        /// They do again.
        Shown(usize),
        /// Time passes.
        Hours(u8),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let pod = 0..3_usize;
        let one = prop_oneof![
            (pod.clone(), 0..5_u64).prop_map(|(pod, count)| Event::Violations(pod, count)),
            pod.clone().prop_map(Event::Read),
            Just(Event::Store),
            Just(Event::Crash),
            pod.clone().prop_map(Event::Restart),
            pod.clone().prop_map(Event::Gone),
            pod.clone().prop_map(Event::Hidden),
            pod.prop_map(Event::Shown),
            (1..5_u8).prop_map(Event::Hours),
        ];
        prop::collection::vec(one, 0..60)
    }

    struct World {
        answered: u64,
        /// Violations, run and life of each pod.
        pods: Vec<(u64, u32, u32)>,
        reports: Reports,
        newest: BTreeMap<String, String>,
        stored: Ledger,
        /// Pods that the caches do not show.
        hidden: BTreeSet<usize>,
        /// When a ledger was stored last that had each pod's own report.
        seen: [Timestamp; 3],
        now: Timestamp,
    }

    /// Pods are hidden for less than this: with one more step of time it is less than the day for
    /// which runs that ended are kept apart.
    const HIDDEN_AT_MOST: SignedDuration = SignedDuration::from_hours(16);

    impl World {
        fn names(&self, pod: usize) -> (String, String) {
            let (_, run, life) = self.pods[pod];
            (format!("pod{pod}-{life}"), format!("run{run}"))
        }
        fn read(&mut self, pod: usize) {
            let (uid, instance) = self.names(pod);
            let report = report(&instance, self.pods[pod].0);
            self.newest.insert(uid.clone(), instance.clone());
            self.reports.insert((uid, instance), report);
        }
        fn unseen_for(&self, pod: usize) -> SignedDuration {
            self.now.duration_since(self.seen[pod])
        }
        fn store(&mut self) {
            let shown = (0..self.pods.len()).filter(|pod| !self.hidden.contains(pod));
            let pods = shown.map(|pod| self.names(pod).0).collect();
            let seen = Seen {
                reports: &self.reports,
                newest: &self.newest,
                pods: &pods,
                kept: None,
            };
            self.stored = advance(&self.stored, seen, self.now);
            for pod in 0..self.pods.len() {
                if !self.hidden.contains(&pod) && self.reports.contains_key(&self.names(pod)) {
                    self.seen[pod] = self.now;
                }
            }
            self.reports.retain(|(pod, instance), _| {
                pods.contains(pod) && self.newest.get(pod) == Some(instance)
            });
            self.newest.retain(|pod, _| pods.contains(pod));
        }
        fn take(&mut self, event: &Event) {
            match *event {
                Event::Violations(pod, count) => {
                    self.answered += count;
                    self.pods[pod].0 += count;
                }
                // What is not shown is not asked.
                Event::Read(pod) if self.hidden.contains(&pod) => {}
                Event::Read(pod) => self.read(pod),
                Event::Store => self.store(),
                Event::Crash => {
                    self.reports.clear();
                    self.newest.clear();
                }
                Event::Hidden(pod) => {
                    if self.unseen_for(pod) < HIDDEN_AT_MOST {
                        self.hidden.insert(pod);
                    }
                }
                Event::Shown(pod) => {
                    self.hidden.remove(&pod);
                }
                Event::Hours(hours) => {
                    self.now += SignedDuration::from_hours(hours.into());
                    let hidden = std::mem::take(&mut self.hidden);
                    let still = |pod: &usize| self.unseen_for(*pod) < HIDDEN_AT_MOST;
                    self.hidden = hidden.into_iter().filter(still).collect();
                }
                // A gateway ends once its last report is stored.
                Event::Restart(pod) => {
                    self.hidden.remove(&pod);
                    self.read(pod);
                    self.store();
                    self.pods[pod].0 = 0;
                    self.pods[pod].1 += 1;
                }
                Event::Gone(pod) => {
                    self.hidden.remove(&pod);
                    self.read(pod);
                    self.store();
                    self.pods[pod] = (0, 0, self.pods[pod].2 + 1);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn violations_answered_are_violations_in_status_whatever_restarts_in_whatever_order(events in events()) {
            let mut world = World {
                answered: 0,
                pods: vec![(0, 0, 0); 3],
                reports: Reports::new(),
                newest: BTreeMap::new(),
                stored: Ledger::default(),
                hidden: BTreeSet::new(),
                seen: [Timestamp::UNIX_EPOCH; 3],
                now: Timestamp::UNIX_EPOCH,
            };
            for event in &events {
                world.take(event);
                prop_assert!(total(&world.stored) <= i64::try_from(world.answered).unwrap());
            }
            world.hidden.clear();
            (0..3).for_each(|pod| world.read(pod));
            world.store();
            prop_assert_eq!(total(&world.stored), i64::try_from(world.answered).unwrap());
            let again = world.stored.clone();
            world.store();
            prop_assert_eq!(&again, &world.stored, "nothing is written at rest");
        }
    }

    #[test]
    fn runs_that_ended_are_known_for_a_day_and_then_folded() {
        let now = Timestamp::UNIX_EPOCH;
        let step = |ledger: &Ledger, count: Option<u64>, shown: bool, hours: i64| {
            let report =
                count.map(|count| (("pod".to_owned(), "run".to_owned()), report("run", count)));
            let newest = BTreeMap::from([("pod".to_owned(), "run".to_owned())]);
            let pods = shown.then(|| "pod".to_owned()).into_iter().collect();
            let seen = Seen {
                reports: &report.into_iter().collect(),
                newest: &newest,
                pods: &pods,
                kept: None,
            };
            advance(ledger, seen, now + SignedDuration::from_hours(hours))
        };
        let counted = step(&Ledger::default(), Some(3), true, 0);
        let hidden = step(&counted, None, false, 1);
        assert_eq!((hidden.running.len(), hidden.ended.len()), (0, 1));
        assert_eq!(
            step(&hidden, None, false, 2),
            hidden,
            "nothing is written at rest"
        );
        let again = step(&hidden, Some(4), true, 3);
        assert_eq!((again.running.len(), total(&again)), (1, 4));
        let folded = step(&hidden, None, false, 26);
        assert_eq!((folded.ended.len(), total(&folded)), (0, 3));
        let text = serde_json::to_string(&hidden).unwrap();
        assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), hidden);
    }

    #[test]
    fn no_more_ended_runs_are_kept_apart_than_fit() {
        let mut ledger = Ledger::default();
        for pod in 0..200 {
            let name = format!("pod{pod}");
            let seen = Seen {
                reports: &Reports::from([((name.clone(), "run".to_owned()), report("run", 1))]),
                newest: &BTreeMap::from([(name.clone(), "run".to_owned())]),
                pods: &BTreeSet::from([name]),
                kept: None,
            };
            ledger = advance(&ledger, seen, Timestamp::UNIX_EPOCH);
        }
        assert_eq!((ledger.running.len(), ledger.ended.len()), (1, 64));
        assert_eq!(total(&ledger), 200);
    }

    #[test]
    fn gateways_without_violations_leave_no_trace() {
        let reports = Reports::from([(("pod".to_owned(), "run".to_owned()), report("run", 0))]);
        let newest = BTreeMap::from([("pod".to_owned(), "run".to_owned())]);
        let seen = Seen {
            reports: &reports,
            newest: &newest,
            pods: &BTreeSet::from(["pod".to_owned()]),
            kept: None,
        };
        let ledger = advance(&Ledger::default(), seen, Timestamp::UNIX_EPOCH);
        assert_eq!(ledger, Ledger::default());
    }
}
