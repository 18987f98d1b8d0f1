//! The node of the tests itself: what pods get there is what operator and gateway are tested with.

mod mlflow;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::support::kubelet::Kubelet;
use crate::support::{Cluster, Namespace, eventually, soon};

fn read<T: DeserializeOwned>(document: Value) -> T {
    serde_json::from_value(document).unwrap()
}

/// A pod of one container that runs a shell script.
fn script(name: &str, script: &str, extra: Value) -> Pod {
    let mut container =
        json!({"name": "c", "image": "none", "command": ["/bin/sh", "-ec", script]});
    for (key, value) in extra["container"].as_object().into_iter().flatten() {
        container[key] = value.clone();
    }
    let mut spec = json!({"containers": [container], "terminationGracePeriodSeconds": 20});
    for (key, value) in extra["pod"].as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    read(
        json!({"metadata": {"name": name, "labels": {"app.kubernetes.io/component": "upstream"}}, "spec": spec}),
    )
}

struct Room<'c> {
    kubelet: &'c Kubelet,
    namespace: Namespace,
    client: Client,
}

impl<'c> Room<'c> {
    async fn open(what: &str) -> Option<Room<'c>> {
        let cluster = Cluster::get(what)?;
        Some(Room {
            kubelet: cluster.kubelet(what)?,
            namespace: cluster.namespace("node").await,
            client: cluster.admin_client(),
        })
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace.name)
    }

    async fn put_secret(&self, name: &str, key: &str, value: &str) {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace.name);
        let secret: Secret = read(json!({"metadata": {"name": name}, "stringData": {key: value}}));
        secrets
            .create(&PostParams::default(), &secret)
            .await
            .unwrap();
    }

    async fn put_config(&self, name: &str, key: &str, value: &str) {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace.name);
        let map: ConfigMap = read(
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {key: value}}),
        );
        let params = PatchParams::apply("portcullis-tests").force();
        maps.patch(name, &params, &Patch::Apply(map)).await.unwrap();
    }

    async fn run(&self, pod: &Pod) -> Pod {
        self.pods()
            .create(&PostParams::default(), pod)
            .await
            .unwrap();
        self.ready(&pod.name_any()).await
    }

    async fn ready(&self, name: &str) -> Pod {
        let ready = |pod: Option<&Pod>| condition(pod, "Ready") == Some("True");
        let pod = soon(
            "the pod is ready",
            await_condition(self.pods(), name, ready),
        )
        .await;
        pod.unwrap().unwrap()
    }

    /// Waits for a line in the container's log.
    async fn logged(&self, pod: &str, line: &str) {
        eventually(&format!("{pod} says {line:?}"), || async {
            let log = self.kubelet.log(&self.namespace.name, pod, "c");
            if log.lines().any(|one| one == line) {
                Ok(())
            } else {
                Err(log)
            }
        })
        .await;
    }
}

fn condition<'p>(pod: Option<&'p Pod>, kind: &str) -> Option<&'p str> {
    let conditions = pod?.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions
        .iter()
        .find(|condition| condition.type_ == kind)?;
    Some(&condition.status)
}

#[tokio::test]
async fn a_pod_gets_its_files_its_variables_and_its_address() {
    let Some(room) = Room::open("files and variables of pods").await else {
        return;
    };
    room.put_secret("s", "token", "from-a-secret").await;
    room.put_config("m", "bundle.json", "from-a-map").await;
    let pod = script(
        "p",
        r#"echo "args $*"; echo "file $(cat "$1"/m/bundle.json) $(cat "$1"/s/token)"; ls "$1"/missing
           echo "env $PLAIN $NAME $SECRET $PREFIX_token ${ABSENT-absent}"; exec sleep 600"#,
        json!({
            "container": {
                "args": ["sh", "/etc/portcullis", "--listen=[::]:8080", "--secrets-dir=/etc/portcullis/s", "$(PLAIN)"],
                "env": [
                    {"name": "PLAIN", "value": "plain"},
                    {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}}},
                    {"name": "ABSENT", "valueFrom": {"secretKeyRef": {"name": "s", "key": "no", "optional": true}}},
                ],
                "envFrom": [{"prefix": "PREFIX_", "secretRef": {"name": "s"}}],
                "volumeMounts": [
                    {"name": "m", "mountPath": "/etc/portcullis/m"},
                    {"name": "s", "mountPath": "/etc/portcullis/s"},
                    {"name": "missing", "mountPath": "/etc/portcullis/missing"},
                ],
            },
            "pod": {"volumes": [
                {"name": "m", "configMap": {"name": "m"}},
                {"name": "s", "secret": {"secretName": "s"}},
                {"name": "missing", "secret": {"secretName": "not-there", "optional": true}},
            ]},
        }),
    );
    let pod = room.run(&pod).await;
    let address = pod.status.unwrap().pod_ip.unwrap();
    room.logged("p", "file from-a-map from-a-secret").await;
    room.logged("p", "env plain p from-a-secret from-a-secret absent")
        .await;
    let log = room.kubelet.log(&room.namespace.name, "p", "c");
    let arguments: Vec<&str> = log.lines().next().unwrap().split(' ').collect();
    let root = arguments[1].strip_suffix("/etc/portcullis").unwrap();
    let listen = format!("--listen={address}:8080");
    let secrets = format!("--secrets-dir={root}/etc/portcullis/s");
    assert_eq!(
        arguments,
        [
            "args",
            &format!("{root}/etc/portcullis"),
            &listen,
            &secrets,
            "plain"
        ]
    );
}

#[tokio::test]
async fn files_follow_their_objects_and_an_optional_secret_may_come_later() {
    let Some(room) = Room::open("changes of mounted files").await else {
        return;
    };
    room.put_config("m", "key", "one").await;
    let pod = script(
        "p",
        r#"while :; do line="$(cat "$0"/m/key) $(cat "$0"/s/key 2>/dev/null || echo none)"
           if [ "$line" != "$last" ]; then echo "$line"; last=$line; fi; sleep 0.05; done"#,
        json!({
            "container": {"args": ["/etc/portcullis"], "volumeMounts": [
                {"name": "m", "mountPath": "/etc/portcullis/m"}, {"name": "s", "mountPath": "/etc/portcullis/s"}]},
            "pod": {"volumes": [
                {"name": "m", "configMap": {"name": "m"}},
                {"name": "s", "projected": {"sources": [
                    {"secret": {"name": "s", "optional": true, "items": [{"key": "k", "path": "key"}]}}]}},
            ]},
        }),
    );
    room.run(&pod).await;
    room.logged("p", "one none").await;
    room.put_config("m", "key", "two").await;
    room.logged("p", "two none").await;
    room.put_secret("s", "k", "secret").await;
    room.logged("p", "two secret").await;
}

#[tokio::test]
async fn a_pod_waits_for_what_it_must_have() {
    let Some(room) = Room::open("pods that wait").await else {
        return;
    };
    let pod = script(
        "p",
        r#"echo "got $(cat "$0"/key)"; exec sleep 600"#,
        json!({
            "container": {"args": ["/etc/portcullis/m"], "volumeMounts": [{"name": "m", "mountPath": "/etc/portcullis/m"}]},
            "pod": {"volumes": [{"name": "m", "configMap": {"name": "m"}}]},
        }),
    );
    room.pods()
        .create(&PostParams::default(), &pod)
        .await
        .unwrap();
    let waits = |pod: Option<&Pod>| condition(pod, "Initialized") == Some("False");
    soon(
        "the node has the pod",
        await_condition(room.pods(), "p", waits),
    )
    .await
    .unwrap();
    assert_eq!(room.kubelet.log(&room.namespace.name, "p", "c"), "");
    room.put_config("m", "key", "it").await;
    room.ready("p").await;
    room.logged("p", "got it").await;
}

/// The node's own identity asks for the token; what the pod may do is what its account may.
#[tokio::test]
async fn a_pod_is_its_service_account_at_the_api() {
    let Some(room) = Room::open("tokens of pods").await else {
        return;
    };
    let cluster = Cluster::get("tokens of pods").unwrap();
    let namespace = room.namespace.name.as_str();
    for arguments in [
        ["create", "serviceaccount", "robot", "-n", namespace, "", ""],
        [
            "create",
            "role",
            "reader",
            "-n",
            namespace,
            "--verb=get",
            "--resource=configmaps",
        ],
        [
            "create",
            "rolebinding",
            "robot",
            "-n",
            namespace,
            "--role=reader",
            &format!("--serviceaccount={namespace}:robot"),
        ],
    ] {
        let given = arguments
            .iter()
            .filter(|argument| !argument.is_empty())
            .copied();
        cluster.kubectl_args(given).ok();
    }
    room.put_config("m", "key", "it").await;
    let kubectl = cluster.program("kubectl").display().to_string();
    let pod = script(
        "p",
        r#""$0" get configmap m -o 'jsonpath=got {.data.key}{"\n"}'; "$0" auth whoami -o 'jsonpath={.status.userInfo.username}{"\n"}'
           if "$0" get secrets; then echo allowed; else echo refused; fi; exec sleep 600"#,
        json!({"container": {"args": [kubectl]}, "pod": {"serviceAccountName": "robot"}}),
    );
    room.run(&pod).await;
    room.logged("p", "refused").await;
    room.logged("p", "got it").await;
    room.logged("p", &format!("system:serviceaccount:{namespace}:robot"))
        .await;

    let bare = script(
        "bare",
        r#"echo "config ${KUBECONFIG-none}"; exec sleep 600"#,
        json!({"pod": {"automountServiceAccountToken": false}}),
    );
    room.run(&bare).await;
    room.logged("bare", "config none").await;
}

#[tokio::test]
async fn a_crashed_container_is_started_again_and_counted() {
    let Some(room) = Room::open("crashes of pods").await else {
        return;
    };
    let pod = room
        .run(&script("p", "echo started; exec sleep 600", json!({})))
        .await;
    room.logged("p", "started").await;
    room.kubelet.crash(&room.namespace.name, "p");
    let again = |pod: Option<&Pod>| {
        let statuses = pod.and_then(|pod| pod.status.as_ref()?.container_statuses.as_ref());
        let counted =
            statuses.is_some_and(|statuses| statuses[0].restart_count == 1 && statuses[0].ready);
        counted && condition(pod, "Ready") == Some("True")
    };
    let after = soon("it runs again", await_condition(room.pods(), "p", again))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(after.status.unwrap().pod_ip, pod.status.unwrap().pod_ip);
    eventually("the script began twice", || async {
        let log = room.kubelet.log(&room.namespace.name, "p", "c");
        if log == "started\nstarted\n" {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;
}

#[tokio::test]
async fn a_deleted_pod_is_asked_to_end_and_its_object_goes_after_it() {
    let Some(room) = Room::open("ends of pods").await else {
        return;
    };
    let asked =
        "trap 'echo asked; touch $0/asked; exit 0' TERM; echo up; while :; do sleep 0.05; done";
    let folder = tempfile::tempdir().unwrap();
    let seen = folder.path().display().to_string();
    let pod = room
        .run(&script("p", asked, json!({"container": {"args": [seen]}})))
        .await;
    room.logged("p", "up").await;
    room.pods()
        .delete("p", &DeleteParams::default())
        .await
        .unwrap();
    let gone = await_condition(
        room.pods(),
        "p",
        conditions::is_deleted(pod.metadata.uid.as_deref().unwrap()),
    );
    soon("the object is gone", gone).await.unwrap();
    assert!(folder.path().join("asked").exists());

    // One that does not listen is killed when its time is over.
    let stubborn = "trap '' TERM; echo up; while :; do sleep 0.05; done";
    let pod = script(
        "stubborn",
        stubborn,
        json!({"pod": {"terminationGracePeriodSeconds": 1}}),
    );
    let pod = room.run(&pod).await;
    room.logged("stubborn", "up").await;
    room.pods()
        .delete("stubborn", &DeleteParams::default())
        .await
        .unwrap();
    let gone = await_condition(
        room.pods(),
        "stubborn",
        conditions::is_deleted(pod.metadata.uid.as_deref().unwrap()),
    );
    soon("the object is gone", gone).await.unwrap();
}
