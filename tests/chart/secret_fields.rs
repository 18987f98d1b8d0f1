//! Every field of an McpServer's spec that names a Secret, with a spec that uses it.

use serde_json::{Value, json};

/// The field, and the smallest valid spec with it.
pub fn cases() -> Vec<(&'static str, Value)> {
    let http = || json!({ "upstream": { "http": { "url": "https://mlflow-mcp.example/mcp" } } });
    let stdio = || json!({ "upstream": { "stdio": { "image": "registry.example/server:1", "command": ["server"] } } });
    // Puts a value where a pointer says.
    let with = |mut spec: Value, pointer: &str, value: Value| {
        let mut at = &mut spec;
        for key in pointer.split('.') {
            at = &mut at[key];
        }
        *at = value;
        spec
    };
    let reference = || json!({ "name": "s", "key": "k" });
    let volume = |kind: &str, source: Value| {
        let mut volume = json!({ "name": "v" });
        volume[kind] = source;
        with(stdio(), "upstream.stdio.volumes", json!([volume]))
    };
    let named = || json!({ "name": "s" });
    vec![
        (
            "approvals.notify[].webhook.caSecretRef",
            with(
                http(),
                "approvals.notify",
                json!([{ "webhook": { "urlSecretRef": reference(), "caSecretRef": reference() } }]),
            ),
        ),
        (
            "approvals.notify[].webhook.hmacSecretRef",
            with(
                http(),
                "approvals.notify",
                json!([{ "webhook": { "urlSecretRef": reference(), "hmacSecretRef": reference() } }]),
            ),
        ),
        (
            "approvals.notify[].webhook.urlSecretRef",
            with(
                http(),
                "approvals.notify",
                json!([{ "webhook": { "urlSecretRef": reference() } }]),
            ),
        ),
        (
            "authentication.apiKeys.secretRef",
            with(
                http(),
                "authentication.apiKeys",
                json!({ "secretRef": named() }),
            ),
        ),
        (
            "authentication.jwt[].jwks.secretKeyRef",
            with(
                http(),
                "authentication.jwt",
                json!([{ "name": "corp", "issuer": "https://sso.example", "audiences": ["a"],
                         "jwks": { "secretKeyRef": reference() } }]),
            ),
        ),
        (
            "authentication.jwt[].jwks.caSecretRef",
            with(
                http(),
                "authentication.jwt",
                json!([{ "name": "corp", "issuer": "https://sso.example", "audiences": ["a"],
                         "jwks": { "url": "https://sso.example/jwks", "caSecretRef": reference() } }]),
            ),
        ),
        (
            "counters.redis.caSecretRef",
            with(
                http(),
                "counters.redis",
                json!({ "urlSecretRef": reference(), "caSecretRef": reference() }),
            ),
        ),
        (
            "counters.redis.urlSecretRef",
            with(
                http(),
                "counters.redis",
                json!({ "urlSecretRef": reference() }),
            ),
        ),
        (
            "gateway.imagePullSecrets",
            with(http(), "gateway.imagePullSecrets", json!([named()])),
        ),
        (
            "gateway.tls.secretRef",
            with(http(), "gateway.tls", json!({ "secretRef": named() })),
        ),
        (
            "upstream.http.credentials[].headers[].valueFrom.secretKeyRef",
            with(
                http(),
                "upstream.http.credentials",
                json!([{ "callers": ["key:a"], "headers": [{ "name": "X-Plain", "value": "1" }] },
                       { "callers": ["key:b"], "headers": [{ "name": "X-Plain", "value": "1" },
                         { "name": "Authorization", "valueFrom": { "secretKeyRef": reference() } }] }]),
            ),
        ),
        (
            "upstream.http.headers[].valueFrom.secretKeyRef",
            with(
                http(),
                "upstream.http.headers",
                json!([{ "name": "X-Plain", "value": "1" },
                       { "name": "Authorization", "valueFrom": { "secretKeyRef": reference() } }]),
            ),
        ),
        (
            "upstream.http.proxy.credentialsSecretRef",
            with(
                http(),
                "upstream.http.proxy",
                json!({ "url": "http://proxy.example:3128", "credentialsSecretRef": reference() }),
            ),
        ),
        (
            "upstream.http.tls.caSecretRef",
            with(
                http(),
                "upstream.http.tls",
                json!({ "caSecretRef": reference() }),
            ),
        ),
        (
            "upstream.stdio.credentials[].env[].valueFrom.secretKeyRef",
            with(
                with(stdio(), "upstream.stdio.sessions", json!("PerSession")),
                "upstream.stdio.credentials",
                json!([{ "callers": ["key:a"], "env": [{ "name": "A", "value": "1" }] },
                       { "callers": ["key:b"], "env": [{ "name": "B", "valueFrom": { "secretKeyRef": reference() } }] }]),
            ),
        ),
        (
            "upstream.stdio.env[].valueFrom.secretKeyRef",
            with(
                stdio(),
                "upstream.stdio.env",
                json!([{ "name": "A", "value": "1" }, { "name": "B", "valueFrom": { "secretKeyRef": reference() } }]),
            ),
        ),
        (
            "upstream.stdio.envFrom[].secretRef",
            with(
                stdio(),
                "upstream.stdio.envFrom",
                json!([{ "configMapRef": named() }, { "secretRef": named() }]),
            ),
        ),
        (
            "upstream.stdio.imagePullSecrets",
            with(stdio(), "upstream.stdio.imagePullSecrets", json!([named()])),
        ),
        (
            "upstream.stdio.volumes[].azureFile.secretName",
            volume("azureFile", json!({ "secretName": "s", "shareName": "x" })),
        ),
        (
            "upstream.stdio.volumes[].cephfs.secretFile",
            volume(
                "cephfs",
                json!({ "monitors": ["m"], "secretFile": "/etc/x" }),
            ),
        ),
        (
            "upstream.stdio.volumes[].cephfs.secretRef",
            volume("cephfs", json!({ "monitors": ["m"], "secretRef": named() })),
        ),
        (
            "upstream.stdio.volumes[].cinder.secretRef",
            volume("cinder", json!({ "volumeID": "x", "secretRef": named() })),
        ),
        (
            "upstream.stdio.volumes[].csi.nodePublishSecretRef",
            volume(
                "csi",
                json!({ "driver": "x.example", "nodePublishSecretRef": named() }),
            ),
        ),
        (
            "upstream.stdio.volumes[].flexVolume.secretRef",
            volume(
                "flexVolume",
                json!({ "driver": "x/y", "secretRef": named() }),
            ),
        ),
        (
            "upstream.stdio.volumes[].iscsi.secretRef",
            volume(
                "iscsi",
                json!({ "targetPortal": "x", "iqn": "y", "lun": 0, "secretRef": named() }),
            ),
        ),
        (
            "upstream.stdio.volumes[].projected.sources[].secret",
            volume(
                "projected",
                json!({ "sources": [{ "configMap": named() }, { "secret": named() }] }),
            ),
        ),
        (
            "upstream.stdio.volumes[].rbd.secretRef",
            volume(
                "rbd",
                json!({ "monitors": ["m"], "image": "x", "secretRef": named() }),
            ),
        ),
        (
            "upstream.stdio.volumes[].scaleIO.secretRef",
            volume(
                "scaleIO",
                json!({ "gateway": "g", "system": "s", "secretRef": named() }),
            ),
        ),
        (
            "upstream.stdio.volumes[].secret",
            volume("secret", json!({ "secretName": "s" })),
        ),
        (
            "upstream.stdio.volumes[].storageos.secretRef",
            volume("storageos", json!({ "secretRef": named() })),
        ),
    ]
}
