//! All that a gateway may do. The operator holds each of these rights itself, as RBAC lets no one
//! give what they do not have.

use k8s_openapi::api::rbac::v1::{PolicyRule, Role};

use crate::controller::names::{GATEWAY, Ident};
use crate::controller::server::build::metadata::metadata;

pub fn role(ident: &Ident) -> Role {
    let name = ident.gateway();
    Role {
        metadata: metadata(ident, &name, GATEWAY),
        rules: Some(vec![
            PolicyRule {
                resource_names: Some(vec![name]),
                ..rule("", "configmaps", &["get", "watch"])
            },
            rule(
                crate::api::GROUP,
                "mcpapprovals",
                &["get", "list", "watch", "create"],
            ),
            rule(crate::api::GROUP, "mcpapprovals/status", &["update"]),
        ]),
    }
}

fn rule(group: &str, resource: &str, verbs: &[&str]) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        verbs: verbs.iter().map(|&verb| verb.to_owned()).collect(),
        ..PolicyRule::default()
    }
}
