//! One document to one object.
//!
//! In: a tree. Out: a typed object, a document that is none of our business, or everything that is
//! wrong with it. Must not do: accept what the API server would refuse.

use super::{
    advice, definitions,
    position::Position,
    rules,
    schema::{self, Fault},
    tree::{Content, Node, join},
};
use crate::api::{self, loose::Loose, policy::McpPolicy, server::McpServer};
use base64::Engine as _;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt};

/// An object from a file. Its namespace is always set.
#[derive(Clone, Debug)]
pub enum Object {
    /// A server.
    Server(Box<McpServer>),
    /// A policy.
    Policy(Box<McpPolicy>),
    /// A Secret, which `serve` resolves references to.
    Secret(Secret),
    /// A Namespace, whose labels guardrails select by.
    Namespace(Namespace),
}

/// A core/v1 Namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A core/v1 Secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its values by key, decoded; `stringData` wins over `data`, as on the API server.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("namespace", &self.namespace)
            .field("name", &self.name)
            .field("keys", &self.data.keys().collect::<Vec<_>>())
            .finish()
    }
}

impl Object {
    /// Kind, namespace and name.
    pub fn identity(&self) -> (&'static str, &str, &str) {
        match self {
            Object::Server(server) => (
                "McpServer",
                named(&server.metadata.namespace),
                named(&server.metadata.name),
            ),
            Object::Policy(policy) => (
                "McpPolicy",
                named(&policy.metadata.namespace),
                named(&policy.metadata.name),
            ),
            Object::Secret(secret) => ("Secret", &secret.namespace, &secret.name),
            Object::Namespace(namespace) => ("Namespace", "", &namespace.name),
        }
    }
}

fn named(name: &Option<String>) -> &str {
    name.as_deref().unwrap_or_default()
}

/// What a document is.
pub(super) enum Read {
    Object(Box<Object>),
    /// Something else, by apiVersion and kind.
    Ignored(String),
    /// An empty document.
    Nothing,
}

/// Reads one document.
pub(super) fn read(document: &Node, is_json: bool) -> Result<Read, Vec<Fault>> {
    if let Some(what) = foreign(document, is_json) {
        return Ok(Read::Ignored(what.to_owned()));
    }
    let fault = |at: Position, path: &str, message: String| {
        vec![Fault {
            at,
            path: path.to_owned(),
            message,
        }]
    };
    match &document.content {
        Content::Null => return Ok(Read::Nothing),
        Content::Map(_) => {}
        _ => {
            let message = format!(
                "this document is {}; write a manifest with apiVersion, kind, metadata and spec, or remove it",
                document.kind()
            );
            return Err(fault(document.at, "", message));
        }
    }
    let word = |key: &str, example: &str| match document.get(key) {
        None => Err(fault(
            document.at,
            "",
            format!("`{key}` is missing; write for example {key}: {example}"),
        )),
        Some(node) => node.text().ok_or_else(|| {
            fault(
                node.at,
                key,
                format!("must be a string such as {example}, and is {}", node.kind()),
            )
        }),
    };
    let (version, kind) = (
        word("apiVersion", api::API_VERSION)?,
        word("kind", "McpPolicy")?,
    );
    let place = |key: &str| document.get(key).map_or(document.at, |node| node.at);
    match (version, kind) {
        (api::API_VERSION, "McpServer") => {
            let server: McpServer = resource(document, &definitions::SERVER)?;
            Ok(Read::Object(Box::new(Object::Server(Box::new(server)))))
        }
        (api::API_VERSION, "McpPolicy") => {
            let policy: McpPolicy = resource(document, &definitions::POLICY)?;
            Ok(Read::Object(Box::new(Object::Policy(Box::new(policy)))))
        }
        ("v1", "Namespace") => Ok(Read::Object(Box::new(Object::Namespace(namespace(
            document,
        )?)))),
        ("v1", "Secret") => Ok(Read::Object(Box::new(Object::Secret(secret(document)?)))),
        // Approvals are made by gateways and tests are read by `portcullis test`.
        (api::API_VERSION, "McpApproval") => Ok(Read::Ignored(format!("{version} {kind}"))),
        (api::API_VERSION, kind) if kind.ends_with("Test") => {
            Ok(Read::Ignored(format!("{version} {kind}")))
        }
        (api::API_VERSION, other) => Err(fault(
            place("kind"),
            "kind",
            format!(
                "{version} has no kind `{}`; write McpServer or McpPolicy",
                shorten(other)
            ),
        )),
        (other, _) if other == api::GROUP || other.starts_with("portcullis.dev/") => Err(fault(
            place("apiVersion"),
            "apiVersion",
            format!(
                "`{}` is not a version that this program knows; write {}",
                shorten(other),
                api::API_VERSION
            ),
        )),
        (version, kind) => match meant(version, kind) {
            Some((key, message)) => Err(fault(place(key), key, message)),
            None => Ok(Read::Ignored(format!(
                "{} {}",
                shorten(version),
                shorten(kind)
            ))),
        },
    }
}

/// What a document is that is another program's data, such as a saved listing of tools; None if it
/// may be a manifest. A manifest that lost its first lines still has its metadata or its spec, and
/// is refused.
pub(super) fn foreign(document: &Node, is_json: bool) -> Option<&'static str> {
    let has = |key: &str| document.get(key).is_some();
    let ours = [
        "apiVersion",
        "kind",
        "metadata",
        "spec",
        "targetRefs",
        "targetSelector",
        "upstream",
    ];
    match &document.content {
        Content::List(tools) => {
            let is_tool =
                |tool: &Node| tool.get("name").is_some() && tool.get("inputSchema").is_some();
            (!tools.is_empty() && tools.iter().all(is_tool)).then_some("a saved listing of tools")
        }
        Content::Map(_) if ours.into_iter().any(has) => None,
        Content::Map(_)
            if has("version")
                && (has("default") || has("tools") || has("all_tools") || has("hide")) =>
        {
            Some("a policy of another product; `portcullis import` converts it")
        }
        Content::Map(_) if has("tools") || has("jsonrpc") => Some("a saved listing of tools"),
        Content::Map(_) if is_json => Some("data that has neither apiVersion nor kind"),
        _ => None,
    }
}

/// The documents of a List, as `kubectl get -o yaml` writes them; None if this is not one.
pub(super) fn items(document: &Node) -> Option<&[Node]> {
    let word = |key: &str| document.get(key).and_then(Node::text);
    let is_list = match (word("apiVersion")?, word("kind")?) {
        ("v1", kind) => matches!(kind, "List" | "SecretList"),
        (api::API_VERSION, kind) => matches!(kind, "McpServerList" | "McpPolicyList"),
        _ => false,
    };
    match &document.get("items")?.content {
        Content::List(items) if is_list => Some(items),
        _ => None,
    }
}

/// Namespace and name of a document, whatever it is.
pub(super) fn name(document: &Node) -> Option<(String, String)> {
    let metadata = document.get("metadata")?;
    let namespace = metadata.get("namespace").and_then(Node::text);
    let name = metadata.get("name").and_then(Node::text)?;
    Some((namespace.unwrap_or("default").to_owned(), name.to_owned()))
}

/// What a document with errors is for, if it may be meant as a policy: nothing else has targets.
pub(super) fn targets(document: &Node) -> Option<McpPolicy> {
    let spec = document.get("spec")?;
    if spec.get("targetRefs").is_none() && spec.get("targetSelector").is_none() {
        return None;
    }
    let text = document.json().to_string();
    let policy: Loose<McpPolicy> = serde_json::from_str(&text).ok()?;
    let mut policy = match policy.object() {
        Ok(policy) => McpPolicy::clone(policy),
        Err(undecoded) => undecoded.targets_only(),
    };
    let (namespace, name) = name(document).unwrap_or_else(|| {
        let unknown = || "default".to_owned();
        (unknown(), unknown())
    });
    policy.metadata.namespace = Some(namespace);
    policy.metadata.name = Some(name);
    Some(policy)
}

/// What a person probably meant who wrote an apiVersion or a kind that is nearly one that is read:
/// which of the two is wrong, and what to write.
fn meant(version: &str, kind: &str) -> Option<(&'static str, String)> {
    let write = |key: &'static str, written: &str, right: &str| {
        Some((
            key,
            format!("`{}` is not read here; write {right}", shorten(written)),
        ))
    };
    if version == "v1" {
        let right = ["Secret", "List"]
            .into_iter()
            .find(|known| near(kind, known))?;
        return write("kind", kind, right);
    }
    let group = version.split('/').next().unwrap_or_default();
    let lower = |text: &str| text.to_ascii_lowercase();
    let ours = near(group, api::GROUP)
        || (lower(group).contains("portcullis") && lower(kind).starts_with("mcp"));
    let known = ["McpServer", "McpPolicy", "McpApproval", "McpPolicyTest"];
    // Other projects have a kind MCPServer, but none has these, spelt like this.
    if ours || known.contains(&kind) || kind.eq_ignore_ascii_case("McpPolicy") {
        return write("apiVersion", version, api::API_VERSION);
    }
    let secret_or_list = ["Secret", "List"].contains(&kind) && near(version, "v1");
    if secret_or_list {
        return write("apiVersion", version, "v1");
    }
    None
}

/// Whether a word is another one but for case and a letter or two.
fn near(written: &str, known: &str) -> bool {
    // Longer ones are not near, and need not be compared.
    written.len() <= known.len() + 2
        && strsim::osa_distance(&written.to_ascii_lowercase(), &known.to_ascii_lowercase())
            <= known.len() / 6 + usize::from(known.len() > 3)
}

fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

/// A custom resource: its schema, then its rules, then its type.
fn resource<T: DeserializeOwned>(document: &Node, schema: &Value) -> Result<T, Vec<Fault>> {
    let mut faults = Vec::new();
    envelope(document, schema, &mut faults);
    if !faults.is_empty() {
        return Err(faults);
    }
    let mut json = document.json();
    // Status is written by the operator; `kubectl apply` drops it too.
    if let Some(object) = json.as_object_mut() {
        object.remove("status");
    }
    rules::check(document, &json, schema)?;
    if let Some(metadata) = json.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata
            .entry("namespace")
            .or_insert_with(|| json!("default"));
    }
    serde_json::from_value(json).map_err(|_| {
        vec![Fault {
            at: document.at,
            path: String::new(),
            message: advice::undecoded(),
        }]
    })
}

/// Checks the top level, where `apiVersion`, `kind` and `metadata` are every object's own.
fn envelope(document: &Node, schema: &Value, faults: &mut Vec<Fault>) {
    let properties = &schema["properties"];
    let known = ["apiVersion", "kind", "metadata"];
    for entry in document.entries() {
        match entry.key.as_str() {
            "apiVersion" | "kind" | "status" => {}
            "metadata" => schema::check(&entry.value, "metadata", &definitions::METADATA, faults),
            key => match properties.get(key) {
                Some(property) => schema::check(&entry.value, key, property, faults),
                None => faults.push(Fault {
                    at: entry.at,
                    path: key.to_owned(),
                    message: schema::unknown(
                        key,
                        known.into_iter().chain(
                            properties
                                .as_object()
                                .into_iter()
                                .flatten()
                                .map(|(k, _)| k.as_str()),
                        ),
                    ),
                }),
            },
        }
    }
    if document.get("metadata").is_none() {
        faults.push(Fault {
            at: document.at,
            path: String::new(),
            message:
                "`metadata` is missing; write metadata: { name: my-name, namespace: my-namespace }"
                    .to_owned(),
        });
    }
    for required in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if document.get(required).is_none() {
            faults.push(Fault {
                at: document.at,
                path: String::new(),
                message: format!(
                    "`{required}` is missing; write {required}: with the fields of a {} below it",
                    document
                        .get("kind")
                        .and_then(Node::text)
                        .unwrap_or("document")
                ),
            });
        }
    }
}

fn namespace(document: &Node) -> Result<Namespace, Vec<Fault>> {
    let mut faults = Vec::new();
    envelope(document, &definitions::NAMESPACE, &mut faults);
    if !faults.is_empty() {
        return Err(faults);
    }
    let metadata = document.get("metadata");
    let name = metadata.and_then(|metadata| metadata.get("name"));
    let labels = metadata.and_then(|metadata| metadata.get("labels"));
    let labels = labels.map(Node::entries).unwrap_or_default();
    Ok(Namespace {
        name: name.and_then(Node::text).unwrap_or_default().to_owned(),
        labels: labels
            .iter()
            .filter_map(|entry| Some((entry.key.clone(), entry.value.text()?.to_owned())))
            .collect(),
    })
}

fn secret(document: &Node) -> Result<Secret, Vec<Fault>> {
    let mut faults = Vec::new();
    envelope(document, &definitions::SECRET, &mut faults);
    let mut data = BTreeMap::new();
    for entry in document.get("data").map(Node::entries).unwrap_or_default() {
        // Base64 is often wrapped over lines.
        let packed: String = entry
            .value
            .text()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        match base64::engine::general_purpose::STANDARD.decode(packed) {
            Ok(bytes) => {
                data.insert(entry.key.clone(), bytes);
            }
            Err(_) => faults.push(Fault {
                at: entry.at,
                path: join("data", &entry.key),
                message: "is not base64; encode it, or write the plain value under stringData"
                    .to_owned(),
            }),
        }
    }
    for entry in document
        .get("stringData")
        .map(Node::entries)
        .unwrap_or_default()
    {
        if let Some(text) = entry.value.text() {
            data.insert(entry.key.clone(), text.as_bytes().to_vec());
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let word = |key: &str| {
        document
            .get("metadata")
            .and_then(|m| m.get(key))
            .and_then(Node::text)
            .map(str::to_owned)
    };
    Ok(Secret {
        namespace: word("namespace").unwrap_or_else(|| "default".to_owned()),
        name: word("name").unwrap_or_default(),
        data,
    })
}
