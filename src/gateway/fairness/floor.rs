//! Which connections of agents are open, and which makes room when there is none.
//!
//! In: an address, later the caller. Out: a seat, or none. As long as the caller is not known, an
//! address has a bounded number of seats; afterwards the caller has. Where all are taken the
//! connection that has been without a request for longest is closed. Must not do: close a
//! connection on which a request is under way.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use tokio::task::AbortHandle;

use crate::gateway::fairness::address::AddressGroup;
use crate::gateway::fairness::budget::{Budgets, Share};
use crate::gateway::grants::Grant;
use crate::policy::Caller;

/// Every open connection of a listener.
#[derive(Debug)]
pub struct Floor {
    budgets: Arc<Budgets>,
    epoch: Instant,
    seats: Mutex<Seats>,
}

#[derive(Debug, Default)]
struct Seats {
    taken: HashMap<u64, Arc<Seated>>,
    next: u64,
}

#[derive(Debug)]
struct Seated {
    address: IpAddr,
    group: AddressGroup,
    under_way: AtomicUsize,
    /// Nanoseconds after the floor's epoch.
    idle_since: AtomicU64,
    /// Ends the connection.
    task: OnceLock<AbortHandle>,
    known: Mutex<Option<Known>>,
}

#[derive(Clone, Debug)]
struct Known {
    server: String,
    caller: Arc<Caller>,
    share: Arc<Share>,
}

/// The caller has as many connections as it may have, with requests under way on all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this caller has as many connections as one caller may have; close some")]
pub struct Crowded;

impl Floor {
    /// An empty one.
    pub fn new(budgets: Arc<Budgets>) -> Arc<Self> {
        Arc::new(Floor {
            budgets,
            epoch: Instant::now(),
            seats: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock()
    }

    /// A seat for a new connection; None if none can be made free.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let (bounds, group) = (&self.budgets.bounds, AddressGroup::of(address));
        let mut seats = self.lock();
        if seats.taken.len() >= bounds.address_connections {
            let stranger = |seated: &Seated| seated.group == group && !seated.is_known();
            if seats.count(stranger) >= bounds.address_connections && !seats.free(stranger) {
                return None;
            }
        }
        if seats.taken.len() >= bounds.connections && !seats.free(|_| true) {
            return None;
        }
        let seated = Arc::new(Seated {
            address,
            group,
            under_way: AtomicUsize::new(0),
            idle_since: AtomicU64::new(self.now()),
            task: OnceLock::new(),
            known: Mutex::default(),
        });
        let number = seats.next;
        seats.next += 1;
        seats.taken.insert(number, Arc::clone(&seated));
        Some(Seat {
            floor: Arc::clone(self),
            number,
            seated,
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Seats {
    fn count(&self, of: impl Fn(&Seated) -> bool) -> usize {
        self.taken.values().filter(|seated| of(seated)).count()
    }

    /// Closes the connection that has been idle for longest, if one of these is.
    fn free(&mut self, of: impl Fn(&Seated) -> bool) -> bool {
        let idle = self.taken.iter().filter(|(_, seated)| {
            seated.under_way.load(Ordering::Acquire) == 0
                && seated.task.get().is_some()
                && of(seated)
        });
        let longest = idle
            .min_by_key(|(number, seated)| (seated.idle_since.load(Ordering::Relaxed), **number));
        let Some(number) = longest.map(|(number, _)| *number) else {
            return false;
        };
        if let Some(task) = self
            .taken
            .remove(&number)
            .and_then(|seated| seated.task.get().cloned())
        {
            task.abort();
        }
        true
    }
}

impl Seated {
    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock()
    }

    fn is_known(&self) -> bool {
        self.known().is_some()
    }
}

/// A place for one connection; freed when dropped.
#[derive(Debug)]
pub struct Seat {
    floor: Arc<Floor>,
    number: u64,
    seated: Arc<Seated>,
}

impl Seat {
    /// Sets the task that ends the connection: until it is set, the connection makes no room for
    /// others.
    pub fn ends(&self) -> Ends {
        Ends(Arc::clone(&self.seated))
    }

    /// Where the connection comes from. A proxy has the address of its own.
    pub fn address(&self) -> IpAddr {
        self.seated.address.to_canonical()
    }

    /// A request is under way until the guard is dropped.
    pub fn begin(&self) -> RequestOnSeat {
        self.seated.under_way.fetch_add(1, Ordering::AcqRel);
        RequestOnSeat {
            floor: Arc::clone(&self.floor),
            seated: Arc::clone(&self.seated),
        }
    }

    /// The caller is known now: returns its share of everything.
    ///
    /// # Errors
    /// [`Crowded`].
    pub fn known(&self, server: &str, grant: &Grant) -> Result<Arc<Share>, Crowded> {
        let same =
            |known: &&Known| Arc::ptr_eq(&known.caller, &grant.caller) && known.server == server;
        if let Some(known) = self.seated.known().as_ref().filter(same) {
            return Ok(Arc::clone(&known.share));
        }
        let budgets = &self.floor.budgets;
        let share = budgets.share(server, &grant.caller.grant);
        let mut seats = self.floor.lock();
        let most = budgets.bounds.caller_connections;
        if seats.taken.len() >= most {
            let of_caller = |seated: &Seated| {
                !std::ptr::eq(seated, &*self.seated)
                    && seated
                        .known()
                        .as_ref()
                        .is_some_and(|known| Arc::ptr_eq(&known.share, &share))
            };
            if seats.count(of_caller) >= most && !seats.free(of_caller) {
                return Err(Crowded);
            }
        }
        *self.seated.known() = Some(Known {
            server: server.to_owned(),
            caller: Arc::clone(&grant.caller),
            share: Arc::clone(&share),
        });
        Ok(share)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.floor.lock().taken.remove(&self.number);
    }
}

/// Takes what ends a connection.
#[derive(Debug)]
pub struct Ends(Arc<Seated>);

impl Ends {
    /// Aborting this task ends the connection.
    pub fn by(self, task: AbortHandle) {
        // Set once.
        let _ = self.0.task.set(task);
    }
}

/// A request that is under way on a connection.
#[derive(Debug)]
pub struct RequestOnSeat {
    floor: Arc<Floor>,
    seated: Arc<Seated>,
}

impl Drop for RequestOnSeat {
    fn drop(&mut self) {
        let now = self.floor.now();
        self.seated.idle_since.store(now, Ordering::Relaxed);
        self.seated.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fairness::budget::Bounds;
    use crate::gateway::grants::Grants;

    fn floor() -> Arc<Floor> {
        Floor::new(Arc::new(Budgets::new(Bounds::of(1_024))))
    }

    /// A connection that only waits; it is closed where its task is ended.
    fn sit(floor: &Arc<Floor>, address: &str) -> Option<(Seat, tokio::task::JoinHandle<()>)> {
        let seat = floor.enter(address.parse().unwrap())?;
        let task = tokio::spawn(std::future::pending());
        seat.ends().by(task.abort_handle());
        Some((seat, task))
    }

    #[tokio::test]
    async fn one_address_has_its_share_while_nobody_knows_who_calls() {
        let floor = floor();
        let most = floor.budgets.bounds.address_connections;
        let mut seats: Vec<_> = (0..most)
            .map(|_| sit(&floor, "2001:db8::1").unwrap())
            .collect();
        let busy: Vec<RequestOnSeat> = seats.iter().map(|(seat, _)| seat.begin()).collect();
        assert!(sit(&floor, "2001:db8::2").is_none(), "the same network");
        assert!(sit(&floor, "2001:db8:0:1::1").is_some() && sit(&floor, "10.0.0.1").is_some());
        drop(busy);
        let (_new, _) = sit(&floor, "2001:db8::3").expect("the longest idle makes room");
        let (_, closed) = seats.remove(0);
        assert!(closed.await.unwrap_err().is_cancelled());
        let (known, _task) = seats.remove(0);
        let grant = Grants::new(
            &[("a".to_owned(), b"a-key-of-16-bytes".to_vec())].into(),
            false,
        );
        let mut headers = http::HeaderMap::new();
        headers.insert("authorization", "Bearer a-key-of-16-bytes".parse().unwrap());
        known
            .known("s", &grant.authenticate(&headers).unwrap())
            .unwrap();
        let all: Vec<RequestOnSeat> = seats.iter().map(|(seat, _)| seat.begin()).collect();
        assert!(
            sit(&floor, "2001:db8::4").is_some(),
            "a known caller is not a stranger"
        );
        drop(all);
    }

    #[tokio::test]
    async fn a_caller_has_its_share_and_its_longest_idle_connection_makes_room() {
        let floor = floor();
        let grants = Grants::new(
            &[("a".to_owned(), b"a-key-of-16-bytes".to_vec())].into(),
            true,
        );
        let mut headers = http::HeaderMap::new();
        let calm = grants.authenticate(&headers).unwrap();
        headers.insert("authorization", "Bearer a-key-of-16-bytes".parse().unwrap());
        let greedy = grants.authenticate(&headers).unwrap();
        let most = floor.budgets.bounds.caller_connections;
        let mut seats = Vec::new();
        for number in 0..most {
            let address = format!("10.0.{}.{}", number / 200, number % 200);
            let (seat, task) = sit(&floor, &address).unwrap();
            seat.known("s", &greedy).unwrap();
            seats.push((seat, task));
        }
        let busy: Vec<RequestOnSeat> = seats[1..].iter().map(|(seat, _)| seat.begin()).collect();
        let (another, _task) = sit(&floor, "10.1.0.1").unwrap();
        another.known("s", &greedy).unwrap();
        assert!(seats.remove(0).1.await.unwrap_err().is_cancelled());
        let _under_way = another.begin();
        let (more, _more) = sit(&floor, "10.1.0.2").unwrap();
        assert_eq!(more.known("s", &greedy).unwrap_err(), Crowded);
        assert!(more.known("s", &calm).is_ok());
        assert!(more.known("t", &greedy).is_ok(), "another server's caller");
        drop(busy);
    }
}
