//! Runs what pages say, block by block, and compares what was printed with what the page shows.
//!
//! In: pages whose fenced blocks have a marker, an HTML comment on the line before. Out: a failure
//! that names page and line. Must not do: touch the repository, other than to rewrite shown output
//! where UPDATE is set.
//!
//! Markers: `run`, `run: fails`, `run: until TEXT` (repeated until it prints that), `start: TEXT`
//! (left running, ready when it prints that), `start`, `file: PATH` (written there), `output` (of
//! the block before), `finished` (the output of what was started last, once it has ended). All
//! blocks of a page run in one shell.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use regex::Regex;

use super::pages::{self, Block, Page};

/// The ports of the pages: MLflow, the gateway, its admin port.
const PORTS: [&str; 3] = ["5000", "8080", "9090"];
/// The person of the pages.
const PERSON: &str = "alice";

/// What a block is for, by its marker.
#[derive(Debug, Clone, PartialEq)]
pub enum Use {
    Run,
    Fails,
    Until(String),
    Start(String),
    File(String),
    Output,
    Finished,
    /// Checked elsewhere, or not at all.
    Other,
}

pub fn use_of(block: &Block) -> Use {
    let marker = block.marker.as_deref().unwrap_or_default();
    let (word, rest) = marker.split_once(": ").unwrap_or((marker, ""));
    let rest = rest.to_owned();
    match (word, rest.as_str()) {
        ("run", "") => Use::Run,
        ("run", "fails") => Use::Fails,
        ("run", text) if text.starts_with("until ") => {
            Use::Until(text["until ".len()..].to_owned())
        }
        ("start", _) => Use::Start(rest),
        ("file", path) if !path.is_empty() => Use::File(rest),
        ("output", "") => Use::Output,
        ("finished", "") => Use::Finished,
        _ => Use::Other,
    }
}

pub fn runs(page: &Page) -> bool {
    let is_run = |block: &Block| {
        matches!(
            use_of(block),
            Use::Run | Use::Fails | Use::Until(_) | Use::Start(_)
        )
    };
    page.blocks().iter().any(is_run)
}

/// Runs pages one after another in one shell, or the script that says `steps PAGE` for each of
/// them.
pub fn job(script: Option<&str>, page_paths: &[&str], programs: &[PathBuf]) {
    let sandbox = Sandbox::new();
    let pages: Vec<Page> = page_paths.iter().map(|path| pages::page(path)).collect();
    for page in &pages {
        let file = sandbox
            .folder
            .path()
            .join("steps")
            .join(format!("{}.sh", page.path.replace('/', "-")));
        fs::write(file, sandbox.steps(page)).unwrap();
    }
    let main = match script {
        Some(script) => fs::read_to_string(pages::root().join(script)).unwrap(),
        None => pages.iter().fold(String::new(), |all, page| {
            all + &format!("steps {}\n", page.path)
        }),
    };
    let missing: Vec<&&str> = page_paths
        .iter()
        .filter(|path| !main.contains(&format!("steps {path}\n")))
        .collect();
    assert!(
        missing.is_empty(),
        "{script:?} does not take the steps of {missing:?}"
    );
    sandbox.bash(&main, programs);
    for page in &pages {
        sandbox.compare(page);
    }
}

struct Sandbox {
    folder: tempfile::TempDir,
    /// The ports in place of those of the pages.
    ports: Vec<(String, String)>,
    person: String,
}

/// A port of four digits, as those of the pages, so that tables are as wide.
fn free_port() -> String {
    let first = std::process::id() % 4000 + 5500;
    let port = (first..9999).chain(2000..first).find(|port| {
        *port != 8080
            && *port != 9090
            && TcpListener::bind(("127.0.0.1", u16::try_from(*port).unwrap())).is_ok()
    });
    port.unwrap().to_string()
}

impl Sandbox {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for name in ["steps", "out", "bin", "home", "run", "state", "portcullis"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        // The repository as a reader has it, of which only the examples can be changed.
        for entry in fs::read_dir(pages::root()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name();
            let hidden = name.to_string_lossy().starts_with('.')
                || name.to_string_lossy().starts_with("target");
            if !hidden && name != "examples" {
                symlink(entry.path(), root.join("portcullis").join(name)).unwrap();
            }
        }
        copy(
            &pages::root().join("examples"),
            &root.join("portcullis/examples"),
        );
        symlink(
            env!("CARGO_BIN_EXE_portcullis"),
            root.join("bin/portcullis"),
        )
        .unwrap();
        let mut held = Vec::new();
        let mut ports = Vec::new();
        for shown in PORTS {
            let port = free_port();
            held.push(TcpListener::bind(format!("127.0.0.1:{port}")).unwrap());
            ports.push((shown.to_owned(), port));
        }
        let person = Command::new("id").arg("-un").output().unwrap();
        Sandbox {
            ports,
            person: String::from_utf8(person.stdout).unwrap().trim().to_owned(),
            folder,
        }
    }

    fn with_ports(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (shown, port) in &self.ports {
            text = Regex::new(&format!(r"\b{shown}\b"))
                .unwrap()
                .replace_all(&text, port)
                .into_owned();
        }
        text
    }

    /// What was printed, as the page may show it.
    fn shown(&self, text: &str) -> String {
        let mut text = text.replace(&format!("{}/portcullis/", self.folder.path().display()), "");
        text = text.replace(self.folder.path().to_str().unwrap(), "/home/alice");
        for (shown, port) in &self.ports {
            text = Regex::new(&format!(r"\b{port}\b"))
                .unwrap()
                .replace_all(&text, shown)
                .into_owned();
        }
        let person = Regex::new(&format!(r"\b{}\b", regex::escape(&self.person))).unwrap();
        let text = person.replace_all(&text, PERSON);
        text.lines()
            .map(|line| format!("{}\n", line.trim_end()))
            .collect()
    }

    fn output(&self, page: &Page, line: usize, kind: &str) -> PathBuf {
        self.folder
            .path()
            .join("out")
            .join(format!("{}:{line}.{kind}", page.path.replace('/', "-")))
    }

    /// A script of the blocks that run.
    fn steps(&self, page: &Page) -> String {
        let mut script = String::new();
        for block in page.blocks() {
            // Pages leave the gateway its own port.
            let listen = format!("portcullis serve --listen 127.0.0.1:{} ", self.ports[1].1);
            let text = self
                .with_ports(&block.text)
                .replace("portcullis serve ", &listen);
            let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
            let kind = match use_of(&block) {
                Use::Start(_) => "started",
                _ => "ran",
            };
            let log = quoted(self.output(page, block.line, kind).to_str().unwrap());
            let begin = format!("at={}:{}\n", page.path, block.line);
            match use_of(&block) {
                Use::Other | Use::Output => {}
                Use::Run => write!(script, "{begin}log={log}\n{{\n{text}}} >\"$log\" 2>&1\n").unwrap(),
                Use::Fails => write!(
                    script,
                    "{begin}log={log}\nset +e\n{{\n{text}}} >\"$log\" 2>&1\nstatus=$?\nset -e\n(( status != 0 )) || die 'this should fail'\n"
                )
                .unwrap(),
                Use::Until(until) => write!(
                    script,
                    "{begin}log={log}\nstep() {{\n{text}}}\nuntil_says {} step\n",
                    quoted(&self.with_ports(&until))
                )
                .unwrap(),
                Use::Start(until) => write!(
                    script,
                    "{begin}log={log}\n{{\n{text}}} >\"$log\" 2>&1 </dev/null &\nlast=$!\nstarted+=(\"$last\")\n{}",
                    match until.as_str() {
                        "" => "last_log=$log\n".to_owned(),
                        until => format!("says {}\n", quoted(&self.with_ports(until))),
                    }
                )
                .unwrap(),
                Use::Finished => write!(script, "{begin}wait \"$last\" || true\ncp \"$last_log\" {log}\n").unwrap(),
                Use::File(path) => {
                    let mark = "END-OF-THE-BLOCK";
                    write!(script, "{begin}mkdir -p \"$(dirname {0})\"\ncat >{0} <<'{mark}'\n{text}{mark}\n", quoted(&path)).unwrap();
                }
            }
        }
        script
    }

    fn bash(&self, main: &str, programs: &[PathBuf]) {
        let root = self.folder.path();
        let preamble = fs::read_to_string(pages::root().join("tests/docs/steps.sh")).unwrap();
        let file = root.join("main.sh");
        fs::write(&file, format!("{preamble}\n{main}")).unwrap();
        let system = std::env::var_os("PATH").unwrap();
        let first = std::iter::once(root.join("bin")).chain(programs.iter().cloned());
        let path = std::env::join_paths(first.chain(std::env::split_paths(&system))).unwrap();
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=20", "500", "bash"])
            .arg(&file)
            .current_dir(root.join("portcullis"));
        command
            .env_clear()
            .env("PATH", path)
            .env("LANG", "C.UTF-8")
            .env("TMPDIR", root);
        command
            .env("HOME", root.join("home"))
            .env("XDG_RUNTIME_DIR", root.join("run"));
        command.env("XDG_STATE_HOME", root.join("state"));
        command
            // Saves eight processes of MLflow that nothing here needs.
            .env("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
            .env("MLFLOW_DISABLE_TELEMETRY", "true")
            .env("STEPS", root.join("steps"))
            .env("OUT", root.join("out"));
        command
            .env("MLFLOW_PORT", &self.ports[0].1)
            .env("GATEWAY_PORT", &self.ports[1].1);
        for clock in [
            "LD_PRELOAD",
            "FAKETIME",
            "FAKETIME_DONT_FAKE_MONOTONIC",
            "PORTCULLIS_CLOCK_OFFSET",
        ] {
            if let Some(value) = std::env::var_os(clock) {
                command.env(clock, value);
            }
        }
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{}{}",
            said(&output.stdout),
            said(&output.stderr)
        );
    }

    /// Compares what a page shows with what was printed, or rewrites the page.
    fn compare(&self, page: &Page) {
        let mut wrong = Vec::new();
        let mut changes = BTreeMap::new();
        let mut ran: Option<(PathBuf, bool)> = None;
        let logged = Regex::new(r"^\d{4}-\d\d-\d\d[T ]|^note: ").unwrap();
        for block in page.blocks() {
            let (file, started) = match use_of(&block) {
                Use::Run | Use::Fails | Use::Until(_) => {
                    ran = Some((self.output(page, block.line, "ran"), false));
                    continue;
                }
                Use::Start(_) => {
                    ran = Some((self.output(page, block.line, "started"), true));
                    continue;
                }
                Use::Finished => (self.output(page, block.line, "ran"), false),
                Use::Output => ran
                    .take()
                    .unwrap_or_else(|| panic!("{}:{}: output of nothing", page.path, block.line)),
                Use::File(_) | Use::Other => continue,
            };
            let printed = self.shown(&fs::read_to_string(file).unwrap());
            // The log of a program that runs on is not what a reader is to compare with.
            let printed: String = printed
                .lines()
                // What it prints when the test stops it is not shown either.
                .take_while(|line| !started || !line.starts_with("Stopping; "))
                .filter(|line| !started || !logged.is_match(line))
                .map(|line| format!("{line}\n"))
                .collect();
            if !alike(&block.text, &printed) {
                wrong.push(format!(
                    "{}:{} shows\n{}but this was printed\n{printed}",
                    page.path, block.line, block.text
                ));
                let lines = printed.trim_matches('\n').lines();
                let lines = lines.map(|line| format!("{}{line}\n", block.indent));
                changes.insert(
                    block.at.start,
                    (block.at.clone(), lines.collect::<String>()),
                );
            }
        }
        if std::env::var_os("UPDATE").is_some() && !changes.is_empty() {
            let mut text = page.text.clone();
            for (at, printed) in changes.into_values().rev() {
                text.replace_range(at, &printed);
            }
            fs::write(pages::root().join(&page.path), text).unwrap();
            return;
        }
        assert!(
            wrong.is_empty(),
            "{}\n`UPDATE=1` rewrites the page",
            wrong.join("\n")
        );
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The same but for what differs each time. A line `…` of the page stands for any lines.
pub fn alike(shown: &str, printed: &str) -> bool {
    let (shown, printed) = (plain(shown), plain(printed));
    let printed: Vec<&str> = printed.lines().collect();
    let shown: Vec<&str> = shown.lines().collect();
    matches(&shown, &printed)
}

fn matches(shown: &[&str], printed: &[&str]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((&"…", rest)) => {
            (0..=printed.len()).any(|skipped| matches(rest, &printed[skipped..]))
        }
        Some((line, rest)) => printed
            .split_first()
            .is_some_and(|(first, others)| first == line && matches(rest, others)),
    }
}

/// Without what differs each time: times, ids, digests, ages, durations, and the width of columns.
fn plain(text: &str) -> String {
    let mut text = text.trim_matches('\n').to_owned();
    for (pattern, with) in [
        (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"),
        (
            r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b",
            "UUID",
        ),
        (r"\b([a-z-]+)-[0-9a-f]{20}-\d+", "$1-HASH"),
        (r"\b[0-9a-f]{12}-\d+\b", "DECISION"),
        (r"\b(sha256:)?[0-9a-f]{16,64}\b…?", "DIGEST"),
        (r"\bin \d+ s\b", "in N s"),
        (r"\b[Rr]etry after \d+ s\b", "retry after N s"),
        (r#""latencyMs":\d+"#, "LATENCY"),
        (r"  \d+(ms|s|m|h|d)(\d+(s|m|h))?(  |\n|$)", "  AGE$4"),
        (r"\b(in|for) \d+m\d*s?\b", "$1 AGE"),
        (r"[ \t]+", " "),
        (r"(?m) +$", ""),
    ] {
        text = Regex::new(pattern)
            .unwrap()
            .replace_all(&text, with)
            .into_owned();
    }
    text
}

#[test]
fn output_is_compared_without_what_differs_each_time() {
    for (shown, printed) in [
        ("NAME   AGE\nmlflow  1m\n", "NAME    AGE\nmlflow  87s\n"),
        (
            "quote decision 4cbdc2f09d42-31.",
            "quote decision 997f341b26f9-2.",
        ),
        ("first\n…\nlast\n", "first\nsecond\nlast\n"),
        (
            "approve mlflow-5b0c41d7a9e2f3806d1c-0",
            "approve mlflow-4011a71da772c8a2493c-1",
        ),
    ] {
        assert!(alike(shown, printed), "{shown} / {printed}");
    }
    for (shown, printed) in [
        ("35 of 40", "36 of 40"),
        ("first\n…\nlast\n", "first\nsecond\n"),
        ("Limit of 30 per 1m", "Limit of 30 per 1h"),
        ("denied", "denied\nand more"),
    ] {
        assert!(!alike(shown, printed), "{shown} / {printed}");
    }
}
