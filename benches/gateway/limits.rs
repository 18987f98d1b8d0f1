//! What it takes to count one call: in memory, in a journal, in a Redis or Valkey server.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::api::policy::Scope;
use portcullis::gateway::counters::{Counters, Local, SharedCounters};
use portcullis::policy::decision::{Charge, Counter, RuleId};

use crate::table::Table;
use crate::{Done, median};

/// Calls of each kind.
const CALLS: usize = 20_000;
/// Bytes of a record of one call with one limit.
const RECORD: usize = 33;

fn charge() -> Charge {
    let rule = RuleId {
        namespace: "bench".to_owned(),
        policy: "bench".to_owned(),
        rule: "limited".to_owned(),
        qualified: false,
        uid: Arc::from(""),
    };
    Charge {
        counter: Arc::new(Counter {
            server: "0b3c9f9e-7d3d-4a8e-8a57-6d2f7f0a3c11".into(),
            namespace: "bench".to_owned(),
            policy: "bench".to_owned(),
            name: "calls".to_owned(),
            max: 1_000_000_000,
            window: Duration::from_secs(1),
            window_text: "1s".to_owned(),
            scope: Scope::Grant,
            shadow: false,
        }),
        scope: Scope::Grant,
        value: "key:bench".to_owned(),
        cost: 1,
        by: Arc::new(rule),
        reason: None,
    }
}

fn micros(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1e6
}

fn local(counters: &Local) -> Done<f64> {
    let charge = charge();
    let mut taken = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let started = Instant::now();
        let reserved = counters.reserve("key:bench", std::iter::once(&charge));
        taken.push(micros(started));
        drop(reserved.map_err(|why| format!("{why:?}"))?);
    }
    Ok(median(taken.into_iter()))
}

/// A write(2) of as many bytes, which is what the journal cannot do without.
fn bare_write() -> Done<f64> {
    let mut file = tempfile::tempfile()?;
    let record = [7; RECORD];
    let mut taken = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let started = Instant::now();
        file.write_all(&record)?;
        taken.push(micros(started));
    }
    Ok(median(taken.into_iter()))
}

/// A server of its own, which ends with the value.
struct Redis(Child);

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Microseconds of a PING and of a limited call on one connection each; None without a server's
/// program.
async fn redis() -> Done<Option<(f64, f64)>> {
    let program =
        std::env::var_os("PORTCULLIS_TEST_REDIS").unwrap_or_else(|| "redis-server".into());
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    drop(listener);
    let folder = tempfile::tempdir()?;
    let started = Command::new(program)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "yes", "--dir"])
        .arg(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(child) = started else {
        eprintln!(
            "no redis-server is there, and PORTCULLIS_TEST_REDIS names none: limits in Redis are not measured"
        );
        return Ok(None);
    };
    let _server = Redis(child);
    let url = format!("redis://127.0.0.1:{port}");
    let client = redis::Client::open(url.as_str())?;
    let begun = Instant::now();
    let mut connection = loop {
        match client.get_multiplexed_async_connection().await {
            Ok(connection) => break connection,
            Err(error) if begun.elapsed() > Duration::from_secs(10) => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let counters = SharedCounters::connect("bench", url.as_bytes(), None, false);
    let charges = [charge()];
    let (mut pings, mut calls) = (Vec::new(), Vec::new());
    // Alternating, so that both meet the same machine.
    for _ in 0..CALLS / 10 {
        let started = Instant::now();
        redis::cmd("PING")
            .query_async::<String>(&mut connection)
            .await?;
        pings.push(micros(started));
        let started = Instant::now();
        let reserved = counters.reserve("key:bench", &charges).await;
        calls.push(micros(started));
        drop(reserved.map_err(|why| format!("{why:?}"))?);
    }
    Ok(Some((median(pings.into_iter()), median(calls.into_iter()))))
}

/// Adds the rows.
pub async fn measure(table: &mut Table) -> Done<()> {
    let memory = local(&Counters::default().of("bench"))?;
    table.row(
        "a limit counted in memory, p50",
        format!("{memory:.2} us"),
        "<= 2 us",
        2.0 / memory,
    );
    let folder = tempfile::tempdir()?;
    let journal = local(&Counters::kept_in(folder.path().to_owned())?.of("bench"))?;
    let bare = bare_write()?;
    table.row(
        "a limit counted in a journal, p50",
        format!("{journal:.2} us (of it a write(2): {bare:.2})"),
        "<= 15 us",
        15.0 / journal,
    );
    if let Some((ping, call)) = redis().await? {
        table.row(
            "a limit counted in Redis, p50, against a PING",
            format!("{:.2} ({call:.0} us to {ping:.0} us)", call / ping),
            "<= 2.5",
            2.5 * ping / call,
        );
    }
    Ok(())
}
