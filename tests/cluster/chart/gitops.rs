//! What people keep in Git, applied to a real API server: it reads back as it was written, so that
//! `kubectl diff`, Argo CD and Flux show no difference after an apply.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::Cluster;
use crate::support::control_plane::Options;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The tools know the defaults of these kinds themselves, and the API server must fill in what a
/// chart cannot know, such as the address of a Service.
const BUILT_IN: [&str; 2] = ["Deployment", "Service"];

fn files() -> Vec<PathBuf> {
    let mut files = vec![Path::new(ROOT).join("deploy/portcullis.yaml")];
    let mut examples: Vec<_> = std::fs::read_dir(Path::new(ROOT).join("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .flat_map(|folder| ["server.yaml", "policy.yaml"].map(|file| folder.join(file)))
        .filter(|file| file.exists())
        .collect();
    examples.sort();
    assert!(examples.len() >= 10, "{examples:?}");
    files.extend(examples);
    files
}

fn documents(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    let documents = text.split("\n---\n").filter(|text| !text.trim().is_empty());
    documents
        .map(|text| serde_saphyr::from_str(text).unwrap())
        .filter(|document: &Value| !document.is_null())
        .collect()
}

/// Where what was read back differs. Outside of lists a field more is no difference to the tools,
/// which compare what they manage; lists are compared whole.
fn differences(at: &str, written: &Value, read: &Value, in_list: bool, found: &mut Vec<String>) {
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => {
            for (key, value) in written {
                let nothing = Value::Null;
                let other = read.get(key).unwrap_or(&nothing);
                differences(&format!("{at}.{key}"), value, other, in_list, found);
            }
            if in_list {
                let added = read.keys().filter(|key| !written.contains_key(*key));
                found.extend(added.map(|key| format!("{at}.{key} was added")));
            }
        }
        (Value::Array(written), Value::Array(read)) if written.len() == read.len() => {
            for (index, (written, read)) in written.iter().zip(read).enumerate() {
                differences(&format!("{at}[{index}]"), written, read, true, found);
            }
        }
        _ if written == read => {}
        _ => found.push(format!("{at}: {written} was read back as {read}")),
    }
}

/// In a control plane of its own: the definitions are applied from Git, too.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_applied_is_read_back_without_a_difference() {
    let Some(cluster) = Cluster::start("applying what Git holds", &Options::default()) else {
        return;
    };
    for namespace in ["portcullis-system", "ml"] {
        cluster.kubectl(["create", "namespace", namespace]).ok();
    }
    let apply = |file: &Path| {
        let file = file.to_str().unwrap();
        let argument = [
            "apply",
            "--server-side",
            "--field-manager=gitops",
            "-f",
            file,
        ];
        cluster.kubectl(argument)
    };
    let mut compared = 0;
    for file in files() {
        let name = file.strip_prefix(ROOT).unwrap().display().to_string();
        apply(&file).ok();
        let definitions = ["wait", "--for=condition=Established", "crd", "--all"];
        cluster.kubectl(definitions).ok();
        for document in documents(&file) {
            let kind = document["kind"].as_str().unwrap();
            let object = document["metadata"]["name"].as_str().unwrap();
            let namespace = document["metadata"]["namespace"].as_str();
            let (group, _) = document["apiVersion"]
                .as_str()
                .unwrap()
                .split_once('/')
                .unwrap_or(("", ""));
            let resource = format!("{kind}.{group}");
            let resource = resource.trim_end_matches('.');
            let read = cluster.kubectl([
                "get",
                resource,
                object,
                "--namespace",
                namespace.unwrap_or("default"),
                "--output",
                "json",
            ]);
            let read: Value = serde_json::from_str(&read.ok()).unwrap();
            if BUILT_IN.contains(&kind) {
                continue;
            }
            let mut found = Vec::new();
            differences("", &document, &read, false, &mut found);
            assert_eq!(found, Vec::<String>::new(), "{name}: {kind} {object}");
            compared += 1;
        }
        // kubectl itself, for all kinds. It prints the differences and exits with 1 if there are.
        let file = file.to_str().unwrap();
        let diff = [
            "diff",
            "--server-side",
            "--field-manager=gitops",
            "-f",
            file,
        ];
        assert_eq!(cluster.kubectl(diff).ok(), "", "{name}");
        let again = apply(Path::new(file)).ok();
        assert!(!again.contains("created"), "{again}");
    }
    assert!(compared >= 20, "{compared}");
}
