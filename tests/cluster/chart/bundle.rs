//! The one file for `kubectl apply`: rendered from the chart, and nothing of Helm's left in it.

use std::process::Command;

use super::helm::{Helm, Objects};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/portcullis.yaml");

#[test]
fn the_bundle_is_what_the_chart_renders() {
    let Some(helm) = Helm::get("rendering deploy/portcullis.yaml") else {
        return;
    };
    let output = Command::new("bash")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/render.sh"))
        .env("HELM", helm.program())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let rendered = String::from_utf8(output.stdout).unwrap();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(FILE, &rendered).unwrap();
    }
    let found = std::fs::read_to_string(FILE).unwrap_or_default();
    assert!(
        found == rendered,
        "deploy/portcullis.yaml is out of date: `make bundle`, and commit it"
    );
}

#[test]
fn the_bundle_has_everything_but_the_test_and_says_nothing_of_helm() {
    let text = std::fs::read_to_string(FILE).unwrap();
    assert!(
        !text.to_lowercase().contains("helm.sh"),
        "an annotation or a label of Helm's is left"
    );
    let objects = Objects::read(&text);
    let mut pods = objects.names();
    pods.retain(|name| name.starts_with("Pod ") || name.starts_with("Namespace "));
    assert_eq!(pods, ["Namespace portcullis-system"]);
    for (name, object) in &objects.0 {
        let managed_by = &object["metadata"]["labels"]["app.kubernetes.io/managed-by"];
        assert!(
            managed_by.is_null(),
            "{name} says that {managed_by} manages it"
        );
    }
}
