//! Failed logins of a gateway, and the end of each window in which their lines are counted.
//!
//! In: the reason and the address of the peer. Out: a metric, and lines of the audit log. Must not
//! do: anything on the way of a request that is admitted, or start a task for each failure.

use std::net::IpAddr;
use std::sync::Arc;

use super::authentication_failure::AuthenticationFailure;
use super::failed_logins::FAILED_LOGIN_WINDOW;
use crate::gateway::Gateway;

impl Gateway {
    /// Counts and records a request that was refused before its caller was known.
    pub fn failed_login(self: &Arc<Self>, failure: AuthenticationFailure, address: Option<IpAddr>) {
        if !self.observe.failed_login(failure, address) {
            return;
        }
        let gateway = Arc::clone(self);
        let closing = self.lifetime.closing();
        self.lifetime.spawn(async move {
            let last = tokio::select! {
                () = closing.cancelled() => true,
                () = tokio::time::sleep(FAILED_LOGIN_WINDOW) => false,
            };
            gateway.observe.end_failed_logins(last);
        });
    }
}
