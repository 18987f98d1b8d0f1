//! A container's process, in a group of its own that ends with it, and with the test binary
//! whatever happens.

use std::fs::OpenOptions;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use super::container::Plan;

pub struct Process {
    child: Child,
    pub group: Pid,
}

impl Process {
    pub fn start(plan: &Plan) -> Result<Self, String> {
        let told = |error: std::io::Error| format!("{}: {error}", plan.program);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&plan.log)
            .map_err(told)?;
        // The kernel ends it with the thread that starts it; that is the cluster's own, which lives
        // as long as the cluster.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--no-new-privs", "--"])
            .arg(&plan.program)
            .args(&plan.arguments)
            .env_clear()
            .envs(&plan.clock)
            .envs(&plan.variables)
            .current_dir(&plan.root)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(told)?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true);
        let child = command
            .spawn()
            .map_err(|error| format!("setpriv, of the package util-linux: {error}"))?;
        let group = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        let group = group.ok_or("it ended at once")?;
        Ok(Process { child, group })
    }

    /// Waits until it ended; what it left running ends then, as in a container.
    pub async fn wait(&mut self) -> Option<ExitStatus> {
        let status = self.child.wait().await.ok();
        let _ = kill_process_group(self.group, Signal::KILL);
        status
    }

    /// Asks it to end, and ends it after the grace period.
    pub async fn stop(mut self, grace: Duration) -> Option<ExitStatus> {
        if !grace.is_zero() {
            // As container runtimes do: the first process is asked, not its children.
            let _ = rustix::process::kill_process(self.group, Signal::TERM);
            if let Ok(status) = tokio::time::timeout(grace, self.wait()).await {
                return status;
            }
        }
        let _ = kill_process_group(self.group, Signal::KILL);
        self.wait().await
    }
}
