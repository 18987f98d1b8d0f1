//! `portcullis status`: the table of `kubectl get`, for the servers of `portcullis serve` or of a
//! cluster.
//!
//! In: the status document of the socket, or the resources of a cluster. Out: the printer columns
//! of the CRDs, read from the CRDs themselves, or the complete resources as YAML or JSON.

use std::path::PathBuf;

use http::Method;
use jiff::Timestamp;
use kube::CustomResourceExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cluster::ClusterArgs;
use super::output::{Failure, Output, age, columns, print, print_data, visible};
use super::socket;
use crate::api::policy::McpPolicy;
use crate::api::server::McpServer;

/// Show the servers and policies that `portcullis serve` serves, or those of a cluster
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The socket of `portcullis serve` [default: $PORTCULLIS_SOCKET or
    /// $XDG_RUNTIME_DIR/portcullis/serve.sock]
    #[arg(long, value_name = "PATH", conflicts_with_all = ["context", "kubeconfig", "namespace", "all_namespaces"])]
    socket: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// All namespaces of the cluster
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// wide: more columns; yaml, json: the complete resources
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// The answer to `GET /status`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Document {
    /// McpServers with their status.
    pub servers: Vec<McpServer>,
    /// McpPolicies with their status.
    pub policies: Vec<McpPolicy>,
    /// The mistakes in the current files.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// Runs the command. As a plugin of kubectl it asks a cluster whatever the flags.
///
/// # Errors
/// When neither `serve` nor the cluster answers.
pub fn run(mut args: Args, plugin: bool) -> Result<(), Failure> {
    if args.all_namespaces || plugin && args.socket.is_none() {
        args.cluster.context.get_or_insert_default();
    }
    let document = match args.cluster.cluster()? {
        Some(cluster) => {
            let namespace = (!args.all_namespaces).then(|| cluster.namespace());
            Document {
                servers: cluster.list(namespace)?,
                policies: cluster.list(namespace)?,
                problems: Vec::new(),
            }
        }
        None => {
            let path = args.socket.unwrap_or_else(socket::default_path);
            socket::request(&path, Method::GET, "/status", None)
                .map_err(|error| Failure::new(error.to_string()))?
        }
    };
    for problem in &document.problems {
        eprintln!("warning: {}", visible(problem));
    }
    if !document.problems.is_empty() {
        eprintln!("warning: the files have errors: {}\n", super::project::RULE);
    }
    match args.output {
        Output::Yaml | Output::Json => {
            let items = list(&document)?;
            print_data(
                &serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items}),
                args.output,
            )
        }
        Output::Table | Output::Wide => {
            let now = Timestamp::now();
            let servers = table(&document.servers, args.output == Output::Wide, now)?;
            let policies = table(&document.policies, args.output == Output::Wide, now)?;
            print(&if policies.is_empty() {
                servers
            } else {
                format!("{servers}\n{policies}")
            })
        }
    }
}

fn list(document: &Document) -> Result<Vec<Value>, Failure> {
    let mut items = defaulted(&document.servers)?;
    items.extend(defaulted(&document.policies)?);
    Ok(items)
}

/// Resources as an API server would return them, with the schema's defaults for absent fields.
fn defaulted<T: CustomResourceExt + Serialize>(objects: &[T]) -> Result<Vec<Value>, Failure> {
    let schema = T::crd()
        .spec
        .versions
        .into_iter()
        .next()
        .and_then(|version| version.schema?.open_api_v3_schema);
    let failed = |error: serde_json::Error| Failure::new(error.to_string());
    let schema = serde_json::to_value(schema).map_err(failed)?;
    let mut values = Vec::new();
    for object in objects {
        let value = serde_json::to_value(object).map_err(failed)?;
        values.push(kube::core::cel::apply_defaults(&schema, &value));
    }
    Ok(values)
}

/// The printer columns of a kind. As `kubectl get`, columns of a priority above 0 are for `wide`.
fn table<T: CustomResourceExt + Serialize>(
    objects: &[T],
    wide: bool,
    now: Timestamp,
) -> Result<String, Failure> {
    let definitions: Vec<_> = T::crd()
        .spec
        .versions
        .into_iter()
        .next()
        .and_then(|version| version.additional_printer_columns)
        .unwrap_or_default()
        .into_iter()
        .filter(|column| wide || column.priority.unwrap_or(0) == 0)
        .collect();
    let kind = T::crd().spec.names.kind;
    let mut headings = vec!["Namespace".to_owned(), kind];
    headings.extend(definitions.iter().map(|column| column.name.clone()));
    let mut rows = Vec::new();
    for object in defaulted(objects)? {
        let mut row = vec![
            cell(&object, ".metadata.namespace", "string", now),
            cell(&object, ".metadata.name", "string", now),
        ];
        row.extend(
            definitions
                .iter()
                .map(|column| cell(&object, &column.json_path, &column.type_, now)),
        );
        rows.push(row);
    }
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    Ok(columns(&headings, &rows))
}

fn cell(object: &Value, path: &str, kind: &str, now: Timestamp) -> String {
    match (at(object, path), kind) {
        (None | Some(Value::Null), _) => String::new(),
        (Some(Value::String(text)), "date") => text.parse::<Timestamp>().map_or_else(
            |_| visible(text),
            |then| age(now.duration_since(then).as_secs()),
        ),
        (Some(Value::String(text)), _) => visible(text),
        (Some(other), _) => other.to_string(),
    }
}

/// The value at one of the plain paths that printer columns have: names, `[?(@.type=="X")]` to pick
/// from a list, and `[*]`, of which the API server shows the first.
fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let mut value = object;
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(filter) = rest.strip_prefix("[?(@.") {
            let (condition, after) = filter.split_once(")]")?;
            let (field, wanted) = condition.split_once("==")?;
            let wanted = wanted.trim_matches(['"', '\'']);
            value = value
                .as_array()?
                .iter()
                .find(|item| item.get(field).and_then(Value::as_str) == Some(wanted))?;
            rest = after;
        } else if let Some(after) = rest.strip_prefix("[*]") {
            value = value.as_array()?.first()?;
            rest = after;
        } else {
            let name = rest.strip_prefix('.')?;
            let end = name.find(['.', '[']).unwrap_or(name.len());
            value = value.get(&name[..end])?;
            rest = &name[end..];
        }
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_printer_column_has_a_path_that_is_understood() {
        let object = serde_json::json!({"metadata": {"name": "m"}, "status": {"conditions": [
            {"type": "Ready", "status": "True"}, {"type": "Accepted", "status": "False"}]}});
        assert_eq!(
            at(&object, ".status.conditions[?(@.type==\"Ready\")].status"),
            Some(&Value::from("True"))
        );
        assert_eq!(
            at(&object, ".status.conditions[?(@.type=='Accepted')].status"),
            Some(&Value::from("False"))
        );
        assert_eq!(at(&object, ".metadata.name"), Some(&Value::from("m")));
        assert_eq!(at(&object, ".status.nothing.there"), None);
        let first = at(&object, ".status.conditions[*].type");
        assert_eq!(first, Some(&Value::from("Ready")));
        assert_eq!(at(&object, ".metadata[*].type"), None);
        for crd in crate::api::crds() {
            for column in crd
                .spec
                .versions
                .into_iter()
                .flat_map(|version| version.additional_printer_columns.unwrap_or_default())
            {
                let path = column.json_path;
                let path = path.replace("[*]", "");
                let plain = path
                    .split_once("[?(@.type==")
                    .map_or(path.as_str(), |(before, _)| before);
                assert!(
                    plain.starts_with('.') && !plain.contains(['[', '*', '(']),
                    "{path}"
                );
            }
        }
    }
}
