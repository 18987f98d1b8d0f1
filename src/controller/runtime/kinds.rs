//! The kinds of children, and how the API server calls them.

use k8s_openapi::Metadata;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::core::{ApiResource, ObjectMeta};
use serde::Serialize;
use serde_json::Value;

/// A kind of child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    ServiceAccount,
    Role,
    RoleBinding,
    ConfigMap,
    Service,
    NetworkPolicy,
    Deployment,
    PodDisruptionBudget,
    HorizontalPodAutoscaler,
}

impl Kind {
    /// Every kind, in the order in which children are written: what pods need comes before pods.
    pub const ALL: [Kind; 9] = [
        Kind::ServiceAccount,
        Kind::Role,
        Kind::RoleBinding,
        Kind::ConfigMap,
        Kind::Service,
        Kind::NetworkPolicy,
        Kind::Deployment,
        Kind::PodDisruptionBudget,
        Kind::HorizontalPodAutoscaler,
    ];
}

/// An object of a kind that children may have.
pub trait ChildObject: Serialize + Metadata<Ty = ObjectMeta> {
    const CHILD_KIND: Kind;
}

macro_rules! child_objects {
    ($($object:ident),+) => {
        impl Kind {
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Kind::$object => <$object as k8s_openapi::Resource>::KIND,)+
                }
            }

            pub fn resource(self) -> ApiResource {
                match self {
                    $(Kind::$object => ApiResource::erase::<$object>(&()),)+
                }
            }
        }

        $(impl ChildObject for $object {
            const CHILD_KIND: Kind = Kind::$object;
        })+
    };
}
child_objects!(
    ServiceAccount,
    Role,
    RoleBinding,
    ConfigMap,
    Service,
    NetworkPolicy,
    Deployment,
    PodDisruptionBudget,
    HorizontalPodAutoscaler
);

/// An object that cannot be written as JSON.
#[derive(Debug, thiserror::Error)]
#[error("{kind} {name} cannot be written as JSON: {source}")]
pub struct NotJson {
    pub kind: &'static str,
    pub name: String,
    pub source: serde_json::Error,
}

/// An object that an McpServer owns, as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    pub kind: Kind,
    pub name: String,
    pub body: Value,
}

impl Child {
    /// The fields that are set in `object`, and no others.
    pub fn of<K: ChildObject>(object: &K) -> Result<Child, NotJson> {
        let name = object.metadata().name.clone().unwrap_or_default();
        match serde_json::to_value(object) {
            Ok(body) => Ok(Child {
                kind: K::CHILD_KIND,
                name,
                body,
            }),
            Err(source) => Err(NotJson {
                kind: K::CHILD_KIND.as_str(),
                name,
                source,
            }),
        }
    }
}
