//! Bundles: which one is in force, and who learns of it.

use portcullis::policy::bundle::Bundle;
use portcullis::policy::signature::Signer;
use serde_json::{Value, json};

use super::pod::{Pod, UID, Volumes, bundle};
use crate::support::rig::{allow_all, open_to_all};
use crate::support::upstream::{Answer, Fake};

fn hide(tool: &str) -> Value {
    json!({"rules": [
        {"name": "all", "tools": {"names": ["*"]}, "action": "Allow"},
        {"name": "hidden", "tools": {"names": [tool]}, "action": "Hide"},
    ]})
}

#[tokio::test]
async fn without_a_bundle_every_request_is_answered_503_and_a_silent_api_is_replaced_by_the_mounted_copy()
 {
    let fake = Fake::start(&["echo"]).await;
    let volumes = Volumes::new();
    let pod = Pod::start(&volumes, &[]).await;
    pod.is_unready("no bundle is in force").await;
    let reply = pod.client.initialize("2025-11-25", json!({})).await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(pod.get("/livez").await.status, 200);
    assert_eq!(pod.get("/report").await.status, 401);
    volumes.bundle(&bundle(1, &open_to_all(&fake), &[allow_all()]));
    pod.is_ready().await;
    let client = pod.client.session().await;
    assert_eq!(client.tools().await, ["echo"]);
    let (error, text) = client.call("echo", json!({"text": "hi"})).await.tool();
    assert_eq!((error, text.as_str()), (false, "{\"text\":\"hi\"}"));
    pod.until("the call is recorded", async |pod| {
        pod.audited()
            .iter()
            .any(|line| line["outcome"] == "allowed" && line["tool"] == "echo")
    })
    .await;
}

#[tokio::test]
async fn a_newer_bundle_is_swapped_in_without_dropping_sessions_and_an_older_one_never() {
    let fake = Fake::start(&["echo", "other"]).await;
    let spec = open_to_all(&fake);
    let (volumes, pod) = Pod::ready(&fake, &[allow_all()], &[]).await;
    let client = pod.client.session().await;
    let newer = bundle(10, &spec, &[hide("other")]);
    volumes.bundle(&newer);
    let revision = newer.revision.clone();
    pod.until("the newer one is in force", async |pod| {
        pod.report().await["revision"] == revision.as_str()
    })
    .await;
    assert_eq!(client.tools().await, ["echo"]);
    for older in [9, 10] {
        volumes.bundle(&bundle(older, &spec, &[allow_all()]));
        pod.looks(&volumes).await;
        assert_eq!(pod.report().await["revision"], newer.revision.as_str());
        assert_eq!(client.tools().await, ["echo"]);
    }
    let newest = bundle(11, &spec, &[hide("echo")]);
    volumes.bundle(&newest);
    let revision = newest.revision.clone();
    pod.until("the newest one is in force", async |pod| {
        let report = pod.report().await;
        assert_eq!(report.get("bundleError"), None, "{report}");
        report["revision"] == revision.as_str()
    })
    .await;
    assert_eq!(client.tools().await, ["other"]);
}

#[tokio::test]
async fn what_cannot_be_enforced_leaves_the_last_good_one_in_force_and_is_reported() {
    let fake = Fake::start(&["echo", "other"]).await;
    let spec = open_to_all(&fake);
    let (volumes, pod) = Pod::ready(&fake, &[hide("other")], &[]).await;
    let client = pod.client.session().await;
    let revision = pod.report().await["revision"].clone();
    let mut foreign = bundle(20, &spec, &[allow_all()]);
    foreign.server.uid = "another".to_owned();
    let mut torn = bundle(21, &spec, &[allow_all()]);
    torn.policies.clear();
    let bad = json!({"rules": [{"name": "bad", "tools": {"names": ["*"]}, "action": "Allow", "when": "args.x +"}]});
    for (wrong, says) in [
        (
            foreign.sealed().unwrap(),
            format!("this gateway is ml/fake ({UID})'s"),
        ),
        (torn, "write it again".to_owned()),
        (bundle(22, &spec, &[bad]), "rule bad".to_owned()),
    ] {
        volumes.bundle(&wrong);
        pod.until(&says, async |pod| {
            let report = pod.report().await;
            assert_eq!(report["revision"], revision);
            report["bundleError"]
                .as_str()
                .is_some_and(|error| error.contains(&says))
        })
        .await;
        assert_eq!(client.tools().await, ["echo"]);
    }
    volumes.bundle(&bundle(23, &spec, &[allow_all()]));
    pod.until("the right one is in force", async |pod| {
        pod.report().await.get("bundleError").is_none()
    })
    .await;
    assert_eq!(client.tools().await, ["echo", "other"]);
}

#[tokio::test]
async fn a_first_bundle_that_cannot_be_enforced_is_reported_to_its_reader() {
    let fake = Fake::start(&["echo"]).await;
    let volumes = Volumes::new();
    let spec = json!({"upstream": {"stdio": {"image": "x", "command": ["x"]}}, "authentication": {"anonymous": "Allow"}});
    volumes.bundle(&bundle(1, &spec, &[allow_all()]));
    let pod = Pod::start(&volumes, &[]).await;
    pod.is_unready("no bundle is in force; the newest was refused, and the log says why")
        .await;
    let report = pod.report().await;
    let error = report["bundleError"].as_str().unwrap();
    assert!(error.contains("--upstream-url"), "{error}");
    assert_eq!(report.get("revision"), None);
    volumes.bundle(&bundle(2, &open_to_all(&fake), &[allow_all()]));
    pod.is_ready().await;
}

#[tokio::test]
async fn the_services_names_and_loopback_are_let_in_as_hosts_with_any_port() {
    let fake = Fake::start(&["echo"]).await;
    let (_volumes, pod) = Pod::ready(&fake, &[allow_all()], &[]).await;
    for (host, status) in [
        ("fake-gateway", 200),
        ("fake-gateway:8080", 200),
        ("fake-gateway.ml:80", 200),
        ("fake-gateway.ml.svc", 200),
        ("FAKE-gateway.ml.svc.cluster.local:8080", 200),
        ("localhost:1234", 200),
        ("fake-gateway.other.svc", 403),
        ("fake-gateway.ml.svc.cluster.local.evil.example", 403),
        ("fake-gateway.ml.svc.evil", 403),
        ("mcp.example", 403),
    ] {
        let reply = pod
            .client
            .with("Host", host)
            .initialize("2025-11-25", json!({}))
            .await;
        assert_eq!(reply.status, status, "{host}: {}", reply.text());
    }
}

#[tokio::test]
async fn the_report_is_for_the_bearer_that_the_bundle_names_and_probes_and_metrics_are_for_everyone()
 {
    let fake = Fake::start(&["echo"]).await;
    let (_volumes, pod) = Pod::ready(&fake, &[hide("echo")], &[]).await;
    let mut reader = pod.admin.clone();
    reader.path = "/report".to_owned();
    for bearer in [
        "",
        "Bearer",
        "Bearer 0123456789abcdef0123456789abcdee",
        "Basic 0123456789abcdef0123456789abcdef",
    ] {
        let reply = reader.with("Authorization", bearer).send("GET", None).await;
        assert_eq!(reply.status, 401, "{bearer}");
        assert!(!reply.text().contains("echo"), "{}", reply.text());
    }
    let client = pod.client.session().await;
    assert_eq!(client.call("echo", json!({})).await.error().0, -32602);
    let report = pod.report().await;
    assert_eq!(report["violations"][0]["count"], 1);
    assert_eq!(report["violations"][0]["outcome"], "Hidden");
    assert_eq!(report["tools"][0]["name"], "echo");
    assert_eq!(report["calls"], 1);
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(pod.get(path).await.status, 200, "{path}");
    }
    assert!(
        pod.get("/metrics")
            .await
            .text()
            .contains("portcullis_decisions_total{")
    );
}

#[tokio::test]
async fn a_ready_gateway_says_what_is_not_well() {
    let fake = Fake::start(&["echo"]).await;
    let (_volumes, pod) = Pod::ready(&fake, &[allow_all()], &[]).await;
    let well = pod.get("/readyz").await;
    assert_eq!((well.status, well.text()), (200, "ok\n"));
    let client = pod.client.session().await;
    for what in ["tools/call", "tools/list", "initialize"] {
        fake.on(what, |got| Answer::rpc_error(got, -32603, "no disk"));
    }
    // A client that asks for a list has the gateway list the tools again.
    client.call("nothing", json!({})).await;
    pod.until("the upstream is gone", async |pod| {
        let reply = pod.get("/readyz").await;
        // Probes keep sending callers here, who read the reason in the answer.
        assert_eq!(reply.status, 200);
        let begins = "ok\nnot well: the upstream's tools cannot be listed: ";
        reply.text().starts_with(begins)
    })
    .await;
}

#[tokio::test]
async fn a_call_that_needs_approval_is_refused_with_a_time_to_repeat_it_while_the_api_is_silent() {
    let fake = Fake::start(&["echo", "other"]).await;
    let policy = json!({"rules": [
        {"name": "ask", "tools": {"names": ["echo"]}, "action": "RequireApproval"},
        {"name": "open", "tools": {"names": ["other"]}, "action": "Allow"},
    ]});
    let (_volumes, pod) = Pod::ready(&fake, &[policy], &[]).await;
    let client = pod.client.session().await;
    let reply = client.call("echo", json!({})).await;
    assert_eq!(
        reply.tool(),
        (
            true,
            "Approval unavailable: policy p0, rule ask asks a person about this call, and the Kubernetes API, where approvals are kept, cannot be used now. The call was not made. Repeat it unchanged in 10 s."
                .to_owned()
        )
    );
    assert_eq!(
        reply.json()["result"]["_meta"]["portcullis.dev/retryAfterMs"],
        10_000
    );
    assert_eq!(fake.calls(), 0);
    assert!(!client.call("other", json!({})).await.tool().0);
    let counted = &pod.report().await["violations"][0];
    assert_eq!(
        (&counted["outcome"], &counted["rule"]),
        (&json!("Denied"), &json!("ask"))
    );
}

/// Whoever may write the ConfigMap writes all of these.
#[tokio::test]
async fn only_a_bundle_that_the_operator_signed_for_now_is_ever_in_force() {
    let fake = Fake::start(&["echo", "other"]).await;
    let volumes = Volumes::new();
    let spec = open_to_all(&fake);
    let opened = |sequence| bundle(sequence, &spec, &[allow_all()]);
    // Not even the first one.
    volumes.unsigned_bundle(&opened(1));
    let pod = Pod::start(&volumes, &[]).await;
    pod.is_unready("no bundle is in force; the newest was refused, and the log says why")
        .await;
    let hidden = bundle(10, &spec, &[hide("other")]);
    volumes.bundle(&hidden);
    pod.is_ready().await;
    let client = pod.client.session().await;
    assert_eq!(client.tools().await, ["echo"]);
    let signed_by = |seed: u8, bundle: &Bundle| {
        let mut signed = bundle.clone();
        Signer::of_seed(&[seed; 32]).unwrap().sign(&mut signed);
        signed
    };
    let mut moved = opened(11);
    moved.signature = signed_by(7, &hidden).signature;
    let mut raised = signed_by(7, &hidden);
    raised.sequence = u64::MAX;
    let forged = [
        ("it is unsigned", opened(11), "not signed"),
        (
            "another key signed it",
            signed_by(8, &opened(12)),
            "not the operator's",
        ),
        (
            "the signature is another bundle's",
            moved,
            "not the operator's",
        ),
        ("only its sequence was raised", raised, "not the operator's"),
        (
            "it is ahead of the clock",
            signed_by(7, &opened(u64::MAX)),
            "clock",
        ),
    ];
    for (what, forged, says) in forged {
        volumes.unsigned_bundle(&forged);
        pod.until(what, async |pod| {
            let report = pod.report().await;
            report["bundleError"]
                .as_str()
                .is_some_and(|error| error.contains(says))
        })
        .await;
        assert_eq!(client.tools().await, ["echo"], "{what}");
        assert_eq!(pod.report().await["sequence"], 10, "{what}");
    }
    volumes.bundle(&bundle(11, &spec, &[hide("echo")]));
    pod.until("what the operator writes comes into force", async |pod| {
        let report = pod.report().await;
        report["sequence"] == 11 && report.get("bundleError").is_none()
    })
    .await;
    assert_eq!(client.tools().await, ["other"]);
}
