//! The metric families of the data plane. Label values come from enums, from the bundle in force,
//! or are fixed.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

use super::authentication_failure::AuthenticationFailure;
use super::outcome::Outcome;
use crate::telemetry::families::{Families, Histograms, doubling, label_value};

/// Labels of `portcullis_decisions_total`. Policies and rules are those of bundles, so bounded by
/// what was applied.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct DecisionLabels {
    /// `namespace/name` of the McpServer.
    pub server: String,
    /// What became of the call.
    pub outcome: Outcome,
    /// The deciding policy, empty where none did.
    pub policy: String,
    /// The deciding rule, empty where none did.
    pub rule: String,
}

/// Labels of the families that are kept for each server.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ServerLabels {
    /// `namespace/name` of the McpServer.
    pub server: String,
}

/// Labels of `portcullis_bundle_info`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct BundleLabels {
    /// `namespace/name` of the McpServer.
    pub server: String,
    /// The revision in force.
    pub revision: String,
}

/// Labels of `portcullis_limit_used_ratio`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct LimitLabels {
    /// `namespace/name` of the McpServer.
    pub server: String,
    /// `namespace/name` of the policy.
    pub policy: String,
    /// The counter's name in the policy.
    pub counter: String,
}

/// Labels of `portcullis_authentication_failures_total`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct AuthenticationFailureLabels {
    /// `namespace/name` of the McpServer.
    pub server: String,
    /// Why.
    pub reason: AuthenticationFailure,
}

label_value!(Outcome);
label_value!(AuthenticationFailure);

/// A histogram for each server.
pub type ServerHistograms = Histograms<ServerLabels>;

/// All families of the data plane; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Decisions by outcome, policy and rule.
    pub decisions: Family<DecisionLabels, Counter>,
    /// Requests that were answered 401 or 403 before a caller was known.
    pub authentication_failures: Family<AuthenticationFailureLabels, Counter>,
    /// From the request's head to the answer's.
    pub request_duration: ServerHistograms,
    /// The engine alone.
    pub evaluation: ServerHistograms,
    /// From sending to the upstream's answer.
    pub upstream_duration: ServerHistograms,
    /// The fullest key of each counter, 0 to 1.
    pub limit_used: Family<LimitLabels, Gauge<f64, AtomicU64>>,
    /// Always 1, for the revision in force.
    pub bundle_info: Family<BundleLabels, Gauge>,
    /// Bundles refused.
    pub bundle_errors: Family<ServerLabels, Counter>,
    /// Requests for approval that wait for people.
    pub approvals_pending: Family<ServerLabels, Gauge>,
    /// How long the oldest of them has waited.
    pub approvals_oldest: Family<ServerLabels, Gauge<f64, AtomicU64>>,
    /// From a request to each decision on it.
    pub approval_decisions: ServerHistograms,
    /// Streams open to clients now.
    pub active_streams: Family<ServerLabels, Gauge>,
    /// 1 while the audit log cannot be written.
    pub audit_failing: Gauge,
    /// Lines of the audit log that were dropped.
    pub audit_lost: Counter,
}

impl Metrics {
    /// Makes the families and registers them under `portcullis_`.
    pub fn register(registry: &mut Registry) -> Self {
        // 50 µs to 26 s; for the engine 0.25 µs to 8 ms.
        let wide: fn() -> Histogram = || doubling(0.000_05, 20);
        let narrow: fn() -> Histogram = || doubling(0.000_000_25, 16);
        // 1 s to 9 h.
        let slow: fn() -> Histogram = || doubling(1.0, 16);
        let mut families = Families::new(registry, "portcullis");
        Metrics {
            decisions: families.add(
                "decisions",
                "Decisions by outcome, policy and rule",
                Family::default(),
            ),
            authentication_failures: families.add(
                "authentication_failures",
                "Requests that were answered 401 or 403, by reason",
                Family::default(),
            ),
            request_duration: families.seconds(
                "request_duration",
                "From the end of a request's head to the start of its answer",
                Family::new_with_constructor(wide),
            ),
            evaluation: families.seconds(
                "policy_evaluation",
                "Time in the policy engine",
                Family::new_with_constructor(narrow),
            ),
            upstream_duration: families.seconds(
                "upstream_duration",
                "From sending a request upstream to its answer",
                Family::new_with_constructor(wide),
            ),
            limit_used: families.add(
                "limit_used_ratio",
                "Use of the fullest key of a counter, 0 to 1",
                Family::default(),
            ),
            bundle_info: families.add(
                "bundle_info",
                "1 for the bundle revision in force",
                Family::default(),
            ),
            bundle_errors: families.add(
                "bundle_errors",
                "Bundles that were refused",
                Family::default(),
            ),
            approvals_pending: families.add(
                "approvals_pending",
                "Requests for approval that wait for people",
                Family::default(),
            ),
            approvals_oldest: families.seconds(
                "approvals_oldest",
                "How long the oldest request for approval has waited, 0 if none waits",
                Family::default(),
            ),
            approval_decisions: families.seconds(
                "approval_decision",
                "From a request for approval to a person's decision",
                Family::new_with_constructor(slow),
            ),
            active_streams: families.add(
                "active_streams",
                "Streams open to clients",
                Family::default(),
            ),
            audit_failing: families.add(
                "audit_failing",
                "1 while the audit log cannot be written",
                Gauge::default(),
            ),
            audit_lost: families.add(
                "audit_lost_records",
                "Lines of the audit log that were dropped because it could not be written",
                Counter::default(),
            ),
        }
    }
}
