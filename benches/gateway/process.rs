//! This program in another role, as a process of its own, and what the system tells of it.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use crate::Done;

/// A running process; killed when dropped.
pub struct Process {
    child: Child,
    /// Where it listens.
    pub addr: SocketAddr,
}

impl Process {
    /// Starts a role and waits until it listens.
    pub fn start(role: &str, target: Option<SocketAddr>) -> Done<Self> {
        Self::spawn(Command::new(std::env::current_exe()?), role, target)
    }

    /// The same under a tool that runs it, as valgrind does.
    pub fn start_under(mut tool: Command, role: &str, target: Option<SocketAddr>) -> Done<Self> {
        tool.arg(std::env::current_exe()?);
        Self::spawn(tool, role, target)
    }

    fn spawn(mut command: Command, role: &str, target: Option<SocketAddr>) -> Done<Self> {
        command.arg(role).args(target.map(|addr| addr.to_string()));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        match line.trim().parse() {
            Ok(addr) => Ok(Process { child, addr }),
            Err(_) => Err(format!("the {role} did not start: {}", child.wait()?).into()),
        }
    }

    /// Of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in MiB.
    pub fn memory(&self) -> Done<f64> {
        resident(self.child.id())
    }

    /// Processor time of all its threads so far, in nanoseconds.
    pub fn processor_time(&self) -> Done<f64> {
        let mut sum = 0.0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            // A thread may end meanwhile.
            if let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) {
                let first = text.split_ascii_whitespace().next().ok_or("no schedstat")?;
                sum += first.parse::<f64>()?;
            }
        }
        Ok(sum)
    }
}

/// Resident memory of a process in MiB.
pub fn resident(process: u32) -> Done<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line
        .ok_or("no VmRSS")?
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()?;
    Ok(kib / 1024.0)
}

/// Keeps the processors from halting: waking one costs a virtual machine more than a request does,
/// and more for the second in a chain than for the first. What keeps them awake is of the idle
/// class and yields at once (sched(7), SCHED_IDLE).
pub struct Awake(Vec<Child>);

impl Awake {
    /// One process for each processor; None where `chrt` of util-linux is missing.
    pub fn start() -> Done<Option<Self>> {
        let mut awake = Awake(Vec::new());
        for _ in 0..std::thread::available_parallelism()?.get() {
            let mut command = Command::new("chrt");
            command.args(["--idle", "0"]).arg(std::env::current_exe()?);
            match command.arg("awake").stdin(Stdio::null()).spawn() {
                Ok(child) => awake.0.push(child),
                Err(_) => return Ok(None),
            }
        }
        Ok(Some(awake))
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
