//! What the chart lets the operator and people do, by the API server's own word.

use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::{PolicyRule, Role};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};

use super::admission::guarded;
use super::helm::CHART;
use super::install::helm;
use crate::support::cluster::Subject;
use crate::support::{Cluster, eventually};

const SYSTEM: &str = "portcullis-system";

/// Whether a service account may.
fn may(cluster: &Cluster, user: &str, verb: &str, resource: &str, namespace: &str) -> bool {
    let user = format!("--as=system:serviceaccount:{user}");
    // What follows a slash is a name, what follows a colon a subresource.
    let (resource, sub) = resource.split_once(':').unwrap_or((resource, ""));
    let sub = format!("--subresource={sub}");
    let printed = cluster.kubectl([
        "auth",
        "can-i",
        verb,
        resource,
        &sub,
        "--namespace",
        namespace,
        &user,
    ]);
    printed.out.trim() == "yes"
}

/// A service account has these rights and lacks those: namespace, verb, resource, and whether it
/// may. The authorizer learns of roles a moment after they are stored.
async fn has(cluster: &Cluster, user: &str, expected: &[(&str, &str, &str, bool)]) {
    eventually(&format!("the rights of {user}"), || async {
        let wrong: Vec<_> = expected
            .iter()
            .filter(|(place, verb, resource, answer)| {
                may(cluster, user, verb, resource, place) != *answer
            })
            .collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_may_do_what_it_needs_and_no_more() {
    let Some(cluster) = guarded("the operator's rights").await else {
        return;
    };
    let namespace = cluster.namespace("rights").await;
    let place = namespace.name.as_str();
    let operator = "portcullis-system:portcullis-operator";
    let expected = [
        (place, "create", "secrets", true),
        (place, "get", "secrets", false),
        (place, "list", "secrets", false),
        (place, "watch", "secrets", false),
        (place, "update", "secrets", false),
        (place, "delete", "secrets", false),
        (place, "create", "pods", false),
        (place, "delete", "pods", false),
        (place, "create", "pods:exec", false),
        (place, "create", "pods:attach", false),
        (place, "create", "pods:portforward", false),
        (place, "create", "serviceaccounts:token", false),
        (place, "impersonate", "serviceaccounts", false),
        (place, "escalate", "roles.rbac.authorization.k8s.io", false),
        (place, "bind", "roles.rbac.authorization.k8s.io", false),
        (
            place,
            "create",
            "clusterroles.rbac.authorization.k8s.io",
            false,
        ),
        (place, "delete", "configmaps", true),
        (place, "patch", "configmaps", false),
        (place, "update", "mcpservers.portcullis.dev", false),
        (place, "patch", "mcppolicies.portcullis.dev", false),
        (place, "create", "mcppolicies.portcullis.dev", false),
        (place, "update", "mcpapprovals.portcullis.dev", false),
        (place, "delete", "mcpapprovals.portcullis.dev", true),
        (place, "update", "mcpapprovals.portcullis.dev:status", true),
        (place, "update", "mcpservers.portcullis.dev:status", true),
        (place, "create", "deployments.apps", true),
        (place, "create", "leases.coordination.k8s.io", false),
        (SYSTEM, "create", "leases.coordination.k8s.io", true),
        (
            SYSTEM,
            "update",
            "leases.coordination.k8s.io/portcullis-operator",
            true,
        ),
        (
            SYSTEM,
            "watch",
            "leases.coordination.k8s.io/portcullis-operator",
            true,
        ),
        (SYSTEM, "update", "leases.coordination.k8s.io/other", false),
        (SYSTEM, "list", "leases.coordination.k8s.io", false),
        (
            SYSTEM,
            "delete",
            "leases.coordination.k8s.io/portcullis-operator",
            false,
        ),
        (SYSTEM, "get", "secrets", false),
    ];
    has(cluster, operator, &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_can_make_a_gateways_role_and_no_wider_one() {
    let Some(cluster) = guarded("escalation prevention").await else {
        return;
    };
    let namespace = cluster.namespace("roles").await;
    let place = namespace.name.as_str();
    let operator = cluster.impersonate_account(SYSTEM, "portcullis-operator");
    let rule = |group: &str, resource: &str, names: &[&str], verbs: &[&str]| PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        resource_names: (!names.is_empty())
            .then(|| names.iter().map(|&name| name.to_owned()).collect()),
        verbs: verbs.iter().map(|&verb| verb.to_owned()).collect(),
        ..PolicyRule::default()
    };
    let gateway = vec![
        rule("", "configmaps", &["mlflow-gateway"], &["get", "watch"]),
        rule(
            "portcullis.dev",
            "mcpapprovals",
            &[],
            &["get", "list", "watch", "create"],
        ),
        rule("portcullis.dev", "mcpapprovals/status", &[], &["update"]),
    ];
    let roles: Api<Role> = Api::namespaced(operator, place);
    let role = |name: &str, rules: Vec<PolicyRule>| Role {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        rules: Some(rules),
    };
    roles
        .create(
            &PostParams::default(),
            &role("mlflow-gateway", gateway.clone()),
        )
        .await
        .unwrap();
    for (name, more) in [
        ("secrets", rule("", "secrets", &[], &["get"])),
        (
            "decides",
            rule("portcullis.dev", "mcpapprovals", &[], &["update"]),
        ),
        ("runs", rule("", "pods", &[], &["create"])),
    ] {
        let mut rules = gateway.clone();
        rules.push(more);
        let refused = roles
            .create(&PostParams::default(), &role(name, rules))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("attempting to grant RBAC permissions not currently held"),
            "{name}: {refused}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_watch_namespaces_it_may_work_there_and_read_its_own_guardrails() {
    let Some(cluster) = guarded("the rights of an operator of some namespaces").await else {
        return;
    };
    let (watched, other) = (
        cluster.namespace("watched").await,
        cluster.namespace("unwatched").await,
    );
    let names = format!("watchNamespaces={{{watched}}}");
    // A second release beside the first, as docs/install.md has it.
    helm(
        cluster,
        [
            "install",
            "edge",
            CHART,
            "--namespace",
            "edge",
            "--create-namespace",
            "--set",
            &names,
            "--set",
            "crds.enabled=false,admissionPolicies.enabled=false,rbac.userRoles=false",
        ],
    )
    .ok();
    let operator = "edge:edge-portcullis-operator";
    let expected = [
        (watched.name.as_str(), "create", "deployments.apps", true),
        (&watched.name, "create", "secrets", true),
        (&watched.name, "list", "mcpservers.portcullis.dev", true),
        (&other.name, "create", "deployments.apps", false),
        (&other.name, "create", "secrets", false),
        (&other.name, "list", "mcpservers.portcullis.dev", false),
        (&other.name, "get", "configmaps", false),
        ("edge", "list", "mcppolicies.portcullis.dev", true),
        ("edge", "list", "mcpservers.portcullis.dev", false),
        ("edge", "create", "deployments.apps", false),
        ("edge", "create", "secrets", true),
        (
            "edge",
            "update",
            "leases.coordination.k8s.io/edge-portcullis-operator",
            true,
        ),
    ];
    has(cluster, operator, &expected).await;
    helm(cluster, ["uninstall", "edge", "--namespace", "edge"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn people_get_what_their_role_in_the_namespace_implies() {
    let Some(cluster) = guarded("the roles of people").await else {
        return;
    };
    let namespace = cluster.namespace("people").await;
    let place = namespace.name.as_str();
    let resources = ["mcpservers", "mcppolicies", "mcpapprovals"];
    let verbs = ["get", "create", "update", "patch", "delete"];
    let rights = |user: &str| {
        let user = format!("--as={user}");
        let mut found = BTreeMap::new();
        for resource in resources {
            let name = format!("{resource}.portcullis.dev");
            let may = |verb: &&str| {
                let printed =
                    cluster.kubectl(["auth", "can-i", verb, &name, "--namespace", place, &user]);
                printed.out.trim() == "yes"
            };
            found.insert(resource, verbs.into_iter().filter(may).collect::<Vec<_>>());
        }
        found
    };
    for role in ["view", "edit", "admin", "portcullis-approver"] {
        let user = format!("has-{role}");
        cluster.grant(place, Subject::User(&user), role).await;
    }
    let read = BTreeMap::from(resources.map(|name| (name, vec!["get"])));
    // Aggregation is the controller manager's, so it takes a moment. Who edits a server runs images
    // and uses Secrets, so `edit` only reads.
    for role in ["view", "edit"] {
        eventually(&format!("{role} has what the chart adds"), || async {
            let found = rights(&format!("has-{role}"));
            if found == read { Ok(()) } else { Err(found) }
        })
        .await;
    }
    let mut writes = read.clone();
    writes.insert("mcpservers", verbs.to_vec());
    writes.insert("mcppolicies", verbs.to_vec());
    eventually("admin has what the chart adds", || async {
        let found = rights("has-admin");
        if found == writes { Ok(()) } else { Err(found) }
    })
    .await;
    let approver = BTreeMap::from([
        ("mcpservers", vec![]),
        ("mcppolicies", vec![]),
        ("mcpapprovals", vec!["get", "update", "patch"]),
    ]);
    assert_eq!(rights("has-portcullis-approver"), approver);
}
