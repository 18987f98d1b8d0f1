//! The Helm chart, as far as it can be judged without Helm: what in it is generated, and what must
//! agree with what. `tests/cluster/chart.rs` renders and installs it.

mod metrics;
mod reading;
#[path = "../chart/secret_fields.rs"]
mod secret_fields;

use super::generated::file_holds;
use metrics::{families, gateway_metrics, operator_metrics};
use portcullis::api;
use reading::{
    at, documented, leaves, rules_of, schema_leaves, secret_fields as find_secret_fields, walk,
};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

const CHART: &str = "charts/portcullis";

pub fn read(path: &str) -> String {
    let full = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&full).unwrap_or_else(|e| panic!("{path}: {e}"))
}

pub fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

fn schema() -> Value {
    serde_json::from_str(&read(&format!("{CHART}/values.schema.json"))).unwrap()
}

/// Helm never upgrades what is in a chart's `crds/`, so the definitions are templates.
#[test]
fn the_definitions_in_the_chart_are_those_of_the_types() {
    for crd in api::crds() {
        let plural = &crd.spec.names.plural;
        let plain = read(&format!("crds/{plural}.yaml"));
        assert!(
            !plain.contains("{{"),
            "crds/{plural}.yaml would be taken for a template: escape what begins with two braces"
        );
        let name = format!("  name: {plural}.portcullis.dev\n");
        let (before, after) = plain.split_once(&name).unwrap();
        let template = format!(
            "{{{{- /* Generated from crds/{plural}.yaml: UPDATE=1 cargo test --test offline chart */ -}}}}\n\
             {{{{- if .Values.crds.enabled }}}}\n\
             {before}{name}  labels:\n    {{{{- include \"portcullis.labels\" . | nindent 4 }}}}\n  \
             {{{{- if .Values.crds.keep }}}}\n  annotations:\n    helm.sh/resource-policy: keep\n  {{{{- end }}}}\n\
             {after}{{{{- end }}}}\n"
        );
        file_holds(&format!("{CHART}/templates/crds/{plural}.yaml"), &template);
    }
}

#[test]
fn the_version_of_the_chart_is_that_of_the_programs() {
    let chart = yaml(&read(&format!("{CHART}/Chart.yaml")));
    assert_eq!(
        (&chart["version"], &chart["appVersion"]),
        (
            &Value::from(env!("CARGO_PKG_VERSION")),
            &Value::from(env!("CARGO_PKG_VERSION"))
        )
    );
}

#[test]
fn the_table_of_values_is_that_of_values_yaml() {
    let values = read(&format!("{CHART}/values.yaml"));
    let parsed = yaml(&values);
    let mut table = String::from("| value | default | |\n|---|---|---|\n");
    for (path, text) in documented(&values) {
        let default = at(&parsed, &path).unwrap();
        writeln!(
            table,
            "| `{path}` | `{default}` | {} |",
            text.replace('|', "\\|")
        )
        .unwrap();
    }
    holds_between_marks(&format!("{CHART}/README.md"), "values", &table);
}

#[test]
fn every_value_is_documented_and_has_a_schema_and_the_other_way_round() {
    let text = read(&format!("{CHART}/values.yaml"));
    let parsed = yaml(&text);
    let told: BTreeSet<String> = documented(&text)
        .into_iter()
        .map(|(path, _)| path)
        .collect();
    let mut found = BTreeSet::new();
    leaves(&parsed, &told, "", &mut found);
    assert_eq!(
        found, told,
        "values without a comment that begins with `# --`"
    );

    let schema = schema();
    let mut in_schema = BTreeSet::new();
    schema_leaves(&schema, &schema, &told, "", &mut in_schema);
    assert_eq!(in_schema, told, "values.schema.json and values.yaml differ");
}

/// An object that says nothing about other properties takes a misspelt value without a word.
#[test]
fn the_schema_refuses_unknown_values_at_every_level() {
    let schema = schema();
    let mut open = Vec::new();
    walk(&schema, "", &mut |path, node| {
        let object = node.get("type").is_some_and(|kind| kind == "object");
        if object && !node.contains_key("additionalProperties") {
            open.push(path.to_owned());
        }
    });
    // Helm puts `global` into the values of every chart that is part of another one.
    assert_eq!(open, ["/properties/global"]);
}

#[test]
fn the_table_of_rights_is_that_of_the_chart() {
    let rules = read(&format!("{CHART}/templates/operator/_rules.tpl"));
    let mut table = String::from("| API group | resource | may | why |\n|---|---|---|---|\n");
    for block in ["portcullis.rules", "portcullis.gatewayRules"] {
        for rule in rules_of(&rules, block) {
            let group = if rule.groups.is_empty() {
                "core"
            } else {
                &rule.groups
            };
            writeln!(
                table,
                "| {group} | {} | {} | {} |",
                rule.resources, rule.verbs, rule.why
            )
            .unwrap();
        }
    }
    holds_between_marks("docs/rbac.md", "rights", &table);
}

/// Least privilege, as a list that a change of the chart has to change too.
#[test]
fn the_operator_never_reads_secrets_nor_escalates() {
    let rules = read(&format!("{CHART}/templates/operator/_rules.tpl"));
    let mut secrets = Vec::new();
    for block in [
        "portcullis.rules",
        "portcullis.gatewayRules",
        "portcullis.guardrailRules",
    ] {
        for rule in rules_of(&rules, block) {
            for text in [&rule.groups, &rule.resources, &rule.verbs] {
                assert!(!text.contains('*'), "{text}: name what is needed");
            }
            for verb in rule.verbs.split(", ") {
                assert!(
                    [
                        "get", "list", "watch", "create", "update", "patch", "delete"
                    ]
                    .contains(&verb),
                    "the verb {verb} is more than the operator needs"
                );
            }
            if rule.resources.contains("secrets") {
                secrets.push((rule.resources.clone(), rule.verbs.clone()));
            }
        }
    }
    assert_eq!(secrets, [("secrets".to_owned(), "create".to_owned())]);
}

/// A field that is added to McpServer and names a Secret must be guarded by the admission policy
/// too. `tests/cluster/chart` tries each of the list.
#[test]
fn the_list_of_fields_that_name_secrets_is_complete() {
    let crd = yaml(&read("crds/mcpservers.yaml"));
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut found = BTreeSet::new();
    find_secret_fields(spec, "", &mut found);
    let tried: BTreeSet<_> = secret_fields::cases()
        .into_iter()
        .map(|(field, _)| field.to_owned())
        .collect();
    assert_eq!(found, tried);
}

#[test]
fn the_alerts_and_the_dashboard_ask_for_metrics_that_exist() {
    let registry = gateway_metrics();
    let operator = families(&operator_metrics());
    assert!(operator.len() > 8, "{operator:?}");
    let known: BTreeSet<String> = families(&registry).union(&operator).cloned().collect();
    let mut used = BTreeSet::new();
    for file in [
        "files/dashboard.json",
        "templates/monitoring/prometheusrule.yaml",
    ] {
        let text = read(&format!("{CHART}/{file}"));
        for (start, _) in text.match_indices("portcullis_") {
            let name: String = text[start..]
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                .collect();
            used.insert(name.trim_end_matches("_bucket").to_owned());
        }
    }
    let unknown: Vec<_> = used.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?} are not among {known:?}");
    let unused: Vec<_> = operator.difference(&used).collect();
    assert!(unused.is_empty(), "{unused:?} are asked for nowhere");
}

#[test]
fn every_alert_links_to_its_section_of_the_runbooks_and_every_section_has_an_alert() {
    let rule = read(&format!("{CHART}/templates/monitoring/prometheusrule.yaml"));
    let alerts: Vec<&str> = rule
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(alerts.len() >= 10, "{alerts:?}");
    let links: Vec<String> = alerts
        .iter()
        .map(|alert| {
            format!(
                "runbook_url: {{{{ printf \"%s#%s\" $.Values.prometheusRule.runbookUrl \"{}\" | quote }}}}",
                alert.to_lowercase()
            )
        })
        .collect();
    let written: Vec<&str> = rule
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("runbook_url:"))
        .collect();
    assert_eq!(written, links);
    let runbooks = read("docs/runbooks.md");
    let sections: Vec<&str> = runbooks
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    assert_eq!(sections, alerts);
}

#[test]
fn the_dashboard_has_no_panel_twice_and_none_without_a_query() {
    let dashboard: Value =
        serde_json::from_str(&read(&format!("{CHART}/files/dashboard.json"))).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels
        .iter()
        .map(|panel| panel["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels {
        if panel["type"] != "row" {
            assert!(
                panel["targets"]
                    .as_array()
                    .is_some_and(|targets| !targets.is_empty()),
                "{} asks for nothing",
                panel["title"]
            );
        }
    }
}

/// Compares what is between two marks of a page with what should be there, or rewrites it.
fn holds_between_marks(path: &str, name: &str, expected: &str) {
    let page = read(path);
    let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->\n"));
    let (before, rest) = page
        .split_once(&start)
        .unwrap_or_else(|| panic!("{path} has no {start}"));
    let (_, after) = rest
        .split_once(&end)
        .unwrap_or_else(|| panic!("{path} has no {end}"));
    file_holds(path, &format!("{before}{start}{expected}{end}{after}"));
}
