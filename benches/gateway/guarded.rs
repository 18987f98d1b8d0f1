//! The gateway as it is built into the programs, with one of two policies.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portcullis::gateway::approvals::{Approvals, Memory};
use portcullis::gateway::force::secrets::Secrets;
use portcullis::gateway::force::{Environment, Sealing};
use portcullis::gateway::listener::{Routes, serve};
use portcullis::gateway::observe::audit::AuditLog;
use portcullis::gateway::observe::metrics::Metrics;
use portcullis::gateway::observe::recorder::ProgramRun;
use portcullis::gateway::{Gateway, Shared};
use portcullis::policy::bundle::{Bundle, BundlePolicy, BundleServer, FORMAT};
use portcullis::protocol::seal::Sealer;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{Done, listen};

/// What the refused tool's callers are told.
pub const REASON: &str = "Not for agents.";

struct NoSecrets;

impl Secrets for NoSecrets {
    fn all(&self, _: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        None
    }
}

/// Everything is allowed but `tool_1`, which is denied, and `tool_8` and `tool_9`, which are
/// hidden. `full` adds what policies for writes have: a limit for each caller, and a condition over
/// the arguments, which therefore must be as the schema says.
fn rules(full: bool) -> Value {
    let mut allow = json!({"name": "use", "tools": {"names": ["*"]}, "action": "Allow"});
    let mut rules = vec![
        json!({"name": "denied", "tools": {"names": ["tool_1"]}, "action": "Deny", "reason": REASON}),
        json!({"name": "hidden", "tools": {"names": ["tool_8", "tool_9"]}, "action": "Hide"}),
    ];
    if full {
        allow["limits"] = json!([{"counter": "calls", "max": 1_000_000_000, "window": "1m"}]);
        rules.push(json!({"name": "own", "tools": {"names": ["tool_*"]}, "action": "Deny", "when": "args.experiment_id == '0'"}));
    }
    rules.push(allow);
    rules.into()
}

/// A bundle of one server and one policy with these rules.
pub fn bundle(url: &str, rules: Value) -> Done<Bundle> {
    let server =
        json!({"upstream": {"http": {"url": url}}, "authentication": {"anonymous": "Allow"}});
    let target = json!([{"group": "portcullis.dev", "kind": "McpServer", "name": "bench"}]);
    let policy = json!({"targetRefs": target, "defaultAction": "Hide", "rules": rules});
    let bundle = Bundle {
        format: FORMAT,
        sequence: 1,
        revision: String::new(),
        server: BundleServer {
            namespace: "bench".to_owned(),
            name: "bench".to_owned(),
            uid: "5a7b1f0e-3b1e-4bb2-9a6c-2f3a3a0f0d11".to_owned(),
            spec: serde_json::from_value(server)?,
        },
        policies: vec![BundlePolicy {
            namespace: "bench".to_owned(),
            name: "bench".to_owned(),
            uid: "policy".to_owned(),
            generation: 1,
            spec: serde_json::from_value(policy)?,
            not_accepted: None,
        }],
        blocked: Vec::new(),
        issuers: Vec::new(),
        signature: None,
        report_token_sha256: None,
        rules: String::new(),
    };
    Ok(bundle.sealed()?)
}

/// Serves until the process ends.
pub async fn run(target: SocketAddr, full: bool) -> Done<()> {
    // Records are made and written as in production, to nobody.
    let sink = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    let (audit, _writer) = AuditLog::start(vec![Box::new(sink)])?;
    let shared = Shared {
        run: ProgramRun::named("0a1b2c3d4e5f"),
        audit,
        metrics: Metrics::register(&mut prometheus_client::registry::Registry::default()),
        sealing: Sealing::Own(Arc::new(Sealer::ephemeral()?)),
        approvals: Approvals::Memory(Arc::new(Memory::default())),
        counters: Default::default(),
    };
    let environment = Environment::local(Box::new(NoSecrets), BTreeMap::new());
    let bundle = bundle(&format!("http://{target}/mcp"), rules(full))?;
    let gateway = Gateway::new(&shared, environment, bundle)?;
    gateway.keep_inventory();
    gateway.inventory.first().await;
    if let Some(error) = gateway.inventory.latest().error {
        return Err(error.into());
    }
    let listener = listen().await?;
    let routes = Arc::new(Routes::default());
    routes.set([("/mcp".to_owned(), gateway)].into());
    serve(listener, routes, CancellationToken::new(), Duration::ZERO).await;
    Ok(())
}
