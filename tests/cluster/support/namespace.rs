//! A namespace of one test.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::mpsc;

use k8s_openapi::api::core::v1::{Namespace as Object, ServiceAccount};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, Config};
use tokio::runtime::Handle;

use super::soon;

/// Removed, with all that is in it, when it is dropped.
pub struct Namespace {
    pub name: String,
    config: Config,
    background: Handle,
}

impl Namespace {
    pub(super) async fn create(
        client: Client,
        config: Config,
        background: Handle,
        prefix: &str,
        labels: &BTreeMap<String, String>,
    ) -> Self {
        let namespaces: Api<Object> = Api::all(client.clone());
        let object = Object {
            metadata: ObjectMeta {
                generate_name: Some(format!("{prefix}-")),
                labels: Some(labels.clone()),
                ..ObjectMeta::default()
            },
            ..Object::default()
        };
        let made = namespaces
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
        let name = made.metadata.name.unwrap();
        // Pods are refused before the controller made this account.
        let accounts: Api<ServiceAccount> = Api::namespaced(client, &name);
        let there = await_condition(accounts, "default", conditions::is_created());
        soon("the namespace's default service account", there)
            .await
            .unwrap();
        Namespace {
            name,
            config,
            background,
        }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let (done, deleted) = mpsc::channel();
        let (config, name) = (self.config.clone(), self.name.clone());
        self.background.spawn(async move {
            if let Ok(client) = Client::try_from(config) {
                // A control plane that the test stopped takes its namespaces with it.
                let _ = Api::<Object>::all(client)
                    .delete(&name, &DeleteParams::default())
                    .await;
            }
            let _ = done.send(());
        });
        // The process may end with this test: the request must have been heard by then.
        let _ = deleted.recv_timeout(std::time::Duration::from_secs(10));
    }
}
