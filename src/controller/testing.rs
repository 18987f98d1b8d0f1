//! An operator for tests, over an API server that answers what a script says.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use kube::Resource;
use kube::runtime::watcher;
use prometheus_client::registry::Registry;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::controller::args::{self, Egress, Peers};
use crate::controller::caches::Caches;
use crate::controller::context::Context;
use crate::controller::events::Events;
use crate::controller::key::OperatorKey;
use crate::controller::memory::Memory;
use crate::controller::metrics::Metrics;
use crate::controller::names::Name;
use crate::controller::policy::diagnostics::PolicyDiagnostics;
use crate::controller::queues::Queues;
use crate::controller::runtime::kinds::Kind;
use crate::controller::runtime::objects::ObservedChild;
use crate::controller::runtime::store::Store;
use crate::controller::runtime::workqueue::{Action, WorkQueue};
use crate::controller::server::build::wanted::Settings;
use crate::scripted_api::Script;

/// An operator whose watches have listed nothing yet, and that leads.
pub struct TestOperator {
    pub ctx: Arc<Context>,
    /// Where its Events go.
    pub events: Script,
}

/// The operator's key in tests.
pub fn key() -> OperatorKey {
    OperatorKey::new(b"0123456789abcdef", "key").unwrap()
}

/// The server that most tests are about.
pub fn name() -> Name {
    ("ml".to_owned(), "m".to_owned())
}

impl TestOperator {
    pub fn new(script: &Script) -> TestOperator {
        TestOperator::with(script, &[])
    }

    pub fn with(script: &Script, flags: &[&str]) -> TestOperator {
        let args = args::given(flags).unwrap();
        let events = Script::taking_all();
        let queues = Arc::new(Queues::default());
        let ctx = Context {
            client: script.client(),
            settings: Settings {
                gateway_image: args.gateway_image.clone(),
                gateway_image_pull_policy: args.gateway_image_pull_policy.clone(),
                admin_from: Peers::default(),
                gateway_egress: Egress::default(),
            },
            args,
            key: OnceLock::from(key()),
            caches: Caches::new(0, 0, 0),
            queues: Arc::clone(&queues),
            diagnostics: PolicyDiagnostics::default(),
            memory: Memory::default(),
            metrics: Metrics::register(&mut Registry::default()),
            events: Events::start(events.client(), queues, "a"),
            issuer: Default::default(),
        };
        TestOperator {
            ctx: Arc::new(ctx),
            events,
        }
    }

    /// An McpServer of the caches.
    pub fn server(&self, object: &Value) {
        bring(&self.ctx.caches.servers, object);
    }

    pub fn policy(&self, object: &Value) {
        bring(&self.ctx.caches.policies, object);
    }

    pub fn pod(&self, object: &Value) {
        bring(&self.ctx.caches.pods, object);
    }

    /// A child of the caches, by its kind.
    pub fn child(&self, object: &Value) {
        bring(self.children_like(object), object);
    }

    /// The cache of an object's kind.
    fn children_like(&self, object: &Value) -> &Store<ObservedChild> {
        let mut kinds = Kind::ALL.into_iter();
        let kind = kinds.find(|kind| object["kind"] == kind.as_str());
        self.ctx.caches.children(kind.unwrap())
    }

    /// A child is no longer there.
    pub fn gone(&self, object: &Value) {
        let gone = serde_json::from_str(&object.to_string()).unwrap();
        let event = watcher::Event::Delete(gone);
        let store = self.children_like(object);
        store.take(None, &mut None, &mut false, event, |_| {});
    }

    /// The watches bring the children that were written.
    pub fn bring_written(&self, script: &Script) {
        for object in script.answered() {
            let is_child = Kind::ALL.iter().any(|kind| object["kind"] == kind.as_str());
            if is_child {
                self.child(&object);
            }
        }
    }

    /// A ReplicaSet of the gateway's Deployment with that UID, and a pod of it.
    pub fn gateway_pod(&self, deployment: &str, address: Option<SocketAddr>, ready: bool) {
        let labels =
            json!({"portcullis.dev/server": "m", "app.kubernetes.io/managed-by": "portcullis"});
        let owner = |kind: &str, uid: &str| json!([{"apiVersion": "apps/v1", "kind": kind, "name": "m", "uid": uid, "controller": true}]);
        bring(
            &self.ctx.caches.replica_sets,
            &json!({"metadata": {
                "namespace": "ml", "name": "m-gateway-1", "uid": "set", "resourceVersion": "50", "labels": labels,
                "ownerReferences": owner("Deployment", deployment),
            }}),
        );
        self.pod(&json!({
            "metadata": {
                "namespace": "ml", "name": "m-gateway-1-x", "uid": "pod", "resourceVersion": "51", "labels": labels,
                "ownerReferences": owner("ReplicaSet", "set"),
            },
            "status": {
                "podIP": address.map(|address| address.ip().to_string()),
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
            },
        }));
    }

    /// Lets tasks run that Events are written by.
    pub async fn events_of(&self, reason: &str) -> Vec<Value> {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let asked = self.events.asked().into_iter().map(|(_, body)| body);
        asked.filter(|body| body["reason"] == reason).collect()
    }
}

/// Puts an object into a store, as a watch does.
pub fn bring<K: Resource + DeserializeOwned>(store: &Store<K>, object: &Value) {
    // From text, as some types borrow parts of it.
    let object: K = serde_json::from_str(&object.to_string()).unwrap();
    let event = watcher::Event::Apply(object);
    store.take(None, &mut None, &mut false, event, |_| {});
}

/// What is in a queue now.
pub async fn queued(queue: &WorkQueue<Name>) -> Vec<String> {
    let mut names = Vec::new();
    while queue.depth() > 0 {
        let name = queue.next().await;
        queue.done(&name, Action::AwaitChange);
        names.push(name.1);
    }
    names.sort();
    names
}

/// An McpServer.
pub fn mcp_server(name: &str, generation: i64, spec: &Value) -> Value {
    json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
        "metadata": {
            "namespace": "ml", "name": name, "uid": format!("uid-of-{name}"), "generation": generation, "resourceVersion": "40",
        },
        "spec": spec,
    })
}

/// A spec of an McpServer.
pub fn http() -> Value {
    json!({"upstream": {"http": {"url": "http://mlflow/mcp"}}})
}

/// An McpPolicy of a namespace that targets a server, with one rule.
pub fn mcp_policy(namespace: &str, name: &str, target: &str, when: &str) -> Value {
    json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpPolicy",
        "metadata": {
            "namespace": namespace, "name": name, "uid": format!("uid-of-{name}"), "generation": 1, "resourceVersion": "41",
        },
        "spec": {
            "targetRefs": [{"group": "portcullis.dev", "kind": "McpServer", "name": target}],
            "rules": [{"name": "r", "tools": {"names": ["*"]}, "when": when, "action": "Allow"}],
        },
    })
}

/// The condition of a status that was written.
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array().unwrap();
    let found = conditions
        .iter()
        .find(|condition| condition["type"] == kind);
    found.unwrap_or(&Value::Null)
}
