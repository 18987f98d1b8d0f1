//! The processes of the control plane, started and stopped by tests/setup/controlplane.sh.
//!
//! In: which programs, and what tests do to them. Out: a folder with kubeconfigs and logs. Must not
//! do: outlive the test binary; the script ends all of it when its input closes, which the kernel
//! does for a process that died of anything.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use rustix::process::{Pid, Signal, kill_process};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/setup/controlplane.sh");

/// One program of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Etcd,
    ApiServer,
    ControllerManager,
    Scheduler,
}

impl Program {
    const ALL: [Program; 4] = [
        Program::Etcd,
        Program::ApiServer,
        Program::ControllerManager,
        Program::Scheduler,
    ];

    fn name(self) -> &'static str {
        match self {
            Program::Etcd => "etcd",
            Program::ApiServer => "kube-apiserver",
            Program::ControllerManager => "kube-controller-manager",
            Program::Scheduler => "kube-scheduler",
        }
    }
}

/// What can be asked of a control plane.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Bytes that etcd holds before it refuses writes.
    pub etcd_quota: Option<u64>,
    /// Requests a second that each controller of the controller manager makes at most.
    pub controller_rate: Option<u16>,
}

/// A running control plane; ends with the value or with the process.
pub struct ControlPlane {
    folder: PathBuf,
    script: Mutex<Script>,
}

struct Script {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl ControlPlane {
    /// Starts one from the programs in the folder `programs`; waits until it is ready.
    pub fn start(programs: &Path, options: &Options) -> Result<Self, String> {
        let folder = tempfile::Builder::new()
            .prefix("portcullis.")
            .tempdir()
            .map_err(|error| format!("no temporary folder: {error}"))?
            .keep();
        let mut command = Command::new("bash");
        command
            .arg(SCRIPT)
            .arg("serve")
            .arg(&folder)
            .env("PORTCULLIS_TEST_CONTROLPLANE", programs)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(bytes) = options.etcd_quota {
            command.env("PORTCULLIS_ETCD_QUOTA", bytes.to_string());
        }
        if let Some(rate) = options.controller_rate {
            command.env("PORTCULLIS_CONTROLLER_RATE", rate.to_string());
        }
        let mut child = command.spawn().map_err(|error| format!("bash: {error}"))?;
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut line = String::new();
        let read = output.read_line(&mut line);
        if read.is_err() || line != "ready\n" {
            let mut told = String::new();
            if let Some(mut errors) = child.stderr.take() {
                let _ = errors.read_to_string(&mut told);
            }
            let _ = child.wait();
            return Err(told);
        }
        let script = Mutex::new(Script {
            child,
            input,
            output,
        });
        Ok(ControlPlane { folder, script })
    }

    /// Where its kubeconfigs and logs are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn order(&self, verb: &str, program: Program) {
        let mut script = self.script.lock().unwrap();
        let line = format!("{verb} {}\n", program.name());
        script
            .input
            .as_mut()
            .unwrap()
            .write_all(line.as_bytes())
            .unwrap();
        let mut answer = String::new();
        script.output.read_line(&mut answer).unwrap();
        assert_eq!(answer, "ok\n", "{line}");
    }

    /// Asks it to end, and waits until it did.
    pub fn stop(&self, program: Program) {
        self.order("stop", program);
    }

    /// Ends it without asking.
    pub fn kill(&self, program: Program) {
        self.order("kill", program);
    }

    /// Starts it again; the API server is ready then.
    pub fn start_again(&self, program: Program) {
        self.order("start", program);
    }

    /// It stands still, with its connections open, until [`ControlPlane::resume`].
    pub fn pause(&self, program: Program) {
        kill_process(self.pid(program), Signal::STOP).unwrap();
    }

    pub fn resume(&self, program: Program) {
        kill_process(self.pid(program), Signal::CONT).unwrap();
    }

    pub fn pid(&self, program: Program) -> Pid {
        let file = self.folder.join(format!("{}.pid", program.name()));
        let text = std::fs::read_to_string(file).unwrap();
        Pid::from_raw(text.trim().parse().unwrap()).unwrap()
    }

    /// The last lines of each log.
    pub fn log(&self) -> String {
        let tail = |program: Program| {
            let file = self.folder.join(format!("{}.log", program.name()));
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let last = lines
                .get(lines.len().saturating_sub(8)..)
                .unwrap_or_default();
            format!("== {}\n{}\n", file.display(), last.join("\n"))
        };
        Program::ALL.map(tail).concat()
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if let Ok(script) = self.script.get_mut() {
            drop(script.input.take());
            let _ = script.child.wait();
        }
    }
}
