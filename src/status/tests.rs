//! Statuses as whole values: servers, policies, and the accounts of what gateways report.

mod ledgers;
mod policies;
mod reports;
mod servers;

use super::{
    accounting::{self, Ledger},
    policy,
    report::*,
    server::{self, Refusal, Replica},
};
use crate::api::{
    ViolationCounts, ViolationOutcome,
    condition::{Condition, Reason},
    policy::{McpPolicy, TargetCounts},
    server::{McpServer, McpServerStatus, ReplicaCounts},
};
use crate::policy::{
    acceptance::Place,
    bundle::{Bundle, BundlePolicy, BundleServer},
    diagnostic::{Diagnostic, Level},
};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Lends for the rest of the test run, so that inputs can be changed by closures.
fn keep<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + second).unwrap()
}

fn server_with(extra: Value) -> McpServer {
    let mut object = json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
        "metadata": { "name": "mlflow", "namespace": "ml", "generation": 3 },
        "spec": {
            "upstream": { "http": { "url": "http://a/mcp" } },
            "authentication": { "apiKeys": { "secretRef": { "name": "agents" } } }
        }
    });
    for (key, value) in extra.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

fn policy_with(rules: Value) -> McpPolicy {
    serde_json::from_value(json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpPolicy",
        "metadata": { "name": "base", "namespace": "ml", "generation": 1, "uid": "p1" },
        "spec": { "targetRefs": [{ "group": "portcullis.dev", "kind": "McpServer", "name": "mlflow" }], "rules": rules }
    }))
    .unwrap()
}

fn bundle_of(server: &McpServer, policies: &[&McpPolicy]) -> Bundle {
    Bundle {
        format: 1,
        sequence: 1,
        revision: "r2".to_owned(),
        server: BundleServer {
            namespace: "ml".to_owned(),
            name: "mlflow".to_owned(),
            uid: "u".to_owned(),
            spec: server.spec.clone(),
        },
        policies: policies
            .iter()
            .map(|policy| BundlePolicy {
                namespace: "ml".to_owned(),
                name: policy.metadata.name.clone().unwrap(),
                uid: "p1".to_owned(),
                generation: 1,
                spec: policy.spec.clone(),
                not_accepted: None,
            })
            .collect(),
        blocked: Vec::new(),
        issuers: Vec::new(),
        signature: None,
        report_token_sha256: None,
        rules: String::new(),
    }
}

fn tool(name: &str, visible: bool) -> ReportedTool {
    ReportedTool {
        name: name.to_owned(),
        digest: "sha256:0".to_owned(),
        visible,
        unclassified: name == "x",
        drifted: name == "y",
        withheld: None,
    }
}

fn counted(rule: &str, outcome: ViolationOutcome, count: u64, second: i64) -> ReportedCount {
    ReportedCount {
        namespace: "ml".to_owned(),
        policy: "base".to_owned(),
        policy_uid: "p1".to_owned(),
        rule: rule.to_owned(),
        outcome,
        count,
        last_time: at(second),
    }
}

fn violation(rule: &str, second: i64) -> ReportedViolation {
    ReportedViolation {
        time: at(second),
        tool: "delete_run".to_owned(),
        grant: "key:ci".to_owned(),
        namespace: "ml".to_owned(),
        policy: "base".to_owned(),
        policy_uid: "p1".to_owned(),
        rule: rule.to_owned(),
        outcome: ViolationOutcome::Hidden,
    }
}

fn report() -> Report {
    Report {
        instance: "i1".to_owned(),
        revision: Some("r2".to_owned()),
        sequence: Some(2),
        calls: 9,
        violations: vec![counted("deletions", ViolationOutcome::Hidden, 2, 5)],
        recent: vec![violation("deletions", 5)],
        tools: vec![
            tool("a", true),
            tool("b", false),
            tool("x", true),
            tool("y", true),
        ],
        missing_secret_keys: Vec::new(),
        refused_keys: Vec::new(),
        equal_keys: Vec::new(),
        issuer_faults: Vec::new(),
        bundle_error: None,
        listing: Some(ReportedListing {
            time: at(1),
            error: None,
        }),
        upstream_note: None,
        audit_error: None,
        counters_error: None,
        webhook_faults: Vec::new(),
    }
}

fn status_of(
    server: &McpServer,
    report: Option<&Report>,
    change: impl FnOnce(&mut server::Inputs<'static>),
) -> McpServerStatus {
    let server = keep(server.clone());
    let report = report.map(|report| keep(report.clone()));
    let policy = policy_with(json!([
        { "name": "deletions", "tools": { "risks": ["Destructive"] }, "action": "Hide" },
        { "name": "reads", "tools": { "risks": ["Read"] }, "action": "Allow" },
    ]));
    let mut ledger = Ledger::default();
    report.iter().for_each(|report| ledger.observe(report));
    let mut inputs = server::Inputs {
        server,
        refusal: None,
        bundle: Some(keep(bundle_of(server, &[&policy]))),
        tampered: None,
        url: Some("http://127.0.0.1:8080/mlflow/mcp"),
        desired: 1,
        replicas: keep([Replica {
            ready: true,
            report,
        }]),
        look: None,
        place: Place::Cluster,
        trouble: None,
        upstream_trouble: None,
        ledger: keep(ledger),
        previous: None,
        now: at(10),
    };
    change(&mut inputs);
    server::status(&inputs)
}

/// Conditions as `Type=Status Reason`.
fn short(conditions: &[Condition]) -> Vec<String> {
    conditions
        .iter()
        .map(|c| format!("{}={} {}", c.type_, c.status, c.reason))
        .collect()
}
