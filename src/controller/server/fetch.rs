//! Everything that one McpServer depends on, read from the caches at one moment.
//!
//! In: its name. Out: the server, the policies that target it, its children, its pods. No I/O: the
//! caches are the watches'.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::Client;
use serde_json::Value;

use crate::api::loose::Loose;
use crate::api::policy::{McpPolicy, Mode};
use crate::api::server::McpServer;
use crate::controller::context::Context;
use crate::controller::names::{Ident, Name};
use crate::controller::policy::diagnostics::readable;
use crate::controller::runtime::kinds::Kind;
use crate::controller::runtime::objects::{GatewayPod, ObservedChild};
use crate::controller::runtime::writer::Children;
use crate::controller::server::build::wanted::Replicas;
use crate::policy::bundle::BundleIssuer;
use crate::policy::diagnostic::Diagnostic;
use crate::policy::target;

/// A policy that targets the server, or that is not accepted and may have targeted it when it was.
pub struct Targeting {
    /// The policy; with nothing but its targets if it was not understood.
    pub policy: Arc<McpPolicy>,
    /// Whether it targets the server as it is now.
    pub now: bool,
    /// What is wrong with it; empty if it is accepted.
    pub errors: Arc<Vec<Diagnostic>>,
    /// Bytes of its spec as JSON.
    pub size: usize,
}

impl Targeting {
    /// Whether it would enforce anything; one that was not understood may.
    pub fn enforces(&self) -> bool {
        self.policy.spec.mode() == Mode::Enforce
    }
}

/// What the reconciliation of one server reads.
pub struct Refs {
    pub ident: Ident,
    /// The server, or why it is not understood.
    pub server: Result<McpServer, String>,
    pub object: Arc<Loose<McpServer>>,
    pub policies: Vec<Targeting>,
    /// It is being deleted, and a finalizer holds it: nothing is made for it any more.
    pub leaving: bool,
    /// A policy selects by labels of the server's namespace, and they are not known.
    pub namespace_unknown: bool,
    pub children: BTreeMap<(Kind, String), Arc<ObservedChild>>,
    pub pods: Vec<Arc<GatewayPod>>,
    /// The pods of a stdio server.
    pub upstream_pods: Vec<Arc<GatewayPod>>,
    /// This cluster's issuer of service account tokens, if it is known.
    pub issuer: Option<BundleIssuer>,
}

impl Refs {
    /// A child that is this server's; not another owner's that has its name.
    pub fn own(&self, kind: Kind, name: &str) -> Option<&ObservedChild> {
        self.children
            .get(&(kind, name.to_owned()))
            .map(Arc::as_ref)
            .filter(|live| live.controller() == Some(&self.ident.uid))
    }

    /// Why the pods of a Deployment of ours do not run, if so.
    pub fn trouble(&self, deployment: &str, pods: &[Arc<GatewayPod>]) -> Option<String> {
        let mut of_pods = pods.iter().filter(|pod| !pod.terminating && !pod.ready);
        of_pods
            .find_map(|pod| pod.trouble.clone())
            .or_else(|| self.own(Kind::Deployment, deployment)?.trouble.clone())
    }

    /// Whether a policy that targets it, or may have, is not accepted now.
    pub fn has_rejected_policy(&self) -> bool {
        self.policies.iter().any(|policy| !policy.errors.is_empty())
    }

    /// Replicas of the gateway's Deployment, if there is one.
    pub fn gateway_replicas(&self) -> Option<Replicas> {
        let deployment = (Kind::Deployment, self.ident.gateway());
        let live = self.children.get(&deployment)?;
        let value = live.value();
        let now = value.pointer("/spec/replicas").and_then(Value::as_i64);
        Some(Replicas {
            now: now.unwrap_or(1),
            others: live.replicas_of_others,
        })
    }

    /// Writes of this server's children.
    pub fn writes<'a>(&'a self, client: &'a Client) -> Children<'a> {
        Children {
            client,
            namespace: &self.ident.namespace,
            owner: &self.ident.uid,
            creates: !self.leaving,
        }
    }
}

/// None if there is no such server.
pub fn fetch(ctx: &Context, name: &Name) -> Option<Refs> {
    let object = ctx.caches.servers.get(name)?;
    let metadata = object.metadata();
    let ident = Ident {
        namespace: metadata.namespace.clone()?,
        name: metadata.name.clone()?,
        uid: metadata.uid.clone()?,
    };
    let server = object
        .object()
        .map(|server| McpServer::clone(server))
        .map_err(|undecoded| undecoded.error.clone());
    let leaving = metadata.deletion_timestamp.is_some();
    let (policies, namespace_unknown) = policies(ctx, &object);
    let children = children(ctx, &ident);
    let pods_of = |name: String| {
        let deployment = children
            .get(&(Kind::Deployment, name))
            .filter(|deployment| deployment.controller() == Some(&ident.uid));
        deployment
            .map(|deployment| ctx.caches.pods_of(&ident, deployment.uid()))
            .unwrap_or_default()
    };
    let pods = pods_of(ident.gateway());
    let upstream_pods = pods_of(ident.upstream());
    Some(Refs {
        ident,
        server,
        object,
        policies,
        leaving,
        namespace_unknown,
        children,
        pods,
        upstream_pods,
        issuer: ctx.issuer.current(),
    })
}

/// Policies that target a server, understood or not, and those that are not accepted now, in the
/// order of their names. True if one of them selects by labels of the server's namespace that are
/// not known.
fn policies(ctx: &Context, server: &Loose<McpServer>) -> (Vec<Targeting>, bool) {
    let own = &ctx.args.namespace;
    let namespace = server.metadata().namespace.as_deref().unwrap_or_default();
    let known = ctx.caches.namespace_labels(namespace).is_some();
    let mut unknown = false;
    let near = |policy: &Loose<McpPolicy>| {
        let of = policy.metadata().namespace.as_deref();
        of == Some(namespace) || of == Some(own)
    };
    let mut found: Vec<Targeting> = ctx
        .caches
        .policies
        .filter(near)
        .into_iter()
        .filter_map(|policy| {
            let size = ctx.diagnostics.size(&policy);
            let errors = ctx.diagnostics.errors(&policy);
            let policy = readable(&policy);
            unknown |= !known && target::needs_namespace_labels(&policy);
            let now = ctx.targets(&policy, server.metadata());
            (now || !errors.is_empty()).then_some(Targeting {
                policy,
                now,
                errors,
                size,
            })
        })
        .collect();
    found.sort_by(|a, b| {
        let key = |one: &Targeting| {
            (
                one.policy.metadata.namespace.clone(),
                one.policy.metadata.name.clone(),
            )
        };
        key(a).cmp(&key(b))
    });
    (found, unknown)
}

fn children(ctx: &Context, ident: &Ident) -> BTreeMap<(Kind, String), Arc<ObservedChild>> {
    let mut found = BTreeMap::new();
    for kind in Kind::ALL {
        for name in [ident.gateway(), ident.upstream(), ident.ledger()] {
            let key = (ident.namespace.clone(), name.clone());
            if let Some(live) = ctx.caches.children(kind).get(&key) {
                found.insert((kind, name), live);
            }
        }
    }
    found
}
