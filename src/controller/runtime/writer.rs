//! Writes to the API server.
//!
//! In: objects as they should be. Out: objects as they are. An object of another owner is never
//! touched: the first write of a child is a create, later ones carry the UID of what was seen.

use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{ApiResource, DynamicResourceScope, NamespaceResourceScope};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::controller::names::MANAGER;
use crate::controller::runtime::drift::{self, Change};
use crate::controller::runtime::kinds::{Child, Kind};
use crate::controller::runtime::objects::ObservedChild;

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The name is taken.
    #[error(
        "{kind} {name} exists and belongs to another owner; remove or rename it, or rename the McpServer"
    )]
    Foreign { kind: &'static str, name: String },
    /// What the spec leads to is refused: writing it again will not help until a user changes
    /// something.
    #[error("the API server refuses the {kind} {name}: {message}")]
    Refused {
        kind: &'static str,
        name: String,
        message: String,
        /// A quota, an admission policy or missing rights may be what has to change, not the spec.
        forbidden: bool,
    },
    /// Another writer came in between; read again.
    #[error("{kind} {name} was changed meanwhile")]
    Conflict { kind: &'static str, name: String },
    #[error("{kind} {name}: {source}")]
    Api {
        kind: &'static str,
        name: String,
        source: Box<kube::Error>,
    },
}

/// Tells apart what can be done about an error.
fn classify(kind: &'static str, name: &str, error: kube::Error) -> WriteError {
    let name = name.to_owned();
    match &error {
        kube::Error::Api(status) if status.code == 409 => WriteError::Conflict { kind, name },
        kube::Error::Api(status) if refused(status) => WriteError::Refused {
            kind,
            name,
            message: status.message.clone(),
            forbidden: status.code == 403,
        },
        _ => WriteError::Api {
            kind,
            name,
            source: Box::new(error),
        },
    }
}

/// Whether the answer is about what was written, and not about the moment: not valid (400 and 422),
/// not allowed by rights, a quota or an admission webhook (403), too large (413). A namespace that
/// is ending refuses what it would have taken.
fn refused(status: &kube::core::Status) -> bool {
    let ending = status.details.as_ref().is_some_and(|details| {
        details
            .causes
            .iter()
            .any(|cause| cause.reason == "NamespaceTerminating")
    });
    matches!(status.code, 400 | 403 | 413 | 422) && !ending
}

fn api<K>(client: &Client, namespace: &str, resource: &ApiResource) -> Api<K>
where
    K: Resource<DynamicType = ApiResource, Scope = DynamicResourceScope>,
{
    Api::namespaced_with(client.clone(), namespace, resource)
}

/// Writes of children in one namespace.
pub struct Children<'a> {
    pub client: &'a Client,
    pub namespace: &'a str,
    /// UID of the McpServer.
    pub owner: &'a str,
    /// Objects are made where there are none. Not for an owner that is being deleted.
    pub creates: bool,
}

impl Children<'_> {
    fn api(&self, kind: Kind) -> Api<ObservedChild> {
        api(self.client, self.namespace, &kind.resource())
    }

    /// Creates a child. One that is there already is taken if it is ours: the caches may be behind.
    pub async fn create(&self, child: &Child) -> Result<Created, WriteError> {
        let kind = child.kind.as_str();
        let fail = |error| classify(kind, &child.name, error);
        if !self.creates {
            let name = child.name.clone();
            return Err(WriteError::Conflict { kind, name });
        }
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        let client = self.client;
        let request = kube::core::Request::new(<ObservedChild as Resource>::url_path(
            &child.kind.resource(),
            Some(self.namespace),
        ));
        let body = serde_json::to_vec(&child.body)
            .map_err(|error| fail(kube::Error::SerdeError(error)))?;
        let request = request
            .create(&params, body)
            .map_err(|error| fail(kube::Error::BuildRequest(error)))?;
        match client.request::<ObservedChild>(request).await {
            Ok(live) => Ok(Created::New(live)),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                let live = self.get(child.kind, &child.name).await?;
                match live {
                    Some(live) if live.controller() == Some(self.owner) => Ok(Created::Ours(live)),
                    // Gone again, or on its way out with the owner before.
                    Some(_) | None => Err(WriteError::Foreign {
                        kind,
                        name: child.name.clone(),
                    }),
                }
            }
            Err(error) => Err(fail(error)),
        }
    }

    pub async fn get(&self, kind: Kind, name: &str) -> Result<Option<ObservedChild>, WriteError> {
        self.api(kind)
            .get_opt(name)
            .await
            .map_err(|error| classify(kind.as_str(), name, error))
    }

    /// Server-side apply of the whole intent (KEP-555), of an object with that UID only; `over`
    /// what another writer has put there.
    pub async fn apply(
        &self,
        child: &Child,
        uid: &str,
        over: bool,
    ) -> Result<ObservedChild, WriteError> {
        let fail = |error| classify(child.kind.as_str(), &child.name, error);
        let api = self.api(child.kind);
        self.adopt_created_fields(child).await?;
        let body = of(child, uid);
        let params = PatchParams::apply(MANAGER).force();
        let applied = api.patch(&child.name, &params, &Patch::Apply(&body)).await;
        match applied {
            // Beside what another writer put in place of ours, ours may not fit (two ports of one
            // name).
            Err(kube::Error::Api(status)) if status.code == 422 && over => {
                self.merge(child, uid, &[]).await
            }
            applied => applied.map_err(fail),
        }
    }

    /// A merge patch of the whole intent, of an object with that UID only: it replaces whole lists
    /// (RFC 7386) and removes what was added.
    pub async fn merge(
        &self,
        child: &Child,
        uid: &str,
        changes: &[Change],
    ) -> Result<ObservedChild, WriteError> {
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let body = of(child, uid);
        let patch = Patch::Merge(drift::patch(&body, changes));
        self.api(child.kind)
            .patch(&child.name, &params, &patch)
            .await
            .map_err(|error| classify(child.kind.as_str(), &child.name, error))
    }

    /// What a create wrote is managed as an update's, and an apply that leaves a field out would
    /// not remove it: the entry is made an apply's first, once in a child's life, as client-go's
    /// csaupgrade does.
    async fn adopt_created_fields(&self, child: &Child) -> Result<(), WriteError> {
        let fail = |error| classify(child.kind.as_str(), &child.name, error);
        let api: Api<kube::core::DynamicObject> =
            Api::namespaced_with(self.client.clone(), self.namespace, &child.kind.resource());
        let Some(live) = api.get_opt(&child.name).await.map_err(fail)? else {
            return Ok(());
        };
        let mut entries = live.metadata.managed_fields.unwrap_or_default();
        let created =
            |operation: &Option<String>, subresource: &Option<String>, manager: &Option<String>| {
                manager.as_deref() == Some(MANAGER)
                    && operation.as_deref() == Some("Update")
                    && subresource.is_none()
            };
        let applied = entries.iter().any(|entry| {
            entry.manager.as_deref() == Some(MANAGER) && entry.operation.as_deref() == Some("Apply")
        });
        let Some(at) = entries
            .iter()
            .position(|entry| created(&entry.operation, &entry.subresource, &entry.manager))
        else {
            return Ok(());
        };
        if applied {
            entries.remove(at);
        } else if let Some(entry) = entries.get_mut(at) {
            entry.operation = Some("Apply".to_owned());
        }
        let patch = json!({ "metadata": {
            "resourceVersion": live.metadata.resource_version,
            "managedFields": entries,
        }});
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        api.patch(&child.name, &params, &Patch::Merge(&patch))
            .await
            .map_err(fail)?;
        Ok(())
    }

    /// Replaces a ConfigMap if it is still the version that was seen; None if there is none any
    /// more.
    pub async fn replace(
        &self,
        child: &Child,
        version: &str,
    ) -> Result<Option<ObservedChild>, WriteError> {
        let mut body = child.body.clone();
        if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".to_owned(), json!(version));
        }
        let path =
            <ObservedChild as Resource>::url_path(&child.kind.resource(), Some(self.namespace));
        match put(self.client, &path, &child.name, None, &body).await {
            Ok(live) => Ok(Some(live)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(classify(child.kind.as_str(), &child.name, error)),
        }
    }

    /// Writes a ConfigMap over the version that was seen, or makes it. `watched` is whether the
    /// caches have it: of one that is ours and that they do not have, the existing one is returned,
    /// as no watch will bring it. Its labels may be gone.
    pub async fn write(
        &self,
        child: &Child,
        seen: Option<&str>,
        watched: bool,
    ) -> Result<Written, WriteError> {
        if let Some(version) = seen {
            match self.replace(child, version).await {
                Ok(Some(live)) => return Ok(Written::Now(live)),
                Ok(None) => {}
                Err(WriteError::Conflict { .. }) if !watched => {}
                Err(error @ WriteError::Refused { .. }) => {
                    self.remove_immutable(child).await?.ok_or(error)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(match self.create(child).await? {
            Created::New(live) => Written::Now(live),
            Created::Ours(live) => Written::Otherwise(live),
        })
    }

    /// Removes a ConfigMap of ours that another writer has made immutable: it cannot be written any
    /// more. None if that is not so.
    async fn remove_immutable(&self, child: &Child) -> Result<Option<()>, WriteError> {
        let live = self.get(child.kind, &child.name).await?;
        let immutable = |live: &ObservedChild| live.value().get("immutable") == Some(&json!(true));
        let Some(live) = live.filter(|live| {
            immutable(live) && live.controller() == Some(self.owner) && self.creates
        }) else {
            return Ok(None);
        };
        self.delete(child.kind, &live, &child.name).await.map(Some)
    }

    /// Removes a child of ours that is no longer wanted, or that cannot be changed into what it
    /// should be.
    pub async fn delete(
        &self,
        kind: Kind,
        live: &ObservedChild,
        name: &str,
    ) -> Result<(), WriteError> {
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: Some(live.uid().to_owned()),
            resource_version: None,
        });
        match self.api(kind).delete(name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(classify(kind.as_str(), name, error)),
        }
    }
}

/// A child's content for the object with that UID.
fn of(child: &Child, uid: &str) -> Value {
    let mut body = child.body.clone();
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("uid".to_owned(), json!(uid));
    }
    body
}

/// What writing a ConfigMap came to.
pub enum Written {
    Now(ObservedChild),
    /// It is ours and says something else that has not been seen yet.
    Otherwise(ObservedChild),
}

/// What a create came to.
pub enum Created {
    New(ObservedChild),
    /// It was there, and it is ours.
    Ours(ObservedChild),
}

async fn put<T: DeserializeOwned>(
    client: &Client,
    path: &str,
    name: &str,
    subresource: Option<&str>,
    body: &Value,
) -> Result<T, kube::Error> {
    let params = PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    };
    let bytes = serde_json::to_vec(body).map_err(kube::Error::SerdeError)?;
    let request = kube::core::Request::new(path);
    let request = match subresource {
        None => request.replace(name, &params, bytes),
        Some(subresource) => request.replace_subresource(subresource, name, &params, bytes),
    };
    client
        .request(request.map_err(kube::Error::BuildRequest)?)
        .await
}

/// Writes the status of one of our resources, if it is still the version that was seen. Spec and
/// metadata stay as they are. Returns the new resource version.
pub async fn status<K>(
    client: &Client,
    object: &kube::core::ObjectMeta,
    status: &impl Serialize,
) -> Result<String, WriteError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let kind: &'static str = kind_of::<K>();
    let name = object.name.clone().unwrap_or_default();
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {
            "name": name,
            "namespace": object.namespace,
            "uid": object.uid,
            "resourceVersion": object.resource_version,
        },
        "status": status,
    });
    let path = K::url_path(&(), object.namespace.as_deref());
    let written: ObservedChild = put(client, &path, &name, Some("status"), &body)
        .await
        .map_err(|error| classify(kind, &name, error))?;
    Ok(written.resource_version().to_owned())
}

fn kind_of<K: Resource<DynamicType = ()>>() -> &'static str {
    match K::kind(&()) {
        std::borrow::Cow::Borrowed(kind) => kind,
        std::borrow::Cow::Owned(_) => "the resource",
    }
}

/// Creates a Secret that is never read back; one that is there is left as it is, and the answer is
/// false.
pub async fn secret(client: &Client, body: &Value, namespace: &str) -> Result<bool, WriteError> {
    let name = body
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let fail = |error| classify("Secret", name, error);
    let path = k8s_openapi::api::core::v1::Secret::url_path(&(), Some(namespace));
    let bytes = serde_json::to_vec(body).map_err(|error| fail(kube::Error::SerdeError(error)))?;
    let request = kube::core::Request::new(path)
        .create(&PostParams::default(), bytes)
        .map_err(|error| fail(kube::Error::BuildRequest(error)))?;
    // The answer holds the values: it is not read.
    match client.request_text(request).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(false),
        Err(error) => Err(fail(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted_api::{Exchange, Script, answer, refusal};
    use http::Method;

    const PATH: &str = "/api/v1/namespaces/ml/configmaps";

    fn child() -> Child {
        Child {
            kind: Kind::ConfigMap,
            name: "mlflow-gateway".to_owned(),
            body: json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "mlflow-gateway", "namespace": "ml"}, "data": {"bundle.json": "{}"},
            }),
        }
    }

    /// The same as the API server has it, owned by that UID.
    fn live(owner: &str) -> Value {
        let mut body = child().body;
        body["metadata"]["uid"] = json!("uid-of-the-map");
        body["metadata"]["resourceVersion"] = json!("7");
        body["metadata"]["labels"] = json!({"portcullis.dev/server": "mlflow"});
        body["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer", "name": "mlflow", "uid": owner, "controller": true,
        }]);
        body
    }

    fn taken() -> Exchange {
        answer(Method::POST, &[PATH], 409, refusal(409, "AlreadyExists"))
    }

    fn got(status: u16, body: Value) -> Exchange {
        answer(Method::GET, &[PATH, "/mlflow-gateway"], status, body)
    }

    fn writes(client: &Client) -> Children<'_> {
        Children {
            client,
            namespace: "ml",
            owner: "owner",
            creates: true,
        }
    }

    #[tokio::test]
    async fn a_create_whose_name_is_taken_adopts_what_is_ours_and_leaves_the_rest_alone() {
        let script = Script::new(vec![taken(), got(200, live("owner"))]);
        let created = writes(&script.client()).create(&child()).await;
        assert!(matches!(created, Ok(Created::Ours(_))));
        for there in [
            got(200, live("another")),
            got(404, refusal(404, "NotFound")),
        ] {
            let script = Script::new(vec![taken(), there]);
            let created = writes(&script.client()).create(&child()).await;
            let Err(WriteError::Foreign { kind, name }) = created else {
                panic!("it was treated as ours");
            };
            assert_eq!((kind, &*name), ("ConfigMap", "mlflow-gateway"));
            // Nothing was written.
            let methods: Vec<String> = script.asked().into_iter().map(|(what, _)| what).collect();
            assert!(
                methods.iter().skip(1).all(|what| what.starts_with("GET ")),
                "{methods:?}"
            );
        }
    }

    #[tokio::test]
    async fn refusals_say_whether_the_spec_has_to_change_or_the_moment() {
        let ending = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Forbidden", "code": 403,
            "message": "the namespace is being terminated",
            "details": {"causes": [{"reason": "NamespaceTerminating", "message": "it is being terminated"}]},
        });
        let cases = [
            (403, refusal(403, "Forbidden"), Some(true)),
            (422, refusal(422, "Invalid"), Some(false)),
            (400, refusal(400, "BadRequest"), Some(false)),
            (413, refusal(413, "RequestEntityTooLarge"), Some(false)),
            (403, ending, None),
            (429, refusal(429, "TooManyRequests"), None),
            (500, refusal(500, "InternalError"), None),
        ];
        for (status, body, expected) in cases {
            let script = Script::new(vec![answer(Method::POST, &[PATH], status, body.clone())]);
            let error = writes(&script.client())
                .create(&child())
                .await
                .err()
                .unwrap();
            let found = match error {
                WriteError::Refused { forbidden, .. } => Some(forbidden),
                WriteError::Api { .. } => None,
                other => panic!("{status}: {other}"),
            };
            assert_eq!(found, expected, "{body}");
        }
    }

    #[tokio::test]
    async fn a_bundle_is_written_over_the_version_that_was_seen_only() {
        let put = |status, body| answer(Method::PUT, &[PATH, "/mlflow-gateway"], status, body);
        let conflict = || put(409, refusal(409, "Conflict"));
        // In time.
        let script = Script::new(vec![put(200, live("owner"))]);
        let written = writes(&script.client())
            .write(&child(), Some("7"), true)
            .await;
        assert!(matches!(written, Ok(Written::Now(_))));
        let (_, body) = &script.asked()[0];
        assert_eq!(body["metadata"]["resourceVersion"], "7");
        // Another writer was faster: the watch brings its object.
        let script = Script::new(vec![conflict()]);
        let written = writes(&script.client())
            .write(&child(), Some("7"), true)
            .await;
        assert!(matches!(written, Err(WriteError::Conflict { .. })));
        // No watch brings an object whose labels were taken off: it is read.
        let script = Script::new(vec![conflict(), taken(), got(200, live("owner"))]);
        let written = writes(&script.client())
            .write(&child(), Some("7"), false)
            .await;
        assert!(matches!(written, Ok(Written::Otherwise(_))));
        // Gone: it is made again.
        let gone = put(404, refusal(404, "NotFound"));
        let made = answer(Method::POST, &[PATH], 201, live("owner"));
        let script = Script::new(vec![gone, made]);
        let written = writes(&script.client())
            .write(&child(), Some("7"), true)
            .await;
        assert!(matches!(written, Ok(Written::Now(_))) && script.is_done());
    }

    #[tokio::test]
    async fn what_somebody_put_in_place_of_ours_is_replaced_where_an_apply_does_not_fit() {
        let patch = |status, body| answer(Method::PATCH, &[PATH, "/mlflow-gateway"], status, body);
        let script = Script::new(vec![
            got(200, live("owner")),
            patch(422, refusal(422, "Invalid")),
            patch(200, live("owner")),
        ]);
        let applied = writes(&script.client())
            .apply(&child(), "uid-of-the-map", true)
            .await;
        assert!(applied.is_ok() && script.is_done());
        // Every write names the object that was seen.
        for (what, body) in script
            .asked()
            .iter()
            .filter(|(what, _)| what.starts_with("PATCH"))
        {
            assert_eq!(body["metadata"]["uid"], "uid-of-the-map", "{what}");
        }
        let script = Script::new(vec![
            got(200, live("owner")),
            patch(422, refusal(422, "Invalid")),
        ]);
        let applied = writes(&script.client())
            .apply(&child(), "uid-of-the-map", false)
            .await;
        assert!(matches!(applied, Err(WriteError::Refused { .. })));
    }

    #[tokio::test]
    async fn a_delete_names_the_object_that_was_seen_and_one_that_is_gone_is_fine() {
        let gone = answer(Method::DELETE, &[PATH], 404, refusal(404, "NotFound"));
        let script = Script::new(vec![gone]);
        let seen: ObservedChild = serde_json::from_value(live("owner")).unwrap();
        let client = script.client();
        let deleted = writes(&client)
            .delete(Kind::ConfigMap, &seen, "mlflow-gateway")
            .await;
        assert!(deleted.is_ok());
        let (_, body) = &script.asked()[0];
        assert_eq!(body["preconditions"]["uid"], "uid-of-the-map");
    }
}
