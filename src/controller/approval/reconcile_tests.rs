//! An approval's phase and its removal against a scripted API server.

use http::Method;
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::*;
use crate::controller::testing::{TestOperator, bring};
use crate::scripted_api::{Exchange, Script, answer, echo, refusal};

fn name() -> Name {
    ("ml".to_owned(), "ask".to_owned())
}

/// A request that expires after that many hours, which may be past.
fn operator(script: &Script, hours: i64, more: &Value) -> TestOperator {
    let operator = TestOperator::new(script);
    let expires = Timestamp::now() + SignedDuration::from_hours(hours);
    let mut object = json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpApproval",
        "metadata": {"namespace": "ml", "name": "ask", "uid": "u", "resourceVersion": "7"},
        "spec": {
            "serverRef": {"name": "m"}, "grant": "g", "tool": "t", "argumentsDigest": "d", "argumentsPreview": "{}",
            "policy": "p", "rule": "r", "requestedAt": "2001-01-01T00:00:00Z", "expiresAt": expires.to_string(),
        },
    });
    object
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    bring(&operator.ctx.caches.approvals, &object);
    operator
}

fn removal(code: u16) -> Exchange {
    let body = match code {
        200 => json!({"kind": "Status", "status": "Success"}),
        _ => refusal(code, "Reason"),
    };
    answer(Method::DELETE, &["/mcpapprovals/ask"], code, body)
}

#[tokio::test]
async fn a_request_gets_its_phase_and_is_looked_at_again_when_it_expires() {
    let put = || Method::PUT;
    let script = Script::new(vec![echo(put(), &["/mcpapprovals/ask/status"])]);
    let operator = operator(&script, 1, &json!({}));
    let again = reconcile(&operator.ctx, &name()).await.unwrap();
    assert!(
        matches!(again, Action::RequeueAfter(wait) if wait > Duration::from_secs(3_500)),
        "{again:?}"
    );
    let (_, sent) = script.asked().remove(0);
    assert_eq!(
        (
            &sent["status"]["phase"],
            &sent["metadata"]["resourceVersion"]
        ),
        (&json!("Pending"), &json!("7"))
    );
    // As it should be.
    let script = Script::new(Vec::new());
    let operator =
        super::reconcile_tests::operator(&script, 1, &json!({"status": {"phase": "Pending"}}));
    reconcile(&operator.ctx, &name()).await.unwrap();
    // Another writer was faster.
    let script = Script::new(vec![answer(
        put(),
        &["/status"],
        409,
        refusal(409, "Conflict"),
    )]);
    let operator = super::reconcile_tests::operator(&script, 1, &json!({}));
    let error = reconcile(&operator.ctx, &name()).await.unwrap_err();
    assert!(matches!(error, WriteError::Conflict { .. }));
}

#[tokio::test]
async fn a_request_that_ended_long_ago_is_removed_if_it_is_still_the_one_that_was_seen() {
    for (code, removed) in [(200, true), (404, true), (409, true), (500, false)] {
        let script = Script::new(vec![removal(code)]);
        let operator = operator(&script, -1_000, &json!({}));
        let done = reconcile(&operator.ctx, &name()).await;
        assert_eq!(done.is_ok(), removed, "{code}: {done:?}");
        let (_, sent) = script.asked().remove(0);
        let seen = json!({"uid": "u", "resourceVersion": "7"});
        assert_eq!(sent["preconditions"], seen);
    }
}

#[tokio::test]
async fn what_is_gone_or_going_or_not_understood_is_left_alone() {
    let script = Script::new(Vec::new());
    let operator = operator(&script, 1, &json!({"spec": {}}));
    assert_eq!(
        reconcile(&operator.ctx, &name()).await.unwrap(),
        Action::AwaitChange
    );
    let gone = ("ml".to_owned(), "gone".to_owned());
    assert_eq!(
        reconcile(&operator.ctx, &gone).await.unwrap(),
        Action::AwaitChange
    );
}
