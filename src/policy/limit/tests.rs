use super::*;
use proptest::prelude::*;

const MINUTE: Duration = Duration::from_secs(60);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn the_thirty_first_call_in_a_minute_waits_until_the_first_has_left_the_window() {
    let mut window = Window::new(30, MINUTE);
    for i in 0..30 {
        assert!(window.reserve(ms(i * 1_000), 1).is_ok());
    }
    assert_eq!(window.reserve(ms(48_000), 1), Err(Refused::For(ms(12_000))));
    assert_eq!(window.reserve(ms(59_999), 1), Err(Refused::For(ms(1))));
    assert!(window.reserve(ms(60_000), 1).is_ok());
    assert_eq!(window.reserve(ms(60_000), 1), Err(Refused::For(ms(1_000))));
}

#[test]
fn units_come_back_once_and_only_while_they_count() {
    let mut window = Window::new(5, MINUTE);
    let first = window.reserve(ms(0), 3).unwrap();
    let second = window.reserve(ms(10), 2).unwrap();
    assert_eq!(window.used(ms(20)), 5);
    window.refund(first);
    assert_eq!(window.used(ms(20)), 2);
    assert!(window.reserve(ms(70_000), 5).is_ok());
    window.refund(second);
    assert_eq!(window.used(ms(70_000)), 5);
}

#[test]
fn a_reservation_of_a_dropped_counter_does_not_touch_its_successor() {
    let mut window = Window::new(5, MINUTE);
    let old = window.reserve(ms(0), 5).unwrap();
    assert!(!window.is_idle(ms(59_999)));
    assert!(window.is_idle(ms(60_000)));
    let mut window = Window::new(5, MINUTE);
    assert!(window.reserve(ms(60_000), 5).is_ok());
    window.refund(old);
    assert_eq!(window.used(ms(60_000)), 5);
}

#[test]
fn a_cost_above_the_limit_is_refused_for_good_and_a_lowered_limit_waits() {
    let mut window = Window::new(5, MINUTE);
    assert_eq!(window.reserve(ms(0), 6), Err(Refused::Always));
    assert_eq!(window.reserve(ms(0), u64::MAX), Err(Refused::Always));
    assert!(window.reserve(ms(0), 4).is_ok());
    window.set(2, MINUTE);
    assert_eq!(window.reserve(ms(1), 1), Err(Refused::For(ms(59_999))));
    assert_eq!(window.ratio(ms(1)), 2.0);
}

#[test]
fn memory_stays_bounded_under_any_number_of_calls() {
    let mut window = Window::new(1_000_000_000, MINUTE);
    for i in 0..300_000 {
        assert!(window.reserve(Duration::from_micros(i * 701), 1).is_ok());
        assert!(
            window.entries.len() <= EXACT + 2,
            "{}",
            window.entries.len()
        );
    }
}

#[derive(Clone, Debug)]
enum Step {
    Reserve { wait: u64, back: bool, cost: u64 },
    Refund(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let wait = prop_oneof![Just(0_u64), 1_u64..5, 1_u64..200, 900_u64..1_200];
    let step = prop_oneof![
        8 => (wait, prop::bool::weighted(0.05), prop_oneof![4 => 1_u64..4, 1 => 0_u64..60])
            .prop_map(|(wait, back, cost)| Step::Reserve { wait, back, cost }),
        1 => (0_usize..50).prop_map(Step::Refund),
    ];
    prop::collection::vec(step, 1..400)
}

/// Runs the steps and returns (effective time, units) of what was taken and not given back,
/// checking every refusal.
fn run(max: u64, length: u64, steps: &[Step]) -> Vec<(u64, u64)> {
    let mut window = Window::new(max, Duration::from_nanos(length));
    let (mut clock, mut seen) = (0_u64, 0_u64);
    let mut taken: Vec<(u64, u64)> = Vec::new();
    let mut held: Vec<(usize, Reservation)> = Vec::new();
    for step in steps {
        match step {
            Step::Reserve { wait, back, cost } => {
                clock = if *back {
                    clock.saturating_sub(wait * 3)
                } else {
                    clock + wait
                };
                seen = seen.max(clock);
                match window.reserve(Duration::from_nanos(clock), *cost) {
                    Ok(reservation) => {
                        held.push((taken.len(), reservation));
                        taken.push((seen, *cost));
                    }
                    Err(_) => {
                        let reach = length + length / EXACT as u64;
                        let used: u64 = taken
                            .iter()
                            .filter(|(at, _)| at + reach > seen)
                            .map(|(_, units)| units)
                            .sum();
                        assert!(
                            used + cost > max,
                            "refused {cost} with {used} of {max} used"
                        );
                    }
                }
            }
            Step::Refund(at) => {
                if !held.is_empty() {
                    let (place, reservation) = held.remove(at % held.len());
                    // Only what still counts comes back; the call was not made in either case.
                    if taken[place].0 + length > seen {
                        taken[place].1 = 0;
                    }
                    window.refund(reservation);
                }
            }
        }
    }
    taken
}

proptest! {
    #[test]
    fn no_window_ever_holds_more_than_the_limit(max in 1_u64..50, length in 1_u64..2_000, steps in steps()) {
        let taken = run(max, length, &steps);
        for (start, _) in &taken {
            let sum: u64 = taken.iter().filter(|(at, _)| start <= at && *at < start + length).map(|(_, units)| units).sum();
            prop_assert!(sum <= max, "{} in the window from {}", sum, start);
        }
    }

    #[test]
    fn merged_moments_never_hold_more_than_the_limit(gaps in prop::collection::vec(0_u64..40, 2_000..4_000), max in 500_u64..2_000) {
        let length = 20_000_u64;
        let steps: Vec<_> = gaps.iter().map(|wait| Step::Reserve { wait: *wait, back: false, cost: 1 }).collect();
        let taken = run(max, length, &steps);
        let mut sum = 0;
        let mut first = 0;
        for (at, units) in &taken {
            sum += units;
            while taken[first].0 + length <= *at {
                sum -= taken[first].1;
                first += 1;
            }
            prop_assert!(sum <= max);
        }
    }
}
