//! A stdio server that has turned against `serve`: it asks the socket to approve its own calls, and
//! reads what it can of the process that started it.

use super::*;

/// A variable that only `serve` has.
const SECRET: &str = "PORTCULLIS_SECRET_AGENTS_TRAINER";
const VALUE: &str = "a-key-that-no-server-may-see";

/// Who has no rights; the tests run as root on some machines and as a person on others.
const NOBODY: &str = "65534";

const RULES: &str = "    - { name: attack, tools: { names: [attack, escape, crash] }, action: Allow }\n    - { name: echo, tools: { names: [echo] }, action: RequireApproval, approval: { expiresAfter: 10m, waitUpTo: 0s } }\n";

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A program that runs without root's rights, which would open everything to everybody.
fn unprivileged(program: &str) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"]);
    command.arg(program);
    command
}

fn own(path: &Path) {
    if is_root() {
        let id = NOBODY.parse().unwrap();
        std::os::unix::fs::chown(path, Some(id), Some(id)).unwrap();
    }
}

/// A `serve` without root's rights, in front of a server that has the tools to attack it.
fn serve(arguments: &[&str]) -> Serve {
    let folder = tempfile::tempdir().unwrap();
    own(folder.path());
    let mut command = unprivileged(env!("CARGO_BIN_EXE_portcullis"));
    command.env_remove("RUST_LOG").env(SECRET, VALUE);
    Serve::launch(command, folder, RULES, arguments)
}

impl Serve {
    /// As somebody else than the servers, with the same user.
    fn ask(&self, arguments: &[&str]) -> Output {
        unprivileged(env!("CARGO_BIN_EXE_portcullis"))
            .env_remove("RUST_LOG")
            .args(arguments)
            .arg("--socket")
            .arg(self.socket())
            .output()
            .unwrap()
    }

    fn tool(&self, session: &str, name: &str, arguments: Value) -> Value {
        let call = json!({"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": name, "arguments": arguments}});
        let (status, _, message) = self.post(Some(session), &call);
        assert_eq!(status, 200, "{message}");
        message
    }

    /// What the server found when it attacked: from its own child, from one that left the session,
    /// or from a daemon.
    fn attack(
        &self,
        session: &str,
        how: &str,
        (method, target, body): (&str, &str, &str),
    ) -> Value {
        let out = self
            .folder
            .path()
            .join(format!("found-{method}-{}", target.len()));
        let arguments = json!({"how": how, "socket": self.socket(), "method": method, "target": target, "body": body, "out": out});
        let message = self.tool(session, "attack", arguments);
        serde_json::from_str(text(&message["result"])).unwrap_or_else(|_| panic!("{message}"))
    }

    fn pending(&self) -> Vec<Value> {
        let listed = self.ask(&["approvals", "list", "--pending", "-o", "json"]);
        assert!(
            listed.status.success(),
            "{}",
            String::from_utf8_lossy(&listed.stderr)
        );
        serde_json::from_slice(&listed.stdout).unwrap()
    }
}

#[test]
fn a_server_can_neither_decide_its_own_calls_nor_read_the_keys_of_serve() {
    let serve = serve(&["--env", "TOOLS=echo,attack,escape,crash"]);
    let session = serve.session();
    assert!(is_error(&serve.echo(&session, "promote")));
    let pending = serve.pending();
    let name = pending[0]["metadata"]["name"].as_str().unwrap();
    let digest = pending[0]["spec"]["argumentsDigest"].as_str().unwrap();
    let approve = json!({"verdict": "Approved", "digest": digest}).to_string();
    let decide = format!("/approvals/{name}");
    for how in ["child", "setsid", "daemon"] {
        for request in [
            ("POST", decide.as_str(), approve.as_str()),
            ("GET", "/approvals", ""),
            ("GET", "/status", ""),
        ] {
            let found = serve.attack(&session, how, request);
            let answer = found["answer"].as_str().unwrap();
            assert!(
                answer.starts_with("HTTP/1.1 403")
                    && answer.contains("was started by `portcullis serve`"),
                "{how}: {found}"
            );
            for file in ["environ", "maps"] {
                let read = found[file].as_str().unwrap();
                assert!(read.starts_with("refused: "), "{how}, {file}: {read}");
            }
        }
    }
    assert_eq!(serve.pending().len(), 1, "nobody has decided it");
    assert!(is_error(&serve.echo(&session, "promote")));
    // Who was not started here can.
    let approved = serve.ask(&["approvals", "approve", name, "--yes", "--digest", digest]);
    assert!(
        approved.status.success(),
        "{}",
        String::from_utf8_lossy(&approved.stderr)
    );
    assert!(!is_error(&serve.echo(&session, "promote")));
}

#[test]
fn what_a_server_leaves_behind_ends_with_it_while_serve_goes_on() {
    let serve = serve(&["--env", "TOOLS=echo,attack,escape,crash"]);
    let session = serve.session();
    let escaped = serve.tool(&session, "escape", json!({}));
    let escaped: u32 = text(&escaped["result"]).parse().unwrap();
    let stat = format!("/proc/{escaped}/stat");
    assert!(Path::new(&stat).exists());
    // What a server keeps beside it stays while the server runs.
    let kept = serve.tool(&session, "escape", json!({}));
    assert!(Path::new(&stat).exists(), "{kept}");
    serve.tool(&session, "crash", json!({}));
    let deadline = Instant::now() + PATIENCE;
    while Path::new(&stat).exists() {
        assert!(Instant::now() < deadline, "{escaped} still runs");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(serve.ask(&["status"]).status.success());
}

#[test]
fn servers_run_as_another_user_where_serve_is_root() {
    if !is_root() {
        // Past the test harness's capture, as tests/run.sh counts such lines.
        let line = b"\nskipped: --server-user: these tests do not run as root\n";
        return std::io::stdout().lock().write_all(line).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    {
        let mut command = portcullis();
        command.env(SECRET, VALUE);
        // Where root's rights are not needed to look in.
        for path in [folder.path().to_owned(), folder.path().join("out")] {
            let _ = std::fs::create_dir(&path);
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            std::fs::set_permissions(path, mode).unwrap();
        }
        let serve = Serve::launch(
            command,
            folder,
            RULES,
            &[
                "--server-user",
                "65534:65534",
                "--env",
                "TOOLS=echo,attack,who",
            ],
        );
        let session = serve.session();
        serve.write_policy(&policy_yaml(
            "    - { name: all, tools: { names: [\"*\"] }, action: Allow }\n",
        ));
        serve.echo_until(&session, |result| !is_error(result));
        let who = serve.tool(&session, "who", json!({"socket": serve.socket()}));
        let who: Value = serde_json::from_str(text(&who["result"])).unwrap();
        assert_eq!(
            (&who["user"], &who["groups"], &who["home"]),
            (&json!([65534, 65534]), &json!([]), &json!("/")),
        );
        for refused in ["connected", "environ"] {
            let said = who[refused].as_str().unwrap();
            assert!(said.contains("denied"), "{who}");
        }
    }
}

#[test]
fn a_user_that_serve_cannot_become_is_an_error_that_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    own(folder.path());
    std::fs::write(
        folder.path().join("all.yaml"),
        server_yaml() + "---\n" + &policy_yaml(ALLOW),
    )
    .unwrap();
    let refused = unprivileged(env!("CARGO_BIN_EXE_portcullis"))
        .args(["serve", "--server-user", "1:1", "-f"])
        .arg(folder.path().join("all.yaml"))
        .arg("--socket")
        .arg(folder.path().join("s.sock"))
        .arg("--state")
        .arg(folder.path().join("state"))
        .args(["--listen", &format!("127.0.0.1:{}", free_port())])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("start `portcullis serve` as root"),
        "{said}"
    );
}

#[test]
fn the_members_of_a_group_decide_under_their_own_names_and_nobody_else_does() {
    use std::os::unix::fs::PermissionsExt as _;
    if !is_root() {
        let line = b"\nskipped: --socket-group: these tests do not run as root\n";
        return std::io::stdout().lock().write_all(line).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).unwrap();
    let serve = Serve::launch(portcullis(), folder, APPROVE, &["--socket-group", "4242"]);
    let session = serve.session();
    let pending = serve.echo(&session, "promote");
    assert!(text(&pending).starts_with("Approval pending"), "{pending}");
    let run = |user: &str, group: &str, arguments: &[&str]| {
        Command::new("setpriv")
            .args(["--reuid", user, "--regid", group, "--clear-groups", "--"])
            .arg(env!("CARGO_BIN_EXE_portcullis"))
            .args(arguments)
            .arg("--socket")
            .arg(serve.socket())
            .output()
            .unwrap()
    };
    // Attack: of another group, through the path.
    let stranger = run("4343", "4343", &["approvals", "list"]);
    assert!(!stranger.status.success());
    let listed = run("4343", "4242", &["approvals", "list", "-o", "yaml"]);
    let listed_text = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.status.success(), "{listed:?}");
    let field = |name: &str| {
        let mut lines = listed_text.lines().map(str::trim);
        let found = lines.find_map(|line| line.strip_prefix(&format!("{name}: ")));
        found
            .unwrap_or_else(|| panic!("{name}: {listed_text}"))
            .trim_matches('"')
            .to_owned()
    };
    let (name, digest) = (field("name"), field("argumentsDigest"));
    let approve = ["approvals", "approve", &name, "--yes", "--digest", &digest];
    let approved = run("4343", "4242", &approve);
    assert!(approved.status.success(), "{approved:?}");
    assert!(!is_error(&serve.echo(&session, "promote")));
    let audit = std::fs::read_to_string(serve.folder.path().join("audit.jsonl")).unwrap();
    assert!(audit.contains(r#""by":"uid:4343""#), "{audit}");
}

#[test]
fn a_socket_is_given_to_a_group_only_in_a_folder_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("all.yaml"),
        server_yaml() + "---\n" + &policy_yaml(ALLOW),
    )
    .unwrap();
    let refused = portcullis()
        .args(["serve", "--socket-group", "4242", "-f"])
        .arg(folder.path().join("all.yaml"))
        // Beside the files.
        .arg("--socket")
        .arg(folder.path().join("s.sock"))
        .arg("--state")
        .arg(folder.path().join("state"))
        .args(["--listen", &format!("127.0.0.1:{}", free_port())])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("hold nothing else"),
        "{said}"
    );
}
