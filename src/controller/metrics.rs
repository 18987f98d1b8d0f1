//! The metric families of the operator. Label values are names of resources, or come from enums.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::api::ViolationCounts;
use crate::api::condition::Condition;

/// What is reconciled.
#[allow(clippy::enum_variant_names, reason = "the kinds are called so")]
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Kind {
    McpServer,
    McpPolicy,
    McpApproval,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::McpServer => "McpServer",
            Kind::McpPolicy => "McpPolicy",
            Kind::McpApproval => "McpApproval",
        }
    }
}

impl EncodeLabelValue for Kind {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.as_str(), encoder)
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct KindLabels {
    pub kind: Kind,
}

/// Labels of `portcullis_operator_api_requests_total`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct RequestLabels {
    /// get, list, watch, create, update, patch or delete.
    pub verb: &'static str,
    /// The resource, with its subresource, such as `mcpservers/status`.
    pub resource: String,
}

/// Labels of `portcullis_resource_violations`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ViolationLabels {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
    pub outcome: &'static str,
}

/// Labels of `portcullis_resource_condition`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ConditionLabels {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
    pub r#type: String,
    pub status: String,
}

/// Every family.
#[derive(Clone)]
pub struct Metrics {
    pub reconciles: Family<KindLabels, Counter>,
    pub errors: Family<KindLabels, Counter>,
    pub duration: Family<KindLabels, Histogram, fn() -> Histogram>,
    pub depth: Family<KindLabels, Gauge>,
    pub requests: Family<RequestLabels, Counter>,
    pub deliveries: Counter,
    pub delivery: Histogram,
    pub leader: Gauge,
    violations: Family<ViolationLabels, Gauge>,
    conditions: Family<ConditionLabels, Gauge<f64, AtomicU64>>,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let duration = || Histogram::new(exponential_buckets(0.000_5, 2.0, 16));
        let metrics = Metrics {
            reconciles: Family::default(),
            errors: Family::default(),
            duration: Family::new_with_constructor(duration),
            depth: Family::default(),
            requests: Family::default(),
            deliveries: Counter::default(),
            delivery: Histogram::new(exponential_buckets(0.005, 2.0, 16)),
            leader: Gauge::default(),
            violations: Family::default(),
            conditions: Family::default(),
        };
        let operator = registry.sub_registry_with_prefix("portcullis_operator");
        operator.register(
            "reconciles",
            "Reconciliations that have ended",
            metrics.reconciles.clone(),
        );
        operator.register(
            "reconcile_errors",
            "Reconciliations that failed and are tried again",
            metrics.errors.clone(),
        );
        operator.register_with_unit(
            "reconcile_duration",
            "Time that a reconciliation took",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        operator.register(
            "queue_depth",
            "Objects that wait to be reconciled",
            metrics.depth.clone(),
        );
        operator.register(
            "api_requests",
            "Requests to the API server",
            metrics.requests.clone(),
        );
        operator.register(
            "bundle_deliveries",
            "Bundles that were written",
            metrics.deliveries.clone(),
        );
        operator.register_with_unit(
            "programmed",
            "Time from the writing of a bundle until every ready replica ran it",
            Unit::Seconds,
            metrics.delivery.clone(),
        );
        operator.register(
            "leader",
            "Whether this replica holds the Lease",
            metrics.leader.clone(),
        );
        let resource = registry.sub_registry_with_prefix("portcullis_resource");
        resource.register(
            "violations",
            "Violations in the status of the resource",
            metrics.violations.clone(),
        );
        resource.register(
            "condition",
            "1 for the status that a condition of the resource has",
            metrics.conditions.clone(),
        );
        metrics
    }

    /// Shows what a resource's status says: `before` is what was shown last.
    pub fn show(&self, kind: Kind, namespace: &str, name: &str, before: &Shown, now: &Shown) {
        for gone in before.conditions.difference(&now.conditions) {
            self.conditions
                .remove(&condition_labels(kind, namespace, name, gone));
        }
        for condition in &now.conditions {
            self.conditions
                .get_or_create(&condition_labels(kind, namespace, name, condition))
                .set(1.0);
        }
        for (outcome, count) in now.violations() {
            let labels = violation_labels(kind, namespace, name, outcome);
            self.violations.get_or_create(&labels).set(count);
        }
    }

    /// The resource is gone.
    pub fn forget(&self, kind: Kind, namespace: &str, name: &str, shown: &Shown) {
        for condition in &shown.conditions {
            self.conditions
                .remove(&condition_labels(kind, namespace, name, condition));
        }
        for (outcome, _) in shown.violations() {
            self.violations
                .remove(&violation_labels(kind, namespace, name, outcome));
        }
    }
}

/// What of a status is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    /// Type and status.
    conditions: std::collections::BTreeSet<(String, String)>,
    counts: ViolationCounts,
}

impl Shown {
    pub fn of(conditions: &[Condition], counts: Option<&ViolationCounts>) -> Self {
        Shown {
            conditions: conditions
                .iter()
                .map(|condition| (condition.type_.clone(), condition.status.clone()))
                .collect(),
            counts: counts.cloned().unwrap_or_default(),
        }
    }

    fn violations(&self) -> [(&'static str, i64); 5] {
        let ViolationCounts {
            total: _,
            hidden,
            denied,
            limited,
            unapproved,
            audited,
        } = &self.counts;
        [
            ("hidden", *hidden),
            ("denied", *denied),
            ("limited", *limited),
            ("unapproved", *unapproved),
            ("audited", *audited),
        ]
    }
}

fn condition_labels(
    kind: Kind,
    namespace: &str,
    name: &str,
    (r#type, status): &(String, String),
) -> ConditionLabels {
    ConditionLabels {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        r#type: r#type.clone(),
        status: status.clone(),
    }
}

fn violation_labels(
    kind: Kind,
    namespace: &str,
    name: &str,
    outcome: &'static str,
) -> ViolationLabels {
    ViolationLabels {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        outcome,
    }
}
