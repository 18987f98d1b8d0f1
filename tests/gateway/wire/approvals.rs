//! Calls that wait for a person: executed once for each approval, and never otherwise.

use jiff::Timestamp;
use portcullis::api::approval::{McpApproval, Phase, Verdict};
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
    rig.approvals
        .decide(
            name,
            verdict,
            "joe",
            reason.map(str::to_owned),
            Timestamp::now(),
        )
        .unwrap();
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
    assert_eq!(
        (error, text),
        (
            true,
            format!(
                "Approval pending: a person must decide McpApproval {name}. Repeat the call unchanged to see whether it was approved."
            )
        )
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
        rig.audit_outcomes(5).await,
        [
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
    assert!(error && text.starts_with("Approval "), "{text}");
    let first = name(&rig);
    eventually("it expires", || phase(&list(&rig)[0]) == Phase::Expired).await;
    assert!(
        rig.approvals
            .decide(&first, Verdict::Approved, "joe", None, Timestamp::now())
            .is_err()
    );
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
    decide(&rig, &name(&rig), Verdict::Approved, None);
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
