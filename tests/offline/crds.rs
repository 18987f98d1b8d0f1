//! The custom resource definitions, as far as they can be tested without an API server: structure
//! and bounds here, the CEL rules beside.

mod cases;
mod rules;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use portcullis::api;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The schemas by kind.
fn schemas() -> Vec<(String, Value)> {
    schemas_of(api::crds())
}

fn schemas_of(definitions: [CustomResourceDefinition; 3]) -> Vec<(String, Value)> {
    definitions
        .into_iter()
        .map(|crd| {
            let schema = crd.spec.versions[0]
                .schema
                .clone()
                .unwrap()
                .open_api_v3_schema
                .unwrap();
            (crd.spec.names.kind, serde_json::to_value(schema).unwrap())
        })
        .collect()
}

fn schema(kind: &str) -> Value {
    schemas().into_iter().find(|(k, _)| k == kind).unwrap().1
}

/// The end of the sentence with which an API server refuses a null.
const NULL: &str = " is null: write a value or remove the field";

#[test]
fn a_null_is_kept_and_refused_wherever_a_person_may_leave_a_field_out() {
    let mut fields = 0;
    for_every_node(|path, node, _| {
        let core = [
            ".affinity",
            ".env[]",
            ".envFrom",
            ".imagePullSecrets",
            ".networkPolicy.from[]",
            ".networkPolicy.ports[]",
            ".tolerations",
            ".volume",
            ".resources",
        ];
        let in_core = core.iter().any(|core| path.contains(core)) && !path.starts_with("McpPolicy");
        if in_core || path.starts_with("McpApproval") || !path.contains(".spec") {
            return;
        }
        let required: Vec<&str> = node["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        for (name, property) in node["properties"].as_object().into_iter().flatten() {
            let optional = !required.contains(&name.as_str());
            assert_eq!(property["nullable"] == true, optional, "{path}.{name}");
            let rule = node["x-kubernetes-validations"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|rule| rule["message"] == format!("{name}{NULL}"));
            assert_eq!(rule.is_some(), optional, "{path}.{name}");
            fields += usize::from(optional);
        }
    });
    assert!(fields > 60, "{fields}");
}

/// Calls `visit` for every schema node with its path and the nodes above it.
fn walk<'a>(
    node: &'a Value,
    path: &str,
    above: &mut Vec<&'a Value>,
    visit: &mut dyn FnMut(&str, &'a Value, &[&'a Value]),
) {
    visit(path, node, above);
    above.push(node);
    for (name, child) in node["properties"].as_object().into_iter().flatten() {
        walk(child, &format!("{path}.{name}"), above, visit);
    }
    for (key, suffix) in [("items", "[]"), ("additionalProperties", "{}")] {
        if let Some(child) = node.get(key) {
            walk(child, &format!("{path}{suffix}"), above, visit);
        }
    }
    above.pop();
}

fn for_every_node(mut visit: impl FnMut(&str, &Value, &[&Value])) {
    for (kind, schema) in schemas() {
        walk(&schema, &kind, &mut Vec::new(), &mut |path, node, above| {
            visit(path, node, above)
        });
    }
}

/// <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema>
#[test]
fn schemas_are_structural() {
    for_every_node(|path, node, _| {
        let int_or_string = node["x-kubernetes-int-or-string"] == true;
        assert!(
            node["type"].is_string() != int_or_string,
            "{path}: exactly one of type and int-or-string"
        );
        for key in [
            "$ref",
            "definitions",
            "dependencies",
            "patternProperties",
            "uniqueItems",
            "oneOf",
            "anyOf",
            "allOf",
            "not",
        ] {
            assert!(
                node.get(key).is_none(),
                "{path}: {key} is not for structural schemas"
            );
        }
        assert!(
            !(node.get("properties").is_some() && node.get("additionalProperties").is_some()),
            "{path}: properties and additionalProperties exclude each other"
        );
        assert_eq!(
            node["type"] == "array",
            node.get("items").is_some(),
            "{path}: arrays have items"
        );
        if let Some(kept) = node.get("x-kubernetes-preserve-unknown-fields") {
            assert_eq!(
                (kept, &node["type"]),
                (&json!(true), &json!("object")),
                "{path}"
            );
        }
        for required in node["required"].as_array().into_iter().flatten() {
            assert!(
                node["properties"].get(required.as_str().unwrap()).is_some(),
                "{path}: {required} is required and not there"
            );
        }
        let known = ["int32", "int64", "double", "date-time", "byte"];
        assert!(
            node["format"].is_null() || known.contains(&node["format"].as_str().unwrap()),
            "{path}: format {}",
            node["format"]
        );
    });
}

#[test]
fn lists_with_unique_names_have_required_scalar_keys() {
    let mut maps = BTreeSet::new();
    for_every_node(
        |path, node, _| match node["x-kubernetes-list-type"].as_str() {
            None => assert!(node.get("x-kubernetes-list-map-keys").is_none(), "{path}"),
            Some("set") => assert_eq!(node["items"]["type"], "string", "{path}"),
            Some("map") => {
                maps.insert(path.to_owned());
                for key in node["x-kubernetes-list-map-keys"].as_array().unwrap() {
                    assert_eq!(
                        node["items"]["properties"][key.as_str().unwrap()]["type"],
                        "string",
                        "{path}"
                    );
                    assert!(
                        node["items"]["required"].as_array().unwrap().contains(key),
                        "{path}: {key} must be required"
                    );
                }
            }
            Some(other) => panic!("{path}: {other}"),
        },
    );
    let expected = [
        "McpApproval.spec.decisions",
        "McpPolicy.spec.prompts",
        "McpPolicy.spec.resources",
        "McpPolicy.spec.rules",
        "McpPolicy.spec.rules[].limits",
        "McpPolicy.spec.targetRefs",
        "McpPolicy.status.ancestors[].conditions",
        "McpPolicy.status.conditions",
        "McpPolicy.status.violations.byRule",
        "McpServer.spec.authentication.jwt",
        "McpServer.spec.tools",
        "McpServer.spec.upstream.http.credentials[].headers",
        "McpServer.spec.upstream.http.headers",
        "McpServer.status.conditions",
        "McpServer.status.policies",
    ];
    assert_eq!(maps, expected.map(str::to_owned).into());
}

#[test]
fn unknown_keys_are_kept_exactly_where_a_misspelt_one_could_loosen_a_rule() {
    let mut kept = BTreeSet::new();
    for_every_node(|path, node, _| {
        if node.get("x-kubernetes-preserve-unknown-fields").is_some() {
            kept.insert(path.to_owned());
        }
    });
    let expected = [
        "McpPolicy.spec.namespaceSelector",
        "McpPolicy.spec.prompts[]",
        "McpPolicy.spec.resources[]",
        "McpPolicy.spec.rules[]",
        "McpPolicy.spec.rules[].approval",
        "McpPolicy.spec.rules[].approval.observe",
        "McpPolicy.spec.rules[].limits[]",
        "McpPolicy.spec.rules[].tools",
        "McpPolicy.spec.targetRefs[]",
        "McpPolicy.spec.targetSelector",
        "McpServer.spec.tools[]",
        "McpServer.spec.tools[].arguments{}",
        "McpServer.spec.upstream.http",
        "McpServer.spec.upstream.http.credentials[]",
        "McpServer.spec.upstream.stdio",
        "McpServer.spec.upstream.stdio.credentials[]",
    ];
    assert_eq!(kept, expected.map(str::to_owned).into());
}

#[test]
fn every_field_of_ours_is_described() {
    const CORE: [&str; 11] = [
        "affinity",
        "conditions",
        "env",
        "envFrom",
        "from",
        "imagePullSecrets",
        "ports",
        "requests",
        "tolerations",
        "volumeMounts",
        "volumes",
    ];
    for_every_node(|path, node, _| {
        let inside_core = CORE
            .iter()
            .any(|c| path.contains(&format!(".{c}[]")) || path.contains(&format!(".{c}.")))
            || path.contains("stdio.resources.")
            || path.contains("gateway.resources.");
        let leaf = path.rsplit('.').next().unwrap();
        if !inside_core && !leaf.contains("[]") && !leaf.contains("{}") && leaf != "metadata" {
            assert!(
                node["description"]
                    .as_str()
                    .is_some_and(|d| d.ends_with(['.', ':'])),
                "{path} is not described by a sentence: {}",
                node["description"]
            );
        }
        assert!(
            !node["description"]
                .as_str()
                .unwrap_or_default()
                .contains("[`"),
            "{path}: a link of the source's in {}",
            node["description"]
        );
    });
}

/// The API server estimates the cost of each rule from these bounds and refuses a definition whose
/// cost is unbounded.
#[test]
fn everything_that_a_rule_touches_is_bounded() {
    for_every_node(|path, node, above| {
        let Some(rules) = node["x-kubernetes-validations"].as_array() else {
            return;
        };
        for (i, outer) in above.iter().chain([&node]).enumerate() {
            if outer["type"] == "array" {
                assert!(
                    outer["maxItems"].is_number(),
                    "{path}: the list {i} levels down from the root has no maxItems"
                );
            }
        }
        for rule in rules {
            let text = rule["rule"].as_str().unwrap();
            assert!(
                rule["message"].as_str().is_some_and(|m| !m.contains('\n')),
                "{path}: a rule without a sentence"
            );
            let touched: Vec<&Value> = text
                .split(|c: char| !(c.is_alphanumeric() || c == '.' || c == '_'))
                .filter_map(|word| word.strip_prefix("self."))
                .filter_map(|rest| node["properties"].get(rest.split('.').next().unwrap()))
                .chain((node["type"] != "object").then_some(node))
                .collect();
            for value in touched {
                let bounded = match value["type"].as_str().unwrap() {
                    "string" => {
                        value["maxLength"].is_number()
                            || value["enum"].is_array()
                            || value["format"] == "date-time"
                    }
                    "array" => value["maxItems"].is_number(),
                    "object" => {
                        value["properties"].is_object() || value["maxProperties"].is_number()
                    }
                    _ => true,
                };
                assert!(
                    bounded,
                    "{path}: `{text}` touches something unbounded: {value}"
                );
            }
        }
    });
}

#[test]
fn definitions_fit_into_the_annotation_of_kubectl_apply() {
    for crd in api::crds() {
        let size = serde_json::to_string(&crd).unwrap().len();
        assert!(size < 200_000, "{} takes {size} bytes", crd.spec.names.kind);
    }
}

#[test]
fn columns_names_and_scopes_are_those_of_the_design() {
    let columns: Vec<(String, Vec<String>, Vec<String>)> = api::crds()
        .into_iter()
        .map(|crd| {
            let names = crd.spec.names;
            assert_eq!(
                (crd.spec.scope.as_str(), names.categories),
                ("Namespaced", Some(vec!["portcullis".to_owned()]))
            );
            let columns = crd.spec.versions[0]
                .additional_printer_columns
                .clone()
                .unwrap();
            let wide = |p: Option<i32>| if p == Some(1) { " (wide)" } else { "" };
            (
                names.plural,
                names.short_names.unwrap(),
                columns
                    .iter()
                    .map(|c| format!("{}{}", c.name, wide(c.priority)))
                    .collect(),
            )
        })
        .collect();
    let own = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        columns,
        [
            (
                "mcpservers".to_owned(),
                own(&["pcs"]),
                own(&[
                    "Ready",
                    "Mode",
                    "URL",
                    "Visible",
                    "Policies",
                    "Violations",
                    "Audited",
                    "Age",
                    "Revision (wide)",
                    "Replicas (wide)"
                ])
            ),
            (
                "mcppolicies".to_owned(),
                own(&["pcp"]),
                own(&[
                    "Mode",
                    "Accepted",
                    "Programmed",
                    "Targets",
                    "Violations",
                    "Audited",
                    "Age"
                ])
            ),
            (
                "mcpapprovals".to_owned(),
                own(&["pca"]),
                own(&["Server", "Tool", "Grant", "Phase", "By", "Age"])
            ),
        ]
    );
    for crd in api::crds() {
        let subresources = crd.spec.versions[0].subresources.clone().unwrap();
        assert!(subresources.status.is_some() && subresources.scale.is_none());
    }
}

#[test]
fn optional_scalars_show_their_defaults() {
    let mut defaults = Vec::new();
    for_every_node(|path, node, _| {
        if let Some(default) = node.get("default") {
            defaults.push(format!("{path} = {default}"));
        }
    });
    defaults.sort();
    assert_eq!(
        defaults,
        [
            "McpPolicy.spec.mode = \"Enforce\"",
            "McpServer.spec.audit.arguments = \"Keys\"",
            "McpServer.spec.audit.onFailure = \"Deny\"",
            "McpServer.spec.authentication.anonymous = \"Deny\"",
            "McpServer.spec.catalog = \"MLflow\"",
            "McpServer.spec.clientFeatures.elicitation = \"Deny\"",
            "McpServer.spec.clientFeatures.roots = \"Deny\"",
            "McpServer.spec.clientFeatures.sampling = \"Deny\"",
            "McpServer.spec.counters.redis.onUnavailable = \"Deny\"",
            "McpServer.spec.enforcement = \"Enforce\"",
            "McpServer.spec.gateway = {}",
            "McpServer.spec.gateway.autoscaling.maxReplicas = 8",
            "McpServer.spec.gateway.autoscaling.minReplicas = 2",
            "McpServer.spec.gateway.autoscaling.targetCPUUtilizationPercentage = 70",
            "McpServer.spec.gateway.networkPolicy.enabled = true",
            "McpServer.spec.gateway.port = 8080",
            "McpServer.spec.gateway.service.type = \"ClusterIP\"",
            "McpServer.spec.upstream.maxRequestBytes = \"4Mi\"",
            "McpServer.spec.upstream.stdio.runAsUser = 65532",
            "McpServer.spec.upstream.stdio.sessionIdleTimeout = \"30m\"",
            "McpServer.spec.upstream.stdio.sessions = \"Shared\"",
            "McpServer.spec.upstream.timeout = \"60s\"",
        ]
    );
}
