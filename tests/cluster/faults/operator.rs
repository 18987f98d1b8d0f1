//! One operator as a process, started again whenever it ends, as a node does it.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// Between the end of a process and the next one.
const AGAIN: Duration = Duration::from_millis(100);

/// What it is started with.
#[derive(Clone)]
pub struct Start {
    pub kubeconfig: PathBuf,
    pub arguments: Vec<String>,
    pub log: PathBuf,
}

/// A running operator; it ends with the value, and with the test binary whatever happens.
pub struct Operator {
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    process: Option<Pid>,
    starts: usize,
    stopped: bool,
}

impl Operator {
    pub fn start(start: Start) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        // The kernel ends the process with the thread that started it.
        let thread = std::thread::spawn({
            let state = Arc::clone(&state);
            move || run(&start, &state)
        });
        Operator {
            state,
            thread: Some(thread),
        }
    }

    /// Something that kills the process, in the midst of whatever it does. It is started again.
    pub fn killer(&self) -> impl Fn() + Send + 'static {
        let state = Arc::clone(&self.state);
        move || kill(&state.lock().unwrap())
    }

    /// How often it was started.
    pub fn starts(&self) -> usize {
        self.state.lock().unwrap().starts
    }

    /// Kills it, for good.
    pub fn end(&mut self) {
        {
            let mut state = self.state.lock().unwrap();
            state.stopped = true;
            kill(&state);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.end();
    }
}

fn kill(state: &State) {
    if let Some(process) = state.process {
        kill_process(process, Signal::KILL).unwrap();
    }
}

fn run(start: &Start, state: &Mutex<State>) {
    loop {
        let mut child = {
            let mut state = state.lock().unwrap();
            if state.stopped {
                return;
            }
            let child = command(start).spawn().unwrap();
            state.process = Pid::from_raw(child.id().try_into().unwrap());
            state.starts += 1;
            child
        };
        let process = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
        // Its id stays its own until it is waited for, and until then it may be killed.
        let _ = waitid(
            WaitId::Pid(process),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        );
        state.lock().unwrap().process = None;
        let _ = child.wait();
        std::thread::sleep(AGAIN);
    }
}

fn command(start: &Start) -> Command {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&start.log)
        .unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--no-new-privs", "--"])
        .arg(env!("CARGO_BIN_EXE_portcullis-operator"))
        .args(&start.arguments)
        .env_clear()
        .envs(crate::support::wire::clock())
        .env("KUBECONFIG", &start.kubeconfig)
        .env("RUST_LOG", "portcullis=debug")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    command
}
