//! The same list asked for again and again: what a caller got before is used again only while it is
//! what the caller would get anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::client::{Client, names};
use crate::support::rig::{Held, Rig, open_to_all};
use crate::support::upstream::{Answer, Fake, tool};

fn allow(tools: &[&str], callers: &[&str]) -> Value {
    json!({"rules": [{"name": "use", "tools": {"names": tools}, "action": "Allow",
        "callers": callers}], "defaultAction": "Hide"})
}

/// The names that the client gets for a request under this id, which the answer must have.
async fn list(client: &Client, id: Value, method: &str, key: &str) -> Vec<String> {
    let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": {}});
    let answer = client.post(&request).await.messages().pop().unwrap();
    assert_eq!(answer["id"], id, "{answer}");
    names(&answer["result"][key])
}

async fn tools(client: &Client, id: impl Into<Value>) -> Vec<String> {
    list(client, id.into(), "tools/list", "tools").await
}

async fn two_callers(fake: &Fake) -> (Rig, Client, Client) {
    let secrets = Held::default();
    secrets.set("keys", "one", "key-one-0123456789");
    secrets.set("keys", "two", "key-two-0123456789");
    let mut spec = open_to_all(fake);
    spec["authentication"] = json!({"apiKeys": {"secretRef": {"name": "keys"}}});
    let policies = [allow(&["a"], &["key:one"]), allow(&["b"], &["key:two"])];
    let rig = Rig::with(spec, secrets, &policies).await;
    let of = |key: &str| rig.client.with("Authorization", &format!("Bearer {key}"));
    let one = of("key-one-0123456789").session().await;
    let two = of("key-two-0123456789").session().await;
    (rig, one, two)
}

#[tokio::test]
async fn every_caller_gets_its_own_list_under_its_own_ids_however_often() {
    let fake = Fake::start(&["a", "b", "c"]).await;
    let (_rig, one, two) = two_callers(&fake).await;
    for round in 0..4 {
        assert_eq!(tools(&one, round).await, ["a"]);
        assert_eq!(tools(&two, format!("two-\"{round}")).await, ["b"]);
        assert_eq!(tools(&one, format!("one-{round}")).await, ["a"]);
        // The server is asked each time: it may have changed.
        assert!(fake.got("tools/list").len() >= 3 * (round + 1));
    }
}

#[tokio::test]
async fn a_change_of_policy_or_of_a_credential_counts_from_the_next_list_on() {
    let fake = Fake::start(&["a", "b", "c"]).await;
    let (rig, one, two) = two_callers(&fake).await;
    for _ in 0..3 {
        rig.apply(&[allow(&["a"], &["key:one"]), allow(&["b"], &["key:two"])])
            .unwrap();
        assert_eq!(
            (tools(&one, 1).await, tools(&two, 2).await),
            (vec!["a".to_owned()], vec!["b".to_owned()])
        );
        assert_eq!(
            (tools(&one, 1).await, tools(&two, 2).await),
            (vec!["a".to_owned()], vec!["b".to_owned()])
        );
        rig.apply(&[allow(&["c"], &["key:two"])]).unwrap();
        assert_eq!(tools(&one, 3).await, [""; 0]);
        assert_eq!(tools(&two, 4).await, ["c"]);
    }
}

#[tokio::test]
async fn a_server_that_changes_one_byte_is_read_anew() {
    let fake = Fake::start(&["a", "b"]).await;
    let (_rig, one, _) = two_callers(&fake).await;
    assert_eq!(tools(&one, 1).await, ["a"]);
    assert_eq!(tools(&one, 2).await, ["a"]);
    // The entries change their names, which are as long as before.
    fake.set_tools(vec![tool("b"), tool("a")]);
    assert_eq!(tools(&one, 3).await, ["a"]);
    let mut described = tool("a");
    described["description"] = json!("Does b.");
    fake.set_tools(vec![described, tool("b")]);
    let answer = one.request("tools/list", json!({})).await.json();
    assert_eq!(answer["result"]["tools"][0]["description"], "Does b.");
    assert_eq!(answer["result"]["tools"].as_array().unwrap().len(), 1);
    // A name twice is nobody's, and an answer to another request is none.
    fake.set_tools(vec![tool("a"), tool("a")]);
    assert_eq!(tools(&one, 4).await, [""; 0]);
    fake.set_tools(vec![tool("a"), tool("b")]);
    assert_eq!(tools(&one, 5).await, ["a"]);
    let first = fake.id_of("tools/list");
    fake.on("tools/list", move |_| {
        Answer::Json(
            json!({"jsonrpc": "2.0", "id": first, "result": {"tools": [tool("a"), tool("b")]}}),
        )
    });
    let refused = one.request("tools/list", json!({})).await.json();
    assert!(refused["error"].is_object(), "{refused}");
}

#[tokio::test]
async fn lists_of_other_kinds_and_streams_of_events_are_kept_apart() {
    let fake = Fake::start(&["a", "b"]).await;
    let policy = json!({
        "rules": [{"name": "a", "tools": {"names": ["a"]}, "action": "Allow"}],
        "prompts": [{"name": "b", "names": ["b"], "action": "Allow"}],
        "resources": [{"name": "c", "uris": ["u:c", "u:{c}"], "action": "Allow"}],
        "defaultAction": "Hide",
    });
    let rig = Rig::new(&fake, &[policy]).await;
    let client = rig.client.session().await;
    // The same entries in every answer, in a stream every other time.
    let asked = Arc::new(AtomicUsize::new(0));
    for method in [
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
    ] {
        let asked = Arc::clone(&asked);
        fake.on(method, move |got| {
            let named = |name: &str| json!({"name": name, "uri": format!("u:{name}"), "uriTemplate": format!("u:{{{name}}}"), "inputSchema": {"type": "object"}});
            let all = json!([named("a"), named("b"), named("c")]);
            let result = json!({"tools": all, "prompts": all, "resources": all, "resourceTemplates": all});
            let message = json!({"jsonrpc": "2.0", "id": got.json()["id"], "result": result});
            if asked.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
                Answer::pieces([Answer::event(&message)])
            } else {
                Answer::Json(message)
            }
        });
    }
    for round in 0..7 {
        for method in [
            "tools/list",
            "prompts/list",
            "resources/list",
            "resources/templates/list",
        ] {
            assert_eq!(list(&client, round.into(), method, "tools").await, ["u:a"]);
            assert_eq!(
                list(&client, round.into(), method, "prompts").await,
                ["u:b"]
            );
            assert_eq!(
                list(&client, round.into(), method, "resources").await,
                ["u:c"]
            );
            assert_eq!(
                list(&client, round.into(), method, "resourceTemplates").await,
                ["u:c"]
            );
        }
    }
}

#[tokio::test]
async fn the_pages_of_a_list_and_lists_that_are_too_long_to_keep_come_as_before() {
    let fake = Fake::start(&["a", "b"]).await;
    let (_rig, one, two) = two_callers(&fake).await;
    let long = "x".repeat(200 << 10);
    fake.on("tools/list", move |got| {
        let page = |tools: Value, next: Value| {
            let mut result = json!({"tools": tools});
            if !next.is_null() {
                result["nextCursor"] = next;
            }
            Answer::result(got, result)
        };
        let mut big = tool("b");
        big["description"] = json!(long);
        match got.json()["params"]["cursor"].as_str() {
            None => page(json!([tool("a")]), json!("second")),
            Some("second") => page(json!([big, tool("c")]), Value::Null),
            Some(other) => panic!("another cursor: {other}"),
        }
    });
    for _ in 0..3 {
        for (client, first, second) in [(&one, vec!["a"], vec![]), (&two, vec![], vec!["b"])] {
            let answer = client.request("tools/list", json!({})).await.json();
            assert_eq!(names(&answer["result"]["tools"]), first);
            let cursor = &answer["result"]["nextCursor"];
            assert!(cursor.as_str().is_some_and(|cursor| cursor != "second"));
            let answer = client
                .request("tools/list", json!({"cursor": cursor}))
                .await
                .json();
            assert_eq!(names(&answer["result"]["tools"]), second);
            assert!(answer["result"].get("nextCursor").is_none());
        }
    }
}

#[tokio::test]
async fn what_the_session_or_the_time_decides_is_decided_for_every_list() {
    let fake = Fake::start(&["a", "b"]).await;
    let policy = json!({"rules": [
        {"name": "a", "tools": {"names": ["a"]}, "action": "Allow"},
        {"name": "some", "tools": {"names": ["b"]}, "action": "Allow", "when": "session.id.matches('^[0-7]')"},
    ], "defaultAction": "Hide"});
    let rig = Rig::new(&fake, &[policy]).await;
    let mut seen = [0, 0];
    for _ in 0..24 {
        let client = rig.client.session().await;
        let calls = client.call("b", json!({})).await.json()["result"].is_object();
        for id in 0..2 {
            let listed = tools(&client, id).await.contains(&"b".to_owned());
            assert_eq!(listed, calls);
            seen[usize::from(listed)] += 1;
        }
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
}
