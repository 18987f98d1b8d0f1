//! What is wrong is told, and leaves what is in force untouched.

use portcullis::api::condition::ConditionType;
use serde_json::{Value, json};

use super::rig::{Room, SYSTEM, allow, call, deny, find, policy, server};
use crate::support::eventually;
use crate::support::wire::upstream::Fake;

async fn room(what: &'static str) -> Option<(Room, Fake)> {
    let room = Room::open(what).await?;
    let fake = Fake::start(&["get_run", "set_tag"]).await;
    room.serve("mlflow", &fake);
    Some((room, fake))
}

fn broken() -> Value {
    json!([{"name": "reads", "tools": {"names": ["get_*"]}, "when": "args.x ==", "action": "Allow"}])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_became_wrong_stays_in_force_as_it_was_accepted() {
    let Some((room, _fake)) = room("wrong policies").await else {
        return;
    };
    room.apply(&policy("p", "mlflow", json!([allow("reads", &["get_*"])])));
    room.policy_is("p", ConditionType::Ready, "True", "Ready")
        .await;
    room.ready("mlflow").await;
    let agent = room.agent("mlflow").await;
    let revision = room
        .servers()
        .get("mlflow")
        .await
        .unwrap()
        .status
        .unwrap()
        .revision;
    room.apply(&policy("p", "mlflow", broken()));
    let refused = room
        .policy_is("p", ConditionType::Accepted, "False", "Invalid")
        .await;
    let message = find(&refused.status.unwrap().conditions, ConditionType::Accepted)
        .unwrap()
        .message
        .clone();
    assert!(
        message.contains("rule reads")
            && message.contains("spec.rules[0].when")
            && message.contains("line 1 column"),
        "{message}"
    );
    assert_eq!(call(&agent, "get_run").await, Ok(()));
    assert_eq!(
        room.servers()
            .get("mlflow")
            .await
            .unwrap()
            .status
            .unwrap()
            .revision,
        revision
    );
    eventually("an Event about it", || async {
        let events = room
            .cluster
            .kubectl([
                "get",
                "events.events.k8s.io",
                "-n",
                room.name(),
                "-o",
                "jsonpath={range .items[*]}{.type} {.regarding.name} {.reason}{\"\\n\"}{end}",
            ])
            .ok();
        if events.lines().any(|line| line == "Warning p Invalid") {
            Ok(())
        } else {
            Err(events)
        }
    })
    .await;
    // Put right, it is in force again.
    room.apply(&policy(
        "p",
        "mlflow",
        json!([deny("reads", &["get_*"], "Mended.")]),
    ));
    eventually("the mended policy", || async {
        match call(&agent, "get_run").await {
            Err(why) if why.contains("Mended.") => Ok(()),
            other => Err(other),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_was_never_right_closes_its_servers_and_no_others() {
    let Some((room, fake)) = room("policies that were never right").await else {
        return;
    };
    room.serve("other", &fake);
    room.apply(&policy("p", "other", json!([allow("reads", &["get_*"])])));
    room.apply(&policy("q", "mlflow", broken()));
    room.policy_is("q", ConditionType::Accepted, "False", "Invalid")
        .await;
    room.ready("other").await;
    let closed = room
        .server_is("mlflow", ConditionType::Ready, "False", "Closed")
        .await;
    let status = closed.status.unwrap();
    let ready = find(&status.conditions, ConditionType::Ready).unwrap();
    assert!(
        ready.message.contains(&format!("{}/q", room.name())),
        "{}",
        ready.message
    );
    assert_eq!(status.policies[0].reason.as_deref(), Some("Closed"));
    eventually("the policy says what follows", || async {
        let policy = room.policies().get("q").await.unwrap();
        let conditions = policy.status.unwrap_or_default().conditions;
        let said = |kind| find(&conditions, kind).map(|one| one.message.clone());
        let all = [ConditionType::Accepted, ConditionType::Programmed].map(said);
        let right = all
            .iter()
            .flatten()
            .all(|said| said.contains("never been accepted: its servers refuse every call"));
        if right { Ok(()) } else { Err(all) }
    })
    .await;
    eventually("an Event about it", || async {
        let events = room
            .cluster
            .kubectl([
                "get",
                "events.events.k8s.io",
                "-n",
                room.name(),
                "-o",
                "jsonpath={range .items[*]}{.type} {.regarding.name} {.reason}{\"\\n\"}{end}",
            ])
            .ok();
        if events.lines().any(|line| line == "Warning mlflow Closed") {
            Ok(())
        } else {
            Err(events)
        }
    })
    .await;
    let agent = room.agent("mlflow").await;
    assert_eq!(agent.tools().await, Vec::<String>::new());
    let why = call(&agent, "get_run").await.unwrap_err();
    assert!(why.contains("(blocked)") && why.contains('q'), "{why}");
    assert_eq!(call(&room.agent("other").await, "get_run").await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misspelt_key_makes_a_policy_invalid_and_is_named() {
    let Some((room, _fake)) = room("misspelt keys").await else {
        return;
    };
    let misspelt = json!([{"name": "reads", "tools": {"names": ["get_*"]}, "exceptCaller": ["key:a"], "action": "Deny"}]);
    let document = policy("p", "mlflow", misspelt);
    room.cluster
        .kubectl_with(
            ["apply", "--validate=false", "-n", room.name(), "-f", "-"],
            &document.to_string(),
        )
        .ok();
    let refused = room
        .policy_is("p", ConditionType::Accepted, "False", "Invalid")
        .await;
    let message = find(&refused.status.unwrap().conditions, ConditionType::Accepted)
        .unwrap()
        .message
        .clone();
    assert!(message.contains("spec.rules[0].exceptCaller"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_for_a_server_that_is_not_there_says_so_until_it_is() {
    let Some((room, fake)) = room("missing targets").await else {
        return;
    };
    room.apply(&policy("p", "later", json!([allow("reads", &["get_*"])])));
    room.policy_is("p", ConditionType::Accepted, "False", "TargetNotFound")
        .await;
    room.serve("later", &fake);
    room.policy_is("p", ConditionType::Ready, "True", "Ready")
        .await;
    assert_eq!(call(&room.agent("later").await, "get_run").await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guardrail_reaches_every_namespace_and_nobody_below_loosens_it() {
    let Some((room, _fake)) = room("guardrails").await else {
        return;
    };
    let marked = format!("guarded-{}", room.name());
    let mut labelled = server("mlflow", &_fake);
    labelled["metadata"]["labels"] = json!({"guard": marked});
    room.apply(&labelled);
    room.apply(&policy("p", "mlflow", json!([allow("all", &["*"])])));
    let guardrail = json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpPolicy", "metadata": {"name": marked},
        "spec": {"targetSelector": {"matchLabels": {"guard": marked}}, "rules": [deny("tags", &["set_*"], "The platform says no.")]},
    });
    room.cluster
        .kubectl_with(["apply", "-n", SYSTEM, "-f", "-"], &guardrail.to_string())
        .ok();
    room.ready("mlflow").await;
    let agent = room.agent("mlflow").await;
    eventually("the guardrail is in force", || async {
        match call(&agent, "set_tag").await {
            Err(why) if why.contains("The platform says no.") => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(call(&agent, "get_run").await, Ok(()));
    room.cluster
        .kubectl([
            "delete",
            "mcppolicies.portcullis.dev",
            &marked,
            "-n",
            SYSTEM,
        ])
        .ok();
    eventually("it is gone", || async { call(&agent, "set_tag").await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guardrail_follows_the_labels_of_namespaces() {
    let Some((room, fake)) = room("guardrails by namespace").await else {
        return;
    };
    let name = format!("tier-{}", room.name());
    room.serve("mlflow", &fake);
    room.apply(&policy("p", "mlflow", json!([allow("all", &["*"])])));
    let guardrail = |labels: serde_json::Value| {
        let document = json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpPolicy", "metadata": {"name": name},
            "spec": {
                "targetSelector": {"matchLabels": {}}, "namespaceSelector": {"matchLabels": labels},
                "rules": [deny("tags", &["set_*"], "Not in this tier.")],
            },
        });
        room.cluster
            .kubectl_with(["apply", "-n", SYSTEM, "-f", "-"], &document.to_string())
            .ok();
    };
    let label = |label: String| {
        room.cluster
            .kubectl(["label", "namespace", room.name(), &label, "--overwrite"])
            .ok();
    };
    guardrail(json!({"tier": name}));
    room.ready("mlflow").await;
    let agent = room.agent("mlflow").await;
    let refused = || async {
        match call(&agent, "set_tag").await {
            Err(why) if why.contains("Not in this tier.") => Ok(()),
            other => Err(other),
        }
    };
    assert_eq!(call(&agent, "set_tag").await, Ok(()));
    label(format!("tier={name}"));
    eventually("the namespace is selected", refused).await;
    label("tier=another".to_owned());
    eventually("it is not any more", || async {
        call(&agent, "set_tag").await
    })
    .await;
    guardrail(json!({"kubernetes.io/metadata.name": room.name()}));
    eventually("it is selected by its name", refused).await;
    room.cluster
        .kubectl(["delete", "mcppolicies.portcullis.dev", &name, "-n", SYSTEM])
        .ok();
    eventually("it is gone", || async { call(&agent, "set_tag").await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_carried_out_is_refused_with_its_reason_and_changes_nothing() {
    let Some((room, fake)) = room("refusals").await else {
        return;
    };
    room.apply(&policy("p", "mlflow", json!([allow("reads", &["get_*"])])));
    room.ready("mlflow").await;
    let agent = room.agent("mlflow").await;
    let with = |extra: Value| {
        let mut document = server("mlflow", &fake);
        document["spec"]
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        document
    };
    room.apply(&with(json!({
        "counters": {"local": {"persistentVolumeClaim": {"claimName": "c"}}},
        "gateway": {"replicas": 2},
    })));
    room.server_is("mlflow", ConditionType::Accepted, "False", "Invalid")
        .await;
    assert_eq!(call(&agent, "get_run").await, Ok(()));
    room.apply(&server("mlflow", &fake));
    let limited = json!([{"name": "reads", "tools": {"names": ["get_*"]}, "action": "Allow", "limits": [{"counter": "c", "max": 5, "window": "1m"}]}]);
    room.apply(&policy("p", "mlflow", limited));
    room.ready("mlflow").await;
    room.apply(&with(json!({"gateway": {"replicas": 2}})));
    let refused = room
        .policy_is(
            "p",
            ConditionType::Accepted,
            "False",
            "SharedCountersNeeded",
        )
        .await;
    let message = find(&refused.status.unwrap().conditions, ConditionType::Accepted)
        .unwrap()
        .message
        .clone();
    assert!(message.contains("2 replicas"), "{message}");
    room.server_is("mlflow", ConditionType::Ready, "False", "NothingAllowed")
        .await;
    room.apply(&server("mlflow", &fake));
    room.policy_is("p", ConditionType::Accepted, "True", "Accepted")
        .await;
    room.ready("mlflow").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_whose_limit_cannot_be_kept_holds_up_no_other_one() {
    let Some((room, _fake)) = room("a limit over a day").await else {
        return;
    };
    let reads = json!([allow("reads", &["get_*"])]);
    room.apply(&policy("reads", "mlflow", reads));
    room.ready("mlflow").await;
    let agent = room.agent("mlflow").await;
    let day = json!([
        {"name": "day", "tools": {"names": ["set_*"]}, "action": "Allow", "limits": [{"counter": "c", "max": 5, "window": "1d"}]},
        deny("none", &["get_*"], "Not by day."),
    ]);
    room.apply(&policy("day", "mlflow", day));
    room.policy_is(
        "day",
        ConditionType::Accepted,
        "False",
        "SharedCountersNeeded",
    )
    .await;
    // What it refuses is refused, and what it alone would allow is denied, naming it.
    let refused_for = |why: &'static str, tool: &'static str| {
        let agent = &agent;
        eventually(why, move || async move {
            match call(agent, tool).await {
                Err(said) if said.contains(why) => Ok(()),
                other => Err(other),
            }
        })
    };
    refused_for("Not by day.", "get_run").await;
    refused_for("only policy day would allow this", "set_tag").await;
    let server = room
        .server_is(
            "mlflow",
            ConditionType::PoliciesAccepted,
            "False",
            "SharedCountersNeeded",
        )
        .await;
    let status = server.status.unwrap();
    let named: Vec<(&str, Option<&str>)> = status
        .policies
        .iter()
        .map(|policy| (policy.name.as_str(), policy.reason.as_deref()))
        .collect();
    assert_eq!(
        named,
        [("day", Some("SharedCountersNeeded")), ("reads", None)]
    );
    let accepted = find(&status.conditions, ConditionType::Accepted).unwrap();
    assert_eq!(accepted.status, "True");
    // A new policy comes into force beside it.
    room.apply(&policy(
        "all",
        "mlflow",
        json!([deny("everything", &["*"], "Closed for now.")]),
    ));
    room.policy_is("all", ConditionType::Ready, "True", "Ready")
        .await;
    refused_for("Closed for now.", "set_tag").await;
}
