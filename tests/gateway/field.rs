//! The corpus of `tests/field/`: what real clients and servers send, and what must come of it. Its
//! README says how a file is written; here each is run on a gateway with a scripted server behind
//! it.

mod case;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::client::{Client, Reply};
use crate::support::rig::{Held, Rig, allow_all, open_to_all};
use crate::support::upstream::{Answer, Fake, Got};
use case::{Block, Case};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/field")
}

/// Every file, in order.
fn files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for group in std::fs::read_dir(folder()).unwrap() {
        let group = group.unwrap().path();
        if group.is_dir() {
            let entries = std::fs::read_dir(group).unwrap();
            files.extend(entries.map(|entry| entry.unwrap().path()));
        }
    }
    files.sort();
    files
}

/// One case on a gateway of its own; the first thing that is not as the file says.
async fn run(case: &Case) -> Result<(), String> {
    let mut tools = vec!["echo".to_owned()];
    let mut policy = allow_all();
    let mut wants_session = true;
    let blocks = &case.blocks;
    for block in blocks {
        match &*block.keyword {
            "tools" => tools = block.words.clone(),
            "policy" => policy = block.json()?,
            "no" => wants_session = false,
            _ => {}
        }
    }
    let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
    let fake = Fake::start(&tools).await;
    // What the server does from the start on, the gateway's own listing included.
    let first = blocks
        .iter()
        .position(|block| block.keyword == "send")
        .ok_or("it sends nothing")?;
    for block in blocks[..first].iter().filter(|b| b.keyword == "server") {
        script(&fake, block)?;
    }
    let mut spec = open_to_all(&fake);
    for block in blocks.iter().filter(|block| block.keyword == "spec") {
        merge(&mut spec, &block.json()?);
    }
    let rig = Rig::with(spec, Held::default(), &[policy]).await;
    let mut client = rig.client.clone();
    if wants_session {
        client = client.session().await;
    }
    let mut reply = None;
    for (at, block) in blocks.iter().enumerate() {
        let result = match &*block.keyword {
            "server" if block.words.first().is_some_and(|word| word == "got") => {
                server_got(&fake, block)
            }
            "server" if at > first => script(&fake, block),
            "send" => {
                reply = Some(send(&client, block).await);
                Ok(())
            }
            "answer" => {
                let reply = reply.as_ref().ok_or("there is no answer yet")?;
                answered(reply, block)
            }
            _ => Ok(()),
        };
        result.map_err(|why| format!("line {}: {why}", block.line))?;
    }
    rig.gateway.shutdown().await;
    Ok(())
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// `server METHOD STATUS TYPE`, or `server METHOD usual`.
fn script(fake: &Fake, block: &Block) -> Result<(), String> {
    let words: Vec<&str> = block.words.iter().map(String::as_str).collect();
    let [method, status, kind] = words[..] else {
        let [method, "usual"] = words[..] else {
            return Err("write `server METHOD STATUS TYPE` or `server METHOD usual`".to_owned());
        };
        fake.as_usual(method);
        return Ok(());
    };
    let status: u16 = status
        .parse()
        .map_err(|_| format!("{status} is no status"))?;
    let (kind, body) = (kind.to_owned(), block.body.clone());
    let headers: String = block
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    fake.on(method, move |got: &Got| {
        let body = body.replace("$ID", &got.json()["id"].to_string());
        Answer::Raw(
            format!(
                "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            )
            .into_bytes(),
        )
    });
    Ok(())
}

/// `send METHOD [PATH]`, with headers; one without a value leaves out the usual one.
async fn send(client: &Client, block: &Block) -> Reply {
    let mut client = client.clone();
    let mut names = Vec::new();
    for (name, value) in &block.headers {
        // The same name again is a second line of it.
        if names.contains(&name) {
            client.headers.push((name.clone(), value.clone()));
        } else {
            client = client.with(name, value);
        }
        names.push(name);
    }
    if let Some(path) = block.words.get(1) {
        client.path.clone_from(path);
    }
    let method = block.words.first().map_or("POST", String::as_str);
    let body = (method == "POST").then_some(block.body.as_bytes());
    client.send(method, body).await
}

/// `answer STATUS`, with headers and members that it must have.
fn answered(reply: &Reply, block: &Block) -> Result<(), String> {
    let said = String::from_utf8_lossy(&reply.body);
    let status = block.words.first().map_or("", String::as_str);
    if reply.status.to_string() != status {
        return Err(format!("the status is {}, with {said}", reply.status));
    }
    for (name, value) in &block.headers {
        let found = reply.header(name).unwrap_or_default();
        if found != value {
            return Err(format!("{name} is {found:?}"));
        }
    }
    if let Some(text) = &block.text {
        return match text.is_empty() && said.is_empty() || !text.is_empty() && said.contains(text) {
            true => Ok(()),
            false => Err(format!("the body is {said:?}")),
        };
    }
    if block.body.is_empty() {
        return Ok(());
    }
    let message = match reply.header("content-type") {
        Some("text/event-stream") => reply.messages().pop().unwrap_or_default(),
        _ => serde_json::from_slice(&reply.body).map_err(|e| format!("{e}: {said}"))?,
    };
    fits(&block.json()?, &message)
}

/// `server got METHOD COUNT`, with headers and members of the newest.
fn server_got(fake: &Fake, block: &Block) -> Result<(), String> {
    let [_, method, count] = &block.words[..] else {
        return Err("write `server got METHOD COUNT`".to_owned());
    };
    let got = fake.got(method);
    let enough = match &**count {
        "some" => !got.is_empty(),
        count => got.len().to_string() == count,
    };
    if !enough {
        return Err(format!("the server got {} {method}", got.len()));
    }
    let Some(newest) = got.last() else {
        return Ok(());
    };
    for (name, value) in &block.headers {
        let found = newest.header(name).unwrap_or_default();
        if found != value {
            return Err(format!("the server got {name}: {found:?}"));
        }
    }
    match block.body.is_empty() {
        true => Ok(()),
        false => fits(&block.json()?, &newest.json()),
    }
}

/// Whether all that is expected is there: members may be more, "…x…" is a text that contains x,
/// "(absent)" a member that must not be there.
fn fits(expected: &Value, found: &Value) -> Result<(), String> {
    let differs = || Err(format!("{expected} is expected and {found} found"));
    match (expected, found) {
        (Value::Object(expected), Value::Object(members)) => {
            for (key, value) in expected {
                match (members.get(key), value == "(absent)") {
                    (None, true) => {}
                    (Some(inner), false) => fits(value, inner)?,
                    _ => return Err(format!("{key}: {value} is expected in {found}")),
                }
            }
            Ok(())
        }
        (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => {
            let mut pairs = expected.iter().zip(found);
            pairs.try_for_each(|(expected, found)| fits(expected, found))
        }
        (Value::String(expected), Value::String(found)) => {
            let within = expected
                .strip_prefix('…')
                .and_then(|rest| rest.strip_suffix('…'));
            match within.map_or(expected == found, |part| found.contains(part)) {
                true => Ok(()),
                false => differs(),
            }
        }
        _ if expected == found => Ok(()),
        _ => differs(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_of_the_field_comes_out_as_its_file_says() {
    let files = files();
    assert!(files.len() >= 30, "{files:?}");
    let mut mistakes = Vec::new();
    for file in &files {
        let name = file.strip_prefix(folder()).unwrap().display();
        let text = std::fs::read_to_string(file).unwrap();
        let result = match Case::read(&text) {
            Ok(case) => run(&case).await,
            Err(why) => Err(why),
        };
        if let Err(why) = result {
            mistakes.push(format!("tests/field/{name}: {why}"));
        }
    }
    assert!(mistakes.is_empty(), "\n{}", mistakes.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_case_that_does_not_come_out_so_fails_with_its_line() {
    let call = r#"    {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo", "arguments": {}}}"#;
    for (rest, why) in [
        ("answer 404", "line 4: the status is 200"),
        (
            r#"answer 200
    {"id": 2}"#,
            "line 4: 2 is expected and 1 found",
        ),
        (
            r#"answer 200
    {"result": "(absent)"}"#,
            "line 4: result: ",
        ),
        (
            "answer 200\n    Mcp-Session-Id: x",
            "line 4: Mcp-Session-Id is",
        ),
        ("answer 200\n    | no such text", "line 4: the body is"),
        ("server got tools/call 0", "line 4: the server got 1"),
        ("serve got tools/call 0", "line 4: `serve` is no keyword"),
        ("", "it expects nothing"),
    ] {
        let text = format!("# A case.\nsend POST\n{call}\n{rest}\n");
        let result = match Case::read(&text) {
            Ok(case) => run(&case).await,
            Err(why) => Err(why),
        };
        let found = result.expect_err(rest);
        assert!(found.starts_with(why), "{rest}: {found}");
    }
    assert!(fits(&json!({"a": [1, "…b…"]}), &json!({"a": [1, "abc"], "c": 0})).is_ok());
    assert!(fits(&json!([1]), &json!([1, 2])).is_err());
}
