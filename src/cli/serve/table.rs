//! The output of `serve` for the person who started it: the table at the start, the summary at the
//! end.

use std::net::SocketAddr;

use jiff::Timestamp;

use super::super::output::{age, columns};
use super::{Served, State, variables};
use crate::api::Switch;
use crate::api::server::{Enforcement, Sessions};
use crate::gateway::bridge;
use crate::gateway::force::withheld::withheld;
use crate::gateway::observe::Outcome;

/// More tools of a server than this are not named; its status and the log name the others.
const MAX_WITHHELD: usize = 5;

/// The text that is printed once everything runs: the URL of each server, and what to do next.
pub fn start(state: &State, address: SocketAddr) -> String {
    let rows: Vec<_> = state
        .served
        .values()
        .map(|served| row(served, address))
        .collect();
    let mut text = format!(
        "\n{}",
        columns(
            &["Server", "URL", "Tools visible", "Policies", "Callers"],
            &rows
        )
    );
    text.push_str("\nPoint an MCP client at a URL. `portcullis status` shows more, and `portcullis approvals list` the \
    calls that wait for you; Ctrl-C stops the gateway.\n");
    for served in state.served.values() {
        let is_set = |name: &str| std::env::var_os(name).is_some();
        let given = &served.environment.1;
        if let Some(note) = variables::note(&served.server, given, is_set) {
            let server = served.gateway.observe.server();
            text.push_str(&format!("note: McpServer {server}: {note}\n"));
        }
        if let Some(stdio) = &served.server.spec.upstream.stdio
            && stdio.sessions() == Sessions::PerSession
        {
            text.push_str(&format!(
                "note: McpServer {}: one process for each session (sessions: PerSession), at most {} at once and half \
                of them for one caller; the session that has been idle for longest ends first. sessions: Shared runs \
                one process for all sessions.\n",
                served.gateway.observe.server(),
                bridge::Sessions::PerSession.most()
            ));
        }
    }
    for served in state.served.values() {
        if served.server.spec.enforcement() == Enforcement::Audit {
            text.push_str(&format!(
                "note: McpServer {}: enforcement is Audit: every call is forwarded, and refusals are only recorded\n",
                served.gateway.observe.server()
            ));
        }
    }
    for served in state.served.values() {
        let Some(snapshot) = served.gateway.snapshot() else {
            continue;
        };
        for (tool, why) in withheld(&snapshot.bound).take(MAX_WITHHELD) {
            let server = served.gateway.observe.server();
            text.push_str(&format!(
                "note: McpServer {server}: tool `{tool}` is hidden from all callers: {why}\n"
            ));
        }
    }
    if let Some(open) = open_warning(state, address) {
        text.push_str(&open);
    }
    text.push('\n');
    text
}

/// One server of the start-up table.
fn row(served: &Served, address: SocketAddr) -> Vec<String> {
    let gateway = &served.gateway;
    let url = url(served, address);
    let Some(snapshot) = gateway.snapshot() else {
        return vec![
            gateway.observe.server().to_owned(),
            url,
            "not ready".to_owned(),
            String::new(),
            String::new(),
        ];
    };
    let counts = snapshot.bound.counts();
    let tools = match gateway.inventory.latest().error {
        Some(_) => "not reachable".to_owned(),
        None => format!("{} of {}", counts.visible, counts.discovered),
    };
    let (all, audit) = snapshot.bound.program().policy_count();
    let policies = match audit {
        0 => all.to_string(),
        audit => format!("{all} ({audit} audit)"),
    };
    vec![
        gateway.observe.server().to_owned(),
        url,
        tools,
        policies,
        callers(served),
    ]
}

/// The URL of a server, as a person would write it.
pub fn url(served: &Served, address: SocketAddr) -> String {
    if let Some(public) = served
        .server
        .spec
        .gateway
        .as_ref()
        .and_then(|gateway| gateway.public_url.clone())
    {
        return public;
    }
    let host = if address.ip().is_unspecified() {
        "localhost".to_owned()
    } else {
        bracketed(address)
    };
    format!(
        "http://{host}:{}{}",
        address.port(),
        super::force::path_of(&served.server)
    )
}

fn bracketed(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    }
}

fn callers(served: &Served) -> String {
    let Some(authentication) = &served.server.spec.authentication else {
        return "nobody".to_owned();
    };
    let keys = authentication.api_keys.is_some();
    let tokens = !authentication.jwt.is_empty();
    let anonymous = authentication.anonymous() == Switch::Allow;
    if anonymous && !keys && !tokens {
        return "anyone".to_owned();
    }
    let ways = [
        (keys, "API keys"),
        (tokens, "tokens"),
        (anonymous, "anonymous"),
    ];
    let ways: Vec<&str> = ways
        .into_iter()
        .filter_map(|(admits, way)| admits.then_some(way))
        .collect();
    match ways[..] {
        [] => "nobody".to_owned(),
        _ => ways.join(", "),
    }
}

/// Warnings about servers that admit all callers or none.
fn open_warning(state: &State, address: SocketAddr) -> Option<String> {
    let named = |wanted: &str| -> Vec<&str> {
        state
            .served
            .iter()
            .filter(|(_, served)| callers(served) == wanted)
            .map(|((_, name), _)| name.as_str())
            .collect()
    };
    let (open, closed) = (named("anyone"), named("nobody"));
    let mut text = String::new();
    if !closed.is_empty() {
        text.push_str(&format!(
            "warning: every call to {} is refused: spec.authentication admits no caller\n",
            closed.join(", ")
        ));
    }
    if !open.is_empty() && !address.ip().is_loopback() {
        text.push_str(&format!(
            "warning: anyone who can reach {address} may call {}; configure API keys, or listen on 127.0.0.1\n",
            open.join(", ")
        ));
    }
    (!text.is_empty()).then_some(text)
}

/// The figures of each server.
pub fn summary(state: &State, started: Timestamp) -> String {
    let rows: Vec<Vec<String>> = state
        .served
        .values()
        .map(|served| {
            let recorder = &served.gateway.observe;
            let (counts, _) = recorder.violations();
            let of = |outcome: Outcome| {
                let sum: u64 = counts
                    .iter()
                    .filter(|((_, found), _)| *found == outcome)
                    .map(|(_, (count, _))| count)
                    .sum();
                sum.to_string()
            };
            vec![
                recorder.server().to_owned(),
                recorder.calls().to_string(),
                of(Outcome::Hidden),
                of(Outcome::Denied),
                of(Outcome::Limited),
                of(Outcome::Unapproved),
                of(Outcome::Audited),
            ]
        })
        .collect();
    let lived = age(Timestamp::now().duration_since(started).as_secs());
    let table = columns(
        &[
            "Server",
            "Decisions",
            "Hidden",
            "Denied",
            "Limited",
            "Unapproved",
            "Audited",
        ],
        &rows,
    );
    format!("Served for {lived}.\n\n{table}")
}
