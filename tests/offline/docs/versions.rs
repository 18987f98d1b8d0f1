//! The page about versions, from what the tests install.

use std::fs;

use super::pages;
use crate::generated::file_holds;

fn read(path: &str) -> String {
    fs::read_to_string(pages::root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// `NAME==VERSION` of a file of requirements.
fn python(file: &str, name: &str) -> String {
    let text = read(&format!("tests/setup/requirements/{file}.txt"));
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name}==")));
    version
        .unwrap_or_else(|| panic!("{file} has no {name}"))
        .split(' ')
        .next()
        .unwrap()
        .to_owned()
}

fn node(name: &str) -> String {
    let package: serde_json::Value =
        serde_json::from_str(&read("tests/setup/node/package.json")).unwrap();
    package["dependencies"][name].as_str().unwrap().to_owned()
}

fn go(module: &str) -> String {
    let text = read("tests/controlplane/go.mod");
    let line = text
        .lines()
        .map(str::trim)
        .find(|line| line.starts_with(&format!("{module} v")));
    let version = line.unwrap().split(' ').nth(1).unwrap();
    version.trim_start_matches('v').to_owned()
}

#[test]
fn the_page_about_versions_is_that_of_what_the_tests_install() {
    let chart = read("charts/portcullis/Chart.yaml");
    let least = chart
        .lines()
        .find_map(|line| line.strip_prefix("kubeVersion: "))
        .unwrap();
    let least = least
        .trim_matches('"')
        .trim_start_matches(">=")
        .trim_end_matches(".0-0");
    let mcp: Vec<&str> = portcullis::protocol::version::Version::SESSION
        .iter()
        .map(|version| version.as_str())
        .collect();
    let rust = read("Cargo.toml");
    let rust = rust
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "))
        .unwrap()
        .trim_matches('"')
        .to_owned();
    let page = format!(
        "# Versions that work together\n\nWhich versions of MCP, MLflow, Kubernetes and Helm Portcullis works with, and which the tests run.\n\n\
         Generated from what the tests install.\n\n| | supported | tested |\n|---|---|---|\n\
         | MCP | {} | all of them |\n\
         | `mlflow-mcp` | the tools of its catalogue; others need rules with names | {} |\n\
         | MLflow and `mlflow mcp run` | 3.5 and newer, which have an MCP server; the tracking server of any version that `mlflow-mcp` supports | {} |\n\
         | Kubernetes | {least} and newer | {} |\n\
         | Helm | 3.14 and newer | {} |\n\
         | Python SDK `mcp` | 1.x and 2.x | {}, {} |\n\
         | TypeScript SDK | `@modelcontextprotocol/sdk` 1.x, `@modelcontextprotocol/client` 2.x | {}, {} |\n\
         | Redis or Valkey, for shared counters | Redis 6.2 and newer, Valkey | the Valkey of `redis.txt` |\n\
         | Rust, to build | {rust} and newer | {rust} |\n\n\
         `NEWEST=1 make test-gateway` also tests the newest releases of the MLflow servers.\n",
        mcp.join(", "),
        python("mlflow-mcp", "mlflow-mcp"),
        python("mlflow-official", "mlflow"),
        go("k8s.io/kubernetes"),
        go("helm.sh/helm/v3"),
        python("mcp-1", "mcp"),
        python("mcp-2", "mcp"),
        node("@modelcontextprotocol/sdk"),
        node("@modelcontextprotocol/client"),
    );
    file_holds("docs/versions.md", &page);
}
