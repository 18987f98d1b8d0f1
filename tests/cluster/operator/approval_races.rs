//! Never two executions of one approval, and none of a call that no person approved: races over
//! three gateway processes, with kill -9 of any, an API server that stops answering, and steps of a
//! gateway's clock in between.
//! `PORTCULLIS_RACES` sets how many races there are, `PORTCULLIS_RACES_AT_ONCE` how many at a time, and
//! `PORTCULLIS_SEED` repeats those of a run.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, watcher};
use portcullis::api::approval::{McpApproval, Phase};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::approved_calls::{approvals, decide};
use super::rig::{Room, pod_ready, policy, server};
use crate::support::control_plane::Program;
use crate::support::eventually;
use crate::support::wire::client::Client;
use crate::support::wire::installed;
use crate::support::wire::upstream::{Answer, Fake};

const SERVER: &str = "mlflow";
const CALLERS: usize = 6;
const GATEWAYS: usize = 3;
/// Seconds that a stepped clock is off. With the long ones, what one gateway asks for has expired
/// already for another.
const STEPS: [i64; 6] = [0, 0, 30, -30, 150, -150];

/// Small numbers that follow from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    let text = std::env::var(variable).ok();
    text.map_or(otherwise, |text| text.parse().unwrap())
}

fn key(caller: usize) -> String {
    format!("key-of-caller-{caller}-0123456789abcdef")
}

/// A room with a server with three gateways, six callers, and a tool that needs approval.
async fn open(room: &Room, approval: Value) -> (Fake, Executions) {
    let fake = Fake::start(&["promote"]).await;
    let executions = Executions::default();
    let seen = executions.clone();
    fake.on("tools/call", move |got| {
        let text = got.json()["params"]["arguments"]["text"]
            .as_str()
            .unwrap()
            .to_owned();
        seen.0
            .lock()
            .unwrap()
            .entry(text)
            .or_default()
            .push(Instant::now());
        Answer::result(got, json!({"content": [{"type": "text", "text": "done"}]}))
    });
    let keys: serde_json::Map<String, Value> = (0..CALLERS)
        .map(|caller| (format!("c{caller}"), json!(key(caller))))
        .collect();
    room.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "agents"}, "stringData": keys}));
    let mut object = server(SERVER, &fake);
    object["spec"]["gateway"] = json!({ "replicas": GATEWAYS });
    object["spec"]["authentication"] = json!({"apiKeys": {"secretRef": {"name": "agents"}}});
    room.apply(&object);
    room.apply(&policy(
        "p",
        SERVER,
        json!([{"name": "ask", "tools": {"names": ["promote"]}, "action": "RequireApproval", "approval": approval}]),
    ));
    room.ready(SERVER).await;
    room.holds(SERVER, &["p"]).await;
    (fake, executions)
}

/// When each call was executed, by its text.
#[derive(Clone, Default)]
struct Executions(Arc<Mutex<HashMap<String, Vec<Instant>>>>);

impl Executions {
    fn of(&self, text: &str) -> Vec<Instant> {
        let all = self.0.lock().unwrap();
        all.get(text).cloned().unwrap_or_default()
    }
}

/// The gateways' pods and their addresses, once all are ready.
async fn gateways(room: &Room) -> Vec<(String, SocketAddr)> {
    let pods = eventually("every gateway is ready", || async {
        let pods = room.gateway_pods(SERVER).await;
        match pods.len() == GATEWAYS && pods.iter().all(pod_ready) {
            true => Ok(pods),
            false => Err(pods.iter().map(ResourceExt::name_any).collect::<Vec<_>>()),
        }
    })
    .await;
    let mut all = Vec::new();
    for pod in pods {
        let ip = pod.status.as_ref().unwrap().pod_ip.as_ref().unwrap();
        let address = SocketAddr::new(ip.parse().unwrap(), 8080);
        all.push((pod.name_any(), address));
    }
    all
}

/// A client of each caller at each gateway, all of one session.
async fn callers(gateways: &[(String, SocketAddr)]) -> Vec<Vec<Client>> {
    let mut all = Vec::new();
    for caller in 0..CALLERS {
        let client = Client::new(gateways[0].1, "/mcp");
        let client = client.with("Authorization", &format!("Bearer {}", key(caller)));
        let session = client.session().await;
        let at = |gateway: &(String, SocketAddr)| Client {
            addr: gateway.1,
            ..session.clone()
        };
        all.push(gateways.iter().map(at).collect());
    }
    all
}

fn call(client: &Client, text: &str) -> tokio::task::JoinHandle<(bool, String)> {
    let (client, arguments) = (client.clone(), json!({ "text": text }));
    tokio::spawn(async move { client.call("promote", arguments).await.tool() })
}

/// The same, of which only the end counts: a gateway that is killed answers nothing.
async fn try_call(client: Client, text: String) -> std::io::Result<()> {
    let message = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call",
        "params": {"name": "promote", "arguments": {"text": text}}});
    let client = client.with("Connection", "close");
    let mut stream = tokio::net::TcpStream::connect(client.addr).await?;
    stream
        .write_all(&client.bytes("POST", Some(message.to_string().as_bytes())))
        .await?;
    stream.read_to_end(&mut Vec::new()).await.map(drop)
}

/// The text of the call that a request is for.
fn text_of(object: &McpApproval) -> String {
    let arguments: Value = serde_json::from_str(&object.spec.arguments_preview).unwrap();
    arguments["text"].as_str().unwrap().to_owned()
}

/// Decides whatever waits, for ever: texts that end in `no` are denied.
async fn deciding(room: &Room) {
    let alice = room.cluster.impersonate("alice", &["system:masters"]);
    let theirs: kube::Api<McpApproval> = kube::Api::namespaced(alice, room.name());
    let events = watcher(theirs.clone(), watcher::Config::default()).default_backoff();
    let mut events = pin!(events.applied_objects());
    let mut waiting = HashMap::new();
    loop {
        // The API server may be away: what could not be decided is tried again.
        let next = tokio::time::timeout(Duration::from_millis(20), events.next());
        if let Ok(Some(Ok(one))) = next.await {
            waiting.insert(one.name_any(), one);
        }
        waiting.retain(|_, one| one.phase_at(Timestamp::now()) == Phase::Pending);
        let names: Vec<String> = waiting.keys().cloned().collect();
        for name in names {
            let verdict = match text_of(&waiting[&name]).ends_with("no") {
                true => "Denied",
                false => "Approved",
            };
            let change = json!({"spec": {"decisions": [{"verdict": verdict, "by": "alice"}]}});
            let (params, patch) = (PatchParams::default(), Patch::Merge(change));
            let patched = theirs.patch(&name, &params, &patch);
            match tokio::time::timeout(Duration::from_secs(2), patched).await {
                Ok(Ok(_)) => drop(waiting.remove(&name)),
                Ok(Err(_)) => {}
                Err(_) => break,
            }
        }
    }
}

/// All requests of the room, in pages: there may be many thousands.
async fn all_requests(room: &Room) -> Vec<McpApproval> {
    let mut all = Vec::new();
    let mut params = ListParams::default().limit(500);
    loop {
        let page = approvals(room).list(&params).await.unwrap();
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return all,
        }
    }
}

/// One call, made several times at once at several gateways, and repeated.
async fn race(clients: Vec<Client>, text: String, rolls: Vec<u64>) {
    for at in rolls.chunks(3) {
        let calls: Vec<_> = at
            .iter()
            .map(|roll| {
                let client = clients[usize::try_from(*roll).unwrap()].clone();
                tokio::spawn(try_call(client, text.clone()))
            })
            .collect();
        for call in calls {
            let _ = call.await.unwrap();
        }
    }
}

/// Fails unless a step of its clock reaches a gateway that runs: its answers say what time it is.
async fn clocks_follow(room: &Room, gateways: &[(String, SocketAddr)]) {
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    for (pod, address) in gateways {
        // Ahead: the date of answers is kept for a second, and does not go back.
        room.kubelet().step_clock(room.name(), pod, 3_600);
        eventually("a gateway's clock is stepped", || async {
            let reply = Client::new(*address, "/mcp").post(&ping).await;
            let date = reply.header("date").ok_or("no date")?;
            let date = jiff::fmt::rfc2822::parse(date).unwrap().timestamp();
            let ahead = date.as_second() - Timestamp::now().as_second();
            (ahead > 1_800).then_some(()).ok_or("another time")
        })
        .await;
        room.kubelet().step_clock(room.name(), pod, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_approval_is_executed_twice_and_nothing_without_one_whatever_dies_meanwhile() {
    let (races, seed) = (number("PORTCULLIS_RACES", 40), number("PORTCULLIS_SEED", 7));
    let at_once = number("PORTCULLIS_RACES_AT_ONCE", 5);
    println!("{races} races of seed {seed}, {at_once} at once");
    let Some(room) = Room::alone("races for approvals").await else {
        return;
    };
    let library = installed(
        "PORTCULLIS_TEST_FAKETIME",
        "a gateway whose clock is stepped",
    );
    let stepped = library.is_some();
    if let Some(library) = library {
        room.kubelet().give_gateways_clocks(PathBuf::from(library));
    }
    let approval = json!({"expiresAfter": "2m", "waitUpTo": "2s"});
    let (_fake, executions) = open(&room, approval).await;
    let gateways = gateways(&room).await;
    if stepped {
        clocks_follow(&room, &gateways).await;
    }
    let clients = callers(&gateways).await;
    let mut dice = Dice(seed.wrapping_mul(2).wrapping_add(1));
    let control_plane = room.cluster.control_plane().unwrap();
    let (mut kills, mut outages, mut steps) = (0, 0, 0);
    let racing = async {
        let mut begun = 0;
        while begun < races {
            let mut running = Vec::new();
            for _ in 0..at_once.min(races - begun) {
                let caller = usize::try_from(dice.roll(CALLERS as u64)).unwrap();
                let verdict = if dice.roll(5) == 0 { "no" } else { "yes" };
                let rolls = (0..9).map(|_| dice.roll(GATEWAYS as u64)).collect();
                let text = format!("{begun} {verdict}");
                running.push(tokio::spawn(race(clients[caller].clone(), text, rolls)));
                begun += 1;
            }
            tokio::time::sleep(Duration::from_millis(dice.roll(1_500))).await;
            let (victim, step) = (
                dice.roll(GATEWAYS as u64),
                dice.roll(2 * STEPS.len() as u64),
            );
            let victim = &gateways[usize::try_from(victim).unwrap()].0;
            if let Some(seconds) = STEPS.get(usize::try_from(step).unwrap())
                && stepped
            {
                steps += 1;
                room.kubelet().step_clock(room.name(), victim, *seconds);
            }
            match dice.roll(3) {
                0 => {
                    let victim = usize::try_from(dice.roll(GATEWAYS as u64)).unwrap();
                    if room
                        .kubelet()
                        .crash_what_runs(room.name(), &gateways[victim].0)
                    {
                        kills += 1;
                    }
                }
                1 => {
                    outages += 1;
                    control_plane.pause(Program::ApiServer);
                    tokio::time::sleep(Duration::from_millis(200 + dice.roll(2_000))).await;
                    control_plane.resume(Program::ApiServer);
                }
                _ => {}
            }
            for race in running {
                race.await.unwrap();
            }
        }
    };
    tokio::select! {
        () = racing => {}
        () = deciding(&room) => unreachable!(),
    }
    let all = all_requests(&room).await;
    let mut used: HashMap<String, usize> = HashMap::new();
    for one in &all {
        let status = one.status.clone().unwrap_or_default();
        if status.consumed_at.is_some() {
            assert_eq!(one.approved_by().collect::<Vec<_>>(), ["alice"], "{one:?}");
            *used.entry(text_of(one)).or_default() += 1;
        }
    }
    let executed = executions.0.lock().unwrap().clone();
    let mut total = 0;
    for (text, times) in &executed {
        let approved = used.get(text).copied().unwrap_or(0);
        assert!(
            times.len() <= approved,
            "{text}: {} executions, {approved} approvals used",
            times.len()
        );
        assert!(text.ends_with("yes"), "{text} was denied, and executed");
        total += times.len();
    }
    println!(
        "{kills} kills, {outages} outages, {steps} steps of a clock: {} requests, {} used, {total} executions",
        all.len(),
        used.values().sum::<usize>()
    );
    assert!(
        total * 2 >= usize::try_from(races).unwrap(),
        "only {total} of {races} were executed at all"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_held_calls_are_forwarded_once_each_after_their_decisions() {
    let approval = json!({"expiresAfter": "10m", "waitUpTo": "110s"});
    let Some(room) = Room::alone("a hundred held calls").await else {
        return;
    };
    let (_fake, executions) = open(&room, approval).await;
    let clients = callers(&gateways(&room).await).await;
    let calls: Vec<_> = (0..100)
        .map(|n| call(&clients[n % 5][n % GATEWAYS], &n.to_string()))
        .collect();
    let all = eventually("a hundred wait", || async {
        let all = approvals(&room)
            .list(&ListParams::default())
            .await
            .unwrap()
            .items;
        match all.len() {
            100 => Ok(all),
            count => Err(count),
        }
    })
    .await;
    let mut waits = Vec::new();
    for one in &all {
        let text = text_of(one);
        assert!(executions.of(&text).is_empty(), "{text}");
        decide(&room, &one.name_any(), "Approved", None).await;
        // From here on the API server has it.
        let decided = Instant::now();
        let made = eventually(&format!("{text} is forwarded"), || async {
            executions.of(&text).first().copied().ok_or("not yet")
        })
        .await;
        waits.push(made.saturating_duration_since(decided));
    }
    for call in calls {
        let (error, text) = call.await.unwrap();
        assert!(!error, "{text}");
    }
    let executed = executions.0.lock().unwrap();
    assert!(executed.len() == 100 && executed.values().all(|times| times.len() == 1));
    waits.sort();
    println!(
        "from the decision to the server, 100 pending over {GATEWAYS} gateways: p50 {:?}, p99 {:?}, longest {:?}",
        waits[49], waits[98], waits[99]
    );
}
