//! A policy's status against a scripted API server.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::*;
use crate::controller::testing::{TestOperator, condition, http, mcp_policy, mcp_server};
use crate::scripted_api::{Exchange, Script, answer, echo, refusal};
use crate::status::accounting::Account;
use crate::status::report::{Report, ReportedCount};

fn name() -> Name {
    ("ml".to_owned(), "p".to_owned())
}

fn put() -> Exchange {
    echo(Method::PUT, &["/namespaces/ml/mcppolicies/p/status"])
}

/// A policy that targets a server which was reconciled.
fn operator(script: &Script, when: &str) -> TestOperator {
    let operator = TestOperator::new(script);
    operator.policy(&mcp_policy("ml", "p", "m", when));
    operator.server(&mcp_server("m", 1, &http()));
    let memory = operator
        .ctx
        .memory
        .servers
        .of(&crate::controller::testing::name(), "uid-of-m");
    memory.lock().reconciled_once = true;
    operator
}

fn sent(script: &Script) -> Value {
    script.asked().last().unwrap().1.clone()
}

/// The server's ledger has that many violations of the policy.
fn counted(operator: &TestOperator, count: u64) {
    let mut ledger = Ledger::default();
    let violation = ReportedCount {
        namespace: "ml".to_owned(),
        policy: "p".to_owned(),
        policy_uid: "uid-of-p".to_owned(),
        rule: "r".to_owned(),
        outcome: crate::api::ViolationOutcome::Denied,
        count,
        last_time: Timestamp::UNIX_EPOCH,
    };
    let report = Report {
        violations: vec![violation],
        ..Report::default()
    };
    ledger.take("pod/run", Account::of(&report));
    let memory = operator
        .ctx
        .memory
        .servers
        .of(&crate::controller::testing::name(), "uid-of-m");
    memory.lock().ledger = Some(("5".to_owned(), Arc::new(ledger)));
}

#[tokio::test(start_paused = true)]
async fn a_policy_says_whether_it_is_accepted_and_then_is_left_alone() {
    for (when, status) in [("true", "True"), ("args.", "False")] {
        let script = Script::new(vec![put()]);
        let operator = operator(&script, when);
        assert_eq!(
            reconcile(&operator.ctx, &name()).await.unwrap(),
            Action::AwaitChange
        );
        assert_eq!(condition(&sent(&script), "Accepted")["status"], status);
        // The same status once more causes no write, although the caches still have the one before.
        assert_eq!(
            reconcile(&operator.ctx, &name()).await.unwrap(),
            Action::AwaitChange
        );
    }
}

#[tokio::test(start_paused = true)]
async fn counts_alone_are_written_every_ten_seconds() {
    let script = Script::new(vec![put(), put()]);
    let operator = operator(&script, "true");
    reconcile(&operator.ctx, &name()).await.unwrap();
    counted(&operator, 3);
    tokio::time::advance(Duration::from_secs(4)).await;
    let again = reconcile(&operator.ctx, &name()).await.unwrap();
    assert_eq!(again, Action::RequeueAfter(Duration::from_secs(6)));
    tokio::time::advance(Duration::from_secs(6)).await;
    reconcile(&operator.ctx, &name()).await.unwrap();
    assert_eq!(sent(&script)["status"]["violations"]["total"], 3);
}

#[tokio::test(start_paused = true)]
async fn a_status_that_cannot_be_written_is_tried_again() {
    let failures = [
        (409, "Conflict", true),
        (403, "Forbidden", false),
        (500, "InternalError", false),
    ];
    for (code, reason, conflict) in failures {
        let refused = answer(
            Method::PUT,
            &["/mcppolicies/p/status"],
            code,
            refusal(code, reason),
        );
        let script = Script::new(vec![refused]);
        let operator = operator(&script, "true");
        let error = reconcile(&operator.ctx, &name()).await.unwrap_err();
        assert_eq!(
            matches!(error, WriteError::Conflict { .. }),
            conflict,
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_policy_waits_for_its_servers_and_one_that_is_gone_is_forgotten() {
    let script = Script::new(Vec::new());
    let operator = operator(&script, "true");
    operator
        .ctx
        .memory
        .servers
        .forget(&crate::controller::testing::name());
    assert_eq!(
        reconcile(&operator.ctx, &name()).await.unwrap(),
        Action::AwaitChange
    );
    // A namesake of the server that was reconciled.
    operator
        .ctx
        .memory
        .servers
        .of(&crate::controller::testing::name(), "another");
    assert_eq!(
        reconcile(&operator.ctx, &name()).await.unwrap(),
        Action::AwaitChange
    );
    let mut leaving = mcp_policy("ml", "p", "m", "true");
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    operator.policy(&leaving);
    assert_eq!(
        reconcile(&operator.ctx, &name()).await.unwrap(),
        Action::AwaitChange
    );
    let gone = ("ml".to_owned(), "gone".to_owned());
    operator.ctx.memory.policies.of(&gone, "u");
    assert_eq!(
        reconcile(&operator.ctx, &gone).await.unwrap(),
        Action::AwaitChange
    );
    assert!(operator.ctx.memory.policies.known(&gone).is_none());
}
