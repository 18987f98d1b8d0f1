//! The Helm chart: what it renders, what the API server makes of it, and what its admission
//! policies refuse.
//!
//! Each part that installs it has a control plane of its own: definitions and admission policies
//! are the whole cluster's.

mod admission;
mod bundle;
mod gitops;
mod helm;
mod install;
mod rights;
mod schema;
mod template;
mod values;

#[path = "../chart/secret_fields.rs"]
mod secret_fields;
