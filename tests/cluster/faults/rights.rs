//! Rights that the operator does not have, in one of the namespaces that it is told to watch.

use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use portcullis::api::condition::ConditionType;
use portcullis::api::server::McpServer;
use serde::de::DeserializeOwned;

use super::stage::{Stage, shared};
use super::story::Story;
use crate::operator::rig::{find, server};
use crate::support::eventually;

/// Copies what the chart made in a namespace into another; the names of the copies.
async fn copy<K>(client: &Client, from: &str, to: &str) -> Vec<String>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + DeserializeOwned,
{
    let there: Api<K> = Api::namespaced(client.clone(), to);
    let all = Api::<K>::namespaced(client.clone(), from)
        .list(&ListParams::default())
        .await
        .unwrap();
    let mut names = Vec::new();
    for mut object in all.items {
        // A gateway's own has an owner.
        if !object.owner_references().is_empty() {
            continue;
        }
        let metadata = object.meta_mut();
        metadata.namespace = Some(to.to_owned());
        (metadata.resource_version, metadata.uid) = (None, None);
        there.create(&PostParams::default(), &object).await.unwrap();
        names.push(object.name_any());
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_without_rights_holds_up_no_other_and_is_worked_on_when_it_has_them() {
    let Some(cluster) = shared("rights that are missing in one namespace").await else {
        return;
    };
    let other = cluster.namespace("other").await;
    let watched = format!("--watch-namespace={other}");
    let stage = Stage::open_with(cluster, &[&watched]).await;
    let servers: Api<McpServer> = Api::namespaced(stage.client.clone(), &other.name);
    let document = server("second", &stage.fake);
    stage
        .kubectl(
            &["apply", "-n", &other.name, "-f", "-"],
            &document.to_string(),
        )
        .await;
    let story = Story::begin(&stage).await;
    story.edit().await;
    assert!(servers.get("second").await.unwrap().status.is_none());

    copy::<Role>(&stage.client, stage.name(), &other.name).await;
    let bindings = copy::<RoleBinding>(&stage.client, stage.name(), &other.name).await;
    eventually("the other namespace is worked on", || async {
        let status = servers.get("second").await.unwrap().status;
        let conditions = status.unwrap_or_default().conditions;
        match find(&conditions, ConditionType::Accepted) {
            Some(accepted) if accepted.status == "True" => Ok(()),
            _ => Err(conditions),
        }
    })
    .await;

    let there: Api<RoleBinding> = Api::namespaced(stage.client.clone(), &other.name);
    for name in bindings {
        there.delete(&name, &DeleteParams::default()).await.unwrap();
    }
    (stage.operator.killer())();
    story.scale().await;
    story.refuse().await;
    story.finish().await;
}
