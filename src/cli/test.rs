//! `portcullis test`: policy test cases, for use in CI.
//!
//! In: files of kind McpPolicyTest, and the policies beside them or those given with -f. Out: the
//! result of each case; exit code 1 if one failed or if there are none.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use super::load::{bound, project};
use super::output::{Failure, Output, print, print_data, why};
use super::project::Finding;
use super::tools;
use crate::manifest::{self, Located, ManifestError, Position};
use crate::policy::cases::{self, CaseResult, KIND, PolicyTest, Verdict};

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
    /// A saved tools/list result of the server, in place of those that the documents name; without
    /// one only the names of tools are known
    #[arg(long, value_name = "FILE")]
    listing: Option<PathBuf>,
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
    /// The file with the server's tools; without one, argument types are not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    listing: Option<String>,
    cases: Vec<Tried>,
}

/// What came of a case, with its place.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tried {
    name: String,
    line: u64,
    column: u64,
    passed: bool,
    failures: Vec<Failed>,
    decision: Option<Verdict>,
    rule: String,
}

#[derive(Serialize)]
struct Failed {
    line: u64,
    column: u64,
    path: String,
    message: String,
}

impl Tried {
    fn of(result: CaseResult, at: usize, test: &Located<PolicyTest>) -> Tried {
        let case = format!("cases[{at}]");
        let Position { line, column } = test.position(&case);
        Tried {
            name: result.name,
            line,
            column,
            passed: result.passed,
            failures: result
                .failures
                .into_iter()
                .map(|miss| {
                    let path = format!("{case}.{}", miss.path);
                    let Position { line, column } = test.position(&path);
                    Failed {
                        line,
                        column,
                        path,
                        message: miss.message,
                    }
                })
                .collect(),
            decision: result.decision,
            rule: result.rule,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// Code 1 if a case failed, 2 if the files cannot be used.
pub fn run(args: Args) -> Result<(), Failure> {
    let mut results = Vec::new();
    let tests = read_all(&test_files(&args.files)?)?;
    for (file, located) in &tests {
        let test = &located.object;
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
        let server = project
            .server(test.server.as_deref())
            .map_err(|failure| at(located, "server", &failure.message))?;
        let named = args
            .listing
            .clone()
            .or_else(|| test.listing.as_ref().map(|listing| folder.join(listing)));
        let listing = match &named {
            Some(listing) => tools::listing(listing).map_err(|failure| match args.listing {
                Some(_) => failure,
                None => at(located, "listing", &failure.message),
            })?,
            None => test.assumed_listing(),
        };
        let bound = bound(&project.whole_bundle(&server.object)?, &listing)?;
        let cases = test.run(&bound, Timestamp::now()).into_iter().enumerate();
        results.push(FileResult {
            file: file.display().to_string(),
            listing: named.map(|listing| listing.display().to_string()),
            cases: cases
                .map(|(i, result)| Tried::of(result, i, located))
                .collect(),
        });
    }
    let cases = || results.iter().flat_map(|result| &result.cases);
    let (passed, failed) = (
        cases().filter(|case| case.passed).count(),
        cases().filter(|case| !case.passed).count(),
    );
    match args.output {
        Output::Yaml | Output::Json => print_data(&results, args.output)?,
        Output::Table | Output::Wide => {
            show(&results)?;
            print(&format!("\n{passed} passed, {failed} failed\n"))?;
        }
    }
    if results.iter().any(|result| result.listing.is_none()) {
        eprintln!("{}", tools::UNCHECKED_IN_TESTS);
    }
    match (passed, failed) {
        (0, 0) => Err(Failure {
            message: format!(
                "the files contain no document of kind {KIND}; write one, as examples/quickstart/tests/cases.yaml shows"
            ),
            code: 1,
        }),
        (_, 0) => Ok(()),
        (_, failed) => Err(Failure {
            message: format!(
                "{} failed",
                super::output::plural(failed, "policy test case")
            ),
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
            for failed in &case.failures {
                let Failed {
                    line,
                    column,
                    path,
                    message,
                } = failed;
                text.push_str(&format!(
                    "        {}:{line}:{column}: {}: {}\n",
                    result.file,
                    path.trim_end_matches('.'),
                    super::output::visible(message)
                ));
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
                Failure::new(format!(
                    "{} cannot be read: {}",
                    folder.display(),
                    why(&error)
                ))
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
                "{} contains no file with a document of kind {KIND}; write one, as examples/quickstart/tests/cases.yaml shows",
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

/// The documents of all files, or every mistake in them.
fn read_all(files: &[PathBuf]) -> Result<Vec<(PathBuf, Located<PolicyTest>)>, Failure> {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for file in files {
        let shown = file.display();
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::new(format!("{shown} cannot be read: {}", why(&error))))?;
        match manifest::documents(&shown.to_string(), &text, KIND, &cases::schema()) {
            Err(wrong) => errors.extend(
                wrong
                    .into_iter()
                    .map(|error| Finding::from(error).to_string()),
            ),
            Ok(documents) => {
                for document in documents {
                    let test: PolicyTest = serde_json::from_value(document.object.clone()).map_err(|_| {
                        at(&document, "", "this document passes every check and still cannot be read, which is a fault of this program; report it")
                    })?;
                    let faults = test.faults();
                    let test = document.map(|_| test);
                    errors.extend(
                        faults
                            .into_iter()
                            .map(|fault| wrong(&test, &fault.path, fault.message)),
                    );
                    found.push((file.clone(), test));
                }
            }
        }
    }
    match errors.as_slice() {
        [] => Ok(found),
        errors => Err(Failure::new(format!(
            "the test files have errors:\n{}",
            errors.join("\n")
        ))),
    }
}

/// A line on a field of a test document.
fn wrong<T>(located: &Located<T>, path: &str, message: String) -> String {
    Finding::from(ManifestError {
        file: located.file.clone(),
        at: located.position(path),
        path: path.to_owned(),
        message,
    })
    .to_string()
}

fn at<T>(located: &Located<T>, path: &str, message: &str) -> Failure {
    Failure::new(format!(
        "the test files have errors:\n{}",
        wrong(located, path, message.to_owned())
    ))
}
