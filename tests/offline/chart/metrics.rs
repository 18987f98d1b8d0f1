//! The metrics of gateway and operator, as their programs give them, and the page about them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use regex::Regex;

use super::read;
use crate::generated::file_holds;
use portcullis::gateway::observe::Outcome;
use portcullis::gateway::observe::metrics::{
    BundleLabels, DecisionLabels, LimitLabels, Metrics, ServerLabels,
};
use prometheus_client::registry::Registry;

/// The operator's families, each with a member: it shows only then.
pub fn operator_metrics() -> Registry {
    use portcullis::controller::metrics::{Kind, KindLabels, Metrics, RequestLabels};
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let kind = KindLabels {
        kind: Kind::McpServer,
    };
    metrics.reconciles.get_or_create(&kind).inc();
    metrics.errors.get_or_create(&kind).inc();
    metrics.duration.get_or_create(&kind).observe(0.0);
    metrics.depth.get_or_create(&kind).set(0);
    let request = RequestLabels {
        verb: "get",
        resource: "leases".to_owned(),
    };
    metrics.requests.get_or_create(&request).inc();
    registry
}

/// The names of the families, as samples have them.
pub fn families(registry: &Registry) -> BTreeSet<String> {
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, registry).unwrap();
    page.lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| match kind {
            "counter" => format!("{name}_total"),
            _ => name.to_owned(),
        })
        .collect()
}

/// The gateway's, likewise.
pub fn gateway_metrics() -> Registry {
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    // A family shows only once it has a member.
    let server = ServerLabels {
        server: String::new(),
    };
    let (policy, rule, counter, revision) = Default::default();
    metrics.request_duration.get_or_create(&server).observe(0.0);
    metrics
        .upstream_duration
        .get_or_create(&server)
        .observe(0.0);
    metrics.evaluation.get_or_create(&server).observe(0.0);
    metrics.bundle_errors.get_or_create(&server).inc();
    metrics.active_streams.get_or_create(&server).inc();
    metrics.approvals_pending.get_or_create(&server).inc();
    metrics.approvals_oldest.get_or_create(&server).set(1.0);
    metrics
        .approval_decisions
        .get_or_create(&server)
        .observe(1.0);
    metrics
        .decisions
        .get_or_create(&DecisionLabels {
            server: String::new(),
            outcome: Outcome::Denied,
            policy,
            rule,
        })
        .inc();
    metrics
        .limit_used
        .get_or_create(&LimitLabels {
            server: String::new(),
            policy: String::new(),
            counter,
        })
        .set(1.0);
    metrics
        .bundle_info
        .get_or_create(&BundleLabels {
            server: String::new(),
            revision,
        })
        .set(1);
    registry
}

/// A row for each family: name, type, labels and what it means.
fn table(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    let mut help: BTreeMap<&str, &str> = BTreeMap::new();
    let mut page = String::from("| metric | type | labels | |\n|---|---|---|---|\n");
    let label = Regex::new(r#"(\w+)=""#).unwrap();
    for line in text.lines() {
        if let Some((name, words)) = line
            .strip_prefix("# HELP ")
            .and_then(|rest| rest.split_once(' '))
        {
            help.insert(name, words.trim_end_matches('.'));
        }
        let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        else {
            continue;
        };
        let sampled = |line: &&str| {
            line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name}_"))
        };
        let sample = text.lines().find(sampled).unwrap_or_default();
        let labels: Vec<String> = label
            .captures_iter(sample)
            .map(|found| format!("`{}`", &found[1]))
            .filter(|label| label != "`le`")
            .collect();
        let total = if kind == "counter" { "_total" } else { "" };
        writeln!(
            page,
            "| `{name}{total}` | {kind} | {} | {} |",
            labels.join(", "),
            help[name]
        )
        .unwrap();
    }
    page
}

/// A row for each alert of the chart.
fn alerts() -> String {
    let rule = read("charts/portcullis/templates/monitoring/prometheusrule.yaml");
    let label = Regex::new(r"\{\{ \$labels\.(\w+) \}\}").unwrap();
    let mut page = String::from("| alert | after | severity | says |\n|---|---|---|---|\n");
    for part in rule.split("- alert: ").skip(1) {
        let name = part.lines().next().unwrap().trim();
        let field = |key: &str| {
            let line = part.lines().find_map(|line| line.trim().strip_prefix(key));
            line.unwrap_or("at once")
                .trim()
                .trim_start_matches("{{ `")
                .trim_end_matches("` | quote }}")
                .to_owned()
        };
        let summary = field("summary:");
        let summary =
            label.replace_all(&summary, |found: &regex::Captures| found[1].to_uppercase());
        let link = format!("[{name}](runbooks.md#{})", name.to_lowercase());
        writeln!(
            page,
            "| {link} | {} | {} | {summary} |",
            field("for:"),
            field("severity:")
        )
        .unwrap();
    }
    page
}

#[test]
fn the_page_about_metrics_is_that_of_the_programs_and_the_chart() {
    let page = format!(
        "# Metrics, alerts, dashboard\n\nWhich metrics there are, which alerts and which dashboard the chart has, and how to get them.\n\n\
         Generated from the programs and the chart. Gateways: port 9090 in a cluster, `--admin-listen` with `serve`. Operator: port \
         8081. Durations are in seconds.\n\n\
         ## Gateway\n\n{}\n## Operator\n\n{}\n## Alerts\n\n`prometheusRule.enabled` of the chart makes them; they need \
         `serviceMonitor.enabled` and `podMonitor.enabled`. Each links to its section of the runbooks.\n\n{}\n\
         ## Dashboard\n\n`dashboard.enabled` of the chart makes a ConfigMap that Grafana's sidecar picks up. Without a cluster, import \
         [dashboard.json](../charts/portcullis/files/dashboard.json) in Grafana.\n",
        table(&gateway_metrics()),
        table(&operator_metrics()),
        alerts()
    );
    file_holds("docs/metrics.md", &page);
}
