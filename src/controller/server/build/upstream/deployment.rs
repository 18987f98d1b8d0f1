//! The Deployment of a stdio server, which the bridge starts.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy};
use k8s_openapi::api::core::v1::{
    Container, EnvVar, LocalObjectReference, PodSpec, PodTemplateSpec, ResourceRequirements,
    Volume, VolumeMount,
};

use crate::api::server::{Sessions, StdioUpstream};
use crate::controller::names::{BRIDGE_PORT, UPSTREAM};
use crate::controller::server::build::metadata::{metadata, selector};
use crate::controller::server::build::pod::{
    amounts, container_security, empty_volume, limited, mount, pod_metadata, pod_security, port,
    probe, scheduled, secret_volume,
};
use crate::controller::server::build::wanted::{Settings, Wanted};
use crate::policy::credential::CredentialVariables;

/// Where the bridge's program is put.
const BIN: &str = "/portcullis";
/// Where the server finds a home that it can write to.
const HOME: &str = "/home/portcullis";
const BEARER: &str = "/etc/portcullis-bearer";
/// Where the Secrets of callers' credentials are, each in a folder of its own.
const CREDENTIALS: &str = "/etc/portcullis-credentials";
/// The server gets SIGTERM and time to end before it is killed.
const GRACE_SECONDS: i64 = 30;

pub fn deployment(wanted: &Wanted<'_>, stdio: &StdioUpstream) -> Deployment {
    let ident = wanted.ident;
    let account = stdio.service_account_name.clone();
    let options = stdio.pod.clone().unwrap_or_default();
    let pod = PodSpec {
        automount_service_account_token: Some(account.is_some()),
        service_account_name: account.filter(|account| !account.is_empty()),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        security_context: Some(pod_security(stdio.run_as_user())),
        init_containers: Some(vec![installer(wanted.settings)]),
        containers: vec![container(wanted, stdio)],
        volumes: Some(volumes(wanted, stdio)),
        image_pull_secrets: Some(pull_secrets(wanted, stdio)),
        ..PodSpec::default()
    };
    Deployment {
        metadata: metadata(ident, &ident.upstream(), UPSTREAM),
        spec: Some(DeploymentSpec {
            replicas: Some(1),
            revision_history_limit: Some(3),
            // Sessions live in the one process.
            strategy: Some(DeploymentStrategy {
                type_: Some("Recreate".to_owned()),
                rolling_update: None,
            }),
            selector: selector(ident, UPSTREAM),
            template: PodTemplateSpec {
                metadata: Some(pod_metadata(ident, UPSTREAM, &options)),
                spec: Some(scheduled(pod, &options)),
            },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// The image of the gateway is FROM scratch: there is no cp in it, so it copies itself.
fn installer(settings: &Settings) -> Container {
    Container {
        name: "install".to_owned(),
        image: Some(settings.gateway_image.clone()),
        image_pull_policy: Some(settings.gateway_image_pull_policy.clone()),
        args: Some(vec!["install".to_owned(), BIN.to_owned()]),
        security_context: Some(container_security()),
        // With limits, as a quota on them refuses pods without.
        resources: Some(ResourceRequirements {
            requests: Some(amounts("10m", "16Mi")),
            limits: Some(amounts("200m", "64Mi")),
            claims: None,
        }),
        volume_mounts: Some(vec![mount("portcullis-bin", BIN, None)]),
        ..Container::default()
    }
}

/// The pod pulls two images.
fn pull_secrets(wanted: &Wanted<'_>, stdio: &StdioUpstream) -> Vec<LocalObjectReference> {
    let gateway = wanted.spec.gateway();
    let mut secrets: Vec<LocalObjectReference> = Vec::new();
    for secret in stdio
        .image_pull_secrets
        .iter()
        .chain(&gateway.image_pull_secrets)
    {
        if !secrets.contains(secret) {
            secrets.push(secret.clone());
        }
    }
    secrets
}

fn container(wanted: &Wanted<'_>, stdio: &StdioUpstream) -> Container {
    let StdioUpstream {
        image,
        command,
        args,
        env,
        env_from,
        sessions: _,
        session_idle_timeout: _,
        credentials: _,
        run_as_user: _,
        service_account_name: _,
        volumes: _,
        volume_mounts: _,
        resources,
        image_pull_secrets: _,
        pod: _,
        unknown: _,
    } = stdio;
    let mut all = bridge_args(wanted, stdio);
    all.extend(command.iter().chain(args).cloned());
    Container {
        name: "server".to_owned(),
        image: Some(image.clone()),
        command: Some(vec![format!("{BIN}/portcullis-gateway")]),
        args: Some(all),
        env: Some(environment(env)),
        env_from: (!env_from.is_empty()).then(|| env_from.clone()),
        ports: Some(vec![port("bridge", BRIDGE_PORT.into())]),
        liveness_probe: Some(probe("/livez", "bridge", 6)),
        readiness_probe: Some(probe("/readyz", "bridge", 2)),
        security_context: Some(container_security()),
        volume_mounts: Some(mounts(stdio)),
        resources: Some(limited(resources.as_ref(), usual_resources(stdio))),
        ..Container::default()
    }
}

/// With limits, as a quota on them refuses pods without.
fn usual_resources(stdio: &StdioUpstream) -> ResourceRequirements {
    let most_memory = match stdio.sessions() {
        Sessions::Shared => "2Gi",
        // One process for each session.
        Sessions::PerSession => "4Gi",
    };
    ResourceRequirements {
        requests: Some(amounts("50m", "128Mi")),
        limits: Some(amounts("2", most_memory)),
        claims: None,
    }
}

/// The bridge's own arguments, before those of the server.
fn bridge_args(wanted: &Wanted<'_>, stdio: &StdioUpstream) -> Vec<String> {
    let ident = wanted.ident;
    let sessions = match stdio.sessions() {
        Sessions::Shared => "shared",
        Sessions::PerSession => "per-session",
    };
    // What the gateway lets pass grows a little when it is written again.
    let bytes = wanted
        .spec
        .upstream
        .max_request_bytes()
        .parse()
        .unwrap_or(4 << 20)
        .saturating_add(64 << 10);
    let idle = stdio.session_idle_timeout().parse().unwrap_or_default();
    let mut args = vec![
        "bridge".to_owned(),
        format!("--listen=[::]:{BRIDGE_PORT}"),
        format!("--bearer-file={BEARER}/bearer"),
        format!("--name={}/{}", ident.namespace, ident.name),
        format!("--sessions={sessions}"),
        format!("--session-idle-timeout={}", idle.as_secs().max(1)),
        format!("--max-request-bytes={bytes}"),
        // Kubernetes' own default: from there the message reaches the pod's status.
        "--termination-log=/dev/termination-log".to_owned(),
        // What the container is given is meant for the server.
        "--pass-env=*".to_owned(),
    ];
    if !stdio.credentials.is_empty() {
        args.push(format!("--credentials-dir={CREDENTIALS}"));
    }
    // Names, not values of Secrets.
    let credentials = credentials(stdio).map(|variables| variables.to_text());
    args.extend(credentials.map(|text| format!("--credential={text}")));
    args.push("--".to_owned());
    args
}

/// The variables of each credential; a spec is accepted only if all of them can be read.
fn credentials(stdio: &StdioUpstream) -> impl Iterator<Item = CredentialVariables> {
    let entries = stdio.credentials.iter();
    entries.filter_map(|entry| CredentialVariables::of(&entry.env).ok())
}

/// The Secrets of credentials, each once and in order.
fn credential_secrets(stdio: &StdioUpstream) -> Vec<(String, String)> {
    let variables: Vec<CredentialVariables> = credentials(stdio).collect();
    let names: BTreeSet<&str> = variables
        .iter()
        .flat_map(CredentialVariables::secrets)
        .collect();
    let volumes = names.into_iter().enumerate();
    volumes
        .map(|(at, name)| (format!("portcullis-credential-{at}"), name.to_owned()))
        .collect()
}

/// The user's variables, and a home. Of two variables of one name the last counts in a pod, and a
/// server-side apply refuses the pair.
fn environment(given: &[EnvVar]) -> Vec<EnvVar> {
    let is_last =
        |at: usize, name: &str| !given.iter().skip(at + 1).any(|later| later.name == name);
    let mut variables: Vec<EnvVar> = given
        .iter()
        .enumerate()
        .filter(|(at, variable)| is_last(*at, &variable.name))
        .map(|(_, variable)| variable.clone())
        .collect();
    if !given.iter().any(|variable| variable.name == "HOME") {
        variables.push(EnvVar {
            name: "HOME".to_owned(),
            value: Some(HOME.to_owned()),
            value_from: None,
        });
    }
    variables
}

fn volumes(wanted: &Wanted<'_>, stdio: &StdioUpstream) -> Vec<Volume> {
    let mut volumes = stdio.volumes.clone();
    volumes.push(empty_volume("portcullis-bin"));
    // Not optional: without the bearer there must be no server to reach.
    let bearer = wanted.ident.bearer_secret();
    volumes.push(secret_volume("portcullis-bearer", &bearer, None));
    // Optional: while one is missing, the bridge refuses its callers and serves the others.
    volumes.extend(
        credential_secrets(stdio)
            .iter()
            .map(|(volume, secret)| secret_volume(volume, secret, Some(true))),
    );
    volumes.extend(scratch(stdio).map(|(name, _)| empty_volume(name)));
    volumes
}

fn mounts(stdio: &StdioUpstream) -> Vec<VolumeMount> {
    let mut mounts = stdio.volume_mounts.clone();
    mounts.push(mount("portcullis-bin", BIN, Some(true)));
    mounts.push(mount("portcullis-bearer", BEARER, Some(true)));
    mounts.extend(
        credential_secrets(stdio)
            .iter()
            .map(|(volume, secret)| mount(volume, format!("{CREDENTIALS}/{secret}"), Some(true))),
    );
    mounts.extend(scratch(stdio).map(|(name, path)| mount(name, path, None)));
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
