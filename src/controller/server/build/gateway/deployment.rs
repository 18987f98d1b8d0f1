//! The gateway's Deployment: its replicas, its container, and what is mounted there.

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, Container, PodSpec, PodTemplateSpec, ResourceRequirements,
    TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::secrets;
use crate::api::contract::{ADMIN_PORT, BEARER_KEY, BUNDLE_KEY, SEALING_KEY};
use crate::api::server::{Counters, Gateway};
use crate::controller::names::{BRIDGE_PORT, GATEWAY};
use crate::controller::server::build::metadata::{metadata, selector};
use crate::controller::server::build::pod::{
    amounts, claim_volume, container_security, empty_volume, limited, mount, pod_metadata,
    pod_security, port, probe, scheduled, secret_volume,
};
use crate::controller::server::build::wanted::Wanted;

/// An arbitrary user other than root.
const USER: i64 = 65_532;
/// The journal of counters is below this.
const COUNTERS: &str = "/var/lib/portcullis/counters";
/// Below this are the gateway's mounts.
const ETC: &str = "/etc/portcullis";
/// In-flight calls, streams and the last report need this long at most.
const GRACE_SECONDS: i64 = 45;

pub fn deployment(wanted: &Wanted<'_>, gateway: &Gateway) -> Deployment {
    let Gateway {
        replicas: _,
        port: _,
        public_url: _,
        allowed_origins: _,
        allowed_hosts: _,
        tls: _,
        service: _,
        network_policy: _,
        resources: _,
        image_pull_secrets,
        pod: options,
        autoscaling: _,
    } = gateway;
    let (ident, options) = (wanted.ident, options.clone().unwrap_or_default());
    let pod = PodSpec {
        service_account_name: Some(ident.gateway()),
        automount_service_account_token: Some(true),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        security_context: Some(pod_security(USER)),
        topology_spread_constraints: Some(vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(selector(ident, GATEWAY)),
            ..TopologySpreadConstraint::default()
        }]),
        containers: vec![container(wanted, gateway)],
        volumes: Some(volumes(wanted)),
        image_pull_secrets: (!image_pull_secrets.is_empty()).then(|| image_pull_secrets.clone()),
        ..PodSpec::default()
    };
    Deployment {
        metadata: metadata(ident, &ident.gateway(), GATEWAY),
        spec: Some(DeploymentSpec {
            revision_history_limit: Some(3),
            strategy: Some(strategy(wanted.alone)),
            selector: selector(ident, GATEWAY),
            template: PodTemplateSpec {
                metadata: Some(pod_metadata(ident, GATEWAY, &options)),
                spec: Some(scheduled(pod, &options)),
            },
            replicas: replicas(wanted, gateway),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// Two gateways at once would each admit what the limits allow.
fn strategy(alone: bool) -> DeploymentStrategy {
    if alone {
        return DeploymentStrategy {
            type_: Some("Recreate".to_owned()),
            rolling_update: None,
        };
    }
    DeploymentStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdateDeployment {
            max_unavailable: Some(IntOrString::Int(0)),
            max_surge: Some(IntOrString::Int(1)),
        }),
    }
}

/// What is written into `spec.replicas`; None leaves it to another writer, such as an autoscaler.
fn replicas(wanted: &Wanted<'_>, gateway: &Gateway) -> Option<i32> {
    if wanted.alone {
        return Some(gateway.replicas().min(1));
    }
    match (&gateway.autoscaling, gateway.replicas, wanted.replicas) {
        (None, Some(stated), _) => Some(stated),
        (_, _, Some(live)) if live.others => None,
        // Left out before another writer has taken it over, the field would fall back to 1.
        // An autoscaler does nothing for what is scaled to zero.
        (Some(autoscaling), _, Some(live)) => {
            let least = autoscaling.min_replicas();
            let most = least.max(autoscaling.max_replicas());
            let live = i32::try_from(live.now).unwrap_or(i32::MAX);
            Some(live.clamp(least, most))
        }
        (Some(autoscaling), _, None) => Some(autoscaling.min_replicas()),
        (None, None, _) => Some(1),
    }
}

fn container(wanted: &Wanted<'_>, gateway: &Gateway) -> Container {
    let settings = wanted.settings;
    let usual = ResourceRequirements {
        requests: Some(amounts("50m", "32Mi")),
        limits: Some(amounts("2", "512Mi")),
        claims: None,
    };
    let resources = limited(gateway.resources.as_ref(), usual);
    Container {
        name: GATEWAY.to_owned(),
        image: Some(settings.gateway_image.clone()),
        image_pull_policy: Some(settings.gateway_image_pull_policy.clone()),
        args: Some(args(wanted, gateway)),
        ports: Some(vec![
            port("http", gateway.port()),
            port("admin", ADMIN_PORT.into()),
        ]),
        liveness_probe: Some(probe("/livez", "admin", 6)),
        readiness_probe: Some(probe("/readyz", "admin", 1)),
        security_context: Some(container_security()),
        volume_mounts: Some(mounts(wanted)),
        resources: Some(resources),
        ..Container::default()
    }
}

fn args(wanted: &Wanted<'_>, gateway: &Gateway) -> Vec<String> {
    let ident = wanted.ident;
    let mut args = vec![
        "run".to_owned(),
        format!("--namespace={}", ident.namespace),
        format!("--server={}", ident.name),
        format!("--server-uid={}", ident.uid),
        format!("--bundle-file={ETC}/bundle/{BUNDLE_KEY}"),
        format!("--secrets-dir={ETC}/secrets"),
        format!("--sealing-keys-file={ETC}/sealing/{SEALING_KEY}"),
        format!("--listen=[::]:{}", gateway.port()),
        format!("--admin-listen=[::]:{ADMIN_PORT}"),
        "--log-format=json".to_owned(),
    ];
    if wanted.spec.redis().is_none() {
        args.push(format!("--counters-dir={COUNTERS}"));
    }
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
        args.push(format!(
            "--upstream-bearer-file={ETC}/upstream/{BEARER_KEY}"
        ));
    }
    args
}

/// Every Secret is optional: the gateway says what is missing, where a pod that cannot start says
/// little.
fn volumes(wanted: &Wanted<'_>) -> Vec<Volume> {
    let ident = wanted.ident;
    let secret = |volume: &str, name: &str| secret_volume(volume, name, Some(true));
    let mut volumes = vec![
        Volume {
            name: "bundle".to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: ident.gateway(),
                optional: Some(true),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        secret("sealing", &ident.sealing_secret()),
    ];
    if wanted.spec.upstream.stdio.is_some() {
        volumes.push(secret("upstream", &ident.bearer_secret()));
    }
    volumes.extend(counters_volume(wanted));
    volumes.extend(
        secrets(wanted.spec)
            .iter()
            .enumerate()
            .map(|(at, name)| secret(&format!("secret-{at}"), name)),
    );
    volumes
}

/// A container that is started again finds what it has counted; a new pod does so on a claim.
fn counters_volume(wanted: &Wanted<'_>) -> Option<Volume> {
    let counters = wanted.spec.counters.as_ref();
    match counters.and_then(Counters::claim) {
        _ if wanted.spec.redis().is_some() => None,
        None => Some(empty_volume("counters")),
        Some(claim) => Some(claim_volume("counters", claim)),
    }
}

fn mounts(wanted: &Wanted<'_>) -> Vec<VolumeMount> {
    let read_only = |volume: &str, path: String| mount(volume, path, Some(true));
    let mut mounts = vec![
        read_only("bundle", format!("{ETC}/bundle")),
        read_only("sealing", format!("{ETC}/sealing")),
    ];
    if wanted.spec.upstream.stdio.is_some() {
        mounts.push(read_only("upstream", format!("{ETC}/upstream")));
    }
    if wanted.spec.redis().is_none() {
        mounts.push(mount("counters", COUNTERS, None));
    }
    mounts.extend(
        secrets(wanted.spec)
            .iter()
            .enumerate()
            .map(|(at, name)| read_only(&format!("secret-{at}"), format!("{ETC}/secrets/{name}"))),
    );
    mounts
}
