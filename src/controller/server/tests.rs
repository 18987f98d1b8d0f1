//! The whole reconciliation of a server against a scripted API server: what is written in which
//! order, and what becomes of each failure.

use http::Method;
use serde_json::{Value, json};

use super::*;
use crate::api::contract::BUNDLE_KEY;
use crate::controller::names::LEDGER_KEY;
use crate::controller::runtime::writer::WriteError;
use crate::controller::testing::{
    TestOperator, condition, http, key, mcp_policy, mcp_server, name,
};
use crate::policy::bundle::Bundle;
use crate::scripted_api::{Exchange, Script, answer, echo, refusal};
use crate::status::accounting::Ledger;
use crate::status::report::{Report, ReportedCount, ReportedViolation};

const CHILDREN: [&str; 7] = [
    "/secrets",
    "/serviceaccounts",
    "/roles",
    "/rolebindings",
    "/services",
    "/networkpolicies",
    "/deployments",
];

fn made(resource: &str) -> Exchange {
    echo(Method::POST, &["/namespaces/ml", resource])
}

fn status_put() -> Exchange {
    echo(Method::PUT, &["/mcpservers/m/status"])
}

/// The bundle and the children before `resource`.
fn made_before(resource: &str) -> Vec<Exchange> {
    let children = CHILDREN.iter().take_while(|child| **child != resource);
    let children = children.map(|child| made(child));
    std::iter::once(made("/configmaps"))
        .chain(children)
        .collect()
}

fn all_made() -> Vec<Exchange> {
    made_before("")
}

fn operator(script: &Script) -> TestOperator {
    let operator = TestOperator::new(script);
    operator.server(&mcp_server("m", 1, &http()));
    operator
}

async fn reconciled(operator: &TestOperator) -> Result<Action, ServerError> {
    reconcile(&operator.ctx, &name()).await
}

fn after(seconds: u64) -> Action {
    Action::RequeueAfter(Duration::from_secs(seconds))
}

/// The status that was written last.
fn status_of(script: &Script) -> Value {
    let asked = script.asked().into_iter().rev();
    let mut statuses = asked.filter(|(what, _)| what.contains("/status"));
    statuses.next().unwrap().1
}

/// An object that the server owns, as the API server has it.
fn owned(kind: &str, name: &str, owner: &str, more: &Value) -> Value {
    let version = match kind {
        "Deployment" => "apps/v1",
        "HorizontalPodAutoscaler" => "autoscaling/v2",
        _ => "v1",
    };
    let mut object = json!({
        "apiVersion": version, "kind": kind,
        "metadata": {
            "namespace": "ml", "name": name, "uid": format!("uid-of-{name}"), "resourceVersion": "60",
            "ownerReferences": [{
                "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer", "name": "m", "uid": owner, "controller": true,
            }],
        },
    });
    object
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    object
}

fn report(violations: u64) -> Report {
    let time = jiff::Timestamp::UNIX_EPOCH;
    Report {
        instance: "run".to_owned(),
        violations: vec![ReportedCount {
            namespace: "ml".to_owned(),
            policy: "p".to_owned(),
            policy_uid: "uid-of-p".to_owned(),
            rule: "r".to_owned(),
            outcome: crate::api::ViolationOutcome::Denied,
            count: violations,
            last_time: time,
        }],
        recent: vec![ReportedViolation {
            time,
            tool: "t".to_owned(),
            grant: "alice".to_owned(),
            namespace: "ml".to_owned(),
            policy: "p".to_owned(),
            policy_uid: "uid-of-p".to_owned(),
            rule: "r".to_owned(),
            outcome: crate::api::ViolationOutcome::Denied,
        }],
        ..Report::default()
    }
}

/// A gateway of the server has reported violations.
fn reported(operator: &TestOperator, violations: u64) {
    let memory = operator.ctx.memory.servers.of(&name(), "uid-of-m");
    let key = ("pod".to_owned(), "run".to_owned());
    memory.lock().newest.insert(key.0.clone(), key.1.clone());
    memory.lock().reports.insert(key, report(violations));
}

#[tokio::test(start_paused = true)]
async fn a_new_server_gets_its_bundle_then_its_children_then_its_status_and_after_that_nothing() {
    let mut exchanges = all_made();
    exchanges.push(status_put());
    let script = Script::new(exchanges);
    let operator = operator(&script);
    operator.policy(&mcp_policy("ml", "p", "m", "true"));
    // The Secret that pods wait for is made again after a while.
    assert_eq!(reconciled(&operator).await.unwrap(), after(15));
    let (_, bundle) = &script.asked()[0];
    let text = bundle["data"][BUNDLE_KEY].as_str().unwrap();
    let bundle = Bundle::parse(text.as_bytes()).unwrap();
    assert_eq!(key().verify(&bundle), Ok(()));
    assert_eq!(bundle.policies[0].name, "p");
    let status = status_of(&script);
    assert_eq!(condition(&status, "Accepted")["status"], "True");
    assert_eq!(status["metadata"]["resourceVersion"], "40");
    operator.bring_written(&script);
    assert_eq!(reconciled(&operator).await.unwrap(), after(15));
    assert_eq!(script.asked().len(), 9, "{:?}", script.summary());
    assert_eq!(operator.events_of("Accepted").await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_the_api_server_refuses_is_in_the_status_and_tried_again_when_it_may_have_gone() {
    let cases = [(403, "Forbidden", 15), (422, "Invalid", 300)];
    for (code, reason, wait) in cases {
        let mut exchanges = made_before("/deployments");
        exchanges.push(answer(
            Method::POST,
            &["/deployments"],
            code,
            refusal(code, reason),
        ));
        exchanges.push(status_put());
        let script = Script::new(exchanges);
        let operator = operator(&script);
        let again = reconciled(&operator).await.unwrap();
        // What the API server forbids comes and goes; of Secrets nothing is known once children
        // failed.
        let expected = if code == 403 { after(30) } else { after(wait) };
        assert_eq!(again, expected, "{code}");
        let status = status_of(&script);
        let accepted = condition(&status, "Accepted");
        assert_eq!(
            (&accepted["status"], &accepted["reason"]),
            (&json!("False"), &json!("Invalid"))
        );
        let message = accepted["message"].as_str().unwrap();
        assert!(message.contains("the Deployment m-gateway"), "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_becomes_of_the_children_violations_are_stored_and_the_status_is_written() {
    let post = |code, reason| answer(Method::POST, &["/roles"], code, refusal(code, reason));
    let failures = [
        post(500, "InternalError"),
        post(429, "TooManyRequests"),
        echo(Method::POST, &["/roles"]).cut(),
    ];
    for failure in failures {
        let mut exchanges = made_before("/roles");
        exchanges.extend([failure, no_ledger(), made("/configmaps"), status_put()]);
        let script = Script::new(exchanges);
        let operator = operator(&script);
        reported(&operator, 3);
        let error = reconciled(&operator).await.unwrap_err();
        assert!(
            matches!(
                error,
                ServerError::Apply(ApplyError::Child(WriteError::Api { .. }))
            ),
            "{error:?}"
        );
        assert!(
            error
                .to_string()
                .starts_with("writing children: Role m-gateway: "),
            "{error}"
        );
        let (_, ledger) = script.asked().into_iter().rev().nth(1).unwrap();
        assert_eq!(ledger["metadata"]["name"], "m-gateway-ledger");
        let status = status_of(&script);
        assert_eq!(status["status"]["violations"]["total"], 3);
        assert_eq!(operator.events_of("Violation").await.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_taken_is_adopted_if_it_is_ours_and_left_alone_if_it_is_not() {
    let taken = || {
        answer(
            Method::POST,
            &["/services"],
            409,
            refusal(409, "AlreadyExists"),
        )
    };
    let got = |owner: &str| {
        let there = owned("Service", "m-gateway", owner, &json!({}));
        answer(Method::GET, &["/services/m-gateway"], 200, there)
    };
    // Ours: the caches were behind. It says something else, so it is written over.
    let mut exchanges = made_before("/services");
    exchanges.extend([taken(), got("uid-of-m"), got("uid-of-m")]);
    exchanges.push(echo(Method::PATCH, &["/services/m-gateway", "force=true"]));
    exchanges.extend([made("/networkpolicies"), made("/deployments"), status_put()]);
    let script = Script::new(exchanges);
    assert_eq!(reconciled(&operator(&script)).await.unwrap(), after(15));
    let asked = script.asked();
    let (_, patch) = asked
        .iter()
        .find(|(what, _)| what.starts_with("PATCH"))
        .unwrap();
    assert_eq!(patch["metadata"]["uid"], "uid-of-m-gateway");
    // Another owner's.
    let mut exchanges = made_before("/services");
    exchanges.extend([taken(), got("another"), status_put()]);
    let script = Script::new(exchanges);
    assert_eq!(reconciled(&operator(&script)).await.unwrap(), after(5));
    assert_eq!(
        condition(&status_of(&script), "Accepted")["reason"],
        "NameConflict"
    );
    // One that the caches know: nothing at all is made.
    let script = Script::new(vec![status_put()]);
    let operator = operator(&script);
    operator.child(&owned(
        "Deployment",
        "m-gateway",
        "another",
        &json!({"spec": {"replicas": 1}}),
    ));
    assert_eq!(reconciled(&operator).await.unwrap(), after(5));
    assert_eq!(
        condition(&status_of(&script), "Accepted")["reason"],
        "NameConflict"
    );
}

#[tokio::test(start_paused = true)]
async fn a_bundle_that_somebody_else_wrote_is_written_over_what_was_seen_only() {
    let put = || Method::PUT;
    let script = Script::new(vec![
        answer(
            put(),
            &["/configmaps/m-gateway"],
            409,
            refusal(409, "Conflict"),
        ),
        status_put(),
    ]);
    let operator = operator(&script);
    let forged = json!({"data": {BUNDLE_KEY: "{}"}});
    operator.child(&owned("ConfigMap", "m-gateway", "uid-of-m", &forged));
    let error = reconciled(&operator).await.unwrap_err();
    // Nothing to log: the watch brings what was written in between.
    assert!(
        matches!(error.write(), Some(WriteError::Conflict { .. })),
        "{error:?}"
    );
    assert!(matches!(error, ServerError::Apply(ApplyError::Deliver(_))));
    let (_, sent) = &script.asked()[0];
    assert_eq!(sent["metadata"]["resourceVersion"], "60");
    // Although the write failed, the user learns who changed it.
    assert_eq!(operator.events_of("Tampered").await.len(), 1);
    assert_eq!(condition(&status_of(&script), "Tampered")["status"], "True");
}

#[tokio::test(start_paused = true)]
async fn a_bundle_whose_labels_are_gone_is_read_and_written_over() {
    let there = owned(
        "ConfigMap",
        "m-gateway",
        "uid-of-m",
        &json!({"data": {BUNDLE_KEY: "{}"}}),
    );
    let mut exchanges = vec![
        answer(
            Method::POST,
            &["/configmaps"],
            409,
            refusal(409, "AlreadyExists"),
        ),
        answer(Method::GET, &["/configmaps/m-gateway"], 200, there),
    ];
    exchanges.extend(CHILDREN.iter().map(|child| made(child)));
    exchanges.push(status_put());
    let script = Script::new(exchanges);
    let operator = operator(&script);
    // Reconciled again at once.
    assert_eq!(reconciled(&operator).await.unwrap(), after(0));
    let memory = operator.ctx.memory.servers.of(&name(), "uid-of-m");
    assert!(memory.lock().foreign && memory.lock().bundle_version.as_deref() == Some("60"));
}

#[tokio::test(start_paused = true)]
async fn what_somebody_changed_is_put_right_and_what_they_added_is_removed() {
    let mut exchanges = all_made();
    exchanges.push(status_put());
    let widened = |deployment: &mut Value| {
        deployment["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
        deployment["metadata"]["generation"] = json!(2);
        deployment["metadata"]["resourceVersion"] = json!("200");
    };
    // Server-side apply leaves the field that another writer added: it is named in a merge patch.
    let mut live = owned("Deployment", "m-gateway", "uid-of-m", &json!({"spec": {}}));
    exchanges.push(answer(
        Method::GET,
        &["/deployments/m-gateway"],
        200,
        live.clone(),
    ));
    widened(&mut live);
    exchanges.push(answer(
        Method::PATCH,
        &["/deployments/m-gateway", "force"],
        200,
        live,
    ));
    exchanges.push(echo(Method::PATCH, &["/deployments/m-gateway"]));
    exchanges.push(status_put());
    let script = Script::new(exchanges);
    let operator = operator(&script);
    reconciled(&operator).await.unwrap();
    operator.bring_written(&script);
    let written = script.answered();
    let mut deployment = written
        .iter()
        .find(|one| one["kind"] == "Deployment")
        .unwrap()
        .clone();
    widened(&mut deployment);
    operator.child(&deployment);
    reconciled(&operator).await.unwrap();
    let asked = script.asked();
    let (_, merge) = asked.iter().rev().nth(1).unwrap();
    assert_eq!(
        merge["spec"]["template"]["spec"]["hostNetwork"],
        Value::Null
    );
    assert_eq!(condition(&status_of(&script), "Tampered")["status"], "True");
}

#[tokio::test(start_paused = true)]
async fn children_that_are_no_longer_wanted_are_removed() {
    let mut exchanges = all_made();
    exchanges.push(answer(
        Method::DELETE,
        &["/horizontalpodautoscalers/m-gateway"],
        200,
        json!({"kind": "Status"}),
    ));
    exchanges.push(status_put());
    let script = Script::new(exchanges);
    let operator = operator(&script);
    operator.child(&owned(
        "HorizontalPodAutoscaler",
        "m-gateway",
        "uid-of-m",
        &json!({"spec": {}}),
    ));
    reconciled(&operator).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_be_understood_keeps_what_it_had_under_its_current_policies() {
    let mut exchanges = all_made();
    exchanges.push(status_put());
    exchanges.push(echo(Method::PUT, &["/configmaps/m-gateway"]));
    exchanges.push(status_put());
    let script = Script::new(exchanges);
    let operator = operator(&script);
    reconciled(&operator).await.unwrap();
    operator.bring_written(&script);
    operator.server(&mcp_server(
        "m",
        2,
        &json!({"upstream": {"http": {"url": 7}}}),
    ));
    operator.policy(&mcp_policy("ml", "p", "m", "true"));
    reconciled(&operator).await.unwrap();
    let asked = script.asked();
    let (_, bundle) = asked.iter().rev().nth(1).unwrap();
    let bundle = Bundle::parse(bundle["data"][BUNDLE_KEY].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!(bundle.policies[0].name, "p");
    assert_eq!(
        condition(&status_of(&script), "Accepted")["reason"],
        "Invalid"
    );
}

#[tokio::test(start_paused = true)]
async fn a_status_that_was_written_in_between_is_tried_again() {
    let mut exchanges = all_made();
    exchanges.push(answer(
        Method::PUT,
        &["/mcpservers/m/status"],
        409,
        refusal(409, "Conflict"),
    ));
    let script = Script::new(exchanges);
    let operator = operator(&script);
    let error = reconciled(&operator).await.unwrap_err();
    assert!(matches!(error, ServerError::Status(_)) && error.write().is_some());
    // It holds up no policy.
    let memory = operator.ctx.memory.servers.of(&name(), "uid-of-m");
    assert!(memory.lock().reconciled_once);
}

#[tokio::test(start_paused = true)]
async fn figures_alone_wait_and_gateways_that_were_not_heard_are_asked_first() {
    let mut exchanges = all_made();
    exchanges.push(status_put());
    let script = Script::new(exchanges);
    let operator = operator(&script);
    reconciled(&operator).await.unwrap();
    operator.bring_written(&script);
    let written = script.answered();
    let deployment = written
        .iter()
        .find(|one| one["kind"] == "Deployment")
        .unwrap();
    let uid = deployment["metadata"]["uid"].as_str().unwrap();
    let address = "127.0.0.1:1".parse().unwrap();
    operator.gateway_pod(uid, Some(address), false);
    assert_eq!(reconciled(&operator).await.unwrap(), after(1));
    assert_eq!(operator.ctx.queues.reports.depth(), 1);
    assert_eq!(script.asked().len(), 9);
}

#[tokio::test]
async fn a_server_that_is_not_ready_to_be_reconciled_is_left_alone() {
    let script = Script::new(Vec::new());
    let operator = TestOperator::new(&script);
    // Gone.
    operator.ctx.memory.servers.of(&name(), "u");
    assert_eq!(reconciled(&operator).await.unwrap(), Action::AwaitChange);
    assert!(operator.ctx.memory.servers.known(&name()).is_none());
    // On its way out.
    let mut leaving = mcp_server("m", 1, &http());
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    operator.server(&leaving);
    assert_eq!(reconciled(&operator).await.unwrap(), Action::AwaitChange);
    // A guardrail selects by labels of a namespace that is not known.
    operator.server(&mcp_server("m", 1, &http()));
    let mut guardrail = mcp_policy("ops", "g", "m", "true");
    guardrail["spec"] = json!({"targetSelector": {}, "namespaceSelector": {"matchLabels": {"a": "b"}}, "rules": []});
    operator.policy(&guardrail);
    assert_eq!(reconciled(&operator).await.unwrap(), after(2));
}

#[tokio::test]
async fn without_a_key_nothing_is_done() {
    let script = Script::new(Vec::new());
    let mut operator = operator(&script);
    std::sync::Arc::get_mut(&mut operator.ctx).unwrap().key = std::sync::OnceLock::new();
    let error = reconciled(&operator).await.unwrap_err();
    assert!(matches!(error, ServerError::NoKey) && error.write().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_rejected_policy_waits_until_the_gateways_of_a_new_leader_were_heard() {
    let script = Script::new(Vec::new());
    let operator = operator(&script);
    operator.policy(&mcp_policy("ml", "p", "m", "args."));
    operator.child(&owned(
        "Deployment",
        "m-gateway",
        "uid-of-m",
        &json!({"spec": {}}),
    ));
    operator.gateway_pod(
        "uid-of-m-gateway",
        Some("127.0.0.1:1".parse().unwrap()),
        true,
    );
    assert_eq!(reconciled(&operator).await.unwrap(), after(1));
    assert_eq!(operator.ctx.queues.reports.depth(), 1);
}

// ---- The ledger
// ----------------------------------------------------------------------------------------------

fn ledger(violations: u64) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.take(
        "pod/run",
        crate::status::accounting::Account::of(&report(violations)),
    );
    ledger
}

fn ledger_map(version: &str, ledger: &Ledger) -> Value {
    let text = serde_json::to_string(ledger).unwrap();
    let mut map = owned(
        "ConfigMap",
        "m-gateway-ledger",
        "uid-of-m",
        &json!({"data": {LEDGER_KEY: text}}),
    );
    map["metadata"]["resourceVersion"] = json!(version);
    map
}

/// A server that is as it should be, with its status, before the exchanges of the test.
async fn settled(mut later: Vec<Exchange>) -> (Script, TestOperator) {
    let mut exchanges = all_made();
    exchanges.push(status_put());
    exchanges.append(&mut later);
    let script = Script::new(exchanges);
    let operator = operator(&script);
    reconciled(&operator).await.unwrap();
    operator.bring_written(&script);
    // Nothing waits for an interval any more.
    tokio::time::advance(Duration::from_secs(10)).await;
    (script, operator)
}

fn no_ledger() -> Exchange {
    let path = &["/configmaps/m-gateway-ledger"];
    answer(Method::GET, path, 404, refusal(404, "NotFound"))
}

fn put_ledger() -> Exchange {
    echo(Method::PUT, &["/configmaps/m-gateway-ledger"])
}

fn remember_ledger(operator: &TestOperator, version: &str, ledger: Ledger) {
    let memory = operator.ctx.memory.servers.of(&name(), "uid-of-m");
    memory.lock().ledger = Some((version.to_owned(), std::sync::Arc::new(ledger)));
}

#[tokio::test(start_paused = true)]
async fn a_ledger_whose_labels_are_gone_is_found_and_written_again_with_them() {
    let there = ledger_map("70", &ledger(3));
    let (script, operator) = settled(vec![
        answer(Method::GET, &["/configmaps/m-gateway-ledger"], 200, there),
        put_ledger(),
        status_put(),
    ])
    .await;
    remember_ledger(&operator, "65", ledger(3));
    reported(&operator, 3);
    reconciled(&operator).await.unwrap();
    let asked = script.asked();
    let (_, sent) = asked.iter().rev().nth(1).unwrap();
    assert_eq!(sent["metadata"]["resourceVersion"], "70");
    assert_eq!(
        sent["metadata"]["labels"]["app.kubernetes.io/managed-by"],
        "portcullis"
    );
    assert_eq!(status_of(&script)["status"]["violations"]["total"], 3);
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_may_not_be_read_keeps_the_status_as_it_is() {
    let script = Script::new({
        let mut exchanges = all_made();
        let get = &["/configmaps/m-gateway-ledger"];
        exchanges.push(answer(Method::GET, get, 403, refusal(403, "Forbidden")));
        exchanges
    });
    let operator = operator(&script);
    reported(&operator, 1);
    let error = reconciled(&operator).await.unwrap_err();
    assert!(
        matches!(error, ServerError::Account(AccountError::Read(_))),
        "{error:?}"
    );
    let memory = operator.ctx.memory.servers.of(&name(), "uid-of-m");
    assert!(
        !memory.lock().reconciled_once,
        "policies would count too little"
    );
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_appeared_in_between_is_counted_on_top_of() {
    let gone = answer(
        Method::GET,
        &["/configmaps/m-gateway-ledger"],
        404,
        refusal(404, "NotFound"),
    );
    let (script, operator) = settled(vec![
        gone,
        answer(
            Method::POST,
            &["/configmaps"],
            409,
            refusal(409, "AlreadyExists"),
        ),
        answer(
            Method::GET,
            &["/configmaps/m-gateway-ledger"],
            200,
            ledger_map("70", &ledger(2)),
        ),
        status_put(),
        // The keys that pods wait for, once more.
        made("/secrets"),
        put_ledger(),
        status_put(),
    ])
    .await;
    reported(&operator, 5);
    let error = reconciled(&operator).await.unwrap_err();
    assert!(
        matches!(error.write(), Some(WriteError::Conflict { .. })),
        "{error:?}"
    );
    assert_eq!(status_of(&script)["status"]["violations"]["total"], 2);
    operator.child(&ledger_map("70", &ledger(2)));
    tokio::time::advance(Duration::from_secs(10)).await;
    reconciled(&operator).await.unwrap();
    assert_eq!(status_of(&script)["status"]["violations"]["total"], 5);
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_somebody_changed_is_written_again_from_memory_and_that_is_told() {
    for forged in [ledger_map("80", &ledger(1)), {
        let mut map = ledger_map("80", &ledger(1));
        map["data"][LEDGER_KEY] = json!("no ledger");
        map
    }] {
        let (script, operator) = settled(vec![put_ledger(), status_put()]).await;
        remember_ledger(&operator, "65", ledger(3));
        reported(&operator, 3);
        operator.child(&forged);
        reconciled(&operator).await.unwrap();
        let asked = script.asked();
        let (_, sent) = asked.iter().rev().nth(1).unwrap();
        assert_eq!(sent["metadata"]["resourceVersion"], "80");
        let text = sent["data"][LEDGER_KEY].as_str().unwrap();
        let total = |ledger: &Ledger| crate::status::accounting::of_server(ledger).counts.total;
        assert_eq!(total(&serde_json::from_str(text).unwrap()), 3);
        assert_eq!(operator.events_of("LedgerUnreadable").await.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_ledger_is_written_at_most_every_ten_seconds_and_at_once_when_a_gateway_ends() {
    let (script, operator) = settled(vec![
        answer(
            Method::GET,
            &["/configmaps/m-gateway-ledger"],
            404,
            refusal(404, "NotFound"),
        ),
        made("/configmaps"),
        status_put(),
    ])
    .await;
    reported(&operator, 1);
    reconciled(&operator).await.unwrap();
    operator.bring_written(&script);
    reported(&operator, 2);
    let before = script.asked().len();
    let again = reconciled(&operator).await.unwrap();
    assert!(matches!(again, Action::RequeueAfter(wait) if wait <= Duration::from_secs(10)));
    assert_eq!(script.asked().len(), before);
}

/// What was written last of a kind, as the API server has it.
fn written(script: &Script, kind: &str, name: &str) -> Value {
    let all = script.answered().into_iter().rev();
    let mut found = all.filter(|one| one["kind"] == kind && one["metadata"]["name"] == name);
    found.next().unwrap()
}

/// The bundle in a request that was made.
fn bundle_in(asked: &Value) -> Bundle {
    Bundle::parse(asked["data"][BUNDLE_KEY].as_str().unwrap().as_bytes()).unwrap()
}

/// The bundle that was sent last.
fn sent_bundle(script: &Script) -> Bundle {
    let asked = script.asked().into_iter().rev();
    let mut written = asked.filter(|(what, _)| what.contains("/configmaps"));
    let (_, written) = written.next().unwrap();
    bundle_in(&written)
}

fn put_bundle() -> Exchange {
    echo(Method::PUT, &["/configmaps/m-gateway"])
}

#[tokio::test(start_paused = true)]
async fn a_bundle_that_was_signed_for_another_server_counts_as_another_writers() {
    let elsewhere: fn(&mut Bundle) = |bundle| {
        bundle.server.uid = "uid-of-another".to_owned();
    };
    let renamed: fn(&mut Bundle) = |bundle| bundle.server.name = "other".to_owned();
    let moved: fn(&mut Bundle) = |bundle| bundle.server.namespace = "other".to_owned();
    for change in [elsewhere, renamed, moved] {
        let (script, operator) = settled(vec![put_bundle(), status_put()]).await;
        let mut map = written(&script, "ConfigMap", "m-gateway");
        let own = bundle_in(&map);
        let mut foreign = own.clone();
        change(&mut foreign);
        let http = foreign.server.spec.upstream.http.as_mut().unwrap();
        http.url = "http://attacker/mcp".to_owned();
        foreign.sequence += 1;
        let mut foreign = foreign.sealed().unwrap();
        key().sign(&mut foreign);
        map["data"][BUNDLE_KEY] = json!(serde_json::to_string(&foreign).unwrap());
        map["metadata"]["resourceVersion"] = json!("300");
        operator.child(&map);
        // What was accepted last would be read off it.
        let unreadable = json!({"upstream": {"http": {"url": 7}}});
        operator.server(&mcp_server("m", 2, &unreadable));
        reconciled(&operator).await.unwrap();
        let sent = sent_bundle(&script);
        assert_eq!(sent.server, own.server);
        assert!(sent.sequence > own.sequence);
        assert_eq!(condition(&status_of(&script), "Tampered")["status"], "True");
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_of_another_owner_does_not_keep_a_policy_from_coming_into_force() {
    for (kind, taken) in [
        ("Service", "m-gateway"),
        ("RoleBinding", "m-gateway"),
        ("ConfigMap", "m-gateway-ledger"),
    ] {
        let (script, operator) = settled(vec![put_bundle(), status_put()]).await;
        operator.child(&owned(kind, taken, "another", &json!({})));
        operator.policy(&mcp_policy("ml", "p", "m", "true"));
        reconciled(&operator).await.unwrap();
        assert_eq!(sent_bundle(&script).policies[0].name, "p", "{kind}");
        let status = status_of(&script);
        assert_eq!(
            condition(&status, "Accepted")["reason"],
            "NameConflict",
            "{kind}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_a_finalizer_holds_follows_its_policies_and_nothing_is_made_for_it() {
    let (script, operator) = settled(vec![put_bundle(), status_put()]).await;
    let mut leaving = mcp_server("m", 1, &http());
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    operator.server(&leaving);
    operator.policy(&mcp_policy("ml", "p", "m", "true"));
    operator.gone(&written(&script, "Service", "m-gateway"));
    reconciled(&operator).await.unwrap();
    assert_eq!(sent_bundle(&script).policies[0].name, "p");
    // The last of it goes: nothing is asked any more.
    operator.gone(&written(&script, "ConfigMap", "m-gateway"));
    assert_eq!(reconciled(&operator).await.unwrap(), Action::AwaitChange);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_can_change_any_more_is_made_again() {
    // A ConfigMap that was made immutable.
    let refused = || {
        answer(
            Method::PUT,
            &["/configmaps/m-gateway"],
            422,
            refusal(422, "Invalid"),
        )
    };
    let removed = |what: &str| {
        let gone = json!({"kind": "Status", "status": "Success"});
        answer(Method::DELETE, &[what], 200, gone)
    };
    let frozen = json!({"immutable": true, "data": {BUNDLE_KEY: "{}"}});
    let frozen = owned("ConfigMap", "m-gateway", "uid-of-m", &frozen);
    let (script, operator) = settled(vec![
        refused(),
        answer(Method::GET, &["/configmaps/m-gateway"], 200, frozen.clone()),
        removed("/configmaps/m-gateway"),
        made("/configmaps"),
        status_put(),
    ])
    .await;
    operator.policy(&mcp_policy("ml", "p", "m", "true"));
    reconciled(&operator).await.unwrap();
    assert_eq!(sent_bundle(&script).policies[0].name, "p");
    // One that is refused for another cause stays.
    let mut writable = frozen;
    writable["immutable"] = Value::Null;
    let (script, operator) = settled(vec![
        refused(),
        answer(Method::GET, &["/configmaps/m-gateway"], 200, writable),
        status_put(),
    ])
    .await;
    operator.policy(&mcp_policy("ml", "p", "m", "true"));
    reconciled(&operator).await.unwrap();
    assert_eq!(
        condition(&status_of(&script), "Accepted")["reason"],
        "Invalid"
    );
    // A Deployment with another selector.
    let deleted = removed("/deployments/m-gateway");
    let (script, operator) = settled(vec![deleted, made("/deployments"), status_put()]).await;
    let mut object = written(&script, "Deployment", "m-gateway");
    object["spec"]["selector"]["matchLabels"] = json!({"a": "b"});
    object["metadata"]["generation"] = json!(2);
    object["metadata"]["resourceVersion"] = json!("200");
    operator.child(&object);
    reconciled(&operator).await.unwrap();
    assert_eq!(condition(&status_of(&script), "Tampered")["status"], "True");
}
