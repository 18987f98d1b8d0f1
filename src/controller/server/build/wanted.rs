//! What the children of a server follow from.

use crate::api::server::McpServerSpec;
use crate::controller::args::{Egress, Peers};
use crate::controller::names::Ident;
use crate::policy::signature::PublicKey;

/// What all children of all servers have in common.
#[derive(Clone, Debug)]
pub struct Settings {
    pub gateway_image: String,
    pub gateway_image_pull_policy: String,
    pub admin_from: Peers,
    pub gateway_egress: Egress,
}

/// What the children of one server follow from.
pub struct Wanted<'a> {
    pub ident: &'a Ident,
    pub spec: &'a McpServerSpec,
    pub settings: &'a Settings,
    /// What gateways believe bundles by.
    pub bundle_keys: &'a [PublicKey],
    /// Limits are counted in the gateway's memory, so there must never be two gateways at once.
    pub alone: bool,
    /// Replicas of the gateway as they are now, if there is one.
    pub replicas: Option<Replicas>,
}

/// Replicas of the gateway's Deployment on the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicas {
    pub now: i64,
    /// Another writer decides on them.
    pub others: bool,
}
