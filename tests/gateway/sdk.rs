//! The SDKs' own clients through the gateway, as an agent uses them, against the real MLflow
//! servers.

use std::ffi::OsString;

use serde_json::{Value, json};

use crate::support::clients::Program;
use crate::support::installed;
use crate::support::rig::{Held, Rig};
use crate::support::upstream::Fake;

/// Reads are free, one kind of write is limited, the deletions are hidden, one is told to be
/// denied.
fn policy() -> Value {
    json!({"defaultAction": "Hide", "rules": [
        {"name": "read", "tools": {"risks": ["Read"]}, "action": "Allow"},
        {"name": "limited", "tools": {"names": ["get_experiment*", "list_experiments", "search_experiments"]}, "action": "Allow",
            "limits": [{"counter": "c", "max": 1, "window": "1h"}]},
        {"name": "no-tags", "tools": {"names": ["set_experiment_tag", "set_trace_tag"]}, "action": "Deny", "reason": "Tags are for people."},
    ]})
}

/// The texts of a step that is a tool's result.
fn result(step: &Value) -> (bool, &str) {
    match (step[0].as_bool(), step[1].as_str()) {
        (Some(error), Some(text)) => {
            // Every refusal names its decision.
            let (said, decision) = match text.split_once(" To ask about this, quote decision ") {
                Some((said, decision)) => (said, Some(decision)),
                None => (text, None),
            };
            assert_eq!(error, decision.is_some(), "{text}");
            (error, said)
        }
        _ => panic!("no result: {step}"),
    }
}

/// A call is held for longer than the client would wait in silence.
#[tokio::test(flavor = "multi_thread")]
async fn the_sdks_clients_hear_that_their_call_waits_for_a_person() {
    let policy = json!({"rules": [{"name": "held", "tools": {"names": ["held"]},
        "action": "RequireApproval", "approval": {"waitUpTo": "5s"}}]});
    let watched = async |client: Program| {
        let what = client.name();
        let fake = Fake::start(&["held"]).await;
        let rig = Rig::new(&fake, std::slice::from_ref(&policy)).await;
        let steps = json!([["watch", "held", {}], ["list"]]);
        let Some(got) = client.run(&rig.url(), &steps).await else {
            return;
        };
        let step = &got["steps"][0];
        let (error, text) = result(step);
        assert!(
            error && text.starts_with("Approval pending"),
            "{what}: {step}"
        );
        let told = step[2].as_array().unwrap();
        let values: Vec<f64> = told.iter().map(|one| one[0].as_f64().unwrap()).collect();
        assert!(
            values.len() >= 2 && values.is_sorted_by(|one, next| one < next),
            "{what}: {step}"
        );
        let message = told[0][1].as_str().unwrap();
        assert!(
            message.starts_with("waiting for approval fake-"),
            "{what}: {step}"
        );
        assert_eq!(got["steps"][1], json!(["held"]), "{what}");
    };
    let [one, two, three, four] = Program::SDKS.map(watched);
    tokio::join!(one, two, three, four);
}

/// The real Streamable HTTP server of the Python SDK, which keeps its sessions in memory.
struct Remembering {
    python: OsString,
    port: u16,
    process: std::process::Child,
}

impl Remembering {
    fn spawn(python: &OsString, port: u16) -> std::process::Child {
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/gateway/fixtures/remembering_server.py"
        );
        std::process::Command::new(python)
            .arg(script)
            .arg(port.to_string())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap()
    }

    async fn listens(&self) {
        crate::support::eventually("the server listens", || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        })
        .await;
    }

    async fn start(python: OsString) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let process = Self::spawn(&python, port);
        let server = Remembering {
            python,
            port,
            process,
        };
        server.listens().await;
        server
    }

    async fn restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = Self::spawn(&self.python, self.port);
        self.listens().await;
    }
}

impl Drop for Remembering {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdks_clients_go_on_when_a_real_server_was_restarted() {
    let Some(python) = installed(
        "PORTCULLIS_TEST_PYTHON_1",
        "the Python SDK's Streamable HTTP server",
    ) else {
        return;
    };
    for client in [Program::Python1, Program::TypeScript1] {
        let what = client.name();
        let mut server = Remembering::start(python.clone()).await;
        let url = format!("http://127.0.0.1:{}/mcp", server.port);
        let spec =
            json!({"upstream": {"http": {"url": url}}, "authentication": {"anonymous": "Allow"}});
        let rules = json!({"rules": [{"name": "few", "tools": {"names": ["*"]}, "action": "Allow",
            "limits": [{"counter": "c", "max": 3, "window": "1h"}]}]});
        let rig = Rig::with(spec, Held::default(), &[rules]).await;
        let steps = json!([
            ["call", "calls", {}],
            ["wait"],
            ["call", "calls", {}],
            ["list"],
            ["call", "calls", {}],
            ["call", "calls", {}],
        ]);
        let Some(mut running) = client.start(&rig.url(), &steps) else {
            continue;
        };
        running.waits().await;
        server.restart().await;
        running.go_on().await;
        let steps = &running.ends().await["steps"];
        // The server counts the calls since its start.
        for (at, count) in [(0, "1"), (2, "1"), (4, "2")] {
            assert_eq!(result(&steps[at]), (false, count), "{what}: {steps}");
        }
        assert_eq!(steps[3], json!(["calls"]), "{what}");
        let (error, text) = result(&steps[5]);
        assert!(error && text.starts_with("Limit of 3"), "{what}: {steps}");
    }
}

/// A stdio server behind the gateway.
async fn stdio(command: &[OsString], sessions: &str, env: Value) -> Rig {
    let command: Vec<&str> = command.iter().map(|part| part.to_str().unwrap()).collect();
    let spec = json!({
        "upstream": {"stdio": {"image": "unused:1", "command": command, "sessions": sessions, "env": env}},
        "authentication": {"anonymous": "Allow"},
    });
    Rig::with(spec, Held::default(), &[policy()]).await
}

/// What every client must get from a server with the catalogue's tools.
async fn check(rig: &Rig, server: &str, visible: usize, found: usize, tag: &str, read: &str) {
    let counts = rig.gateway.snapshot().unwrap().bound.counts();
    assert_eq!(
        (counts.discovered, counts.visible),
        (found, visible),
        "{server}: {:?}",
        rig.gateway.inventory.latest()
    );
    for client in Program::SDKS {
        let what = format!("{} with {server}", client.name());
        let steps = json!([["list"], ["call", "delete_experiment", {"experiment_id": "1"}], ["call", tag, {}], ["call", read, {}], ["list"]]);
        let Some(got) = client.run(&rig.url(), &steps).await else {
            continue;
        };
        let steps = got["steps"].as_array().unwrap();
        assert_eq!(steps[0].as_array().unwrap().len(), visible, "{what}");
        assert_eq!(steps[1]["code"], -32602, "{what}: {}", steps[1]);
        assert!(result(&steps[2]).0, "{what}");
        // Forwarded: MLflow is not there, which only the server can say. Or the limit, which all
        // clients share.
        assert!(
            !steps[3].to_string().contains("Denied by policy"),
            "{what}: {}",
            steps[3]
        );
        assert_eq!(steps[4], steps[0], "{what}: the session goes on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_mlflow_mcp_serves_every_client_through_the_gateway() {
    let Some(server) = installed(
        "PORTCULLIS_TEST_MLFLOW_MCP",
        "mlflow-mcp behind the gateway",
    ) else {
        return;
    };
    for sessions in ["Shared", "PerSession"] {
        // Nobody listens there: listing tools needs no MLflow.
        let env = json!([{"name": "MLFLOW_TRACKING_URI", "value": "http://127.0.0.1:9"}, {"name": "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "value": "0"}]);
        let rig = stdio(std::slice::from_ref(&server), sessions, env).await;
        check(
            &rig,
            &format!("mlflow-mcp, {sessions}"),
            28,
            40,
            "set_experiment_tag",
            "get_experiments",
        )
        .await;
        rig.gateway.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_mlflow_server_serves_every_client_through_the_gateway() {
    let Some(server) = installed(
        "PORTCULLIS_TEST_MLFLOW_OFFICIAL",
        "`mlflow mcp run` behind the gateway",
    ) else {
        return;
    };
    let env = json!([{"name": "MLFLOW_TRACKING_URI", "value": "http://127.0.0.1:9"}, {"name": "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "value": "0"}, {"name": "MLFLOW_MCP_TOOLS", "value": "all"}]);
    let command = [server, "mcp".into(), "run".into()];
    let rig = stdio(&command, "Shared", env).await;
    let found = rig.gateway.snapshot().unwrap().bound.counts();
    check(
        &rig,
        "mlflow mcp run",
        found.visible,
        found.discovered,
        "set_trace_tag",
        "get_experiment",
    )
    .await;
    assert!(found.discovered > 20, "{found:?}");
    rig.gateway.shutdown().await;
}
