//! Our own code beside the libraries that could take its place: the JSON reader, the conditions, the
//! pool of connections. docs/decisions/ says what ours has to do beside being quick.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use portcullis::gateway::upstream::pool::Pool;
use portcullis::policy::inventory::Definition;
use portcullis::policy::{Bound, Call, Caller, Outcome, compile};
use portcullis::protocol::envelope;
use serde_json::json;

use crate::table::Table;
use crate::upstream::{RESULT, definition, list};
use crate::{Done, call, guarded, median, result};

const ROUNDS: usize = 21;
/// Runs of each kind in a round.
const RUNS: u32 = 1_000;
/// Exchanges of each kind in a round.
const EXCHANGES: u32 = 2_000;
const IDLE: Duration = Duration::from_secs(60);

/// Nanoseconds of one run of each kind, by rounds that alternate.
fn nanos<const N: usize>(mut kinds: [&mut dyn FnMut(); N]) -> [f64; N] {
    let mut rounds = [(); N].map(|()| Vec::new());
    for _ in 0..ROUNDS {
        for (kind, rounds) in kinds.iter_mut().zip(&mut rounds) {
            let started = Instant::now();
            for _ in 0..RUNS {
                kind();
            }
            rounds.push(started.elapsed().as_secs_f64() * 1e9 / f64::from(RUNS));
        }
    }
    rounds.map(|rounds| median(rounds.into_iter()))
}

/// Reading messages. The others accept what ours refuses: equal keys, lone surrogates, any depth.
pub fn json(table: &mut Table) -> Done<()> {
    let messages = [
        ("a call", call("tool_2")),
        ("its answer", result(RESULT)),
        ("a list of 50 tools", result(&list(|_| false))),
    ];
    for (what, text) in &messages {
        let bytes = text.as_bytes();
        envelope::parse(bytes).map_err(|refusal| refusal.to_string())?;
        serde_json::from_slice::<serde_json::Value>(bytes)?;
        jiter::JsonValue::parse(bytes, false)?;
        let [ours, jiter, serde] = nanos([
            &mut || drop(black_box(envelope::parse(black_box(bytes)))),
            &mut || drop(black_box(jiter::JsonValue::parse(black_box(bytes), false))),
            &mut || {
                drop(black_box(serde_json::from_slice::<serde_json::Value>(
                    black_box(bytes),
                )))
            },
        ]);
        table.note(
            &format!(
                "reading {what}, {} bytes: ours, jiter, serde_json",
                bytes.len()
            ),
            format!(
                "{ours:.0} ns, {jiter:.0} ns ({:.2}x), {serde:.0} ns ({:.2}x)",
                jiter / ours,
                serde / ours
            ),
        );
    }
    Ok(())
}

/// A decision by one condition, from the bytes of the arguments; crate `cel` gets them as values.
pub fn conditions(table: &mut Table) -> Done<()> {
    const WHEN: &str =
        "args.limit <= 100 && size(args.experiment_id) < 32 && !args.key.startsWith('x')";
    const ARGUMENTS: &[u8] = br#"{"experiment_id":"7","key":"accuracy","limit":20}"#;
    let rules =
        json!([{"name": "r", "tools": {"names": ["tool_2"]}, "action": "Allow", "when": WHEN}]);
    let program = compile::compile(&guarded::bundle("http://127.0.0.1:1/mcp", rules)?);
    let program = Arc::new(program.map_err(|found| format!("{found:?}"))?);
    let bound = Bound::new(
        &program,
        &[Definition::parse(definition(2).to_string().as_bytes())?],
    );
    let (caller, now) = (Caller::anonymous(), jiff::Timestamp::now());
    let ours = || {
        let call = Call {
            tool: black_box("tool_2"),
            arguments: black_box(ARGUMENTS),
            caller: &caller,
            session: "s",
        };
        bound.evaluate(&call, now).outcome == Outcome::Allow
    };
    let program = cel::Program::compile(WHEN).map_err(|error| error.to_string())?;
    let theirs = || -> Done<bool> {
        let arguments: serde_json::Value = serde_json::from_slice(black_box(ARGUMENTS))?;
        let mut context = cel::Context::default();
        let added = context.add_variable("args", arguments);
        added.map_err(|error| error.to_string())?;
        let value = program
            .execute(&context)
            .map_err(|error| error.to_string())?;
        Ok(matches!(value, cel::Value::Bool(true)))
    };
    if !ours() || !theirs()? {
        return Err("the condition does not hold".into());
    }
    let [ours, theirs] = nanos([
        &mut || {
            black_box(ours());
        },
        &mut || drop(black_box(theirs())),
    ]);
    table.note(
        "one condition over three arguments: ours with its whole decision, crate cel",
        format!("{ours:.0} ns, {theirs:.0} ns ({:.2}x)", theirs / ours),
    );
    Ok(())
}

/// Processor time of this thread, in nanoseconds.
fn processor() -> Done<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let first = text.split_whitespace().next().ok_or("schedstat is empty")?;
    Ok(first.parse()?)
}

/// One exchange with an upstream. All of it runs on this thread, so that waking a task is as cheap
/// as it can be; in the gateway it may cross threads.
pub async fn pool(upstream: SocketAddr, table: &mut Table) -> Done<()> {
    let uri: Uri = format!("http://{upstream}/mcp").parse()?;
    let body = Bytes::from(call("tool_2"));
    let request = |uri: &Uri| -> Done<Request<Full<Bytes>>> {
        Ok(Request::post(uri.clone())
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .body(Full::new(body.clone()))?)
    };
    let connector = || {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector
    };
    let pool = Pool::new(connector(), &uri, None, IDLE).map_err(|error| error.to_string())?;
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE)
        .pool_timer(TokioTimer::new())
        .build(connector());
    let expected = result(RESULT);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let started = processor()?;
        for _ in 0..EXCHANGES {
            let response = pool
                .send(request(&uri)?)
                .await
                .map_err(|error| error.to_string())?;
            let read = response.into_body().collect().await?.to_bytes();
            if read != expected.as_bytes() {
                return Err("another answer".into());
            }
        }
        let between = processor()?;
        for _ in 0..EXCHANGES {
            let response = client.request(request(&uri)?).await?;
            let read = response.into_body().collect().await?.to_bytes();
            if read != expected.as_bytes() {
                return Err("another answer".into());
            }
        }
        ours.push((between - started) / f64::from(EXCHANGES) / 1e3);
        theirs.push((processor()? - between) / f64::from(EXCHANGES) / 1e3);
    }
    let (ours, theirs) = (median(ours.into_iter()), median(theirs.into_iter()));
    table.note(
        "processor time of one exchange with an upstream: our pool, the client of hyper-util",
        format!("{ours:.2} us, {theirs:.2} us ({:+.2} us)", theirs - ours),
    );
    Ok(())
}
