//! The files that people apply: definitions and examples.

use std::path::Path;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, ResourceExt};

use crate::support::Cluster;
use crate::support::cluster::definition_files;
use crate::support::control_plane::{Options, Program};

const NAMES: [&str; 3] = [
    "mcpapprovals.portcullis.dev",
    "mcppolicies.portcullis.dev",
    "mcpservers.portcullis.dev",
];

/// In a control plane of its own, as the shared one has them already.
#[tokio::test]
async fn kubectl_apply_takes_the_definitions_and_they_become_established() {
    let Some(cluster) = Cluster::start("kubectl apply of crds/", &Options::default()) else {
        return;
    };
    let folder = definition_files()[0]
        .parent()
        .unwrap()
        .display()
        .to_string();
    let told = |what: &str| {
        NAMES
            .map(|name| format!("customresourcedefinition.apiextensions.k8s.io/{name} {what}\n"))
            .concat()
    };
    assert_eq!(
        cluster.kubectl(["apply", "-f", &folder]).ok(),
        told("created")
    );
    let established = cluster.kubectl([
        "wait",
        "--for=condition=Established",
        "-f",
        &folder,
        "--timeout=60s",
    ]);
    assert_eq!(established.ok(), told("condition met"));
    // Client-side apply keeps the whole object in an annotation; the second one reads it.
    assert_eq!(
        cluster.kubectl(["apply", "-f", &folder]).ok(),
        told("unchanged")
    );
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.admin_client());
    for definition in definitions.list(&Default::default()).await.unwrap() {
        let conditions = definition.status.clone().unwrap().conditions.unwrap();
        let mut held: Vec<_> = conditions
            .iter()
            .map(|c| (c.type_.as_str(), c.status.as_str()))
            .collect();
        held.sort_unstable();
        assert_eq!(
            held,
            [("Established", "True"), ("NamesAccepted", "True")],
            "{}",
            definition.name_any()
        );
    }
    let control_plane = cluster.control_plane().unwrap();
    control_plane.kill(Program::ApiServer);
    control_plane.start_again(Program::ApiServer);
    assert_eq!(
        cluster.kubectl(["apply", "-f", &folder]).ok(),
        told("unchanged")
    );
}

#[tokio::test]
async fn every_example_applies() {
    let Some(cluster) = Cluster::get("examples in a cluster") else {
        return;
    };
    let namespace = cluster.namespace("examples").await;
    let mut applied = Vec::new();
    for folder in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")).unwrap()
    {
        let folder = folder.unwrap();
        for file in ["server.yaml", "policy.yaml"] {
            let Ok(text) = std::fs::read_to_string(folder.path().join(file)) else {
                continue;
            };
            assert!(text.contains("namespace: ml\n"), "{file} of {folder:?}");
            let text = text.replace("namespace: ml\n", &format!("namespace: {namespace}\n"));
            // kubectl validates strictly: a field that is not there fails.
            cluster.kubectl_with(["apply", "-f", "-"], &text).ok();
            applied.push(format!("{}/{file}", folder.file_name().to_string_lossy()));
        }
    }
    applied.sort();
    let examples = [
        "audit-first",
        "official-mlflow",
        "promotion-approval",
        "quickstart",
        "read-only",
    ];
    let expected = examples
        .iter()
        .flat_map(|name| [format!("{name}/policy.yaml"), format!("{name}/server.yaml")]);
    assert_eq!(applied, expected.collect::<Vec<_>>());
}

/// Whatever the order, every object of every example is there afterwards as its file says.
#[tokio::test(flavor = "multi_thread")]
async fn all_examples_can_be_applied_together_in_any_order() {
    let Some(cluster) = Cluster::get("applying all examples") else {
        return;
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .flat_map(|folder| {
            ["server.yaml", "policy.yaml"].map(|file| folder.as_ref().unwrap().path().join(file))
        })
        .filter(|file| file.exists())
        .collect();
    files.sort();
    assert_eq!(files.len(), 10);
    let mut seen = None;
    for turn in [0, 3, 7] {
        let namespace = cluster.namespace("together").await;
        files.rotate_left(turn);
        if turn == 7 {
            files.reverse();
        }
        for file in &files {
            let text = std::fs::read_to_string(file).unwrap();
            let text = text.replace("namespace: ml\n", &format!("namespace: {namespace}\n"));
            let said = cluster.kubectl_with(["apply", "-f", "-"], &text).ok();
            assert!(
                said.lines().all(|line| line.ends_with(" created")),
                "{}: {said}",
                file.display()
            );
        }
        let kinds = "mcpservers.portcullis.dev,mcppolicies.portcullis.dev";
        let specs = "jsonpath={range .items[*]}{.kind}/{.metadata.name} {.spec}{\"\\n\"}{end}";
        let there = cluster
            .kubectl(["get", kinds, "-n", &namespace.to_string(), "-o", specs])
            .ok();
        assert_eq!(there.lines().count(), 11, "{there}");
        assert_eq!(*seen.get_or_insert_with(|| there.clone()), there);
    }
}
