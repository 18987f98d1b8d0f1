//! What another writer changed of a child: which fields, who, and whether that widens what a pod
//! may do.
//!
//! In: a child as it should be and as it is, who manages which field. Out: the fields that differ,
//! and those that were added. Pure. Must not do: take a default of the API server's for a change:
//! no other writer manages those, and they are harmless.

use serde_json::{Value, json};

use crate::controller::runtime::drift::{is_nothing, quantities};
use crate::controller::runtime::kinds::{Child, Kind};
use crate::controller::runtime::objects::ObservedChild;

/// Fields of pods, containers and Services that widen what runs, whichever manager has them. No
/// default of the API server's adds one.
const WIDENING: [&str; 29] = [
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "hostUsers",
    "shareProcessNamespace",
    "hostAliases",
    "hostname",
    "subdomain",
    "setHostnameAsFQDN",
    "nodeName",
    "runtimeClassName",
    "dnsConfig",
    "initContainers",
    "ephemeralContainers",
    "env",
    "envFrom",
    "lifecycle",
    "command",
    "stdin",
    "tty",
    "volumeDevices",
    "startupProbe",
    "hostPort",
    "hostIP",
    "privileged",
    "procMount",
    "resourceClaims",
    "claims",
    "externalIPs",
];
/// Fields that select, where more selects less, and nothing selects all.
const SELECTORS: [&str; 3] = ["selector", "podSelector", "namespaceSelector"];
/// Fields whose change does no harm: others may want to decide on them. Where they fight over them,
/// there are pauses.
const HARMLESS: [&str; 4] = [
    "spec.replicas",
    "spec.minReadySeconds",
    "spec.progressDeadlineSeconds",
    "spec.revisionHistoryLimit",
];

/// One part of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Key(String),
    /// An item of a list, by its name or its place.
    Item(String),
}

/// A field that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    path: Vec<Part>,
    /// It should not be there.
    pub added: bool,
    /// It may let a pod, or a user, do more.
    pub widens: bool,
}

impl Change {
    /// The path as people write it, such as `spec.template.spec.containers[gateway].env`.
    pub fn field(&self) -> String {
        shown(&self.path)
    }
}

fn shown(path: &[Part]) -> String {
    let mut shown = String::new();
    for part in path {
        match part {
            Part::Key(key) if shown.is_empty() => shown.push_str(key),
            Part::Key(key) => {
                shown.push('.');
                shown.push_str(key);
            }
            Part::Item(item) => {
                shown.push('[');
                shown.push_str(item);
                shown.push(']');
            }
        }
    }
    shown
}

/// What differs of a child's content. Labels and annotations are not compared here.
pub fn changes(child: &Child, live: &ObservedChild) -> Vec<Change> {
    let strategy = child.body.pointer("/spec/strategy/type");
    let mut walk = Walk {
        kind: child.kind,
        alone: strategy.and_then(Value::as_str) == Some("Recreate"),
        live,
        path: Vec::new(),
        found: Vec::new(),
    };
    let value = live.value();
    let (Some(object), Some(wanted)) = (value.as_object(), child.body.as_object()) else {
        walk.differs();
        return walk.found;
    };
    let apart = |key: &str| matches!(key, "apiVersion" | "kind" | "metadata" | "status");
    for (key, wanted) in wanted.iter().filter(|(key, _)| !apart(key)) {
        walk.within(Part::Key(key.clone()), |walk| {
            walk.compare(object.get(key), wanted, key);
        });
    }
    // Controllers put names of Secrets onto service accounts; they grant nothing.
    let of_others = |key: &str| {
        child.kind == Kind::ServiceAccount && matches!(key, "secrets" | "imagePullSecrets")
    };
    for (key, value) in object {
        if !apart(key) && !of_others(key) && !wanted.contains_key(key) {
            walk.within(Part::Key(key.clone()), |walk| walk.extra(key, value));
        }
    }
    walk.found
}

/// Whether a field differs that the API server lets no client change: the selector of a Deployment.
pub fn is_to_be_made_again(kind: Kind, changes: &[Change]) -> bool {
    let selects = |change: &Change| change.field().starts_with("spec.selector");
    kind == Kind::Deployment && changes.iter().any(selects)
}

struct Walk<'a> {
    kind: Kind,
    /// Two of its pods at once would each admit what its limits allow.
    alone: bool,
    live: &'a ObservedChild,
    path: Vec<Part>,
    found: Vec<Change>,
}

impl Walk<'_> {
    fn within(&mut self, part: Part, go: impl FnOnce(&mut Self)) {
        self.path.push(part);
        go(self);
        self.path.pop();
    }

    fn compare(&mut self, live: Option<&Value>, wanted: &Value, key: &str) {
        match (live, wanted) {
            // Empty values are left out on their way.
            (None, wanted) => {
                if !is_nothing(wanted) {
                    self.differs();
                }
            }
            (Some(live), wanted) if matches!(key, "requests" | "limits") => {
                if !quantities(live, wanted) {
                    self.differs();
                }
            }
            (Some(Value::Object(live)), Value::Object(wanted)) => {
                for (key, wanted) in wanted {
                    self.within(Part::Key(key.clone()), |walk| {
                        walk.compare(live.get(key), wanted, key);
                    });
                }
                // In a selector more does matter: it selects less, or nothing.
                let selects = SELECTORS.contains(&key);
                for (key, value) in live.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
                    self.within(Part::Key(key.clone()), |walk| {
                        if selects {
                            walk.differs();
                        } else {
                            walk.extra(key, value);
                        }
                    });
                }
            }
            (Some(Value::Array(live)), Value::Array(wanted)) => self.lists(live, wanted),
            (Some(live), wanted) => {
                if live != wanted {
                    self.differs();
                }
            }
        }
    }

    fn lists(&mut self, live: &[Value], wanted: &[Value]) {
        let names = |list: &[Value]| -> Option<Vec<String>> {
            let mut names: Vec<String> = Vec::with_capacity(list.len());
            for item in list {
                let name = item.get("name")?.as_str()?.to_owned();
                if names.contains(&name) {
                    return None;
                }
                names.push(name);
            }
            Some(names)
        };
        let (live_names, wanted_names) = (names(live), names(wanted));
        if live.len() == wanted.len() && live_names == wanted_names
            || live.len() == wanted.len() && wanted_names.is_none()
        {
            for (at, (live, wanted)) in live.iter().zip(wanted).enumerate() {
                let name = wanted_names.as_ref().and_then(|names| names.get(at));
                let item = name.cloned().unwrap_or_else(|| at.to_string());
                self.within(Part::Item(item), |walk| {
                    walk.compare(Some(live), wanted, "");
                });
            }
            return;
        }
        // Named items that were added are listed by name; any other difference is the list's.
        let added: Vec<String> = match (live_names, wanted_names) {
            (Some(live), Some(wanted)) => live
                .into_iter()
                .filter(|name| !wanted.contains(name))
                .collect(),
            _ => Vec::new(),
        };
        if added.is_empty() {
            return self.differs();
        }
        for name in added {
            self.within(Part::Item(name), |walk| walk.push(true));
        }
    }

    /// A field that we do not write.
    fn extra(&mut self, key: &str, value: &Value) {
        let path = shown(&self.path);
        // An empty selector selects all there is.
        if self.kind == Kind::NetworkPolicy && SELECTORS.contains(&key) {
            return self.push(true);
        }
        if is_nothing(value)
            || value == &Value::Bool(false)
            || path == "spec.replicas"
            || path == "spec.template.metadata"
            || path.starts_with("spec.template.metadata.annotations")
        {
            return;
        }
        let in_security_context = self
            .path
            .iter()
            .rev()
            .skip(1)
            .any(|part| part == &Part::Key("securityContext".to_owned()));
        let widens =
            self.kind != Kind::ConfigMap && (WIDENING.contains(&key) || in_security_context);
        if widens || self.live.manager_of(&path).is_some() {
            self.push(true);
        }
    }

    fn differs(&mut self) {
        self.push(false);
    }

    fn push(&mut self, added: bool) {
        let path = shown(&self.path);
        let harmless = matches!(
            self.kind,
            Kind::HorizontalPodAutoscaler | Kind::PodDisruptionBudget
        ) || HARMLESS.contains(&path.as_str())
            && !(self.alone && path == "spec.replicas");
        self.found.push(Change {
            path: self.path.clone(),
            added,
            widens: !harmless,
        });
    }
}

/// The whole intent as a merge patch (RFC 7386): lists are replaced whole, and what was added to
/// objects is removed.
pub fn patch(body: &Value, changes: &[Change]) -> Value {
    let mut patch = body.clone();
    for change in changes.iter().filter(|change| change.added) {
        let mut at = &mut patch;
        for (depth, part) in change.path.iter().enumerate() {
            let (Part::Key(key), Some(object)) = (part, at.as_object_mut()) else {
                // Inside a list, which is replaced as a whole.
                break;
            };
            let last = depth + 1 == change.path.len();
            at = object
                .entry(key.clone())
                .or_insert_with(|| if last { Value::Null } else { json!({}) });
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child() -> Child {
        let mut body = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "m-gateway", "namespace": "ml"},
        });
        body["spec"] = json!({
            "selector": {"matchLabels": {"app": "m"}},
            "template": {"spec": {
                "securityContext": {"runAsNonRoot": true},
                "volumes": [{"name": "bundle", "configMap": {"name": "m-gateway"}}],
                "containers": [{
                    "name": "gateway", "image": "i", "args": ["run"],
                    "ports": [{"name": "http", "containerPort": 8080}],
                    "securityContext": {"capabilities": {"drop": ["ALL"]}},
                }],
            }},
        });
        Child {
            kind: Kind::Deployment,
            name: "m-gateway".to_owned(),
            body,
        }
    }

    /// The child as the API server has it, with its defaults, and then changed by another writer.
    fn live(manager: &str, fields: Value, change: impl FnOnce(&mut Value)) -> ObservedChild {
        let mut body = child().body;
        body["metadata"]["ownerReferences"] = json!([{"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer", "name": "m", "uid": "u", "controller": true}]);
        body["metadata"]["managedFields"] =
            json!([{"manager": manager, "operation": "Update", "fieldsV1": fields}]);
        let pod = &mut body["spec"]["template"]["spec"];
        pod["dnsPolicy"] = json!("ClusterFirst");
        pod["restartPolicy"] = json!("Always");
        pod["volumes"][0]["configMap"]["defaultMode"] = json!(420);
        pod["containers"][0]["terminationMessagePath"] = json!("/dev/termination-log");
        body["spec"]["progressDeadlineSeconds"] = json!(600);
        change(&mut body);
        serde_json::from_value(body).unwrap()
    }

    fn fields(live: &ObservedChild) -> Vec<(String, bool)> {
        changes(&child(), live)
            .iter()
            .map(|change| (change.field(), change.widens))
            .collect()
    }

    #[test]
    fn defaults_are_no_changes_and_every_field_that_widens_is_one_whoever_manages_it() {
        assert_eq!(fields(&live("portcullis-operator", json!({}), |_| {})), []);
        let widened: [(&str, &str, Value); 12] = [
            ("", "hostNetwork", json!(true)),
            ("", "hostPID", json!(true)),
            ("", "hostIPC", json!(true)),
            ("", "shareProcessNamespace", json!(true)),
            (
                "",
                "hostAliases",
                json!([{"ip": "10.0.0.1", "hostnames": ["a"]}]),
            ),
            ("", "initContainers", json!([{"name": "x", "image": "y"}])),
            ("/containers/0", "env", json!([{"name": "A", "value": "b"}])),
            (
                "/containers/0",
                "envFrom",
                json!([{"secretRef": {"name": "s"}}]),
            ),
            (
                "/containers/0",
                "lifecycle",
                json!({"postStart": {"exec": {"command": ["x"]}}}),
            ),
            ("/containers/0", "command", json!(["sh"])),
            ("/containers/0/securityContext", "privileged", json!(true)),
            (
                "/containers/0/securityContext/capabilities",
                "add",
                json!(["NET_ADMIN"]),
            ),
        ];
        for (at, key, value) in widened {
            // Written under our own name, which anybody may claim.
            let live = live("portcullis-operator", json!({}), |body| {
                let pod = body
                    .pointer_mut(&format!("/spec/template/spec{at}"))
                    .unwrap();
                pod[key] = value;
            });
            let found = fields(&live);
            assert_eq!(found.len(), 1, "{key}: {found:?}");
            assert!(found[0].1 && found[0].0.ends_with(key), "{found:?}");
        }
        let harmless = live("portcullis-operator", json!({}), |body| {
            body["spec"]["template"]["spec"]["hostNetwork"] = json!(false);
            body["spec"]["replicas"] = json!(3);
            body["spec"]["template"]["metadata"] =
                json!({"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}});
        });
        assert_eq!(fields(&harmless), []);
    }

    #[test]
    fn sidecars_volumes_and_ports_are_told_by_name_and_by_who_added_them() {
        let managed = json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"side\"}": {".": {}, "f:image": {}}}}}}});
        let side = live("mallory", managed, |body| {
            let pod = &mut body["spec"]["template"]["spec"];
            let containers = pod["containers"].as_array_mut().unwrap();
            containers.push(json!({"name": "side", "image": "x"}));
            let volumes = pod["volumes"].as_array_mut().unwrap();
            volumes.push(json!({"name": "host", "hostPath": {"path": "/"}}));
        });
        let all = changes(&child(), &side);
        let named: Vec<String> = all.iter().map(Change::field).collect();
        assert_eq!(
            named,
            [
                "spec.template.spec.containers[side]",
                "spec.template.spec.volumes[host]"
            ]
        );
        assert_eq!(side.manager_of(&named[0]).as_deref(), Some("mallory"));
        assert_eq!(side.manager_of(&named[1]), None);
        let port = live("x", json!({}), |body| {
            body["spec"]["template"]["spec"]["containers"][0]["ports"]
                .as_array_mut()
                .unwrap()
                .push(json!({"name": "more", "containerPort": 1}));
        });
        assert_eq!(
            fields(&port),
            [(
                "spec.template.spec.containers[gateway].ports[more]".to_owned(),
                true
            )]
        );
    }

    #[test]
    fn what_another_manager_adds_is_a_change_and_its_removal_a_null() {
        let managed = json!({"f:spec": {"f:minReadySeconds": {}, "f:template": {"f:spec": {"f:priorityClassName": {}}}}});
        let live = live("kubectl-edit", managed, |body| {
            body["spec"]["minReadySeconds"] = json!(5);
            body["spec"]["template"]["spec"]["priorityClassName"] = json!("high");
            body["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
        });
        let changes = changes(&child(), &live);
        let told: Vec<(String, bool)> = changes
            .iter()
            .map(|change| (change.field(), change.widens))
            .collect();
        assert_eq!(
            told,
            [
                ("spec.template.spec.hostNetwork".to_owned(), true),
                ("spec.template.spec.priorityClassName".to_owned(), true),
                ("spec.minReadySeconds".to_owned(), false)
            ]
        );
        let patch = patch(&child().body, &changes);
        let pod = &patch["spec"]["template"]["spec"];
        assert_eq!(patch["spec"]["minReadySeconds"], Value::Null);
        assert!(pod.as_object().unwrap().contains_key("hostNetwork"));
        assert_eq!(pod["hostNetwork"], Value::Null);
        assert_eq!(
            pod["containers"],
            child().body["spec"]["template"]["spec"]["containers"]
        );
    }

    #[test]
    fn an_empty_selector_of_a_network_policy_and_pods_beside_one_that_counts_alone_are_changes() {
        let ours = json!([{"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer", "name": "m", "uid": "u", "controller": true}]);
        let metadata = json!({"name": "m-gateway", "namespace": "ml", "ownerReferences": ours});
        let body = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata,
            "spec": {"ingress": [{"from": [{"podSelector": {"matchLabels": {"a": "b"}}}]}]},
        });
        let policy = Child {
            kind: Kind::NetworkPolicy,
            name: "m-gateway".to_owned(),
            body: body.clone(),
        };
        let mut opened = body;
        opened["spec"]["ingress"][0]["from"][0]["namespaceSelector"] = json!({});
        let opened: ObservedChild = serde_json::from_value(opened).unwrap();
        let found = changes(&policy, &opened);
        assert!(found.len() == 1 && found[0].widens, "{found:?}");
        assert_eq!(
            found[0].field(),
            "spec.ingress[0].from[0].namespaceSelector"
        );

        let scaled = |strategy: &str| {
            let mut child = child();
            child.body["metadata"] = metadata.clone();
            child.body["spec"]["replicas"] = json!(1);
            child.body["spec"]["strategy"] = json!({"type": strategy});
            let mut body = child.body.clone();
            body["spec"]["replicas"] = json!(10);
            let live: ObservedChild = serde_json::from_value(body).unwrap();
            changes(&child, &live)[0].widens
        };
        assert!(scaled("Recreate") && !scaled("RollingUpdate"));
    }
}
