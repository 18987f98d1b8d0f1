//! A container as a command line: program, arguments, variables, with what its own root and network
//! would give it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, Pod, Secret};
use kube::{Api, ResourceExt};
use regex::Regex;

use super::volume::Mounted;
use super::{COMPONENT, Kubelet, NODE};

const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What to start.
pub struct Plan {
    pub program: String,
    pub arguments: Vec<String>,
    pub variables: BTreeMap<String, String>,
    /// The variables of the clock that it reads.
    pub clock: BTreeMap<String, String>,
    /// Stands for the container's root; the process starts in it.
    pub root: PathBuf,
    pub log: PathBuf,
}

/// Everything that a container's paths are looked up in.
struct Root {
    folder: PathBuf,
    mounts: Vec<String>,
}

pub async fn plan(
    kubelet: &Arc<Kubelet>,
    pod: &Pod,
    container: &Container,
    volumes: &BTreeMap<String, Mounted>,
    folder: &Path,
    address: &str,
) -> Result<Plan, String> {
    let root = Root::make(
        folder.join("root").join(&container.name),
        container,
        volumes,
    )?;
    let mut variables = variables(kubelet, pod, container, address).await?;
    let mut command = match container.command.as_deref().unwrap_or_default() {
        [] => vec![entry_point(pod)?],
        [program, rest @ ..] => {
            let program = program_of(program)?.unwrap_or_else(|| program.clone());
            [program].into_iter().chain(rest.iter().cloned()).collect()
        }
    };
    command.extend(container.args.iter().flatten().cloned());
    for part in &mut command {
        *part = kubelet
            .localize(&root, address, &expand(part, &variables))
            .await;
    }
    for value in variables.values_mut() {
        *value = kubelet.localize(&root, address, value).await;
    }
    if container
        .volume_mounts
        .iter()
        .flatten()
        .any(|mount| mount.mount_path == ACCOUNT)
    {
        let file = kubeconfig(kubelet, pod, &root)?;
        variables.insert("KUBECONFIG".to_owned(), file.display().to_string());
    }
    variables
        .entry("PATH".to_owned())
        .or_insert_with(path_of_images);
    variables
        .entry("HOSTNAME".to_owned())
        .or_insert_with(|| pod.name_any());
    variables
        .entry("HOME".to_owned())
        .or_insert_with(|| root.folder.display().to_string());
    if root.mounts.iter().any(|mount| mount == "/tmp") {
        variables
            .entry("TMPDIR".to_owned())
            .or_insert_with(|| root.path("/tmp").display().to_string());
    }
    let program = command.remove(0);
    Ok(Plan {
        program,
        arguments: command,
        variables,
        clock: clock(kubelet, pod)?,
        log: kubelet.log_file(
            &pod.namespace().unwrap_or_default(),
            &pod.name_any(),
            &container.name,
        ),
        root: root.folder,
    })
}

/// The clock of the pod's own, if gateways have one, or else that of the tests.
fn clock(kubelet: &Kubelet, pod: &Pod) -> Result<BTreeMap<String, String>, String> {
    let component = pod.labels().get(COMPONENT);
    match kubelet.clocks.get() {
        Some(clocks) if component.is_some_and(|component| component == "gateway") => {
            clocks.variables(&pod.namespace().unwrap_or_default(), &pod.name_any())
        }
        _ => Ok(crate::support::wire::clock()
            .filter_map(|(name, value)| Some((name.to_owned(), value.into_string().ok()?)))
            .collect()),
    }
}

/// The programs of this repository that images of ours consist of.
fn program_of(name: &str) -> Result<Option<String>, String> {
    let built = match name {
        "/portcullis-gateway" | "portcullis-gateway" => {
            Some(env!("CARGO_BIN_EXE_portcullis-gateway"))
        }
        "/portcullis-operator" | "portcullis-operator" => {
            option_env!("CARGO_BIN_EXE_portcullis-operator")
        }
        _ => return Ok(None),
    };
    let built = built.ok_or_else(|| format!("{name} is no program of this package"))?;
    Ok(Some(built.to_owned()))
}

/// What the image of a container without a command starts.
fn entry_point(pod: &Pod) -> Result<String, String> {
    let operator = pod
        .labels()
        .get(COMPONENT)
        .is_some_and(|component| component == "operator");
    let name = if operator {
        "portcullis-operator"
    } else {
        "portcullis-gateway"
    };
    Ok(program_of(name)?.unwrap_or_default())
}

/// Images of MCP servers are not there: their commands are looked up among the installed programs
/// of the tests.
fn path_of_images() -> String {
    let own = std::env::var_os("PATH").unwrap_or_default();
    let installed = [
        "PORTCULLIS_TEST_MLFLOW_MCP",
        "PORTCULLIS_TEST_MLFLOW_OFFICIAL",
    ]
    .into_iter()
    .filter_map(std::env::var_os)
    .filter_map(|program| Some(Path::new(&program).parent()?.to_owned()));
    let folders = installed.chain(std::env::split_paths(&own));
    std::env::join_paths(folders)
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

impl Root {
    fn make(
        folder: PathBuf,
        container: &Container,
        volumes: &BTreeMap<String, Mounted>,
    ) -> Result<Self, String> {
        let told = |error: std::io::Error| error.to_string();
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(told)?;
        let mut mounts = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let volume = volumes
                .get(&mount.name)
                .ok_or_else(|| format!("there is no volume {}", mount.name))?;
            let link = folder.join(mount.mount_path.trim_matches('/'));
            fs::create_dir_all(link.parent().unwrap_or(&folder)).map_err(told)?;
            let target = volume
                .folder
                .join(mount.sub_path.as_deref().unwrap_or_default());
            std::os::unix::fs::symlink(target, link).map_err(told)?;
            mounts.push(mount.mount_path.trim_end_matches('/').to_owned());
        }
        Ok(Root { folder, mounts })
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.folder.join(inside.trim_start_matches('/'))
    }

    /// Where a path of the container is on this machine. Paths of mounts and of Portcullis's own
    /// folders are below the root; what is neither, or only on this machine, is a test's own file.
    fn localize(&self, path: &str) -> Option<PathBuf> {
        let below = |path: &str, folder: &str| {
            path.strip_prefix(folder)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if !path.starts_with('/') || path == "/" {
            return None;
        }
        let mounted = self
            .mounts
            .iter()
            .any(|mount| below(path, mount) || below(mount, path));
        if !mounted && !below(path, "/etc/portcullis") {
            return None;
        }
        let here = self.path(path);
        (here.exists() || !Path::new(path).exists()).then_some(here)
    }
}

impl Kubelet {
    /// Rewrites what means something else outside the container: its paths, every address of its
    /// own, and Services.
    async fn localize(&self, root: &Root, address: &str, text: &str) -> String {
        static SERVICE: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(r"\b([a-z0-9-]+)\.([a-z0-9-]+)\.svc(?:\.cluster\.local)?:([0-9]+)").unwrap()
        });
        let (flag, value) = match text.split_once('=') {
            Some((flag, value)) if value.starts_with('/') => (Some(flag), value),
            _ => (None, text),
        };
        let mut text = match (flag, root.localize(value)) {
            (Some(flag), Some(path)) => format!("{flag}={}", path.display()),
            (None, Some(path)) => path.display().to_string(),
            (_, None) => text.to_owned(),
        };
        for any in ["[::]:", "0.0.0.0:"] {
            text = text.replace(any, &format!("{address}:"));
        }
        let mut whole = String::new();
        let mut done = 0;
        for found in SERVICE.captures_iter(&text) {
            let Some(all) = found.get(0) else { continue };
            let Ok(port) = found[3].parse() else { continue };
            whole.push_str(&text[done..all.start()]);
            whole.push_str(&self.service(&found[2], &found[1], port).await.to_string());
            done = all.end();
        }
        whole.push_str(&text[done..]);
        whole
    }
}

/// `$(NAME)` in commands and arguments; `$$` stands for `$`.
fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    static REFERENCE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_]*)\)").unwrap());
    let value = |found: &regex::Captures<'_>| match found.get(1) {
        None => "$".to_owned(),
        Some(name) => variables
            .get(name.as_str())
            .cloned()
            .unwrap_or_else(|| found[0].to_owned()),
    };
    REFERENCE.replace_all(text, value).into_owned()
}

async fn variables(
    kubelet: &Kubelet,
    pod: &Pod,
    container: &Container,
    address: &str,
) -> Result<BTreeMap<String, String>, String> {
    let namespace = pod.namespace().unwrap_or_default();
    let mut variables = BTreeMap::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let content = if let Some(reference) = &source.config_map_ref {
            config_map(
                kubelet,
                &namespace,
                &reference.name,
                reference.optional == Some(true),
            )
            .await?
        } else if let Some(reference) = &source.secret_ref {
            secret(
                kubelet,
                &namespace,
                &reference.name,
                reference.optional == Some(true),
            )
            .await?
        } else {
            BTreeMap::new()
        };
        variables.extend(
            content
                .into_iter()
                .map(|(key, value)| (format!("{prefix}{key}"), value)),
        );
    }
    for variable in container.env.iter().flatten() {
        if let Some(value) = value(kubelet, pod, &namespace, variable, address).await? {
            let value = expand(&value, &variables);
            variables.insert(variable.name.clone(), value);
        }
    }
    Ok(variables)
}

async fn value(
    kubelet: &Kubelet,
    pod: &Pod,
    namespace: &str,
    variable: &EnvVar,
    address: &str,
) -> Result<Option<String>, String> {
    let Some(source) = &variable.value_from else {
        return Ok(Some(variable.value.clone().unwrap_or_default()));
    };
    let (content, key, optional) = if let Some(reference) = &source.field_ref {
        return field(pod, Some(address), &reference.field_path).map(Some);
    } else if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let content = config_map(kubelet, namespace, &reference.name, optional).await?;
        (content, &reference.key, optional)
    } else if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional == Some(true);
        let content = secret(kubelet, namespace, &reference.name, optional).await?;
        (content, &reference.key, optional)
    } else {
        return Err(format!(
            "variable {}: the stand-in does not know this source",
            variable.name
        ));
    };
    match content.get(key) {
        None if !optional => Err(format!("variable {}: there is no key {key}", variable.name)),
        value => Ok(value.cloned()),
    }
}

async fn config_map(
    kubelet: &Kubelet,
    namespace: &str,
    name: &str,
    optional: bool,
) -> Result<BTreeMap<String, String>, String> {
    let api: Api<ConfigMap> = Api::namespaced(kubelet.client.clone(), namespace);
    match api.get_opt(name).await {
        Ok(Some(object)) => Ok(object.data.unwrap_or_default()),
        Ok(None) if optional => Ok(BTreeMap::new()),
        Ok(None) => Err(format!("there is no ConfigMap {name}")),
        Err(error) => Err(format!("ConfigMap {name}: {error}")),
    }
}

async fn secret(
    kubelet: &Kubelet,
    namespace: &str,
    name: &str,
    optional: bool,
) -> Result<BTreeMap<String, String>, String> {
    let api: Api<Secret> = Api::namespaced(kubelet.client.clone(), namespace);
    match api.get_opt(name).await {
        Ok(Some(object)) => {
            let data = object.data.unwrap_or_default().into_iter();
            Ok(data
                .filter_map(|(key, value)| Some((key, String::from_utf8(value.0).ok()?)))
                .collect())
        }
        Ok(None) if optional => Ok(BTreeMap::new()),
        Ok(None) => Err(format!("there is no Secret {name}")),
        Err(error) => Err(format!("Secret {name}: {error}")),
    }
}

/// A field of the pod as the downward API gives it.
pub fn field(pod: &Pod, address: Option<&str>, path: &str) -> Result<String, String> {
    let spec = pod.spec.as_ref();
    let known = match path {
        "metadata.name" => pod.metadata.name.clone(),
        "metadata.namespace" => pod.metadata.namespace.clone(),
        "metadata.uid" => pod.metadata.uid.clone(),
        "spec.nodeName" => Some(NODE.to_owned()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "status.podIP" => address.map(str::to_owned),
        _ => None,
    };
    known.ok_or_else(|| format!("the stand-in does not know the field {path}"))
}

/// What the in-cluster configuration is to a program that has the usual folder: the same server,
/// authority and token.
fn kubeconfig(kubelet: &Kubelet, pod: &Pod, root: &Root) -> Result<PathBuf, String> {
    let account = root.path(ACCOUNT);
    let document = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "pod",
        "clusters": [{"name": "cluster", "cluster": {"server": kubelet.server, "certificate-authority": account.join("ca.crt")}}],
        "users": [{"name": "account", "user": {"tokenFile": account.join("token")}}],
        "contexts": [{"name": "pod", "context": {
            "cluster": "cluster", "user": "account", "namespace": pod.metadata.namespace}}],
    });
    let file = root.path("/kubeconfig");
    fs::write(&file, document.to_string()).map_err(|error| error.to_string())?;
    Ok(file)
}
