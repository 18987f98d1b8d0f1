//! A secret that several processes read from their own copies of one file, while its value changes.
//!
//! In: the file's value each time it is read. Out: the value to use, and those to accept. A kubelet
//! updates the copies of a Secret one after another, within its sync period and the time to live of
//! its cache (about 90 s by default). So a new value is accepted at once, but is not used before
//! every copy has it, and the value before is accepted for a while longer. Must not do: show a
//! value.

use std::time::Duration;

use tokio::time::Instant;

/// A new value is not used alone before this time has passed: longer than kubelets take to update
/// every copy.
pub const SPREAD_TIME: Duration = Duration::from_secs(120);

/// Values that are still accepted. If a file changes faster than they expire, the oldest ones go.
const MAX_EARLIER: usize = 4;

/// The values of one secret.
pub struct Rotating {
    current: Option<Vec<u8>>,
    /// Oldest first, each with the time at which the next value replaced it.
    earlier: Vec<(Vec<u8>, Instant)>,
    accept_for: Duration,
    is_usable: fn(&[u8]) -> bool,
}

impl Rotating {
    /// A secret without a value yet. Replaced values that were usable are accepted for
    /// `accept_for`.
    pub fn new(accept_for: Duration, is_usable: fn(&[u8]) -> bool) -> Self {
        Rotating {
            current: None,
            earlier: Vec::new(),
            accept_for: accept_for.max(SPREAD_TIME),
            is_usable,
        }
    }

    /// Takes the value that was read now; None is a file that is missing or empty, which changes
    /// nothing: a Secret that was deleted is made again with another value, and the value before is
    /// good until then.
    pub fn read(&mut self, value: Option<&[u8]>, now: Instant) {
        if let Some(value) = value.map(<[u8]>::trim_ascii)
            && !value.is_empty()
            && self.current.as_deref() != Some(value)
        {
            self.earlier.retain(|(earlier, _)| earlier != value);
            let replaced = self.current.replace(value.to_vec());
            if let Some(replaced) = replaced.filter(|value| (self.is_usable)(value)) {
                self.earlier.push((replaced, now));
            }
            let excess = self.earlier.len().saturating_sub(MAX_EARLIER);
            self.earlier.drain(..excess);
        }
        self.earlier
            .retain(|(_, replaced)| now.saturating_duration_since(*replaced) < self.accept_for);
    }

    /// The values to accept, as of the last read; use the first one.
    pub fn values(&self, now: Instant) -> Vec<&[u8]> {
        let spreading = |replaced: &Instant| now.saturating_duration_since(*replaced) < SPREAD_TIME;
        let used = self
            .earlier
            .iter()
            .position(|(_, replaced)| spreading(replaced));
        let all = self.earlier.iter().map(|(value, _)| value);
        let mut values: Vec<&[u8]> = all.chain(&self.current).map(Vec::as_slice).collect();
        // The current value is the last one.
        let first = used.unwrap_or(values.len().saturating_sub(1));
        if first < values.len() {
            let used = values.remove(first);
            values.insert(0, used);
        }
        values
    }

    /// Those values as lines.
    pub fn lines(&self, now: Instant) -> Option<Vec<u8>> {
        let values = self.values(now);
        (!values.is_empty()).then(|| values.join(&b'\n'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_value_is_accepted_at_once_used_when_all_have_it_and_the_old_one_expires() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut secret = Rotating::new(Duration::from_secs(600), |value| value != b"bad");
        let lines = |secret: &Rotating, seconds| {
            secret
                .lines(at(seconds))
                .map(|lines| String::from_utf8(lines).unwrap())
        };
        assert_eq!(lines(&secret, 0), None);
        secret.read(Some(b" one\n"), at(0));
        assert_eq!(lines(&secret, 0).as_deref(), Some("one"));
        secret.read(Some(b"two"), at(1000));
        assert_eq!(lines(&secret, 1000).as_deref(), Some("one\ntwo"));
        assert_eq!(lines(&secret, 1119).as_deref(), Some("one\ntwo"));
        assert_eq!(lines(&secret, 1120).as_deref(), Some("two\none"));
        // A file that is gone changes nothing.
        secret.read(None, at(1130));
        secret.read(Some(b"\n"), at(1130));
        assert_eq!(lines(&secret, 1130).as_deref(), Some("two\none"));
        secret.read(Some(b"two"), at(1600));
        assert_eq!(lines(&secret, 1600).as_deref(), Some("two"));
        // What was never good is not accepted after it was corrected.
        secret.read(Some(b"bad"), at(1610));
        assert_eq!(lines(&secret, 1610).as_deref(), Some("two\nbad"));
        secret.read(Some(b"three"), at(1620));
        assert_eq!(lines(&secret, 1620).as_deref(), Some("two\nthree"));
    }

    #[test]
    fn values_that_change_fast_are_used_one_after_another_and_one_that_is_put_back_goes_on() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut secret = Rotating::new(Duration::from_secs(600), |_| true);
        let used = |secret: &Rotating, seconds| secret.values(at(seconds))[0].to_vec();
        for (seconds, value) in [(0, b"a"), (60, b"b"), (90, b"c")] {
            secret.read(Some(value), at(seconds));
        }
        assert_eq!(used(&secret, 100), b"a");
        assert_eq!(used(&secret, 185), b"b");
        assert_eq!(used(&secret, 210), b"c");
        secret.read(Some(b"a"), at(211));
        let mut all = secret.values(at(211));
        assert_eq!(all[0], b"c", "others use it until they read the new one");
        all.sort_unstable();
        assert_eq!(all, [b"a", b"b", b"c"]);
        for value in [b"d", b"e", b"f", b"g", b"h", b"i"] {
            secret.read(Some(value), at(212));
        }
        assert_eq!(secret.values(at(212)).len(), MAX_EARLIER + 1);
    }
}
