//! Measures the operator on a real API server of its own, with one gateway that runs. The figures
//! of a table, no verdict of a test: times are this machine's.

// What the tests share may fail loudly: a broken fixture is no measurement.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cluster;
mod gateway;
mod process;
#[path = "../../tests/cluster/support/mod.rs"]
mod support;
#[path = "../gateway/table.rs"]
mod table;

use std::time::{Duration, Instant};

use portcullis::api::policy::McpPolicy;
use portcullis::api::server::McpServer;

use cluster::{Bench, edited};
use gateway::Gateway;
use process::Operator;
use support::Cluster;
use support::control_plane::Options;
use support::wire::upstream::Fake;
use table::Table;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Done<T> = Result<T, Failure>;

/// Policies for each server.
const POLICIES: usize = 5;
/// Edits of one policy whose way is timed.
const EDITS: usize = 60;
/// Servers under one policy.
const WIDE: usize = 100;

fn main() -> Done<()> {
    eprintln!("Starting a control plane …");
    // What the controller manager makes of a thousand Deployments is as much work for the API
    // server as the operator's: it comes at the rate of a cluster, and not as fast as tests have
    // it.
    let options = Options {
        controller_rate: Some(20),
        ..Options::default()
    };
    let cluster = Cluster::start("a control plane", &options)
        .ok_or("there is no control plane to measure on")?;
    cluster.install_definitions();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure(&cluster))
}

fn setting(variable: &str, default: usize) -> Done<usize> {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .map_err(|_| format!("{variable} must be a whole number").into()),
        Err(_) => Ok(default),
    }
}

fn percentile(mut values: Vec<Duration>, part: f64) -> Duration {
    values.sort();
    let at = (values.len() as f64 * part).ceil() as usize;
    values
        .get(at.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

async fn measure(cluster: &Cluster) -> Done<()> {
    let servers = setting("BENCH_SERVERS", 1_000)?;
    let still = Duration::from_secs(setting("BENCH_STILL_SECONDS", 30)? as u64);
    let bench = Bench::new(cluster.admin_client());
    let kubeconfig = cluster.admin_kubeconfig();
    let fake = Fake::start(&["get_run", "delete_run"]).await;
    let churn = Duration::from_secs(setting("BENCH_CHURN_SECONDS", 180)? as u64);
    let mut table = Table::default();
    eprintln!(
        "Creating {servers} McpServers and {} McpPolicies …",
        servers * POLICIES
    );
    bench.fill(servers, POLICIES, fake.addr).await?;

    let operator = Operator::start(kubeconfig, "bench-a", 0)?;
    let started = Instant::now();
    let settled = operator
        .settled(Duration::from_secs(5), Duration::from_secs(900))
        .await?;
    let took = settled.duration_since(started);
    let written = operator.writes().await?;
    bench.check::<McpServer>(servers).await?;
    bench.check::<McpPolicy>(servers * POLICIES).await?;
    table.row(
        &format!(
            "{servers} servers + {} policies, cold to converged",
            servers * POLICIES
        ),
        format!("{:.1} s", took.as_secs_f64()),
        &format!("<= {:.0} s", 60.0 * servers as f64 / 1_000.0),
        60.0 * servers as f64 / 1_000.0 / took.as_secs_f64(),
    );
    // Eight objects and one status for each server, one status for each policy.
    let least = servers * 9 + servers * POLICIES;
    let over = written.without_events as f64 / least as f64 - 1.0;
    table.row(
        "writes over the minimum, Events apart",
        format!(
            "{:+.1} % ({} of {least})",
            over * 100.0,
            written.without_events
        ),
        "<= 5 %",
        if over <= 0.05 { 1.0 } else { 0.05 / over },
    );
    // One for each object that is accepted; they give way to everything else.
    let told = operator
        .told(servers * (POLICIES + 1), Duration::from_secs(300))
        .await?;
    table.note(
        "  Events, all written after",
        format!("{:.1} s ({told})", started.elapsed().as_secs_f64()),
    );
    eprintln!("Waiting until the controller manager has followed …");
    bench.followed().await?;
    let memory = operator.memory()?;
    table.row(
        &format!("memory with {} resources", servers * (POLICIES + 1)),
        format!("{memory:.1} MiB"),
        "<= 96 MiB",
        96.0 / memory,
    );
    let (before, cpu) = (operator.writes().await?, operator.processor()?);
    tokio::time::sleep(still).await;
    let (after, used) = (operator.writes().await?, operator.processor()? - cpu);
    let more = after.without_events - before.without_events;
    table.row(
        "writes at rest, the Lease apart",
        more.to_string(),
        "0",
        if more == 0 { 1.0 } else { 0.0 },
    );
    let core = used.as_secs_f64() / still.as_secs_f64() * 100.0;
    table.row(
        "processor at rest",
        format!("{core:.2} % of a core"),
        "<= 0.5 %",
        0.5 / core.max(0.001),
    );

    let mut times = Vec::new();
    for round in 0..EDITS {
        times.push(edited(&bench, "p-0-0", round, &["s-0".to_owned()]).await?);
    }
    let (half, most) = (percentile(times.clone(), 0.5), percentile(times, 0.99));
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    table.note(
        "policy write accepted to bundle written",
        format!("p50 {:.1} ms, p99 {:.1} ms", millis(half), millis(most)),
    );
    let mut gateway = Gateway::run(&bench, "s-0").await?;
    let mut times = Vec::new();
    for round in 0..EDITS {
        times.push(gateway.edited(&bench, "p-0-0", round).await?);
    }
    let (half, most) = (percentile(times.clone(), 0.5), percentile(times, 0.99));
    table.row(
        "policy write accepted to new verdict at the gateway, p50",
        format!("{:.1} ms", millis(half)),
        "<= 30 ms",
        30.0 / millis(half),
    );
    table.row(
        "  p99",
        format!("{:.1} ms", millis(most)),
        "<= 250 ms",
        250.0 / millis(most),
    );
    let wide = WIDE.min(servers);
    let names: Vec<String> = (0..wide).map(|at| format!("s-{at}")).collect();
    bench.wide(wide).await?;
    operator
        .settled(Duration::from_secs(3), Duration::from_secs(300))
        .await?;
    let mut times = Vec::new();
    for round in 0..5 {
        times.push(edited(&bench, "wide", round, &names).await?);
        operator
            .settled(Duration::from_secs(2), Duration::from_secs(300))
            .await?;
    }
    let worst = percentile(times, 1.0);
    table.row(
        &format!("one policy on {wide} servers, all bundles written, worst of 5"),
        format!("{:.2} s", worst.as_secs_f64()),
        "<= 2 s",
        2.0 / worst.as_secs_f64(),
    );

    if !churn.is_zero() {
        // What is remembered at most is reached in the first third.
        bench.churn(servers, churn / 3, fake.addr).await?;
        let before = operator.memory()?;
        let edits = bench.churn(servers, churn * 2 / 3, fake.addr).await?;
        let growth = (operator.memory()? / before - 1.0) * 100.0;
        table.row(
            &format!(
                "growth of memory in {:.0} s of churn",
                (churn * 2 / 3).as_secs_f64()
            ),
            format!("{growth:+.1} % of {before:.1} MiB ({edits} edits)"),
            "< 2 % in an hour",
            if growth < 2.0 { 1.0 } else { 2.0 / growth },
        );
    }

    let standby = Operator::start(kubeconfig, "bench-b", 1)?;
    standby.ready().await?;
    let asked = Instant::now();
    operator.terminate()?;
    bench.led_by("bench-b").await?;
    let took = asked.elapsed();
    table.row(
        "failover after SIGTERM",
        format!("{:.2} s", took.as_secs_f64()),
        "<= 1 s",
        1.0 / took.as_secs_f64(),
    );
    let third = Operator::start(kubeconfig, "bench-c", 2)?;
    third.ready().await?;
    let killed = Instant::now();
    drop(standby);
    bench.led_by("bench-c").await?;
    let took = killed.elapsed();
    table.row(
        "failover after kill -9, Lease of 15 s",
        format!("{:.1} s", took.as_secs_f64()),
        "<= 17 s",
        17.0 / took.as_secs_f64(),
    );
    table.print()?;
    println!(
        "\nOperator, API server, etcd, controller manager, scheduler and one gateway share this machine. Other pods do not run."
    );
    Ok(())
}
