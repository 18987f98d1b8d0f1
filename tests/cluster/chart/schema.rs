//! Values that the chart refuses before anything reaches a cluster.

use super::helm::Helm;

/// The values, and what the message must name.
const REFUSED: &[(&str, &str)] = &[
    ("replicas: 3", "replicas"),
    ("operator: { replica: 3 }", "replica"),
    ("operator: { replicas: -1 }", "/operator/replicas"),
    ("operator: { replicas: two }", "/operator/replicas"),
    ("operator: { replicas: null }", "replicas"),
    ("operator: { logFormat: xml }", "/operator/logFormat"),
    (
        "operator: { lease: { duration: 15 } }",
        "/operator/lease/duration",
    ),
    (
        "operator: { lease: { duration: 1s } }",
        "/operator/lease/duration",
    ),
    (
        "operator: { lease: { duration: 1m } }",
        "/operator/lease/duration",
    ),
    ("operator: { image: { name: x } }", "name"),
    (
        "operator: { image: { digest: latest } }",
        "/operator/image/digest",
    ),
    (
        "operator: { image: { pullPolicy: Sometimes } }",
        "/operator/image/pullPolicy",
    ),
    (
        "operator: { image: { repository: '' } }",
        "/operator/image/repository",
    ),
    ("operator: { resources: { limit: { cpu: 1 } } }", "limit"),
    (
        "operator: { securityContext: { readOnlyRootFileSystem: true } }",
        "readOnlyRootFileSystem",
    ),
    (
        "operator: { podSecurityContext: { runAsUser: 0 } }",
        "/operator/podSecurityContext/runAsUser",
    ),
    ("operator: { tolerations: [{ keys: a }] }", "keys"),
    (
        "operator: { affinity: { nodeAffinities: {} } }",
        "nodeAffinities",
    ),
    (
        "operator: { env: [{ name: A, value: b, valueFrom: { fieldRef: { fieldPath: metadata.name } } }] }",
        "/operator/env/0",
    ),
    ("operator: { podLabels: { 'a b': c } }", "'a b'"),
    ("gateway: { replicas: 2 }", "replicas"),
    (
        "imageRegistry: 'https://registry.example'",
        "/imageRegistry",
    ),
    ("imagePullSecrets: [name]", "/imagePullSecrets/0"),
    ("watchNamespaces: ml", "/watchNamespaces"),
    ("watchNamespaces: [ml, ml]", "/watchNamespaces"),
    ("watchNamespaces: ['*']", "/watchNamespaces/0"),
    ("approvals: { retention: forever }", "/approvals/retention"),
    (
        "approvals: { serviceAccounts: [bot] }",
        "/approvals/serviceAccounts/0",
    ),
    // A quote would end the CEL string that it stands in.
    (
        "approvals: { serviceAccounts: [\"ops/a', 'b\"] }",
        "/approvals/serviceAccounts/0",
    ),
    (
        "admissionPolicies: { otherOperators: ['system:serviceaccount:a:b'] }",
        "/admissionPolicies/otherOperators/0",
    ),
    ("admissionPolicies: { enable: false }", "enable"),
    ("crds: { keep: 'yes' }", "/crds/keep"),
    ("crds: { install: true }", "install"),
    ("metricsFrom: [{}]", "/metricsFrom/0"),
    (
        "metricsFrom: [{ namespaceSelector: { matchLabel: { a: b } } }]",
        "matchLabel",
    ),
    (
        "serviceMonitor: { enabled: true, intervall: 10s }",
        "intervall",
    ),
    ("podMonitor: { interval: fast }", "/podMonitor/interval"),
    (
        "prometheusRule: { violationsPerHour: 0 }",
        "/prometheusRule/violationsPerHour",
    ),
    ("dashboard: { enabled: 1 }", "/dashboard/enabled"),
    ("fullnameOverride: Portcullis", "/fullnameOverride"),
    ("operatorKey: { key: 'a/b' }", "/operatorKey/key"),
    ("serviceAccount: { name: other }", "name"),
];

#[test]
fn values_that_are_misspelt_or_of_the_wrong_kind_are_refused_by_name() {
    let Some(helm) = Helm::get("values that the chart must refuse") else {
        return;
    };
    let mut wrong = Vec::new();
    for (values, named) in REFUSED {
        let printed = helm.try_template(values);
        let told = &printed.err;
        if printed.code == Some(0) || !told.contains(named) || !told.contains("values don't meet") {
            wrong.push(format!("{values}: {}", printed.err));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
