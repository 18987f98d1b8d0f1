//! The status of a server, written if it changed. This file only writes; what a status says is
//! `crate::status`.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::account;
use super::error::StatusError;
use super::fetch::Refs;
use super::memory::Remembered;
use crate::api::condition::{ConditionStatus, ConditionType};
use crate::api::contract::SERVER_LABEL;
use crate::api::server::{McpServer, McpServerSpec, McpServerStatus};
use crate::controller::context::Context;
use crate::controller::metrics::Kind as Reconciled;
use crate::controller::names::Ident;
use crate::controller::runtime::kinds::Kind;
use crate::controller::runtime::throttle::{STATUS_WRITE_INTERVAL, throttled};
use crate::controller::runtime::writer;
use crate::policy::acceptance::Place;
use crate::policy::bundle::Bundle;
use crate::status::report::Report;
use crate::status::server::{Inputs, Refusal, Replica, status};

/// What became of a status.
pub enum StatusWrite {
    /// It is as it should be.
    Current,
    /// It will be written after that time.
    Later(Duration),
    /// It is not known before a gateway was heard.
    Unheard,
}

/// Writes the status if it is known (`planned`: the server was accepted; `refusal`: why it is not,
/// or cannot be carried out): a leader that is new must hear from the gateways before it says
/// anything else of them than the leader before.
pub async fn write(
    ctx: &Context,
    refs: &Refs,
    planned: bool,
    refusal: Option<&Refusal>,
    memory: &Remembered,
) -> Result<StatusWrite, StatusError> {
    if unheard(refs, memory) {
        ctx.queues.reports.add(refs.ident.key());
        return Ok(StatusWrite::Unheard);
    }
    let cached = refs.object.status(|server| &server.status);
    let (metadata, previous) = memory.lock().written.newest(refs.object.metadata(), cached);
    let (now, changed) = compute(refs, planned, refusal, previous.as_ref(), memory);
    let before = previous.unwrap_or_default();
    if now != before {
        // A gateway cannot have a status written each time that it is asked.
        let written = memory.lock().written.at;
        if only_figures(&before, &now)
            && let Some(left) = throttled(written, STATUS_WRITE_INTERVAL, Instant::now())
        {
            return Ok(StatusWrite::Later(left));
        }
        let version = match writer::status::<McpServer>(&ctx.client, &metadata, &now).await {
            Ok(version) => version,
            Err(error) => {
                memory.lock().status = Some(Arc::new(now));
                if changed {
                    tell_policies(ctx, refs);
                }
                return Err(StatusError::Write(error));
            }
        };
        memory.lock().written.set(version, now.clone());
        ctx.events.acceptance(
            Reconciled::McpServer,
            refs.object.metadata(),
            &before.conditions,
            &now.conditions,
        );
        let of = refs.object.metadata();
        ctx.events.closing(of, &before.conditions, &now.conditions);
    }
    let counts = now.violations.as_ref().map(|violations| &violations.counts);
    let Ident {
        namespace, name, ..
    } = &refs.ident;
    ctx.metrics.resources.show(
        Reconciled::McpServer,
        &(namespace.clone(), name.clone()),
        &now.conditions,
        counts,
    );
    let delivered = {
        let mut memory = memory.lock();
        let known = memory.bundle.as_ref().map(|bundle| bundle.revision.clone());
        let delivered = memory
            .delivering
            .take_if(|(revision, _)| known.as_ref() == Some(revision) && is_programmed(&now));
        memory.status = Some(Arc::new(now));
        delivered
    };
    if let Some((_, since)) = delivered {
        ctx.metrics
            .delivery
            .observe(Instant::now().duration_since(since).as_secs_f64());
    }
    if changed {
        tell_policies(ctx, refs);
    }
    Ok(StatusWrite::Current)
}

/// Whether there is a gateway that has not been asked for its report yet.
pub fn unheard(refs: &Refs, memory: &Remembered) -> bool {
    let memory = memory.lock();
    refs.pods.iter().any(|pod| {
        let poll = memory.polls.get(pod.uid());
        pod.ip.is_some() && !pod.terminating && !poll.is_some_and(|poll| poll.asked)
    })
}

/// Whether nothing differs but what gateways count: no condition but by its message.
fn only_figures(before: &McpServerStatus, now: &McpServerStatus) -> bool {
    let rest = |status: &McpServerStatus| {
        let mut rest = McpServerStatus {
            violations: None,
            tools: None,
            ..status.clone()
        };
        for condition in &mut rest.conditions {
            condition.message.clear();
        }
        rest
    };
    rest(before) == rest(now)
}

/// The policies of a server are to say what became of it.
pub fn tell_policies(ctx: &Context, refs: &Refs) {
    for targeting in &refs.policies {
        let metadata = &targeting.policy.metadata;
        ctx.queues.policies.add((
            metadata.namespace.clone().unwrap_or_default(),
            metadata.name.clone().unwrap_or_default(),
        ));
    }
}

fn is_programmed(status: &McpServerStatus) -> bool {
    status.conditions.iter().any(|condition| {
        condition.type_ == ConditionType::Programmed.as_str()
            && condition.status == ConditionStatus::True.as_str()
    })
}

/// The status now, and whether it differs from the one that policies were judged by.
fn compute(
    refs: &Refs,
    planned: bool,
    refusal: Option<&Refusal>,
    previous: Option<&McpServerStatus>,
    memory: &Remembered,
) -> (McpServerStatus, bool) {
    let ident = &refs.ident;
    let (stored, bundle, tampered, reports, judged) = {
        let memory = memory.lock();
        // Whether stored just now or not: `account` has looked.
        let ledger = account::known(&memory).unwrap_or_default();
        let reports: Vec<Option<Report>> = refs
            .pods
            .iter()
            .map(|pod| {
                let instance = memory.newest.get(pod.uid())?;
                memory
                    .reports
                    .get(&(pod.uid().to_owned(), instance.clone()))
                    .cloned()
            })
            .collect();
        let bundle = memory.bundle.clone();
        let judged = memory.status.clone();
        let tampered = memory.tampering.condition(Instant::now());
        (ledger, bundle, tampered, reports, judged)
    };
    let replicas: Vec<Replica<'_>> = refs
        .pods
        .iter()
        .zip(&reports)
        .filter(|(pod, _)| !pod.terminating)
        .map(|(pod, report)| Replica {
            ready: pod.ready,
            report: report.as_ref(),
        })
        .collect();
    let server = readable(refs, bundle.as_deref());
    let desired = refs
        .children
        .get(&(Kind::Deployment, ident.gateway()))
        .and_then(|live| {
            live.value()
                .pointer("/spec/replicas")
                .and_then(serde_json::Value::as_u64)
        })
        .and_then(|replicas| usize::try_from(replicas).ok())
        .unwrap_or_else(|| usize::try_from(server.spec.gateway().replicas()).unwrap_or(1));
    let look = format!(
        "kubectl -n {} describe deployments,pods -l {SERVER_LABEL}={}",
        ident.namespace, ident.name
    );
    let url = (planned || bundle.is_some()).then(|| url(ident, &server.spec));
    let trouble = refs.trouble(&ident.gateway(), &refs.pods);
    let upstream_trouble = refs.trouble(&ident.upstream(), &refs.upstream_pods);
    let now = status(&Inputs {
        server: &server,
        refusal,
        bundle: bundle.as_deref(),
        tampered: tampered.as_deref(),
        url: url.as_deref(),
        desired,
        replicas: &replicas,
        look: Some(&look),
        place: Place::Cluster,
        trouble: trouble.as_deref(),
        upstream_trouble: upstream_trouble.as_deref(),
        ledger: &stored,
        previous,
        now: Timestamp::now(),
    });
    let changed = judged.is_none_or(|judged| *judged != now);
    (now, changed)
}

/// The server; of one that is not understood, the form that is in force.
fn readable(refs: &Refs, bundle: Option<&Bundle>) -> McpServer {
    match &refs.server {
        Ok(server) => server.clone(),
        Err(_) => McpServer {
            metadata: refs.object.metadata().clone(),
            spec: bundle.map_or_else(nothing, |bundle| bundle.server.spec.clone()),
            status: None,
        },
    }
}

fn nothing() -> McpServerSpec {
    McpServerSpec {
        upstream: crate::api::server::Upstream::default(),
        enforcement: None,
        catalog: None,
        tools: Vec::new(),
        client_features: None,
        instructions: None,
        authentication: None,
        counters: None,
        audit: None,
        approvals: None,
        gateway: None,
    }
}

/// Where agents find the gateway.
fn url(ident: &Ident, spec: &McpServerSpec) -> String {
    let gateway = spec.gateway();
    if let Some(public) = gateway.public_url {
        return public;
    }
    let (scheme, usual) = if gateway.tls.is_some() {
        ("https", 443)
    } else {
        ("http", 80)
    };
    let port = gateway.port.unwrap_or(8080);
    let port = if port == usual {
        String::new()
    } else {
        format!(":{port}")
    };
    format!(
        "{scheme}://{}.{}.svc{port}/mcp",
        ident.gateway(),
        ident.namespace
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::condition::{Condition, Reason, condition};
    use crate::api::server::{ServerViolations, ToolCounts};

    #[test]
    fn what_a_report_alone_changes_can_wait_and_a_condition_cannot() {
        let ready = |status: ConditionStatus, message: &str| -> Condition {
            let (kind, reason) = (ConditionType::Ready, Reason::Ready);
            let now = crate::api::Time(Timestamp::UNIX_EPOCH);
            condition(kind, status, reason, message.to_owned(), Some(1), &[], &now)
        };
        let before = McpServerStatus {
            conditions: vec![ready(ConditionStatus::True, "lists 3 tools")],
            tools: Some(ToolCounts::default()),
            violations: Some(ServerViolations::default()),
            ..McpServerStatus::default()
        };
        let mut now = before.clone();
        now.tools = None;
        now.violations = None;
        now.conditions = vec![ready(ConditionStatus::True, "lists 4 tools")];
        assert!(only_figures(&before, &now));
        now.conditions = vec![ready(ConditionStatus::False, "lists 4 tools")];
        assert!(!only_figures(&before, &now));
        let other = McpServerStatus {
            revision: Some("r".to_owned()),
            ..before.clone()
        };
        assert!(!only_figures(&before, &other));
    }
}
