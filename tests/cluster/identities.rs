//! Who a test can be, and what is known afterwards of what they did.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;

use crate::support::audit::Write;
use crate::support::cluster::Subject;
use crate::support::{Cluster, eventually, tool};

async fn put(client: Client, namespace: &str, name: &str) -> u16 {
    let maps: Api<ConfigMap> = Api::namespaced(client, namespace);
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    match maps.create(&PostParams::default(), &map).await {
        Ok(_) => 201,
        Err(kube::Error::Api(status)) => status.code,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn everybody_may_what_their_roles_say_and_every_attempt_to_write_is_known() {
    let Some(cluster) = Cluster::get("identities") else {
        return;
    };
    let namespace = cluster.namespace("identities").await;
    let name = namespace.name.as_str();
    cluster.grant(name, Subject::Group("ml"), "edit").await;
    assert_eq!(
        put(cluster.impersonate("alice", &["ml"]), name, "by-alice").await,
        201
    );
    assert_eq!(
        put(cluster.impersonate("bob", &[]), name, "by-bob").await,
        403
    );
    assert_eq!(
        put(
            cluster.impersonate_account(name, "default"),
            name,
            "by-account"
        )
        .await,
        403
    );

    if cluster.control_plane().is_none() {
        return;
    }
    let write = |user: &str, object: &str, code| Write {
        user: user.to_owned(),
        verb: "create".to_owned(),
        resource: "configmaps".to_owned(),
        namespace: name.to_owned(),
        name: object.to_owned(),
        code,
    };
    let expected = [
        write("alice", "by-alice", 201),
        write("bob", "", 403),
        write(&format!("system:serviceaccount:{name}:default"), "", 403),
    ];
    eventually("the writes are in the audit log", || async {
        let mut writes = cluster.writes();
        writes.retain(|write| write.namespace == name && write.resource == "configmaps");
        if writes == expected {
            Ok(())
        } else {
            Err(writes)
        }
    })
    .await;
}

#[tokio::test]
async fn programs_can_be_anybody_by_a_kubeconfig() {
    let Some(cluster) = Cluster::get("kubeconfigs") else {
        return;
    };
    let namespace = cluster.namespace("kubeconfigs").await;
    let who = |kubeconfig: &std::path::Path| {
        let output = "jsonpath={.status.userInfo.username} {.status.userInfo.groups}";
        let arguments = ["auth", "whoami", "-o", output];
        tool::run(&cluster.program("kubectl"), kubeconfig, arguments, "").ok()
    };
    assert_eq!(
        who(&cluster.kubeconfig("alice", &["ml"])),
        r#"alice ["ml","system:authenticated"]"#
    );
    assert_eq!(
        who(&cluster.account_kubeconfig(&namespace.name, "default").await),
        format!(
            r#"system:serviceaccount:{namespace}:default ["system:serviceaccounts","system:serviceaccounts:{namespace}","system:authenticated"]"#
        )
    );
}
