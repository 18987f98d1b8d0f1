//! From the start of `portcullis serve` to its first answer, and what it holds in memory then.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::load::Client;
use crate::process::resident;
use crate::table::Table;
use crate::{Done, median};

/// How often it is started.
const STARTS: usize = 15;
/// It must answer within this time.
const LONGEST: Duration = Duration::from_secs(30);

/// Killed when dropped.
struct Serve(Child);

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub async fn measure(server: SocketAddr, table: &mut Table) -> Done<()> {
    let folder = tempfile::tempdir()?;
    let resources = format!(
        "apiVersion: portcullis.dev/v1alpha1
kind: McpServer
metadata: {{ name: bench, namespace: ml }}
spec:
  upstream: {{ http: {{ url: \"http://{server}/mcp\" }} }}
  authentication: {{ anonymous: Allow }}
---
apiVersion: portcullis.dev/v1alpha1
kind: McpPolicy
metadata: {{ name: bench, namespace: ml }}
spec:
  targetRefs: [{{ group: portcullis.dev, kind: McpServer, name: bench }}]
  rules:
    - {{ name: reads, tools: {{ names: [\"tool_*\"] }}, action: Allow }}
    - {{ name: own, tools: {{ names: [tool_2] }}, action: Deny, when: args.experiment_id == '0' }}
"
    );
    fs::write(folder.path().join("bench.yaml"), resources)?;
    let mut times = Vec::new();
    let mut held = Vec::new();
    for _ in 0..STARTS {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let started = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .arg("serve")
            .arg("-f")
            .arg(folder.path())
            .args(["--listen", &address.to_string()])
            .arg("--socket")
            .arg(folder.path().join("socket"))
            .arg("--state")
            .arg(folder.path().join("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let serve = Serve(child);
        while let Err(error) = Client::connect_to(address, "/bench/mcp").await {
            if started.elapsed() > LONGEST {
                return Err(format!("serve does not answer: {error}").into());
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        times.push(started.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_millis(200)).await;
        held.push(resident(serve.0.id())?);
    }
    let time = median(times.into_iter());
    table.row(
        "start of `serve` to its first answer",
        format!("{time:.1} ms"),
        "<= 20 ms",
        20.0 / time,
    );
    let held = median(held.into_iter());
    table.row(
        "memory of `serve`, idle",
        format!("{held:.1} MiB"),
        "<= 16 MiB",
        16.0 / held,
    );
    Ok(())
}
