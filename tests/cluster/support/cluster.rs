//! The cluster that the tests of one binary share, or one of a test's own.
//!
//! In: the environment. Out: clients and kubeconfigs of whoever a test wants to be. Must not do:
//! use a cluster that was not given by name; `KUBECONFIG` and the home folder are not looked at.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once, OnceLock};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRole, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::{Value, json};

use super::background::Background;
use super::control_plane::{ControlPlane, Options};
use super::kubelet::Kubelet;
use super::tool::{self, Printed};
use super::wire::installed;
use super::{Namespace, eventually, soon};

const PROGRAMS: &str = "PORTCULLIS_TEST_CONTROLPLANE";
const GIVEN: &str = "PORTCULLIS_TEST_KUBECONFIG";

/// Who is given a role.
#[derive(Clone, Copy)]
pub enum Subject<'a> {
    User(&'a str),
    Group(&'a str),
}

/// An API server and what goes with it.
pub struct Cluster {
    kubeconfig: PathBuf,
    /// Kubeconfigs of other identities, and the log of what ran; the control plane's own folder if
    /// there is one.
    folder: PathBuf,
    programs: PathBuf,
    background: Background,
    // Dropped in this order: the node goes before its API server.
    kubelet: Option<Arc<Kubelet>>,
    control_plane: Option<ControlPlane>,
    _kept: Option<tempfile::TempDir>,
}

impl Cluster {
    /// The cluster that all tests of this binary share, with the definitions of `crds/` in it.
    /// None, and a line that says that `what` is skipped, where there is none.
    pub fn get(what: &str) -> Option<&'static Cluster> {
        static SHARED: OnceLock<Result<Cluster, String>> = OnceLock::new();
        let given = std::env::var_os(GIVEN).filter(|file| !file.is_empty());
        let programs = if given.is_some() {
            std::env::var_os(PROGRAMS).unwrap_or_default()
        } else {
            installed(PROGRAMS, what)?
        };
        let shared = SHARED.get_or_init(|| {
            let cluster = match given {
                Some(file) => Cluster::given(file.into(), programs.into()),
                None => Cluster::own(programs.into(), &Options::default()),
            }?;
            cluster.install_definitions();
            Ok(cluster)
        });
        match shared {
            Ok(cluster) => Some(cluster),
            Err(error) => panic!("there is no cluster: {error}"),
        }
    }

    /// A cluster of the test's own, without the definitions; it ends with the value. Never one that
    /// was given.
    pub fn start(what: &str, options: &Options) -> Option<Cluster> {
        let programs = installed(PROGRAMS, what)?;
        Some(
            Cluster::own(programs.into(), options)
                .unwrap_or_else(|error| panic!("there is no cluster: {error}")),
        )
    }

    fn own(programs: PathBuf, options: &Options) -> Result<Self, String> {
        let control_plane = ControlPlane::start(&programs, options)?;
        let folder = control_plane.folder().to_owned();
        keep_logs_of_failures(&folder);
        let background = Background::start();
        let node = load(folder.join("node.kubeconfig"), None);
        let kubelet = background.run(Kubelet::start(
            node,
            folder.clone(),
            background.handle.clone(),
        ));
        Ok(Cluster {
            kubeconfig: folder.join("admin.kubeconfig"),
            folder,
            programs,
            background,
            kubelet: Some(kubelet),
            control_plane: Some(control_plane),
            _kept: None,
        })
    }

    fn given(kubeconfig: PathBuf, programs: PathBuf) -> Result<Self, String> {
        if !kubeconfig.is_file() {
            return Err(format!(
                "{GIVEN} names {}, which is no file",
                kubeconfig.display()
            ));
        }
        let kept = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
        Ok(Cluster {
            kubeconfig,
            folder: kept.path().to_owned(),
            programs,
            background: Background::start(),
            kubelet: None,
            control_plane: None,
            _kept: Some(kept),
        })
    }

    /// Puts every definition of `crds/` there and waits until the API server serves it.
    pub fn install_definitions(&self) {
        let config = self.config();
        self.background.run(async move {
            let definitions: Api<CustomResourceDefinition> =
                Api::all(Client::try_from(config).unwrap());
            for definition in repository_definitions() {
                let name = definition.name_any();
                let params = PatchParams::apply("portcullis-tests").force();
                let applied = definitions
                    .patch(&name, &params, &Patch::Apply(&definition))
                    .await;
                applied.unwrap_or_else(|error| panic!("{name}: {error}"));
                let established =
                    await_condition(definitions.clone(), &name, conditions::is_crd_established());
                soon(&format!("{name} is established"), established)
                    .await
                    .unwrap();
            }
        });
    }

    /// The processes of the control plane. None in a cluster that was given: those are not ours to
    /// stop.
    pub fn control_plane(&self) -> Option<&ControlPlane> {
        self.control_plane.as_ref()
    }

    /// The node on which pods of Portcullis run as processes; None, and a line that says that
    /// `what` is skipped, in a cluster that was given.
    pub fn kubelet(&self, what: &str) -> Option<&Kubelet> {
        if self.kubelet.is_none() {
            // Past the harness's capture, as tests/run.sh counts such lines.
            let why = "pods run as processes only in a control plane of the tests' own";
            let line = format!("\nskipped: {what}: {why}\n");
            std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
        }
        self.kubelet.as_deref()
    }

    /// Where logs are; they stay when a test failed.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The kubeconfig of somebody who may do anything.
    pub fn admin_kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// What a client is made of. A client belongs to the runtime that made it, so each test makes
    /// its own.
    pub fn config(&self) -> Config {
        load(self.kubeconfig.clone(), None)
    }

    /// A client of somebody who may do anything.
    pub fn admin_client(&self) -> Client {
        Client::try_from(self.config()).unwrap()
    }

    /// A client that the API server takes for `user` in these groups (and in system:authenticated).
    pub fn impersonate(&self, user: &str, groups: &[&str]) -> Client {
        Client::try_from(load(self.kubeconfig.clone(), Some((user, groups)))).unwrap()
    }

    /// A client that the API server takes for a service account. Its token would add only claims
    /// about the pod.
    pub fn impersonate_account(&self, namespace: &str, account: &str) -> Client {
        let groups = [
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ];
        let groups = groups.each_ref().map(String::as_str);
        self.impersonate(
            &format!("system:serviceaccount:{namespace}:{account}"),
            &groups,
        )
    }

    /// Gives a user or a group a ClusterRole in one namespace, once the API server's authorizer
    /// knows: it learns of a binding by a watch, a moment after the binding is stored, and until
    /// then it refuses.
    pub async fn grant(&self, namespace: &str, subject: Subject<'_>, role: &str) {
        let client = self.admin_client();
        let (kind, name, user, groups) = match subject {
            Subject::User(name) => ("User", name, name, vec![]),
            Subject::Group(name) => ("Group", name, "anybody", vec![name]),
        };
        let binding: RoleBinding = serde_json::from_value(json!({
            "metadata": { "name": format!("{name}-{role}") },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name }],
        }))
        .unwrap();
        let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), namespace);
        bindings
            .create(&PostParams::default(), &binding)
            .await
            .unwrap();
        let roles: Api<ClusterRole> = Api::all(client.clone());
        let rules = roles.get(role).await.unwrap().rules.unwrap_or_default();
        let reviews: Api<SubjectAccessReview> = Api::all(client);
        for rule in rules {
            let first = |all: &Option<Vec<String>>| all.as_ref()?.first().cloned();
            let resource = first(&rule.resources).unwrap_or_default();
            let (resource, subresource) = match resource.split_once('/') {
                Some((resource, part)) => (resource, Some(part)),
                None => (resource.as_str(), None),
            };
            let asked: SubjectAccessReview =
                serde_json::from_value(json!({ "metadata": {}, "spec": {
                "user": user,
                "groups": groups,
                "resourceAttributes": {
                    "namespace": namespace,
                    "verb": rule.verbs.first(),
                    "group": first(&rule.api_groups),
                    "resource": resource,
                    "subresource": subresource,
                    "name": first(&rule.resource_names),
                },
            } }))
                .unwrap();
            eventually(&format!("{name} has {role} in {namespace}"), || async {
                let answer = reviews
                    .create(&PostParams::default(), &asked)
                    .await
                    .unwrap();
                let status = answer.status.unwrap_or_default();
                if status.allowed { Ok(()) } else { Err(status) }
            })
            .await;
        }
    }

    /// A kubeconfig with which any program is `user` in these groups.
    pub fn kubeconfig(&self, user: &str, groups: &[&str]) -> PathBuf {
        let mut document = read(&self.kubeconfig);
        let mut groups = groups.to_vec();
        groups.push("system:authenticated");
        for entry in document["users"].as_array_mut().unwrap() {
            entry["user"]["as"] = json!(user);
            entry["user"]["as-groups"] = json!(groups);
        }
        self.write_kubeconfig(&format!("{user}-{}", groups.join("-")), &document)
    }

    /// The kubeconfig of somebody who may do anything, for the API server under a name that no one
    /// resolves; and its port.
    pub fn unresolvable_kubeconfig(&self) -> (PathBuf, u16) {
        let mut document = read(&self.kubeconfig);
        let cluster = &mut document["clusters"][0]["cluster"];
        let server: http::Uri = cluster["server"].as_str().unwrap().parse().unwrap();
        let port = server.port_u16().unwrap();
        cluster["tls-server-name"] = json!(server.host().unwrap());
        cluster["server"] = json!(format!("https://kubernetes.invalid:{port}"));
        (self.write_kubeconfig("unresolvable", &document), port)
    }

    /// A kubeconfig with a token of a service account, as a pod of its gets one; valid for an hour.
    pub async fn account_kubeconfig(&self, namespace: &str, account: &str) -> PathBuf {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin_client(), namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                expiration_seconds: Some(3600),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let granted = accounts
            .create_token_request(account, &PostParams::default(), &request)
            .await;
        let token = granted.unwrap().status.unwrap().token;
        let mut document = read(&self.kubeconfig);
        for entry in document["users"].as_array_mut().unwrap() {
            entry["user"] = json!({ "token": token });
        }
        self.write_kubeconfig(&format!("{namespace}-{account}"), &document)
    }

    fn write_kubeconfig(&self, name: &str, document: &Value) -> PathBuf {
        let plain: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let file = tempfile::Builder::new()
            .prefix(&format!("{plain}."))
            .suffix(".kubeconfig")
            .tempfile_in(&self.folder)
            .unwrap();
        std::fs::write(file.path(), document.to_string()).unwrap();
        file.into_temp_path().keep().unwrap()
    }

    /// A namespace of the test's own, removed with the value.
    pub async fn namespace(&self, prefix: &str) -> Namespace {
        self.namespace_with(prefix, &BTreeMap::new()).await
    }

    /// The same, with labels.
    pub async fn namespace_with(
        &self,
        prefix: &str,
        labels: &BTreeMap<String, String>,
    ) -> Namespace {
        Namespace::create(
            self.admin_client(),
            self.config(),
            self.background.handle.clone(),
            prefix,
            labels,
        )
        .await
    }

    /// kubectl, as somebody who may do anything.
    pub fn kubectl<const N: usize>(&self, arguments: [&str; N]) -> Printed {
        tool::run(&self.program("kubectl"), &self.kubeconfig, arguments, "")
    }

    /// kubectl with any number of arguments.
    pub fn kubectl_args<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Printed {
        tool::run(&self.program("kubectl"), &self.kubeconfig, arguments, "")
    }

    /// kubectl with input.
    pub fn kubectl_with<const N: usize>(&self, arguments: [&str; N], input: &str) -> Printed {
        tool::run(&self.program("kubectl"), &self.kubeconfig, arguments, input)
    }

    /// helm, as somebody who may do anything.
    pub fn helm<const N: usize>(&self, arguments: [&str; N]) -> Printed {
        tool::run(&self.program("helm"), &self.kubeconfig, arguments, "")
    }

    /// A program of the control plane's folder, or the one on PATH.
    pub fn program(&self, name: &str) -> PathBuf {
        let own = self.programs.join(name);
        if own.is_file() { own } else { name.into() }
    }
}

/// The files of `crds/`.
pub fn definition_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

fn repository_definitions() -> Vec<CustomResourceDefinition> {
    let read =
        |file: PathBuf| serde_saphyr::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    definition_files().into_iter().map(read).collect()
}

fn read(kubeconfig: &Path) -> Value {
    serde_saphyr::from_str(&std::fs::read_to_string(kubeconfig).unwrap()).unwrap()
}

fn load(kubeconfig: PathBuf, who: Option<(&str, &[&str])>) -> Config {
    let document = Kubeconfig::read_from(kubeconfig).unwrap();
    // It has no exec plugin of ours to run, so nothing here waits.
    let options = KubeConfigOptions::default();
    let config =
        futures::FutureExt::now_or_never(Config::from_custom_kubeconfig(document, &options));
    let mut config = config
        .expect("reading a kubeconfig waited for something")
        .unwrap();
    // Tests want to see each answer.
    config.default_retry = false;
    if let Some((user, groups)) = who {
        config.auth_info.impersonate = Some(user.to_owned());
        let groups = groups.iter().map(|group| (*group).to_owned());
        config.auth_info.impersonate_groups =
            Some(groups.chain(["system:authenticated".to_owned()]).collect());
    }
    config
}

/// Leaves the mark by which the control plane's folder stays, and says where it is, when a test
/// fails.
fn keep_logs_of_failures(folder: &Path) {
    static FOLDERS: std::sync::Mutex<Vec<PathBuf>> = std::sync::Mutex::new(Vec::new());
    static HOOK: Once = Once::new();
    FOLDERS.lock().unwrap().push(folder.to_owned());
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            before(panic);
            for folder in FOLDERS
                .lock()
                .unwrap()
                .iter()
                .filter(|folder| folder.is_dir())
            {
                let _ = std::fs::write(folder.join("failed"), "");
                eprintln!("logs of the cluster and its pods: {}", folder.display());
            }
        }));
    });
}
