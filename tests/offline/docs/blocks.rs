//! Fenced blocks: each says by its marker how it is checked, and YAML is read by the product's own
//! loader.

use std::process::Command;

use serde_json::{Value, json};

use super::pages::{self, Block, Page};
use super::run::{self, Use};

/// Pages that are generated or kept elsewhere.
const ELSEWHERE: [(&str, &str); 6] = [
    ("docs/cli.md", "generated from --help"),
    ("docs/tools.md", "generated from the catalogue"),
    ("docs/reference/", "generated from the definitions"),
    ("tests/", "for people who work on the tests"),
    ("CHANGELOG.md", "says what was"),
    (
        "docs/conformance.md",
        "generated from the conformance tests",
    ),
];

fn read_here() -> impl Iterator<Item = Page> {
    let elsewhere = |path: &str| ELSEWHERE.iter().any(|(start, _)| path.starts_with(start));
    pages::all()
        .into_iter()
        .filter(move |page| !elsewhere(&page.path))
}

/// How a block is checked that does not run.
enum Check {
    /// Whole McpServers and McpPolicies.
    Manifests,
    /// A part of one: its kind, and where it belongs.
    Part(String, String),
    /// Values of the chart.
    Values,
    /// Only parsed, for the reason given.
    Parsed,
    Json,
    /// Not checked, for the reason given.
    No,
}

fn check_of(block: &Block) -> Option<Check> {
    let marker = block.marker.as_deref()?;
    let (word, rest) = marker.split_once(": ").unwrap_or((marker, ""));
    match word {
        "manifests" => Some(Check::Manifests),
        "part" => {
            let (kind, path) = rest.split_once(' ')?;
            Some(Check::Part(kind.to_owned(), path.to_owned()))
        }
        "values" => Some(Check::Values),
        "yaml" if rest.len() > 10 => Some(Check::Parsed),
        "json" => Some(Check::Json),
        "not run" if rest.len() > 10 => Some(Check::No),
        // Those that run there, and only those, say so: tests/cluster/chart/plain_yaml.rs.
        "run" if rest == "on a cluster" => Some(Check::No),
        _ => None,
    }
}

#[test]
fn every_fenced_block_says_how_it_is_checked() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for page in read_here() {
        for block in page.blocks() {
            count += 1;
            if run::use_of(&block) == Use::Other && check_of(&block).is_none() {
                wrong.push(format!("{}:{} {:?}", page.path, block.line, block.marker));
            }
        }
    }
    assert!(count > 100, "only {count} blocks");
    assert!(
        wrong.is_empty(),
        "a comment on the line before each of these has to say how it is checked, for example `<!-- run -->`, \
         `<!-- manifests -->` or `<!-- not run: needs a cluster -->` (tests/docs/run.rs and this file list them):\n{}",
        wrong.join("\n")
    );
}

/// `portcullis validate` on documents, each in a file of its own; its output if it finds a mistake.
fn mistakes(documents: &[String]) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    for (number, text) in documents.iter().enumerate() {
        std::fs::write(folder.path().join(format!("{number}.yaml")), text).unwrap();
    }
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .arg("validate")
        .arg(folder.path())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (!output.status.success()).then(|| String::from_utf8(text).unwrap())
}

/// A whole document in which the part stands at its place.
fn whole(kind: &str, path: &str, part: Value) -> String {
    let mut document = json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": kind, "metadata": {"name": "mlflow", "namespace": "ml"}});
    document["spec"] = match kind {
        "McpServer" => {
            json!({"upstream": {"http": {"url": "http://mlflow-mcp.ml:8000/mcp"}}, "authentication": {"anonymous": "Allow"}})
        }
        "McpPolicy" => {
            json!({"targetRefs": [{"group": "portcullis.dev", "kind": "McpServer", "name": "mlflow"}],
            "rules": [{"name": "reads", "tools": {"risks": ["Read"]}, "action": "Allow"}]})
        }
        other => panic!("no part of {other} can be checked"),
    };
    let at = if path == "." {
        String::new()
    } else {
        format!("/{}", path.replace('.', "/"))
    };
    let (parent, name) = at.rsplit_once('/').unwrap_or(("", ""));
    match document.pointer_mut(parent) {
        Some(_) if at.is_empty() => merge(&mut document, part),
        Some(Value::Object(parent)) => merge(parent.entry(name).or_insert(Value::Null), part),
        Some(Value::Array(parent)) => merge(&mut parent[name.parse::<usize>().unwrap()], part),
        _ => panic!("a {kind} has no {path}"),
    }
    if document["spec"].get("targetSelector").is_some() {
        document["spec"]
            .as_object_mut()
            .unwrap()
            .remove("targetRefs");
    }
    document.to_string()
}

fn merge(into: &mut Value, part: Value) {
    match (into, part) {
        (Value::Object(into), Value::Object(part)) => {
            for (key, value) in part {
                // One kind of upstream excludes the other.
                if key == "stdio" {
                    into.clear();
                }
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, part) => *into = part,
    }
}

fn documents(text: &str) -> Vec<Value> {
    let parts = text.split("\n---\n").filter(|part| !part.trim().is_empty());
    parts
        .map(|part| serde_saphyr::from_str(part).unwrap_or_else(|e| panic!("{e}\n{part}")))
        .collect()
}

#[test]
fn every_block_of_yaml_and_json_is_valid() {
    let schema: Value = serde_json::from_str(
        &std::fs::read_to_string(pages::root().join("charts/portcullis/values.schema.json"))
            .unwrap(),
    )
    .unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let defaults = std::fs::read_to_string(pages::root().join("charts/portcullis/values.yaml"));
    let defaults: Value = serde_saphyr::from_str(&defaults.unwrap()).unwrap();
    let mut wrong = Vec::new();
    let mut checked = 0;
    for page in read_here() {
        let mut written = Vec::new();
        for block in page.blocks() {
            let place = format!("{}:{}", page.path, block.line);
            if let Use::File(path) = run::use_of(&block) {
                if path.ends_with(".yaml") && block.text.contains("portcullis.dev/") {
                    written.retain(|(known, _)| *known != path);
                    written.push((path, block.text.clone()));
                    let texts: Vec<String> = written.iter().map(|(_, text)| text.clone()).collect();
                    wrong.extend(mistakes(&texts).map(|said| format!("{place}: {said}")));
                    checked += 1;
                }
                continue;
            }
            let Some(check) = check_of(&block) else {
                continue;
            };
            checked += 1;
            let said = match check {
                Check::Manifests => mistakes(std::slice::from_ref(&block.text)),
                Check::Part(kind, path) => {
                    let [part] = documents(&block.text).try_into().unwrap();
                    mistakes(&[whole(&kind, &path, part)])
                }
                Check::Values => {
                    // Helm checks them together with the chart's own.
                    let mut values = defaults.clone();
                    documents(&block.text)
                        .into_iter()
                        .for_each(|one| merge(&mut values, one));
                    let errors = schema.iter_errors(&values);
                    let errors: Vec<String> = errors
                        .map(|e| format!("{}: {e}", e.instance_path()))
                        .collect();
                    (!errors.is_empty()).then(|| errors.join("\n"))
                }
                Check::Parsed => documents(&block.text)
                    .is_empty()
                    .then(|| "no document".to_owned()),
                Check::Json => serde_json::from_str::<Value>(&block.text)
                    .err()
                    .map(|e| e.to_string()),
                Check::No => None,
            };
            wrong.extend(said.map(|said| format!("{place}: {said}")));
        }
    }
    assert!(checked > 50, "only {checked} were checked");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A name that stands for another must not be copied by mistake.
#[test]
fn no_block_and_no_example_names_a_registry_that_does_not_exist() {
    let mut wrong = Vec::new();
    for page in read_here() {
        for block in page.blocks() {
            if block.text.contains("registry.example") || block.text.contains("git.example") {
                wrong.push(format!("{}:{}", page.path, block.line));
            }
        }
    }
    for entry in std::fs::read_dir(pages::root().join("examples")).unwrap() {
        let file = entry.unwrap().path().join("server.yaml");
        if std::fs::read_to_string(&file).is_ok_and(|text| text.contains("registry.example")) {
            wrong.push(file.display().to_string());
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// The pages whose commands need no server.
#[test]
fn what_pages_say_without_a_server_is_what_happens() {
    let jobs = std::fs::read_to_string(pages::root().join("tests/gateway/docs.rs")).unwrap();
    let here: Vec<Page> = read_here()
        .filter(|page| run::runs(page) && !jobs.contains(&format!("\"{}\"", page.path)))
        .collect();
    assert!(!here.is_empty());
    for page in here {
        run::job(None, &[&page.path], &[]);
    }
}
