//! Which watches there are, and namespaces that cannot be seen whole.

use http::Method;
use serde_json::json;
use std::time::Duration;

use super::*;
use crate::controller::testing::{TestOperator, http, mcp_server, queued};
use crate::scripted_api::{Script, answer, refusal};

fn all(namespaces: &[&str]) -> Vec<String> {
    namespaces.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn guardrails_are_watched_in_the_operators_own_namespace_too() {
    assert_eq!(scopes(&[]), [None]);
    let some = |name: &str| Some(name.to_owned());
    assert_eq!(scopes(&all(&["b", "a", "b"])), [some("a"), some("b")]);
    assert_eq!(policy_scopes(&all(&["a"]), "ops"), [some("a"), some("ops")]);
    assert_eq!(policy_scopes(&[], "ops"), [None]);
    assert_eq!((counts(&[], "ops"), namespace_watches(&[])), ((1, 1), 1));
    let two = all(&["a", "b"]);
    assert_eq!((counts(&two, "ops"), namespace_watches(&two)), ((2, 3), 0));
}

#[tokio::test(start_paused = true)]
async fn every_kind_is_listed_in_every_namespace() {
    let script = Script::open(Vec::new());
    for (flags, watches) in [(&[][..], 15), (&["--watch-namespace=ml,dev"][..], 31)] {
        let operator = TestOperator::with(&script, flags);
        let before = script.asked().len();
        let tasks = start(&operator.ctx);
        assert_eq!(tasks.len(), watches);
        while script.asked().len() < before + watches {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let asked: Vec<String> = script.asked().into_iter().map(|(what, _)| what).collect();
        let asks = |parts: &[&str]| {
            asked
                .iter()
                .any(|what| parts.iter().all(|part| what.contains(part)))
        };
        assert!(
            asks(&["mcppolicies"]) && asks(&["deployments", "managed-by"]),
            "{asked:#?}"
        );
        assert!(asks(&["/pods", "component"]));
    }
    let asked = script.asked();
    assert!(
        asked
            .iter()
            .any(|(what, _)| what.contains("/namespaces/ops/mcppolicies"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_may_not_be_listed_is_left_alone_until_it_may() {
    let script = Script::new(Vec::new());
    let operator = TestOperator::with(&script, &["--watch-namespace=ml"]);
    operator.server(&mcp_server("m", 1, &http()));
    let ctx = &operator.ctx;
    let sink = |scope: &str| {
        let scope = Some(scope.to_owned());
        Watch::new(
            ctx,
            &scope,
            |ctx| &ctx.caches.servers,
            triggers::server_changed,
        )
    };
    let (one, two, own) = (sink("ml"), sink("ml"), sink("ops"));
    assert!(one.may_go_without());
    assert!(!own.may_go_without(), "guardrails are there");
    one.forbidden();
    two.forbidden();
    own.forbidden();
    assert!(!ctx.caches.sees("ml") && ctx.caches.sees("ops"));
    one.listed();
    assert!(!ctx.caches.sees("ml"));
    assert_eq!(queued(&ctx.queues.servers).await, [""; 0]);
    two.listed();
    own.listed();
    assert!(ctx.caches.sees("ml"));
    assert_eq!(queued(&ctx.queues.servers).await, ["m"]);
    let object = std::sync::Arc::new(
        serde_json::from_str(&mcp_server("n", 1, &http()).to_string()).unwrap(),
    );
    one.changed(ObjectEvent {
        before: None,
        after: Some(&object),
    });
    assert_eq!(queued(&ctx.queues.servers).await, ["n"]);
    assert!(
        one.store()
            .get(&crate::controller::testing::name())
            .is_some()
    );
}

#[tokio::test(start_paused = true)]
async fn labels_of_a_namespace_are_read_again_and_again_where_they_may_not_be_watched() {
    let get = |code: u16, body| answer(Method::GET, &["/api/v1/namespaces/ml"], code, body);
    let labelled = json!({"metadata": {"name": "ml", "labels": {"stage": "live"}}});
    let script = Script::open(vec![
        get(403, refusal(403, "Forbidden")),
        get(403, refusal(403, "Forbidden")),
        get(200, labelled),
    ]);
    let operator = TestOperator::new(&script);
    let reading = tokio::spawn(read_namespace(
        std::sync::Arc::clone(&operator.ctx),
        "ml".to_owned(),
    ));
    while operator.ctx.caches.namespace_labels("ml").is_none() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    reading.abort();
    let labels = operator.ctx.caches.namespace_labels("ml").unwrap();
    assert_eq!(labels["stage"], "live");
}
