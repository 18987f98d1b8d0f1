//! Measures the gateway against a bare streaming proxy in the same run, and prints the table. `make bench` runs it.
//!
//! The program starts itself three more times: a trivial fast MCP server, a hyper proxy that only passes streams through,
//! and the gateway with a policy, both in front of that server. Rounds of each kind are interleaved, and medians are taken;
//! every body is compared with the one that it must be. Nothing here is a test: figures depend on the machine.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis::gateway::approvals::{Approvals, Memory};
use portcullis::gateway::audit::AuditLog;
use portcullis::gateway::metrics::Metrics;
use portcullis::gateway::server::{Routes, serve};
use portcullis::gateway::snapshot::Environment;
use portcullis::gateway::snapshot::secrets::Secrets;
use portcullis::gateway::{Gateway, Shared};
use portcullis::policy::bundle::{Bundle, BundlePolicy, BundleServer, FORMAT};
use portcullis::policy::inventory::Definition;
use portcullis::policy::{Bound, Call, Caller, Outcome, compile};
use portcullis::protocol::seal::Sealer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Done<T> = Result<T, Failure>;

const TOOLS: usize = 50;

fn main() -> Done<()> {
    let mut arguments = std::env::args().skip(1);
    let role = arguments.next().unwrap_or_default();
    let workers = if role == "upstream" { 1 } else { 2 };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()?;
    let target = || -> Done<SocketAddr> {
        Ok(std::env::args()
            .nth(2)
            .ok_or("an address is missing")?
            .parse()?)
    };
    match role.as_str() {
        "upstream" => runtime.block_on(upstream()),
        "proxy" => runtime.block_on(proxy(target()?)),
        "gateway" => runtime.block_on(gateway(target()?)),
        _ => runtime.block_on(measure()),
    }
}

// ---- a process of each kind ----

async fn listen() -> Done<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    Ok(listener)
}

/// Reads one HTTP message: the bytes of its head and of its body. None at the end of the connection.
async fn message(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Done<Option<(usize, usize)>> {
    let mut searched = 0;
    let head = loop {
        if let Some(at) = buffer[searched..]
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
        {
            break searched + at + 4;
        }
        searched = buffer.len().saturating_sub(3);
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let text = std::str::from_utf8(&buffer[..head])?;
    let mut length = 0;
    for line in text.split("\r\n") {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse()?;
        }
    }
    while buffer.len() < head + length {
        if stream.read_buf(buffer).await? == 0 {
            return Err("a body broke off".into());
        }
    }
    Ok(Some((head, head + length)))
}

fn tools() -> String {
    let tools: Vec<Value> = (0..TOOLS).map(definition).collect();
    json!({ "tools": tools }).to_string()
}

fn definition(n: usize) -> Value {
    json!({"name": format!("tool_{n}"), "description": "Looks something up in the tracking server and returns it as text, newest first, with everything that belongs to it.",
        "inputSchema": {"type": "object", "properties": {"experiment_id": {"type": "string", "description": "The experiment"},
            "key": {"type": "string"}, "limit": {"type": "integer", "default": 10}}, "required": ["experiment_id"]}})
}

const RESULT: &str = r#"{"content":[{"type":"text","text":"[{\"step\": 1, \"value\": 0.913, \"timestamp\": 1700000000}, {\"step\": 2, \"value\": 0.927, \"timestamp\": 1700000060}]"}],"isError":false}"#;
const INITIALIZED: &str = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"fast","version":"1"}}"#;

/// The answer to a request by what its body contains; the id is echoed.
fn answer(body: &[u8], list: &str) -> String {
    let has = |what: &[u8]| body.windows(what.len()).any(|window| window == what);
    let Some(at) = body.windows(5).position(|window| window == b"\"id\":") else {
        return "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".to_owned();
    };
    let id: String = body[at + 5..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .map(|byte| char::from(*byte))
        .collect();
    let result = if has(b"tools/call") {
        RESULT
    } else if has(b"tools/list") {
        list
    } else {
        INITIALIZED
    };
    let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn upstream() -> Done<()> {
    let listener = listen().await?;
    let list: Arc<str> = tools().into();
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let list = Arc::clone(&list);
        tokio::spawn(async move {
            let mut buffer = Vec::with_capacity(16 << 10);
            while let Some((head, end)) = message(&mut stream, &mut buffer).await? {
                if buffer.starts_with(b"GET") {
                    // A stream that stays silent.
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
                } else {
                    let bytes = answer(&buffer[head..end], &list);
                    stream.write_all(bytes.as_bytes()).await?;
                }
                buffer.drain(..end);
            }
            Ok::<_, Failure>(())
        });
    }
}

/// What a proxy costs that reads nothing.
async fn proxy(target: SocketAddr) -> Done<()> {
    let listener = listen().await?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<_, Incoming> = Client::builder(TokioExecutor::new()).build(connector);
    let uri: http::Uri = format!("http://{target}/mcp").parse()?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (client, uri) = (client.clone(), uri.clone());
        tokio::spawn(async move {
            let service = service_fn(move |mut request: http::Request<Incoming>| {
                *request.uri_mut() = uri.clone();
                client.request(request)
            });
            http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await
        });
    }
}

struct NoSecrets;

impl Secrets for NoSecrets {
    fn all(&self, _: &str) -> Option<std::collections::BTreeMap<String, Vec<u8>>> {
        None
    }
}

fn bundle(url: &str, rules: Value) -> Done<Bundle> {
    let server = json!({"upstream": {"http": {"url": url}}, "authentication": {"anonymous": "Allow"}, "catalog": "None"});
    let policy = json!({"targetRefs": [{"group": "portcullis.dev", "kind": "McpServer", "name": "bench"}], "defaultAction": "Hide", "rules": rules});
    let bundle = Bundle {
        format: FORMAT,
        sequence: 1,
        revision: String::new(),
        server: BundleServer {
            namespace: "bench".to_owned(),
            name: "bench".to_owned(),
            uid: "5a7b1f0e-3b1e-4bb2-9a6c-2f3a3a0f0d11".to_owned(),
            spec: serde_json::from_value(server)?,
        },
        policies: vec![BundlePolicy {
            namespace: "bench".to_owned(),
            name: "bench".to_owned(),
            uid: "policy".to_owned(),
            generation: 1,
            spec: serde_json::from_value(policy)?,
        }],
        blocked: Vec::new(),
        issuers: Vec::new(),
        report_token_sha256: None,
    };
    Ok(bundle.sealed()?)
}

async fn gateway(target: SocketAddr) -> Done<()> {
    let rules = json!([
        {"name": "use", "tools": {"names": ["*"]}, "action": "Allow", "limits": [{"counter": "calls", "max": 1_000_000_000, "window": "1m"}]},
        {"name": "denied", "tools": {"names": ["tool_1"]}, "action": "Deny", "reason": "Not for agents."},
        {"name": "own", "tools": {"names": ["tool_*"]}, "action": "Deny", "when": "args.experiment_id == '0'"},
    ]);
    // Records are written as in production, to nobody.
    let sink = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    let (audit, _writer) = AuditLog::start(vec![Box::new(sink)])?;
    let shared = Shared {
        instance: "bench".to_owned(),
        audit,
        metrics: Metrics::register(&mut prometheus_client::registry::Registry::default()),
        sealer: Arc::new(Sealer::ephemeral()?),
        approvals: Approvals::Memory(Arc::new(Memory::default())),
    };
    let environment = Environment {
        secrets: Box::new(NoSecrets),
        env: Default::default(),
    };
    let gateway = Gateway::start(
        &shared,
        environment,
        bundle(&format!("http://{target}/mcp"), rules)?,
    )?;
    gateway.inventory.first().await;
    let listener = listen().await?;
    let routes = Arc::new(Routes::default());
    routes.set([("/mcp".to_owned(), gateway)].into());
    serve(listener, routes, CancellationToken::new(), Duration::ZERO).await;
    Ok(())
}

/// A process of this program in another role; killed when dropped.
struct Process {
    child: Child,
    addr: SocketAddr,
}

impl Process {
    fn start(role: &str, target: Option<SocketAddr>) -> Done<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(role).args(target.map(|addr| addr.to_string()));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let addr = line
            .trim()
            .parse()
            .map_err(|_| format!("the {role} did not start"))?;
        Ok(Process { child, addr })
    }

    /// Resident memory in MiB.
    fn memory(&self) -> Done<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .ok_or("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib / 1024.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// ---- load ----

/// One kind of request with the answer that it must get.
#[derive(Clone)]
struct Work {
    addr: SocketAddr,
    request: Arc<[u8]>,
    expected: Arc<str>,
}

impl Work {
    fn new(addr: SocketAddr, session: Option<&str>, body: &str, expected: &str) -> Self {
        let session = session
            .map(|id| format!("Mcp-Session-Id: {id}\r\nMCP-Protocol-Version: 2025-11-25\r\n"));
        let request = format!(
            "POST /mcp HTTP/1.1\r\nHost: {addr}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n{}Content-Length: {}\r\n\r\n{body}",
            session.unwrap_or_default(),
            body.len()
        );
        Work {
            addr,
            request: request.into_bytes().into(),
            expected: expected.into(),
        }
    }

    /// Sends requests on one connection until the time is over; returns how long each took.
    async fn connection(self, until: Instant) -> Done<Vec<u32>> {
        let mut stream = TcpStream::connect(self.addr).await?;
        stream.set_nodelay(true)?;
        let mut buffer = Vec::with_capacity(64 << 10);
        let mut times = Vec::with_capacity(1 << 16);
        while Instant::now() < until {
            let started = Instant::now();
            stream.write_all(&self.request).await?;
            let (head, end) = message(&mut stream, &mut buffer)
                .await?
                .ok_or("the connection ended")?;
            times.push(u32::try_from(started.elapsed().as_nanos()).unwrap_or(u32::MAX));
            if &buffer[head..end] != self.expected.as_bytes() {
                let got = String::from_utf8_lossy(&buffer[head..end]).into_owned();
                return Err(format!(
                    "another answer than expected: {got}\nexpected: {}",
                    self.expected
                )
                .into());
            }
            buffer.drain(..end);
        }
        Ok(times)
    }

    /// Requests a second and the median time of one, in microseconds.
    async fn round(&self, connections: usize, length: Duration) -> Done<(f64, f64)> {
        let started = Instant::now();
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..connections {
            all.spawn(self.clone().connection(started + length));
        }
        let mut times = Vec::new();
        while let Some(connection) = all.join_next().await {
            times.extend(connection??);
        }
        let rate = times.len() as f64 / started.elapsed().as_secs_f64();
        times.sort_unstable();
        Ok((rate, f64::from(times[times.len() / 2]) / 1000.0))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Interleaved rounds of two kinds of work: the medians of rate and latency of each.
async fn compare(
    a: &Work,
    b: &Work,
    connections: usize,
    rounds: usize,
    length: Duration,
) -> Done<[(f64, f64); 2]> {
    let mut found = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
    for round in 0..=rounds {
        for (work, (rates, times)) in [a, b].into_iter().zip(&mut found) {
            let (rate, time) = work.round(connections, length).await?;
            // The first only warms up.
            if round > 0 {
                rates.push(rate);
                times.push(time);
            }
        }
    }
    Ok(found.map(|(rates, times)| (median(rates), median(times))))
}

struct Table(Vec<[String; 4]>);

impl Table {
    fn row(&mut self, figure: &str, found: String, ratio: String, target: &str) {
        eprintln!("  {figure}: {found} {ratio}");
        self.0
            .push([figure.to_owned(), found, ratio, target.to_owned()]);
    }

    fn print(&self) -> Done<()> {
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "| figure | measured | ratio or difference | target |\n|---|---|---|---|"
        )?;
        for [figure, found, ratio, target] in &self.0 {
            writeln!(out, "| {figure} | {found} | {ratio} | {target} |")?;
        }
        Ok(())
    }
}

async fn session(addr: SocketAddr) -> Done<String> {
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;
    let work = Work::new(addr, None, body, "");
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(&work.request).await?;
    let mut buffer = Vec::new();
    let (head, _) = message(&mut stream, &mut buffer)
        .await?
        .ok_or("no answer to initialize")?;
    let head = std::str::from_utf8(&buffer[..head])?;
    let id = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("mcp-session-id")
            .then(|| value.trim().to_owned())
    });
    Ok(id.ok_or("no session")?)
}

async fn measure() -> Done<()> {
    let seconds = |variable: &str, default: f64| -> f64 {
        std::env::var(variable)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let length = Duration::from_secs_f64(seconds("BENCH_SECONDS", 2.0));
    let rounds = seconds("BENCH_ROUNDS", 5.0) as usize;
    let upstream = Process::start("upstream", None)?;
    let proxy = Process::start("proxy", Some(upstream.addr))?;
    let gateway = Process::start("gateway", Some(upstream.addr))?;
    let idle = gateway.memory()?;
    let id = session(gateway.addr).await?;
    let mut table = Table(Vec::new());
    let call = |tool: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{{"experiment_id":"7","key":"accuracy","limit":20}}}}}}"#
        )
    };
    let result = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{RESULT}}}"#);
    let via = |addr: SocketAddr, body: &str, expected: &str| {
        Work::new(
            addr,
            (addr == gateway.addr).then_some(id.as_str()),
            body,
            expected,
        )
    };
    let (bare, guarded) = (
        via(proxy.addr, &call("tool_2"), &result),
        via(gateway.addr, &call("tool_2"), &result),
    );

    let [a, b] = compare(&bare, &guarded, 32, rounds, length).await?;
    table.row(
        "tools/call throughput, c=32",
        format!("{:.0}/s of {:.0}/s", b.0, a.0),
        format!("{:.2}", b.0 / a.0),
        "≥ 0.85 of the proxy",
    );
    let allowed = b.0;
    let [a, b] = compare(&bare, &guarded, 1, rounds, length).await?;
    table.row(
        "added latency p50, c=1",
        format!("{:.1} µs over {:.1} µs", b.1, a.1),
        format!("+{:.1} µs", b.1 - a.1),
        "≤ 25 µs",
    );
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let whole = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{}}}"#, tools());
    let [a, b] = compare(
        &via(proxy.addr, list, &whole),
        &via(gateway.addr, list, &whole),
        16,
        rounds,
        length,
    )
    .await?;
    table.row(
        "tools/list, 50 tools, c=16",
        format!("{:.0}/s of {:.0}/s", b.0, a.0),
        format!("{:.2}", b.0 / a.0),
        "≥ 0.6 of the proxy",
    );
    let refusal = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"Denied by policy bench, rule denied: Not for agents. Do not retry."}],"isError":true}}"#;
    let denied = via(gateway.addr, &call("tool_1"), refusal);
    let [a, b] = compare(&guarded, &denied, 32, rounds, length).await?;
    table.row(
        "denied call, c=32, against an allowed one",
        format!("{:.0}/s to {:.0}/s", b.0, a.0),
        format!("{:.1}×", b.0 / a.0),
        "≥ 2×",
    );
    let (few, many) = (evaluate(16)?, evaluate(256)?);
    table.row(
        "evaluate, 256 rules with CEL, 4 select the tool",
        format!("{many:.2} µs ({few:.2} µs with 16 rules)"),
        format!("{:.2}×", many / few),
        "≤ 5 µs",
    );
    memory(&gateway, idle, &guarded, allowed, &mut table).await?;
    table.print()
}

async fn memory(
    gateway: &Process,
    idle: f64,
    work: &Work,
    rate: f64,
    table: &mut Table,
) -> Done<()> {
    table.row(
        "memory, idle",
        format!("{idle:.1} MiB"),
        String::new(),
        "≤ 12 MiB",
    );
    let before = gateway.memory()?;
    let calls: f64 = std::env::var("BENCH_CALLS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(300_000.0);
    let (made, _) = {
        let length = Duration::from_secs_f64(calls / rate);
        let (rate, time) = work.round(32, length).await?;
        (rate * length.as_secs_f64(), time)
    };
    let after = gateway.memory()?;
    table.row(
        &format!("memory, {:.1} M calls later", made / 1e6),
        format!("{after:.1} MiB after {before:.1} MiB"),
        format!("{:+.1} MiB", after - before),
        "flat",
    );
    let fresh = Process::start("gateway", Some(work_upstream(gateway)?))?;
    let id = session(fresh.addr).await?;
    let mut streams = Vec::new();
    for _ in 0..500 {
        let mut stream = TcpStream::connect(fresh.addr).await?;
        let request = format!(
            "GET /mcp HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\nMcp-Session-Id: {id}\r\nMCP-Protocol-Version: 2025-11-25\r\n\r\n",
            fresh.addr
        );
        stream.write_all(request.as_bytes()).await?;
        let mut buffer = Vec::new();
        message(&mut stream, &mut buffer)
            .await?
            .ok_or("no stream")?;
        if !buffer.starts_with(b"HTTP/1.1 200") {
            return Err(String::from_utf8_lossy(&buffer).into_owned().into());
        }
        streams.push(stream);
    }
    table.row(
        "memory, 500 idle streams",
        format!("{:.1} MiB", fresh.memory()?),
        String::new(),
        "≤ 30 MiB",
    );
    Ok(())
}

/// The server that a gateway is in front of, as its command line says.
fn work_upstream(gateway: &Process) -> Done<SocketAddr> {
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", gateway.child.id()))?;
    Ok(line.split('\0').nth(2).ok_or("no command line")?.parse()?)
}

/// Microseconds of one decision with so many rules, four of which select the tool.
fn evaluate(rules: usize) -> Done<f64> {
    let rules: Vec<Value> = (0..rules)
        .map(|n| {
            let name = if n % (rules / 4) == 0 { "tool_2".to_owned() } else { format!("other_{n}_*") };
            json!({"name": format!("r{n}"), "tools": {"names": [name]}, "action": if n == 0 { "Allow" } else { "Deny" },
                "when": if n == 0 { "args.limit <= 100 && size(args.experiment_id) < 32".to_owned() }
                    else { format!("args.limit > {} || args.experiment_id.startsWith('x{n}')", 100 + n) }})
        })
        .collect();
    let program = compile::compile(&bundle("http://127.0.0.1:1/mcp", json!(rules))?);
    let program = Arc::new(program.map_err(|found| format!("{found:?}"))?);
    let listing: Vec<Definition> = (0..TOOLS)
        .map(|n| Definition::parse(definition(n).to_string().as_bytes()))
        .collect::<Result<_, _>>()?;
    let bound = Bound::new(&program, &listing);
    let caller = Caller::anonymous();
    let arguments = Bytes::from_static(br#"{"experiment_id":"7","key":"accuracy","limit":20}"#);
    let now = jiff::Timestamp::now();
    let mut rounds = Vec::new();
    for _ in 0..20 {
        let started = Instant::now();
        for _ in 0..10_000 {
            let call = Call {
                tool: std::hint::black_box("tool_2"),
                arguments: &arguments,
                caller: &caller,
                session: "s",
            };
            if std::hint::black_box(bound.evaluate(&call, now)).outcome != Outcome::Allow {
                return Err("the decision is wrong".into());
            }
        }
        rounds.push(started.elapsed().as_secs_f64() * 100.0);
    }
    Ok(median(rounds))
}
