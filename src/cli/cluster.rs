//! Reads resources of a cluster, with the rights of the user who runs the command.
//!
//! In: a context of the kubeconfig. Out: the resources that it holds. Must not do: write anything
//! but a person's decision on an approval; checks are dry runs.

use std::fmt::Debug;
use std::path::PathBuf;

use futures::StreamExt as _;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::core::NamespaceResourceScope;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Config, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::output::Failure;
use crate::api::loose::Loose;
use crate::gateway::upstream::proxy::Proxy;
use crate::policy::target::Labels;

/// The field manager of dry runs.
const MANAGER: &str = "portcullis-validate";
/// Who decides, in `managedFields`; the name of the person is in the decision.
const DECIDER: &str = "portcullis-approvals";

/// The cluster and the namespace
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ClusterArgs {
    /// Ask the cluster of this context of the kubeconfig; an empty name is the current context
    #[arg(long, value_name = "CONTEXT")]
    pub context: Option<String>,
    /// The kubeconfig [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The namespace [default: that of the context]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

/// Why a change was not taken.
pub enum Conflict {
    /// The object has changed since it was read.
    Changed,
    /// The API server, or an admission policy, refuses it; what it says.
    Refused(String),
}

/// A resource in a namespace that the API server can be asked for.
pub trait Readable:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug
{
}

impl<K> Readable for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
{
}

/// A cluster and a namespace in it.
pub struct Cluster {
    client: Client,
    namespace: String,
    runtime: tokio::runtime::Runtime,
}

impl ClusterArgs {
    /// The context that was asked for; the current one where only a kubeconfig or a namespace is
    /// named.
    fn named_context(&self) -> Option<&str> {
        let implied = self.kubeconfig.is_some() || self.namespace.is_some();
        self.context.as_deref().or(implied.then_some(""))
    }

    /// The cluster that the options name, if they name one.
    ///
    /// # Errors
    /// When there is no such context, or its credentials cannot be used.
    pub fn cluster(&self) -> Result<Option<Cluster>, Failure> {
        let Some(context) = self.named_context() else {
            return Ok(None);
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(format!("the runtime cannot be started: {error}")))?;
        let (client, namespace) = runtime.block_on(connect(self, context))?;
        Ok(Some(Cluster {
            client,
            namespace,
            runtime,
        }))
    }
}

async fn connect(args: &ClusterArgs, context: &str) -> Result<(Client, String), Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        Failure::new(format!(
            "the kubeconfig cannot be used: {error}; see `kubectl config view`"
        ))
    };
    let unusable = |error: KubeconfigError| match error {
        KubeconfigError::ReadConfig(error, path) => Failure::new(format!(
            "the kubeconfig {} cannot be read: {}; name another with --kubeconfig FILE",
            path.display(),
            super::output::why(&error)
        )),
        KubeconfigError::FindPath => {
            Failure::new("there is no kubeconfig; name one with --kubeconfig FILE")
        }
        KubeconfigError::CurrentContextNotSet => Failure::new(
            "the kubeconfig has no current context; name one with --context NAME (`kubectl config get-contexts` lists them)",
        ),
        KubeconfigError::LoadContext(name) => Failure::new(format!(
            "the kubeconfig has no context `{name}`; `kubectl config get-contexts` lists them"
        )),
        KubeconfigError::LoadClusterOfContext(name) => Failure::new(format!(
            "the kubeconfig has no cluster `{name}`, which its context names; `kubectl config view` shows both"
        )),
        KubeconfigError::Parse(_) => {
            Failure::new("the kubeconfig is not valid YAML; `kubectl config view` shows where")
        }
        other => failed(&other),
    };
    let options = KubeConfigOptions {
        context: (!context.is_empty()).then(|| context.to_owned()),
        ..KubeConfigOptions::default()
    };
    let file = match &args.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    }
    .map_err(unusable)?;
    let proxy = proxy_of(&file, context);
    let config = Config::from_custom_kubeconfig(file, &options).await;
    let mut config = config.map_err(unusable)?;
    // The client asks NO_PROXY about the proxy's own host, and takes proxies to this machine too.
    config.proxy_url = match proxy {
        Some(url) => url.parse().ok(),
        None => environment_proxy(&config.cluster_url),
    };
    let namespace = args
        .namespace
        .clone()
        .unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config).map_err(|error| failed(&error))?;
    Ok((client, namespace))
}

/// The proxy that a kubeconfig itself names for the cluster of a context.
fn proxy_of(file: &Kubeconfig, context: &str) -> Option<String> {
    let current = file.current_context.as_deref().unwrap_or_default();
    let wanted = if context.is_empty() { current } else { context };
    let context = file.contexts.iter().find(|one| one.name == wanted)?;
    let name = &context.context.as_ref()?.cluster;
    let cluster = file.clusters.iter().find(|one| one.name == *name)?;
    let proxy = cluster.cluster.as_ref()?.proxy_url.clone();
    proxy.filter(|url| !url.is_empty())
}

/// The proxy that the environment names for an API server, as kubectl reads it.
fn environment_proxy(server: &http::Uri) -> Option<http::Uri> {
    if let Ok(None) = Proxy::of_environment(&server.to_string()) {
        return None;
    }
    let variables = ["HTTPS_PROXY", "https_proxy"].into_iter();
    let named = variables.filter_map(|name| std::env::var(name).ok());
    let mut named = named.filter(|url| !url.is_empty());
    named.next()?.parse().ok()
}

impl Cluster {
    /// The namespace of objects without one.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Every object of a kind, in one namespace or all of them. An object that cannot be parsed is
    /// left out, with a warning.
    ///
    /// # Errors
    /// When the API server does not return them.
    pub fn list<K>(&self, namespace: Option<&str>) -> Result<Vec<K>, Failure>
    where
        K: Readable,
    {
        let api: Api<Loose<K>> = match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let mut objects: Vec<K> = Vec::new();
        // Each may be more than 1 MiB.
        let mut params = ListParams::default().limit(50);
        loop {
            let page = self
                .runtime
                .block_on(api.list(&params))
                .map_err(|error| read_failure(&K::plural(&()), &error))?;
            for item in page.items {
                match item.object() {
                    Ok(object) => objects.push(K::clone(object)),
                    Err(undecoded) => {
                        let (metadata, error) = (item.metadata(), &undecoded.error);
                        let namespace = metadata.namespace.as_deref().unwrap_or_default();
                        let name = metadata.name.as_deref().unwrap_or_default();
                        let kind = K::kind(&());
                        eprintln!("warning: {kind} {namespace}/{name} is left out: {error}");
                    }
                }
            }
            match page.metadata.continue_.filter(|more| !more.is_empty()) {
                Some(more) => params = params.continue_token(&more),
                None => break,
            }
        }
        // Listed by name, as kubectl does.
        objects.sort_by_key(|object| (object.meta().namespace.clone(), object.meta().name.clone()));
        Ok(objects)
    }

    /// One object; None if there is none of that name.
    ///
    /// # Errors
    /// When the API server does not give it.
    pub fn get<K>(&self, namespace: &str, name: &str) -> Result<Option<K>, Failure>
    where
        K: Readable,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let found = self.runtime.block_on(api.get_opt(name));
        found.map_err(|error| read_failure(&K::plural(&()), &error))
    }

    /// Changes parts of an object; with a resourceVersion, only while it is as it was read.
    ///
    /// # Errors
    /// When the API server cannot be asked.
    pub fn merge<K>(
        &self,
        namespace: &str,
        name: &str,
        change: &serde_json::Value,
    ) -> Result<Result<K, Conflict>, Failure>
    where
        K: Readable,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let params = PatchParams {
            field_manager: Some(DECIDER.to_owned()),
            ..PatchParams::default()
        };
        let change = Patch::Merge(change);
        let patched = api.patch(name, &params, &change);
        match self.runtime.block_on(patched) {
            Ok(object) => Ok(Ok(object)),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Err(Conflict::Changed)),
            Err(kube::Error::Api(status)) => Ok(Err(Conflict::Refused(status.message.clone()))),
            Err(error) => Err(read_failure(&K::plural(&()), &error)),
        }
    }

    /// The name by which the API server knows who runs this.
    ///
    /// # Errors
    /// When it does not say.
    pub fn user(&self) -> Result<String, Failure> {
        let api: Api<SelfSubjectReview> = Api::all(self.client.clone());
        let review = SelfSubjectReview::default();
        let params = PostParams::default();
        let answer = self.runtime.block_on(api.create(&params, &review));
        let answer = answer.map_err(|error| {
            Failure::new(format!(
                "the API server does not say who you are: {error}; see kubectl auth whoami"
            ))
        })?;
        let user = answer.status.and_then(|status| status.user_info);
        user.and_then(|user| user.username)
            .filter(|name| !name.is_empty())
            .ok_or_else(|| {
                Failure::new("the API server does not know you by a name; log in to it first")
            })
    }

    /// Every object of a kind, and each change, until `news` fails.
    ///
    /// # Errors
    /// What `news` returns, or why the API server cannot be watched.
    pub fn watch<K>(
        &self,
        namespace: Option<&str>,
        mut news: impl FnMut(K) -> Result<(), Failure>,
    ) -> Result<(), Failure>
    where
        K: Readable + Send + 'static,
    {
        let api: Api<K> = match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        self.runtime.block_on(async {
            let events = watcher(api, watcher::Config::default()).default_backoff();
            let mut events = std::pin::pin!(events);
            while let Some(event) = events.next().await {
                match event {
                    Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                        news(object)?;
                    }
                    Ok(_) => {}
                    // It continues by itself once the API server answers again.
                    Err(error) => eprintln!(
                        "warning: {}.portcullis.dev cannot be watched: {error}; trying again",
                        K::plural(&())
                    ),
                }
            }
            Ok(())
        })
    }

    /// The labels of a namespace; None if there is no such namespace.
    ///
    /// # Errors
    /// When the API server does not return it.
    pub fn namespace_labels(&self, name: &str) -> Result<Option<Labels>, Failure> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let object = self.runtime.block_on(api.get_opt(name)).map_err(|error| {
            Failure::new(format!(
                "namespace {name} cannot be read: {error}; a policy selects by labels of namespaces, so ask for the \
                right to get namespaces, or add the Namespace manifest"
            ))
        })?;
        Ok(object.map(|object| object.metadata.labels.unwrap_or_default()))
    }

    /// Whether the API server would accept an object (its schema, its rules and every admission
    /// policy), without storing it. The inner error is the API server's message.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub fn would_take<K>(&self, object: &K) -> Result<Result<(), String>, Failure>
    where
        K: Readable + Serialize,
    {
        let metadata = object.meta();
        let namespace = metadata.namespace.as_deref().unwrap_or(&self.namespace);
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let params = PatchParams::apply(MANAGER)
            .force()
            .dry_run()
            .validation_strict();
        let name = metadata.name.clone().unwrap_or_default();
        let mut document = object.clone();
        // These are invented for use without a cluster.
        document.meta_mut().uid = None;
        document.meta_mut().generation = None;
        match self
            .runtime
            .block_on(api.patch(&name, &params, &Patch::Apply(&document)))
        {
            Ok(_) => Ok(Ok(())),
            Err(kube::Error::Api(status)) => Ok(Err(status.message.clone())),
            Err(error) => Err(read_failure(&K::plural(&()), &error)),
        }
    }
}

fn read_failure(plural: &str, error: &kube::Error) -> Failure {
    let hint = match error {
        kube::Error::Api(status) if status.code == 404 => {
            "; are the definitions of Portcullis installed there?"
        }
        kube::Error::Api(status) if status.code == 403 => {
            "; ask for the right, or choose a namespace with -n"
        }
        _ => "",
    };
    Failure::new(format!(
        "{plural}.portcullis.dev cannot be read: {error}{hint}"
    ))
}
