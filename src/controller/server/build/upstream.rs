//! The objects of a stdio server: its pod with the bridge in front, and the way to it.

use serde_json::{Value, json};

use super::{
    Wanted, child, container_security, metadata, pod_metadata, pod_security, probe, schedule,
    selector, set,
};
use crate::api::server::{Sessions, StdioUpstream};
use crate::controller::names::{BRIDGE_PORT, GATEWAY, UPSTREAM};
use crate::controller::runtime::kinds::{Child, Kind};

/// Where the bridge's program is put.
const BIN: &str = "/portcullis";
/// Where the server finds a home that it can write to.
const HOME: &str = "/home/portcullis";
const BEARER: &str = "/etc/portcullis-bearer";
/// The server gets SIGTERM and time to end before it is killed.
const GRACE_SECONDS: u32 = 30;

pub(super) fn children(wanted: &Wanted<'_>, stdio: &StdioUpstream) -> Vec<Child> {
    let ident = wanted.ident;
    let name = ident.upstream();
    let put = |kind: Kind, content: Value| {
        child(
            kind,
            name.clone(),
            metadata(ident, &name, UPSTREAM),
            content,
        )
    };
    vec![
        put(
            Kind::Service,
            json!({ "spec": {
                "type": "ClusterIP",
                "selector": selector(ident, UPSTREAM),
                "ports": [{ "name": "bridge", "port": BRIDGE_PORT, "targetPort": "bridge", "protocol": "TCP" }],
            }}),
        ),
        put(
            Kind::NetworkPolicy,
            json!({ "spec": {
                "podSelector": { "matchLabels": selector(ident, UPSTREAM) },
                "policyTypes": ["Ingress"],
                "ingress": [{
                    "from": [{ "podSelector": { "matchLabels": selector(ident, GATEWAY) } }],
                    "ports": [{ "port": BRIDGE_PORT, "protocol": "TCP" }],
                }],
            }}),
        ),
        put(Kind::Deployment, deployment(wanted, stdio)),
    ]
}

fn deployment(wanted: &Wanted<'_>, stdio: &StdioUpstream) -> Value {
    let ident = wanted.ident;
    let options = stdio.pod.clone().unwrap_or_default();
    let mut pod = json!({
        "automountServiceAccountToken": stdio.service_account_name.is_some(),
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": pod_security(stdio.run_as_user()),
        // The image of the gateway is FROM scratch: there is no cp in it, so it copies itself.
        "initContainers": [{
            "name": "install",
            "image": wanted.settings.gateway_image,
            "imagePullPolicy": wanted.settings.gateway_image_pull_policy,
            "args": ["install", BIN],
            "securityContext": container_security(),
            // With limits, as a quota on them refuses pods without.
            "resources": {
                "requests": { "cpu": "10m", "memory": "16Mi" },
                "limits": { "cpu": "200m", "memory": "64Mi" },
            },
            "volumeMounts": [{ "name": "portcullis-bin", "mountPath": BIN }],
        }],
        "containers": [container(wanted, stdio)],
        "volumes": volumes(wanted, stdio),
    });
    schedule(&mut pod, &options);
    let account = stdio.service_account_name.as_deref().unwrap_or_default();
    set(&mut pod, "serviceAccountName", account, account.is_empty());
    set(
        &mut pod,
        "imagePullSecrets",
        pull_secrets(wanted, stdio),
        false,
    );
    json!({ "spec": {
        "replicas": 1,
        "revisionHistoryLimit": 3,
        // Sessions live in the one process.
        "strategy": { "type": "Recreate", "rollingUpdate": null },
        "selector": { "matchLabels": selector(ident, UPSTREAM) },
        "template": { "metadata": pod_metadata(ident, UPSTREAM, &options), "spec": pod },
    }})
}

/// The pod pulls two images.
fn pull_secrets(wanted: &Wanted<'_>, stdio: &StdioUpstream) -> Value {
    let gateway = wanted.spec.gateway();
    let mut names: Vec<Value> = Vec::new();
    for secret in stdio
        .image_pull_secrets
        .iter()
        .chain(&gateway.image_pull_secrets)
    {
        let secret = json!(secret);
        if !names.contains(&secret) {
            names.push(secret);
        }
    }
    Value::Array(names)
}

fn container(wanted: &Wanted<'_>, stdio: &StdioUpstream) -> Value {
    let ident = wanted.ident;
    let sessions = match stdio.sessions() {
        Sessions::Shared => "shared",
        Sessions::PerSession => "per-session",
    };
    // What the gateway lets pass grows a little when it is written anew.
    let bytes = wanted
        .spec
        .upstream
        .max_request_bytes()
        .parse()
        .unwrap_or(4 << 20)
        .saturating_add(64 << 10);
    let mut args = vec![
        "bridge".to_owned(),
        format!("--listen=[::]:{BRIDGE_PORT}"),
        format!("--bearer-file={BEARER}/bearer"),
        format!("--name={}/{}", ident.namespace, ident.name),
        format!("--sessions={sessions}"),
        format!("--max-request-bytes={bytes}"),
        // Kubernetes' own default: from there the message reaches the pod's status.
        "--termination-log=/dev/termination-log".to_owned(),
        // What the container is given is meant for the server.
        "--pass-env=*".to_owned(),
        "--".to_owned(),
    ];
    args.extend(stdio.command.iter().chain(&stdio.args).cloned());
    // Of two variables of one name the last counts in a pod, and a server-side apply refuses the pair.
    let last = |at: usize| {
        let rest = stdio.env.iter().skip(at + 1);
        move |name: &str| !rest.clone().any(|later| later.name == name)
    };
    let mut env: Vec<Value> = stdio
        .env
        .iter()
        .enumerate()
        .filter(|(at, variable)| last(*at)(&variable.name))
        .map(|(_, variable)| json!(variable))
        .collect();
    if !stdio.env.iter().any(|variable| variable.name == "HOME") {
        env.push(json!({ "name": "HOME", "value": HOME }));
    }
    let mut container = json!({
        "name": "server",
        "image": stdio.image,
        "command": [format!("{BIN}/portcullis-gateway")],
        "args": args,
        "env": env,
        "ports": [{ "name": "bridge", "containerPort": BRIDGE_PORT, "protocol": "TCP" }],
        "livenessProbe": probe("/livez", "bridge", 6),
        "readinessProbe": probe("/readyz", "bridge", 2),
        "securityContext": container_security(),
        "volumeMounts": mounts(stdio),
    });
    set(
        &mut container,
        "envFrom",
        &stdio.env_from,
        stdio.env_from.is_empty(),
    );
    set(
        &mut container,
        "resources",
        &stdio.resources,
        stdio.resources.is_none(),
    );
    container
}

fn volumes(wanted: &Wanted<'_>, stdio: &StdioUpstream) -> Vec<Value> {
    let bearer = wanted.ident.bearer_secret();
    let mut volumes: Vec<Value> = stdio.volumes.iter().map(|volume| json!(volume)).collect();
    volumes.push(json!({ "name": "portcullis-bin", "emptyDir": {} }));
    volumes.push(json!({
        "name": "portcullis-bearer",
        // Not optional: without the bearer there must be no server to reach.
        "secret": { "secretName": bearer, "defaultMode": 0o440 },
    }));
    volumes.extend(scratch(stdio).map(|(name, _)| json!({ "name": name, "emptyDir": {} })));
    volumes
}

fn mounts(stdio: &StdioUpstream) -> Vec<Value> {
    let mut mounts: Vec<Value> = stdio
        .volume_mounts
        .iter()
        .map(|mount| json!(mount))
        .collect();
    mounts.push(json!({ "name": "portcullis-bin", "mountPath": BIN, "readOnly": true }));
    mounts.push(json!({ "name": "portcullis-bearer", "mountPath": BEARER, "readOnly": true }));
    mounts.extend(scratch(stdio).map(|(name, path)| json!({ "name": name, "mountPath": path })));
    mounts
}

/// What the server can write to, where the user has mounted nothing of their own.
fn scratch(stdio: &StdioUpstream) -> impl Iterator<Item = (&'static str, &'static str)> {
    [("portcullis-tmp", "/tmp"), ("portcullis-home", HOME)]
        .into_iter()
        .filter(|(_, path)| {
            !stdio
                .volume_mounts
                .iter()
                .any(|mount| mount.mount_path.trim_end_matches('/') == *path)
        })
}
