//! Volumes: ConfigMaps, Secrets, tokens and empty folders, as files that change when the objects
//! do.
//!
//! Files are replaced as kubelet replaces them: a new folder, then one rename of the link `..data`,
//! so that who reads sees the old set or the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::stream::{BoxStream, SelectAll};
use futures::{StreamExt, future};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccount,
    ServiceAccountTokenProjection, Volume, VolumeProjection,
};
use kube::api::PostParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Api, ResourceExt};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::container::field;
use super::{Kubelet, Quickly};

/// Paths below the volume, and what is there.
type Content = BTreeMap<String, Vec<u8>>;

/// A volume that is kept up to date for as long as the value lives.
pub struct Mounted {
    pub folder: PathBuf,
    _updates: Option<AbortOnDropHandle<()>>,
}

enum Source {
    Fixed(Content),
    ConfigMap(Reference),
    Secret(Reference),
}

struct Reference {
    name: String,
    items: Option<Vec<KeyToPath>>,
    optional: bool,
}

/// Makes the volume below `folder`; waits until every object that it needs is there.
pub async fn mount(
    kubelet: &Arc<Kubelet>,
    pod: &Pod,
    volume: &Volume,
    folder: &Path,
) -> Result<Mounted, String> {
    let folder = match &volume.persistent_volume_claim {
        // What is on a claim is there for the next pod as well.
        Some(claim) => {
            let namespace = pod.namespace().unwrap_or_default();
            let claims = kubelet.folder.join("claims");
            claims.join(namespace).join(&claim.claim_name)
        }
        None => folder.join(&volume.name),
    };
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let sources = sources(kubelet, pod, volume).await?;
    if sources.is_empty() {
        return Ok(Mounted {
            folder,
            _updates: None,
        });
    }
    let (first, ready) = oneshot::channel();
    let namespace = pod.namespace().unwrap_or_default();
    let updates = tokio::spawn(follow(
        Arc::clone(kubelet),
        namespace,
        sources,
        folder.clone(),
        first,
    ));
    let updates = AbortOnDropHandle::new(updates);
    ready
        .await
        .map_err(|_| format!("volume {} could not be written", volume.name))?;
    Ok(Mounted {
        folder,
        _updates: Some(updates),
    })
}

async fn sources(kubelet: &Kubelet, pod: &Pod, volume: &Volume) -> Result<Vec<Source>, String> {
    if volume.empty_dir.is_some() || volume.persistent_volume_claim.is_some() {
        return Ok(Vec::new());
    }
    if let Some(source) = &volume.config_map {
        return Ok(vec![Source::ConfigMap(Reference {
            name: source.name.clone(),
            items: source.items.clone(),
            optional: source.optional == Some(true),
        })]);
    }
    if let Some(source) = &volume.secret {
        return Ok(vec![Source::Secret(Reference {
            name: source.secret_name.clone().unwrap_or_default(),
            items: source.items.clone(),
            optional: source.optional == Some(true),
        })]);
    }
    if let Some(source) = &volume.downward_api {
        return downward(pod, source.items.as_deref()).map(|content| vec![Source::Fixed(content)]);
    }
    let Some(projected) = &volume.projected else {
        return Err(format!(
            "volume {}: the stand-in does not know this kind",
            volume.name
        ));
    };
    let mut sources = Vec::new();
    for projection in projected.sources.iter().flatten() {
        sources.push(projection_source(kubelet, pod, projection).await?);
    }
    Ok(sources)
}

async fn projection_source(
    kubelet: &Kubelet,
    pod: &Pod,
    projection: &VolumeProjection,
) -> Result<Source, String> {
    if let Some(source) = &projection.config_map {
        Ok(Source::ConfigMap(Reference {
            name: source.name.clone(),
            items: source.items.clone(),
            optional: source.optional == Some(true),
        }))
    } else if let Some(source) = &projection.secret {
        Ok(Source::Secret(Reference {
            name: source.name.clone(),
            items: source.items.clone(),
            optional: source.optional == Some(true),
        }))
    } else if let Some(source) = &projection.downward_api {
        downward(pod, source.items.as_deref()).map(Source::Fixed)
    } else if let Some(source) = &projection.service_account_token {
        let token = token(kubelet, pod, source).await?;
        Ok(Source::Fixed(
            [(source.path.clone(), token.into_bytes())].into(),
        ))
    } else {
        Err("the stand-in does not know this kind of projection".to_owned())
    }
}

fn downward(pod: &Pod, items: Option<&[DownwardAPIVolumeFile]>) -> Result<Content, String> {
    let mut content = Content::new();
    for item in items.unwrap_or_default() {
        let path = item
            .field_ref
            .as_ref()
            .map(|field| field.field_path.as_str())
            .unwrap_or_default();
        content.insert(item.path.clone(), field(pod, None, path)?.into_bytes());
    }
    Ok(content)
}

/// A token for the pod's account, bound to the pod, asked for with the node's identity.
async fn token(
    kubelet: &Kubelet,
    pod: &Pod,
    wanted: &ServiceAccountTokenProjection,
) -> Result<String, String> {
    let accounts: Api<ServiceAccount> =
        Api::namespaced(kubelet.client.clone(), &pod.namespace().unwrap_or_default());
    let account = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.clone())
        .unwrap_or_default();
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: wanted.audience.clone().into_iter().collect(),
            expiration_seconds: wanted.expiration_seconds,
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        },
        ..TokenRequest::default()
    };
    let granted = accounts
        .create_token_request(&account, &PostParams::default(), &request)
        .await;
    let granted = granted.map_err(|error| format!("token of {account}: {error}"))?;
    Ok(granted
        .status
        .map(|status| status.token)
        .unwrap_or_default())
}

/// Writes the volume whenever one of its objects changes.
async fn follow(
    kubelet: Arc<Kubelet>,
    namespace: String,
    sources: Vec<Source>,
    folder: PathBuf,
    first: oneshot::Sender<()>,
) {
    // None: not looked at yet. Some(None): it is not there and need not be.
    let mut known: Vec<Option<Option<Content>>> = Vec::new();
    let mut changes: SelectAll<BoxStream<'static, (usize, Option<Option<Content>>)>> =
        SelectAll::new();
    for (at, source) in sources.into_iter().enumerate() {
        match source {
            Source::Fixed(content) => known.push(Some(Some(content))),
            Source::ConfigMap(reference) => {
                known.push(None);
                let api: Api<ConfigMap> = Api::namespaced(kubelet.client.clone(), &namespace);
                let stream = watch_object(api, &reference.name).backoff(Quickly);
                let content = move |object| (at, reference.of(object, config_map));
                changes.push(
                    stream
                        .filter_map(|found| future::ready(found.ok()))
                        .map(content)
                        .boxed(),
                );
            }
            Source::Secret(reference) => {
                known.push(None);
                let api: Api<Secret> = Api::namespaced(kubelet.client.clone(), &namespace);
                let stream = watch_object(api, &reference.name).backoff(Quickly);
                let content = move |object| (at, reference.of(object, secret));
                changes.push(
                    stream
                        .filter_map(|found| future::ready(found.ok()))
                        .map(content)
                        .boxed(),
                );
            }
        }
    }
    let mut first = Some(first);
    let mut generation = 0u64;
    loop {
        if known.iter().all(Option::is_some) {
            generation += 1;
            let whole = known.iter().flatten().flatten().flatten();
            let whole: Content = whole
                .map(|(path, bytes)| (path.clone(), bytes.clone()))
                .collect();
            match write(&folder, generation, &whole) {
                Ok(()) => first.take().map(|first| first.send(())),
                Err(error) => {
                    kubelet.note(&format!("{}: {error}", folder.display()));
                    return;
                }
            };
        }
        let Some((at, content)) = changes.next().await else {
            // Nothing here can change any more, and nobody waits.
            return;
        };
        // What was there and is not any more stays mounted, as kubelet leaves it.
        if content.is_some() || known[at].is_none() {
            known[at] = content;
        }
    }
}

impl Reference {
    /// None where something required is missing.
    fn of<K>(&self, object: Option<K>, content: fn(K) -> Content) -> Option<Option<Content>> {
        let Some(object) = object else {
            return self.optional.then_some(None);
        };
        let all = content(object);
        let Some(items) = &self.items else {
            return Some(Some(all));
        };
        let mut chosen = Content::new();
        for item in items {
            match all.get(&item.key) {
                Some(bytes) => {
                    chosen.insert(item.path.clone(), bytes.clone());
                }
                None if self.optional => {}
                None => return None,
            }
        }
        Some(Some(chosen))
    }
}

fn config_map(object: ConfigMap) -> Content {
    let text = object
        .data
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| (key, value.into_bytes()));
    let binary = object
        .binary_data
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| (key, value.0));
    text.chain(binary).collect()
}

fn secret(object: Secret) -> Content {
    object
        .data
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| (key, value.0))
        .collect()
}

fn write(folder: &Path, generation: u64, content: &Content) -> io::Result<()> {
    let new = format!("..{generation}");
    for (path, bytes) in content {
        let file = folder.join(&new).join(path);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(file, bytes)?;
    }
    fs::create_dir_all(folder.join(&new))?;
    let link = folder.join("..data_tmp");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(&new, &link)?;
    fs::rename(link, folder.join("..data"))?;
    let wanted: BTreeSet<&str> = content
        .keys()
        .filter_map(|path| path.split('/').next())
        .collect();
    for name in &wanted {
        if fs::symlink_metadata(folder.join(name)).is_err() {
            std::os::unix::fs::symlink(format!("..data/{name}"), folder.join(name))?;
        }
    }
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("..") {
            if name != new && name != "..data" {
                fs::remove_dir_all(folder.join(name))?;
            }
        } else if !wanted.contains(name.as_str()) {
            fs::remove_file(folder.join(name))?;
        }
    }
    Ok(())
}
