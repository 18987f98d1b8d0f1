//! Changes of what is in force, while clients are at work.

use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::rig::{Rig, allow_all};
use crate::support::upstream::{Answer, Fake};
use crate::support::{eventually, soon};

fn hide(tool: &str) -> Value {
    json!({"rules": [
        {"name": "all", "tools": {"names": ["*"]}, "action": "Allow"},
        {"name": "hidden", "tools": {"names": [tool]}, "action": "Hide"},
    ]})
}

#[tokio::test]
async fn a_call_under_way_ends_under_the_policy_that_let_it_go() {
    let fake = Fake::start(&["echo", "other"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    let (server, pieces) = mpsc::unbounded_channel();
    let pieces = std::sync::Mutex::new(Some(pieces));
    fake.on("tools/call", move |_| {
        Answer::Stream(pieces.lock().unwrap().take().unwrap())
    });
    let caller = client.clone();
    let call = tokio::spawn(async move { caller.call("echo", json!({})).await });
    eventually("the server has it", || fake.calls() == 1).await;
    rig.apply(&[hide("echo")]).unwrap();
    fake.as_usual("tools/call");
    assert_eq!(client.call("echo", json!({})).await.error().0, -32602);
    server.send(Answer::event(&json!({"jsonrpc": "2.0", "id": fake.id_of("tools/call"), "result": {"content": [{"type": "text", "text": "late"}]}}))).unwrap();
    assert_eq!(
        soon("the answer", call).await.unwrap().tool(),
        (false, "late".to_owned())
    );
    // A list that was asked for before and comes after is filtered by what is in force now.
    let (server, pieces) = mpsc::unbounded_channel();
    let pieces = std::sync::Mutex::new(Some(pieces));
    rig.apply(&[allow_all()]).unwrap();
    fake.on("prompts/list", move |_| {
        Answer::Stream(pieces.lock().unwrap().take().unwrap())
    });
    let caller = client.clone();
    let list = tokio::spawn(async move { caller.request("prompts/list", json!({})).await });
    eventually("the server has it", || fake.got("prompts/list").len() == 1).await;
    rig.apply(&[hide("echo")]).unwrap();
    server
        .send(Answer::event(
            &json!({"jsonrpc": "2.0", "id": fake.id_of("prompts/list"), "result": {"prompts": [{"name": "p"}]}}),
        ))
        .unwrap();
    let answer = soon("the answer", list).await.unwrap().messages().remove(0);
    assert_eq!(answer["result"], json!({"prompts": []}));
}

#[tokio::test]
async fn open_streams_are_told_when_what_the_caller_sees_has_changed() {
    let fake = Fake::start(&["echo", "other"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    let mut stream = client.listen().await;
    // Not told: nothing that this caller sees is another.
    rig.apply(&[
        json!({"rules": [{"name": "renamed", "tools": {"names": ["*"]}, "action": "Allow"}]}),
    ])
    .unwrap();
    rig.apply(&[hide("other")]).unwrap();
    let told = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
    assert_eq!(stream.event().await.unwrap().json(), told);
    assert_eq!(client.tools().await, ["echo"]);
    rig.apply(&[allow_all()]).unwrap();
    assert_eq!(stream.event().await.unwrap().json(), told);
    // What comes next is no third one.
    fake.tell(&json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": 1}}));
    assert_eq!(
        stream.event().await.unwrap().json()["method"],
        "notifications/message"
    );
}

#[tokio::test]
async fn an_older_or_a_bad_bundle_changes_nothing() {
    let fake = Fake::start(&["echo", "other"]).await;
    let rig = Rig::new(&fake, &[hide("other")]).await;
    let client = rig.client.session().await;
    rig.gateway.apply(rig.bundle(10, &[hide("other")])).unwrap();
    let before = rig.gateway.in_force();
    assert!(rig.gateway.apply(rig.bundle(9, &[allow_all()])).is_err());
    assert_eq!(rig.gateway.in_force(), before);
    let bad = json!({"rules": [{"name": "bad", "tools": {"names": ["*"]}, "action": "Allow", "when": "args.x +"}]});
    let error = rig
        .gateway
        .apply(rig.bundle(11, &[bad]))
        .unwrap_err()
        .to_string();
    assert!(error.contains("bad"), "{error}");
    assert_eq!(rig.gateway.last_error(), Some(error));
    assert_eq!(rig.gateway.in_force(), before);
    assert_eq!(client.tools().await, ["echo"]);
    assert_eq!(client.call("other", json!({})).await.error().0, -32602);
    rig.gateway.apply(rig.bundle(11, &[allow_all()])).unwrap();
    assert_eq!(rig.gateway.last_error(), None);
    assert_eq!(client.tools().await, ["echo", "other"]);
}

#[tokio::test]
async fn a_policy_that_was_never_accepted_denies_every_call() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    let mut bundle = rig.bundle(5, &[allow_all()]);
    bundle.blocked = vec![portcullis::policy::bundle::Blocked {
        policy: "ml/broken".to_owned(),
        uid: "u-broken".to_owned(),
        message: "spec.rules[0]: nonsense".to_owned(),
    }];
    rig.gateway.apply(bundle.sealed().unwrap()).unwrap();
    let (error, text) = client.call("echo", json!({})).await.tool();
    assert!(error && text.contains("broken"), "{text}");
    assert_eq!(fake.calls(), 0);
}

#[tokio::test]
async fn what_was_counted_stays_with_the_policy_that_decided_it() {
    let deny = json!({"rules": [{"name": "no", "tools": {"names": ["*"]}, "action": "Deny"}]});
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, std::slice::from_ref(&deny)).await;
    let client = rig.client.session().await;
    let counts = || -> Vec<(String, String, u64)> {
        let report = rig.gateway.report();
        let counts = report.violations.into_iter();
        counts
            .map(|count| (count.policy, count.policy_uid, count.count))
            .collect()
    };
    let own = |uid: &str, count| ("p0".to_owned(), uid.to_owned(), count);
    client.call("echo", json!({})).await;
    assert_eq!(counts(), [own("policy-0", 1)]);
    // Deleted, and never accepted, and made again.
    rig.gateway.apply(rig.bundle(5, &[])).unwrap();
    assert_eq!(counts(), [own("policy-0", 1)]);
    let mut blocked = rig.bundle(6, &[]);
    blocked.blocked = vec![portcullis::policy::bundle::Blocked {
        policy: "ml/p0".to_owned(),
        uid: "policy-1".to_owned(),
        message: "nonsense".to_owned(),
    }];
    rig.gateway.apply(blocked.sealed().unwrap()).unwrap();
    client.call("echo", json!({})).await;
    let mut again = rig.bundle(7, &[deny]);
    again.policies[0].uid = "policy-1".to_owned();
    rig.gateway.apply(again.sealed().unwrap()).unwrap();
    client.call("echo", json!({})).await;
    assert_eq!(
        counts(),
        [own("policy-0", 1), own("policy-1", 1), own("policy-1", 1)]
    );
    let recent = rig.gateway.report().recent;
    let uids: Vec<&str> = recent.iter().map(|one| one.policy_uid.as_str()).collect();
    assert_eq!(uids, ["policy-0", "policy-1", "policy-1"]);
}

#[tokio::test]
async fn a_gateway_that_stops_finishes_calls_and_ends_streams() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    let mut stream = client.listen().await;
    let (server, pieces) = mpsc::unbounded_channel();
    let pieces = std::sync::Mutex::new(Some(pieces));
    fake.on("tools/call", move |_| {
        Answer::Stream(pieces.lock().unwrap().take().unwrap())
    });
    let caller = client.clone();
    let call = tokio::spawn(async move { caller.call("echo", json!({})).await });
    eventually("the server has it", || fake.calls() == 1).await;
    rig.stop.cancel();
    assert_eq!(stream.event().await, None);
    assert_eq!(rig.gateway.unready().as_deref(), Some("shutting down"));
    server.send(Answer::event(&json!({"jsonrpc": "2.0", "id": fake.id_of("tools/call"), "result": {"content": [{"type": "text", "text": "done"}]}}))).unwrap();
    assert_eq!(
        soon("the answer", call).await.unwrap().tool(),
        (false, "done".to_owned())
    );
    soon("the end", rig.serving).await.unwrap();
    soon("the gateway's end", rig.gateway.shutdown()).await;
    assert!(tokio::net::TcpStream::connect(rig.addr).await.is_err());
}

#[tokio::test]
async fn a_body_that_takes_its_time_is_decided_on_by_what_is_in_force_when_it_is_there() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[allow_all()]).await;
    let client = rig.client.session().await;
    let call = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "echo", "arguments": {}}});
    let bytes = client.bytes("POST", Some(call.to_string().as_bytes()));
    let (begin, rest) = bytes.split_at(bytes.len() - 10);
    let mut exchange = crate::support::client::Exchange::open(rig.addr).await;
    exchange.write(begin).await;
    // The head has been answered to by then, as far as it can be.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    rig.apply(&[hide("echo")]).unwrap();
    exchange.write(rest).await;
    assert_eq!(
        exchange.reply().await.error(),
        (-32602, "Unknown tool: echo".to_owned())
    );
    assert_eq!(fake.calls(), 0);
}

#[tokio::test]
async fn what_a_replaced_server_lists_late_says_nothing_of_the_one_that_replaced_it() {
    let (old, new) = (Fake::start(&[]).await, Fake::start(&["echo"]).await);
    let (server, pieces) = mpsc::unbounded_channel();
    let pieces = std::sync::Mutex::new(Some(pieces));
    old.on("tools/list", move |_| {
        let pieces = pieces.lock().unwrap().take();
        pieces.map_or(Answer::Silence, Answer::Stream)
    });
    let held = crate::support::rig::Held::default();
    let mut rig = Rig::unlisted(crate::support::rig::open_to_all(&old), held, &[allow_all()]).await;
    eventually("the old server is asked", || {
        old.got("tools/list").len() == 1
    })
    .await;
    rig.apply_spec(crate::support::rig::open_to_all(&new), &[allow_all()])
        .unwrap();
    let id = old.got("tools/list")[0].json()["id"].clone();
    let list = json!({"jsonrpc": "2.0", "id": id, "result": {"tools": [crate::support::upstream::tool("ghost")]}});
    server.send(Answer::event(&list)).unwrap();
    let names = || -> Vec<String> {
        let snapshot = rig.gateway.snapshot().unwrap();
        snapshot
            .bound
            .tools()
            .iter()
            .map(|tool| tool.name.clone())
            .collect()
    };
    eventually("the new server's tools are known", || {
        assert!(!names().contains(&"ghost".to_owned()));
        names() == ["echo"]
    })
    .await;
}

#[tokio::test]
async fn an_answer_to_initialize_carries_no_lists() {
    let fake = Fake::start(&["echo"]).await;
    let rig = Rig::new(&fake, &[hide("secret")]).await;
    fake.on("initialize", |got| {
        Answer::result(got, json!({"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "f", "version": "1"},
            "tools": [{"name": "secret"}], "result": {"tools": [{"name": "secret"}]}}))
    });
    let reply = rig.client.initialize("2025-06-18", json!({})).await;
    assert_eq!(
        reply.json()["result"],
        json!({"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "f", "version": "1"}})
    );
}
