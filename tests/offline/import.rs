//! What `import` prints is what `validate` and an API server accept.

use std::process::Command;

const POLICYLAYER: &str = r#"{"version":"1","default":"deny","hide":["delete_*"],
  "tools":{"get_run_metric":{},"Set_Run_Tag":{"limits":[{"counter":"a_b","window":"minute","max":3,"scope":"grant"}]},
           "set_run_tag":{"limits":[{"counter":"a-b","window":"hour","max":30,"scope":"grant"}]}}}"#;

const INTERCEPT: &str = "
version: '1'
default: deny
tools:
  set_run_tag:
    rules:
      - { name: burst of tags, rate_limit: 5/minute }
      - { name: 'only owner!', conditions: [{ path: args.key, op: eq, value: owner }], on_deny: only owner }
  delete_run:
    rules: [{ name: no, action: deny, on_deny: never }]
";

#[test]
fn imported_policies_are_valid_and_no_two_counters_become_one() {
    for (name, text, counters) in [
        ("policy.json", POLICYLAYER, vec!["a-b", "a-b-2"]),
        ("policy.yaml", INTERCEPT, vec!["set-run-tag-1m"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join(name);
        std::fs::write(&source, text).unwrap();
        let program = env!("CARGO_BIN_EXE_portcullis");
        let imported = Command::new(program)
            .arg("import")
            .arg(&source)
            .output()
            .unwrap();
        assert!(
            imported.status.success(),
            "{}",
            String::from_utf8_lossy(&imported.stderr)
        );
        let yaml = String::from_utf8(imported.stdout).unwrap();
        let target = folder.path().join("imported.yaml");
        std::fs::write(&target, &yaml).unwrap();
        let checked = Command::new(program)
            .args(["validate", "-o", "json"])
            .arg(&target)
            .output()
            .unwrap();
        assert!(
            checked.status.success(),
            "{}\n{yaml}",
            String::from_utf8_lossy(&checked.stdout)
        );
        let mut found: Vec<&str> = yaml
            .lines()
            .filter_map(|line| {
                line.trim_start_matches(['-', ' '])
                    .strip_prefix("counter: ")
            })
            .collect();
        found.sort_unstable();
        assert_eq!(found, counters, "{yaml}");
    }
}

#[test]
fn an_imported_policy_reaches_the_server_that_was_named_with_its_namespace() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("policy.txt");
    std::fs::write(&source, POLICYLAYER).unwrap();
    let import = |server: &str| {
        Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["import", "--server", server])
            .arg(&source)
            .output()
            .unwrap()
    };
    let imported = import("ml/mlflow");
    assert!(imported.status.success());
    std::fs::write(folder.path().join("imported.yaml"), &imported.stdout).unwrap();
    let quickstart = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/examples/quickstart/server.yaml"
    );
    // The document is for tools that no catalogue knows.
    let server = std::fs::read_to_string(quickstart).unwrap();
    let server = server.replacen("spec:\n", "spec:\n  catalog: None\n", 1);
    std::fs::write(folder.path().join("server.yaml"), server).unwrap();
    let checked = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["validate", "--strict"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert_eq!(
        (
            checked.status.code(),
            String::from_utf8_lossy(&checked.stderr).as_ref()
        ),
        (Some(0), "")
    );
    let said = |server: &str| String::from_utf8(import(server).stderr).unwrap();
    assert!(said("mlflow").contains("--server NAMESPACE/mlflow"));
    assert!(!said("ml/mlflow").contains("--server"));
    for wrong in ["/mlflow", "ml/"] {
        assert!(said(wrong).contains("write NAME or NAMESPACE/NAME"));
    }
}
