//! What the gateway says about its calls: the audit log, the metric families, and the report of
//! counted violations, failed logins.

pub mod audit;
mod authentication;
pub mod authentication_failure;
mod failed_logins;
pub mod metrics;
pub mod outcome;
pub mod recorder;
mod report;

pub use self::outcome::Outcome;
