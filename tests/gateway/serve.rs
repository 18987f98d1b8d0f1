//! `portcullis serve` as a person runs it: the real program, a stdio server as its child, the
//! commands beside it.

mod announced;
mod attacker;
mod clients;
mod explained;
mod files;
mod limits;
mod secrets;
mod tools;

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// A `serve` over files of its own.
struct Serve {
    child: Child,
    folder: TempDir,
    address: String,
    messages: mpsc::Receiver<String>,
    seen: String,
}

fn portcullis() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.env_remove("RUST_LOG");
    command
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn server_yaml() -> String {
    let script =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway/fixtures/scripted_server.py");
    format!(
        "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {{ name: scripted, namespace: ml }}\nspec:\n  upstream:\n    stdio:\n      image: scripted:1\n      command: [python3, {}]\n  authentication: {{ anonymous: Allow }}\n",
        script.display()
    )
}

fn policy_yaml(rules: &str) -> String {
    format!(
        "apiVersion: portcullis.dev/v1alpha1\nkind: McpPolicy\nmetadata: {{ name: rules, namespace: ml }}\nspec:\n  targetRefs: [{{ group: portcullis.dev, kind: McpServer, name: scripted }}]\n  rules:\n{rules}"
    )
}

const ALLOW: &str = "    - { name: echo, tools: { names: [echo] }, action: Allow }\n";
const DENY: &str =
    "    - { name: echo, tools: { names: [echo] }, action: Deny, reason: Not today. }\n";
const APPROVE: &str = "    - { name: echo, tools: { names: [echo] }, action: RequireApproval, approval: { expiresAfter: 10m, waitUpTo: 0s } }\n";

impl Serve {
    fn start(rules: &str) -> Serve {
        Serve::launch(portcullis(), tempfile::tempdir().unwrap(), rules, &[])
    }

    /// The same with another server, and with what the command is given more, beside the folder of
    /// the files.
    fn start_as(server: &str, rules: &str, more: impl FnOnce(&mut Command, &Path)) -> Serve {
        let folder = tempfile::tempdir().unwrap();
        let mut command = portcullis();
        more(&mut command, folder.path());
        // What is given more comes last; options may stand anywhere.
        let given: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let mut child = Command::new(command.get_program());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => child.env(name, value),
                None => child.env_remove(name),
            };
        }
        Serve::launch_as(child, folder, server, rules, &given)
    }

    /// With further arguments; `command` starts the program.
    fn launch(command: Command, folder: TempDir, rules: &str, arguments: &[&str]) -> Serve {
        Serve::launch_as(command, folder, &server_yaml(), rules, arguments)
    }

    fn launch_as(
        mut command: Command,
        folder: TempDir,
        server: &str,
        rules: &str,
        arguments: &[impl AsRef<OsStr>],
    ) -> Serve {
        std::fs::create_dir(folder.path().join("files")).unwrap();
        std::fs::write(folder.path().join("files/server.yaml"), server).unwrap();
        std::fs::write(folder.path().join("files/policy.yaml"), policy_yaml(rules)).unwrap();
        let mut given = arguments.iter().map(AsRef::as_ref);
        let address = match given.find(|one| *one == "--listen") {
            Some(_) => given.next().unwrap().to_str().unwrap().to_owned(),
            None => format!("127.0.0.1:{}", free_port()),
        };
        command
            .args(["serve", "-f"])
            .arg(folder.path().join("files"));
        if !arguments.iter().any(|one| one.as_ref() == "--state") {
            command.arg("--state").arg(folder.path().join("state"));
        }
        if !arguments.iter().any(|one| one.as_ref() == "--listen") {
            command.args(["--listen", &address]);
        }
        let mut child = command
            .arg("--socket")
            .arg(folder.path().join("run/serve.sock"))
            .args(arguments)
            .arg("--audit-file")
            .arg(folder.path().join("audit.jsonl"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, messages) = mpsc::channel();
        let stderr = child.stderr.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut serve = Serve {
            child,
            folder,
            address,
            messages,
            seen: String::new(),
        };
        serve.says("Point an MCP client at a URL");
        serve
    }

    /// Waits for a line on standard error.
    fn says(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self
                .messages
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) => {
                    self.seen.push_str(&line);
                    self.seen.push('\n');
                    if line.contains(text) {
                        return;
                    }
                }
                Err(_) => panic!("`{text}` was not said; what was said:\n{}", self.seen),
            }
        }
    }

    fn write_policy(&self, text: &str) {
        // As editors and kubectl do it: a new file takes the old one's place.
        let folder = self.folder.path();
        std::fs::write(folder.join("new"), text).unwrap();
        std::fs::rename(folder.join("new"), folder.join("files/policy.yaml")).unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("run/serve.sock")
    }

    fn command(&self, arguments: &[&str]) -> Output {
        portcullis()
            .args(arguments)
            .arg("--socket")
            .arg(self.socket())
            .output()
            .unwrap()
    }

    /// Ends a session; the status.
    fn end(&self, session: &str) -> u16 {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "DELETE /scripted/mcp HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nMcp-Session-Id: {session}\r\n\r\n",
            self.address
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// One POST; status, session id, body.
    fn post(&self, session: Option<&str>, body: &Value) -> (u16, Option<String>, Value) {
        self.post_with("", session, body)
    }

    /// The same with lines of the header, each with its line break.
    fn post_with(
        &self,
        header: &str,
        session: Option<&str>,
        body: &Value,
    ) -> (u16, Option<String>, Value) {
        answer_of(self.send(header, session, body))
    }

    /// The same without waiting for the answer.
    fn send(&self, header: &str, session: Option<&str>, body: &Value) -> TcpStream {
        let body = body.to_string();
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let session = session.map_or_else(String::new, |id| format!("Mcp-Session-Id: {id}\r\n"));
        write!(
            stream,
            "POST /scripted/mcp HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nConnection: close\r\n{header}{session}Content-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        )
        .unwrap();
        stream
    }

    fn session(&self) -> String {
        let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}});
        let (status, id, _) = self.post(None, &initialize);
        assert_eq!(status, 200);
        let id = id.unwrap();
        let (status, _, _) = self.post(
            Some(&id),
            &json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
        );
        assert_eq!(status, 202);
        id
    }

    fn echo(&self, session: &str, text: &str) -> Value {
        let (status, _, message) = self.post(Some(session), &echo_call(text));
        assert_eq!(status, 200, "{message}");
        message["result"].clone()
    }

    /// Calls until the answer is as wanted.
    fn echo_until(&self, session: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let result = self.echo(session, "hello");
            if wanted(&result) {
                return result;
            }
            assert!(Instant::now() < deadline, "still {result}");
            std::thread::yield_now();
        }
    }

    /// Ctrl-C, and everything until the end.
    fn interrupt(mut self) -> (i32, String, TempDir) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let status = self.child.wait().unwrap();
        while let Ok(line) = self.messages.recv_timeout(PATIENCE) {
            self.seen.push_str(&line);
            self.seen.push('\n');
        }
        (
            status.code().unwrap_or(-1),
            std::mem::take(&mut self.seen),
            std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap()),
        )
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn echo_call(text: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "echo", "arguments": {"text": text}}})
}

/// Status, session id and body.
fn answer_of(mut stream: TcpStream) -> (u16, Option<String>, Value) {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let id = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("mcp-session-id")
            .then(|| value.to_owned())
    });
    // A streamed answer is chunked: the message is the one line of it that is JSON.
    let message = body.lines().find_map(|line| {
        serde_json::from_str::<Value>(line.strip_prefix("data: ").unwrap_or(line))
            .ok()
            .filter(Value::is_object)
    });
    (status, id, message.unwrap_or(Value::Null))
}

fn is_error(result: &Value) -> bool {
    result["isError"] == true
}

/// Without the id of the decision.
fn text(result: &Value) -> &str {
    let text = result["content"][0]["text"].as_str().unwrap_or_default();
    text.split(" To ask about this, quote decision ")
        .next()
        .unwrap()
}

#[test]
fn a_policy_change_is_in_force_without_a_restart_and_a_bad_one_keeps_the_last() {
    let mut serve = Serve::start(ALLOW);
    let session = serve.session();
    assert!(!is_error(&serve.echo(&session, "hello")));
    serve.write_policy(&policy_yaml(DENY));
    let denied = serve.echo_until(&session, is_error);
    assert_eq!(
        text(&denied),
        "Denied by policy rules, rule echo: Not today. Do not retry."
    );

    serve.write_policy(
        "apiVersion: portcullis.dev/v1alpha1\nkind: McpPolicy\nmetadata: { name: rules\n",
    );
    serve.says("policy.yaml:");
    serve.says("keep their previous version");
    assert!(
        is_error(&serve.echo(&session, "hello")),
        "a broken file must not loosen anything"
    );

    serve.write_policy(&policy_yaml(
        "    - { name: echo, tools: { names: [echo] }, action: Allow, when: 'args.text ==' }\n",
    ));
    serve.says("policy.yaml:7:");
    assert!(is_error(&serve.echo(&session, "hello")));
    let status = serve.command(&["status"]);
    assert!(status.status.success());
    let shown = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(
        shown.contains("False"),
        "the policy is not accepted: {shown}"
    );

    serve.write_policy(&policy_yaml(ALLOW));
    serve.echo_until(&session, |result| !is_error(result));
}

#[test]
fn a_session_with_a_shared_server_survives_a_restart() {
    let serve = Serve::start(ALLOW);
    let (session, address) = (serve.session(), serve.address.clone());
    assert!(!is_error(&serve.echo(&session, "hello")));
    let (_, _, folder) = serve.interrupt();
    let again = |folder: TempDir| {
        std::fs::remove_dir_all(folder.path().join("files")).unwrap();
        Serve::launch(portcullis(), folder, ALLOW, &[])
    };
    let mut serve = again(folder);
    // The client goes on where it was; only the port is another one here.
    assert_ne!(serve.address, address);
    assert_eq!(text(&serve.echo(&session, "hello")), "hello");
    let list = json!({"jsonrpc": "2.0", "id": 3, "method": "tools/list", "params": {}});
    assert_eq!(serve.post(Some(&session), &list).0, 200);
    // A session that its client has ended stays ended.
    let ended = serve.session();
    let status = serve.end(&ended);
    assert_eq!(status, 204);
    let call = json!({"jsonrpc": "2.0", "id": 4, "method": "ping"});
    assert_eq!(serve.post(Some(&ended), &call).0, 404);

    // Attack: with another key, no token of before opens.
    let (_, _, folder) = serve.interrupt();
    std::fs::remove_file(folder.path().join("state/sealing.key")).unwrap();
    serve = again(folder);
    assert_eq!(serve.post(Some(&session), &call).0, 404);
}

#[test]
fn variables_of_this_environment_reach_a_server_only_where_they_are_passed() {
    let server = server_yaml().replace(
        "      command:",
        "      env: [{ name: TOOLS, value: 'environment,variables' }]\n      command:",
    );
    let rules = "    - { name: all, tools: { names: ['*'] }, action: Allow }\n";
    let set = |command: &mut Command| {
        command
            .env("MLFLOW_TRACKING_USERNAME", "joe")
            .env("SSL_CERT_FILE", "/ca.pem");
    };
    let serve = Serve::start_as(&server, rules, |command, _| {
        set(command);
        command.args(["--pass-env", "MLFLOW_TRACKING_USERNAME"]);
    });
    let session = serve.session();
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {
        "name": "variables", "arguments": {"names": ["MLFLOW_TRACKING_USERNAME", "SSL_CERT_FILE"]}}});
    let (_, _, answer) = serve.post(Some(&session), &call);
    let got: Value = serde_json::from_str(text(&answer["result"])).unwrap();
    assert_eq!(
        got,
        json!({"MLFLOW_TRACKING_USERNAME": "joe", "SSL_CERT_FILE": null})
    );
    let (_, said, _folder) = serve.interrupt();
    let note = said
        .lines()
        .find(|line| line.contains("its process gets"))
        .unwrap();
    assert!(note.contains("MLFLOW_TRACKING_USERNAME"), "{note}");
    let (_, missing) = note.split_once("set here, but not passed: ").unwrap();
    assert!(missing.contains("--pass-env SSL_CERT_FILE"), "{note}");
    assert!(!missing.contains("MLFLOW_TRACKING_USERNAME"), "{note}");
    assert!(!said.contains("joe") && !said.contains("/ca.pem"), "{said}");
}

#[test]
fn a_tool_that_nobody_gets_is_named_with_the_reason_at_the_start_in_the_log_and_in_the_status() {
    let server = server_yaml().replace(
        "      command:",
        "      env: [{ name: TOOLS, value: 'echo,twice,twice' }]\n      command:",
    );
    let serve = Serve::start_as(&server, ALLOW, |_, _| {});
    let status = serve.command(&["status", "-o", "yaml"]);
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    let (_, said, _folder) = serve.interrupt();
    let why = "the server lists this name more than once";
    let named = |text: &str, place: &str| {
        let mut lines = text.lines();
        let named = lines.any(|line| line.contains(place) && line.contains(why));
        assert!(named, "{place}:\n{text}");
    };
    named(&said, "note: McpServer ml/scripted: tool `twice`");
    named(&said, "WARN");
    named(
        &status.replace("\n", " "),
        "`twice` is hidden from all callers",
    );
}

#[test]
fn a_call_waits_for_a_person_and_is_made_once() {
    let serve = Serve::start(APPROVE);
    let session = serve.session();
    let pending = serve.echo(&session, "promote");
    assert!(
        is_error(&pending) && text(&pending).contains("McpApproval scripted-"),
        "{pending}"
    );
    let listed = serve.command(&["approvals", "list", "-o", "json"]);
    let approvals: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let name = approvals[0]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(approvals.as_array().unwrap().len(), 1);
    assert_eq!(
        approvals[0]["spec"]["argumentsPreview"],
        "{\"text\":\"promote\"}"
    );
    let table = String::from_utf8(serve.command(&["approvals", "list"]).stdout).unwrap();
    assert!(
        table.contains("EXPIRES  ARGUMENTS") && table.contains(r#"{"text":"promote"}"#),
        "{table}"
    );
    // Nobody can be asked here: it shows the call and says what to write.
    let digest = approvals[0]["spec"]["argumentsDigest"].as_str().unwrap();
    let unasked = serve.command(&["approvals", "approve", &name]);
    let said = String::from_utf8_lossy(&unasked.stderr).into_owned();
    let write = format!("--yes --digest {}", &digest[..7 + 16]);
    assert!(
        !unasked.status.success() && said.contains(&write) && said.contains(r#"text: "promote""#),
        "{said}"
    );
    let approve =
        |digest: &str| serve.command(&["approvals", "approve", &name, "--yes", "--digest", digest]);
    let wrong = digest.replace(|c: char| c.is_ascii_digit(), "f");
    assert_eq!(approve(&wrong).status.code(), Some(1));
    let approved = approve(&digest[..7 + 16]);
    assert!(
        approved.status.success(),
        "{}",
        String::from_utf8_lossy(&approved.stderr)
    );
    let again = serve.command(&["approvals", "deny", &name]);
    assert_eq!(again.status.code(), Some(1), "a decision is set once");
    assert!(!is_error(&serve.echo(&session, "promote")));
    assert!(
        is_error(&serve.echo(&session, "promote")),
        "an approval is used once"
    );
    assert!(is_error(&serve.echo(&session, "something else")));
}

/// Runs a command on a terminal of its own, answers its question, and ends as it ends.
const TERMINAL: &str = r#"
import os, pty, sys
answer, command = sys.argv[1], sys.argv[2:]
child, terminal = pty.fork()
if child == 0:
    os.execv(command[0], command)
shown = b""
while True:
    try:
        more = os.read(terminal, 4096)
    except OSError:
        break
    if not more:
        break
    shown += more
    if answer is not None and b"Type yes: " in shown:
        os.write(terminal, answer.encode() + b"\n")
        answer = None
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"#;

#[test]
fn a_person_at_a_terminal_sees_the_call_and_is_asked() {
    let serve = Serve::start(APPROVE);
    let session = serve.session();
    assert!(is_error(&serve.echo(&session, "promote \u{202e} 7")));
    let listed = serve.command(&["approvals", "list", "-o", "json"]);
    let approvals: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let name = approvals[0]["metadata"]["name"].as_str().unwrap();
    let answered = |answer: &str| {
        let output = Command::new("python3")
            .args(["-c", TERMINAL, answer])
            .arg(env!("CARGO_BIN_EXE_portcullis"))
            .args(["approvals", "approve", name, "--socket"])
            .arg(serve.socket())
            .output()
            .unwrap();
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), shown)
    };
    for no in ["", "no", "y", "YES", name] {
        let (approved, shown) = answered(no);
        assert!(
            !approved && shown.contains("nothing was decided"),
            "{no}: {shown}"
        );
    }
    let (approved, shown) = answered("yes");
    assert!(approved && shown.contains("approved by"), "{shown}");
    for part in [
        "Caller:    anonymous",
        "Tool:      echo",
        "scripted_server.py",
        r#"text: "promote \u202e 7""#,
        "policy rules, rule echo",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!is_error(&serve.echo(&session, "promote \u{202e} 7")));
}

#[test]
fn status_is_what_kubectl_would_show_and_ctrl_c_sums_up() {
    let serve = Serve::start(DENY);
    let session = serve.session();
    for _ in 0..3 {
        assert!(is_error(&serve.echo(&session, "x")));
    }
    let wide = String::from_utf8(serve.command(&["status", "-o", "wide"]).stdout).unwrap();
    let row: Vec<&str> = wide.lines().nth(1).unwrap().split_whitespace().collect();
    let url = format!("http://{}/scripted/mcp", serve.address);
    assert_eq!(
        row[..9],
        [
            "ml",
            "scripted",
            "False",
            "Enforce",
            url.as_str(),
            "1/1",
            "1",
            "3",
            "0"
        ],
        "it refuses every call"
    );
    assert_eq!(row[11], "1/1");
    let policy: Vec<&str> = wide.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(
        policy[..7],
        ["ml", "rules", "Enforce", "True", "True", "1/1", "3"]
    );
    let whole: Value =
        serde_json::from_slice(&serve.command(&["status", "-o", "json"]).stdout).unwrap();
    let violations = &whole["items"][0]["status"]["violations"];
    assert_eq!(
        (&violations["total"], &violations["denied"]),
        (&json!(3), &json!(3))
    );
    let socket = serve.socket();
    let (code, said, folder) = serve.interrupt();
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("DENIED") && said.contains("ml/scripted"),
        "{said}"
    );
    assert!(!socket.exists(), "the socket is left behind");
    let audit = std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap();
    let records: Vec<Value> = audit
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(records.len(), 3);
    for record in records {
        assert_eq!(
            (&record["outcome"], &record["tool"], &record["arguments"]),
            (&json!("denied"), &json!("echo"), &json!(["text"]))
        );
    }
}

#[test]
fn nothing_is_half_started() {
    let folder = tempfile::tempdir().unwrap();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let log = folder.path().join("started.log");
    let good = server_yaml();
    let cases: [(&str, String, &str); 6] = [
        ("busy port", good.clone(), "another program uses this port"),
        (
            "no such program",
            good.replace("python3", "no-such-program-here"),
            "was not found",
        ),
        ("no server", policy_yaml(ALLOW), "contain no McpServer"),
        (
            "later releases",
            good.replace("anonymous: Allow", "serviceAccounts: {}"),
            "spec.authentication.serviceAccounts",
        ),
        (
            "HTTPS",
            good.replace(
                "  authentication:",
                "  gateway: { tls: { secretRef: { name: tls } } }\n  authentication:",
            ),
            "spec.gateway.tls",
        ),
        (
            "a missing Secret",
            good.replace(
                "anonymous: Allow",
                "apiKeys: { secretRef: { name: agents } }",
            ),
            "agents",
        ),
    ];
    for (what, yaml, says) in cases {
        std::fs::write(
            folder.path().join("all.yaml"),
            format!(
                "{yaml}---\n{}",
                if yaml.contains("McpPolicy") {
                    String::new()
                } else {
                    policy_yaml(ALLOW)
                }
            ),
        )
        .unwrap();
        let port = if what == "busy port" {
            busy.local_addr().unwrap().port()
        } else {
            free_port()
        };
        let output = portcullis()
            .args(["serve", "-f"])
            .arg(folder.path().join("all.yaml"))
            .args(["--listen", &format!("127.0.0.1:{port}"), "--socket"])
            .arg(folder.path().join("s.sock"))
            .arg("--state")
            .arg(folder.path().join("state"))
            .args(["--env", &format!("SCRIPT_FILE={}", log.display())])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{what}: {said}");
        assert!(
            said.contains("error: ") && said.contains(says),
            "{what}: {said}"
        );
        assert!(!folder.path().join("s.sock").exists(), "{what}");
    }
    assert!(
        !log.exists(),
        "a server was started although something was wrong"
    );
}
