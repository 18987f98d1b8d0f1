//! The state that a story ends in, written so that two runs can be compared.
//!
//! In: the objects of a namespace. Out: JSON without what differs from run to run (names of
//! namespaces, UIDs, times, the bundle's sequence), and the violations that they count. Must not
//! do: leave out anything that the operator decides.

use portcullis::status::accounting::Ledger;
use serde_json::{Map, Value, json};

use super::stage::Stage;
use super::traffic::Answered;

const CHILDREN: &str = "deployments.apps,services,configmaps,serviceaccounts,roles,rolebindings,networkpolicies.networking.k8s.io,poddisruptionbudgets,horizontalpodautoscalers,secrets";

/// Violations as the ledger and the statuses count them: denied and hidden.
#[derive(Debug, PartialEq, Eq)]
pub struct Counts {
    ledger: (u64, u64),
    server: (u64, u64),
    policy: (u64, u64),
    /// The policy's, by its rules.
    rules: (u64, u64),
}

impl From<Answered> for Counts {
    fn from(answered: Answered) -> Self {
        let both = (answered.denied, answered.hidden);
        Counts {
            ledger: both,
            server: both,
            policy: both,
            rules: both,
        }
    }
}

/// Reads it. An error tells what is not there yet.
pub async fn read(stage: &Stage<'_>) -> Result<(Value, Counts), String> {
    let labels = "app.kubernetes.io/managed-by=portcullis";
    let children = list(stage, &[CHILDREN, "-l", labels]).await;
    let owners = list(
        stage,
        &["mcpservers.portcullis.dev,mcppolicies.portcullis.dev"],
    )
    .await;
    let mut names = vec![
        (stage.name().to_owned(), "NAMESPACE".to_owned()),
        (stage.system().to_owned(), "SYSTEM".to_owned()),
        (stage.fake.addr.to_string(), "UPSTREAM".to_owned()),
    ];
    for owner in &owners {
        let text = |key: &str| owner["metadata"][key].as_str().unwrap_or_default();
        names.push((text("uid").to_owned(), format!("UID-OF-{}", text("name"))));
    }
    let mut ledger = (0, 0);
    let mut all = Vec::new();
    for mut child in children {
        if let Some(text) = child["data"]["ledger.json"].as_str() {
            ledger = sums(text)?;
            child["data"]["ledger.json"] = json!("see the counts");
        }
        if let Some(text) = child["data"]["bundle.json"].as_str() {
            let bundle: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
            let revision = bundle["revision"].as_str().unwrap_or_default().to_owned();
            // Wherever else it is told, it must be the same.
            names.push((revision, "REVISION".to_owned()));
            // Says the namespace, which each run has of its own.
            let rules = bundle["rules"].as_str().unwrap_or_default().to_owned();
            assert_eq!(rules.len(), 64, "{bundle}");
            names.push((rules, "RULES".to_owned()));
            // Over the sequence and the UID, which differ from run to run.
            let signature = bundle["signature"]
                .as_str()
                .ok_or("a bundle without signature")?;
            names.push((signature.to_owned(), "SIGNATURE".to_owned()));
            child["data"]["bundle.json"] = bundle;
        }
        all.push(child);
    }
    let (mut server, mut policy, mut rules) = ((0, 0), (0, 0), (0, 0));
    for mut owner in owners {
        let violations = owner["status"]
            .as_object_mut()
            .and_then(|status| status.remove("violations"))
            .unwrap_or_default();
        if owner["kind"] == "McpServer" {
            server = pair(&violations["denied"], &violations["hidden"]);
        } else {
            policy = pair(&violations["denied"], &violations["hidden"]);
            let of = |rule: &str| {
                let all = violations["byRule"].as_array().into_iter().flatten();
                all.filter(|one| one["rule"] == rule)
                    .map(|one| one["count"].clone())
                    .next()
                    .unwrap_or_default()
            };
            rules = pair(&of("writes"), &of("(default)"));
        }
        all.push(owner);
    }
    let plain: Vec<Value> = all.into_iter().map(scrub).collect();
    let mut text = Value::Array(plain).to_string();
    for (name, instead) in names {
        text = text.replace(&name, &instead);
    }
    let counts = Counts {
        ledger,
        server,
        policy,
        rules,
    };
    Ok((serde_json::from_str(&text).unwrap(), counts))
}

async fn list(stage: &Stage<'_>, what: &[&str]) -> Vec<Value> {
    let mut arguments = vec!["get", "-n", stage.name(), "-o", "json"];
    arguments.extend(what);
    let text = stage.kubectl(&arguments, "").await;
    let mut list: Value = serde_json::from_str(&text).unwrap();
    match list["items"].take() {
        Value::Array(items) => items,
        _ => panic!("no list: {text}"),
    }
}

fn pair(denied: &Value, hidden: &Value) -> (u64, u64) {
    (
        denied.as_u64().unwrap_or_default(),
        hidden.as_u64().unwrap_or_default(),
    )
}

fn sums(ledger: &str) -> Result<(u64, u64), String> {
    let ledger: Ledger = serde_json::from_str(ledger).map_err(|error| error.to_string())?;
    let mut sums = (0, 0);
    for (key, tally) in &ledger.sum().counts {
        match key.rule.as_str() {
            "writes" => sums.0 += tally.count,
            "(default)" => sums.1 += tally.count,
            other => return Err(format!("a violation of {other}")),
        }
    }
    Ok(sums)
}

/// An object without what the API server or the clock put there.
fn scrub(mut object: Value) -> Value {
    let metadata = object["metadata"].take();
    let mut kept = Map::new();
    for key in [
        "name",
        "labels",
        "annotations",
        "ownerReferences",
        "finalizers",
    ] {
        if let Some(value) = metadata.get(key) {
            kept.insert(key.to_owned(), value.clone());
        }
    }
    object["metadata"] = Value::Object(kept);
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    if !kind.starts_with("Mcp")
        && let Some(object) = object.as_object_mut()
    {
        object.remove("status");
    }
    if kind == "Secret"
        && let Some(data) = object["data"].as_object_mut()
    {
        // What is in them is nobody's business.
        data.values_mut().for_each(|value| *value = json!("secret"));
    }
    if kind == "Service"
        && let Some(spec) = object["spec"].as_object_mut()
    {
        spec.retain(|key, _| !key.starts_with("clusterIP"));
    }
    strip(&mut object);
    object
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| {
                !key.ends_with("Time")
                    && key != "sequence"
                    && key != "deployment.kubernetes.io/revision"
                    && key != "kubectl.kubernetes.io/last-applied-configuration"
            });
            for (key, value) in map.iter_mut() {
                // Both depend on names and UIDs that differ.
                if key == "portcullis.dev/applied" || key == "reportTokenSha256" {
                    *value = json!("a hash");
                } else {
                    strip(value);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(strip),
        _ => {}
    }
}

/// The lines that only one of the two has.
pub fn difference(expected: &Value, found: &Value) -> String {
    let lines = |value: &Value| -> Vec<String> {
        let text = serde_json::to_string_pretty(value).unwrap();
        text.lines().map(str::to_owned).collect()
    };
    let (expected, found) = (lines(expected), lines(found));
    let only = |sign: &str, here: &[String], there: &[String]| -> String {
        let lines = here.iter().filter(|line| !there.contains(line));
        lines.map(|line| format!("\n{sign}{line}")).collect()
    };
    only("-", &expected, &found) + &only("+", &found, &expected)
}
