//! What any operator needs of Kubernetes: a fenced client, leader election, caches that watches
//! fill, work queues, and children that are kept as they should be.
//!
//! In: the API server. Out: objects, keys of objects to be reconciled, writes. Must not do: name a
//! kind of Portcullis's own, or decide what is to be written.

pub mod blocking;
pub mod client;
pub mod drift;
pub mod kinds;
pub mod leader_election;
pub mod objects;
pub mod pod_trouble;
pub mod quantity;
pub mod reflector;
pub mod store;
pub mod throttle;
pub mod workqueue;
pub mod writer;
pub mod written;
