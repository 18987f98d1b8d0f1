//! Every CEL rule of the definitions as data: an object that it refuses, in its own sentence, and
//! one that it accepts.
//!
//! The offline tests put them to an evaluator, the cluster's tests to a real API server.

use portcullis::api;
use serde_json::{Value, json};

/// One rule: a part of its sentence, a document that it refuses (and, for transitions, what it was
/// before), and one like it that is accepted.
pub struct Case {
    pub sentence: &'static str,
    pub kind: &'static str,
    pub before: Option<Value>,
    pub refused: Value,
    pub accepted: Value,
}

fn server(spec: Value) -> Value {
    json!({ "apiVersion": api::API_VERSION, "kind": "McpServer", "metadata": { "name": "a" }, "spec": spec })
}

/// A server that is reached by HTTP, with `spec` merged in.
fn http(extra: Value) -> Value {
    let mut spec = json!({ "upstream": { "http": { "url": "http://a/mcp" } } });
    merge(&mut spec, extra);
    server(spec)
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => from
            .into_iter()
            .for_each(|(k, v)| merge(into.entry(k).or_insert(Value::Null), v)),
        (into, from) => *into = from,
    }
}

fn policy(extra: Value) -> Value {
    let mut spec = json!({ "targetSelector": {} });
    merge(&mut spec, extra);
    json!({ "apiVersion": api::API_VERSION, "kind": "McpPolicy", "metadata": { "name": "a" }, "spec": spec })
}

fn rule(extra: Value) -> Value {
    let mut rule = json!({ "name": "r", "tools": {"names": ["*"]}, "action": "Allow" });
    merge(&mut rule, extra);
    policy(json!({ "rules": [rule] }))
}

pub fn approval(extra: Value) -> Value {
    let mut object = json!({
        "apiVersion": api::API_VERSION, "kind": "McpApproval", "metadata": { "name": "a" },
        "spec": {
            "serverRef": { "name": "mlflow" }, "grant": "anonymous", "tool": "t",
            "argumentsDigest": format!("sha256:{}", "0".repeat(64)), "argumentsPreview": "{}", "policy": "p", "rule": "r",
            "requestedAt": "2026-01-01T00:00:00Z", "expiresAt": "2026-01-01T00:30:00Z"
        }
    });
    merge(&mut object, extra);
    object
}

fn now(sentence: &'static str, kind: &'static str, refused: Value, accepted: Value) -> Case {
    Case {
        sentence,
        kind,
        before: None,
        refused,
        accepted,
    }
}

fn change(sentence: &'static str, before: Value, refused: Value, accepted: Value) -> Case {
    Case {
        sentence,
        kind: "McpApproval",
        before: Some(before),
        refused,
        accepted,
    }
}

pub fn cases() -> Vec<Case> {
    let url = |u: &str| http(json!({ "upstream": { "http": { "url": u } } }));
    let header = |h: Value| http(json!({ "upstream": { "http": { "headers": [h] } } }));
    let by_caller = |headers: Value| {
        http(json!({ "upstream": { "http": {
            "credentials": [{ "callers": ["key:a"], "headers": headers }] } } }))
    };
    let processes = |extra: Value| {
        let mut stdio = json!({ "image": "i", "command": ["c"],
            "credentials": [{ "callers": ["key:a"], "env": [{ "name": "A", "value": "b" }] }] });
        merge(&mut stdio, extra);
        server(json!({ "upstream": { "stdio": stdio } }))
    };
    let gateway = |g: Value| http(json!({ "gateway": g }));
    let jwt = |extra: Value| {
        let mut provider = json!({ "name": "corp", "issuer": "https://sso", "audiences": ["a"], "jwks": { "url": "https://sso/jwks" } });
        merge(&mut provider, extra);
        http(json!({ "authentication": { "jwt": [provider] } }))
    };
    let named = |name: &str| {
        let mut object = http(json!({}));
        object["metadata"]["name"] = json!(name);
        object
    };
    let decided = |verdict: &str, by: &str| json!({ "verdict": verdict, "by": by });
    let approved = json!({ "spec": { "decisions": [decided("Approved", "alice")] } });
    let denied = json!({ "spec": { "decisions": [decided("Denied", "alice")] } });
    let by_two =
        |decisions: Value| approval(json!({ "spec": { "approvers": 2, "decisions": decisions } }));
    let observed = |version: &str| json!({ "tool": "look", "preview": version, "digest": format!("sha256:{}", "0".repeat(64)) });
    let consumed = |at: &str| approval(json!({ "status": { "consumedAt": at } }));
    vec![
        now(
            "metadata.name must be at most 52",
            "McpServer",
            named(&"a".repeat(53)),
            named(&"a".repeat(52)),
        ),
        now(
            "metadata.name must be at most 52",
            "McpServer",
            named("1a"),
            named("a1"),
        ),
        now(
            "metadata.name must be at most 52",
            "McpServer",
            named("a.b"),
            named("a-b"),
        ),
        now(
            "exactly one of http",
            "McpServer",
            server(json!({ "upstream": {} })),
            url("http://a/mcp"),
        ),
        now(
            "exactly one of http",
            "McpServer",
            http(json!({ "upstream": { "stdio": { "image": "i", "command": ["c"] } } })),
            server(json!({ "upstream": { "stdio": { "image": "i", "command": ["c"] } } })),
        ),
        now(
            "counters are kept in one place",
            "McpServer",
            http(
                json!({ "counters": { "local": {}, "redis": { "urlSecretRef": { "name": "r", "key": "url" } } } }),
            ),
            http(
                json!({ "counters": { "local": { "persistentVolumeClaim": { "claimName": "c" } } } }),
            ),
        ),
        now(
            "timeout must be longer",
            "McpServer",
            http(json!({ "upstream": { "timeout": "0s" } })),
            http(json!({ "upstream": { "timeout": "10s" } })),
        ),
        now(
            "url must be the http or https URL",
            "McpServer",
            url("ftp://a/mcp"),
            url("https://a:8443/mcp?x=1"),
        ),
        now(
            "url must be the http or https URL",
            "McpServer",
            url("http://user:pass@a/mcp"),
            url("http://a"),
        ),
        now(
            "url must be the http or https URL",
            "McpServer",
            url("http://a/mcp#f"),
            url("http://a/@mcp"),
        ),
        now(
            "host is a name",
            "McpServer",
            http(json!({ "upstream": { "http": { "host": "joe@a" } } })),
            http(json!({ "upstream": { "http": { "host": "[::1]:8080" } } })),
        ),
        now(
            "url must be the http URL of a proxy",
            "McpServer",
            http(json!({ "upstream": { "http": { "proxy": { "url": "http://joe:x@proxy" } } } })),
            http(json!({ "upstream": { "http": { "proxy": { "url": "http://proxy:3128/" } } } })),
        ),
        now(
            "sessionIdleTimeout must be longer",
            "McpServer",
            server(
                json!({ "upstream": { "stdio": { "image": "i", "command": ["c"], "sessionIdleTimeout": "0s" } } }),
            ),
            server(
                json!({ "upstream": { "stdio": { "image": "i", "command": ["c"], "sessionIdleTimeout": "90s" } } }),
            ),
        ),
        now(
            "tls is for https",
            "McpServer",
            http(json!({ "upstream": { "http": { "tls": {} } } })),
            http(json!({ "upstream": { "http": { "url": "https://a", "tls": {} } } })),
        ),
        now(
            "the gateway sets this header itself",
            "McpServer",
            header(json!({ "name": "Host", "value": "x" })),
            header(json!({ "name": "X-Team", "value": "x" })),
        ),
        now(
            "the same header is there twice",
            "McpServer",
            http(json!({ "upstream": { "http": { "headers": [
                { "name": "X-Team", "value": "a" }, { "name": "x-team", "value": "b" }] } } })),
            http(json!({ "upstream": { "http": { "headers": [
                { "name": "X-Team", "value": "a" }, { "name": "x-teams", "value": "b" }] } } })),
        ),
        now(
            "the same header is there twice",
            "McpServer",
            by_caller(
                json!([{ "name": "X-Team", "value": "a" }, { "name": "x-team", "value": "b" }]),
            ),
            by_caller(
                json!([{ "name": "X-Team", "value": "a" }, { "name": "x-teams", "value": "b" }]),
            ),
        ),
        now(
            "the gateway sets this header itself",
            "McpServer",
            by_caller(json!([{ "name": "Mcp-Session-Id", "value": "x" }])),
            by_caller(json!([{ "name": "Authorization", "value": "x" }])),
        ),
        now(
            "exactly one of value and valueFrom",
            "McpServer",
            by_caller(json!([{ "name": "a" }])),
            by_caller(json!([{ "name": "a", "value": "x" }])),
        ),
        now(
            "credentials need a process for each session",
            "McpServer",
            processes(json!({})),
            processes(json!({ "sessions": "PerSession" })),
        ),
        now(
            "credentials need a process for each session",
            "McpServer",
            processes(json!({ "sessions": "Shared" })),
            processes(json!({ "sessions": "PerSession" })),
        ),
        now(
            "exactly one of value and valueFrom",
            "McpServer",
            header(json!({ "name": "a" })),
            header(
                json!({ "name": "a", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } }),
            ),
        ),
        now(
            "API server's own audience",
            "McpServer",
            http(
                json!({ "authentication": { "serviceAccounts": { "audiences": ["https://kubernetes.default.svc"] } } }),
            ),
            http(
                json!({ "authentication": { "serviceAccounts": { "audiences": ["portcullis:a/a"] } } }),
            ),
        ),
        now(
            "issuer must be an https URL",
            "McpServer",
            jwt(json!({ "issuer": "http://sso" })),
            jwt(json!({})),
        ),
        now(
            "exactly one of url and secretKeyRef",
            "McpServer",
            jwt(json!({ "jwks": { "secretKeyRef": { "name": "s", "key": "k" } } })),
            jwt(json!({})),
        ),
        now(
            "write each of requiredScopes as an entry of its own",
            "McpServer",
            jwt(json!({ "requiredScopes": ["mcp read"] })),
            jwt(json!({ "requiredScopes": ["mcp", "read"] })),
        ),
        now(
            "jwks.url must be an https URL",
            "McpServer",
            jwt(json!({ "jwks": { "url": "http://127.0.0.1:1@evil/jwks" } })),
            jwt(json!({ "jwks": { "url": "http://127.0.0.1:1/jwks" } })),
        ),
        now(
            "admin port",
            "McpServer",
            gateway(json!({ "port": 9090 })),
            gateway(json!({ "port": 9091 })),
        ),
        now(
            "publicUrl must be",
            "McpServer",
            gateway(json!({ "publicUrl": "mcp.example" })),
            gateway(json!({ "publicUrl": "https://mcp.example/mlflow" })),
        ),
        now(
            "each of allowedOrigins",
            "McpServer",
            gateway(json!({ "allowedOrigins": ["https://a", "b"] })),
            gateway(json!({ "allowedOrigins": ["https://a", "http://b:1"] })),
        ),
        now(
            "each of allowedHosts",
            "McpServer",
            gateway(json!({ "allowedHosts": ["https://a"] })),
            gateway(json!({ "allowedHosts": ["a:1", "[::1]:80"] })),
        ),
        now(
            "appProtocol must be a name",
            "McpServer",
            gateway(json!({ "service": { "appProtocol": "http/2 clear" } })),
            gateway(json!({ "service": { "appProtocol": "kubernetes.io/h2c" } })),
        ),
        now(
            "remove from and ports",
            "McpServer",
            gateway(json!({ "networkPolicy": { "enabled": false, "ports": [{ "port": 15008 }] } })),
            gateway(json!({ "networkPolicy": { "enabled": true, "ports": [{ "port": 15008 }] } })),
        ),
        now(
            "each entry of from",
            "McpServer",
            gateway(json!({ "networkPolicy": { "from": [{}] } })),
            gateway(json!({ "networkPolicy": { "from": [{ "podSelector": {} }] } })),
        ),
        now(
            "each entry of ports",
            "McpServer",
            gateway(json!({ "networkPolicy": { "ports": [{ "protocol": "TCP" }] } })),
            gateway(json!({ "networkPolicy": { "ports": [{ "port": "hbone" }] } })),
        ),
        now(
            "replicas or autoscaling",
            "McpServer",
            gateway(json!({ "replicas": 2, "autoscaling": {} })),
            gateway(json!({ "autoscaling": {} })),
        ),
        now(
            "minReplicas (2 if absent)",
            "McpServer",
            gateway(json!({ "autoscaling": { "maxReplicas": 1 } })),
            gateway(json!({ "autoscaling": { "minReplicas": 1, "maxReplicas": 1 } })),
        ),
        now(
            "labels under portcullis.dev/",
            "McpServer",
            gateway(json!({ "pod": { "labels": { "portcullis.dev/server": "x" } } })),
            gateway(json!({ "pod": { "labels": { "team": "x" } } })),
        ),
        now(
            "tools says nothing about tools: to select every tool write names: [\"*\"]",
            "McpPolicy",
            policy(json!({ "rules": [{ "name": "r", "tools": {}, "action": "Allow" }] })),
            rule(json!({})),
        ),
        now(
            "namespaceSelector goes with targetSelector",
            "McpPolicy",
            json!({ "apiVersion": api::API_VERSION, "kind": "McpPolicy", "metadata": { "name": "a" },
                "spec": {
                    "targetRefs": [{ "group": "portcullis.dev", "kind": "McpServer", "name": "a" }],
                    "namespaceSelector": { "matchLabels": { "tier": "production" } },
                } }),
            policy(json!({ "namespaceSelector": { "matchLabels": { "tier": "production" } } })),
        ),
        now(
            "either targetRefs or targetSelector",
            "McpPolicy",
            policy(
                json!({ "targetRefs": [{ "group": "portcullis.dev", "kind": "McpServer", "name": "a" }] }),
            ),
            policy(json!({})),
        ),
        now(
            "write group: portcullis.dev",
            "McpPolicy",
            json!({ "apiVersion": api::API_VERSION, "kind": "McpPolicy", "metadata": { "name": "a" },
                "spec": { "targetRefs": [{ "group": "apps", "kind": "Deployment", "name": "a" }] } }),
            json!({ "apiVersion": api::API_VERSION, "kind": "McpPolicy", "metadata": { "name": "a" },
                "spec": { "targetRefs": [{ "group": "portcullis.dev", "kind": "McpServer", "name": "a" }] } }),
        ),
        now(
            "limits go with Allow",
            "McpPolicy",
            rule(
                json!({ "action": "Deny", "limits": [{ "counter": "c", "max": 1, "window": "1m" }] }),
            ),
            rule(
                json!({ "action": "RequireApproval", "limits": [{ "counter": "c", "max": 1, "window": "1m" }] }),
            ),
        ),
        now(
            "approval goes with the action",
            "McpPolicy",
            rule(json!({ "approval": {} })),
            rule(json!({ "action": "RequireApproval", "approval": {} })),
        ),
        now(
            "prompts cannot wait",
            "McpPolicy",
            policy(
                json!({ "prompts": [{ "name": "p", "names": ["*"], "action": "RequireApproval" }] }),
            ),
            policy(json!({ "prompts": [{ "name": "p", "names": ["*"], "action": "Deny" }] })),
        ),
        now(
            "resources cannot wait",
            "McpPolicy",
            policy(
                json!({ "resources": [{ "name": "p", "uris": ["*"], "action": "RequireApproval" }] }),
            ),
            policy(json!({ "resources": [{ "name": "p", "uris": ["*"], "action": "Hide" }] })),
        ),
        change(
            "a request cannot be changed",
            approval(json!({})),
            approval(json!({ "spec": { "argumentsPreview": "{ }" } })),
            approval(approved.clone()),
        ),
        change(
            "a request cannot be changed",
            approval(json!({})),
            approval(json!({ "spec": { "expiresAt": "2027-01-01T00:30:00Z" } })),
            approval(json!({})),
        ),
        change(
            "a decision is final",
            approval(denied.clone()),
            approval(approved.clone()),
            approval(denied.clone()),
        ),
        change(
            "a decision is final",
            approval(denied.clone()),
            approval(json!({})),
            approval(denied.clone()),
        ),
        change(
            "a decision is final",
            by_two(json!([decided("Approved", "alice")])),
            by_two(json!([decided("Approved", "bob")])),
            by_two(json!([
                decided("Approved", "alice"),
                decided("Approved", "bob")
            ])),
        ),
        change(
            "enough people have decided",
            by_two(json!([decided("Denied", "alice")])),
            by_two(json!([
                decided("Denied", "alice"),
                decided("Approved", "bob")
            ])),
            by_two(json!([decided("Denied", "alice")])),
        ),
        change(
            "enough people have decided",
            approval(approved.clone()),
            approval(
                json!({ "spec": { "decisions": [decided("Approved", "alice"), decided("Denied", "bob")] } }),
            ),
            approval(approved.clone()),
        ),
        change(
            "a request cannot be changed",
            approval(json!({ "spec": { "approvers": 2 } })),
            approval(json!({ "spec": { "approvers": 1 } })),
            by_two(json!([decided("Approved", "alice")])),
        ),
        change(
            "a request cannot be changed",
            approval(json!({ "spec": { "observed": observed("6") } })),
            approval(json!({ "spec": { "observed": observed("7") } })),
            approval(
                json!({ "spec": { "observed": observed("6"), "decisions": [decided("Approved", "alice")] } }),
            ),
        ),
        change(
            "a request cannot be changed",
            approval(json!({})),
            approval(json!({ "spec": { "observed": observed("7") } })),
            approval(approved.clone()),
        ),
        change(
            "consumedAt is permanent, and so is consumedBy",
            approval(
                json!({ "status": { "consumedAt": "2026-01-01T00:02:00Z", "consumedBy": "run-1" } }),
            ),
            approval(
                json!({ "status": { "consumedAt": "2026-01-01T00:02:00Z", "consumedBy": "run-2" } }),
            ),
            approval(
                json!({ "status": { "phase": "Consumed", "consumedAt": "2026-01-01T00:02:00Z", "consumedBy": "run-1" } }),
            ),
        ),
        change(
            "consumedAt is permanent",
            consumed("2026-01-01T00:02:00Z"),
            consumed("2026-01-01T00:03:00Z"),
            consumed("2026-01-01T00:02:00Z"),
        ),
        change(
            "consumedAt is permanent",
            consumed("2026-01-01T00:02:00Z"),
            approval(json!({})),
            consumed("2026-01-01T00:02:00Z"),
        ),
        change(
            "consumedAt is permanent",
            consumed("2026-01-01T00:02:00Z"),
            approval(json!({ "status": { "phase": "Approved" } })),
            approval(
                json!({ "status": { "phase": "Consumed", "consumedAt": "2026-01-01T00:02:00Z" } }),
            ),
        ),
    ]
}
