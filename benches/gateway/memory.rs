//! Resident memory of gateways that do nothing, hold streams, have lost them, and have carried many
//! calls.

use std::net::SocketAddr;
use std::time::Duration;

use crate::load::{Client, Work};
use crate::process::Process;
use crate::table::Table;
use crate::{Done, setting};

/// Streams that are open and silent while memory is read.
const STREAMS: usize = 1_000;
/// How long after they have ended the memory should have been given back.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(10);
/// Calls before memory is first read, so that pools and buffers have their size, and the
/// allocator's arenas theirs.
const FIRST_CALLS: f64 = 1_000_000.0;

pub async fn measure(server: SocketAddr, work: Work<'_>, table: &mut Table) -> Done<()> {
    let seconds = setting("BENCH_MEMORY_SECONDS", 45.0)?;
    let gateway = Process::start("gateway-full", Some(server))?;
    let idle = gateway.memory()?;
    table.row(
        "memory, idle",
        format!("{idle:.1} MiB"),
        "<= 12 MiB",
        12.0 / idle,
    );
    let mut clients = Vec::new();
    for _ in 0..STREAMS {
        let mut client = Client::connect(gateway.addr).await?;
        client.listen().await?;
        clients.push(client);
    }
    let streaming = gateway.memory()?;
    let each = (streaming - idle) * 1024.0 / STREAMS as f64;
    table.row(
        &format!("memory of an idle stream, of {STREAMS}"),
        format!("{each:.1} KiB ({streaming:.1} MiB in all)"),
        "<= 20 KiB",
        20.0 / each,
    );
    drop(clients);
    tokio::time::sleep(GIVEN_BACK_WITHIN).await;
    let after = gateway.memory()?;
    table.row(
        &format!(
            "memory, {} s after these streams",
            GIVEN_BACK_WITHIN.as_secs()
        ),
        format!("{after:.1} MiB ({:+.0} %)", (after / idle - 1.0) * 100.0),
        "<= idle + 10 %",
        idle * 1.1 / after,
    );

    let gateway = Process::start("gateway-full", Some(server))?;
    let work = Work {
        process: &gateway,
        ..work
    };
    let mut calls = 0.0;
    while calls < FIRST_CALLS {
        calls += work.round(32, Duration::from_secs(1)).await?.rate;
    }
    let before = gateway.memory()?;
    let length = Duration::from_secs_f64(seconds);
    let more = work.round(32, length).await?.rate * seconds;
    let grown = gateway.memory()? - before;
    table.row(
        &format!(
            "memory, {:.1} M calls after the first {:.1} M",
            more / 1e6,
            calls / 1e6
        ),
        format!("{grown:+.1} MiB from {before:.1} MiB"),
        "flat (<= 0.5)",
        if grown <= 0.5 { 1.0 } else { 0.5 / grown },
    );
    Ok(())
}
