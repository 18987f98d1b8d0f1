//! The number that a bundle gets, which must stand above all that gateways have.
//!
//! In: what is stored, what gateways report, the clock. Out: the next sequence. Pure. Must not do:
//! rely on the clock where anything better is known: another leader's may be ahead.

/// As far as a gateway lets a sequence be ahead of its clock.
const MAX_AHEAD_MILLIS: u64 = 60_000;
/// What a gateway reports is believed up to a day ahead: a gateway that lies must not use up all
/// numbers.
const MAX_PLAUSIBLE_AHEAD_MILLIS: u64 = 86_400_000;

/// Whether what a gateway reports is believed.
pub fn is_plausible(reported: u64, now: u64) -> bool {
    reported <= now.saturating_add(MAX_PLAUSIBLE_AHEAD_MILLIS)
}

/// The sequence to write. `stored` is that of the newest bundle with the operator's signature,
/// `reported` the highest that a gateway has in force, `now` the time in milliseconds.
pub fn next(stored: Option<u64>, reported: Option<u64>, now: u64) -> u64 {
    let reported = reported.filter(|reported| is_plausible(*reported, now));
    // What a leader with a wrong clock wrote, and no gateway took, does not count as a sequence to
    // continue from there.
    let stored = stored.filter(|stored| {
        *stored <= now.saturating_add(MAX_AHEAD_MILLIS)
            || reported.is_some_and(|reported| *stored <= reported)
    });
    match (stored.max(reported), reported) {
        (Some(known), Some(_)) => known.saturating_add(1),
        // No gateway says what it has: it may be more than what is stored, if another writer has
        // put an old bundle back.
        (Some(known), None) => known.saturating_add(1).max(now),
        (None, _) => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a gateway does with a sequence.
    fn takes(in_force: Option<u64>, offered: u64, clock: u64) -> bool {
        let latest = clock.max(in_force.unwrap_or_default()) + MAX_AHEAD_MILLIS;
        offered <= latest && in_force.is_none_or(|in_force| offered >= in_force)
    }

    #[derive(Clone, Debug)]
    enum ChildAction {
        /// The operator's next content, written and offered.
        Write,
        /// Another writer stores an unsigned bundle, or removes the object.
        Foreign,
        /// Another writer puts one of the operator's earlier bundles back.
        Replay(usize),
        /// A leader takes over with a clock that is off by this much.
        Failover(i64),
        /// The gateway's clock steps.
        Clock(i64),
        /// The gateway's pod is replaced.
        Restart,
        Pass(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<ChildAction>> {
        let minute = 50_000_i64;
        let step = prop_oneof![
            4 => Just(ChildAction::Write),
            3 => Just(ChildAction::Foreign),
            2 => (0_usize..20).prop_map(ChildAction::Replay),
            2 => (-10 * minute..minute).prop_map(ChildAction::Failover),
            1 => (-minute..minute).prop_map(ChildAction::Clock),
            1 => Just(ChildAction::Restart),
            3 => (1_u64..100_000).prop_map(ChildAction::Pass),
        ];
        prop::collection::vec(step, 0..40)
    }

    fn moved(time: u64, by: i64) -> u64 {
        time.saturating_add_signed(by)
    }

    proptest! {
        #[test]
        fn whatever_others_write_the_operators_newest_bundle_comes_into_force_and_none_of_theirs(steps in steps()) {
            let mut time = 1_764_000_000_000_u64;
            let (mut operator_off, mut gateway_off) = (0_i64, 0_i64);
            // Signed: sequence and content. What is stored may be unsigned.
            let mut stored: Option<(u64, u32)> = None;
            let mut written: Vec<(u64, u32)> = Vec::new();
            let mut known: Option<u64> = None;
            let mut in_force: Option<(u64, u32)> = None;
            let mut content = 0;
            for step in steps.into_iter().chain([ChildAction::Write]) {
                match step {
                    ChildAction::Write => content += 1,
                    ChildAction::Foreign => stored = None,
                    ChildAction::Replay(at) => stored = written.get(at).copied().or(stored),
                    ChildAction::Failover(by) => { operator_off = by; known = None; }
                    ChildAction::Clock(by) => gateway_off = by.min(0),
                    ChildAction::Restart => in_force = None,
                    ChildAction::Pass(by) => time += by,
                }
                // The gateway sees the stored object; then the operator corrects it, at once,
                // reading what gateways say.
                for _ in 0..3 {
                    if let Some((sequence, what)) = stored
                        && takes(in_force.map(|(sequence, _)| sequence), sequence, moved(time, gateway_off))
                    {
                        in_force = Some((sequence, what));
                    }
                    let reported = in_force.map(|(sequence, _)| sequence);
                    if stored.is_none_or(|(_, what)| what != content) || in_force != stored {
                        let base = stored.map(|(sequence, _)| sequence).max(known);
                        let sequence = next(base, reported, moved(time, operator_off));
                        stored = Some((sequence, content));
                        known = Some(sequence);
                        written.push((sequence, content));
                    }
                }
                if content > 0 && gateway_off > -60_000 && operator_off + (-gateway_off) < 60_000 {
                    prop_assert_eq!(in_force.map(|(_, what)| what), Some(content), "sequence {:?} at {}", in_force, time);
                }
            }
        }
    }

    #[test]
    fn it_goes_on_from_what_gateways_have_whatever_the_clock_says() {
        let now = 1_764_000_000_000;
        assert_eq!(next(None, None, now), now);
        assert_eq!(next(Some(4), None, now), now);
        assert_eq!(next(Some(now + 5), Some(now + 5), now), now + 6);
        // The stored one is an old one that another writer put back.
        assert_eq!(next(Some(7), Some(now + 5), now), now + 6);
        // A slow clock, and one that was fast.
        assert_eq!(next(Some(now), Some(now), now - 3_600_000), now + 1);
        assert_eq!(next(Some(now + 7_200_000), None, now), now);
        // What no gateway can have in force.
        assert_eq!(next(Some(now), Some(u64::MAX), now), now + 1);
        assert_eq!(next(Some(u64::MAX), Some(now), now), now + 1);
    }
}
