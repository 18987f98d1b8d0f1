//! Events, as they are sent to the API server.

use serde_json::Value;

use super::*;
use crate::api::condition::condition;
use crate::controller::testing::TestOperator;
use crate::scripted_api::Script;

fn of() -> ObjectMeta {
    ObjectMeta {
        namespace: Some("ml".to_owned()),
        name: Some("m".to_owned()),
        uid: Some("u".to_owned()),
        ..ObjectMeta::default()
    }
}

fn conditions(kind: ConditionType, status: ConditionStatus, reason: Reason) -> Vec<Condition> {
    let now = crate::api::Time(jiff::Timestamp::UNIX_EPOCH);
    vec![condition(
        kind,
        status,
        reason,
        "why".to_owned(),
        Some(1),
        &[],
        &now,
    )]
}

async fn told(operator: &TestOperator) -> Vec<(String, String)> {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let asked = operator.events.asked().into_iter();
    asked
        .map(|(_, event)| (text(&event["type"]), text(&event["reason"])))
        .collect()
}

fn some(type_: &str, reason: &str) -> (String, String) {
    (type_.to_owned(), reason.to_owned())
}

#[tokio::test(start_paused = true)]
async fn acceptance_is_told_when_it_changes() {
    let script = Script::new(Vec::new());
    let operator = TestOperator::new(&script);
    let accepted = |status, reason| conditions(ConditionType::Accepted, status, reason);
    let yes = accepted(ConditionStatus::True, Reason::Accepted);
    let no = accepted(ConditionStatus::False, Reason::Invalid);
    let events = &operator.ctx.events;
    events.acceptance(Kind::McpServer, &of(), &[], &yes);
    events.acceptance(Kind::McpServer, &of(), &yes, &yes);
    events.acceptance(Kind::McpServer, &of(), &yes, &no);
    events.acceptance(Kind::McpServer, &of(), &no, &[]);
    assert_eq!(
        told(&operator).await,
        [some("Normal", "Accepted"), some("Warning", "Invalid")]
    );
    let (_, event) = operator.events.asked().remove(0);
    assert_eq!(event["regarding"]["kind"], "McpServer");
    assert_eq!(
        (&event["regarding"]["name"], &event["note"]),
        (&"m".into(), &"why".into())
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_and_opens_is_told() {
    let script = Script::new(Vec::new());
    let operator = TestOperator::new(&script);
    let ready = |status, reason| conditions(ConditionType::Ready, status, reason);
    let open = ready(ConditionStatus::True, Reason::Ready);
    let closed = ready(ConditionStatus::False, Reason::Closed);
    let events = &operator.ctx.events;
    events.closing(&of(), &open, &closed);
    events.closing(&of(), &closed, &closed);
    events.closing(&of(), &closed, &open);
    events.closing(&of(), &open, &open);
    assert_eq!(
        told(&operator).await,
        [some("Warning", "Closed"), some("Normal", "Opened")]
    );
}

fn violation(grant: &str) -> ReportedViolation {
    ReportedViolation {
        time: jiff::Timestamp::UNIX_EPOCH,
        tool: "delete_run".to_owned(),
        grant: grant.to_owned(),
        namespace: "ml".to_owned(),
        policy: "p".to_owned(),
        policy_uid: "u".to_owned(),
        rule: "r".to_owned(),
        outcome: crate::api::ViolationOutcome::Denied,
    }
}

#[tokio::test(start_paused = true)]
async fn a_violation_is_told_once_for_each_rule_and_caller() {
    let script = Script::new(Vec::new());
    let operator = TestOperator::new(&script);
    let events = &operator.ctx.events;
    events.known(&of(), [&violation("known")]);
    let recent = [
        violation("known"),
        violation("alice"),
        violation("alice"),
        violation("bob"),
    ];
    events.violations(&of(), &recent);
    events.violations(&of(), &recent);
    assert_eq!(
        told(&operator).await,
        [some("Warning", "Violation"), some("Warning", "Violation")]
    );
    let (_, event) = operator.events.asked().remove(0);
    let note = event["note"].as_str().unwrap();
    assert!(
        note.contains("alice called delete_run: denied by policy ml/p, rule r"),
        "{note}"
    );
    // What is remembered is bounded: the first are new again some time.
    for caller in 0..MAX_KNOWN_VIOLATIONS {
        events.known(&of(), [&violation(&caller.to_string())]);
    }
    assert_eq!(events.reported.lock().len(), MAX_KNOWN_VIOLATIONS);
}

#[tokio::test(start_paused = true)]
async fn while_much_is_to_be_reconciled_events_wait_and_none_is_longer_than_the_api_takes() {
    let script = Script::new(Vec::new());
    let operator = TestOperator::new(&script);
    for object in 0..=BUSY_QUEUE_OBJECTS {
        operator
            .ctx
            .queues
            .servers
            .add(("ml".to_owned(), object.to_string()));
    }
    operator
        .ctx
        .events
        .ledger_unreadable(&of(), &"x".repeat(5_000));
    operator.ctx.events.tampering(&of(), "another writer");
    assert_eq!(told(&operator).await, []);
    tokio::time::sleep(BUSY_QUEUE_PAUSE).await;
    assert_eq!(told(&operator).await, [some("Warning", "LedgerUnreadable")]);
    tokio::time::sleep(BUSY_QUEUE_PAUSE).await;
    assert_eq!(told(&operator).await.len(), 2);
    let (_, event) = operator.events.asked().remove(0);
    assert_eq!(event["note"].as_str().unwrap().len(), MAX_NOTE_CHARS);
}

#[tokio::test(start_paused = true)]
async fn more_events_than_can_wait_are_left_out() {
    let script = Script::new(Vec::new());
    let operator = TestOperator::new(&script);
    // Nothing is written meanwhile, as nothing is awaited.
    for _ in 0..MAX_WAITING_EVENTS + 5 {
        operator.ctx.events.ledger_unreadable(&of(), "x");
    }
    assert_eq!(operator.ctx.events.waiting.capacity(), 0);
}
