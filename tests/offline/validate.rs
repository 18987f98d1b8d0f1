//! `portcullis validate` on rules that are valid and do nothing.

use std::process::Command;

#[test]
fn a_rule_that_selects_nothing_is_warned_of_and_is_an_error_with_strict() {
    let folder = tempfile::tempdir().unwrap();
    let server = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/examples/quickstart/server.yaml"
    );
    std::fs::copy(server, folder.path().join("server.yaml")).unwrap();
    let policy = "apiVersion: portcullis.dev/v1alpha1\nkind: McpPolicy\nmetadata: { name: p, namespace: ml }\nspec:\n  targetRefs: [{ group: \
                  portcullis.dev, kind: McpServer, name: mlflow }]\n  rules:\n    - { name: all, tools: { names: ['*'] }, action: Allow }\n    \
                  - { name: hidden, tools: { names: ['delete_.*', delete_runs] }, action: Hide }\n";
    std::fs::write(folder.path().join("policy.yaml"), policy).unwrap();
    let validate = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .arg("validate")
            .args(arguments)
            .arg(folder.path())
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let (code, said) = validate(&[]);
    assert_eq!(code, Some(0), "{said}");
    for part in [
        "write for example \"delete_*\"",
        "did you mean \"delete_run\"?",
        "selects none of the",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(validate(&["--strict"]).0, Some(1));
}
