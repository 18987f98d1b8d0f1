//! Which addresses count as one.
//!
//! In: the address of a peer. Out: a small key. Must not do: look at what a client says of its
//! address.

use std::net::IpAddr;

/// Addresses that one stranger is likely to have all of: a single IPv4 address, or an IPv6 network
/// of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressGroup(u64, bool);

impl AddressGroup {
    /// The group of an address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => AddressGroup(v4.to_bits().into(), true),
            IpAddr::V6(v6) => AddressGroup((v6.to_bits() >> 64) as u64, false),
        }
    }
}
