//! Agents act in a real MLflow as the users that their grants map to: its basic-auth app with two
//! users, who may each read their own experiment, behind the real mlflow-mcp over stdio and over
//! HTTP.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::support::client::Client;
use crate::support::installed;
use crate::support::rig::{Held, Rig, allow_all};

/// MLflow imports for a long time on a busy machine.
const START: Duration = Duration::from_secs(180);
const ADMIN: (&str, &str) = ("admin", "the-password-of-the-admin");

/// The user's password at MLflow.
fn password(user: &str) -> String {
    format!("the-password-of-{user}")
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Free a moment ago: good enough on loopback.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A tracking server that asks for a user.
struct MlflowServer {
    uri: String,
    port: u16,
    _process: Child,
    _folder: TempDir,
}

impl MlflowServer {
    async fn start(mlflow: &OsString) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let config = format!(
            "[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{}\nadmin_username = {}\nadmin_password = {}\n\
             authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n",
            file("auth.db").display(),
            ADMIN.0,
            ADMIN.1
        );
        std::fs::write(file("auth.ini"), config).unwrap();
        let log = std::fs::File::create(file("log")).unwrap();
        let port = free_port();
        let process = Command::new(mlflow)
            .args([
                "server",
                "--app-name",
                "basic-auth",
                "--host",
                "127.0.0.1",
                "--workers",
                "1",
            ])
            .args(["--port", &port.to_string()])
            .arg(format!(
                "--backend-store-uri=sqlite:///{}",
                file("mlflow.db").display()
            ))
            .arg("--default-artifact-root")
            .arg(file("artifacts"))
            .env("MLFLOW_AUTH_CONFIG_PATH", file("auth.ini"))
            .env("MLFLOW_FLASK_SERVER_SECRET_KEY", "a-key-of-this-test-only")
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let server = MlflowServer {
            uri: format!("http://127.0.0.1:{port}"),
            port,
            _process: process,
            _folder: folder,
        };
        let log = server._folder.path().join("log");
        listening(port, &log).await;
        server
    }

    /// A request to the tracking server itself.
    async fn post(&self, (user, password): (&str, &str), path: &str, body: Value) -> Value {
        let mut client = Client::new(([127, 0, 0, 1], self.port).into(), path);
        client = client
            .with("Authorization", &basic(user, password))
            .with("Accept", "application/json")
            .with("Connection", "close");
        let reply = client.post(&body).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        reply.json()
    }

    /// Makes a user, and an experiment of that user's own.
    async fn user(&self, name: &str) -> String {
        let own = password(name);
        let user = json!({"username": name, "password": own});
        self.post(ADMIN, "/api/2.0/mlflow/users/create", user).await;
        let experiment = json!({"name": format!("of-{name}")});
        let path = "/api/2.0/mlflow/experiments/create";
        let made = self.post((name, &own), path, experiment).await;
        made["experiment_id"].as_str().unwrap().to_owned()
    }
}

impl Drop for MlflowServer {
    fn drop(&mut self) {
        // It leads a group of its own, with its workers.
        let pid = self._process.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

async fn listening(port: u16, log: &Path) {
    let start = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        let said = || std::fs::read_to_string(log).unwrap_or_default();
        assert!(start.elapsed() < START, "it does not start: {}", said());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The interpreter beside an installed program.
fn interpreter(program: &OsString) -> PathBuf {
    Path::new(program).with_file_name("python")
}

fn secrets() -> Held {
    let held = Held::default();
    for user in ["alice", "bob"] {
        held.set("agents", user, &format!("the-api-key-of-{user}"));
        held.set(user, "username", user);
        held.set(user, "password", &password(user));
        held.set(user, "authorization", &basic(user, &password(user)));
    }
    held.set("agents", "stranger", "the-api-key-of-stranger");
    held.set("admin", "authorization", &basic(ADMIN.0, ADMIN.1));
    held
}

fn secret(variable: &str, of: &str, key: &str) -> Value {
    json!({"name": variable, "valueFrom": {"secretKeyRef": {"name": of, "key": key}}})
}

/// Each agent reads the experiment of its user, and MLflow itself refuses it the other's.
async fn each_acts_as_its_user(rig: &Rig, experiments: [&str; 2]) {
    let as_agent = |name: &str| {
        let key = format!("Bearer the-api-key-of-{name}");
        rig.client.with("Authorization", &key)
    };
    for (at, user) in ["alice", "bob"].into_iter().enumerate() {
        let client = as_agent(user).session().await;
        let of = ["alice", "bob"];
        let (own, other) = (of[at], of[1 - at]);
        let by_name = |name: &str| json!({"name": format!("of-{name}")});
        let (failed, text) = client
            .call("get_experiment_by_name", by_name(own))
            .await
            .tool();
        assert!(!failed && text.contains(experiments[at]), "{user}: {text}");
        let (failed, text) = client
            .call("get_experiment_by_name", by_name(other))
            .await
            .tool();
        assert!(
            failed && text.contains("Permission denied"),
            "{user}: {text}"
        );
        let tag = json!({"experiment_id": experiments[1 - at], "key": "k", "value": "v"});
        let (failed, text) = client.call("set_experiment_tag", tag.clone()).await.tool();
        assert!(
            failed && text.contains("Permission denied"),
            "{user}: {text}"
        );
        let mut tag = tag;
        tag["experiment_id"] = json!(experiments[at]);
        let (failed, text) = client.call("set_experiment_tag", tag).await.tool();
        assert!(!failed, "{user}: {text}");
        // The list that MLflow gives is that user's as well.
        let (_, text) = client.call("get_experiments", json!({})).await.tool();
        assert!(text.contains(&format!("of-{own}")), "{user}: {text}");
        assert!(!text.contains(&format!("of-{other}")), "{user}: {text}");
    }
    let (_, text) = as_agent("stranger")
        .initialize("2025-11-25", json!({}))
        .await
        .error();
    assert!(
        text.contains("has no credential for key:stranger"),
        "{text}"
    );
    let said = format!("{} {:?}", rig.audit.text(), rig.gateway.report());
    assert!(!said.contains("the-password-of"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_act_in_mlflow_as_the_users_that_their_grants_map_to() {
    let what = "agents as users of MLflow's basic-auth app";
    let (Some(mlflow), Some(mcp)) = (
        installed("PORTCULLIS_TEST_MLFLOW_OFFICIAL", what),
        installed("PORTCULLIS_TEST_MLFLOW_MCP", what),
    ) else {
        return;
    };
    let server = MlflowServer::start(&mlflow).await;
    let experiments = [server.user("alice").await, server.user("bob").await];
    let experiments = [&*experiments[0], &*experiments[1]];
    let uri = json!({"name": "MLFLOW_TRACKING_URI", "value": server.uri});
    let retries = json!({"name": "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "value": "0"});
    let authentication = json!({"apiKeys": {"secretRef": {"name": "agents"}}});

    let process = |user: &str| {
        json!({"callers": [format!("key:{user}")], "env": [
            secret("MLFLOW_TRACKING_USERNAME", user, "username"), secret("MLFLOW_TRACKING_PASSWORD", user, "password")]})
    };
    let stdio = json!({
        "upstream": {"stdio": {"image": "unused:1", "command": [mcp.to_str().unwrap()], "sessions": "PerSession",
            "env": [uri, retries], "credentials": [process("alice"), process("bob")]}},
        "authentication": authentication,
    });
    let rig = Rig::with(stdio, secrets(), &[allow_all()]).await;
    each_acts_as_its_user(&rig, experiments).await;
    rig.gateway.shutdown().await;

    let port = free_port();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let file = std::fs::File::create(&log).unwrap();
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway/fixtures/mlflow_mcp_http.py");
    let _over_http = Command::new(interpreter(&mcp))
        .arg(fixture)
        .arg(port.to_string())
        .env("MLFLOW_TRACKING_URI", &server.uri)
        .env("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        .stdin(Stdio::null())
        .stdout(file.try_clone().unwrap())
        .stderr(file)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    listening(port, &log).await;
    let entry = |user: &str| json!({"callers": [format!("key:{user}")], "headers": [secret("Authorization", user, "authorization")]});
    let http = json!({
        "upstream": {"http": {"url": format!("http://127.0.0.1:{port}/mcp"),
            "headers": [secret("Authorization", "admin", "authorization")],
            "credentials": [entry("alice"), entry("bob")]}},
        "authentication": authentication,
    });
    let rig = Rig::with(http, secrets(), &[allow_all()]).await;
    each_acts_as_its_user(&rig, experiments).await;
    rig.gateway.shutdown().await;
}
