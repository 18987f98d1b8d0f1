//! The subcommands of `portcullis`, one file each.
//!
//! In: parsed arguments. Out: text for people or scripts, and an exit code. Must not do: decide anything itself.

pub mod catalog;
pub mod crds;
