//! What is to be reconciled.

use crate::controller::names::Name;
use crate::controller::runtime::workqueue::Queue;

/// What is to be reconciled.
#[derive(Default)]
pub struct Queues {
    pub servers: Queue<Name>,
    pub policies: Queue<Name>,
    pub approvals: Queue<Name>,
    /// Servers whose gateways' reports are to be read.
    pub reports: Queue<Name>,
}
