//! A gateway process with all that a pod gives it.

use std::io::{BufRead as _, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use portcullis::policy::bundle::Bundle;
use portcullis::policy::signature::Signer;
use portcullis::protocol::seal;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::client::{Client, Reply};
use crate::support::rig;
use crate::support::upstream::Fake;
use crate::support::{eventually, soon};

pub const UID: &str = "5a7b1f0e-3b1e-4bb2-9a6c-2f3a3a0f0d11";
/// The bearer that reads the report of gateways here.
pub const REPORT: &str = "0123456789abcdef0123456789abcdef";

/// Its digest, as a bundle carries it.
const REPORT_SHA256: &str = "3eb1bd439947eb762998e566ccc2e099c791118b2f40579cc4f7da2b5061b7f9";

pub struct Pod {
    child: Child,
    _volumes: Volumes,
    pub client: Client,
    pub admin: Client,
    log: Lines,
    audit: Lines,
    /// Takes connections and never says a word.
    _silent_api: TcpListener,
}

/// What the process wrote, as JSON lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Value>>>);

impl Lines {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let lines = Lines::default();
        let written = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let line =
                    serde_json::from_str(&line).unwrap_or_else(|_| json!({ "message": line }));
                written.0.lock().unwrap().push(line);
            }
        });
        lines
    }

    fn all(&self) -> Vec<Value> {
        self.0.lock().unwrap().clone()
    }
}

/// What is mounted: to be written before the gateway starts, or while it runs.
#[derive(Clone)]
pub struct Volumes(pub Arc<TempDir>);

impl Volumes {
    /// Nothing but sealing keys.
    pub fn new() -> Self {
        let volumes = Self::empty();
        volumes.seal(&[seal::generate_key().unwrap()]);
        volumes
    }

    pub fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for inside in ["bundle", "secrets", "sealing", "upstream"] {
            std::fs::create_dir(folder.path().join(inside)).unwrap();
        }
        Volumes(Arc::new(folder))
    }

    pub fn path(&self, inside: &str) -> PathBuf {
        self.0.path().join(inside)
    }

    /// Writes a file so that nobody sees half of it.
    pub fn write(&self, inside: &str, content: impl AsRef<[u8]>) {
        let path = self.path(inside);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let part = self.0.path().join(".part");
        std::fs::write(&part, content).unwrap();
        std::fs::rename(&part, path).unwrap();
    }

    pub fn secret(&self, name: &str, key: &str, value: impl AsRef<[u8]>) {
        self.write(&format!("secrets/{name}/{key}"), value);
    }

    pub fn seal(&self, keys: &[String]) {
        self.write("sealing/keys", keys.join("\n"));
    }

    pub fn bundle(&self, bundle: &Bundle) {
        let mut signed = bundle.clone();
        signer().sign(&mut signed);
        self.unsigned_bundle(&signed);
    }

    /// As somebody other than the operator writes it.
    pub fn unsigned_bundle(&self, bundle: &Bundle) {
        self.write("bundle/bundle.json", serde_json::to_vec(bundle).unwrap());
    }
}

/// The operator's key here.
pub fn signer() -> Signer {
    Signer::of_seed(&[7; 32]).unwrap()
}

/// A bundle that says who may read the report.
pub fn bundle(sequence: u64, spec: &Value, policies: &[Value]) -> Bundle {
    let mut bundle = rig::bundle(sequence, spec, policies);
    bundle.report_token_sha256 = Some(REPORT_SHA256.to_owned());
    bundle.sealed().unwrap()
}

pub fn gateway() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis-gateway"));
    command.env_remove("RUST_LOG");
    command
}

impl Pod {
    /// Starts a gateway over these volumes.
    pub async fn start(volumes: &Volumes, more: &[&str]) -> Pod {
        Self::launch(gateway(), volumes, more).await
    }

    /// The same; `command` starts the program.
    pub async fn launch(mut command: Command, volumes: &Volumes, more: &[&str]) -> Pod {
        let silent_api = TcpListener::bind("127.0.0.1:0").unwrap();
        let kubeconfig = volumes.path("kubeconfig");
        std::fs::write(
            &kubeconfig,
            kubeconfig_for(silent_api.local_addr().unwrap()),
        )
        .unwrap();
        let flag = |name: &str, inside: &str| format!("{name}={}", volumes.path(inside).display());
        // Unless a test is about it, nobody here has to learn of an end by and by.
        let quick =
            (!more.iter().any(|flag| flag.starts_with("--lame-duck"))).then_some("--lame-duck=0");
        let mut child = command
            .args([
                "run",
                "--namespace=ml",
                "--server=fake",
                "--log-format=json",
            ])
            .arg(format!("--server-uid={UID}"))
            .arg(format!("--bundle-key={}", signer().public()))
            .arg(flag("--bundle-file", "bundle/bundle.json"))
            .arg(flag("--secrets-dir", "secrets"))
            .arg(flag("--sealing-keys-file", "sealing/keys"))
            .args(["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"])
            .args(quick)
            .args(more)
            .env("KUBECONFIG", kubeconfig)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Lines::of(child.stderr.take().unwrap());
        let audit = Lines::of(child.stdout.take().unwrap());
        let mut pod = Pod {
            child,
            _volumes: volumes.clone(),
            client: Client::new("127.0.0.1:1".parse().unwrap(), "/mcp"),
            admin: Client::new("127.0.0.1:1".parse().unwrap(), "/"),
            log,
            audit,
            _silent_api: silent_api,
        };
        eventually("it listens", || {
            let lines = pod.log.all();
            let Some(started) = lines.iter().find(|line| line["listen"].is_string()) else {
                return false;
            };
            let address = |key: &str| started[key].as_str().unwrap().parse().unwrap();
            pod.client.addr = address("listen");
            pod.admin.addr = address("admin");
            true
        })
        .await;
        pod
    }

    /// A gateway that is ready, in front of a fake server that is open to all.
    pub async fn ready(fake: &Fake, policies: &[Value], more: &[&str]) -> (Volumes, Pod) {
        let volumes = Volumes::new();
        volumes.bundle(&bundle(1, &rig::open_to_all(fake), policies));
        let pod = Pod::start(&volumes, more).await;
        pod.is_ready().await;
        (volumes, pod)
    }

    /// GET on the admin port.
    pub async fn get(&self, path: &str) -> Reply {
        let mut admin = self.admin.clone();
        admin.path = path.to_owned();
        admin.send("GET", None).await
    }

    /// The report, as the operator reads it.
    pub async fn report(&self) -> Value {
        self.reported("/report".to_owned()).await
    }

    /// The same, from an operator that has stored so many violations.
    pub async fn report_stored(&self, stored: u64) -> Value {
        self.reported(format!("/report?stored={stored}")).await
    }

    async fn reported(&self, path: String) -> Value {
        let mut admin = self
            .admin
            .with("Authorization", &format!("Bearer {REPORT}"));
        admin.path = path;
        let reply = admin.send("GET", None).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    /// Polls until it holds.
    pub async fn until(&self, what: &str, mut holds: impl AsyncFnMut(&Pod) -> bool) {
        let polled = async {
            while !holds(self).await {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(crate::support::PATIENCE, polled)
            .await
            .is_err()
        {
            panic!("never: {what}; the log: {:#?}", self.log.all());
        }
    }

    /// Waits until it takes traffic and knows its server's tools.
    pub async fn is_ready(&self) {
        self.until("it is ready", async |pod| {
            pod.get("/readyz").await.status == 200
        })
        .await;
        self.until("the tools are listed", async |pod| {
            let reply = pod.get("/metrics").await;
            assert_eq!(reply.status, 200);
            pod.report().await["listing"]["time"].is_string()
        })
        .await;
    }

    /// Waits until `/readyz` says why it is not ready.
    pub async fn is_unready(&self, why: &str) {
        self.until(why, async |pod| {
            let reply = pod.get("/readyz").await;
            reply.status == 503 && reply.text() == format!("{why}\n")
        })
        .await;
    }

    /// Waits for a message on the log.
    pub async fn says(&self, text: &str) {
        let says = |line: &Value| {
            line["message"]
                .as_str()
                .is_some_and(|said| said.contains(text))
        };
        self.until(text, async |pod| pod.log.all().iter().any(says))
            .await;
    }

    /// Waits until what is mounted now has been read. Secrets and the bundle are read together, so
    /// two changes of a Secret that are told one after the other have what was mounted before
    /// between them.
    pub async fn looks(&self, volumes: &Volumes) {
        let told = |pod: &Pod| {
            let read = |line: &&Value| line["message"] == "reloaded the mounted Secrets";
            pod.log.all().iter().filter(read).count()
        };
        for _ in 0..2 {
            let before = told(self);
            volumes.secret("probe", "changes", before.to_string());
            self.until("Secrets are read again", async |pod| told(pod) > before)
                .await;
        }
    }

    /// The first line of the log whose values hold this text, once it is there.
    pub async fn line(&self, text: &str) -> Value {
        let found = |pod: &Pod| {
            pod.log
                .all()
                .into_iter()
                .find(|line| line.to_string().contains(text))
        };
        self.until(text, async |pod| found(pod).is_some()).await;
        found(self).unwrap()
    }

    /// How many lines of the log have this text in their message.
    pub fn said(&self, text: &str) -> usize {
        let has = |line: &&Value| {
            line["message"]
                .as_str()
                .is_some_and(|said| said.contains(text))
        };
        self.log.all().iter().filter(has).count()
    }

    /// All that it logged.
    pub fn logged(&self) -> String {
        format!("{:?}", self.log.all())
    }

    pub fn audited(&self) -> Vec<Value> {
        self.audit.all()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end; the exit code.
    pub async fn ended(&mut self) -> i32 {
        let child = &mut self.child;
        soon("the process's end", async {
            loop {
                if let Some(status) = child.try_wait().unwrap() {
                    return status.code().unwrap_or(-1);
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kubeconfig_for(api: SocketAddr) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "silent",
        "clusters": [{"name": "silent", "cluster": {"server": format!("http://{api}")}}],
        "users": [{"name": "nobody", "user": {}}],
        "contexts": [{"name": "silent", "context": {"cluster": "silent", "user": "nobody", "namespace": "ml"}}],
    })
    .to_string()
}

/// Whether a file is there, and may be executed by everyone.
pub fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o777 == 0o755)
}
