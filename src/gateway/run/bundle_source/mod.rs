//! Where bundles come from: the ConfigMap, through the API, and its mounted copy.

pub mod bundles;
mod follow;
pub mod watch;

pub use self::bundles::{ApplyResult, Intake, Readers, Source};
pub use self::follow::BundleNotice;
