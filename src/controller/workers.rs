//! Who takes keys from the work queues and reconciles them.
//!
//! In: keys. Out: reconciled objects; how many, how long it took, and what failed, as metrics and
//! log lines. Must not do: reconcile anything in a namespace that cannot be seen whole.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::reports::poll;
use super::{approval, policy, server};
use crate::controller::context::Context;
use crate::controller::metrics::{Kind, KindLabels};
use crate::controller::runtime::workqueue::Action;
use crate::controller::runtime::writer::WriteError;

/// Objects of one kind that are worked on at once.
const WORKERS_PER_KIND: usize = 8;
/// Servers whose gateways are asked at once: each waits for a pod most of the time.
const REPORT_READERS: usize = 32;

/// Starts every worker. None of them ends.
pub fn start(ctx: &Arc<Context>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for _ in 0..WORKERS_PER_KIND {
        tasks.spawn(worker(Arc::clone(ctx), Kind::McpServer));
        tasks.spawn(worker(Arc::clone(ctx), Kind::McpPolicy));
    }
    tasks.spawn(worker(Arc::clone(ctx), Kind::McpApproval));
    for _ in 0..REPORT_READERS {
        tasks.spawn(poll::work(Arc::clone(ctx)));
    }
    tasks
}

/// Why an object could not be reconciled.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Server(#[from] server::error::ServerError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Failure {
    /// Another writer was faster, or the caches were behind: not worth a warning.
    fn is_usual(&self) -> bool {
        let write = match self {
            Failure::Server(error) => error.write(),
            Failure::Write(error) => Some(error),
        };
        matches!(write, Some(WriteError::Conflict { .. }))
    }
}

/// Takes one key after the other.
async fn worker(ctx: Arc<Context>, kind: Kind) {
    let queue = match kind {
        Kind::McpServer => &ctx.queues.servers,
        Kind::McpPolicy => &ctx.queues.policies,
        Kind::McpApproval => &ctx.queues.approvals,
    };
    let labels = KindLabels { kind };
    let count = ctx.metrics.reconciles.get_or_create(&labels).clone();
    let errors = ctx.metrics.errors.get_or_create(&labels).clone();
    let duration = ctx.metrics.duration.get_or_create(&labels).clone();
    loop {
        let name = queue.next().await;
        // Something in it cannot be seen, and that may be a policy.
        if !ctx.caches.sees(&name.0) {
            queue.done(&name, Action::AwaitChange);
            continue;
        }
        let started = Instant::now();
        let span = tracing::info_span!(
            "reconcile",
            kind = kind.as_str(),
            namespace = name.0,
            name = name.1
        );
        let reconcile = async {
            match kind {
                Kind::McpServer => server::reconcile(&ctx, &name).await.map_err(Failure::from),
                Kind::McpPolicy => policy::reconcile(&ctx, &name).await.map_err(Failure::from),
                Kind::McpApproval => approval::reconcile(&ctx, &name)
                    .await
                    .map_err(Failure::from),
            }
        };
        let result: Result<Action, Failure> = reconcile.instrument(span.clone()).await;
        count.inc();
        duration.observe(started.elapsed().as_secs_f64());
        let done = result.unwrap_or_else(|error| {
            let _entered = span.enter();
            if error.is_usual() {
                tracing::debug!(%error, "trying again");
            } else {
                errors.inc();
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, cause, "trying again");
            }
            Action::Backoff
        });
        queue.done(&name, done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::testing::{TestOperator, http, mcp_policy, mcp_server};
    use crate::scripted_api::{Exchange, Script, answer, echo, refusal};
    use http::Method;
    use serde_json::{Value, json};
    use std::time::Duration;

    fn put(code: u16, reason: &str) -> Exchange {
        answer(
            Method::PUT,
            &["/mcppolicies/p/status"],
            code,
            refusal(code, reason),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_is_tried_again_and_counted_unless_somebody_was_only_faster() {
        let script = Script::new(vec![
            put(409, "Conflict"),
            put(500, "InternalError"),
            echo(Method::PUT, &["/mcppolicies/p/status"]),
        ]);
        let operator = TestOperator::new(&script);
        operator.policy(&mcp_policy("ml", "p", "m", "true"));
        let ctx = &operator.ctx;
        ctx.queues.policies.add(("ml".to_owned(), "p".to_owned()));
        // Not reconciled, because the namespace cannot be listed completely.
        ctx.caches.lose("hidden", 1);
        ctx.queues
            .policies
            .add(("hidden".to_owned(), "p".to_owned()));
        let working = tokio::spawn(worker(Arc::clone(ctx), Kind::McpPolicy));
        let labels = KindLabels {
            kind: Kind::McpPolicy,
        };
        while ctx.metrics.reconciles.get_or_create(&labels).get() < 3 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        working.abort();
        assert_eq!(ctx.metrics.errors.get_or_create(&labels).get(), 1);
        assert!(script.is_done());
    }

    #[tokio::test(start_paused = true)]
    async fn every_kind_has_its_workers() {
        let script = Script::new(vec![
            answer(
                Method::POST,
                &["/configmaps"],
                500,
                refusal(500, "InternalError"),
            ),
            echo(Method::PUT, &["/mcpservers/m/status"]),
        ]);
        let operator = TestOperator::new(&script);
        operator.server(&mcp_server("m", 1, &http()));
        let ctx = &operator.ctx;
        let mut tasks = start(ctx);
        assert_eq!(tasks.len(), 2 * WORKERS_PER_KIND + 1 + REPORT_READERS);
        ctx.queues.servers.add(crate::controller::testing::name());
        ctx.queues
            .approvals
            .add(("ml".to_owned(), "gone".to_owned()));
        let counted = |kind| {
            ctx.metrics
                .reconciles
                .get_or_create(&KindLabels { kind })
                .get()
        };
        while counted(Kind::McpServer) == 0 || counted(Kind::McpApproval) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tasks.abort_all();
        let kind = Kind::McpServer;
        assert_eq!(
            ctx.metrics.errors.get_or_create(&KindLabels { kind }).get(),
            1
        );
        let (_, sent): (String, Value) = script.asked().pop().unwrap();
        assert_ne!(sent["status"], json!(null));
    }
}
