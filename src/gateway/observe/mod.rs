//! What the gateway says about its calls: the audit log, the metric families, and the report of
//! counted violations.

pub mod audit;
pub mod metrics;
pub mod outcome;
pub mod recorder;
mod report;

pub use self::outcome::Outcome;
