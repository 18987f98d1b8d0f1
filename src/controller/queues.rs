//! What is to be reconciled.

use crate::controller::names::Name;
use crate::controller::runtime::workqueue::WorkQueue;

/// What is to be reconciled.
#[derive(Default)]
pub struct Queues {
    pub servers: WorkQueue<Name>,
    pub policies: WorkQueue<Name>,
    pub approvals: WorkQueue<Name>,
    /// Servers whose gateways' reports are to be read.
    pub reports: WorkQueue<Name>,
}
