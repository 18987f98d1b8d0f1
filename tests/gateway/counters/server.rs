//! A Redis or Valkey server of a test's own, which is stopped, killed, paused and started again.

use std::ffi::OsString;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::installed;

/// A server on a loopback port.
pub struct Redis {
    program: OsString,
    arguments: Vec<String>,
    pub port: u16,
    folder: TempDir,
    child: Option<Child>,
}

impl Redis {
    /// Starts one that writes to its log before it answers; None if such tests are left out.
    pub fn start(arguments: &[&str]) -> Option<Redis> {
        let program = installed("PORTCULLIS_TEST_REDIS", "a Redis or Valkey server")?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let mut redis = Redis {
            program,
            arguments: arguments.iter().map(ToString::to_string).collect(),
            port,
            folder: tempfile::tempdir().unwrap(),
            child: None,
        };
        redis.again();
        Some(redis)
    }

    /// Starts it again, with what it had written down.
    pub fn again(&mut self) {
        assert!(self.child.is_none());
        let child = Command::new(&self.program)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "yes", "--dir"])
            .arg(self.folder.path())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(
                started.elapsed() < Duration::from_secs(30),
                "it does not listen"
            );
            std::thread::yield_now();
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// A connection of the test's own, without the client's time-out of half a second: a busy
    /// machine is slower.
    pub async fn connect(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.url()).unwrap();
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
        let made = client.get_multiplexed_async_connection_with_config(&config);
        made.await.unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
