//! The public conformance suite against the Go SDK's reference server: directly, and through a
//! gateway that allows everything. What passes directly passes through the gateway. The table of
//! docs/conformance.md is made from the run.

mod page;
mod relay;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

use crate::support::rig::{Held, Rig, allow_all};
use crate::support::{eventually, installed, node};
use relay::Relay;

/// The suite on a machine that does other things beside it.
const PATIENCE: Duration = Duration::from_secs(240);

/// The suite's list of scenarios that count.
const REQUIREMENTS: &str = "2025-11-25";

/// A version that the gateway speaks, and how the suite is made to speak it.
struct Spoken {
    version: &'static str,
    /// What the suite is asked to run.
    asked: [&'static str; 2],
}

/// The suite's own client speaks only the newest of these: [`Relay`] puts the others in its place.
const SPOKEN: [Spoken; 3] = [
    Spoken {
        version: "2025-03-26",
        asked: ["--spec-version", "2025-06-18"],
    },
    Spoken {
        version: "2025-06-18",
        asked: ["--spec-version", "2025-06-18"],
    },
    Spoken {
        version: "2025-11-25",
        asked: ["--requirements", "2025-11-25"],
    },
];

/// The way from the suite to the server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Route {
    Direct,
    Http,
    PerSession,
    Shared,
}

const ROUTES: [Route; 4] = [Route::Direct, Route::Http, Route::PerSession, Route::Shared];

/// How the checks of a scenario ended, by their names: a check that runs several times is there as
/// often.
type Checks = BTreeMap<String, Vec<Outcome>>;
type Scenarios = BTreeMap<String, Checks>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Passed,
    Failed,
    /// As good as passed: what the protocol leaves open is done in another way.
    Informed,
    /// Warnings, and what was left out.
    Other,
}

fn count(checks: &Checks, outcome: Outcome) -> usize {
    let all = checks.values().flatten();
    all.filter(|found| **found == outcome).count()
}

/// Where the suite and the server are.
#[derive(Clone)]
struct Installed {
    modules: OsString,
    server: OsString,
}

impl Installed {
    fn suite(&self) -> PathBuf {
        Path::new(&self.modules).join("@modelcontextprotocol/conformance")
    }

    /// The server's scenarios that count.
    fn scored(&self) -> BTreeSet<String> {
        let file = format!("requirements/{REQUIREMENTS}.yaml");
        let file = self.suite().join(file);
        let text = std::fs::read_to_string(&file).unwrap();
        let lines = text.lines().skip_while(|line| *line != "server:").skip(1);
        let listed = lines.map_while(|line| line.strip_prefix("  - "));
        listed.map(str::to_owned).collect()
    }

    /// The suite's report on what is at this address.
    async fn run(&self, spoken: &Spoken, url: &str) -> Scenarios {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(node(&self.modules));
        command
            .arg(self.suite().join("dist/index.js"))
            .args(["server", "--url", url])
            .args(spoken.asked)
            .arg("-o")
            .arg(folder.path())
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if spoken.asked[0] == "--spec-version" {
            command.args(["--suite", "all"]);
        }
        let output = tokio::time::timeout(PATIENCE, command.output()).await;
        let output = output.expect("the suite ends").unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("=== SUMMARY ==="), "{url}: {output:?}");
        report(folder.path())
    }
}

/// What the suite wrote: a folder for each scenario, with its checks.
fn report(folder: &Path) -> Scenarios {
    let mut scenarios = Scenarios::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(name) = name.strip_prefix("server-") else {
            continue;
        };
        // It ends with the time, such as -2026-07-28T10-00-00-000Z.
        let name = &name[..name.len() - "-2026-07-28T10-00-00-000Z".len()];
        let checks = scenarios.entry(name.to_owned()).or_default();
        // Where a scenario broke off there is none.
        let text = std::fs::read_to_string(path.join("checks.json")).unwrap_or("[]".to_owned());
        let found: Vec<Value> = serde_json::from_str(&text).unwrap();
        for check in found {
            let outcome = match check["status"].as_str() {
                Some("SUCCESS") => Outcome::Passed,
                Some("FAILURE") => Outcome::Failed,
                Some("INFO") => Outcome::Informed,
                _ => Outcome::Other,
            };
            let id = check["id"].as_str().unwrap().to_owned();
            checks.entry(id).or_default().push(outcome);
        }
    }
    scenarios
}

/// The reference server over HTTP.
struct Reference {
    addr: SocketAddr,
    _process: Child,
}

impl Reference {
    async fn start(server: &OsString) -> Self {
        let addr = {
            // Free a moment ago: good enough on loopback.
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        };
        let process = Command::new(server)
            .args(["-http", &addr.to_string(), "-stateless=false"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        eventually("the reference server listens", || {
            std::net::TcpStream::connect(addr).is_ok()
        })
        .await;
        Reference {
            addr,
            _process: process,
        }
    }
}

/// A gateway that allows everything, in front of the server.
async fn gateway(route: Route, server: &OsString, reference: &Reference) -> Rig {
    let stdio = |sessions: &str| json!({"stdio": {"image": "unused:1", "command": [server.to_str().unwrap()], "sessions": sessions}});
    let upstream = match route {
        Route::PerSession => stdio("PerSession"),
        Route::Shared => stdio("Shared"),
        _ => json!({"http": {"url": format!("http://{}/", reference.addr)}}),
    };
    let mut spec = json!({"upstream": upstream, "authentication": {"anonymous": "Allow"}});
    if route != Route::Shared {
        spec["clientFeatures"] =
            json!({"sampling": "Allow", "elicitation": "Allow", "roots": "Allow"});
    }
    Rig::with(spec, Held::default(), &[allow_all()]).await
}

/// One run of the suite, and the relay's word that the version was spoken.
async fn run(installed: &Installed, spoken: &Spoken, route: Route) -> Scenarios {
    let reference = Reference::start(&installed.server).await;
    let rig = match route {
        Route::Direct => None,
        _ => Some(gateway(route, &installed.server, &reference).await),
    };
    let (addr, path) = match &rig {
        Some(rig) => (rig.addr, "/fake/mcp"),
        None => (reference.addr, "/"),
    };
    let relay = Relay::start(addr, spoken.version).await;
    let url = format!("http://{}{path}", relay.addr);
    let scenarios = installed.run(spoken, &url).await;
    let sessions = relay.sessions();
    assert!(sessions >= 20, "{} {route:?}: {sessions}", spoken.version);
    if let Some(rig) = rig {
        rig.gateway.shutdown().await;
    }
    scenarios
}

const QUESTIONS: &str = "A shared process serves all sessions: what it asks a client has none to go to. `clientFeatures` need `PerSession`.";
const LOGGING: &str = "A shared process does not say which session a log message belongs to: logging is not declared, and the messages go to the log.";
const ELICITATION: &str =
    "Elicitation came with 2025-06-18, and sessions have only what their version has.";

/// Why a scenario that passes directly need not pass on this route; the page says the same.
fn excused(version: &str, route: Route, scenario: &str) -> Option<&'static str> {
    let elicits = scenario == "tools-call-elicitation" || scenario.starts_with("elicitation-");
    match (route, scenario) {
        (Route::Direct, _) => None,
        (_, _) if version == "2025-03-26" && elicits => Some(ELICITATION),
        (Route::Shared, "tools-call-with-logging") => Some(LOGGING),
        (Route::Shared, "tools-call-sampling") => Some(QUESTIONS),
        (Route::Shared, _) if elicits => Some(QUESTIONS),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_public_conformance_suite_loses_no_scored_check_through_the_gateway() {
    let what = "the public conformance suite";
    let (Some(modules), Some(server)) = (
        installed("PORTCULLIS_TEST_NODE_MODULES", what),
        installed("PORTCULLIS_TEST_REFERENCE_SERVER", what),
    ) else {
        return;
    };
    let installed = Installed { modules, server };
    // More at once than there are cores would only time out.
    let turns = Semaphore::new(2);
    let runs = SPOKEN.iter().flat_map(|spoken| {
        ROUTES.map(|route| {
            let (installed, turns) = (&installed, &turns);
            async move {
                let _turn = turns.acquire().await.unwrap();
                ((spoken.version, route), run(installed, spoken, route).await)
            }
        })
    });
    let runs: BTreeMap<_, _> = futures::future::join_all(runs).await.into_iter().collect();

    let mut mistakes = Vec::new();
    let scored = installed.scored();
    for spoken in &SPOKEN {
        let direct = &runs[&(spoken.version, Route::Direct)];
        let ran = direct.keys().filter(|name| scored.contains(*name)).count();
        assert!(ran >= 20, "{}: {ran} scenarios ran", spoken.version);
        for (name, checks) in direct {
            if scored.contains(name) && count(checks, Outcome::Failed) > 0 {
                mistakes.push(format!("{} direct: {name}: {checks:?}", spoken.version));
            }
            for route in ROUTES {
                let through = &runs[&(spoken.version, route)];
                let through = through.get(name).cloned().unwrap_or_default();
                let lost = lost(checks, &through);
                let excuse = excused(spoken.version, route, name);
                let what = format!("{} {route:?}: {name}", spoken.version);
                match (lost.is_empty(), excuse) {
                    (false, None) if scored.contains(name) => {
                        mistakes.push(format!("{what} lost {lost:?}"));
                    }
                    (true, Some(why)) => {
                        mistakes.push(format!("{what} lost nothing, though it may: {why}"));
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(mistakes.is_empty(), "{}", mistakes.join("\n"));
    page::is_as_the_run(&installed, &runs);
}

/// The checks that were well directly and were not as often, or failed more often, through the
/// gateway.
fn lost(direct: &Checks, through: &Checks) -> Vec<String> {
    let of = |checks: &Checks, id: &str, outcomes: &[Outcome]| {
        let found = checks.get(id).into_iter().flatten();
        found.filter(|found| outcomes.contains(found)).count()
    };
    let well = [Outcome::Passed, Outcome::Informed];
    let ids: BTreeSet<&String> = direct.keys().chain(through.keys()).collect();
    let worse = |id: &&&String| {
        of(through, id, &well) < of(direct, id, &well)
            || of(through, id, &[Outcome::Failed]) > of(direct, id, &[Outcome::Failed])
    };
    ids.iter().filter(worse).map(|id| (*id).clone()).collect()
}

#[test]
fn a_check_that_fails_or_is_missing_through_the_gateway_is_lost() {
    use Outcome::{Failed, Informed, Other, Passed};
    let checks = |list: &[(&str, &[Outcome])]| -> Checks {
        let entries = list.iter();
        entries
            .map(|(id, found)| ((*id).to_owned(), found.to_vec()))
            .collect()
    };
    let direct = checks(&[("a", &[Passed, Passed]), ("b", &[Failed])]);
    assert_eq!(lost(&direct, &direct), Vec::<String>::new());
    assert_eq!(lost(&direct, &checks(&[("a", &[Passed, Passed])])), [""; 0]);
    assert_eq!(
        lost(&direct, &checks(&[("a", &[Passed, Informed])])),
        [""; 0]
    );
    assert_eq!(lost(&direct, &checks(&[("a", &[Passed, Other])])), ["a"]);
    assert_eq!(lost(&direct, &Checks::new()), ["a"]);
    let more = checks(&[("a", &[Passed, Passed]), ("c", &[Failed])]);
    assert_eq!(lost(&direct, &more), ["c"]);
}
