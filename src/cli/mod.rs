//! The subcommands of `portcullis`, one file each.
//!
//! In: parsed arguments. Out: text for people or scripts, and an exit code. Must not do: decide anything itself.

pub mod approvals;
pub mod catalog;
pub mod crds;
pub mod explain;
pub mod output;
pub mod socket;
pub mod test;
pub mod tools;
pub mod validate;
pub mod world;
