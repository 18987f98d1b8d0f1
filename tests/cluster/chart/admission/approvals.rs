//! Who asks, who decides, and who says that the approved call was made.

use std::time::Duration;

use kube::Client;
use serde_json::json;

use super::{
    SYSTEM, account, approval, create, decide, guarded, objects, patch, patch_status, time_after,
    writer,
};
use crate::support::{Cluster, eventually};

/// An approval that the gateway of the server `mlflow` asked for.
async fn pending(cluster: &Cluster, namespace: &str, name: &str, grant: &str) -> Client {
    let gateway = account(cluster, namespace, "mlflow-gateway");
    assert_eq!(
        create(&gateway, namespace, &approval(name, "mlflow", grant)).await,
        Ok(())
    );
    gateway
}

fn only_the_gateway_asks(namespace: &str, user: &str) -> Result<(), String> {
    Err(format!(
        "portcullis-mcpapprovals: only the gateway of the server asks for approvals \
         (system:serviceaccount:{namespace}:mlflow-gateway), not {user}; call the tool through the gateway to make a request"
    ))
}

fn only_the_gateway_consumes(namespace: &str, user: &str) -> Result<(), String> {
    Err(format!(
        "portcullis-mcpapprovals: only the gateway of the server (system:serviceaccount:{namespace}:mlflow-gateway) writes \
         status.consumedAt, not {user}; leave it as it is"
    ))
}

fn not_the_status(namespace: &str, user: &str) -> Result<(), String> {
    Err(format!(
        "portcullis-mcpapprovals: only the gateway of the server (system:serviceaccount:{namespace}:mlflow-gateway) and the \
         operator write the status of an approval, not {user}; to decide, add to spec.decisions"
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_gateway_of_the_server_asks() {
    let Some(cluster) = guarded("who asks for approvals").await else {
        return;
    };
    let namespace = cluster.namespace("asks").await;
    let place = namespace.name.as_str();
    let object = approval("a", "mlflow", "key:trainer");
    let user_name = |name: &str| format!("system:serviceaccount:{place}:{name}");

    let alice = writer(cluster, "alice");
    assert_eq!(
        create(&alice, place, &object).await,
        only_the_gateway_asks(place, "alice")
    );
    // The gateway of another server here, a gateway of that name elsewhere, and the operator.
    let other = account(cluster, place, "other-gateway");
    assert_eq!(
        create(&other, place, &object).await,
        only_the_gateway_asks(place, &user_name("other-gateway"))
    );
    let elsewhere = account(cluster, "elsewhere", "mlflow-gateway");
    let user = "system:serviceaccount:elsewhere:mlflow-gateway";
    assert_eq!(
        create(&elsewhere, place, &object).await,
        only_the_gateway_asks(place, user)
    );
    let operator = account(cluster, SYSTEM, "portcullis-operator");
    let user = "system:serviceaccount:portcullis-system:portcullis-operator";
    assert_eq!(
        create(&operator, place, &object).await,
        only_the_gateway_asks(place, user)
    );
    // Not even somebody who may do anything.
    let root = cluster.impersonate("root", &["system:masters"]);
    assert_eq!(
        create(&root, place, &object).await,
        only_the_gateway_asks(place, "root")
    );

    pending(cluster, place, "a", "key:trainer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_gateway_says_that_the_call_was_made() {
    let Some(cluster) = guarded("who consumes approvals").await else {
        return;
    };
    let namespace = cluster.namespace("consumes").await;
    let place = namespace.name.as_str();
    let gateway = pending(cluster, place, "a", "key:trainer").await;
    let operator = account(cluster, SYSTEM, "portcullis-operator");
    let operator_name = "system:serviceaccount:portcullis-system:portcullis-operator";
    let alice = writer(cluster, "alice");
    let other = account(cluster, place, "other-gateway");
    let other_name = format!("system:serviceaccount:{place}:other-gateway");

    // Not what the operator would write, who is at work here: writing what is there is nobody's
    // offence.
    let phase = json!({ "phase": "Denied" });
    let consumed =
        json!({ "phase": "Consumed", "consumedAt": time_after(Duration::from_secs(5 * 60)) });
    let status = |client: &Client, status: &serde_json::Value| {
        let (client, status) = (client.clone(), status.clone());
        async move { patch_status(&client, place, "McpApproval", "a", status).await }
    };
    assert_eq!(status(&alice, &phase).await, not_the_status(place, "alice"));
    assert_eq!(
        status(&other, &phase).await,
        not_the_status(place, &other_name)
    );
    assert_eq!(status(&operator, &phase).await, Ok(()));
    assert_eq!(
        status(&gateway, &json!({ "phase": "Approved" })).await,
        Ok(())
    );

    assert_eq!(
        status(&alice, &consumed).await,
        only_the_gateway_consumes(place, "alice")
    );
    assert_eq!(
        status(&other, &consumed).await,
        only_the_gateway_consumes(place, &other_name)
    );
    assert_eq!(
        status(&operator, &consumed).await,
        only_the_gateway_consumes(place, operator_name)
    );
    assert_eq!(status(&gateway, &consumed).await, Ok(()));
    // Through the object itself no status can be written, so nothing gets around this.
    let change = json!({ "status": { "consumedAt": null, "phase": "Pending" }, "metadata": { "labels": { "a": "b" } } });
    assert_eq!(
        patch(&alice, place, "McpApproval", "a", change).await,
        Ok(())
    );
    let found = objects(&alice, place, "McpApproval")
        .get("a")
        .await
        .unwrap();
    assert_eq!(found.data["status"], consumed);
    // The operator goes on writing the phase of a consumed one.
    assert_eq!(
        status(&operator, &json!({ "phase": "Expired" })).await,
        Ok(())
    );
    // And writing nothing is nobody's offence. What is there may be put right by the operator at
    // any moment.
    eventually("the status is written as it is", || async {
        let found = objects(&alice, place, "McpApproval").get("a").await;
        let same = json!({ "phase": found.unwrap().data["status"]["phase"] });
        status(&alice, &same).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_decides_signs_with_his_own_name() {
    let Some(cluster) = guarded("who decides approvals").await else {
        return;
    };
    let namespace = cluster.namespace("decides").await;
    let place = namespace.name.as_str();
    pending(cluster, place, "a", "key:trainer").await;
    let mallory = writer(cluster, "mallory");
    assert_eq!(
        decide(&mallory, place, "a", "alice", false).await,
        Err("portcullis-decisions: by must be who you are: write by: mallory".to_owned())
    );
    let root = cluster.impersonate("root", &["system:masters"]);
    assert_eq!(
        decide(&root, place, "a", "alice", false).await,
        Err("portcullis-decisions: by must be who you are: write by: root".to_owned())
    );
    let alice = writer(cluster, "alice");
    assert_eq!(decide(&alice, place, "a", "alice", false).await, Ok(()));
    // What does not touch the decision is everybody's, afterwards too.
    let label = json!({ "metadata": { "labels": { "seen": "yes" } } });
    assert_eq!(
        patch(&mallory, place, "McpApproval", "a", label).await,
        Ok(())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_made_the_call_does_not_decide_it() {
    let Some(cluster) = guarded("callers that decide their own calls").await else {
        return;
    };
    let namespace = cluster.namespace("own-call").await;
    let place = namespace.name.as_str();
    let own = |user: &str| {
        Err(format!(
            "portcullis-decisions: {user} made this call and cannot decide it; ask another approver"
        ))
    };
    // The grant, who stands behind it, and who does not.
    let jwt = "jwt:corp/alice@corp.example";
    let cases = [
        (jwt, "alice@corp.example", false),
        (jwt, "oidc:alice@corp.example", false),
        (jwt, "https://sso.example#alice@corp.example", false),
        (jwt, "bob@corp.example", true),
        // The end of another name is not this name.
        (jwt, "malice@corp.example", true),
        ("key:trainer", "trainer", true),
        ("anonymous", "alice", true),
        // Whatever the name looks like: the grant itself never decides.
        ("anonymous", "anonymous", false),
        ("key:trainer", "key:trainer", false),
    ];
    let mut wrong = Vec::new();
    for (index, (grant, user, may)) in cases.into_iter().enumerate() {
        let name = format!("a{index}");
        pending(cluster, place, &name, grant).await;
        let expected = if may { Ok(()) } else { own(user) };
        let found = decide(&writer(cluster, user), place, &name, user, true).await;
        if found != expected {
            wrong.push(format!("{user} on a call of {grant}: {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let user = "system:serviceaccount:ops:approver-bot";
    pending(cluster, place, "bot", "serviceaccount:ops/approver-bot").await;
    let bot = account(cluster, "ops", "approver-bot");
    assert_eq!(
        decide(&bot, place, "bot", user, false).await,
        own(user),
        "listed, but it made the call"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_decides_only_if_the_chart_lists_it_and_a_gateway_never() {
    let Some(cluster) = guarded("service accounts that decide").await else {
        return;
    };
    let namespace = cluster.namespace("accounts").await;
    let place = namespace.name.as_str();
    let gateway = pending(cluster, place, "a", "key:trainer").await;
    let not = |user: &str| {
        Err(format!(
            "portcullis-decisions: {user} is a service account that may not decide approvals; let a person decide, or list \
             it under approvals.serviceAccounts of the chart"
        ))
    };
    let user = format!("system:serviceaccount:{place}:mlflow-gateway");
    assert_eq!(decide(&gateway, place, "a", &user, false).await, not(&user));
    let operator = account(cluster, SYSTEM, "portcullis-operator");
    let user = "system:serviceaccount:portcullis-system:portcullis-operator";
    assert_eq!(decide(&operator, place, "a", user, false).await, not(user));
    let unlisted = account(cluster, place, "approver-bot");
    let user = format!("system:serviceaccount:{place}:approver-bot");
    assert_eq!(
        decide(&unlisted, place, "a", &user, false).await,
        not(&user),
        "of the listed name, but elsewhere"
    );

    let listed = account(cluster, "ops", "approver-bot");
    let user = "system:serviceaccount:ops:approver-bot";
    assert_eq!(decide(&listed, place, "a", user, false).await, Ok(()));
}

/// The values of these tests list ops/mlflow-gateway, as somebody might by mistake.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_listed_by_mistake_does_not_decide_its_own_requests() {
    let Some(cluster) = guarded("a gateway that is listed among the approvers").await else {
        return;
    };
    cluster.kubectl(["create", "namespace", "ops"]).ok();
    let gateway = pending(cluster, "ops", "a", "key:trainer").await;
    let user = "system:serviceaccount:ops:mlflow-gateway";
    assert_eq!(
        decide(&gateway, "ops", "a", user, false).await,
        Err(format!(
            "portcullis-decisions: {user} is a service account that may not decide approvals; let a person decide, or list \
             it under approvals.serviceAccounts of the chart"
        ))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_person_adds_one_entry_of_their_own_and_leaves_those_of_others() {
    let Some(cluster) = guarded("several people").await else {
        return;
    };
    let namespace = cluster.namespace("several").await;
    let place = namespace.name.as_str();
    let gateway = account(cluster, place, "mlflow-gateway");
    let mut object = approval("a", "mlflow", "key:trainer");
    object["spec"]["approvers"] = json!(3);
    assert_eq!(create(&gateway, place, &object).await, Ok(()));
    let says = |by: &str| json!({ "verdict": "Approved", "by": by });
    let decided = async |user: &str, decisions: serde_json::Value| {
        let change = json!({ "spec": { "decisions": decisions } });
        patch(&writer(cluster, user), place, "McpApproval", "a", change).await
    };
    let one = Err(
        "portcullis-decisions: add one entry to spec.decisions, your own, and leave the others as they are".to_owned(),
    );
    // Two at once, in whatever names.
    assert_eq!(
        decided("alice", json!([says("alice"), says("bob")])).await,
        one
    );
    assert_eq!(decided("alice", json!([says("alice")])).await, Ok(()));
    // Somebody else's entry is not touched, not even by whoever adds their own.
    let mut bent = says("alice");
    bent["verdict"] = json!("Denied");
    for decisions in [
        json!([bent, says("bob")]),
        json!([says("bob")]),
        json!(null),
        json!([]),
    ] {
        let refused = decided("bob", decisions.clone()).await.unwrap_err();
        assert!(
            Err(refused.clone()) == one || refused.contains("a decision is final"),
            "{decisions}: {refused}"
        );
    }
    // Nor in another's name.
    assert_eq!(
        decided("bob", json!([says("alice"), says("carol")])).await,
        Err("portcullis-decisions: by must be who you are: write by: bob".to_owned())
    );
    // One person is one person.
    let twice = decided("alice", json!([says("alice"), says("alice")])).await;
    assert!(twice.unwrap_err().contains("Duplicate value"));
    assert_eq!(
        decided("bob", json!([says("alice"), says("bob")])).await,
        Ok(())
    );
    let denied = json!({ "verdict": "Denied", "by": "carol", "reason": "not on a Friday" });
    assert_eq!(
        decided("carol", json!([says("alice"), says("bob"), denied])).await,
        Ok(())
    );
}
