//! Loopback addresses, one for each pod and each Service port.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;

/// 127.x.y.1 to 127.x.y.254, where x.y is the port of the API server: that is one process's on this
/// machine, so the addresses are too.
pub struct Addresses {
    network: [u8; 2],
    used: Mutex<([bool; 255], u8)>,
}

impl Addresses {
    pub fn of(port: u16) -> Self {
        Addresses {
            network: port.to_be_bytes(),
            used: Mutex::new(([false; 255], 0)),
        }
    }

    /// One that nobody has, and that was given back longest ago.
    pub fn take(&self) -> IpAddr {
        let mut guard = self.used.lock().unwrap();
        let (used, last) = &mut *guard;
        for _ in 0..254 {
            *last = if *last == 254 { 1 } else { *last + 1 };
            let slot = &mut used[usize::from(*last)];
            if !*slot {
                *slot = true;
                let [x, y] = self.network;
                return Ipv4Addr::new(127, x, y, *last).into();
            }
        }
        panic!("the node has no address left for another pod");
    }

    pub fn give_back(&self, address: IpAddr) {
        if let IpAddr::V4(address) = address {
            let [.., last] = address.octets();
            self.used.lock().unwrap().0[usize::from(last)] = false;
        }
    }
}
