//! What people's clients show of every answer, in one session each that goes on through all of
//! them: lists, calls, every refusal, an edit of the policy and a restart of the gateway.

use super::*;
use crate::support::clients::Program;
use crate::support::upstream::Fake;

const BEFORE: &str = "    - { name: echo, tools: { names: [echo] }, action: Allow, limits: [{ counter: c, max: 1, window: 1h }] }
    - { name: other, tools: { names: [other] }, action: Deny, reason: Not for agents. }
    - { name: held, tools: { names: [held] }, action: RequireApproval, approval: { waitUpTo: 0s } }
";
const AFTER: &str = "    - { name: other, tools: { names: [other, late] }, action: Allow }
";

/// The text of a result, without the id of the decision that each refusal names.
fn shown(step: &Value) -> (bool, &str) {
    let (Some(error), Some(text)) = (step[0].as_bool(), step[1].as_str()) else {
        panic!("no result: {step}");
    };
    match text.split_once(" To ask about this, quote decision ") {
        Some((said, _)) => (error, said),
        None => (error, text),
    }
}

/// The process and its folder under another policy.
fn restarted(serve: Serve, server: &str, rules: &str) -> Serve {
    let address = serve.address.clone();
    let (_, _, folder) = serve.interrupt();
    std::fs::remove_dir_all(folder.path().join("files")).unwrap();
    Serve::launch_as(portcullis(), folder, server, rules, &["--listen", &address])
}

async fn is_shown_everything(client: Program) {
    let what = client.name();
    let fake = Fake::start(&["echo", "other", "secret_tool", "held", "late"]).await;
    let server = format!(
        "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {{ name: scripted, namespace: ml }}\nspec:\n  upstream: {{ http: {{ url: \"http://{}/mcp\" }} }}\n  authentication: {{ anonymous: Allow }}\n",
        fake.addr
    );
    let steps = json!([
        ["list"],
        ["call", "echo", {"text": "hello"}],
        ["call", "other", {}],
        ["call", "secret_tool", {}],
        ["call", "echo", {"text": "again"}],
        ["call", "no_such_tool", {}],
        ["call", "held", {}],
        ["list"],
        ["wait"],
        ["call", "other", {"text": "edited"}],
        ["call", "echo", {}],
        ["list"],
        ["wait"],
        ["call", "other", {"text": "restarted"}],
        ["call", "held", {}],
        ["list"],
    ]);
    let mut serve = Serve::start_as(&server, BEFORE, |_, _| {});
    let url = format!("http://{}/scripted/mcp", serve.address);
    let Some(mut running) = client.start(&url, &steps) else {
        return;
    };

    running.waits().await;
    assert_eq!(fake.calls(), 1, "{what}");
    serve.write_policy(&policy_yaml(AFTER));
    let session = serve.session();
    serve.echo_until(&session, Value::is_null);
    running.go_on().await;

    running.waits().await;
    serve = restarted(serve, &server, AFTER);
    running.go_on().await;
    let got = running.ends().await;

    // The newer ones ask as 2026-07-28 and fall back.
    let negotiates = !matches!(client, Program::McpRemote | Program::Inspector);
    assert!(
        !negotiates || got["version"] == "2025-11-25",
        "{what}: {got}"
    );
    let steps = got["steps"].as_array().unwrap();
    assert_eq!(steps[0], json!(["echo", "held", "other"]), "{what}");
    assert_eq!(shown(&steps[1]), (false, r#"{"text":"hello"}"#), "{what}");
    let denied = "Denied by policy rules, rule other: Not for agents. Do not retry.";
    assert_eq!(shown(&steps[2]), (true, denied), "{what}");
    let is_unknown = |step: &Value, name: &str| {
        assert_eq!(step["code"], -32602, "{what}: {step}");
        let message = step["message"].as_str().unwrap();
        let expected = format!("Unknown tool: {name}");
        assert!(message.contains(&expected), "{what}: {message}");
    };
    is_unknown(&steps[3], "secret_tool");
    let (error, text) = shown(&steps[4]);
    let limited = text.starts_with("Limit of 1 per 1h reached");
    assert!(error && limited, "{what}: {text}");
    is_unknown(&steps[5], "no_such_tool");
    let (error, text) = shown(&steps[6]);
    assert!(
        error && text.starts_with("Approval pending"),
        "{what}: {text}"
    );
    assert_eq!(steps[7], steps[0], "{what}: the session goes on");

    assert_eq!(shown(&steps[9]), (false, r#"{"text":"edited"}"#), "{what}");
    is_unknown(&steps[10], "echo");
    assert_eq!(steps[11], json!(["late", "other"]), "{what}");

    assert_eq!(
        shown(&steps[13]),
        (false, r#"{"text":"restarted"}"#),
        "{what}"
    );
    is_unknown(&steps[14], "held");
    assert_eq!(steps[15], steps[11], "{what}: the session goes on");
    assert_eq!(fake.calls(), 3, "{what}");
    let discovered = fake.all().iter().any(|got| got.what() == "server/discover");
    assert!(!discovered, "{what}");
    drop(serve);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_1_client_shows_every_answer_and_lives_through_an_edit_and_a_restart() {
    is_shown_everything(Program::Python1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_2_client_shows_every_answer_and_lives_through_an_edit_and_a_restart() {
    is_shown_everything(Program::Python2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fastmcp_shows_every_answer_and_lives_through_an_edit_and_a_restart() {
    is_shown_everything(Program::FastMcp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_typescript_1_client_shows_every_answer_and_lives_through_an_edit_and_a_restart() {
    is_shown_everything(Program::TypeScript1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_typescript_2_client_shows_every_answer_and_lives_through_an_edit_and_a_restart() {
    is_shown_everything(Program::TypeScript2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mcp_remote_shows_every_answer_and_lives_through_an_edit_and_a_restart() {
    is_shown_everything(Program::McpRemote).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inspectors_command_line_shows_every_answer_before_and_after_an_edit_and_a_restart() {
    is_shown_everything(Program::Inspector).await;
}
