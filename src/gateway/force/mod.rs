//! What is in force: bundles, Secrets and listings in, one snapshot for requests out.

mod builder;
pub mod destination;
mod lists;
pub mod plan;
mod rejected;
pub mod secrets;
pub mod settings;
pub mod snapshot;
pub mod tls;

pub use self::builder::{Builder, Environment, Sealing};
pub use self::lists::Lists;
pub use self::rejected::Rejected;
pub use self::settings::Settings;
pub use self::snapshot::Snapshot;
