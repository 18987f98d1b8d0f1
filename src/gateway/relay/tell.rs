//! Messages that the gateway itself sends to the upstream, beside the requests of clients.

use std::sync::Arc;
use std::time::Duration;

use crate::gateway::Gateway;
use crate::gateway::enforce::request_ids::RequestIdGuard;
use crate::gateway::permit::Permit;
use crate::gateway::sessions::Session;
use crate::gateway::upstream::Upstream;

/// How long an answer to an upstream's own request may take to be delivered.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends the upstream a message in a client's session, without blocking the stream that caused it:
/// a server may read the message only after it has finished writing.
pub fn tell_upstream(gateway: &Arc<Gateway>, upstream: &Arc<Upstream>, permit: Permit) {
    let Some(place) = gateway.lifetime.telling() else {
        tracing::warn!(
            server = gateway.observe.server(),
            "the upstream sends requests faster than it accepts answers; dropped one"
        );
        return;
    };
    let (teller, upstream) = (Arc::clone(gateway), Arc::clone(upstream));
    gateway.lifetime.spawn(async move {
        deliver(&teller, &upstream, permit).await;
        drop(place);
    });
}

async fn deliver(gateway: &Gateway, upstream: &Upstream, permit: Permit) {
    if let Err(error) = upstream.call(permit, DELIVERY_TIMEOUT).await {
        tracing::debug!(server = gateway.observe.server(), %error, "an answer to the upstream was not delivered");
    }
}

/// Cancels a request at the upstream that the gateway has given up (Cancellation: "SHOULD issue a
/// cancellation notification").
pub fn give_up(
    gateway: &Arc<Gateway>,
    upstream: &Arc<Upstream>,
    session: &Session,
    under_way: &RequestIdGuard,
) {
    let permit = Permit::cancel(
        &under_way.give_up(),
        session.envelope(),
        Some("\"timeout\""),
    );
    tell_upstream(gateway, upstream, permit);
}
