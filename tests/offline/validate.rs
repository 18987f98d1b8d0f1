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

/// What people copy from the page works as it is.
#[test]
fn the_policies_of_the_page_on_approvals_are_valid() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    let page = std::fs::read_to_string(format!("{root}docs/approvals.md")).unwrap();
    let blocks = page.split("```yaml\n").skip(1);
    let manifests: Vec<&str> = blocks
        .filter_map(|block| block.split("```").next())
        .filter(|block| block.contains("kind: "))
        .collect();
    assert!(!manifests.is_empty());
    // The page has the server as well.
    let servers = manifests
        .iter()
        .filter(|one| one.contains("\nkind: McpServer\n"));
    assert_eq!(servers.count(), 1);
    let folder = tempfile::tempdir().unwrap();
    for (number, manifest) in manifests.iter().enumerate() {
        let file = folder.path().join(format!("{number}.yaml"));
        std::fs::write(file, manifest).unwrap();
    }
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["validate"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let approvers = manifests[0].replace("approvers: 2", "approvers: 4");
    std::fs::write(folder.path().join("0.yaml"), approvers).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["validate"])
        .arg(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("approvers"), "{said}");
}

#[test]
fn the_resources_of_the_page_on_limits_are_valid() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    let page = std::fs::read_to_string(format!("{root}docs/limits.md")).unwrap();
    let blocks = page.split("```yaml\n").skip(1);
    let manifests: Vec<&str> = blocks
        .filter_map(|block| block.split("```").next())
        .collect();
    let (policies, servers): (Vec<&str>, Vec<&str>) = manifests
        .iter()
        .partition(|manifest| manifest.contains("kind: McpPolicy"));
    assert_eq!((policies.len(), servers.len()), (1, 2));
    for server in servers {
        let folder = tempfile::tempdir().unwrap();
        let validate = |policy: &str| {
            std::fs::write(
                folder.path().join("all.yaml"),
                format!("{server}---\n{policy}"),
            )
            .unwrap();
            let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
                .args(["validate", "--strict"])
                .arg(folder.path())
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            (output.status.success(), said)
        };
        let (valid, said) = validate(policies[0]);
        assert!(valid, "{said}");
        // Both keep a limit over a month.
        let (valid, said) = validate(&policies[0].replace("window: 1h", "window: 31d"));
        assert!(valid, "{said}");
        let (valid, said) = validate(&policies[0].replace("scope: Call", "scope: Cal"));
        assert!(!valid && said.contains("scope"), "{said}");
    }
}

#[test]
fn every_server_of_the_page_on_callers_is_valid() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/callers.md");
    let page = std::fs::read_to_string(page).unwrap();
    let blocks = page.split("```yaml\n").skip(1);
    let manifests: Vec<&str> = blocks
        .filter_map(|block| block.split("```").next())
        .filter(|block| block.contains("kind: "))
        .collect();
    assert!(manifests.len() >= 4, "{manifests:?}");
    let validate = |manifest: &str| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("server.yaml"), manifest).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["validate"])
            .arg(folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), said)
    };
    for manifest in &manifests {
        let (valid, said) = validate(manifest);
        assert!(valid, "{said}\n{manifest}");
    }
    let by_caller = |of: &str| {
        let with = |manifest: &&&str| manifest.contains("credentials:") && manifest.contains(of);
        manifests.iter().find(with).unwrap().to_string()
    };
    let (http, stdio) = (by_caller("http:"), by_caller("stdio:"));
    for (manifest, says) in [
        (
            stdio.replace("PerSession", "Shared"),
            "write sessions: PerSession",
        ),
        (
            stdio.replace(
                "name: MLFLOW_TRACKING_URI, value: \"http://mlflow.ml.svc:5000\"",
                "name: TOKEN, valueFrom: { secretKeyRef: { name: all, key: token } }",
            ),
            "TOKEN comes from a Secret",
        ),
        (http.replace("credentials:", "credentails:"), "credentails"),
        (http.replace("jwt:corp/*", "corp/*"), "no caller is named"),
        (
            http.replace("callers: [\"jwt:corp/*\"]", "callers: []"),
            "callers",
        ),
        (
            http.replace("callers: [\"jwt:corp/*\"]", "callers:"),
            "callers",
        ),
    ] {
        let (valid, said) = validate(&manifest);
        assert!(!valid && said.contains(says), "{says}: {said}");
    }
}

/// The revision that a line of the audit log names leads to the files, whatever happened to them in
/// between.
#[test]
fn the_revision_of_files_is_that_of_their_content() {
    let folder = tempfile::tempdir().unwrap();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/quickstart/");
    for file in ["server.yaml", "policy.yaml"] {
        std::fs::copy(format!("{root}{file}"), folder.path().join(file)).unwrap();
    }
    let revision = || -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["validate", "-o", "json"])
            .arg(folder.path())
            .output()
            .unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            report["revisions"].as_array().map(Vec::len),
            Some(1),
            "{report}"
        );
        report["revisions"][0]["revision"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let before = revision();
    assert_eq!(before.len(), 64);
    let file = folder.path().join("policy.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("max: 30", "max: 31")).unwrap();
    assert_ne!(revision(), before);
    // A comment says nothing to a gateway.
    std::fs::write(&file, format!("# Taken back.\n{text}")).unwrap();
    assert_eq!(revision(), before);
}
