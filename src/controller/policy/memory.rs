//! What is remembered of one policy between reconciliations.

use crate::api::policy::McpPolicyStatus;
use crate::controller::runtime::written::Written;

#[derive(Default)]
pub struct PolicyMemory {
    pub uid: String,
    pub written: Written<McpPolicyStatus>,
}
