//! The custom resources as an API server sees them.

mod bounds;
/// The same table that the offline tests put to an evaluator.
#[path = "../../offline/crds/cases.rs"]
mod cases;
mod columns;
mod install;
mod nulls;
mod objects;
mod rules;
mod unknown;

use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::{Api, Client};
use portcullis::api::{GROUP, VERSION};
use serde_json::Value;

/// The schemas of the repository's definitions come from the types; `crds/` is generated from the
/// same.
fn schema(kind: &str) -> Value {
    let definition = portcullis::api::crds()
        .into_iter()
        .find(|d| d.spec.names.kind == kind)
        .unwrap();
    let schema = definition.spec.versions[0].schema.clone().unwrap();
    serde_json::to_value(schema.open_api_v3_schema.unwrap()).unwrap()
}

/// Objects of one of our kinds, as documents.
fn api(client: &Client, namespace: &str, kind: &str) -> Api<DynamicObject> {
    let plural = match kind {
        "McpServer" => "mcpservers",
        "McpPolicy" => "mcppolicies",
        "McpApproval" => "mcpapprovals",
        other => panic!("{other}"),
    };
    let resource = ApiResource {
        group: GROUP.to_owned(),
        version: VERSION.to_owned(),
        api_version: format!("{GROUP}/{VERSION}"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    };
    Api::namespaced_with(client.clone(), namespace, &resource)
}

fn object(document: &Value) -> DynamicObject {
    serde_json::from_value(document.clone()).unwrap()
}

/// What the API server says to the creation of an object, without anything being stored.
async fn verdict(
    client: &Client,
    namespace: &str,
    document: &Value,
) -> Result<(), Box<kube::core::Status>> {
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let objects = api(client, namespace, document["kind"].as_str().unwrap());
    match objects.create(&params, &object(document)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status),
        Err(error) => panic!("{error}"),
    }
}
