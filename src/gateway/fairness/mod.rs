//! What callers share, so that none of them can take all of it: connections, requests, bytes, and
//! turns for large messages.

pub mod address;
pub mod budget;
pub mod floor;
pub mod offload;
