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
mod plain_yaml;
mod rights;
mod schema;
mod template;
mod values;

#[allow(dead_code)] // Other tests ask other things about pages.
#[path = "../docs/pages.rs"]
mod pages;
#[path = "../chart/secret_fields.rs"]
mod secret_fields;
