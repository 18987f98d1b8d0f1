//! A gateway with what is behind it.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use portcullis::gateway::approvals::{Approvals, Memory, Records};
use portcullis::gateway::force::secrets::Secrets;
use portcullis::gateway::force::{Environment, Rejected, Sealing};
use portcullis::gateway::listener::{Routes, serve};
use portcullis::gateway::observe::audit::{AuditLog, AuditWriter};
use portcullis::gateway::observe::metrics::Metrics;
use portcullis::gateway::observe::recorder::ProgramRun;
use portcullis::gateway::{Gateway, Shared};
use portcullis::policy::bundle::{Bundle, BundlePolicy, BundleServer, FORMAT};
use portcullis::protocol::seal::Sealer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::soon;
use super::upstream::Fake;

/// Whatever a test does, its lines are as the schema in the docs says.
fn as_published(line: &Value) {
    static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
        let schema = include_str!("../../../docs/audit.schema.json");
        jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap()
    });
    let mistakes: Vec<String> = SCHEMA.iter_errors(line).map(|e| e.to_string()).collect();
    assert!(mistakes.is_empty(), "{line}: {mistakes:?}");
}

/// What the audit log got.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<u8>>>, Arc<AtomicU64>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut written = self.0.lock().unwrap();
        let taken = match self.1.load(Ordering::SeqCst) {
            0 => bytes.len(),
            // A disk that is full takes what fits, and then nothing.
            most => {
                let room = usize::try_from(most).unwrap() - 1;
                room.saturating_sub(written.len()).min(bytes.len())
            }
        };
        if taken == 0 {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        written.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// From now on there is room for this many more bytes; `None` for any number.
    pub fn room(&self, bytes: Option<usize>) {
        let written = self.0.lock().unwrap();
        let most = bytes.map_or(0, |bytes| written.len() + bytes + 1);
        self.1.store(most.try_into().unwrap(), Ordering::SeqCst);
    }

    /// Every line, whether it is whole or not.
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn lines(&self, event: &str) -> Vec<Value> {
        let bytes = self.0.lock().unwrap();
        let lines = bytes.split(|byte| *byte == b'\n');
        let whole: Vec<Value> = lines
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect();
        whole.iter().for_each(as_published);
        whole
            .into_iter()
            .filter(|line| line["event"] == event)
            .collect()
    }

    /// The decisions.
    pub fn all(&self) -> Vec<Value> {
        self.lines("decision")
    }

    /// What became of requests for approval.
    pub fn steps(&self) -> Vec<Value> {
        self.lines("approval")
    }

    /// Failed logins.
    pub fn logins(&self) -> Vec<Value> {
        self.lines("authentication")
    }

    /// How calls ended.
    pub fn ends(&self) -> Vec<Value> {
        self.lines("end")
    }

    pub fn outcomes(&self) -> Vec<String> {
        let lines = self.all();
        let outcomes = lines
            .iter()
            .map(|line| line["outcome"].as_str().unwrap().to_owned());
        outcomes.collect()
    }
}

/// Secrets that a test holds.
#[derive(Clone, Default)]
pub struct Held(Arc<Mutex<BTreeMap<String, Keys>>>);

type Keys = BTreeMap<String, Vec<u8>>;

impl Secrets for Held {
    fn all(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        self.0.lock().unwrap().get(name).cloned()
    }
}

impl Held {
    pub fn set(&self, name: &str, key: &str, value: &str) {
        let mut held = self.0.lock().unwrap();
        held.entry(name.to_owned())
            .or_default()
            .insert(key.to_owned(), value.into());
    }

    pub fn environment(&self) -> Environment {
        Environment::local(Box::new(self.clone()), BTreeMap::new())
    }
}

/// A gateway on a port of its own.
pub struct Rig {
    pub gateway: Arc<Gateway>,
    pub client: Client,
    pub approvals: Arc<Memory>,
    pub audit: Lines,
    pub secrets: Held,
    pub addr: SocketAddr,
    pub stop: CancellationToken,
    pub serving: tokio::task::JoinHandle<()>,
    registry: prometheus_client::registry::Registry,
    spec: Value,
    sequence: AtomicU64,
    _writer: AuditWriter,
}

/// The spec of a server behind HTTP that everybody may call.
pub fn open_to_all(fake: &Fake) -> Value {
    json!({"upstream": {"http": {"url": format!("http://{}/mcp", fake.addr)}}, "authentication": {"anonymous": "Allow"}})
}

/// A policy that is for the server, from the rest of its spec.
pub fn policy(spec: &Value) -> Value {
    let mut policy =
        json!({"targetRefs": [{"group": "portcullis.dev", "kind": "McpServer", "name": "fake"}]});
    for (key, value) in spec.as_object().unwrap() {
        policy[key] = value.clone();
    }
    policy
}

/// A policy that allows every tool, prompt and resource.
pub fn allow_all() -> Value {
    json!({
        "rules": [{"name": "all", "tools": {"names": ["*"]}, "action": "Allow"}],
        "prompts": [{"name": "all", "names": ["*"], "action": "Allow"}],
        "resources": [{"name": "all", "uris": ["*", "*/**", "**"], "action": "Allow"}],
    })
}

pub fn bundle(sequence: u64, server: &Value, policies: &[Value]) -> Bundle {
    let policies = policies.iter().enumerate().map(|(at, spec)| BundlePolicy {
        namespace: "ml".to_owned(),
        name: format!("p{at}"),
        uid: format!("policy-{at}"),
        generation: 1,
        spec: serde_json::from_value(policy(spec)).unwrap(),
        not_accepted: None,
    });
    let bundle = Bundle {
        format: FORMAT,
        sequence,
        revision: String::new(),
        server: BundleServer {
            namespace: "ml".to_owned(),
            name: "fake".to_owned(),
            uid: "5a7b1f0e-3b1e-4bb2-9a6c-2f3a3a0f0d11".to_owned(),
            spec: serde_json::from_value(server.clone()).unwrap(),
        },
        policies: policies.collect(),
        blocked: Vec::new(),
        issuers: Vec::new(),
        signature: None,
        report_token_sha256: None,
        rules: String::new(),
    };
    bundle.sealed().unwrap()
}

impl Rig {
    /// In front of the fake server, open to all, with these policies.
    pub async fn new(fake: &Fake, policies: &[Value]) -> Self {
        Self::with(open_to_all(fake), Held::default(), policies).await
    }

    /// With a whole server spec.
    pub async fn with(spec: Value, secrets: Held, policies: &[Value]) -> Self {
        let rig = Self::unlisted(spec, secrets, policies).await;
        soon("the first listing", rig.gateway.inventory.first()).await;
        rig
    }

    /// Does not wait for the first listing.
    pub async fn unlisted(spec: Value, secrets: Held, policies: &[Value]) -> Self {
        let audit = Lines::default();
        let (log, writer) = AuditLog::start(vec![Box::new(audit.clone())]).unwrap();
        let mut registry = prometheus_client::registry::Registry::default();
        let metrics = Metrics::register(&mut registry);
        let approvals = Arc::new(Memory::recorded(Records {
            log: Some(log.clone()),
            times: Some(metrics.approval_decisions.clone()),
        }));
        let shared = Shared {
            run: ProgramRun::named("test"),
            audit: log,
            metrics,
            sealing: Sealing::Own(Arc::new(Sealer::ephemeral().unwrap())),
            approvals: Approvals::Memory(Arc::clone(&approvals)),
            counters: Default::default(),
        };
        let gateway =
            Gateway::new(&shared, secrets.environment(), bundle(1, &spec, policies)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let routes = Arc::new(Routes::default());
        routes.set(BTreeMap::from([(
            "/fake/mcp".to_owned(),
            Arc::clone(&gateway),
        )]));
        gateway.keep_inventory();
        gateway.notify_approvers();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(
            listener,
            routes,
            stop.clone(),
            Duration::from_secs(20),
        ));
        Rig {
            gateway,
            client: Client::new(addr, "/fake/mcp"),
            approvals,
            audit,
            secrets,
            addr,
            stop,
            serving,
            registry,
            spec,
            sequence: AtomicU64::new(1),
            _writer: writer,
        }
    }

    /// What Prometheus would read.
    pub fn metrics(&self) -> String {
        self.gateway.show_gauges();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    /// Puts other policies into force.
    pub fn apply(&self, policies: &[Value]) -> Result<(), Rejected> {
        let sequence = self.sequence.fetch_add(1, Ordering::SeqCst) + 1;
        self.gateway.apply(bundle(sequence, &self.spec, policies))
    }

    /// Puts another server spec and policies into force.
    pub fn apply_spec(&mut self, spec: Value, policies: &[Value]) -> Result<(), Rejected> {
        self.spec = spec;
        self.apply(policies)
    }

    pub fn bundle(&self, sequence: u64, policies: &[Value]) -> Bundle {
        bundle(sequence, &self.spec, policies)
    }

    pub fn url(&self) -> String {
        format!("http://{}/fake/mcp", self.addr)
    }
}

impl Rig {
    /// The outcomes in the audit log, once there are so many.
    pub async fn audit_outcomes(&self, count: usize) -> Vec<String> {
        super::eventually("the audit log has them", || self.audit.all().len() >= count).await;
        self.audit.outcomes()
    }
}
