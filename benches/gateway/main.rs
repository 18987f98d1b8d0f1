//! Measures the gateway against a bare streaming proxy in the same run, and prints the table.
//! `make bench` runs it.
//!
//! The program starts itself again in other roles: a trivial fast MCP server, a hyper proxy that
//! only passes streams through, and the gateway with a policy, both in front of that server; it is
//! itself the load. Rounds of each kind are interleaved, medians are taken, and every body is
//! compared with the one that it must be. Nothing here is a test: figures depend on the machine and
//! on what else it does.

use std::net::SocketAddr;
use std::time::Duration;

use portcullis::gateway::process::raise_files;
use tokio::net::TcpListener;

mod evaluate;
mod guarded;
mod instructions;
mod limits;
mod load;
mod memory;
mod own;
mod process;
mod proxy;
mod start;
mod table;
mod upstream;
mod wire;

use load::{ID, Work, compare};
use process::{Awake, Process};
use table::Table;
use upstream::RESULT;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Done<T> = Result<T, Failure>;

fn main() -> Done<()> {
    // As the programs do, so that all have room for the streams.
    raise_files();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let role = arguments.first().map_or("", String::as_str);
    let target = || -> Done<SocketAddr> { Ok(arguments.get(1).ok_or("no address")?.parse()?) };
    // Proxy and gateway run as the programs do: a thread for each processor. Load and server do too
    // little for more than one.
    let mut runtime = match role {
        "proxy" | "gateway" | "gateway-full" => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = runtime.enable_all().build()?;
    match role {
        "upstream" => runtime.block_on(upstream::run()),
        "proxy" => runtime.block_on(proxy::run(target()?)),
        "gateway" => runtime.block_on(guarded::run(target()?, false)),
        "gateway-full" => runtime.block_on(guarded::run(target()?, true)),
        "awake" => loop {
            std::hint::spin_loop();
        },
        _ => runtime.block_on(measure()),
    }
}

/// Listens on a port of the system's choice and tells it to the process that waits for it.
async fn listen() -> Done<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    Ok(listener)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A number from the environment.
fn setting(variable: &str, default: f64) -> Done<f64> {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .map_err(|_| format!("{variable} must be a number").into()),
        Err(_) => Ok(default),
    }
}

fn call(tool: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{ID},"method":"tools/call","params":{{"name":"{tool}","arguments":{{"experiment_id":"7","key":"accuracy","limit":20}}}}}}"#
    )
}

fn result(result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{ID},"result":{result}}}"#)
}

async fn measure() -> Done<()> {
    let length = Duration::from_secs_f64(setting("BENCH_SECONDS", 2.0)?);
    let rounds = setting("BENCH_ROUNDS", 7.0)? as usize;
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let wanted = |part: &str| only.is_empty() || only.split(',').any(|one| one == part);
    let server = Process::start("upstream", None)?;
    let proxy = Process::start("proxy", Some(server.addr))?;
    let gateway = Process::start("gateway", Some(server.addr))?;
    let full = Process::start("gateway-full", Some(server.addr))?;
    let mut table = Table::default();

    let (request, answer) = (call("tool_2"), result(RESULT));
    let via = |process| Work {
        process,
        body: &request,
        expected: &answer,
    };
    if wanted("call") {
        let found = compare(via(&proxy), via(&gateway), 32, rounds, length).await?;
        table.row(
            "tools/call throughput, c=32, against a bare proxy",
            format!(
                "{:.2} ({:.0}/s of {:.0}/s)",
                found.ratio, found.b.rate, found.a.rate
            ),
            ">= 0.85",
            found.ratio / 0.85,
        );
        table.note(
            "  processor time of a call, gateway and proxy",
            format!("{:.1} us, {:.1} us", found.b.processor, found.a.processor),
        );
        let found = compare(via(&proxy), via(&full), 32, rounds, length).await?;
        table.note(
            "  the same with a limit and a condition over arguments",
            format!("{:.2} ({:.1} us)", found.ratio, found.b.processor),
        );
    }
    if wanted("latency") {
        let awake = Awake::start()?;
        if awake.is_none() {
            eprintln!(
                "chrt (util-linux) is missing: latency holds the time that halted processors take to wake"
            );
        }
        let found = compare(via(&proxy), via(&gateway), 1, rounds, length).await?;
        drop(awake);
        table.row(
            "added latency p50, c=1, over that proxy",
            format!(
                "{:.1} us ({:.1} over {:.1})",
                found.added, found.b.p50, found.a.p50
            ),
            "<= 25 us",
            25.0 / found.added,
        );
    }
    if wanted("list") {
        let request = format!(r#"{{"jsonrpc":"2.0","id":{ID},"method":"tools/list"}}"#);
        let whole = result(&upstream::list(|_| false));
        let filtered = result(&upstream::list(|n| n == 8 || n == 9));
        let via = |process, expected| Work {
            process,
            body: &request,
            expected,
        };
        let (bare, guarded) = (via(&proxy, &whole), via(&gateway, &filtered));
        let found = compare(bare, guarded, 16, rounds, length).await?;
        table.row(
            "tools/list, 50 tools, c=16, against that proxy",
            format!(
                "{:.2} ({:.0}/s of {:.0}/s)",
                found.ratio, found.b.rate, found.a.rate
            ),
            ">= 0.6",
            found.ratio / 0.6,
        );
        table.note(
            "  processor time of a list, gateway and proxy",
            format!("{:.1} us, {:.1} us", found.b.processor, found.a.processor),
        );
    }
    if wanted("denied") {
        let refused = format!(
            r#"{{"content":[{{"type":"text","text":"Denied by policy bench, rule denied: {} Do not retry."}}],"isError":true}}"#,
            guarded::REASON
        );
        let (request, refused) = (call("tool_1"), result(&refused));
        let denied = Work {
            process: &gateway,
            body: &request,
            expected: &refused,
        };
        let found = compare(via(&gateway), denied, 32, rounds, length).await?;
        table.row(
            "denied call, c=32, against an allowed one",
            format!(
                "{:.2}x ({:.0}/s to {:.0}/s)",
                found.ratio, found.b.rate, found.a.rate
            ),
            ">= 2x",
            found.ratio / 2.0,
        );
    }
    if wanted("evaluate") {
        let many = evaluate::measure(256)?;
        table.row(
            "evaluate, 256 rules with CEL, 4 for the tool",
            format!("{many:.2} us"),
            "<= 5 us",
            5.0 / many,
        );
        for rules in [16, 64] {
            let found = evaluate::measure(rules)?;
            table.note(
                &format!("  the same with {rules} rules"),
                format!("{found:.2} us"),
            );
        }
    }
    if wanted("worst") {
        let (taken, what) = evaluate::worst()?;
        table.row(
            "evaluate, 4 MB of arguments, the slowest condition",
            format!("{taken:.1} ms ({what})"),
            "<= 10 ms",
            10.0 / taken,
        );
    }
    if wanted("own") {
        own::json(&mut table)?;
        own::conditions(&mut table)?;
        own::pool(server.addr, &mut table).await?;
    }
    if wanted("limits") {
        limits::measure(&mut table).await?;
    }
    if wanted("instructions") {
        instructions::measure(server.addr, &request, &mut table).await?;
    }
    if wanted("start") {
        start::measure(server.addr, &mut table).await?;
    }
    if wanted("memory") {
        memory::measure(server.addr, via(&full), &mut table).await?;
    }
    table.print()?;
    println!(
        "\n{rounds} rounds of {:.1} s each, interleaved; medians. A ratio of 1 meets the target. Load, server, proxy and gateway\n\
         are processes of this machine and share its processors. Every body was compared. For latency, processors are kept\n\
         from halting. Not measured here: peers.",
        length.as_secs_f64()
    );
    Ok(())
}
