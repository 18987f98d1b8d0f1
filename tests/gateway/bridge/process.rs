//! The bridge as a process of its own: signals, orphans, and what a kill leaves behind.
//!
//! The process is this test binary again, told to run nothing but the command.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use portcullis::gateway::bridge::command::{BridgeArgs, CommandError, run};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::harness::{PATIENCE, fixture};

const ARGS: &str = "PORTCULLIS_TEST_BRIDGE_ARGS";

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    bridge: BridgeArgs,
}

#[test]
#[ignore = "run by the tests below, in a process of its own"]
fn bridge_process() {
    let Ok(args) = std::env::var(ARGS) else {
        return;
    };
    let args: Vec<String> = serde_json::from_str(&args).unwrap();
    let line = Line::parse_from(args);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(run(line.bridge)).unwrap();
    println!("bridge ended");
}

struct Process {
    child: Child,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Process {
    fn start(ignore_term: bool) -> Self {
        Self::start_with(ignore_term, None)
    }

    /// With a bearer in the file `bearer` of its folder.
    fn start_with(ignore_term: bool, bearer: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Free a moment ago: good enough on loopback.
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let log = folder.path().join("log");
        let mut args = vec!["bridge".to_owned(), "--listen".into(), address.to_string()];
        match bearer {
            None => args.push("--insecure-no-bearer".into()),
            Some(bearer) => {
                let path = folder.path().join("bearer");
                std::fs::write(&path, bearer).unwrap();
                args.extend(["--bearer-file".into(), path.display().to_string()]);
            }
        }
        args.extend(["--env".into(), format!("SCRIPT_FILE={}", log.display())]);
        if ignore_term {
            args.extend(["--env".into(), "IGNORE_TERM=1".into()]);
        }
        args.extend([
            "--".into(),
            "python3".into(),
            fixture().display().to_string(),
        ]);
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "bridge::process::bridge_process",
                "--ignored",
                "--nocapture",
            ])
            .env(ARGS, serde_json::to_string(&args).unwrap())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let process = Self {
            child,
            address,
            folder,
        };
        process.poll("it is ready", || {
            process
                .request("GET", "/readyz", "", "")
                .is_some_and(|text| text.starts_with("HTTP/1.1 200"))
        });
        process
    }

    fn poll(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < PATIENCE, "never: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: bridge\r\nconnection: close\r\ncontent-type: application/json\r\n\
             accept: application/json\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        )
        .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// Opens a session and calls one tool; gives its text.
    fn call(&self, name: &str) -> String {
        let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}});
        let opened = self
            .request("POST", "/mcp", "", &initialize.to_string())
            .unwrap();
        let session = opened
            .lines()
            .find(|line| line.starts_with("mcp-session-id"))
            .unwrap();
        let call = super::harness::call(2, name, json!({})).to_string();
        let answer = self
            .request("POST", "/mcp", &format!("{session}\r\n"), &call)
            .unwrap();
        let body = answer.split("\r\n\r\n").nth(1).unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        body["result"]["content"][0]["text"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn server(&self) -> i32 {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap();
        let entries = log
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let starts: Vec<i64> = entries
            .filter_map(|entry| entry["started"].as_i64())
            .collect();
        i32::try_from(starts[0]).unwrap()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn children(&self) -> Vec<(i32, String)> {
        let me = self.child.id().to_string();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(|pid: i32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
            (fields[1] == me).then(|| (pid, fields[0].to_owned()))
        })
        .collect()
    }
}

fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().next());
    state.is_some_and(|state| state != "Z")
}

#[test]
fn sigterm_ends_the_bridge_its_server_and_what_the_server_left_behind() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut process = Process::start(false);
        // It leaves the group, and its parent ends: nobody but a subreaper can find it.
        let escaped: i32 = process.call("escape").parse().unwrap();
        process.poll("adopted", || {
            process.children().iter().any(|(pid, _)| *pid == escaped)
        });
        let server = process.server();
        assert!(runs(server) && runs(escaped));
        process.signal(signal);
        let stdout = process.child.stdout.take().unwrap();
        let said: Vec<String> = BufReader::new(stdout)
            .lines()
            .map_while(Result::ok)
            .collect();
        assert!(
            said.iter().any(|line| line.contains("bridge ended")),
            "{said:?}"
        );
        assert!(process.child.wait().unwrap().success());
        assert!(!runs(server));
        assert!(!runs(escaped));
    }
}

#[test]
fn what_left_the_group_ends_with_its_server_while_the_bridge_goes_on() {
    let mut process = Process::start(false);
    let escaped: i32 = process.call("escape").parse().unwrap();
    process.poll("adopted", || {
        process.children().iter().any(|(pid, _)| *pid == escaped)
    });
    // A helper of a server that still runs is left alone.
    process.call("orphan");
    assert!(runs(escaped));
    let server = Pid::from_raw(process.server()).unwrap();
    kill_process(server, Signal::KILL).unwrap();
    process.poll("it ends", || !runs(escaped));
    process.poll("the bridge goes on", || {
        process
            .request("GET", "/livez", "", "")
            .is_some_and(|text| text.starts_with("HTTP/1.1 200"))
    });
    process.signal(Signal::TERM);
    assert!(process.child.wait().unwrap().success());
}

#[test]
fn orphans_are_reaped_while_the_server_runs() {
    let mut process = Process::start(false);
    for _ in 0..5 {
        process.call("orphan");
    }
    let server = process.server();
    process.poll("only the server is left", || {
        process
            .children()
            .iter()
            .all(|(pid, state)| *pid == server && state != "Z")
    });
    assert!(runs(server));
    process.signal(Signal::TERM);
    assert!(process.child.wait().unwrap().success());
}

#[test]
fn a_killed_bridge_takes_a_server_with_it_that_reads_its_input() {
    let mut process = Process::start(false);
    process.call("group");
    let server = process.server();
    process.child.kill().unwrap();
    process.child.wait().unwrap();
    process.poll("the server ends", || !runs(server));
}

#[test]
fn a_bearer_that_changes_is_accepted_at_once_and_the_one_before_goes_on() {
    let (old, new) = (
        "the-first-bearer-of-the-bridge",
        "the-second-bearer-of-the-bridge",
    );
    let mut process = Process::start_with(false, Some(&format!("{old}\n")));
    let file = process.folder.path().join("bearer");
    let admits = |process: &Process, bearer: &str| {
        let header = format!("authorization: Bearer {bearer}\r\n");
        let answer = process.request("DELETE", "/mcp", &header, "").unwrap();
        !answer.starts_with("HTTP/1.1 401")
    };
    assert!(admits(&process, old) && !admits(&process, new));
    // As a kubelet does: never half of a file.
    let put = |text: &str| {
        let next = file.with_extension("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, &file).unwrap();
    };
    put(&format!("{new}\n"));
    process.poll("the new one is accepted", || admits(&process, new));
    assert!(admits(&process, old));
    // A file that is gone changes nothing; the next one does.
    std::fs::remove_file(&file).unwrap();
    put("the-third-bearer-of-the-bridge");
    process.poll("the third one is accepted", || {
        admits(&process, "the-third-bearer-of-the-bridge")
    });
    assert!(admits(&process, new));
    process.signal(Signal::TERM);
    assert!(process.child.wait().unwrap().success());
}

#[tokio::test]
async fn the_command_says_what_is_wrong_before_it_starts_anything() {
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join("started");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let parse = |args: &[&str]| {
        let touch = ["--", "touch", marker.to_str().unwrap()];
        Line::try_parse_from([&["bridge", "--listen", "127.0.0.1:0"], args, &touch].concat())
    };
    let usage = parse(&[]).unwrap_err().to_string();
    assert!(usage.contains("--bearer-file"), "{usage}");
    let strong = write("strong", "0123456789abcdef0123\n");
    let both = parse(&["--insecure-no-bearer", "--bearer-file", &strong]);
    assert!(both.is_err());
    assert!(parse(&["--bearer-file", &strong, "--env", "NOVALUE"]).is_err());

    let exposed = Line::try_parse_from([
        "bridge",
        "--listen",
        "0.0.0.0:0",
        "--insecure-no-bearer",
        "--",
        "true",
    ]);
    let error = run(exposed.unwrap().bridge).await.unwrap_err();
    assert!(matches!(error, CommandError::Exposed(_)), "{error}");
    let missing = parse(&["--bearer-file", "/nowhere/bearer"]).unwrap();
    let error = run(missing.bridge).await.unwrap_err();
    assert!(
        error.to_string().starts_with("/nowhere/bearer: "),
        "{error}"
    );
    let weak = write("weak", "weak\n");
    let error = run(parse(&["--bearer-file", &weak]).unwrap().bridge)
        .await
        .unwrap_err();
    assert!(matches!(error, CommandError::Bearer { .. }), "{error}");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let line = Line::try_parse_from([
        "bridge",
        "--listen",
        &address,
        "--bearer-file",
        &strong,
        "--",
        "true",
    ]);
    let error = run(line.unwrap().bridge).await.unwrap_err();
    assert!(matches!(error, CommandError::Listen { .. }), "{error}");
    assert!(!Path::new(&marker).exists());
}

#[test]
fn a_server_that_never_starts_ends_the_bridge_which_says_why_where_kubernetes_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("termination-log");
    let cases: &[(&[&str], &str)] = &[
        (&["/no/such/program"], "/no/such/program"),
        (
            &["sh", "-c", "exit 3"],
            "the server does not start: it exited with status 3 before it answered `initialize`",
        ),
        (
            &["sh", "-c", "kill -9 $$"],
            "it was killed by signal 9, as the kernel does when the memory runs out",
        ),
        (
            &["sh", "-c", "exec 1>&-; sleep 600"],
            "it closed its output before it answered `initialize`",
        ),
    ];
    for (command, says) in cases {
        let _ = std::fs::remove_file(&log);
        let mut bridge = Command::new(env!("CARGO_BIN_EXE_portcullis-gateway"))
            .args([
                "bridge",
                "--listen",
                "127.0.0.1:0",
                "--insecure-no-bearer",
                "--termination-log",
            ])
            .arg(&log)
            .arg("--")
            .args(*command)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        let status = loop {
            if let Some(status) = bridge.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > PATIENCE {
                let _ = bridge.kill();
                panic!("the bridge goes on without {command:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(status.code(), Some(2), "{command:?}");
        let said = std::fs::read_to_string(&log).unwrap();
        assert!(said.contains(says), "{command:?}: {said}");
    }
}
