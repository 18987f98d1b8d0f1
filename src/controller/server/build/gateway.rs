//! The gateway's own objects.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    Wanted, child, container_security, metadata, pod_metadata, pod_security, probe, schedule,
    selector, set,
};
use crate::api::server::{Autoscaling, Gateway, McpServerSpec};
use crate::controller::names::{ADMIN_PORT, BRIDGE_PORT, BUNDLE_KEY, GATEWAY, Ident, UPSTREAM};
use crate::controller::runtime::kinds::{Child, Kind};

/// Nobody in particular, and not root.
const USER: i64 = 65_532;
/// Below this are the gateway's mounts.
const ETC: &str = "/etc/portcullis";
/// In-flight calls, streams and the last report need this long at most.
const GRACE_SECONDS: u32 = 45;

pub(super) fn children(wanted: &Wanted<'_>) -> Vec<Child> {
    let (ident, gateway) = (wanted.ident, wanted.spec.gateway());
    let name = ident.gateway();
    let own = || metadata(ident, &name, GATEWAY);
    let put = |kind: Kind, content: Value| child(kind, name.clone(), own(), content);
    let mut children = vec![
        put(
            Kind::ServiceAccount,
            json!({ "automountServiceAccountToken": false }),
        ),
        put(Kind::Role, json!({ "rules": rules(&name) })),
        put(
            Kind::RoleBinding,
            json!({
                "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name },
                "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": ident.namespace }],
            }),
        ),
        service(ident, &gateway),
        put(Kind::NetworkPolicy, network(wanted, &gateway)),
        put(Kind::Deployment, deployment(wanted, &gateway)),
    ];
    let least = match &gateway.autoscaling {
        Some(autoscaling) => autoscaling.min_replicas(),
        None => gateway.replicas(),
    };
    if least > 1 && !wanted.alone {
        children.push(put(
            Kind::PodDisruptionBudget,
            json!({ "spec": {
                "maxUnavailable": 1,
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
                "selector": { "matchLabels": selector(ident, GATEWAY) },
            }}),
        ));
    }
    if let Some(autoscaling) = &gateway.autoscaling {
        children.push(put(
            Kind::HorizontalPodAutoscaler,
            autoscaler(&name, autoscaling),
        ));
    }
    children
}

/// All that a gateway may do. The operator holds each of these itself, as RBAC lets nobody give what they do not have.
fn rules(name: &str) -> Value {
    json!([
        { "apiGroups": [""], "resources": ["configmaps"], "resourceNames": [name], "verbs": ["get", "watch"] },
        { "apiGroups": [crate::api::GROUP], "resources": ["mcpapprovals"], "verbs": ["get", "list", "watch", "create"] },
        { "apiGroups": [crate::api::GROUP], "resources": ["mcpapprovals/status"], "verbs": ["update"] },
    ])
}

fn service(ident: &Ident, gateway: &Gateway) -> Child {
    let service = gateway.service.clone().unwrap_or_default();
    let mut metadata = metadata(ident, &ident.gateway(), GATEWAY);
    set(
        &mut metadata,
        "annotations",
        &service.annotations,
        service.annotations.is_empty(),
    );
    let content = json!({ "spec": {
        "type": service.type_(),
        "selector": selector(ident, GATEWAY),
        "ports": [{
            "name": if gateway.tls.is_some() { "https" } else { "http" },
            "port": gateway.port(),
            "targetPort": "http",
            "protocol": "TCP",
        }],
    }});
    child(Kind::Service, ident.gateway(), metadata, content)
}

fn network(wanted: &Wanted<'_>, gateway: &Gateway) -> Value {
    let port = |port: Value| json!([{ "port": port, "protocol": "TCP" }]);
    let mut ingress = vec![json!({ "ports": port(json!(gateway.port())) })];
    // An empty list of peers would admit everybody.
    if !wanted.settings.admin_from.0.is_empty() {
        ingress.push(
            json!({ "from": wanted.settings.admin_from.0, "ports": port(json!(ADMIN_PORT)) }),
        );
    }
    let mut spec = json!({
        "podSelector": { "matchLabels": selector(wanted.ident, GATEWAY) },
        "policyTypes": ["Ingress"],
        "ingress": ingress,
    });
    if let (Some(rules), Some(spec)) = (&wanted.settings.gateway_egress.0, spec.as_object_mut()) {
        let mut egress: Vec<Value> = rules.iter().map(|rule| json!(rule)).collect();
        if wanted.spec.upstream.stdio.is_some() {
            egress.push(json!({
                "to": [{ "podSelector": { "matchLabels": selector(wanted.ident, UPSTREAM) } }],
                "ports": port(json!(BRIDGE_PORT)),
            }));
        }
        spec.insert("policyTypes".to_owned(), json!(["Ingress", "Egress"]));
        spec.insert("egress".to_owned(), json!(egress));
    }
    json!({ "spec": spec })
}

fn autoscaler(name: &str, autoscaling: &Autoscaling) -> Value {
    json!({ "spec": {
        "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": name },
        "minReplicas": autoscaling.min_replicas(),
        "maxReplicas": autoscaling.max_replicas(),
        "metrics": [{ "type": "Resource", "resource": {
            "name": "cpu",
            "target": { "type": "Utilization", "averageUtilization": autoscaling.target_cpu_utilization_percentage() },
        }}],
    }})
}

/// What is written into `spec.replicas`; None leaves it to whoever else decides on it.
fn replicas(wanted: &Wanted<'_>, gateway: &Gateway) -> Option<i64> {
    if wanted.alone {
        return Some(i64::from(gateway.replicas().min(1)));
    }
    match (&gateway.autoscaling, gateway.replicas, wanted.replicas) {
        (None, Some(stated), _) => Some(i64::from(stated)),
        (_, _, Some(live)) if live.others => None,
        // Left out before somebody else has taken it over, the field would fall back to 1.
        // An autoscaler does nothing for what is scaled to zero.
        (Some(autoscaling), _, Some(live)) => {
            let least = i64::from(autoscaling.min_replicas());
            Some(
                live.now
                    .clamp(least, least.max(i64::from(autoscaling.max_replicas()))),
            )
        }
        (Some(autoscaling), _, None) => Some(i64::from(autoscaling.min_replicas())),
        (None, None, _) => Some(1),
    }
}

fn deployment(wanted: &Wanted<'_>, gateway: &Gateway) -> Value {
    let (ident, options) = (wanted.ident, gateway.pod.clone().unwrap_or_default());
    // Two gateways at once would each admit what the limits allow.
    let strategy = if wanted.alone {
        json!({ "type": "Recreate", "rollingUpdate": null })
    } else {
        json!({ "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 } })
    };
    let mut pod = json!({
        "serviceAccountName": ident.gateway(),
        "automountServiceAccountToken": true,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": pod_security(USER),
        "topologySpreadConstraints": [{
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": { "matchLabels": selector(ident, GATEWAY) },
        }],
        "containers": [container(wanted, gateway)],
        "volumes": volumes(wanted),
    });
    schedule(&mut pod, &options);
    set(
        &mut pod,
        "imagePullSecrets",
        &gateway.image_pull_secrets,
        gateway.image_pull_secrets.is_empty(),
    );
    let mut spec = json!({
        "revisionHistoryLimit": 3,
        "strategy": strategy,
        "selector": { "matchLabels": selector(ident, GATEWAY) },
        "template": { "metadata": pod_metadata(ident, GATEWAY, &options), "spec": pod },
    });
    let replicas = replicas(wanted, gateway);
    set(&mut spec, "replicas", replicas, replicas.is_none());
    json!({ "spec": spec })
}

fn container(wanted: &Wanted<'_>, gateway: &Gateway) -> Value {
    let (ident, settings) = (wanted.ident, wanted.settings);
    let mut args = vec![
        "run".to_owned(),
        format!("--namespace={}", ident.namespace),
        format!("--server={}", ident.name),
        format!("--server-uid={}", ident.uid),
        format!("--bundle-file={ETC}/bundle/{BUNDLE_KEY}"),
        format!("--secrets-dir={ETC}/secrets"),
        format!("--sealing-keys-file={ETC}/sealing/keys"),
        format!("--listen=[::]:{}", gateway.port()),
        format!("--admin-listen=[::]:{ADMIN_PORT}"),
        "--log-format=json".to_owned(),
    ];
    args.extend(
        wanted
            .bundle_keys
            .iter()
            .map(|key| format!("--bundle-key={key}")),
    );
    if wanted.spec.upstream.stdio.is_some() {
        args.push(format!(
            "--upstream-url=http://{}.{}.svc:{BRIDGE_PORT}/mcp",
            ident.upstream(),
            ident.namespace
        ));
        args.push(format!("--upstream-bearer-file={ETC}/upstream/bearer"));
    }
    let mut container = json!({
        "name": GATEWAY,
        "image": settings.gateway_image,
        "imagePullPolicy": settings.gateway_image_pull_policy,
        "args": args,
        "ports": [
            { "name": "http", "containerPort": gateway.port(), "protocol": "TCP" },
            { "name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP" },
        ],
        "livenessProbe": probe("/livez", "admin", 6),
        "readinessProbe": probe("/readyz", "admin", 1),
        "securityContext": container_security(),
        "volumeMounts": mounts(wanted),
    });
    let resources = gateway.resources.clone().map_or_else(
        || json!({ "requests": { "cpu": "50m", "memory": "32Mi" } }),
        |resources| serde_json::to_value(resources).unwrap_or_default(),
    );
    set(&mut container, "resources", resources, false);
    container
}

/// Names of the Secrets that the gateway itself reads, in order.
pub(super) fn secrets(spec: &McpServerSpec) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    if let Some(http) = &spec.upstream.http {
        let headers = http
            .headers
            .iter()
            .filter_map(|header| header.value_from.as_ref());
        names.extend(headers.map(|source| source.secret_key_ref.name.clone()));
        let ca = http.tls.as_ref().and_then(|tls| tls.ca_secret_ref.as_ref());
        names.extend(ca.map(|reference| reference.name.clone()));
    }
    let keys = spec
        .authentication
        .as_ref()
        .and_then(|authentication| authentication.api_keys.as_ref());
    names.extend(keys.map(|keys| keys.secret_ref.name.clone()));
    let providers = spec
        .authentication
        .iter()
        .flat_map(|authentication| &authentication.jwt);
    for jwks in providers.map(|provider| &provider.jwks) {
        let references = [&jwks.secret_key_ref, &jwks.ca_secret_ref];
        names.extend(
            references
                .into_iter()
                .flatten()
                .map(|reference| reference.name.clone()),
        );
    }
    let tls = spec
        .gateway
        .as_ref()
        .and_then(|gateway| gateway.tls.as_ref());
    names.extend(tls.map(|tls| tls.secret_ref.name.clone()));
    names
}

/// Every Secret is optional: the gateway says what is missing, where a pod that cannot start says little.
fn volumes(wanted: &Wanted<'_>) -> Vec<Value> {
    let ident = wanted.ident;
    let secret = |volume: &str, name: &str| json!({ "name": volume, "secret": { "secretName": name, "optional": true, "defaultMode": 0o440 } });
    let mut volumes = vec![
        json!({ "name": "bundle", "configMap": { "name": ident.gateway(), "optional": true } }),
        secret("sealing", &ident.sealing_secret()),
    ];
    if wanted.spec.upstream.stdio.is_some() {
        volumes.push(secret("upstream", &ident.bearer_secret()));
    }
    volumes.extend(
        secrets(wanted.spec)
            .iter()
            .enumerate()
            .map(|(at, name)| secret(&format!("secret-{at}"), name)),
    );
    volumes
}

fn mounts(wanted: &Wanted<'_>) -> Vec<Value> {
    let mount =
        |volume: &str, path: String| json!({ "name": volume, "mountPath": path, "readOnly": true });
    let mut mounts = vec![
        mount("bundle", format!("{ETC}/bundle")),
        mount("sealing", format!("{ETC}/sealing")),
    ];
    if wanted.spec.upstream.stdio.is_some() {
        mounts.push(mount("upstream", format!("{ETC}/upstream")));
    }
    mounts.extend(
        secrets(wanted.spec)
            .iter()
            .enumerate()
            .map(|(at, name)| mount(&format!("secret-{at}"), format!("{ETC}/secrets/{name}"))),
    );
    mounts
}
