//! What the pods of gateways and of stdio servers have in common.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, ContainerPort, EmptyDirVolumeSource, HTTPGetAction,
    PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec, Probe, ResourceRequirements,
    SeccompProfile, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::metadata::labels;
use crate::api::server::PodOptions;
use crate::controller::names::Ident;
use crate::controller::runtime::quantity::quantity;

/// Labels of a pod: the user's, and ours over them.
pub fn pod_metadata(ident: &Ident, component: &str, options: &PodOptions) -> ObjectMeta {
    let mut all = options.labels.clone();
    all.extend(labels(ident, component));
    ObjectMeta {
        labels: Some(all),
        annotations: unless_empty(options.annotations.clone()),
        ..ObjectMeta::default()
    }
}

/// Scheduling and the like, as the user wants it.
pub fn scheduled(pod: PodSpec, options: &PodOptions) -> PodSpec {
    let PodOptions {
        labels: _,
        annotations: _,
        node_selector,
        tolerations,
        affinity,
        priority_class_name,
    } = options.clone();
    PodSpec {
        node_selector: unless_empty(node_selector),
        tolerations: (!tolerations.is_empty()).then_some(tolerations),
        affinity,
        priority_class_name: priority_class_name.filter(|class| !class.is_empty()),
        ..pod
    }
}

/// A map that is left out if there is nothing in it.
pub fn unless_empty(map: BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then_some(map)
}

/// What the restricted Pod Security Standard asks of a pod.
pub fn pod_security(user: i64) -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(user),
        run_as_group: Some(user),
        fs_group: Some(user),
        // A large claim is not gone through at each start.
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        ..PodSecurityContext::default()
    }
}

/// What it asks of a container, and a file system that cannot be changed.
pub fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: None,
        }),
        ..SecurityContext::default()
    }
}

pub fn probe(path: &str, port: &str, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(port.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(5),
        timeout_seconds: Some(3),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

pub fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

/// A Secret in a volume; one that is not optional keeps the pod from starting while it is missing.
pub fn secret_volume(volume: &str, secret: &str, optional: Option<bool>) -> Volume {
    Volume {
        name: volume.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            optional,
            default_mode: Some(0o440),
            items: None,
        }),
        ..Volume::default()
    }
}

pub fn empty_volume(volume: &str) -> Volume {
    Volume {
        name: volume.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    }
}

pub fn claim_volume(volume: &str, claim: &str) -> Volume {
    Volume {
        name: volume.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.to_owned(),
            read_only: None,
        }),
        ..Volume::default()
    }
}

pub fn mount(volume: &str, path: impl Into<String>, read_only: Option<bool>) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: path.into(),
        read_only,
        ..VolumeMount::default()
    }
}

/// Resources as stated, and the usual limits on processor time and memory where none are: what a
/// platform bounds is bounded in any case, and a quota on limits refuses no pod. A request above
/// the usual limit is the limit.
pub fn limited(
    stated: Option<&ResourceRequirements>,
    usual: ResourceRequirements,
) -> ResourceRequirements {
    let Some(stated) = stated else {
        return usual;
    };
    let mut resources = stated.clone();
    let (limits, requests) = (
        resources.limits.get_or_insert_default(),
        resources.requests.get_or_insert_default(),
    );
    for (name, limit) in usual.limits.unwrap_or_default() {
        if limits.contains_key(&name) {
            continue;
        }
        let amount = |of: &Quantity| quantity(&Value::String(of.0.clone()));
        let least = requests.get(&name).cloned();
        let limit = least
            .filter(|least| amount(least) > amount(&limit))
            .unwrap_or(limit);
        limits.insert(name.clone(), limit);
        // Without a request the API server takes the limit for one.
        if let Some(request) = usual.requests.as_ref().and_then(|usual| usual.get(&name)) {
            requests.entry(name).or_insert_with(|| request.clone());
        }
    }
    resources
}

/// Amounts of CPU and memory.
pub fn amounts(cpu: &str, memory: &str) -> BTreeMap<String, Quantity> {
    BTreeMap::from([
        ("cpu".to_owned(), Quantity(cpu.to_owned())),
        ("memory".to_owned(), Quantity(memory.to_owned())),
    ])
}
