//! `portcullis test`: policy test cases, for use in CI.
//!
//! In: files of kind McpPolicyTest, and the policies beside them or those given with -f. Out: the
//! result of each case; exit code 1 if one failed or if there are none.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use super::explain::{bound, project};
use super::output::{Failure, Output, print, print_data};
use super::tools;
use crate::policy::cases::{CaseResult, KIND, PolicyTest};

/// The directory beside manifests for files that do not belong on the API server.
const TESTS: &str = "tests";

/// Run policy test cases
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files with documents of kind McpPolicyTest, or directories with such files
    #[arg(required = true, value_name = "FILE|DIR")]
    files: Vec<PathBuf>,
    /// The servers and policies to test; by default those in the test file's directory, or in its
    /// parent if that directory is named `tests`
    #[arg(short, long = "filename", value_name = "FILE|DIR")]
    filename: Vec<PathBuf>,
    /// Policies in this namespace are guardrails over all servers
    #[arg(long, default_value = "portcullis-system", value_name = "NAMESPACE")]
    operator_namespace: String,
    /// The output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Serialize)]
struct FileResult {
    file: String,
    cases: Vec<CaseResult>,
}

/// Runs the command.
///
/// # Errors
/// Code 1 if a case failed, 2 if the files cannot be used.
pub fn run(args: Args) -> Result<(), Failure> {
    let mut results = Vec::new();
    for file in test_files(&args.files)? {
        for test in read(&file)? {
            let folder = file
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty())
                .unwrap_or(Path::new("."))
                .to_owned();
            let paths = if args.filename.is_empty() {
                vec![tested(&folder)]
            } else {
                args.filename.clone()
            };
            let project = project(&paths, &args.operator_namespace)?;
            let server = &project.server(test.server.as_deref())?.object;
            let listing = match &test.listing {
                Some(listing) => tools::listing(&folder.join(listing))?,
                None => test.assumed_listing(),
            };
            let bound = bound(&project.whole_bundle(server)?, &listing)?;
            results.push(FileResult {
                file: file.display().to_string(),
                cases: test.run(&bound, Timestamp::now()),
            });
        }
    }
    let cases = || results.iter().flat_map(|result| &result.cases);
    let (passed, failed) = (
        cases().filter(|case| case.passed).count(),
        cases().filter(|case| !case.passed).count(),
    );
    match args.output {
        Output::Yaml | Output::Json => print_data(&results, args.output)?,
        Output::Table | Output::Wide => show(&results)?,
    }
    if args.output == Output::Table || args.output == Output::Wide {
        print(&format!("\n{passed} passed, {failed} failed\n"))?;
    }
    match (passed, failed) {
        (0, 0) => Err(Failure {
            message: "the files contain no test case".to_owned(),
            code: 1,
        }),
        (_, 0) => Ok(()),
        (_, failed) => Err(Failure {
            message: format!("{failed} policy test cases failed"),
            code: 1,
        }),
    }
}

fn show(results: &[FileResult]) -> Result<(), Failure> {
    let mut text = String::new();
    for result in results {
        text.push_str(&format!("{}\n", result.file));
        for case in &result.cases {
            let mark = if case.passed { "ok  " } else { "FAIL" };
            text.push_str(&format!(
                "  {mark}  {}\n",
                super::output::visible(&case.name)
            ));
            for failure in &case.failures {
                text.push_str(&format!("        {}\n", super::output::visible(failure)));
            }
        }
    }
    print(&text)
}

/// The given YAML files, and those with test documents in the given directories and in their
/// `tests`. (`kubectl apply -f DIR` does not look into `tests`, and an API server does not know the
/// kind.)
fn test_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let mut found = Vec::new();
        for folder in [path.clone(), path.join(TESTS)]
            .into_iter()
            .filter(|folder| folder.is_dir())
        {
            let entries = std::fs::read_dir(&folder).map_err(|error| {
                Failure::new(format!("{} cannot be read: {error}", folder.display()))
            })?;
            found.extend(
                entries
                    .filter_map(|entry| Some(entry.ok()?.path()))
                    .filter(|file| {
                        file.extension()
                            .is_some_and(|extension| extension == "yaml" || extension == "yml")
                    })
                    .filter(|file| {
                        std::fs::read_to_string(file).is_ok_and(|text| text.contains(KIND))
                    }),
            );
        }
        found.sort();
        if found.is_empty() {
            return Err(Failure::new(format!(
                "{} contains no file with a document of kind {KIND}",
                path.display()
            )));
        }
        files.extend(found);
    }
    Ok(files)
}

/// The directory that a test file tests: its own, or the one above a directory named `tests`.
fn tested(folder: &Path) -> PathBuf {
    match folder.file_name() {
        Some(name) if name == TESTS => match folder.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        },
        _ => folder.to_owned(),
    }
}

fn read(file: &Path) -> Result<Vec<PolicyTest>, Failure> {
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::new(format!("{shown} cannot be read: {error}")))?;
    // The same file may contain documents of other kinds.
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&text)
        .map_err(|error| Failure::new(format!("{shown} is not valid YAML: {error}")))?;
    documents
        .into_iter()
        .filter(|document| document.get("kind").and_then(serde_json::Value::as_str) == Some(KIND))
        .map(|document| {
            serde_json::from_value(document)
                .map_err(|error| Failure::new(format!("{shown}: a {KIND} cannot be read: {error}")))
        })
        .collect()
}
