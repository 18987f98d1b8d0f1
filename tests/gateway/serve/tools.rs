//! `portcullis tools`: the tools of a server, saved with their pins, and what the catalogue knows
//! of the real ones.

use super::*;
use crate::support::installed;
use portcullis::catalog::{self, Server as Known};

/// Runs a command to its end; code, standard output, standard error.
fn run(arguments: &[&str], folder: &Path) -> (i32, String, String) {
    let output = portcullis()
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap_or(-1),
        text(output.stdout),
        text(output.stderr),
    )
}

fn folder_of(server: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("files")).unwrap();
    std::fs::write(folder.path().join("files/server.yaml"), server).unwrap();
    std::fs::write(folder.path().join("files/policy.yaml"), policy_yaml(ALLOW)).unwrap();
    folder
}

#[test]
fn tools_are_saved_with_their_pins_and_files_are_checked_with_both() {
    let folder = folder_of(&server_yaml());
    // Beside the manifests, where it must not be taken for one.
    let (code, pins, said) = run(
        &[
            "tools",
            "-f",
            "files",
            "--save",
            "files/tools.json",
            "-o",
            "yaml",
        ],
        folder.path(),
    );
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("saved ") && said.contains("next: "), "{said}");
    let saved: Value = serde_json::from_str(
        &std::fs::read_to_string(folder.path().join("files/tools.json")).unwrap(),
    )
    .unwrap();
    let names: Vec<&str> = saved["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| tool["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"echo"), "{names:?}");
    assert!(
        pins.starts_with("tools:\n") && pins.contains("definitionDigest: sha256:"),
        "{pins}"
    );

    let (code, _, said) = run(
        &[
            "explain",
            "-f",
            "files",
            "--tool",
            "echo",
            "--listing",
            "files/tools.json",
        ],
        folder.path(),
    );
    assert!(code == 0 && !said.contains("not checked"), "{said}");
    let (code, _, said) = run(&["explain", "-f", "files", "--tool", "echo"], folder.path());
    assert!(
        code == 0 && said.contains("argument types were not checked"),
        "{said}"
    );

    // The pins go into the McpServer as they are.
    let indented: String = pins.lines().map(|line| format!("  {line}\n")).collect();
    let server = format!("{}{indented}", server_yaml());
    std::fs::write(folder.path().join("files/server.yaml"), &server).unwrap();
    let strict = [
        "validate",
        "--strict",
        "--listing",
        "files/tools.json",
        "files",
    ];
    let (code, found, said) = run(&strict, folder.path());
    assert_eq!(code, 0, "{found}{said}");
    let first = server.find("sha256:").unwrap() + "sha256:".len();
    let mut changed = server.clone();
    changed.replace_range(
        first..first + 4,
        if &server[first..first + 4] == "0000" {
            "1111"
        } else {
            "0000"
        },
    );
    std::fs::write(folder.path().join("files/server.yaml"), changed).unwrap();
    let (code, found, _) = run(&strict, folder.path());
    assert_eq!(code, 1, "{found}");
    assert!(
        found.contains("files/server.yaml:") && found.contains("has another definition"),
        "{found}"
    );
}

#[test]
fn a_comparison_with_another_type_is_found_in_the_listing() {
    let folder = folder_of(&server_yaml().replace("spec:\n", "spec:\n  catalog: None\n"));
    let rules = "    - { name: odd, tools: { names: [echo] }, when: args.text > 5, action: Deny }\n    - { name: echo, tools: { names: [echo] }, action: Allow }\n";
    std::fs::write(folder.path().join("files/policy.yaml"), policy_yaml(rules)).unwrap();
    let (code, _, said) = run(
        &["tools", "-f", "files", "--save", "tools.json"],
        folder.path(),
    );
    assert_eq!(code, 0, "{said}");
    let listing = json!({"tools": [{"name": "echo", "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}}}]});
    std::fs::write(folder.path().join("tools.json"), listing.to_string()).unwrap();
    let (code, found, _) = run(&["validate", "--strict", "files"], folder.path());
    assert_eq!(code, 0, "{found}");
    let (code, found, _) = run(
        &["validate", "--strict", "--listing", "tools.json", "files"],
        folder.path(),
    );
    assert_eq!(code, 1, "{found}");
    assert!(
        found.contains("policy.yaml:") && found.contains("the argument text of echo is text"),
        "{found}"
    );
}

#[test]
fn the_tools_of_a_url_are_those_that_this_caller_sees() {
    let serve = Serve::start(ALLOW);
    let url = format!("http://{}/scripted/mcp", serve.address);
    let folder = tempfile::tempdir().unwrap();
    let (code, listed, said) = run(&["tools", "--url", &url], folder.path());
    assert_eq!(code, 0, "{said}");
    assert!(
        listed.starts_with("TOOL") && listed.contains("echo"),
        "{listed}"
    );
    assert_eq!(listed.lines().count(), 2, "{listed}");
    let (code, _, said) = run(&["tools", "--url", "127.0.0.1:8080"], folder.path());
    assert!(
        code == 2 && said.contains("--url: ") && said.contains("http"),
        "{said}"
    );
    let nobody = format!("http://127.0.0.1:{}/mcp", free_port());
    let (code, _, said) = run(&["tools", "--url", &nobody], folder.path());
    assert!(
        code == 2 && said.contains("nothing listens there"),
        "{said}"
    );
}

#[test]
fn a_stdio_server_that_dies_at_its_start_is_told_with_its_status_and_its_last_line() {
    for sessions in ["Shared", "PerSession"] {
        let server = format!(
            "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {{ name: scripted, namespace: ml }}\nspec:\n  upstream:\n    \
             stdio:\n      image: x\n      sessions: {sessions}\n      command: [sh, -c, \"echo first >&2; echo 'No module named mlflow' >&2; exit \
             3\"]\n  authentication: {{ anonymous: Allow }}\n"
        );
        let folder = folder_of(&server);
        let address = format!("127.0.0.1:{}", free_port());
        let serve = [
            "serve",
            "-f",
            "files",
            "--listen",
            &address,
            "--state",
            "state",
            "--socket",
            "run/serve.sock",
        ];
        for command in [&serve[..], &["tools", "-f", "files"]] {
            let (code, _, said) = run(command, folder.path());
            assert_eq!(code, 2, "{sessions}: {said}");
            let last: Vec<&str> = said
                .lines()
                .filter(|line| line.starts_with("error: "))
                .collect();
            let [failure] = last[..] else {
                panic!("{sessions}: {said}");
            };
            assert!(
                failure.contains("its last line was: No module named mlflow"),
                "{sessions}: {failure}"
            );
            assert!(
                failure.contains("it exited with status 3 before it answered `initialize`"),
                "{sessions}: {failure}"
            );
        }
    }
}

/// Everything that a real server lists is catalogued, in the form in which it lists it.
fn the_catalogue_has_all_of(known: Known, variable: &str, arguments: &[&str]) {
    let Some(program) = installed(variable, "every tool of a real server is catalogued") else {
        return;
    };
    let command: Vec<String> = std::iter::once(program.to_str().unwrap().to_owned())
        .chain(arguments.iter().map(|&argument| argument.to_owned()))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let store = format!("sqlite:///{}", folder.path().join("mlflow.db").display());
    let server = json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer", "metadata": {"name": "scripted", "namespace": "ml"},
        "spec": {"upstream": {"stdio": {"image": "x", "command": command, "env": [
            {"name": "MLFLOW_MCP_TOOLS", "value": "all"}, {"name": "MLFLOW_TRACKING_URI", "value": store}]}}}
    });
    std::fs::write(folder.path().join("server.json"), server.to_string()).unwrap();
    let (code, _, said) = run(
        &["tools", "-f", "server.json", "--save", "tools.json"],
        folder.path(),
    );
    assert_eq!(code, 0, "{said}");
    let saved: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.path().join("tools.json")).unwrap())
            .unwrap();
    let mut lacking = Vec::new();
    for tool in saved["tools"].as_array().unwrap() {
        let name = tool["name"].as_str().unwrap();
        let properties = tool["inputSchema"]["properties"].as_object();
        let properties: Vec<&str> = properties
            .into_iter()
            .flatten()
            .map(|(name, _)| name.as_str())
            .collect();
        match catalog::find(name, properties.iter().copied()) {
            catalog::Known::Yes(_) => {}
            catalog::Known::Drifted(_) => {
                lacking.push(format!("{name} with the inputs {}", properties.join(", ")))
            }
            catalog::Known::No => lacking.push(name.to_owned()),
        }
    }
    let listed = saved["tools"].as_array().unwrap().len();
    let of_server = catalog::all()
        .iter()
        .filter(|entry| entry.server == known)
        .count();
    assert!(listed >= 20, "{listed}");
    assert!(
        lacking.is_empty(),
        "the catalogue ({of_server} tools of `{known}`) lacks, of the {listed} that {variable} lists: {}; add them to src/catalog/data.rs",
        lacking.join("; ")
    );
}

#[test]
fn every_tool_of_mlflow_mcp_is_catalogued() {
    the_catalogue_has_all_of(Known::MlflowMcp, "PORTCULLIS_TEST_MLFLOW_MCP", &[]);
}

#[test]
fn every_tool_of_mlflow_mcp_run_is_catalogued() {
    the_catalogue_has_all_of(
        Known::MlflowCli,
        "PORTCULLIS_TEST_MLFLOW_OFFICIAL",
        &["mcp", "run"],
    );
}

#[test]
fn every_tool_of_the_newest_mlflow_mcp_is_catalogued() {
    the_catalogue_has_all_of(Known::MlflowMcp, "PORTCULLIS_TEST_NEWEST_MLFLOW_MCP", &[]);
}

#[test]
fn every_tool_of_the_newest_mlflow_mcp_run_is_catalogued() {
    the_catalogue_has_all_of(
        Known::MlflowCli,
        "PORTCULLIS_TEST_NEWEST_MLFLOW_OFFICIAL",
        &["mcp", "run"],
    );
}
