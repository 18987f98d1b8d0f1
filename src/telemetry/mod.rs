//! Logging, the metrics registry and the small HTTP server of the admin port. Metric families are
//! defined next to the code that they count.

pub mod admin;
pub mod families;
pub mod listen;
pub mod logging;
pub mod process;
pub mod timed;
