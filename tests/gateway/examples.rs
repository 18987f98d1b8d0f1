//! Each example, served as its README says, in front of the real server that it names.
//!
//! The MLflow behind it is a port where nobody listens, as most calls here never get that far, or a
//! registry in a file.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::client::Client;
use crate::support::{eventually, installed, soon};

struct Served {
    child: Child,
    client: Client,
    folder: tempfile::TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        // SIGTERM, so that the server's own processes end too.
        if let Some(pid) = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

/// Serves an example with the program that `variable` names first on PATH; None where that is not
/// installed.
fn serve(example: &str, name: &str, variable: &str) -> Option<Served> {
    serve_over(example, name, variable, "http://127.0.0.1:9")
}

/// The same over that MLflow.
fn serve_over(example: &str, name: &str, variable: &str, mlflow: &str) -> Option<Served> {
    serve_all(&[example], name, &[variable], mlflow)
}

/// Serves several examples at once; the programs of earlier variables are found first.
fn serve_all(examples: &[&str], name: &str, variables: &[&str], mlflow: &str) -> Option<Served> {
    let mut bins = Vec::new();
    for variable in variables {
        let program = installed(
            variable,
            &format!("examples {examples:?} with their real servers"),
        )?;
        bins.push(Path::new(&program).parent().unwrap().to_owned());
    }
    let path = std::env::var_os("PATH")?;
    let path = std::env::join_paths(bins.into_iter().chain(std::env::split_paths(&path))).unwrap();
    let address: SocketAddr = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args([
            "serve",
            "--listen",
            &address.to_string(),
            "--env",
            &format!("MLFLOW_TRACKING_URI={mlflow}"),
        ])
        .args(examples.iter().flat_map(|example| {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
            ["-f".into(), folder.join(example)]
        }))
        .arg("--socket")
        .arg(folder.path().join("serve.sock"))
        .arg("--state")
        .arg(folder.path().join("state"))
        .env("PATH", path)
        .env(
            "PORTCULLIS_SECRET_MLFLOW_AGENTS__trainer",
            "a-key-of-this-test-only",
        )
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let mut said = String::new();
    let started = lines.by_ref().any(|line| {
        said.push_str(&line);
        said.push('\n');
        line.contains("Point an MCP client at a URL")
    });
    assert!(started, "examples {examples:?} did not start:\n{said}");
    // Read on, or the program blocks when the pipe is full.
    std::thread::spawn(move || lines.for_each(drop));
    let client = Client::new(address, &format!("/{name}/mcp"));
    Some(Served {
        child,
        client,
        folder,
    })
}

/// A model registry in a file, with the model `churn`: its versions are 1 to 3, and its alias
/// `champion` is on the first.
struct Registry {
    folder: tempfile::TempDir,
    python: std::path::PathBuf,
}

impl Registry {
    fn new() -> Option<Self> {
        let program = installed("PORTCULLIS_TEST_MLFLOW_MCP", "a registry of MLflow")?;
        let registry = Registry {
            folder: tempfile::tempdir().unwrap(),
            python: Path::new(&program).with_file_name("python"),
        };
        registry.run(
            "client.create_registered_model('churn')\n\
             for _ in range(3): client.create_model_version('churn', 'file:///nowhere')\n\
             client.set_registered_model_alias('churn', 'champion', '1')",
        );
        Some(registry)
    }

    fn uri(&self) -> String {
        format!("sqlite:///{}/mlflow.db", self.folder.path().display())
    }

    /// Runs Python with a `client` of the registry; returns what it prints.
    fn run(&self, code: &str) -> String {
        let output = Command::new(&self.python)
            .arg("-c")
            .arg(format!(
                "from mlflow import MlflowClient\nclient = MlflowClient()\n{code}"
            ))
            .env("MLFLOW_TRACKING_URI", self.uri())
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn champion(&self) -> String {
        self.run("print(client.get_model_version_by_alias('churn', 'champion').version)")
    }
}

impl Served {
    /// The command line, as the person who decides uses it.
    fn approvals(&self, args: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .arg("approvals")
            .args(args)
            .arg("--socket")
            .arg(self.folder.path().join("serve.sock"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The request that waits, once there is one.
    async fn pending(&self) -> serde_json::Value {
        let mut found = Vec::new();
        eventually("a request waits", || {
            let listed = self.approvals(&["list", "--pending", "-o", "json"]);
            found = serde_json::from_str(&listed).unwrap();
            !found.is_empty()
        })
        .await;
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    fn approve(&self, asked: &serde_json::Value) {
        let text = |pointer: &str| asked.pointer(pointer).unwrap().as_str().unwrap();
        let (name, digest) = (text("/metadata/name"), text("/spec/argumentsDigest"));
        self.approvals(&["approve", name, "--yes", "--digest", digest]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_is_of_the_state_that_a_person_saw() {
    let Some(registry) = Registry::new() else {
        return;
    };
    let served = serve_over(
        "promotion-approval",
        "mlflow-registry",
        "PORTCULLIS_TEST_MLFLOW_MCP",
        &registry.uri(),
    );
    let served = served.unwrap();
    let keyed = served
        .client
        .with("Authorization", "Bearer a-key-of-this-test-only");
    let session = keyed.session().await;
    let arguments = |alias: &str| json!({"name": "churn", "alias": alias, "version": "2"});
    let promote = |alias: &'static str| {
        let (session, arguments) = (session.clone(), arguments(alias));
        tokio::spawn(async move { session.call("set_model_alias", arguments).await.tool() })
    };
    // On a slow machine the call may be answered before the person decides: it is repeated then.
    let decided = async |alias: &'static str, mut call: JoinHandle<(bool, String)>| loop {
        let (refused, text) = soon("an answer", call).await.unwrap();
        if !text.starts_with("Approval pending: ") {
            return (refused, text);
        }
        call = promote(alias);
    };
    // The server's first answer takes it long.
    session
        .call("get_registered_models", json!({}))
        .await
        .tool();

    let call = promote("champion");
    let asked = served.pending().await;
    let shown = served.approvals(&["show", asked["metadata"]["name"].as_str().unwrap()]);
    for part in [
        "There now (get_model_version_by_alias, read ",
        "  version: 1\n",
        "Will be (set_model_alias):\n",
        "  version: \"2\"\n",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    // Moved meanwhile, by whoever.
    registry.run("client.set_registered_model_alias('churn', 'champion', '3')");
    served.approve(&asked);
    let (refused, text) = decided("champion", call).await;
    assert!(refused && text.starts_with("Approval stale: "), "{text}");
    assert_eq!(registry.champion(), "3");

    let call = promote("champion");
    let asked = served.pending().await;
    let preview = asked["spec"]["observed"]["preview"].as_str().unwrap();
    assert!(preview.contains(r#""version":3,"#), "{preview}");
    served.approve(&asked);
    let (refused, text) = decided("champion", call).await;
    assert!(!refused, "{text}");
    assert_eq!(registry.champion(), "2");

    // An alias that is new: that there is none is what the person sees.
    let call = promote("production");
    let asked = served.pending().await;
    let preview = asked["spec"]["observed"]["preview"].as_str().unwrap();
    assert!(preview.starts_with(r#"{"isError":"#), "{preview}");
    served.approve(&asked);
    let (refused, text) = decided("production", call).await;
    assert!(!refused, "{text}");
}

#[tokio::test]
async fn quickstart_shows_35_of_40_tools_and_hides_the_destructive_ones() {
    let Some(served) = serve("quickstart", "mlflow", "PORTCULLIS_TEST_MLFLOW_MCP") else {
        return;
    };
    let session = served.client.session().await;
    let tools = session.tools().await;
    assert_eq!(tools.len(), 35);
    assert!(!tools.iter().any(|tool| tool.starts_with("delete_")));
    for tool in [
        "delete_experiment",
        "delete_run",
        "delete_model_alias",
        "no_such_tool",
    ] {
        let (code, message) = session.call(tool, json!({})).await.error();
        assert_eq!((code, message), (-32602, format!("Unknown tool: {tool}")));
    }
}

#[tokio::test]
async fn read_only_shows_what_reads_and_nothing_else() {
    let Some(served) = serve("read-only", "mlflow-readonly", "PORTCULLIS_TEST_MLFLOW_MCP") else {
        return;
    };
    let session = served.client.session().await;
    let tools = session.tools().await;
    // All that read but get_artifact_content, which returns whole files.
    assert_eq!(tools.len(), 26);
    let prefixes = ["get_", "search_", "query_", "compare_", "health"];
    assert!(
        tools
            .iter()
            .all(|tool| prefixes.iter().any(|prefix| tool.starts_with(prefix))),
        "{tools:?}"
    );
    let (code, _) = session
        .call(
            "set_experiment_tag",
            json!({"experiment_id": "1", "key": "k", "value": "v"}),
        )
        .await
        .error();
    assert_eq!(code, -32602);
}

#[tokio::test]
async fn official_mlflow_shows_21_of_26_tools() {
    let Some(served) = serve(
        "official-mlflow",
        "mlflow-official",
        "PORTCULLIS_TEST_MLFLOW_OFFICIAL",
    ) else {
        return;
    };
    let session = served.client.session().await;
    let tools = session.tools().await;
    assert_eq!(tools.len(), 21, "{tools:?}");
    for tool in [
        "delete_traces",
        "delete_trace_assessment",
        "delete_experiment",
        "delete_run",
        "evaluate_traces",
    ] {
        let (code, message) = session.call(tool, json!({})).await.error();
        assert_eq!((code, message), (-32602, format!("Unknown tool: {tool}")));
    }
}

#[tokio::test]
async fn promotion_approval_admits_key_holders_and_holds_promotions() {
    let Some(served) = serve(
        "promotion-approval",
        "mlflow-registry",
        "PORTCULLIS_TEST_MLFLOW_MCP",
    ) else {
        return;
    };
    assert_eq!(
        served
            .client
            .initialize("2025-11-25", json!({}))
            .await
            .status,
        401
    );
    let wrong = served
        .client
        .with("Authorization", "Bearer another-key-altogether");
    assert_eq!(wrong.initialize("2025-11-25", json!({})).await.status, 401);
    let keyed = served
        .client
        .with("Authorization", "Bearer a-key-of-this-test-only");
    let session = keyed.session().await;
    assert!(
        session
            .tools()
            .await
            .iter()
            .any(|tool| tool == "set_model_alias")
    );
    // A number where the schema says text is not a way around a condition on text.
    let (refused, text) = session
        .call(
            "set_model_alias",
            json!({"name": "churn", "alias": ["champion"], "version": "7"}),
        )
        .await
        .tool();
    assert!(refused && text.starts_with("Invalid arguments: "), "{text}");
}

#[tokio::test]
async fn audit_first_shows_everything() {
    let Some(served) = serve(
        "audit-first",
        "mlflow-watched",
        "PORTCULLIS_TEST_MLFLOW_MCP",
    ) else {
        return;
    };
    let session = served.client.session().await;
    assert_eq!(session.tools().await.len(), 40);
}

/// None takes a policy of another away.
#[tokio::test]
async fn all_examples_are_served_together() {
    let examples = [
        "read-only",
        "quickstart",
        "promotion-approval",
        "official-mlflow",
        "audit-first",
    ];
    let programs = [
        "PORTCULLIS_TEST_MLFLOW_OFFICIAL",
        "PORTCULLIS_TEST_MLFLOW_MCP",
    ];
    let Some(served) = serve_all(&examples, "mlflow", &programs, "http://127.0.0.1:9") else {
        return;
    };
    for (name, expected) in [
        ("mlflow", 35),
        ("mlflow-official", 21),
        ("mlflow-readonly", 26),
        ("mlflow-watched", 40),
        ("mlflow-registry", 40),
    ] {
        let client = Client::new(served.client.addr, &format!("/{name}/mcp"));
        let client = client.with("Authorization", "Bearer a-key-of-this-test-only");
        let client = match name {
            "mlflow-registry" => client,
            _ => Client::new(served.client.addr, &format!("/{name}/mcp")),
        };
        let tools = client.session().await.tools().await;
        assert_eq!(tools.len(), expected, "{name}: {tools:?}");
    }
}
