//! From reports to the ledger of a server.
//!
//! In: the stored ledger, reports, the pods that there are. Out: the ledger as it should be stored. Pure. Must not do: count
//! a run that has ended a second time, or forget one that was not stored yet.

use std::collections::{BTreeMap, BTreeSet};

use crate::status::accounting::Ledger;
use crate::status::report::Report;

/// The newest report of each run, by the UID of its pod and its instance.
pub type Reports = BTreeMap<(String, String), Report>;

/// The ledger with those reports in it. Runs of pods that are gone, and runs before the newest of a pod, are folded together.
pub fn advance(
    stored: &Ledger,
    reports: &Reports,
    newest: &BTreeMap<String, String>,
    pods: &BTreeSet<String>,
) -> Ledger {
    let mut ledger = stored.clone();
    for ((pod, instance), report) in reports {
        let key = run(pod, instance);
        // A run without violations leaves no trace: a cluster at rest sees no writes.
        if report.violations.is_empty() && !ledger.running.contains_key(&key) {
            continue;
        }
        ledger.observe(&Report {
            instance: key,
            ..report.clone()
        });
    }
    let ended: Vec<String> = ledger
        .running
        .keys()
        .filter(|key| {
            let (pod, instance) = key.split_once('/').unwrap_or((key, ""));
            let current = newest.get(pod);
            !pods.contains(pod) || current.is_some_and(|current| current != instance)
        })
        .cloned()
        .collect();
    for key in ended {
        ledger.retire(&key);
    }
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
    use jiff::Timestamp;
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
        /// So many more violations at a pod.
        Violations(usize, u64),
        /// The pod's report is read.
        Read(usize),
        /// The ledger is written.
        Store,
        /// The operator starts anew, with what is stored only.
        Crash,
        /// The pod's container starts anew; its last report is read first, as a graceful shutdown waits for that.
        Restart(usize),
        /// The pod goes, likewise.
        Gone(usize),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let pod = 0..3_usize;
        let one = prop_oneof![
            (pod.clone(), 0..5_u64).prop_map(|(pod, count)| Event::Violations(pod, count)),
            pod.clone().prop_map(Event::Read),
            Just(Event::Store),
            Just(Event::Crash),
            pod.clone().prop_map(Event::Restart),
            pod.prop_map(Event::Gone),
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
    }

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
        fn store(&mut self) {
            let pods = (0..self.pods.len()).map(|pod| self.names(pod).0).collect();
            self.stored = advance(&self.stored, &self.reports, &self.newest, &pods);
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
                Event::Read(pod) => self.read(pod),
                Event::Store => self.store(),
                Event::Crash => {
                    self.reports.clear();
                    self.newest.clear();
                }
                // A gateway ends once its last report is stored.
                Event::Restart(pod) => {
                    self.read(pod);
                    self.store();
                    self.pods[pod].0 = 0;
                    self.pods[pod].1 += 1;
                }
                Event::Gone(pod) => {
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
            };
            for event in &events {
                world.take(event);
                prop_assert!(total(&world.stored) <= i64::try_from(world.answered).unwrap());
            }
            (0..3).for_each(|pod| world.read(pod));
            world.store();
            prop_assert_eq!(total(&world.stored), i64::try_from(world.answered).unwrap());
            let again = world.stored.clone();
            world.store();
            prop_assert_eq!(&again, &world.stored, "nothing is written at rest");
        }
    }

    #[test]
    fn gateways_without_violations_leave_no_trace() {
        let reports = Reports::from([(("pod".to_owned(), "run".to_owned()), report("run", 0))]);
        let newest = BTreeMap::from([("pod".to_owned(), "run".to_owned())]);
        let ledger = advance(
            &Ledger::default(),
            &reports,
            &newest,
            &BTreeSet::from(["pod".to_owned()]),
        );
        assert_eq!(ledger, Ledger::default());
    }
}
