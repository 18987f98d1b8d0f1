//! Calls that wait for a person: executed once for each approval, and never otherwise.

use jiff::Timestamp;
use portcullis::api::approval::{McpApproval, Phase, Verdict};
use portcullis::gateway::approvals::{DecideError, NewDecision};
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::rig::{Rig, allow_all};
use crate::support::upstream::{Answer, Fake};
use crate::support::{eventually, soon};

/// `wait` is how long a call is held.
fn held(wait: &str) -> Value {
    json!({"rules": [
        {"name": "promote", "tools": {"names": ["promote"]}, "action": "RequireApproval",
            "approval": {"waitUpTo": wait, "expiresAfter": "1h"}, "limits": [{"counter": "c", "max": 5, "window": "1h"}]},
        {"name": "echo", "tools": {"names": ["echo"]}, "action": "Allow"},
    ]})
}

fn phase(approval: &McpApproval) -> Phase {
    approval.status.as_ref().unwrap().phase.unwrap()
}

fn list(rig: &Rig) -> Vec<McpApproval> {
    rig.approvals.list(Timestamp::now())
}

fn name(rig: &Rig) -> String {
    let all = list(rig);
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].metadata.name.clone().unwrap()
}

fn decide(rig: &Rig, name: &str, verdict: Verdict, reason: Option<&str>) {
    try_decide(rig, name, verdict, reason).unwrap();
}

fn try_decide(
    rig: &Rig,
    name: &str,
    verdict: Verdict,
    reason: Option<&str>,
) -> Result<McpApproval, DecideError> {
    let decided = NewDecision {
        verdict,
        by: "joe",
        reason: reason.map(str::to_owned),
        digest: None,
    };
    rig.approvals.decide(name, decided, Timestamp::now())
}

async fn promote(client: &Client, text: &str) -> (bool, String) {
    client.call("promote", json!({"text": text})).await.tool()
}

/// A call in the background.
fn spawn(client: &Client, text: &'static str) -> tokio::task::JoinHandle<(bool, String)> {
    let client = client.clone();
    tokio::spawn(async move { promote(&client, text).await })
}

#[tokio::test]
async fn an_approved_call_is_executed_once_when_it_is_repeated() {
    let fake = Fake::start(&["promote", "echo"]).await;
    let rig = Rig::new(&fake, &[held("0s")]).await;
    let client = rig.client.session().await;
    let (error, text) = promote(&client, "a").await;
    let name = name(&rig);
    let expires = list(&rig)[0]
        .spec
        .expires_at
        .0
        .strftime("%Y-%m-%dT%H:%M:%SZ");
    assert_eq!(
        (error, text),
        (
            true,
            format!(
                "Approval pending: a person must decide McpApproval {name}. Repeat the call unchanged in 30 s, and again until it is decided; it expires at {expires}."
            )
        )
    );
    let answer = client.call("promote", json!({"text": "a"})).await.json();
    assert_eq!(
        answer["result"]["_meta"],
        json!({"portcullis.dev/approval": name, "portcullis.dev/decisionId": "test-1", "portcullis.dev/retryAfterMs": 30_000})
    );
    // However often it is repeated, and however it is written, it is one request.
    promote(&client, "a").await;
    let loose = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":{"\u0074ext" : "\u0061"},"name":"promote"}}"#;
    assert!(client.post_raw(loose).await.tool().0);
    assert_eq!((list(&rig).len(), fake.calls()), (1, 0));
    let approval = list(&rig).remove(0);
    assert_eq!(
        (
            approval.spec.grant.as_str(),
            approval.spec.tool.as_str(),
            approval.spec.arguments_preview.as_str(),
            approval.spec.rule.as_str()
        ),
        ("anonymous", "promote", r#"{"text":"a"}"#, "promote")
    );
    decide(&rig, &name, Verdict::Approved, None);
    assert_eq!(
        promote(&client, "a").await,
        (false, r#"{"text":"a"}"#.to_owned())
    );
    assert_eq!(phase(&list(&rig)[0]), Phase::Consumed);
    // The next one needs another approval.
    assert!(
        promote(&client, "a")
            .await
            .1
            .starts_with("Approval pending")
    );
    assert_eq!((list(&rig).len(), fake.calls()), (2, 1));
    assert_eq!(
        rig.audit_outcomes(6).await,
        [
            "unapproved",
            "unapproved",
            "unapproved",
            "unapproved",
            "allowed",
            "unapproved"
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_approval_is_one_execution_however_many_repeat_the_call_at_once() {
    let fake = Fake::start(&["promote", "echo"]).await;
    let rig = Rig::new(&fake, &[held("20s")]).await;
    let client = rig.client.session().await;
    let calls: Vec<_> = (0..12).map(|_| spawn(&client, "a")).collect();
    eventually("the calls are held", || !list(&rig).is_empty()).await;
    let early = name(&rig);
    decide(&rig, &early, Verdict::Approved, None);
    // Those that come too late for this approval ask for another one; nobody grants it.
    let mut executed = 0;
    eventually("it is used", || {
        list(&rig)
            .iter()
            .any(|approval| phase(approval) == Phase::Consumed)
    })
    .await;
    for approval in list(&rig) {
        if phase(&approval) == Phase::Pending {
            decide(
                &rig,
                &approval.metadata.name.unwrap(),
                Verdict::Denied,
                None,
            );
        }
    }
    for call in calls {
        let (error, text) = soon("an answer", call).await.unwrap();
        if error {
            assert!(text.starts_with("Approval "), "{text}");
        } else {
            executed += 1;
        }
    }
    assert_eq!((executed, fake.calls()), (1, 1));
    // Those that lost the race have returned their units: four are left.
    rig.apply(&[
        json!({"rules": [{"name": "promote", "tools": {"names": ["promote"]}, "action": "Allow",
        "limits": [{"counter": "c", "max": 5, "window": "1h"}]}]}),
    ])
    .unwrap();
    let mut passed = Vec::new();
    for n in 0..5 {
        passed.push(!promote(&client, &n.to_string()).await.0);
    }
    assert_eq!(passed, [true, true, true, true, false]);
}

#[tokio::test]
async fn a_held_call_goes_on_when_it_is_approved_and_stops_when_it_is_denied() {
    let fake = Fake::start(&["promote", "echo"]).await;
    let rig = Rig::new(&fake, &[held("20s")]).await;
    let client = rig.client.session().await;
    let call = spawn(&client, "a");
    eventually("it is held", || !list(&rig).is_empty()).await;
    assert_eq!(fake.calls(), 0);
    // Others are not held up by it.
    assert!(!client.call("echo", json!({})).await.tool().0);
    decide(&rig, &name(&rig), Verdict::Approved, None);
    assert_eq!(
        soon("the answer", call).await.unwrap(),
        (false, r#"{"text":"a"}"#.to_owned())
    );

    let call = spawn(&client, "b");
    eventually("it is held", || list(&rig).len() == 2).await;
    let pending = list(&rig)
        .into_iter()
        .find(|approval| phase(approval) == Phase::Pending)
        .unwrap();
    let pending = pending.metadata.name.unwrap();
    decide(&rig, &pending, Verdict::Denied, Some("7 is worse."));
    let denied = (
        true,
        format!(
            "Approval denied: McpApproval {pending} was refused: 7 is worse. Do not repeat the call unchanged."
        ),
    );
    assert_eq!(soon("the answer", call).await.unwrap(), denied);
    assert_eq!(promote(&client, "b").await, denied);
    assert_eq!(
        fake.got("tools/call")
            .iter()
            .filter(|got| got.json()["params"]["name"] == "promote")
            .count(),
        1
    );
}

#[tokio::test]
async fn an_approval_is_for_its_own_arguments_caller_and_tool_only() {
    let fake = Fake::start(&["promote", "echo"]).await;
    let rig = Rig::new(&fake, &[held("0s")]).await;
    let client = rig.client.session().await;
    promote(&client, "a").await;
    decide(&rig, &name(&rig), Verdict::Approved, None);
    for arguments in [
        json!({"text": "b"}),
        json!({}),
        json!({"text": "a", "count": 1}),
        json!({"text": "a "}),
    ] {
        let (error, text) = client.call("promote", arguments).await.tool();
        assert!(error && text.starts_with("Approval pending"), "{text}");
    }
    // The same value, written as another number.
    let call = |count: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"promote","arguments":{{"count":{count}}}}}}}"#
        )
    };
    client.post_raw(call("1")).await;
    let one = list(&rig)
        .into_iter()
        .find(|approval| approval.spec.arguments_preview.contains("count\":1}"))
        .unwrap();
    assert_eq!(one.spec.arguments_preview, r#"{"count":1}"#);
    decide(&rig, &one.metadata.name.unwrap(), Verdict::Approved, None);
    assert!(client.post_raw(call("1.0")).await.tool().0);
    assert_eq!(fake.calls(), 0);
    // Another definition of the tool is another tool.
    let mut changed = crate::support::upstream::tool("promote");
    changed["description"] = json!("Deletes everything.");
    fake.set_tools(vec![changed, crate::support::upstream::tool("echo")]);
    let before = rig
        .gateway
        .snapshot()
        .unwrap()
        .bound
        .tool("promote")
        .unwrap()
        .digest
        .clone();
    rig.gateway.inventory.nudge();
    eventually("it is listed", || {
        rig.gateway
            .snapshot()
            .unwrap()
            .bound
            .tool("promote")
            .unwrap()
            .digest
            != before
    })
    .await;
    let (error, text) = promote(&client, "a").await;
    assert!(error && text.starts_with("Approval pending"), "{text}");
    assert_eq!(fake.calls(), 0);
}

#[tokio::test]
async fn an_approval_that_ran_out_is_none() {
    let fake = Fake::start(&["promote", "echo"]).await;
    let mut policy = held("20s");
    policy["rules"][0]["approval"]["expiresAfter"] = json!("1s");
    let rig = Rig::new(&fake, &[policy]).await;
    let client = rig.client.session().await;
    // Held until it runs out, which is before the wait is over.
    let (error, text) = promote(&client, "a").await;
    assert!(error && text.starts_with("Approval expired: "), "{text}");
    let first = name(&rig);
    eventually("it expires", || phase(&list(&rig)[0]) == Phase::Expired).await;
    assert!(try_decide(&rig, &first, Verdict::Approved, None).is_err());
    // Approved, and then left until it runs out.
    let call = spawn(&client, "a");
    eventually("it is asked anew", || list(&rig).len() == 2).await;
    call.abort();
    eventually("all are over", || {
        list(&rig)
            .iter()
            .all(|approval| phase(approval) != Phase::Pending)
    })
    .await;
    assert_eq!(fake.calls(), 0);
}

#[tokio::test]
async fn a_grant_cannot_flood_the_people_who_decide() {
    let fake = Fake::start(&["promote", "echo"]).await;
    let rig = Rig::new(&fake, &[held("0s")]).await;
    let client = rig.client.session().await;
    for n in 0..20 {
        assert!(
            promote(&client, &n.to_string())
                .await
                .1
                .starts_with("Approval pending")
        );
    }
    let (error, text) = promote(&client, "20").await;
    assert!(
        error && text.contains("20 calls of this caller already wait"),
        "{text}"
    );
    assert_eq!((list(&rig).len(), fake.calls()), (20, 0));
    // The known ones can still be repeated.
    assert!(
        promote(&client, "7")
            .await
            .1
            .starts_with("Approval pending")
    );
}

#[tokio::test]
async fn a_held_call_that_the_client_cancels_is_never_forwarded() {
    let fake = Fake::start(&["promote", "echo"]).await;
    let rig = Rig::new(&fake, &[held("20s")]).await;
    let client = rig.client.session().await;
    let held_call = client.clone();
    let call = tokio::spawn(async move { held_call.call("promote", json!({"text": "a"})).await });
    eventually("it is held", || !list(&rig).is_empty()).await;
    // Neither another session nor another id ends it.
    let other = rig.client.session().await;
    let cancel = |id: Value| json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
    other.post(&cancel(json!(7))).await;
    client.post(&cancel(json!("7"))).await;
    assert!(!call.is_finished());
    client.post(&cancel(json!(7))).await;
    assert_eq!(soon("the end", call).await.unwrap().status, 202);
    let given_up = name(&rig);
    assert_eq!(phase(&list(&rig)[0]), Phase::Withdrawn);
    assert!(matches!(
        try_decide(&rig, &given_up, Verdict::Approved, None),
        Err(DecideError::Withdrawn(_))
    ));
    assert!(!client.call("echo", json!({})).await.tool().0);
    assert_eq!(fake.calls(), 1);
    assert!(
        fake.got("notifications/cancelled")
            .iter()
            .all(|got| got.json()["params"]["requestId"] != 7
                || got.header("mcp-session-id") != Some("upstream-1"))
    );
}

#[tokio::test]
async fn a_held_call_whose_client_has_gone_is_never_forwarded() {
    let fake = Fake::start(&["promote", "echo"]).await;
    let rig = Rig::new(&fake, &[held("20s")]).await;
    let client = rig.client.session().await;
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "promote", "arguments": {"text": "a"}}});
    let exchange = client
        .start("POST", Some(body.to_string().as_bytes()))
        .await;
    eventually("it is held", || !list(&rig).is_empty()).await;
    drop(exchange);
    // The gateway notices, as it has nothing left that it holds.
    eventually("the gateway lets go", || rig.gateway.held() == 0).await;
    decide(&rig, &name(&rig), Verdict::Approved, None);
    for _ in 0..3 {
        assert!(!client.call("echo", json!({})).await.tool().0);
    }
    assert_eq!(fake.calls(), 3);
    // The approval is still there for the call when it is repeated.
    assert!(!promote(&client, "a").await.0);
}

#[tokio::test]
async fn a_policy_that_changed_while_a_call_was_held_decides() {
    let fake = Fake::start(&["promote", "echo"]).await;
    for (what, policies) in [
        (
            "denied now",
            vec![
                held("20s"),
                json!({"rules": [{"name": "no", "tools": {"names": ["promote"]}, "action": "Deny"}]}),
            ],
        ),
        (
            "hidden now",
            vec![
                held("20s"),
                json!({"rules": [{"name": "no", "tools": {"names": ["promote"]}, "action": "Hide"}]}),
            ],
        ),
        (
            "another rule asks too",
            vec![
                held("20s"),
                json!({"rules": [{"name": "more", "tools": {"names": ["promote"]}, "action": "RequireApproval"}]}),
            ],
        ),
    ] {
        let rig = Rig::new(&fake, &[held("20s")]).await;
        let client = rig.client.session().await;
        let before = fake.calls();
        let held_call = client.clone();
        let call =
            tokio::spawn(async move { held_call.call("promote", json!({"text": "a"})).await });
        eventually("it is held", || !list(&rig).is_empty()).await;
        rig.apply(&policies).unwrap();
        decide(&rig, &name(&rig), Verdict::Approved, None);
        let reply = soon(what, call).await.unwrap();
        let message = reply.json();
        assert!(
            message["error"]["code"] == -32602 || message["result"]["isError"] == true,
            "{what}: {message}"
        );
        assert_eq!(fake.calls(), before, "{what}");
    }
    // Allowed now: it goes, and needs no approval any more.
    let rig = Rig::new(&fake, &[held("20s")]).await;
    let client = rig.client.session().await;
    let call = spawn(&client, "a");
    eventually("it is held", || !list(&rig).is_empty()).await;
    rig.apply(&[allow_all()]).unwrap();
    decide(&rig, &name(&rig), Verdict::Approved, None);
    assert!(!soon("the answer", call).await.unwrap().0);
}

#[tokio::test]
async fn limits_are_looked_at_before_a_person_is_asked() {
    let fake = Fake::start(&["promote", "echo"]).await;
    let mut policy = held("0s");
    policy["rules"][0]["limits"][0]["max"] = json!(1);
    let rig = Rig::new(&fake, &[policy]).await;
    let client = rig.client.session().await;
    promote(&client, "a").await;
    promote(&client, "b").await;
    for approval in list(&rig) {
        decide(
            &rig,
            &approval.metadata.name.unwrap(),
            Verdict::Approved,
            None,
        );
    }
    assert!(!promote(&client, "a").await.0);
    let (error, text) = promote(&client, "b").await;
    assert!(error && text.starts_with("Limit of 1"), "{text}");
    assert!(promote(&client, "c").await.1.starts_with("Limit of 1"));
    assert_eq!((list(&rig).len(), fake.calls()), (2, 1));
    assert!(
        list(&rig)
            .iter()
            .any(|approval| phase(approval) == Phase::Approved),
        "b was not used up"
    );
}

#[tokio::test]
async fn an_execution_that_fails_has_used_its_approval() {
    let fake = Fake::start(&["promote", "echo"]).await;
    let rig = Rig::new(&fake, &[held("0s")]).await;
    let client = rig.client.session().await;
    promote(&client, "a").await;
    decide(&rig, &name(&rig), Verdict::Approved, None);
    fake.on("tools/call", |_| Answer::Raw(Vec::new()));
    assert_eq!(
        client.call("promote", json!({"text": "a"})).await.error().0,
        -32603
    );
    fake.as_usual("tools/call");
    assert!(
        promote(&client, "a")
            .await
            .1
            .starts_with("Approval pending")
    );
    assert_eq!(fake.calls(), 1);
}

#[tokio::test]
async fn requests_of_a_session_that_ends_are_withdrawn_unless_another_session_asks_too() {
    let fake = Fake::start(&["promote", "echo"]).await;
    let rig = Rig::new(&fake, &[held("0s")]).await;
    let (one, two) = (rig.client.session().await, rig.client.session().await);
    promote(&one, "a").await;
    promote(&one, "b").await;
    promote(&two, "b").await;
    assert_eq!(one.send("DELETE", None).await.status, 204);
    let standing: Vec<(String, Phase)> = list(&rig)
        .iter()
        .map(|approval| (approval.spec.arguments_preview.clone(), phase(approval)))
        .collect();
    assert_eq!(standing.len(), 2);
    for (preview, phase) in standing {
        let expected = if preview.contains('a') {
            Phase::Withdrawn
        } else {
            Phase::Pending
        };
        assert_eq!(phase, expected, "{preview}");
    }
    // Whoever asks again has a new request, which a person decides.
    let (_, text) = promote(&two, "a").await;
    assert!(text.starts_with("Approval pending"), "{text}");
    assert_eq!(list(&rig).len(), 3);
}

#[tokio::test]
async fn an_approval_is_stale_once_calls_go_elsewhere() {
    let fake = Fake::start(&["promote", "echo"]).await;
    let spec = crate::support::rig::open_to_all(&fake);
    let mut rig = Rig::new(&fake, &[held("20s")]).await;
    let client = rig.client.session().await;
    let call = spawn(&client, "a");
    eventually("it is held", || !list(&rig).is_empty()).await;
    let upstream = list(&rig)[0].spec.upstream.clone().unwrap();
    assert_eq!(upstream, format!("http://{}/mcp", fake.addr));
    // Another value of a header: the same server, and perhaps another tenant's rights.
    let mut elsewhere = spec.clone();
    elsewhere["upstream"]["http"]["headers"] = json!([{"name": "X-Tenant", "value": "production"}]);
    rig.apply_spec(elsewhere.clone(), &[held("20s")]).unwrap();
    let (error, text) = soon("the answer", call).await.unwrap();
    assert!(error && text.starts_with("Approval stale"), "{text}");
    let stale = name(&rig);
    assert_eq!(phase(&list(&rig)[0]), Phase::Stale);
    assert!(matches!(
        try_decide(&rig, &stale, Verdict::Approved, None),
        Err(DecideError::Stale(_))
    ));
    // One that a person has approved already.
    rig.apply_spec(elsewhere, &[held("0s")]).unwrap();
    eventually("it is listed", || rig.gateway.snapshot().unwrap().listed).await;
    let client = rig.client.session().await;
    let (_, text) = promote(&client, "a").await;
    assert!(text.starts_with("Approval pending"), "{text}");
    let pending = |rig: &Rig| {
        let all = list(rig).into_iter();
        let mut open = all.filter(|approval| phase(approval) == Phase::Pending);
        open.next().unwrap().metadata.name.unwrap()
    };
    decide(&rig, &pending(&rig), Verdict::Approved, None);
    rig.apply_spec(spec, &[held("0s")]).unwrap();
    eventually("it is listed", || rig.gateway.snapshot().unwrap().listed).await;
    let client = rig.client.session().await;
    let (error, text) = promote(&client, "a").await;
    assert!(error && text.starts_with("Approval pending"), "{text}");
    assert_eq!(fake.calls(), 0);
    // Limits and time-outs are no other place.
    let approved = pending(&rig);
    decide(&rig, &approved, Verdict::Approved, None);
    let mut timed = crate::support::rig::open_to_all(&fake);
    timed["upstream"]["timeout"] = json!("50s");
    rig.apply_spec(timed, &[held("0s")]).unwrap();
    assert!(!promote(&client, "a").await.0);
}

#[tokio::test]
async fn a_guardrails_approver_sees_what_the_server_would_hide() {
    let fake = Fake::start(&["promote", "echo"]).await;
    let mut spec = crate::support::rig::open_to_all(&fake);
    spec["tools"] = json!([{"name": "promote", "redact": ["/text"]}]);
    spec["audit"] = json!({"arguments": "None"});
    let mut rig = Rig::new(&fake, &[held("0s")]).await;
    rig.apply_spec(spec, &[held("0s")]).unwrap();
    let client = rig.client.session().await;
    promote(&client, "a").await;
    assert_eq!(
        list(&rig)[0].spec.arguments_preview,
        r#"{"text":"[redacted]"}"#
    );
    let mut bundle = rig.bundle(9, &[held("0s"), held("0s")]);
    bundle.policies[1].namespace = "portcullis-system".to_owned();
    rig.gateway.apply(bundle.sealed().unwrap()).unwrap();
    promote(&client, "b").await;
    let guarded = list(&rig)
        .into_iter()
        .find(|approval| approval.spec.policy == "portcullis-system/p1")
        .unwrap();
    assert_eq!(guarded.spec.arguments_preview, r#"{"text":"b"}"#);
}

#[tokio::test]
async fn the_steps_of_an_approval_name_the_decisions_on_its_calls() {
    let fake = Fake::start(&["promote", "echo"]).await;
    let rig = Rig::new(&fake, &[held("0s")]).await;
    let client = rig.client.session().await;
    let asked = client.call("promote", json!({"text": "a"})).await;
    decide(&rig, &name(&rig), Verdict::Approved, Some("better"));
    let made = client.call("promote", json!({"text": "a"})).await;
    let id = |reply: &crate::support::client::Reply| {
        reply.header("portcullis-decision-id").unwrap().to_owned()
    };
    eventually("its steps", || rig.audit.steps().len() == 3).await;
    let told: Vec<Value> = rig
        .audit
        .steps()
        .iter()
        .map(|line| json!([line["step"], line["decisionId"], line["by"], line["reason"]]))
        .collect();
    assert_eq!(
        told,
        [
            json!(["requested", id(&asked), null, null]),
            json!(["approved", id(&asked), "joe", "better"]),
            json!(["consumed", id(&made), "joe", "better"]),
        ]
    );
    let digest = &list(&rig)[0].spec.arguments_digest;
    assert!(
        rig.audit
            .steps()
            .iter()
            .all(|line| line["digest"] == **digest && line["server"] == "ml/fake")
    );
    let decided: Vec<Value> = rig.audit.all();
    assert_eq!(decided[0]["decisionId"], id(&asked));
    assert_eq!(decided[1]["decisionId"], id(&made));
}

#[tokio::test]
async fn the_line_of_a_call_says_what_became_of_its_approval() {
    let fake = Fake::start(&["promote", "echo"]).await;
    let rig = Rig::new(&fake, &[held("0s")]).await;
    let client = rig.client.session().await;
    let mut expected = Vec::new();
    let mut step = async |text: &'static str, begins: &str, state: &'static str| {
        let (_, answer) = promote(&client, text).await;
        assert!(answer.starts_with(begins), "{state}: {answer}");
        expected.push(state);
    };
    step("a", "Approval pending: ", "pending").await;
    decide(&rig, &name(&rig), Verdict::Denied, None);
    step("a", "Approval denied: ", "denied").await;
    step("b", "Approval pending: ", "pending").await;
    let second = list(&rig)
        .iter()
        .find(|one| phase(one) == Phase::Pending)
        .and_then(|one| one.metadata.name.clone())
        .unwrap();
    decide(&rig, &second, Verdict::Approved, None);
    step("b", r#"{"text":"b"}"#, "approved").await;
    // One that runs out is told before another one is asked for.
    let mut short = held("0s");
    short["rules"][0]["approval"]["expiresAfter"] = json!("1s");
    rig.apply(&[short]).unwrap();
    step("c", "Approval pending: ", "pending").await;
    eventually("it expires", || {
        let all = list(&rig);
        all.iter().any(|one| phase(one) == Phase::Expired)
    })
    .await;
    step("c", "Approval expired: ", "expired").await;
    step("c", "Approval pending: ", "pending").await;
    rig.apply(&[held("0s")]).unwrap();
    let others: Vec<String> = (0..20).map(|n| format!("other {n}")).collect();
    for text in &others {
        promote(&client, text).await;
    }
    let full = promote(&client, "one more").await.1;
    assert!(full.contains("already wait"), "{full}");
    eventually("every line", || rig.audit.all().len() == 28).await;
    let states: Vec<String> = rig
        .audit
        .all()
        .iter()
        .map(|line| line["approvalState"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(states[..7], expected);
    assert_eq!(states.last().map(String::as_str), Some("full"));
    // A call that no person is asked about says nothing of the kind.
    client.call("echo", json!({})).await;
    eventually("its line", || rig.audit.all().len() == 29).await;
    assert_eq!(rig.audit.all()[28].get("approvalState"), None);
}

#[tokio::test]
async fn metrics_show_how_many_requests_wait_for_how_long_and_how_long_decisions_take() {
    let fake = Fake::start(&["promote", "echo"]).await;
    let rig = Rig::new(&fake, &[held("0s")]).await;
    let value = |name: &str| {
        let text = rig.metrics();
        text.lines()
            .find(|line| line.starts_with(&format!("portcullis_{name}{{server=\"ml/fake\"}}")))
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
    };
    assert_eq!(value("approvals_pending"), Some(0.0));
    assert_eq!(value("approvals_oldest_seconds"), Some(0.0));
    assert_eq!(value("approval_decision_seconds_count"), None);
    let client = rig.client.session().await;
    promote(&client, "a").await;
    promote(&client, "b").await;
    assert_eq!(value("approvals_pending"), Some(2.0));
    let age = value("approvals_oldest_seconds").unwrap();
    eventually("it gets older", || {
        value("approvals_oldest_seconds").unwrap() > age
    })
    .await;
    let all = list(&rig);
    decide(
        &rig,
        all[0].metadata.name.as_deref().unwrap(),
        Verdict::Denied,
        None,
    );
    assert_eq!(value("approvals_pending"), Some(1.0));
    assert_eq!(value("approval_decision_seconds_count"), Some(1.0));
    decide(
        &rig,
        all[1].metadata.name.as_deref().unwrap(),
        Verdict::Approved,
        None,
    );
    assert_eq!(value("approvals_pending"), Some(0.0));
    assert_eq!(value("approvals_oldest_seconds"), Some(0.0));
    assert_eq!(value("approval_decision_seconds_count"), Some(2.0));
}

#[tokio::test]
async fn names_of_approvals_say_nothing_of_their_digests() {
    let fake = Fake::start(&["promote", "echo"]).await;
    let (one, other) = (
        Rig::new(&fake, &[held("0s")]).await,
        Rig::new(&fake, &[held("0s")]).await,
    );
    for rig in [&one, &other] {
        promote(&rig.client.session().await, "a").await;
    }
    // The same call at the same server, and each has made a key of its own.
    let digest = |rig: &Rig| list(rig)[0].spec.arguments_digest.clone();
    assert_eq!(digest(&one), digest(&other));
    assert_ne!(name(&one), name(&other));
    assert!(!digest(&one).contains(name(&one).split('-').nth(1).unwrap()));
}
