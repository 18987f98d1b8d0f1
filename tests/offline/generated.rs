//! Files that are generated from the code: each test fails when its file differs, and `UPDATE=1`
//! rewrites the files.

use portcullis::cli::project::Project;
use portcullis::policy::bundle::Bundle;
use portcullis::{api, cli};
use serde_json::Value;
use std::{fs, path::PathBuf, process::Command};

/// Compares a file of the repository with what it should hold, or rewrites it.
pub fn file_holds(path: &str, expected: &str) {
    let full = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(&full, expected).unwrap();
    }
    let found = fs::read_to_string(&full)
        .unwrap_or_else(|e| panic!("{path}: {e}; run the tests with UPDATE=1"));
    assert!(
        found == expected,
        "{path} is out of date: run `UPDATE=1 cargo test --test offline` and commit it"
    );
}

#[test]
fn the_crds_in_the_repository_are_those_of_the_types() {
    for crd in api::crds() {
        let path = format!("crds/{}.yaml", crd.spec.names.plural);
        file_holds(&path, &cli::crds::yaml(&crd).unwrap());
    }
}

/// Only McpServers and McpPolicies are read from files.
#[test]
fn the_schemas_that_files_are_checked_with_are_those_of_the_types() {
    for crd in api::definitions() {
        if crd.spec.names.kind == "McpApproval" {
            continue;
        }
        let path = format!("src/manifest/definitions/{}.json", crd.spec.names.plural);
        let [version] = crd.spec.versions.try_into().unwrap();
        let schema = version.schema.unwrap().open_api_v3_schema.unwrap();
        let mut schema = serde_json::to_value(schema).unwrap();
        describe_required_only(&mut schema);
        file_holds(&path, &format!("{schema}\n"));
    }
}

/// Removes every description but those of required properties.
fn describe_required_only(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else {
        return;
    };
    schema.remove("description");
    for key in ["items", "additionalProperties"] {
        schema
            .get_mut(key)
            .into_iter()
            .for_each(describe_required_only);
    }
    let required = schema.get("required").cloned().unwrap_or_default();
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for (name, property) in properties.into_iter().flatten() {
        let required = required.as_array().into_iter().flatten();
        let description = required
            .filter(|required| *required == name)
            .find_map(|_| property.get("description").cloned());
        describe_required_only(property);
        if let Some(description) = description {
            property["description"] = description;
        }
    }
}

#[test]
fn the_command_prints_all_three_as_one_stream() {
    let mut printed = Vec::new();
    cli::crds::run(&cli::crds::Args {}, &mut printed).unwrap();
    let files: String = api::crds()
        .iter()
        .map(|crd| format!("---\n{}", cli::crds::yaml(crd).unwrap()))
        .collect();
    assert!(String::from_utf8(printed).unwrap() == files);
}

#[test]
fn the_page_about_tools_is_that_of_the_catalogue() {
    file_holds("docs/tools.md", &cli::catalog::markdown());
}

#[test]
fn the_page_about_the_command_line_is_that_of_the_commands() {
    use clap::CommandFactory as _;
    let mut page = String::from(
        "# Command line\n\nGenerated from the `--help` of `portcullis`, `portcullis-gateway` and `portcullis-operator`.\n",
    );
    let mut command = cli::Cli::command();
    command.build();
    describe(&mut command, "portcullis", &mut page);
    let mut printed = |program: &str, path: &str, arguments: &[&str]| {
        let output = Command::new(path)
            .args(arguments)
            .arg("--help")
            .output()
            .unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        let name = [&[program], arguments].concat().join(" ");
        page.push_str(&section(&name, &help));
    };
    for subcommand in ["run", "bridge", "install"] {
        let path = env!("CARGO_BIN_EXE_portcullis-gateway");
        printed("portcullis-gateway", path, &[subcommand]);
    }
    let path = env!("CARGO_BIN_EXE_portcullis-operator");
    printed("portcullis-operator", path, &[]);
    printed("portcullis-operator", path, &["check"]);
    file_holds("docs/cli.md", &page);
}

fn section(path: &str, help: &str) -> String {
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    let text = lines.join("\n");
    format!("\n## {path}\n\n```text\n{}\n```\n", text.trim_end())
}

fn describe(command: &mut clap::Command, path: &str, page: &mut String) {
    let help = command
        .clone()
        .term_width(100)
        .bin_name(path)
        .render_long_help()
        .to_string();
    page.push_str(&section(path, &help));
    for inner in command.get_subcommands_mut() {
        if inner.get_name() != "help" {
            let path = format!("{path} {}", inner.get_name());
            describe(inner, &path, page);
        }
    }
}

#[test]
fn the_fuzz_seeds_for_bundles_are_those_of_the_examples() {
    let examples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut count = 0;
    for entry in fs::read_dir(examples).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.join("server.yaml").exists() {
            continue;
        }
        let project = Project::load(std::slice::from_ref(&folder), "portcullis-system").unwrap();
        let server = project.server(None).unwrap();
        let bundle = project.whole_bundle(&server.object).unwrap();
        let text = format!("{}\n", serde_json::to_string(&bundle).unwrap());
        assert_eq!(Bundle::parse(text.as_bytes()).unwrap(), bundle);
        let name = folder.file_name().unwrap().to_str().unwrap();
        file_holds(&format!("fuzz/seeds/bundle/{name}.json"), &text);
        count += 1;
    }
    assert_eq!(count, 5);
}

/// A type that every listed server gives an argument of that tool; one that may be null has the
/// other type.
#[test]
fn the_types_of_arguments_are_those_of_the_servers() {
    let mut types: std::collections::BTreeMap<(String, String), Option<String>> =
        Default::default();
    for file in ["mlflow-mcp-0.4.1", "mlflow-3.x-all"] {
        let path = format!(
            "{}/tests/fixtures/{file}.tools.json",
            env!("CARGO_MANIFEST_DIR")
        );
        let listing: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let tools = listing["tools"].as_array().or(listing.as_array()).unwrap();
        for tool in tools {
            for (name, schema) in tool["inputSchema"]["properties"].as_object().unwrap() {
                let any = schema["anyOf"].as_array();
                let mut found: Vec<&str> = any
                    .map_or_else(|| vec![schema], |any| any.iter().collect())
                    .into_iter()
                    .map(|schema| schema["type"].as_str().unwrap_or("any"))
                    .filter(|kind| *kind != "null")
                    .collect();
                found.dedup();
                let one = match found.as_slice() {
                    [one] if *one != "any" => Some((*one).to_owned()),
                    _ => None,
                };
                let tool = tool["name"].as_str().unwrap().to_owned();
                let known = types
                    .entry((tool, name.clone()))
                    .or_insert_with(|| one.clone());
                if *known != one {
                    *known = None;
                }
            }
        }
    }
    let lines: String = types
        .iter()
        .filter_map(|((tool, name), kind)| Some(format!("{tool} {name} {}\n", kind.as_ref()?)))
        .collect();
    assert!(lines.lines().count() > 50);
    file_holds("src/catalog/arguments.txt", &lines);
}

/// What an API server writes into an object does not change the revision of its rules.
#[test]
fn the_defaults_that_the_revision_leaves_out_are_those_of_the_definitions() {
    fn defaults(schema: &Value, at: &str, found: &mut Vec<(String, String)>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let path = if at.is_empty() {
                name.clone()
            } else {
                format!("{at}.{name}")
            };
            match property.get("default") {
                Some(default) if default.is_object() => assert_eq!(
                    (path.as_str(), default.to_string().as_str()),
                    ("gateway", "{}")
                ),
                Some(default) => found.push((path.clone(), default.to_string())),
                None => {}
            }
            assert!(property["items"].get("default").is_none(), "{path}");
            defaults(property, &path, found);
        }
    }
    for (plural, known) in [
        (
            "mcpservers",
            &portcullis::policy::content::DEFAULTS_OF_SERVER[..],
        ),
        (
            "mcppolicies",
            &portcullis::policy::content::DEFAULTS_OF_POLICY[..],
        ),
    ] {
        let path = format!(
            "{}/src/manifest/definitions/{plural}.json",
            env!("CARGO_MANIFEST_DIR")
        );
        let schema: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let mut found = Vec::new();
        defaults(&schema["properties"]["spec"], "", &mut found);
        found.sort();
        let known: Vec<(String, String)> = known
            .iter()
            .map(|(path, default)| ((*path).to_owned(), (*default).to_owned()))
            .collect();
        assert_eq!(known, found, "{plural}");
    }
}
