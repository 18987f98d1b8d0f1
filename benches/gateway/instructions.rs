//! Instructions of the gateway for one request, counted by callgrind: unlike times they are the
//! same on every run.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Done;
use crate::load::{Client, ID};
use crate::process::Process;
use crate::table::Table;

/// Requests before counting starts, so that connections are open and buffers have their size.
const FIRST: usize = 200;
/// Requests that are counted.
const COUNTED: usize = 500;

pub async fn measure(server: SocketAddr, call: &str, table: &mut Table) -> Done<()> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("valgrind is missing: instructions are not counted");
        return Ok(());
    }
    let calls = count(server, call).await?;
    table.note(
        "instructions of a tools/call",
        format!("{:.1} k", calls / 1e3),
    );
    let list = format!(r#"{{"jsonrpc":"2.0","id":{ID},"method":"tools/list"}}"#);
    let lists = count(server, &list).await?;
    table.row(
        "instructions of a tools/list that has not changed",
        format!("{:.1} k", lists / 1e3),
        "<= 100 k",
        1e5 / lists,
    );
    Ok(())
}

async fn count(server: SocketAddr, request: &str) -> Done<f64> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("out");
    let mut tool = Command::new("valgrind");
    tool.args(["--tool=callgrind", "--instr-atstart=no"]);
    tool.arg(format!("--callgrind-out-file={}", out.display()));
    tool.stderr(Stdio::null());
    let gateway = Process::start_under(tool, "gateway", Some(server))?;
    let control = |arguments: &[&str]| -> Done<()> {
        let status = Command::new("callgrind_control")
            .args(arguments)
            .arg(gateway.id().to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("callgrind_control {arguments:?}: {status}").into())
        }
    };
    let mut client = Client::connect(gateway.addr).await?;
    client.ask(request, FIRST).await?;
    control(&["-i", "on"])?;
    client.ask(request, COUNTED).await?;
    control(&["-i", "off"])?;
    control(&["-d"])?;
    Ok(total(folder.path())? / COUNTED as f64)
}

/// The largest total of the dumps in a folder.
fn total(folder: &Path) -> Done<f64> {
    let mut totals = Vec::new();
    for entry in fs::read_dir(folder)? {
        let text = fs::read_to_string(entry?.path())?;
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix("totals: "));
        totals.extend(line.and_then(|line| line.parse::<f64>().ok()));
    }
    totals
        .into_iter()
        .max_by(f64::total_cmp)
        .ok_or_else(|| "callgrind wrote no totals".into())
}
