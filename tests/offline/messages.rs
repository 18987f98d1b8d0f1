//! Mistakes, and everything that the program says of them: one file of `tests/messages` each, which
//! needs no Rust.
//!
//! See `tests/messages/README.md` for their form. `UPDATE=1` writes what the program says into the
//! files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/messages");
/// No command of a case runs that long.
const LONGEST: Duration = Duration::from_secs(60);

/// One file, before its expected output.
struct Case {
    path: PathBuf,
    /// Everything that comes before the output.
    input: String,
    expected: String,
    /// Files that cases share.
    with: Vec<String>,
    env: Vec<(String, String)>,
    command: Vec<String>,
    files: BTreeMap<String, String>,
}

impl Case {
    fn read(path: PathBuf) -> Case {
        let text = fs::read_to_string(&path).unwrap();
        let shown = path.display();
        let start = ["-- stdout --\n", "-- stderr --\n", "-- exit "]
            .iter()
            .filter_map(|mark| text.find(&format!("\n{mark}")).map(|at| at + 1))
            .min()
            .unwrap_or(text.len());
        let (input, expected) = text.split_at(start);
        let mut case = Case {
            path: path.clone(),
            input: input.to_owned(),
            expected: expected.to_owned(),
            with: Vec::new(),
            env: Vec::new(),
            command: Vec::new(),
            files: BTreeMap::new(),
        };
        let mut file: Option<String> = None;
        for line in input.lines() {
            let mark = line
                .strip_prefix("-- ")
                .and_then(|line| line.strip_suffix(" --"));
            if let Some(name) = mark {
                assert!(
                    case.files.insert(name.to_owned(), String::new()).is_none(),
                    "{shown}: two files are named {name}"
                );
                file = Some(name.to_owned());
            } else if let Some(name) = &file {
                let content = case.files.get_mut(name).unwrap();
                content.push_str(line);
                content.push('\n');
            } else if let Some(command) = line.strip_prefix("$ ") {
                assert!(case.command.is_empty(), "{shown}: it has two commands");
                case.command = words(command);
            } else if let Some(name) = line.strip_prefix("with ") {
                case.with.push(name.to_owned());
            } else if let Some(variable) = line.strip_prefix("env ") {
                let (name, value) = variable.split_once('=').unwrap();
                case.env.push((name.to_owned(), value.to_owned()));
            } else {
                assert!(
                    line.starts_with('#') || line.is_empty(),
                    "{shown}: {line:?} is none of `# text`, `with FILE`, `env NAME=VALUE`, `$ command` and `-- FILE --`"
                );
            }
        }
        assert!(
            input.starts_with("# "),
            "{shown}: say in the first line what the mistake is"
        );
        assert_eq!(
            case.command.first().map(String::as_str),
            Some("portcullis"),
            "{shown}: a case has a line `$ portcullis …`"
        );
        case
    }

    /// The output, as it stands in the file.
    fn run(&self) -> String {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("work");
        fs::create_dir(&folder).unwrap();
        for name in &self.with {
            fs::copy(Path::new(FOLDER).join("with").join(name), folder.join(name)).unwrap();
        }
        for (name, content) in &self.files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(&self.command[1..])
            .current_dir(&folder)
            .env_clear()
            .env("HOME", home.path())
            .env("XDG_RUNTIME_DIR", home.path())
            .env("PATH", "/usr/bin:/bin")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(fs::File::create(home.path().join("stdout")).unwrap())
            .stderr(fs::File::create(home.path().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let started = Instant::now();
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None if started.elapsed() > LONGEST => {
                    child.kill().unwrap();
                    panic!("{}: the command does not end", self.path.display());
                }
                None => std::thread::yield_now(),
            }
            std::thread::park_timeout(Duration::from_millis(5));
        };
        let mut output = String::new();
        for stream in ["stdout", "stderr"] {
            let text = fs::read_to_string(home.path().join(stream)).unwrap();
            let text = text.replace(home.path().to_str().unwrap(), "$HOME");
            let text: String = text.lines().map(|line| without_time(line) + "\n").collect();
            if !text.is_empty() {
                output.push_str(&format!("-- {stream} --\n{text}"));
            }
        }
        output + &format!("-- exit {} --\n", status.code().unwrap())
    }
}

/// A line of the log without its time.
fn without_time(line: &str) -> String {
    match line.split_once("Z ") {
        Some((time, rest)) if time.len() > 18 && time.parse::<jiff::civil::DateTime>().is_ok() => {
            format!("TIME {}", rest.trim_start())
        }
        _ => line.to_owned(),
    }
}

/// The words of a command, as a shell reads them: quotes, and nothing else, are special.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in command.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                word.get_or_insert_default();
                quote = Some(c);
            }
            (None, ' ') => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    assert!(quote.is_none(), "a quote is not closed: {command}");
    words.extend(word);
    words
}

fn cases() -> Vec<Case> {
    let mut paths = Vec::new();
    for kind in fs::read_dir(FOLDER)
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        if kind.is_dir() && !kind.ends_with("with") {
            paths.extend(
                fs::read_dir(kind)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
    }
    paths.sort();
    paths.into_iter().map(Case::read).collect()
}

#[test]
fn every_mistake_is_answered_as_its_case_says() {
    let cases = cases();
    assert!(cases.len() >= 110, "{}", cases.len());
    let update = std::env::var_os("UPDATE").is_some();
    let (next, wrong) = (Mutex::new(cases.iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(case) = { next.lock().unwrap().next() } {
                    let output = case.run();
                    if output == case.expected {
                        continue;
                    }
                    if update {
                        fs::write(&case.path, format!("{}{output}", case.input)).unwrap();
                    } else {
                        wrong.lock().unwrap().push(format!(
                            "{}\nexpected:\n{}\ncame:\n{output}",
                            case.path.display(),
                            case.expected
                        ));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(
        wrong.is_empty(),
        "{} cases differ; if what the program says is right, run `make generate`:\n\n{}",
        wrong.len(),
        wrong.join("\n\n")
    );
}

/// Words of libraries, of parsers and of patterns, which mean nothing to the person who made the
/// mistake.
const FOREIGN: [&str; 34] = [
    "serde",
    "invalid type",
    "expected one of",
    "missing field",
    "unknown variant",
    "expected string scalar",
    "DuplicateKeyPolicy",
    "anchor",
    "scalar",
    "while parsing",
    "while scanning",
    "mapping values",
    "regex parse",
    "look-around",
    "repetition operator",
    "character class",
    "{1,5}",
    "[a-z0-9]",
    "[-a-z",
    "os error",
    "unrecognized subcommand",
    "invalid value",
    "unexpected argument",
    "<FILE",
    "<TOOL",
    "required arguments",
    "invalid socket address",
    "invalid digit",
    "sequence",
    "EOF",
    "i64",
    "u32",
    "panicked",
    "For more information",
];

#[test]
fn no_word_of_a_library_and_no_pattern_reaches_the_user() {
    for case in cases() {
        for word in FOREIGN {
            // What a person wrote may be repeated.
            let output = case.expected.replace(&case.command.join(" "), "");
            let wrote = case.files.values().any(|text| text.contains(word));
            assert!(
                !output.contains(word) || wrote,
                "{}: {word:?} is a word of a library:\n{output}",
                case.path.display()
            );
        }
    }
}

/// A mistake is an error, or a warning where the files may still be meant so.
#[test]
fn every_mistake_is_said() {
    for case in cases() {
        let said = ["error: ", "warning: ", "note: ", "Usage: ", "FAIL"];
        assert!(
            said.iter().any(|word| case.expected.contains(word)),
            "{}: nothing is said of it:\n{}",
            case.path.display(),
            case.expected
        );
    }
}
