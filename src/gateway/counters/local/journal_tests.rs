//! What survives in a journal, and what is refused when it does not.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use tempfile::TempDir;

use super::super::clock::Reading;
use super::tests::charge;
use super::*;

const SECOND: u64 = 1_000_000_000;
const BOOT: [u8; 16] = [1; 16];

/// Clocks that a test moves, a folder, and the counters in it.
struct Machine {
    folder: TempDir,
    reading: Arc<Mutex<Reading>>,
    local: Option<Local>,
}

impl Machine {
    fn new() -> Self {
        let reading = Reading {
            boot: BOOT,
            since_boot: 1_000 * SECOND,
            wall: 1_700_000_000 * SECOND,
        };
        let mut machine = Machine {
            folder: tempfile::tempdir().unwrap(),
            reading: Arc::new(Mutex::new(reading)),
            local: None,
        };
        machine.start();
        machine
    }

    fn start(&mut self) {
        self.local = None;
        let folder = self.folder.path().join("journal");
        let clock = Clock::Test(Arc::clone(&self.reading));
        self.local = Some(Local::new(clock, Some(folder), None));
    }

    fn local(&self) -> &Local {
        self.local.as_ref().unwrap()
    }

    fn pass(&self, nanos: u64) {
        let mut reading = self.reading.lock();
        reading.since_boot += nanos;
        reading.wall += nanos;
    }

    fn take(&self, charge: &Charge) -> Result<Reservation, Exhausted> {
        self.local().reserve("g", std::iter::once(charge))
    }

    /// The newest file of the journal.
    fn file(&self) -> std::path::PathBuf {
        self.files().pop().unwrap()
    }

    fn files(&self) -> Vec<std::path::PathBuf> {
        let number = |path: &Path| {
            let name = path.file_name()?.to_str()?.strip_prefix("journal.")?;
            name.parse::<u64>().ok()
        };
        let all = fs::read_dir(self.folder.path().join("journal")).unwrap();
        let mut files: Vec<_> = all
            .map(|entry| entry.unwrap().path())
            .filter(|path| number(path).is_some())
            .collect();
        files.sort_by_key(|path| number(path));
        files
    }
}

#[test]
fn what_was_counted_is_there_after_the_process_was_killed() {
    let mut machine = Machine::new();
    let limit = charge("c", "key:ci", 3, 60, 1);
    for _ in 0..3 {
        drop(machine.take(&limit).unwrap());
    }
    machine.pass(10 * SECOND);
    machine.start();
    let refused = machine.take(&limit).unwrap_err();
    assert_eq!(refused.retry_after(), Some(Duration::from_secs(50)));
    machine.pass(50 * SECOND);
    machine.start();
    assert!(machine.take(&limit).is_ok());
}

#[test]
fn several_limits_of_one_call_are_kept_together_and_units_that_came_back_are_free() {
    let mut machine = Machine::new();
    let (a, b) = (charge("a", "g", 2, 60, 1), charge("b", "", 9, 3_600, 4));
    let both = || [&a, &b].into_iter();
    let first = machine.local().reserve("g", both()).unwrap();
    drop(machine.local().reserve("g", both()).unwrap());
    machine.pass(SECOND);
    machine.local().give_back(first);
    machine.start();
    assert!(machine.local().reserve("g", both()).is_ok());
    machine.start();
    let refused = machine.local().reserve("g", both()).unwrap_err();
    assert_eq!(refused.by.rule, "b");
}

#[test]
fn counts_survive_policy_edits_also_across_a_restart() {
    let mut machine = Machine::new();
    drop(machine.take(&charge("c", "g", 9, 60, 5)).unwrap());
    machine.start();
    machine.pass(30 * SECOND);
    // The window is longer now.
    drop(machine.take(&charge("c", "g", 9, 3_600, 4)).unwrap());
    machine.pass(100 * SECOND);
    machine.start();
    let lower = machine.take(&charge("c", "g", 9, 3_600, 1)).unwrap_err();
    assert_eq!(lower.retry_after(), Some(Duration::from_secs(3_470)));
    drop(machine.take(&charge("c", "g", 11, 3_600, 2)).unwrap());
    // And shorter again: what has left it counts no more.
    machine.start();
    drop(machine.take(&charge("c", "g", 9, 60, 7)).unwrap());
    machine.start();
    assert!(machine.take(&charge("c", "g", 9, 60, 1)).is_err());
}

#[test]
fn the_wall_clock_matters_only_between_two_starts_of_the_machine() {
    let mut machine = Machine::new();
    let limit = charge("c", "g", 1, 3_600, 1);
    drop(machine.take(&limit).unwrap());
    for wall in [0, 4_000_000_000 * SECOND, 1_700_000_000 * SECOND] {
        machine.reading.lock().wall = wall;
        machine.start();
        assert!(machine.take(&limit).is_err());
        machine.local().keep();
    }
    // Another start of the machine, and its clock is behind: nothing has passed.
    let started = |machine: &mut Machine, boot: u8, wall: u64| {
        *machine.reading.lock() = Reading {
            boot: [boot; 16],
            since_boot: 5 * SECOND,
            wall,
        };
        machine.start();
    };
    started(&mut machine, 2, 0);
    let left = machine.take(&limit).unwrap_err().retry_after();
    assert_eq!(left, Some(Duration::from_secs(3_600)));
    // It is corrected while the gateway runs, and that does not count as time that has passed.
    machine.reading.lock().wall = 1_700_000_100 * SECOND;
    machine.local().keep();
    started(&mut machine, 3, 1_700_001_100 * SECOND);
    let left = machine.take(&limit).unwrap_err().retry_after();
    assert_eq!(left, Some(Duration::from_secs(2_600)));
}

#[test]
fn a_record_that_was_torn_off_belongs_to_a_call_that_was_not_made() {
    let mut machine = Machine::new();
    let limit = charge("c", "g", 2, 60, 1);
    drop(machine.take(&limit).unwrap());
    let whole = fs::metadata(machine.file()).unwrap().len();
    drop(machine.take(&limit).unwrap());
    let file = machine.file();
    machine.local = None;
    let torn = fs::OpenOptions::new().write(true).open(&file).unwrap();
    torn.set_len(whole + 7).unwrap();
    machine.start();
    assert!(machine.take(&limit).is_ok());
    assert!(machine.take(&limit).is_err());
}

#[test]
fn after_damage_every_limit_waits_until_nothing_that_is_missing_can_count() {
    let mut machine = Machine::new();
    let (short, long) = (charge("c", "g", 9, 60, 1), charge("d", "g", 9, 3_600, 1));
    for _ in 0..3 {
        drop(machine.take(&short).unwrap());
    }
    let file = machine.file();
    machine.local = None;
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() - 60;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    machine.start();
    machine.pass(10 * SECOND);
    // Also after another restart.
    machine.start();
    for (limit, wait) in [(&short, 50), (&long, 3_590)] {
        let refused = machine.take(limit).unwrap_err();
        assert_eq!(refused.cause, Cause::Unknown(Duration::from_secs(wait)));
        assert!(refused.uncounted().unwrap().contains("lost"));
    }
    machine.pass(50 * SECOND);
    assert!(machine.take(&short).is_ok());
    assert!(machine.take(&long).is_err());
}

#[test]
fn a_file_of_another_version_and_one_that_is_no_journal_are_not_read_as_nothing() {
    for content in [&b"portcullis-limits-2\nxyz"[..], b"hello", &[0; 500]] {
        let mut machine = Machine::new();
        let file = machine.file();
        machine.local = None;
        fs::write(&file, content).unwrap();
        machine.start();
        let limit = charge("c", "g", 9, 60, 1);
        assert!(matches!(
            machine.take(&limit).unwrap_err().cause,
            Cause::Unknown(_)
        ));
        machine.pass(60 * SECOND);
        assert!(machine.take(&limit).is_ok());
    }
}

#[test]
fn a_machine_that_failed_may_leave_a_file_that_was_not_on_the_disk_yet() {
    let mut machine = Machine::new();
    let limit = charge("c", "g", 3, 60, 1);
    drop(machine.take(&limit).unwrap());
    let whole = fs::read(machine.file()).unwrap();
    let newer = machine.folder.path().join("journal/journal.7");
    let mut with = |zeros: bool, boot: u8| {
        machine.local = None;
        for file in machine.files() {
            fs::remove_file(file).unwrap();
        }
        let folder = machine.folder.path().join("journal");
        // Either the newest file never reached the disk, or the end of the only one.
        let tail = [0; 100];
        let first = if zeros {
            whole.clone()
        } else {
            [&whole[..], &tail].concat()
        };
        fs::write(folder.join("journal.6"), first).unwrap();
        if zeros {
            fs::write(&newer, tail).unwrap();
        }
        machine.reading.lock().boot = [boot; 16];
        machine.start();
        machine
            .take(&limit)
            .map(drop)
            .map_err(|refused| refused.cause)
    };
    for zeros in [true, false] {
        assert_eq!(with(zeros, 2), Ok(()));
        // Without a failure of the machine it is damage.
        assert!(matches!(with(zeros, 1), Err(Cause::Unknown(_))));
    }
}

#[test]
fn two_processes_never_count_in_one_journal() {
    let mut machine = Machine::new();
    let limit = charge("c", "g", 9, 60, 1);
    let first = machine.local.take().unwrap();
    machine.start();
    let refused = machine.take(&limit).unwrap_err();
    assert!(matches!(refused.cause, Cause::Unavailable(_)));
    let why = machine.local().trouble().unwrap();
    assert!(why.contains("another process counts in"), "{why}");
    assert!(machine.local().look("g", std::iter::once(&limit)).is_err());
    let _kept = first.reserve("g", std::iter::once(&limit)).unwrap();
    drop(first);
    machine.local().keep();
    assert_eq!(machine.local().trouble(), None);
    assert!(machine.take(&charge("c", "g", 1, 60, 1)).is_err());
}

#[test]
fn a_folder_that_cannot_be_used_refuses_what_has_limits_and_says_why() {
    let mut machine = Machine::new();
    machine.local = None;
    let folder = machine.folder.path().join("journal");
    fs::remove_dir_all(&folder).unwrap();
    fs::write(&folder, "a file").unwrap();
    machine.start();
    let limit = charge("c", "g", 9, 60, 1);
    assert!(machine.take(&limit).is_err());
    let why = machine.local().trouble().unwrap();
    assert!(
        why.contains("cannot create the folder") && why.contains("make room"),
        "{why}"
    );
    // Shadow counters refuse nothing, and need no journal.
    let mut shadow = charge("s", "g", 9, 60, 1);
    let mut counter = (*shadow.counter).clone();
    counter.shadow = true;
    shadow.counter = Arc::new(counter);
    assert!(machine.take(&shadow).is_ok());
    fs::remove_file(&folder).unwrap();
    machine.local().keep();
    assert!(machine.take(&limit).is_ok());
}

#[test]
fn a_full_disk_refuses_until_there_is_room_and_loses_nothing() {
    let mut machine = Machine::new();
    let limit = charge("c", "g", 3, 60, 1);
    drop(machine.take(&limit).unwrap());
    let swap = |machine: &Machine, file: fs::File| match &mut machine.local().lock().keeping {
        Keeping::Journal(journal) => journal.swap_file(file),
        Keeping::Nowhere | Keeping::Closed => panic!("no journal"),
    };
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let file = swap(&machine, full);
    for other in ["g", "h"] {
        let refused = machine.take(&charge("c", other, 3, 60, 1)).unwrap_err();
        assert!(
            matches!(refused.cause, Cause::Unavailable(_)),
            "{refused:?}"
        );
    }
    machine.local().keep();
    let why = machine.local().trouble().unwrap();
    assert!(
        why.contains("cannot write") && why.contains("make room"),
        "{why}"
    );
    swap(&machine, file);
    machine.local().keep();
    assert_eq!(machine.local().trouble(), None);
    drop(machine.take(&limit).unwrap());
    machine.start();
    drop(machine.take(&limit).unwrap());
    assert!(machine.take(&limit).is_err(), "three of three were taken");
}

#[test]
fn nobody_else_can_read_a_journal_and_it_names_nothing_of_a_call() {
    use std::os::unix::fs::PermissionsExt as _;
    let machine = Machine::new();
    drop(
        machine
            .take(&charge("counter-name", "key:secret-agent", 3, 60, 1))
            .unwrap(),
    );
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&machine.folder.path().join("journal")), 0o700);
    assert_eq!(mode(&machine.folder.path().join("journal/lock")), 0o600);
    assert_eq!(mode(&machine.file()), 0o600);
    let bytes = fs::read(machine.file()).unwrap();
    for word in ["counter-name", "secret-agent", "uid"] {
        assert!(memchr::memmem::find(&bytes, word.as_bytes()).is_none());
    }
}

#[test]
fn a_caller_who_goes_on_for_ever_does_not_make_a_journal_grow() {
    let mut machine = Machine::new();
    let mut longest = 0;
    for n in 0..20_000_u64 {
        machine.pass(SECOND / 10);
        let kept = charge("c", "g", 1_000, 60, 1);
        match machine.take(&kept) {
            // Half of the calls are not made after all.
            Ok(taken) if n % 2 == 0 => machine.local().give_back(taken),
            Ok(_) => {}
            Err(refused) => assert!(refused.retry_after() < Some(Duration::from_secs(60))),
        }
        if n % 50 == 0 {
            machine.local().keep();
            let bytes: u64 = machine
                .files()
                .iter()
                .map(|file| fs::metadata(file).unwrap().len())
                .sum();
            longest = longest.max(bytes);
        }
    }
    // A window has at most 1,026 moments of some 12 bytes.
    assert!(longest < 60_000, "{longest}");
    let refused_before = machine.take(&charge("c", "g", 300, 60, 1)).is_err();
    machine.start();
    assert_eq!(
        machine.take(&charge("c", "g", 300, 60, 1)).is_err(),
        refused_before
    );
}

#[derive(Clone, Debug)]
enum Step {
    Take {
        key: u8,
        cost: u64,
        pass: u64,
    },
    Return(usize),
    Pass(u64),
    Keep,
    /// The wall clock is set.
    Wall(u64),
    /// Parts of what counts are copied into a new file.
    Copy(u8),
    Kill {
        away: u64,
    },
    /// Killed while a call is counted.
    KillWithin {
        key: u8,
        cost: u64,
        at: prop::sample::Index,
        away: u64,
    },
    /// The machine is started again; its clock may be behind.
    Boot {
        away: u64,
        behind: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pass = || prop_oneof![Just(0_u64), 1..SECOND, SECOND..40 * SECOND];
    let key = || 0_u8..4;
    let cost = || 1_u64..4;
    let step = prop_oneof![
        20 => (key(), cost(), pass()).prop_map(|(key, cost, pass)| Step::Take { key, cost, pass }),
        3 => (0_usize..20).prop_map(Step::Return),
        2 => pass().prop_map(Step::Pass),
        2 => Just(Step::Keep),
        1 => any::<u32>().prop_map(|wall| Step::Wall(u64::from(wall) * SECOND)),
        1 => (0_u8..4).prop_map(Step::Copy),
        2 => pass().prop_map(|away| Step::Kill { away }),
        3 => (key(), cost(), any::<prop::sample::Index>(), pass())
            .prop_map(|(key, cost, at, away)| Step::KillWithin { key, cost, at, away }),
        1 => (pass(), 0..100 * SECOND).prop_map(|(away, behind)| Step::Boot { away, behind }),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn never_more_than_max_in_any_window_whenever_the_process_is_killed(steps in steps(), max in 3_u64..12) {
        let mut machine = Machine::new();
        let window = 60;
        let limit = |key: u8, cost: u64| charge("c", &key.to_string(), max, window, cost);
        // What was forwarded: key, when, units.
        let mut forwarded: Vec<(u8, u64, u64)> = Vec::new();
        let mut held: Vec<(usize, Reservation)> = Vec::new();
        let mut now = 0_u64;
        let mut boots = BOOT;
        for step in steps {
            match step {
                Step::Take { key, cost, pass } => {
                    machine.pass(pass);
                    now += pass;
                    match machine.take(&limit(key, cost)) {
                        Ok(reservation) => {
                            held.push((forwarded.len(), reservation));
                            forwarded.push((key, now, cost));
                        }
                        Err(refused) => prop_assert!(matches!(refused.cause, Cause::Used(_)), "{refused:?}"),
                    }
                }
                Step::Return(at) if !held.is_empty() => {
                    let (place, reservation) = held.swap_remove(at % held.len());
                    machine.local().give_back(reservation);
                    forwarded[place].2 = 0;
                }
                Step::Return(_) => {}
                Step::Pass(pass) => {
                    machine.pass(pass);
                    now += pass;
                }
                Step::Keep => machine.local().keep(),
                // The thread notices that within a minute.
                Step::Wall(wall) => {
                    machine.reading.lock().wall = wall;
                    machine.local().keep();
                }
                Step::Copy(parts) => {
                    let local = machine.local();
                    let mut kept = local.lock();
                    let at = kept.now(&local.clock).as_nanos() as u64;
                    let reading = local.clock.read();
                    let Keeping::Journal(journal) = &mut kept.keeping else { panic!("no journal") };
                    journal.renew(at, None, reading).unwrap();
                    kept.copying = Some(0);
                    drop(kept);
                    for _ in 0..parts {
                        local.copy_part().unwrap();
                    }
                }
                Step::Kill { away } => {
                    machine.local = None;
                    held.clear();
                    machine.pass(away);
                    now += away;
                    machine.start();
                }
                Step::KillWithin { key, cost, at, away } => {
                    let file = machine.file();
                    let before = fs::metadata(&file).unwrap().len();
                    let counted = machine.take(&limit(key, cost)).is_ok();
                    machine.local = None;
                    held.clear();
                    let after = fs::metadata(&file).unwrap().len();
                    if counted {
                        let cut = before + at.index((after - before) as usize) as u64;
                        let torn = fs::OpenOptions::new().write(true).open(&file).unwrap();
                        torn.set_len(cut).unwrap();
                    }
                    machine.pass(away);
                    now += away;
                    machine.start();
                }
                Step::Boot { away, behind } => {
                    machine.local = None;
                    held.clear();
                    boots[0] = boots[0].wrapping_add(1).max(1);
                    now += away;
                    let mut reading = machine.reading.lock();
                    let wall = (reading.wall + away).saturating_sub(behind);
                    *reading = Reading { boot: boots, since_boot: SECOND, wall };
                    drop(reading);
                    machine.start();
                }
            }
        }
        for key in 0..4 {
            let of: Vec<_> = forwarded.iter().filter(|(of, ..)| *of == key).collect();
            for (_, start, _) in &of {
                let within = |at: u64| *start <= at && at < start + window * SECOND;
                let sum: u64 = of.iter().filter(|(_, at, _)| within(*at)).map(|(_, _, units)| units).sum();
                prop_assert!(sum <= max, "{sum} units of key {key} in the window from {start}");
            }
        }
    }
}
