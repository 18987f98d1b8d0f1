//! Every example loads, is valid without a warning, and its own policy test cases pass.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn examples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("server.yaml").exists())
        .collect();
    found.sort();
    found
}

fn portcullis(arguments: &[&str], path: &Path) -> (String, Output) {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(arguments)
        .arg(path)
        .output()
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (text, output)
}

#[test]
fn all_five_examples_are_there() {
    let names: Vec<String> = examples()
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(
        names,
        [
            "audit-first",
            "official-mlflow",
            "promotion-approval",
            "quickstart",
            "read-only"
        ]
    );
}

#[test]
fn every_example_is_valid_without_a_warning() {
    for example in examples() {
        let (text, output) = portcullis(&["validate", "--strict"], &example);
        assert!(output.status.success(), "{}: {text}", example.display());
    }
}

#[test]
fn the_test_cases_of_every_example_pass() {
    for example in examples() {
        let (text, output) = portcullis(&["test"], &example);
        assert!(output.status.success(), "{}: {text}", example.display());
        assert!(
            text.contains(" passed, 0 failed"),
            "{}: {text}",
            example.display()
        );
    }
}

#[test]
fn explain_gives_the_decision_that_the_test_cases_expect() {
    let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart");
    let promote = r#"{"name":"churn","alias":"champion","version":"7"}"#;
    let read = r#"get_model_version_by_alias {"alias":"champion","name":"churn"}"#;
    for (tool, arguments, decision, observes) in [
        ("get_run_metric", "{}", "Allow", None),
        ("delete_experiment", "{}", "Hide", None),
        ("set_model_alias", promote, "RequireApproval", Some(read)),
        // Without arguments there is nothing to look at.
        ("set_model_alias", "{}", "Deny", None),
        ("no_such_tool", "{}", "Hide", None),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args([
                "explain", "--tool", tool, "--args", arguments, "-o", "json", "-f",
            ])
            .arg(&quickstart)
            .output()
            .unwrap();
        assert!(output.status.success());
        let explained: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(explained["decision"], decision, "{tool}");
        assert_eq!(explained["observes"].as_str(), observes, "{tool}");
    }
}

/// Two objects of one name would take each other's place in a cluster, and are refused by `serve`.
#[test]
fn the_examples_are_valid_together() {
    let folders: Vec<String> = examples()
        .iter()
        .map(|path| path.to_str().unwrap().to_owned())
        .collect();
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["validate", "--strict"])
        .args(&folders)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{output:?}");
    assert!(text.contains("5           6            0"), "{text}");
}
