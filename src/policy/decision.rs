//! The input and output types of the engine.
//!
//! In: a [`Call`] by a [`Caller`]. Out: a [`Decision`] with everything that the gateway needs to
//! act on it. Must not do: know the wire format.

use super::observed::Reading;
use crate::api::policy::Scope;
use serde::Serialize;
use std::borrow::{Borrow, Cow};
use std::hash::{Hash, Hasher};
use std::{fmt, sync::Arc, time::Duration};

/// Rule name under which default actions are attributed.
pub const DEFAULT_RULE: &str = "(default)";
/// Rule name under which a policy that was never accepted denies.
pub const BLOCKED_RULE: &str = "(blocked)";
/// Rule name for what the server's own configuration refuses: pins, duplicates, schemas.
pub const INVENTORY_RULE: &str = "(inventory)";
/// The rule under which calls of callers without a credential at the server are counted.
pub const CREDENTIALS_RULE: &str = "(credentials)";
/// Policy name where no policy is involved.
pub const NO_POLICY: &str = "(none)";

/// A rule, with the policy that holds it. The order is that of attribution: guardrails first, then
/// namespace, name, rule. Who writes policies beside a server must not be able to name one so that
/// a guardrail's refusals count as its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleId {
    /// Namespace of the policy.
    pub namespace: String,
    /// Name of the policy.
    pub policy: String,
    /// Name of the rule, or one of the names in parentheses.
    pub rule: String,
    /// Whether the policy is named with its namespace, as it is not in the server's own.
    pub qualified: bool,
    /// UID of the policy; empty where no policy is involved. What is counted under a rule stays
    /// with the policy that it was decided by, whatever policy has that name later.
    #[serde(skip)]
    pub uid: Arc<str>,
}

impl Ord for RuleId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |id: &Self| std::cmp::Reverse(id.qualified);
        let RuleId {
            namespace,
            policy,
            rule,
            qualified: _,
            uid,
        } = self;
        key(self)
            .cmp(&key(other))
            .then_with(|| namespace.cmp(&other.namespace))
            .then_with(|| policy.cmp(&other.policy))
            .then_with(|| rule.cmp(&other.rule))
            .then_with(|| uid.cmp(&other.uid))
    }
}

impl PartialOrd for RuleId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl RuleId {
    /// The policy as messages name it: `name`, or `namespace/name` if it could be confused with
    /// another namespace's.
    pub fn policy_label(&self) -> Cow<'_, str> {
        if self.qualified {
            Cow::Owned(format!("{}/{}", self.namespace, self.policy))
        } else {
            Cow::Borrowed(&self.policy)
        }
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy {}, rule {}", self.policy_label(), self.rule)
    }
}

/// How a caller was recognized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CallerKind {
    /// A Kubernetes service account.
    ServiceAccount,
    /// A JWT of a configured provider.
    Jwt,
    /// A named API key.
    Key,
    /// No credential.
    Anonymous,
}

impl CallerKind {
    /// The value of `caller.kind`, equal to the prefix of the grant's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            CallerKind::ServiceAccount => "serviceaccount",
            CallerKind::Jwt => "jwt",
            CallerKind::Key => "key",
            CallerKind::Anonymous => "anonymous",
        }
    }
}

/// The caller.
#[derive(Clone, Debug, PartialEq)]
pub struct Caller {
    /// `serviceaccount:<ns>/<name>`, `jwt:<provider>/<claim>`, `key:<name>` or `anonymous`.
    pub grant: String,
    /// How the caller was recognized.
    pub kind: CallerKind,
    /// Groups of the identity.
    pub groups: Vec<String>,
    /// Claims of its token.
    pub claims: serde_json::Map<String, serde_json::Value>,
}

impl Caller {
    /// A caller without a credential.
    pub fn anonymous() -> Self {
        Self {
            grant: "anonymous".to_owned(),
            kind: CallerKind::Anonymous,
            groups: Vec::new(),
            claims: Default::default(),
        }
    }

    /// The holder of a named API key.
    pub fn key(name: &str) -> Self {
        Self {
            grant: format!("key:{name}"),
            kind: CallerKind::Key,
            ..Self::anonymous()
        }
    }
}

/// One call of a tool.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Name of the tool.
    pub tool: &'a str,
    /// The arguments as they came, one JSON object; empty if the call has none.
    pub arguments: &'a [u8],
    /// The caller.
    pub caller: &'a Caller,
    /// The session, "" without one.
    pub session: &'a str,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Outcome {
    /// Forward it, once its charges are reserved.
    Allow,
    /// Forward it once a person has approved it, and its charges are reserved.
    RequireApproval,
    /// The arguments are not as the tool's schema says. Not a violation.
    BadArguments,
    /// Refuse it and say why.
    Deny(Denial),
    /// The tool exists, but not for this caller: answer as if it did not.
    Hide,
    /// The tool does not exist. Not a violation.
    Unknown,
}

/// Why a call is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Denial {
    /// A Deny rule, or a default of Deny.
    Rule,
    /// The tool is visible, but no rule allows these arguments.
    NotAllowed,
    /// The condition of an Allow rule could not be evaluated.
    ConditionError,
    /// The cost of a limit could not be evaluated, or is not a count.
    CostError,
    /// What the rule observes could not be evaluated.
    ObserveError,
    /// A policy for this server was never accepted.
    Blocked,
    /// Only a policy that is not accepted at this server would let it through.
    NotAccepted,
    /// No Enforce policy is in force for this server.
    NoPolicy,
}

impl Outcome {
    /// How strict the outcome is; shadows are recorded where theirs is stricter.
    pub fn strictness(self) -> u8 {
        match self {
            Outcome::Allow => 0,
            Outcome::RequireApproval => 1,
            Outcome::BadArguments => 2,
            Outcome::Deny(_) => 3,
            Outcome::Hide | Outcome::Unknown => 4,
        }
    }

    /// Whether answering this is counted as a violation: bad arguments and unknown names are not.
    pub fn is_violation(self) -> bool {
        matches!(
            self,
            Outcome::RequireApproval | Outcome::Deny(_) | Outcome::Hide
        )
    }
}

/// A counter, as the rules of one policy share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Counter {
    /// UID of the server.
    pub server: Arc<str>,
    /// Namespace of the policy.
    pub namespace: String,
    /// Name of the policy.
    pub policy: String,
    /// Name of the counter.
    pub name: String,
    /// Units in any window.
    pub max: u64,
    /// Length of the window.
    pub window: Duration,
    /// The window as written in the policy, for messages.
    pub window_text: String,
    /// What has a counter of its own, as the policy says.
    pub scope: Scope,
    /// Counts calls in the shadow only. Never the same counter as an enforced one.
    pub shadow: bool,
}

/// What a count is kept under: server UID, policy, counter, scope and its value. Policy edits do
/// not change it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CounterKey {
    /// UID of the server.
    pub server: Arc<str>,
    /// Namespace of the policy.
    pub namespace: String,
    /// Name of the policy.
    pub policy: String,
    /// Name of the counter.
    pub counter: String,
    /// The scope; Session counts as Grant where there is no session.
    pub scope: Scope,
    /// Value of the scope: the grant, the session, or "" for the server.
    pub value: String,
    /// Whether this is the count of shadow decisions.
    pub shadow: bool,
}

/// Units to reserve before the call is forwarded.
#[derive(Clone, Debug, PartialEq)]
pub struct Charge {
    /// The counter's settings.
    pub counter: Arc<Counter>,
    /// Session where the policy says so and there is one, else as the policy says.
    pub scope: Scope,
    /// Value of the scope.
    pub value: String,
    /// Units, at least 1.
    pub cost: u64,
    /// The smallest rule that asks for it.
    pub by: Arc<RuleId>,
    /// What its author says of it.
    pub reason: Option<Arc<str>>,
}

/// What tells one count from another. Maps from [`CounterKey`]s are searched by it, so that finding
/// the count of a [`Charge`] copies no text.
pub trait CounterName {
    /// The fields of the key.
    fn parts(&self) -> CounterParts<'_>;
}

/// The fields of a [`CounterKey`].
#[derive(PartialEq, Eq)]
pub struct CounterParts<'a> {
    pub value: &'a str,
    pub counter: &'a str,
    pub policy: &'a str,
    pub namespace: &'a str,
    pub server: &'a str,
    pub scope: Scope,
    pub shadow: bool,
}

impl CounterName for CounterKey {
    fn parts(&self) -> CounterParts<'_> {
        CounterParts {
            value: &self.value,
            counter: &self.counter,
            policy: &self.policy,
            namespace: &self.namespace,
            server: &self.server,
            scope: self.scope,
            shadow: self.shadow,
        }
    }
}

impl CounterName for Charge {
    fn parts(&self) -> CounterParts<'_> {
        CounterParts {
            value: &self.value,
            counter: &self.counter.name,
            policy: &self.counter.policy,
            namespace: &self.counter.namespace,
            server: &self.counter.server,
            scope: self.scope,
            shadow: self.counter.shadow,
        }
    }
}

impl PartialEq for dyn CounterName + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn CounterName + '_ {}

impl Hash for dyn CounterName + '_ {
    /// Over the fields that tell most counts of one server apart.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let parts = self.parts();
        (parts.value, parts.counter, parts.policy).hash(state);
    }
}

impl Hash for CounterKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self as &dyn CounterName).hash(state);
    }
}

impl<'a> Borrow<dyn CounterName + 'a> for CounterKey {
    fn borrow(&self) -> &(dyn CounterName + 'a) {
        self
    }
}

impl CounterKey {
    /// Whether equal calls are counted.
    pub fn counts_calls(&self) -> bool {
        self.scope == Scope::Call
    }
}

impl Charge {
    /// Whether equal calls are counted.
    pub fn counts_calls(&self) -> bool {
        self.scope == Scope::Call
    }

    /// What the count is kept under.
    pub fn key(&self) -> CounterKey {
        CounterKey {
            server: Arc::clone(&self.counter.server),
            namespace: self.counter.namespace.clone(),
            policy: self.counter.policy.clone(),
            counter: self.counter.name.clone(),
            scope: self.scope,
            value: self.value.clone(),
            shadow: self.counter.shadow,
        }
    }

    /// Whether an exhausted counter refuses the call; otherwise it only counts as `audited`.
    pub fn enforced(&self) -> bool {
        !self.counter.shadow
    }
}

/// What a call needs approval for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovalDemand {
    /// All matching RequireApproval rules, in order of attribution.
    pub rules: Vec<Arc<RuleId>>,
    /// How long a request stays open: the shortest of the rules'.
    pub expires_after: Duration,
    /// How long the call is held: the shortest of the rules'.
    pub wait_up_to: Duration,
    /// How many people must approve: the most of the rules'.
    pub approvers: i64,
    /// The arguments that guardrails among them hide from the approver, instead of those that the
    /// server's spec hides: what all of them keep. None without a guardrail.
    pub guardrails_redact: Option<Vec<String>>,
    /// What the other rules keep from that person, beside what the server's spec keeps.
    pub redact: Vec<String>,
    /// What is read before a person is asked, and again before the call is forwarded.
    pub observe: Option<Observation>,
}

/// A read of the state that a call changes, with its arguments for this call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The tool that reads.
    pub tool: String,
    /// Its arguments, one JSON object with sorted keys.
    pub arguments: String,
    /// How its result is read.
    pub reading: Reading,
}

impl ApprovalDemand {
    /// The JSON pointers to what is not shown. Who writes the server's spec cannot hide from a
    /// guardrail's approver what the guardrail asks about.
    pub fn hidden<'a>(&'a self, servers: &'a [String]) -> Cow<'a, [String]> {
        match &self.guardrails_redact {
            Some(redact) => Cow::Borrowed(redact),
            None if self.redact.is_empty() => Cow::Borrowed(servers),
            None => Cow::Owned([servers, &self.redact].concat()),
        }
    }
}

/// What Enforce and Audit rules together would have done, where that is stricter.
#[derive(Clone, Debug, PartialEq)]
pub struct Shadow {
    /// What would have become of the call. It counts as `audited` if this is a violation and the
    /// call is forwarded.
    pub outcome: Outcome,
    /// The rule that would have decided.
    pub by: Arc<RuleId>,
    /// Why.
    pub reason: Option<Arc<str>>,
}

/// What the engine says about a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What becomes of the call.
    pub outcome: Outcome,
    /// The smallest of the strictest matching rules; `(default)` and the like where there is none.
    pub by: Arc<RuleId>,
    /// The text for the agent: the rule's reason, or what went wrong.
    pub reason: Option<Arc<str>>,
    /// Units to reserve before the call is forwarded, shadow counters included. Empty unless
    /// allowed or approvable.
    pub charges: Vec<Charge>,
    /// Set with [`Outcome::RequireApproval`], and only then.
    pub approval: Option<Box<ApprovalDemand>>,
    /// What would have been done in Audit, where that is stricter than `outcome`.
    pub shadow: Option<Box<Shadow>>,
}
