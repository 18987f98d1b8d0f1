//! One caller that takes what it can get, and another one that goes on being served. The real
//! program, under a limit on open files that is soon reached.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::client::Client;
use crate::support::rig::{allow_all, policy};
use crate::support::soon;
use crate::support::upstream::{Answer, Fake};

/// `portcullis serve` in front of a server, for callers with the keys `greedy` and `calm`.
struct Program {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
    /// What it said until it served.
    said: String,
}

/// An McpServer `ml/NAME` behind that URL.
fn server(name: &str, url: &str) -> Value {
    json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer", "metadata": {"name": name, "namespace": "ml"}, "spec": {
        "upstream": {"http": {"url": url}},
        "authentication": {"apiKeys": {"secretRef": {"name": "keys"}}},
        "catalog": "None",
    }})
}

impl Program {
    /// Under a limit on open files, soft and hard.
    fn start(fake: &Fake, files: u32) -> Self {
        Self::serving(files, |_| {
            vec![server("fake", &format!("http://{}/mcp", fake.addr))]
        })
    }

    /// With these servers, given its own address.
    fn serving(files: u32, servers: impl FnOnce(SocketAddr) -> Vec<Value>) -> Self {
        Self::serving_at(free_address(), files, servers)
    }

    /// At this address, with these servers.
    fn serving_at(
        address: SocketAddr,
        files: u32,
        servers: impl FnOnce(SocketAddr) -> Vec<Value>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files_in = folder.path().join("files");
        std::fs::create_dir(&files_in).unwrap();
        for server in servers(address) {
            let name = server["metadata"]["name"].as_str().unwrap();
            std::fs::write(files_in.join(format!("{name}.yaml")), server.to_string()).unwrap();
        }
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "namespace": "ml"},
            "stringData": {"greedy": "the-key-of-the-greedy-one", "calm": "the-key-of-the-calm-one"}});
        std::fs::write(files_in.join("secret.yaml"), secret.to_string()).unwrap();
        write_policy(folder.path(), &allow_all());
        let path = folder.path().display();
        let script = format!(
            "ulimit -n {files} && exec {} serve -f {path}/files --listen {address} --socket {path}/serve.sock --audit-file {path}/audit.jsonl",
            env!("CARGO_BIN_EXE_portcullis"),
        );
        let mut child = Command::new("sh")
            .args(["-c", &script])
            .env_remove("RUST_LOG")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        for line in lines.by_ref().map_while(Result::ok) {
            said.push_str(&line);
            said.push('\n');
            if line.contains("Point an MCP client at a URL") {
                break;
            }
        }
        assert!(said.contains("Point an MCP client at a URL"), "{said}");
        std::thread::spawn(move || lines.for_each(drop));
        Program {
            child,
            address,
            folder,
            said,
        }
    }

    fn write_policy(&self, spec: &Value) {
        write_policy(self.folder.path(), spec);
    }

    /// Memory that it has now, in MiB.
    fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most memory that it has had, in MiB.
    fn peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .unwrap();
        let kib = line.split_ascii_whitespace().next().unwrap();
        kib.parse::<u64>().unwrap() / 1_024
    }

    fn client(&self, who: &str) -> Client {
        let key = format!("Bearer the-key-of-the-{who}-one");
        Client::new(self.address, "/fake/mcp").with("Authorization", &key)
    }
}

fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn write_policy(folder: &Path, spec: &Value) {
    let policy = json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpPolicy",
        "metadata": {"name": "all", "namespace": "ml"}, "spec": policy(spec)});
    std::fs::write(folder.join("new"), policy.to_string()).unwrap();
    std::fs::rename(folder.join("new"), folder.join("files/policy.yaml")).unwrap();
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status of the first answer on a connection, if it is not simply closed.
async fn status(stream: &mut TcpStream) -> Option<u16> {
    let mut head = [0; 12];
    soon("an answer or an end", stream.read_exact(&mut head))
        .await
        .ok()?;
    std::str::from_utf8(&head).unwrap().get(9..)?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn streams_of_one_caller_leave_files_for_others_and_for_policies() {
    let fake = Fake::start(&["echo"]).await;
    let program = Program::start(&fake, 512);
    let calm = program.client("calm").session().await;
    let greedy = program.client("greedy").session().await;
    let (mut open, mut refused) = (Vec::new(), 0);
    for _ in 0..600 {
        let mut stream = TcpStream::connect(program.address).await.unwrap();
        stream.write_all(&greedy.bytes("GET", None)).await.unwrap();
        match status(&mut stream).await {
            Some(200) => open.push(stream),
            Some(503) | None => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(
        open.len() >= 20 && refused >= 400,
        "{} open, {refused} refused",
        open.len()
    );
    // Another caller is served, on new connections, with a stream of its own.
    for _ in 0..50 {
        assert!(!calm.call("echo", json!({})).await.tool().0);
    }
    let _stream = calm.listen().await;
    // And what it may do is still read from files.
    program.write_policy(
        &json!({"rules": [{"name": "no", "tools": {"names": ["*"]}, "action": "Deny"}]}),
    );
    let denied = async {
        while !calm.call("echo", json!({})).await.tool().0 {
            tokio::task::yield_now().await;
        }
    };
    soon("the policy is in force", denied).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_of_strangers_leave_room_for_callers() {
    let fake = Fake::start(&["echo"]).await;
    let program = Program::start(&fake, 512);
    let calm = program.client("calm").session().await;
    let mut silent = Vec::new();
    for _ in 0..600 {
        let mut stream = TcpStream::connect(program.address).await.unwrap();
        // A head that never ends.
        let _ = stream
            .write_all(b"POST /fake/mcp HTTP/1.1\r\nHost: a\r\n")
            .await;
        silent.push(stream);
    }
    for _ in 0..50 {
        assert!(!calm.call("echo", json!({})).await.tool().0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bodies_that_stall_hold_a_bounded_amount_of_memory() {
    let fake = Fake::start(&["echo"]).await;
    let program = Program::start(&fake, 4_096);
    let calm = program.client("calm").session().await;
    let greedy = program.client("greedy").session().await;
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": "echo", "arguments": {"text": "x".repeat(4_000_000)}}})
    .to_string();
    let bytes = greedy.bytes("POST", Some(body.as_bytes()));
    let mut stalled = JoinSet::new();
    for _ in 0..400 {
        let (bytes, address) = (bytes[..bytes.len() - 1].to_owned(), program.address);
        stalled.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let _ = stream.write_all(&bytes).await;
            stream
        });
    }
    let mut held = Vec::new();
    let all = async {
        while let Some(stream) = stalled.join_next().await {
            held.push(stream.unwrap());
        }
    };
    soon("all that it takes", all).await;
    for _ in 0..20 {
        assert!(
            !calm
                .call("echo", json!({"text": "y".repeat(10_000)}))
                .await
                .tool()
                .0
        );
    }
    // Its large ones too: one caller does not get all the room there is.
    assert!(
        !calm
            .call("echo", json!({"text": "y".repeat(3_000_000)}))
            .await
            .tool()
            .0
    );
    assert!(program.peak() < 256, "{} MiB", program.peak());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn large_answers_that_nobody_reads_hold_a_bounded_amount_of_memory() {
    let fake = Fake::start(&["echo", "large"]).await;
    let text = "x".repeat(60_000_000);
    fake.on("tools/call", move |got| {
        let large = got.json()["params"]["name"] == "large";
        let text = if large { text.as_str() } else { "small" };
        Answer::result(got, json!({"content": [{"type": "text", "text": text}]}))
    });
    let program = Program::start(&fake, 4_096);
    let calm = program.client("calm").session().await;
    let greedy = program.client("greedy").session().await;
    // It is delivered to who reads it.
    assert!(greedy.call("large", json!({})).await.tool().1.len() >= 60_000_000);
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": "large", "arguments": {}}})
    .to_string();
    let mut unread = Vec::new();
    for _ in 0..24 {
        let mut stream = TcpStream::connect(program.address).await.unwrap();
        stream
            .write_all(&greedy.bytes("POST", Some(body.as_bytes())))
            .await
            .unwrap();
        unread.push(stream);
    }
    for stream in &mut unread {
        assert_eq!(status(stream).await, Some(200));
    }
    for _ in 0..20 {
        assert!(!calm.call("echo", json!({})).await.tool().0);
    }
    assert!(program.peak() < 256, "{} MiB", program.peak());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn streams_keep_no_copies_of_a_long_list_and_all_hear_of_a_change() {
    let names: Vec<String> = (0..10_000)
        .map(|number| format!("tool_with_a_rather_long_name_{number}"))
        .collect();
    let fake = Fake::start(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let program = Program::start(&fake, 4_096);
    let greedy = program.client("greedy").session().await;
    let mut streams = vec![greedy.listen().await];
    let before = program.resident();
    for _ in 0..200 {
        streams.push(greedy.listen().await);
    }
    let more = program.resident().saturating_sub(before);
    assert!(more < 40, "{more} MiB for 200 streams");
    let deny = json!({"rules": [{"name": "few", "tools": {"names": ["*_7"]}, "action": "Allow"}]});
    program.write_policy(&deny);
    for stream in &mut streams {
        let told = stream.event().await.unwrap().json();
        assert_eq!(told["method"], "notifications/tools/list_changed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_whose_url_leads_back_is_named_and_the_others_are_served() {
    let fake = Fake::start(&["echo"]).await;
    let program = Program::serving(4_096, |own| {
        vec![
            server("fake", &format!("http://{}/mcp", fake.addr)),
            server("itself", &format!("http://{own}/itself/mcp")),
        ]
    });
    assert!(
        program.said.contains("McpServer ml/itself")
            && program.said.contains("leads back to this gateway"),
        "{}",
        program.said
    );
    let calm = program.client("calm").session().await;
    for _ in 0..50 {
        assert!(!calm.call("echo", json!({})).await.tool().0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_gateways_that_lead_to_each_other_refuse_at_once_and_serve_the_others() {
    let fake = Fake::start(&["echo"]).await;
    let anonymous = |name: &str, url: &str| {
        let mut server = server(name, url);
        server["spec"]["authentication"] = json!({"anonymous": "Allow"});
        server
    };
    let real = format!("http://{}/mcp", fake.addr);
    let second = free_address();
    let one = Program::serving(4_096, |_| {
        vec![
            server("fake", &real),
            anonymous("circle", &format!("http://{second}/circle/mcp")),
            anonymous("chain", &format!("http://{second}/chain/mcp")),
        ]
    });
    let first = one.address;
    let two = Program::serving_at(second, 4_096, |_| {
        vec![
            server("fake", &real),
            anonymous("circle", &format!("http://{first}/circle/mcp")),
            anonymous("chain", &real),
        ]
    });
    for program in [&one, &two] {
        let circle = Client::new(program.address, "/circle/mcp");
        let reply = circle.initialize("2025-11-25", json!({})).await;
        assert_eq!(reply.status, 508, "{}", reply.text());
        assert!(reply.text().contains("leads back to a gateway"));
        let calm = program.client("calm").session().await;
        for _ in 0..20 {
            assert!(!calm.call("echo", json!({})).await.tool().0);
        }
    }
    assert!(
        two.said.contains("McpServer ml/circle")
            && two
                .said
                .contains("leads back to this gateway, itself or by way of another"),
        "{}",
        two.said
    );
    // Two gateways in a row, of servers of the same name, are a chain and not a circle: the session
    // opens, which takes both.
    let chained = Client::new(first, "/chain/mcp").session().await;
    assert_eq!(chained.tools().await, [""; 0], "no policy allows anything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_is_taken_away_and_comes_back_has_used_what_it_had_used() {
    let fake = Fake::start(&["echo"]).await;
    let program = Program::start(&fake, 4_096);
    program.write_policy(
        &json!({"rules": [{"name": "one", "tools": {"names": ["*"]}, "action": "Allow",
        "limits": [{"counter": "calls", "max": 1, "window": "1h"}]}]}),
    );
    let calm = program.client("calm");
    let limited = |text: &str| text.starts_with("Limit of 1 per 1h");
    // The first that is counted under the limit passes, and the next one does not.
    let session = calm.session().await;
    let used = async {
        while !limited(&session.call("echo", json!({})).await.tool().1) {
            tokio::task::yield_now().await;
        }
    };
    soon("the limit is in force and used up", used).await;
    let file = program.folder.path().join("files/fake.yaml");
    let kept = std::fs::read(&file).unwrap();
    std::fs::write(&file, server("other", "http://127.0.0.1:9/mcp").to_string()).unwrap();
    let gone = async {
        while calm.initialize("2025-11-25", json!({})).await.status != 404 {
            tokio::task::yield_now().await;
        }
    };
    soon("the server is gone", gone).await;
    std::fs::write(&file, kept).unwrap();
    let back = async {
        loop {
            let reply = calm.initialize("2025-11-25", json!({})).await;
            if reply.status == 200 {
                return calm.session().await;
            }
            tokio::task::yield_now().await;
        }
    };
    let session = soon("the server is back", back).await;
    let listed = async {
        loop {
            let reply = session.call("echo", json!({})).await;
            let answer = reply.messages().pop().unwrap();
            if let Some(text) = answer["result"]["content"][0]["text"].as_str() {
                return text.to_owned();
            }
            tokio::task::yield_now().await;
        }
    };
    let text = soon("an answer of the tool", listed).await;
    assert!(limited(&text), "{text}");
}
