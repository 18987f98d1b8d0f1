//! Files that are generated from the code: each test fails when its file differs, and `UPDATE=1` rewrites the files.

use portcullis::{api, cli};
use std::{fs, path::PathBuf};

/// Compares a file of the repository with what it should hold, or rewrites it.
fn file_holds(path: &str, expected: &str) {
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
    let mut page = String::from("# Command line\n\nGenerated from `portcullis --help`.\n");
    let mut command = cli::Cli::command();
    command.build();
    describe(&mut command, "portcullis", &mut page);
    file_holds("docs/cli.md", &page);
}

fn describe(command: &mut clap::Command, path: &str, page: &mut String) {
    let help = command
        .clone()
        .term_width(100)
        .bin_name(path)
        .render_long_help()
        .to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    page.push_str(&format!(
        "\n## {path}\n\n```text\n{}\n```\n",
        lines.join("\n").trim_end()
    ));
    for inner in command.get_subcommands_mut() {
        if inner.get_name() != "help" {
            let path = format!("{path} {}", inner.get_name());
            describe(inner, &path, page);
        }
    }
}
