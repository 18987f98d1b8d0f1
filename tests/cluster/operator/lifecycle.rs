//! From `kubectl apply` to a gateway that decides, and back.

use portcullis::api::condition::ConditionType;
use serde_json::json;

use super::rig::{Room, allow, call, deny, policy};
use crate::support::eventually;
use crate::support::wire::upstream::Fake;

#[tokio::test(flavor = "multi_thread")]
async fn an_applied_server_and_policy_become_a_gateway_that_decides_and_a_status_that_says_so() {
    let Some(room) = Room::open("the operator").await else {
        return;
    };
    let fake = Fake::start(&["get_run", "delete_run", "set_tag"]).await;
    room.serve("mlflow", &fake);
    room.apply(&policy(
        "p",
        "mlflow",
        json!([
            allow("reads", &["get_*"]),
            deny("writes", &["set_*"], "Not you.")
        ]),
    ));
    let server = room.ready("mlflow").await;
    let agent = room.agent("mlflow").await;
    assert_eq!(agent.tools().await, ["get_run", "set_tag"]);
    assert_eq!(call(&agent, "get_run").await, Ok(()));
    let denied = call(&agent, "set_tag").await.unwrap_err();
    assert!(denied.contains("Not you."), "{denied}");
    assert_eq!(
        call(&agent, "delete_run").await,
        Err("Unknown tool: delete_run".to_owned())
    );

    let status = server.status.unwrap();
    assert_eq!(
        status.url,
        Some(format!(
            "http://mlflow-gateway.{}.svc:8080/mcp",
            room.name()
        ))
    );
    assert_eq!(status.replicas.unwrap().summary, "1/1");
    assert_eq!(status.tools.unwrap().summary, "2/3");
    assert_eq!(status.policy_count, Some(1));

    let counted = room
        .violations("mlflow", 2)
        .await
        .status
        .unwrap()
        .violations
        .unwrap();
    assert_eq!((counted.counts.hidden, counted.counts.denied), (1, 1));
    let recent: Vec<(&str, &str)> = counted
        .recent
        .iter()
        .map(|one| (one.tool.as_str(), one.rule.as_str()))
        .collect();
    assert_eq!(recent, [("delete_run", "(default)"), ("set_tag", "writes")]);
    let of_policy = eventually("the policy's violations", || async {
        let policy = room.policies().get("p").await.unwrap();
        let violations = policy
            .status
            .and_then(|status| status.violations)
            .unwrap_or_default();
        if violations.counts.total == 2 {
            Ok(violations)
        } else {
            Err(violations)
        }
    })
    .await;
    let rules: Vec<(&str, i64)> = of_policy
        .by_rule
        .iter()
        .map(|one| (one.rule.as_str(), one.count))
        .collect();
    assert_eq!(rules, [("(default)", 1), ("writes", 1)]);
    room.policy_is("p", ConditionType::Ready, "True", "Ready")
        .await;

    let printed = room
        .cluster
        .kubectl(["get", "mcpservers.portcullis.dev", "-n", room.name()])
        .ok();
    let row: Vec<&str> = printed.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(
        row[..6],
        [
            "mlflow",
            "True",
            "Enforce",
            &format!("http://mlflow-gateway.{}.svc:8080/mcp", room.name()),
            "2/3",
            "1"
        ]
    );
    eventually("Events", || async {
        let events = room
            .cluster
            .kubectl([
                "get",
                "events.events.k8s.io",
                "-n",
                room.name(),
                "-o",
                "jsonpath={range .items[*]}{.regarding.kind} {.reason} {.note}{\"\\n\"}{end}",
            ])
            .ok();
        let has = |start: &str, part: &str| {
            events
                .lines()
                .any(|line| line.starts_with(start) && line.contains(part))
        };
        let told = has("McpServer Accepted", "valid")
            && has("McpPolicy Accepted", "valid")
            && has(
                "McpServer Violation",
                "anonymous called set_tag: denied by policy",
            );
        if told { Ok(()) } else { Err(events) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_policy_is_in_force_without_a_restart() {
    let Some(room) = Room::open("policy edits").await else {
        return;
    };
    let fake = Fake::start(&["get_run"]).await;
    room.serve("mlflow", &fake);
    room.apply(&policy("p", "mlflow", json!([allow("reads", &["get_*"])])));
    room.ready("mlflow").await;
    let agent = room.agent("mlflow").await;
    let pods: Vec<_> = room
        .gateway_pods("mlflow")
        .await
        .iter()
        .map(|pod| pod.metadata.uid.clone())
        .collect();
    for round in 0..5 {
        room.apply(&policy(
            "p",
            "mlflow",
            json!([deny("reads", &["get_*"], &format!("round {round}"))]),
        ));
        eventually("the new verdict", || async {
            match call(&agent, "get_run").await {
                Err(why) if why.contains(&format!("round {round}")) => Ok(()),
                other => Err(other),
            }
        })
        .await;
    }
    let programmed = room
        .policy_is("p", ConditionType::Programmed, "True", "Programmed")
        .await;
    assert_eq!(programmed.status.unwrap().targets.unwrap().summary, "1/1");
    let after: Vec<_> = room
        .gateway_pods("mlflow")
        .await
        .iter()
        .map(|pod| pod.metadata.uid.clone())
        .collect();
    assert_eq!(
        after, pods,
        "no pod was rolled, and the session is the same"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_server_takes_all_that_was_made_for_it_along() {
    let Some(room) = Room::open("deletion").await else {
        return;
    };
    let fake = Fake::start(&["get_run"]).await;
    room.serve("mlflow", &fake);
    room.open_to_all("mlflow");
    room.ready("mlflow").await;
    let kinds = "deployments,services,configmaps,serviceaccounts,roles,rolebindings,networkpolicies,secrets,pods";
    let left = || {
        let selector = "portcullis.dev/server=mlflow";
        room.cluster
            .kubectl([
                "get",
                kinds,
                "-n",
                room.name(),
                "-l",
                selector,
                "-o",
                "name",
            ])
            .ok()
    };
    assert!(left().lines().count() >= 8, "{}", left());
    room.cluster
        .kubectl([
            "delete",
            "mcpservers.portcullis.dev",
            "mlflow",
            "-n",
            room.name(),
        ])
        .ok();
    eventually("nothing is left", || async {
        if left().trim().is_empty() {
            Ok(())
        } else {
            Err(left())
        }
    })
    .await;
}
