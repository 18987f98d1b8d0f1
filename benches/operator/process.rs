//! Operators as processes, and what their metrics and the kernel say of them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::Done;

/// The kernel counts processor time in hundredths of a second (USER_HZ, proc(5)).
const TICK: Duration = Duration::from_millis(10);

pub struct Operator {
    child: Child,
    admin: SocketAddr,
    _key: tempfile::TempDir,
}

/// Requests that changed something.
#[derive(Clone, Copy)]
pub struct Writes {
    pub without_events: usize,
    pub events: usize,
}

impl Operator {
    pub fn start(kubeconfig: &Path, name: &str, number: u16) -> Done<Self> {
        let admin = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let folder = tempfile::tempdir()?;
        let key = folder.path().join("key");
        std::fs::write(&key, "a key for a measurement only")?;
        let log = std::fs::File::create(
            std::env::temp_dir().join(format!("portcullis-bench-{number}.log")),
        )?;
        let child = Command::new(env!("CARGO_BIN_EXE_portcullis-operator"))
            .args([
                "--namespace=portcullis-bench",
                "--gateway-image=portcullis-gateway:bench",
            ])
            .env("KUBECONFIG", kubeconfig)
            .arg(format!("--pod-name={name}"))
            .arg(format!("--key-file={}", key.display()))
            .arg(format!("--admin-listen={admin}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(Operator {
            child,
            admin,
            _key: folder,
        })
    }

    async fn get(&self, path: &str) -> Done<(u16, String)> {
        let stream = TcpStream::connect(self.admin).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let request = http::Request::get(path)
            .header("host", "bench")
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        driver.abort();
        Ok((status, String::from_utf8(body.to_vec())?))
    }

    /// Waits until its caches are warm.
    pub async fn ready(&self) -> Done<()> {
        for _ in 0..1_200 {
            if matches!(self.get("/readyz").await, Ok((200, _))) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err("the operator does not become ready".into())
    }

    pub async fn writes(&self) -> Done<Writes> {
        let (_, page) = self.get("/metrics").await?;
        let mut writes = Writes {
            without_events: 0,
            events: 0,
        };
        for line in page
            .lines()
            .filter(|line| line.starts_with("portcullis_operator_api_requests_total{"))
        {
            let (labels, count) = line.rsplit_once(' ').ok_or("a metric without a value")?;
            let reads = ["get", "list", "watch"]
                .iter()
                .any(|verb| labels.contains(&format!("verb=\"{verb}\"")));
            let count: usize = count.parse()?;
            if reads || labels.contains("resource=\"leases\"") {
                continue;
            }
            if labels.contains("resource=\"events\"") {
                writes.events += count;
            } else {
                writes.without_events += count;
            }
        }
        Ok(writes)
    }

    /// Waits until nothing but Events was written for a while; the time of the last write.
    pub async fn settled(&self, quiet: Duration, within: Duration) -> Done<Instant> {
        let start = Instant::now();
        let (mut last, mut since) = (None, Instant::now());
        while start.elapsed() < within {
            let now = self.writes().await.ok().map(|writes| writes.without_events);
            if now != last || now.is_none_or(|now| now == 0) {
                (last, since) = (now, Instant::now());
            } else if since.elapsed() >= quiet {
                return Ok(since);
            }
            // A page with thousands of resources on it is work for both sides.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Err("the operator does not come to rest".into())
    }

    /// Waits until so many Events were written; how many there are when that does not come.
    pub async fn told(&self, events: usize, within: Duration) -> Done<usize> {
        let start = Instant::now();
        loop {
            let written = self.writes().await?.events;
            if written >= events || start.elapsed() > within {
                return Ok(written);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Resident memory in MiB.
    pub fn memory(&self) -> Done<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .ok_or("no VmRSS")?;
        let kib: f64 = line.split_whitespace().nth(1).ok_or("no value")?.parse()?;
        Ok(kib / 1_024.0)
    }

    /// Processor time so far.
    pub fn processor(&self) -> Done<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, fields) = stat.rsplit_once(')').ok_or("no fields")?;
        let mut fields = fields.split_whitespace().skip(11);
        let mut next = || -> Done<u32> { Ok(fields.next().ok_or("too few fields")?.parse()?) };
        Ok(TICK * (next()? + next()?))
    }

    pub fn terminate(&self) -> Done<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        Ok(rustix::process::kill_process(
            pid,
            rustix::process::Signal::TERM,
        )?)
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
