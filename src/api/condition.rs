//! Conditions: their types and reasons, as closed sets.
//!
//! In: the facts about an object. Out: Kubernetes conditions. Types and reasons come from enums,
//! never from free text, so that alerts and scripts can rely on them. Must not do: decide what is
//! true.

use super::Time;
use std::fmt;

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// Every value.
            pub const ALL: &[$name] = &[$($name::$variant),+];

            /// The name as it is written in a status.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => stringify!($variant)),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

named! {
    /// True, False or Unknown.
    ConditionStatus {
        /// The statement is true.
        True,
        /// The statement is false.
        False,
        /// Not known yet.
        Unknown,
    }
}

named! {
    /// The statement that a condition makes.
    ConditionType {
        /// The spec is valid and can be enforced.
        Accepted,
        /// The latest reported listing of tools succeeded.
        UpstreamReady,
        /// Every policy that targets the server is accepted there.
        PoliciesAccepted,
        /// Callers must authenticate.
        Authenticated,
        /// Refusals are enforced, not only recorded.
        Enforced,
        /// Limits survive a restart of the gateway.
        LimitsDurable,
        /// Every ready replica runs the revision in the status.
        Programmed,
        /// Everything that serving calls needs is present.
        Ready,
        /// Others change the operator's objects of the server; present only while True.
        Tampered,
        /// Requests for approval cannot be announced; present only while True.
        NotifyFailing,
        /// Rules of the policy are valid but probably do not do what their author means; present
        /// only while True.
        Doubtful,
        /// The operator has not finished applying the spec (kstatus).
        Reconciling,
        /// The operator cannot continue until something changes (kstatus).
        Stalled,
    }
}

named! {
    /// Why a condition has its status.
    Reason {
        /// The object is valid.
        Accepted,
        /// An object with a child's name belongs to another owner.
        NameConflict,
        /// The spec cannot be compiled.
        Invalid,
        /// The limits need counters that replicas share.
        SharedCountersNeeded,
        /// The policies of one server do not fit into one object.
        BundleTooLarge,
        /// The policies of one server have more patterns than one server may have.
        TooManyPatterns,
        /// A rule selects no known tool, is written for another matcher, or nothing is allowed.
        RulesDoubtful,
        /// The policy is being deleted.
        Deleting,
        /// A policy is not accepted at the server.
        PolicyNotAccepted,
        /// A policy that has never been accepted closes the server: every call is refused.
        Closed,
        /// No policy allows anything at the server.
        NothingAllowed,
        /// A server that the policy names does not exist.
        TargetNotFound,
        /// A Secret or a key in it is missing.
        SecretMissing,
        /// Calls are refused because they cannot be recorded.
        AuditFailing,
        /// The tools were listed.
        Listed,
        /// The upstream did not answer.
        Unreachable,
        /// Authentication is configured.
        Configured,
        /// Anyone may call.
        Anonymous,
        /// An API key is refused because it is too short.
        KeyTooShort,
        /// API keys are refused because several grants have the same.
        KeyNotUnique,
        /// Tokens of an issuer are refused because its keys are missing.
        KeysUnavailable,
        /// Every caller is refused because no authentication is configured.
        NoAuthentication,
        /// Refusals are enforced.
        Enforcing,
        /// Refusals are only recorded.
        AuditMode,
        /// There is no limit to keep.
        NoLimits,
        /// Counters are kept outside the gateway.
        Shared,
        /// Counters are kept in a journal that survives the gateway.
        Journal,
        /// Counters are lost with the gateway's pod.
        PodLocal,
        /// Several gateways count, each on its own.
        LocalCounters,
        /// Limits cannot be counted.
        CountersUnavailable,
        /// A webhook does not accept announcements.
        WebhookFailing,
        /// Every ready replica runs the revision.
        Programmed,
        /// Not every ready replica runs the revision yet.
        Delivering,
        /// No replica is ready.
        NoReadyReplica,
        /// A gateway refused the bundle.
        BundleRejected,
        /// Another writer changed the operator's objects.
        ForeignChange,
        /// Nothing has been reported yet.
        Pending,
        /// Everything that is needed is present.
        Ready,
    }
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds {
            ConditionStatus::True
        } else {
            ConditionStatus::False
        }
    }
}

/// Builds one condition. `lastTransitionTime` is the previous one's unless the status changed, as
/// `metav1.Condition` defines it.
pub fn condition(
    kind: ConditionType,
    status: ConditionStatus,
    reason: Reason,
    message: impl Into<String>,
    generation: Option<i64>,
    previous: &[Condition],
    now: &Time,
) -> Condition {
    let before = previous
        .iter()
        .find(|c| c.type_ == kind.as_str() && c.status == status.as_str());
    Condition {
        type_: kind.as_str().to_owned(),
        status: status.as_str().to_owned(),
        reason: reason.as_str().to_owned(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: before
            .map_or_else(|| now.clone(), |c| c.last_transition_time.clone()),
    }
}
