//! The metric families of the operator. Label values are names of resources, or come from enums.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::api::ViolationCounts;
use crate::api::condition::{Condition, ConditionStatus, ConditionType};
use crate::controller::names::Name;
use crate::telemetry::families::{Families, Histograms, doubling, label_value};

/// What is reconciled.
#[allow(clippy::enum_variant_names, reason = "the kinds are called so")]
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
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

label_value!(Kind);

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

/// Every family.
#[derive(Clone)]
pub struct Metrics {
    pub reconciles: Family<KindLabels, Counter>,
    pub errors: Family<KindLabels, Counter>,
    pub duration: Histograms<KindLabels>,
    pub depth: Family<KindLabels, Gauge>,
    pub requests: Family<RequestLabels, Counter>,
    pub deliveries: Counter,
    pub delivery: Histogram,
    pub leader: Gauge,
    pub resources: Resources,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let duration = || doubling(0.000_5, 16);
        let mut families = Families::new(registry, "portcullis_operator");
        let metrics = Metrics {
            reconciles: families.add(
                "reconciles",
                "Reconciliations that have ended",
                Family::default(),
            ),
            errors: families.add(
                "reconcile_errors",
                "Reconciliations that failed and are tried again",
                Family::default(),
            ),
            duration: families.seconds(
                "reconcile_duration",
                "Time that a reconciliation took",
                Family::new_with_constructor(duration),
            ),
            depth: families.add(
                "queue_depth",
                "Objects that wait to be reconciled",
                Family::default(),
            ),
            requests: families.add(
                "api_requests",
                "Requests to the API server",
                Family::default(),
            ),
            deliveries: families.add(
                "bundle_deliveries",
                "Bundles that were written",
                Counter::default(),
            ),
            delivery: families.seconds(
                "programmed",
                "Time from the writing of a bundle until every ready replica ran it",
                doubling(0.005, 16),
            ),
            leader: families.add(
                "leader",
                "Whether this replica holds the Lease",
                Gauge::default(),
            ),
            resources: Resources::default(),
        };
        registry.register_collector(Box::new(metrics.resources.clone()));
        metrics
    }
}

/// What the statuses of resources say:
/// `portcullis_resource_violations{kind,namespace,name,outcome}` and
/// `portcullis_resource_condition{kind,namespace,name,type,status}`. Kept small and written out
/// when it is scraped: there are some ten series for each of thousands of resources.
#[derive(Clone, Debug, Default)]
pub struct Resources(Arc<Mutex<BTreeMap<(Kind, Name), Shown>>>);

#[derive(Debug)]
struct Shown {
    conditions: Box<[(ConditionType, ConditionStatus)]>,
    counts: ViolationCounts,
}

impl Resources {
    /// Shows what a resource's status says from now on.
    pub fn show(
        &self,
        kind: Kind,
        name: &Name,
        conditions: &[Condition],
        counts: Option<&ViolationCounts>,
    ) {
        let known = |condition: &Condition| {
            let kind = ConditionType::ALL
                .iter()
                .find(|one| one.as_str() == condition.type_)?;
            let status = ConditionStatus::ALL
                .iter()
                .find(|one| one.as_str() == condition.status)?;
            Some((*kind, *status))
        };
        let shown = Shown {
            conditions: conditions.iter().filter_map(known).collect(),
            counts: counts.cloned().unwrap_or_default(),
        };
        self.0.lock().insert((kind, name.clone()), shown);
    }

    /// The resource is gone.
    pub fn forget(&self, kind: Kind, name: &Name) {
        self.0.lock().remove(&(kind, name.clone()));
    }
}

impl Collector for Resources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let all = self.0.lock();
        let mut violations = encoder.encode_descriptor(
            "portcullis_resource_violations",
            "Violations in the status of the resource",
            None,
            MetricType::Gauge,
        )?;
        for ((kind, (namespace, name)), shown) in all.iter() {
            for (outcome, count) in shown.violations() {
                let labels = [
                    ("kind", kind.as_str()),
                    ("namespace", namespace.as_str()),
                    ("name", name.as_str()),
                    ("outcome", outcome),
                ];
                ConstGauge::new(count).encode(violations.encode_family(&labels)?)?;
            }
        }
        let mut conditions = encoder.encode_descriptor(
            "portcullis_resource_condition",
            "1 for the status that a condition of the resource has",
            None,
            MetricType::Gauge,
        )?;
        for ((kind, (namespace, name)), shown) in all.iter() {
            for (condition, status) in &shown.conditions {
                let labels = [
                    ("kind", kind.as_str()),
                    ("namespace", namespace.as_str()),
                    ("name", name.as_str()),
                    ("type", condition.as_str()),
                    ("status", status.as_str()),
                ];
                ConstGauge::new(1_i64).encode(conditions.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

impl Shown {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::condition::{Reason, condition};

    #[test]
    fn what_a_status_says_is_shown_until_its_resource_is_gone() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let now = crate::api::Time(jiff::Timestamp::UNIX_EPOCH);
        let mut conditions = vec![condition(
            ConditionType::Ready,
            ConditionStatus::True,
            Reason::Ready,
            String::new(),
            Some(1),
            &[],
            &now,
        )];
        // One of another writer's is not shown: it could be anything.
        let mut foreign = conditions[0].clone();
        foreign.type_ = "Foreign".to_owned();
        conditions.push(foreign);
        let counts = ViolationCounts {
            total: 3,
            denied: 2,
            audited: 1,
            ..ViolationCounts::default()
        };
        let name = ("ml".to_owned(), "m".to_owned());
        metrics
            .resources
            .show(Kind::McpServer, &name, &conditions, Some(&counts));
        metrics
            .reconciles
            .get_or_create(&KindLabels {
                kind: Kind::McpPolicy,
            })
            .inc();
        let shown = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        let text = shown();
        let of = r#"kind="McpServer",namespace="ml",name="m""#;
        for line in [
            format!(r#"portcullis_resource_violations{{{of},outcome="denied"}} 2"#),
            format!(r#"portcullis_resource_violations{{{of},outcome="hidden"}} 0"#),
            format!(r#"portcullis_resource_condition{{{of},type="Ready",status="True"}} 1"#),
            r#"portcullis_operator_reconciles_total{kind="McpPolicy"} 1"#.to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(!text.contains("Foreign"));
        metrics.resources.forget(Kind::McpServer, &name);
        assert!(!shown().contains("outcome="));
        assert_eq!(Kind::McpApproval.as_str(), "McpApproval");
    }
}
