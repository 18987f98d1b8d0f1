//! How many failed logins are written to the audit log: a bounded number in each window of time,
//! whatever strangers do.
//!
//! In: the addresses that requests came from. Out: whether this one is written, and at the end of a
//! window how many were not. Must not do: grow with the number of addresses, know the time, or
//! believe what a client says of its address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::gateway::fairness::address::AddressGroup;

/// How long a window lasts.
pub const FAILED_LOGIN_WINDOW: Duration = Duration::from_secs(60);
/// This many lines are written for an address in one window.
const MAX_LINES_OF_ADDRESS: u32 = 10;
/// This many for all of them.
const MAX_LINES: u32 = 60;
/// This many addresses are kept apart in one window.
const MAX_ADDRESSES: usize = 256;
/// This many addresses get a line at the end of a window; the others share one.
const MAX_SUMMARIES: usize = 16;

/// The failed logins of the current window.
#[derive(Debug, Default)]
pub struct FailedLogins {
    open: bool,
    /// No further window opens.
    closed: bool,
    lines: u32,
    addresses: HashMap<Option<AddressGroup>, AddressFailures>,
    /// Those of addresses that are not kept apart.
    elsewhere: u64,
}

#[derive(Debug)]
struct AddressFailures {
    /// The address that was seen first.
    address: Option<IpAddr>,
    lines: u32,
    suppressed: u64,
}

/// What becomes of a failed login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// It gets a line.
    pub written: bool,
    /// It is the first of a window, which its caller has to end after [`FAILED_LOGIN_WINDOW`].
    pub opens_window: bool,
}

/// How many failed logins of a window have no line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suppressed {
    /// Where they came from; none for the rest of the addresses, and where it is not known.
    pub address: Option<IpAddr>,
    /// At least 1.
    pub count: u64,
}

impl FailedLogins {
    /// Notes a failed login.
    pub fn note(&mut self, address: Option<IpAddr>) -> Noted {
        if self.closed {
            return Noted {
                written: false,
                opens_window: false,
            };
        }
        let opens_window = !std::mem::replace(&mut self.open, true);
        Noted {
            written: self.admits(address),
            opens_window,
        }
    }

    fn admits(&mut self, address: Option<IpAddr>) -> bool {
        let group = address.map(AddressGroup::of);
        if !self.addresses.contains_key(&group) && self.addresses.len() >= MAX_ADDRESSES {
            self.elsewhere += 1;
            return false;
        }
        let of_address = self.addresses.entry(group).or_insert(AddressFailures {
            address,
            lines: 0,
            suppressed: 0,
        });
        if of_address.lines >= MAX_LINES_OF_ADDRESS || self.lines >= MAX_LINES {
            of_address.suppressed += 1;
            return false;
        }
        of_address.lines += 1;
        self.lines += 1;
        true
    }

    /// Ends the window. `last` says that no other follows.
    pub fn end_window(&mut self, last: bool) -> Vec<Suppressed> {
        let FailedLogins {
            addresses,
            elsewhere,
            ..
        } = std::mem::take(self);
        self.closed = last;
        let mut suppressed: Vec<Suppressed> = addresses
            .into_values()
            .filter(|of_address| of_address.suppressed > 0)
            .map(|of_address| Suppressed {
                address: of_address.address,
                count: of_address.suppressed,
            })
            .collect();
        suppressed.sort_by_key(|one| (std::cmp::Reverse(one.count), one.address));
        let rest = suppressed.split_off(suppressed.len().min(MAX_SUMMARIES));
        let count = elsewhere + rest.iter().map(|one| one.count).sum::<u64>();
        if count > 0 {
            suppressed.push(Suppressed {
                address: None,
                count,
            });
        }
        suppressed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> Option<IpAddr> {
        Some(IpAddr::from(number.to_be_bytes()))
    }

    #[test]
    fn one_address_gets_some_lines_and_one_that_counts_the_others() {
        let mut failed = FailedLogins::default();
        let noted: Vec<Noted> = (0..100).map(|_| failed.note(address(7))).collect();
        assert!(noted[0].opens_window && noted[1..].iter().all(|one| !one.opens_window));
        assert_eq!(noted.iter().filter(|one| one.written).count(), 10);
        // Another is not kept out by it.
        assert!(failed.note(address(8)).written);
        let summary = Suppressed {
            address: address(7),
            count: 90,
        };
        assert_eq!(failed.end_window(false), [summary]);
        assert!(failed.note(address(7)).opens_window);
        assert_eq!(failed.end_window(true), []);
        let after = failed.note(address(7));
        assert!(!after.opens_window && !after.written);
    }

    #[test]
    fn many_addresses_neither_grow_it_nor_fill_the_log() {
        let mut failed = FailedLogins::default();
        for round in 0..3_u64 {
            let mut written = 0;
            for number in 0..100_000 {
                written += u64::from(failed.note(address(number % 50_000)).written);
                assert!(failed.addresses.len() <= MAX_ADDRESSES);
            }
            assert_eq!(written, u64::from(MAX_LINES), "{round}");
            let suppressed = failed.end_window(false);
            assert_eq!(suppressed.len(), MAX_SUMMARIES + 1);
            let count: u64 = suppressed.iter().map(|one| one.count).sum();
            assert_eq!(written + count, 100_000);
            assert!(failed.addresses.is_empty());
        }
    }

    #[test]
    fn a_network_of_ipv6_and_a_mapped_address_are_one_address() {
        let mut failed = FailedLogins::default();
        let lines = |failed: &mut FailedLogins, addresses: [&str; 3]| {
            let noted = (0..10).flat_map(|_| addresses);
            noted
                .filter(|address| failed.note(Some(address.parse().unwrap())).written)
                .count()
        };
        let network = ["2001:db8::1", "2001:db8::2:1", "2001:db8:0:0:ffff::9"];
        assert_eq!(lines(&mut failed, network), 10);
        let mapped = ["10.0.0.7", "::ffff:10.0.0.7", "10.0.0.7"];
        assert_eq!(lines(&mut failed, mapped), 10);
    }
}
