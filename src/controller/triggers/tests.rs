//! What each kind of change enqueues.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::controller::testing::{TestOperator, bring, http, mcp_policy, mcp_server, queued};
use crate::policy::bundle::{Bundle, BundlePolicy};
use crate::scripted_api::Script;

fn operator() -> (Script, TestOperator) {
    let script = Script::new(Vec::new());
    let operator = TestOperator::new(&script);
    for server in ["a", "b"] {
        operator.server(&mcp_server(server, 1, &http()));
    }
    (script, operator)
}

fn read<K: DeserializeOwned>(object: &Value) -> Arc<K> {
    Arc::new(serde_json::from_str(&object.to_string()).unwrap())
}

/// A server is known to have a bundle with these policies.
fn holds(operator: &TestOperator, server: &str, policies: &[&str]) {
    let name = ("ml".to_owned(), server.to_owned());
    let memory = operator
        .ctx
        .memory
        .servers
        .of(&name, &format!("uid-of-{server}"));
    let mut bundle: Bundle = crate::policy::tests::bundle("", &[]);
    let policy: McpPolicy = serde_json::from_value(mcp_policy("ml", "x", "m", "true")).unwrap();
    bundle.policies = policies
        .iter()
        .map(|name| BundlePolicy {
            namespace: "ml".to_owned(),
            name: (*name).to_owned(),
            uid: format!("uid-of-{name}"),
            generation: 1,
            not_accepted: None,
            spec: policy.spec.clone(),
        })
        .collect();
    memory.lock().knows(bundle, Vec::new());
}

type Policy = Loose<McpPolicy>;

fn policy(generation: i64, target: &str, when: &str) -> Arc<Policy> {
    let mut policy = mcp_policy("ml", "p", target, when);
    policy["metadata"]["generation"] = json!(generation);
    read(&policy)
}

async fn after_policy(
    operator: &TestOperator,
    before: Option<&Arc<Policy>>,
    after: Option<&Arc<Policy>>,
) -> Vec<String> {
    policy_changed(&operator.ctx, ObjectEvent { before, after });
    queued(&operator.ctx.queues.servers).await
}

#[tokio::test(start_paused = true)]
async fn a_policy_enqueues_the_servers_that_it_targets_and_those_that_may_still_have_it() {
    let (_script, operator) = operator();
    holds(&operator, "a", &[]);
    holds(&operator, "b", &[]);
    let (first, second) = (policy(1, "a", "true"), policy(2, "b", "args."));
    assert_eq!(after_policy(&operator, None, Some(&first)).await, ["a"]);
    // The policy itself comes after its servers.
    assert_eq!(operator.ctx.queues.policies.depth(), 0);
    tokio::time::advance(SERVERS_FIRST).await;
    assert_eq!(queued(&operator.ctx.queues.policies).await, ["p"]);
    assert_eq!(
        after_policy(&operator, Some(&first), Some(&second)).await,
        ["a", "b"]
    );
    // The form that was wrong has left `a` with the one before, which is to go when the policy is
    // right again, or goes.
    holds(&operator, "a", &["p"]);
    let third = policy(3, "b", "true");
    assert_eq!(
        after_policy(&operator, Some(&second), Some(&third)).await,
        ["a", "b"]
    );
    assert_eq!(
        after_policy(&operator, Some(&second), None).await,
        ["a", "b"]
    );
    // Of a server that was not reconciled yet nothing is known.
    operator
        .ctx
        .memory
        .servers
        .forget(&("ml".to_owned(), "a".to_owned()));
    assert_eq!(
        after_policy(&operator, Some(&second), Some(&third)).await,
        ["a", "b"]
    );
    assert_eq!(
        after_policy(&operator, Some(&third), Some(&third)).await,
        [""; 0]
    );
}

#[tokio::test]
async fn a_watch_compiles_no_policy_whatever_changes() {
    let (_script, operator) = operator();
    holds(&operator, "a", &[]);
    let broken = policy(1, "a", "args.");
    after_policy(&operator, None, Some(&broken)).await;
    operator.policy(&mcp_policy("ml", "p", "a", "args."));
    let server = read(&mcp_server("a", 1, &http()));
    server_changed(
        &operator.ctx,
        ObjectEvent {
            before: None,
            after: Some(&server),
        },
    );
    let namespace = read(&json!({"metadata": {"name": "ml", "labels": {"a": "b"}}}));
    namespace_changed(
        &operator.ctx,
        ObjectEvent {
            before: None,
            after: Some(&namespace),
        },
    );
    assert!(operator.ctx.diagnostics.is_empty());
    // A worker does.
    assert_eq!(operator.ctx.diagnostics.errors(&broken).len(), 1);
    assert!(!operator.ctx.diagnostics.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_status_that_somebody_else_wrote_is_put_right_and_ones_own_is_not_looked_at() {
    let (_script, operator) = operator();
    let with = |version: &str, status: Value| {
        let mut server = mcp_server("a", 1, &http());
        server["metadata"]["resourceVersion"] = json!(version);
        server["status"] = status;
        read::<Loose<McpServer>>(&server)
    };
    let name = ("ml".to_owned(), "a".to_owned());
    let memory = operator.ctx.memory.servers.of(&name, "uid-of-a");
    memory.lock().written.set(
        "6".to_owned(),
        crate::api::server::McpServerStatus::default(),
    );
    let (before, ours, theirs) = (
        with("5", json!({})),
        with("6", json!({"url": "http://ours"})),
        with("7", json!({"url": "http://theirs"})),
    );
    let change = |before, after| {
        server_changed(
            &operator.ctx,
            ObjectEvent {
                before: Some(before),
                after: Some(after),
            },
        );
    };
    change(&before, &ours);
    assert_eq!(queued(&operator.ctx.queues.servers).await, [""; 0]);
    change(&ours, &theirs);
    assert_eq!(queued(&operator.ctx.queues.servers).await, ["a"]);
    let of_policy = |version: &str, generation: i64| {
        let mut policy = mcp_policy("ml", "p", "a", "true");
        policy["metadata"]["resourceVersion"] = json!(version);
        policy["status"] = json!({"observedGeneration": generation, "conditions": []});
        read::<Policy>(&policy)
    };
    after_policy(
        &operator,
        Some(&of_policy("5", 1)),
        Some(&of_policy("6", 2)),
    )
    .await;
    assert_eq!(queued(&operator.ctx.queues.policies).await, ["p"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_comes_or_goes_or_has_other_labels_concerns_its_policies() {
    let (_script, operator) = operator();
    operator.policy(&mcp_policy("ml", "p", "a", "true"));
    let server = |generation: i64, label: &str| {
        let mut server = mcp_server("a", generation, &http());
        server["metadata"]["labels"] = json!({"team": label});
        read::<Loose<McpServer>>(&server)
    };
    let (first, edited, moved) = (server(1, "x"), server(2, "x"), server(2, "y"));
    let name = ("ml".to_owned(), "a".to_owned());
    operator.ctx.memory.servers.of(&name, "uid-of-a");
    for (before, after, policies) in [
        (None, Some(&first), 1),
        (Some(&first), Some(&edited), 0),
        (Some(&edited), Some(&moved), 1),
        (Some(&moved), None, 1),
    ] {
        server_changed(&operator.ctx, ObjectEvent { before, after });
        assert_eq!(queued(&operator.ctx.queues.servers).await, ["a"]);
        assert_eq!(queued(&operator.ctx.queues.policies).await.len(), policies);
    }
    assert!(operator.ctx.memory.servers.known(&name).is_none());
}

#[tokio::test]
async fn labels_of_a_namespace_concern_the_guardrails_that_select_by_them() {
    let (_script, operator) = operator();
    let namespace = |label: &str| {
        read::<PartialObjectMeta<Namespace>>(
            &json!({"metadata": {"name": "ml", "labels": {"stage": label}}}),
        )
    };
    let (before, after) = (namespace("test"), namespace("live"));
    let change = |before, after| {
        namespace_changed(
            &operator.ctx,
            ObjectEvent {
                before: Some(before),
                after: Some(after),
            },
        );
    };
    change(&before, &after);
    assert_eq!(
        queued(&operator.ctx.queues.servers).await,
        [""; 0],
        "no policy selects by them"
    );
    let mut guardrail = mcp_policy("ops", "g", "a", "true");
    guardrail["spec"] = json!({"targetSelector": {}, "namespaceSelector": {"matchLabels": {"stage": "live"}}, "rules": []});
    operator.policy(&guardrail);
    change(&after, &after);
    assert_eq!(queued(&operator.ctx.queues.servers).await, [""; 0]);
    change(&before, &after);
    assert_eq!(queued(&operator.ctx.queues.servers).await, ["a", "b"]);
    assert_eq!(queued(&operator.ctx.queues.policies).await, ["g"]);
}

#[tokio::test]
async fn children_pods_and_replica_sets_concern_the_server_that_their_label_names() {
    let (_script, operator) = operator();
    let labelled = |version: &str, more: Value| {
        let mut object = json!({"metadata": {
            "namespace": "ml", "name": "a-gateway", "uid": "u", "resourceVersion": version, "labels": {"portcullis.dev/server": "a"},
        }});
        object
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        object
    };
    let queues = &operator.ctx.queues;
    let child = |version: &str| read::<ObservedChild>(&labelled(version, json!({})));
    let (first, second) = (child("1"), child("2"));
    child_changed(
        &operator.ctx,
        ObjectEvent {
            before: Some(&first),
            after: Some(&first),
        },
    );
    assert_eq!(queued(&queues.servers).await, [""; 0]);
    child_changed(
        &operator.ctx,
        ObjectEvent {
            before: Some(&first),
            after: Some(&second),
        },
    );
    assert_eq!(queued(&queues.servers).await, ["a"]);
    let pod = |ip: &str| read::<GatewayPod>(&labelled("1", json!({"status": {"podIP": ip}})));
    let (waiting, running) = (pod(""), pod("10.0.0.1"));
    pod_changed(
        &operator.ctx,
        ObjectEvent {
            before: Some(&waiting),
            after: Some(&waiting),
        },
    );
    assert_eq!(queued(&queues.reports).await, [""; 0]);
    pod_changed(
        &operator.ctx,
        ObjectEvent {
            before: Some(&waiting),
            after: Some(&running),
        },
    );
    assert_eq!(queued(&queues.reports).await, ["a"]);
    assert_eq!(queued(&queues.servers).await, ["a"]);
    let set = read::<ObjectId<ReplicaSet>>(&labelled("1", json!({})));
    set_changed(
        &operator.ctx,
        ObjectEvent {
            before: Some(&set),
            after: Some(&set),
        },
    );
    assert_eq!(queued(&queues.servers).await, [""; 0]);
    set_changed(
        &operator.ctx,
        ObjectEvent {
            before: Some(&set),
            after: None,
        },
    );
    assert_eq!(queued(&queues.servers).await, ["a"]);
}

#[tokio::test]
async fn a_new_leader_looks_at_everything() {
    let (_script, operator) = operator();
    operator.policy(&mcp_policy("ml", "p", "a", "true"));
    let approval = json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpApproval", "metadata": {"namespace": "ml", "name": "ask"},
        "spec": {},
    });
    bring(&operator.ctx.caches.approvals, &approval);
    all(&operator.ctx, |_| true);
    let queues = &operator.ctx.queues;
    assert_eq!(queued(&queues.servers).await, ["a", "b"]);
    assert_eq!(queued(&queues.reports).await, ["a", "b"]);
    assert_eq!(queued(&queues.policies).await, ["p"]);
    assert_eq!(queued(&queues.approvals).await, ["ask"]);
    all(&operator.ctx, |name| name.0 == "another");
    assert_eq!(queued(&queues.servers).await, [""; 0]);
    let approval = read(&approval);
    approval_changed(
        &operator.ctx,
        ObjectEvent {
            before: None,
            after: Some(&approval),
        },
    );
    assert_eq!(queued(&queues.approvals).await, ["ask"]);
}
