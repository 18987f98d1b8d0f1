//! The clients that people's agents use, as programs: how each is started, told its steps, and
//! read.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{installed, node, soon};

/// Several programs that each start an interpreter, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// One client: its name, where it is, and what its script is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Python1,
    Python2,
    FastMcp,
    TypeScript1,
    TypeScript2,
    McpRemote,
    Inspector,
}

impl Program {
    /// The SDKs' own clients.
    pub const SDKS: [Program; 4] = [
        Program::Python1,
        Program::Python2,
        Program::TypeScript1,
        Program::TypeScript2,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Program::Python1 => "Python SDK 1.x",
            Program::Python2 => "Python SDK 2.x",
            Program::FastMcp => "fastmcp",
            Program::TypeScript1 => "TypeScript SDK 1.x",
            Program::TypeScript2 => "TypeScript SDK 2.x",
            Program::McpRemote => "mcp-remote",
            Program::Inspector => "the Inspector's command line",
        }
    }

    /// The variable that says where it is, its script, and the script's word for it.
    fn parts(self) -> (&'static str, &'static str, Option<&'static str>) {
        let modules = "PORTCULLIS_TEST_NODE_MODULES";
        match self {
            Program::Python1 => ("PORTCULLIS_TEST_PYTHON_1", "python.py", None),
            Program::Python2 => ("PORTCULLIS_TEST_PYTHON_2", "python.py", None),
            Program::FastMcp => ("PORTCULLIS_TEST_FASTMCP", "python.py", None),
            Program::TypeScript1 => (modules, "node.mjs", Some("sdk")),
            Program::TypeScript2 => (modules, "node.mjs", Some("client")),
            Program::McpRemote => (modules, "node.mjs", Some("remote")),
            Program::Inspector => (modules, "inspector.mjs", Some("inspector")),
        }
    }

    /// Starts it on its steps; None if it is not installed and need not be.
    pub fn start(self, url: &str, steps: &Value) -> Option<Running> {
        let (variable, script, word) = self.parts();
        let place = installed(variable, self.name())?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/gateway/clients")
            .join(script);
        let home = tempfile::tempdir().unwrap();
        let mut command = match word {
            None => {
                let mut command = Command::new(&place);
                command.arg(script);
                command
            }
            Some(word) => {
                let mut command = Command::new(node(&place));
                command.arg(script).arg(&place).arg(word);
                command
            }
        };
        command
            .arg(url)
            .arg(steps.to_string())
            // mcp-remote keeps what it knows of servers there.
            .env("MCP_REMOTE_CONFIG_DIR", home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        Some(Running {
            program: self,
            to: child.stdin.take().unwrap(),
            said: BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
            _home: home,
        })
    }

    /// What it got, once it has done all its steps.
    pub async fn run(self, url: &str, steps: &Value) -> Option<Value> {
        Some(self.start(url, steps)?.ends().await)
    }
}

/// A client at work.
pub struct Running {
    program: Program,
    to: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
    child: Child,
    _home: tempfile::TempDir,
}

impl Running {
    async fn line(&mut self) -> String {
        let what = self.program.name();
        let line = tokio::time::timeout(PATIENCE, self.said.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("{what} does not go on"));
        match line.unwrap() {
            Some(line) => line,
            None => panic!("{what}: {}", self.complaint().await),
        }
    }

    /// Returns when the client has come to its next `wait`.
    pub async fn waits(&mut self) {
        let line = self.line().await;
        assert_eq!(line, "wait", "{}", self.program.name());
    }

    pub async fn go_on(&mut self) {
        self.to.write_all(b"go on\n").await.unwrap();
    }

    /// What it got.
    pub async fn ends(mut self) -> Value {
        let line = self.line().await;
        serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("{}: {error}: {line}", self.program.name()))
    }

    async fn complaint(&mut self) -> String {
        use tokio::io::AsyncReadExt as _;
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = soon("its complaint", stderr.read_to_string(&mut text)).await;
        }
        text
    }
}
