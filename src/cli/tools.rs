//! The tools of a server: listed from the server itself, and read from a file for offline commands.
//!
//! In: an McpServer of some files or a URL; or a saved listing. Out: definitions with their
//! digests, which are the pins of `spec.tools`. Must not do: call a tool.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::output::{
    Failure, Output, columns, plural, print, print_manifest, visible, why, without_numbers,
};
use super::project::{Project, shown};
use crate::api::server::McpServer;
use crate::catalog;
use crate::gateway::approvals::{Approvals, Memory, Records};
use crate::gateway::counters::Counters;
use crate::gateway::force::{Environment, Sealing};
use crate::gateway::observe::metrics::Metrics;
use crate::gateway::observe::recorder::ProgramRun;
use crate::gateway::process::audit_nowhere;
use crate::gateway::{Gateway, Shared};
use crate::json::{self, Value};
use crate::policy::Definition;
use crate::protocol::seal::Sealer;

/// What an explanation without a listing does not say.
pub const UNCHECKED: &str = "note: argument types were not checked, as no listing of the server's tools was given: save one with `portcullis tools \
--save FILE` and name it with --listing FILE";
/// The same of tests.
pub const UNCHECKED_IN_TESTS: &str = "note: argument types were not checked where no listing of the server's tools was given: save one with `portcullis \
tools --save FILE` and name it with listing: FILE in the document, or with --listing FILE";
/// A server that has not listed its tools by then is not going to.
const LISTED_WITHIN: Duration = Duration::from_secs(120);

/// List the tools of a server, with the digests that pin them, and save them for validate, explain
/// and test
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file or a directory of YAML files with the McpServer; may be given several times
    #[arg(
        short,
        long = "filename",
        value_name = "FILE|DIR",
        required_unless_present = "url"
    )]
    filename: Vec<PathBuf>,
    /// The URL of a server that runs, in place of files
    #[arg(long, value_name = "URL", conflicts_with = "filename")]
    url: Option<String>,
    /// A file with the bearer token that the server at the URL wants
    #[arg(long, value_name = "FILE", requires = "url")]
    bearer_file: Option<PathBuf>,
    /// The server, if the files define several
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    server: Option<String>,
    /// A folder of Secrets, as Kubernetes mounts them: DIR/NAMESPACE/NAME/KEY
    #[arg(long, value_name = "DIR")]
    secrets: Option<PathBuf>,
    /// Set an environment variable of a stdio server, overriding its YAML; may be given several
    /// times
    #[arg(long, value_name = "NAME=VALUE", value_parser = super::serve::variable)]
    env: Vec<(String, String)>,
    /// Write the tools to this file, which `--listing` of validate, explain and test reads
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// table: a line for each tool; yaml, json: the pins, as `spec.tools` of an McpServer takes
    /// them
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// A pin, as an McpServer has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pin<'a> {
    name: &'a str,
    definition_digest: &'a str,
}

#[derive(Serialize)]
struct Pins<'a> {
    tools: Vec<Pin<'a>>,
}

/// Runs the command.
///
/// # Errors
/// [`Failure`] when the server cannot be asked, or the file not be written.
pub fn run(args: Args) -> Result<(), Failure> {
    let (project, server) = match &args.url {
        None => {
            let mut project = super::load::project(&args.filename, "portcullis-system")?;
            super::load::secrets(&mut project, args.secrets.as_deref())?;
            let server = project.server(args.server.as_deref())?.object.clone();
            (project, server)
        }
        Some(url) => (
            Project::default(),
            at_url(url, args.bearer_file.as_deref())?,
        ),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("the runtime cannot be started: {}", why(&error))))?;
    let listed = runtime.block_on(list(&project, &server, &args.env));
    runtime.shutdown_timeout(Duration::from_secs(2));
    let raw = listed?;
    let definitions = raw
        .iter()
        .map(|tool| {
            Definition::parse(tool.as_bytes()).map_err(|error| {
                Failure::new(format!(
                    "the server lists what is not a tool ({error}); its author has to correct it"
                ))
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(path) = &args.save {
        let text = format!("{{\"tools\": [\n{}\n]}}\n", raw.join(",\n"));
        std::fs::write(path, text).map_err(|error| {
            Failure::new(format!(
                "{} cannot be written: {}",
                path.display(),
                why(&error)
            ))
        })?;
        eprintln!("saved {} to {}", plural(raw.len(), "tool"), path.display());
        eprintln!(
            "next: `portcullis explain --listing {0}` and `portcullis test --listing {0}` check argument types with it, and `portcullis tools \
             -o yaml` prints the pins for spec.tools of the McpServer",
            path.display()
        );
    }
    let pins = || Pins {
        tools: definitions
            .iter()
            .map(|tool| Pin {
                name: &tool.name,
                definition_digest: &tool.digest,
            })
            .collect(),
    };
    match args.output {
        Output::Yaml | Output::Json => print_manifest(&pins(), args.output),
        Output::Table | Output::Wide => show(&definitions),
    }
}

fn show(definitions: &[Definition]) -> Result<(), Failure> {
    let rows: Vec<Vec<String>> = definitions
        .iter()
        .map(|tool| {
            let class = catalog::lookup(&tool.name).next();
            let class = class.map_or_else(
                || "Unclassified".to_owned(),
                |entry| format!("{} {}", entry.risk, entry.severity),
            );
            vec![visible(&tool.name), class, tool.digest.clone()]
        })
        .collect();
    print(&columns(&["Tool", "Class", "Digest"], &rows))
}

/// A server that is known by its URL alone.
fn at_url(url: &str, bearer: Option<&Path>) -> Result<McpServer, Failure> {
    let mut headers = Vec::new();
    if let Some(path) = bearer {
        let token = std::fs::read_to_string(path).map_err(|error| {
            Failure::new(format!(
                "{} cannot be read: {}",
                path.display(),
                why(&error)
            ))
        })?;
        headers.push(serde_json::json!({"name": "Authorization", "value": format!("Bearer {}", token.trim())}));
    }
    let spec = serde_json::json!({"upstream": {"http": {"url": url, "headers": headers}}});
    let document = serde_json::json!({
        "apiVersion": crate::api::API_VERSION, "kind": "McpServer",
        "metadata": {"name": "server", "namespace": "default"}, "spec": spec
    });
    // By way of the schema, so that a URL is refused in the words that files are.
    let found = crate::manifest::parse("--url", &document.to_string()).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(|error| error.message.clone()).collect();
        Failure::new(format!("--url: {}", lines.join("\n")))
    })?;
    match found
        .objects
        .into_iter()
        .next()
        .map(|located| located.object)
    {
        Some(crate::manifest::Object::Server(server)) => Ok(*server),
        _ => Err(Failure::new(
            "--url: write the URL of an MCP server, such as http://127.0.0.1:8080/mcp",
        )),
    }
}

async fn list(
    project: &Project,
    server: &McpServer,
    env: &[(String, String)],
) -> Result<Vec<String>, Failure> {
    let mut server = server.clone();
    // Listing needs neither the callers nor their credentials.
    server.spec.authentication = None;
    server.spec.counters = None;
    let name = shown(&server.metadata);
    let failed = |why: String| {
        let words = without_numbers(why);
        Failure::new(format!(
            "McpServer {name}: its tools cannot be listed: {words}"
        ))
    };
    let (log, _writer) = audit_nowhere()?;
    let sealer = Sealer::ephemeral()
        .map_err(|error| Failure::new(format!("no sealing key could be made: {error}")))?;
    let shared = Shared {
        run: ProgramRun::named(&uuid::Uuid::new_v4().simple().to_string()[..12]),
        audit: log.clone(),
        metrics: Metrics::register(&mut prometheus_client::registry::Registry::default()),
        sealing: Sealing::Own(Arc::new(sealer)),
        approvals: Approvals::Memory(Arc::new(Memory::recorded(Records {
            log: Some(log),
            times: None,
        }))),
        counters: Counters::default(),
    };
    let namespace = super::project::name_of(&server.metadata).0;
    let environment = Environment::local_as(
        Box::new(project.secrets_of(&namespace)),
        env.iter().cloned().collect(),
        None,
    );
    let bundle = project.bundle(&server, std::iter::empty(), Vec::new(), 1)?;
    let gateway =
        Gateway::new(&shared, environment, bundle).map_err(|error| failed(error.to_string()))?;
    if let [first, ..] = gateway.missing_secrets().as_slice() {
        return Err(failed(format!(
            "the Secret {first} is missing; put it into a folder as DIR/NAMESPACE/NAME/KEY and give that with --secrets DIR, or set {}",
            super::project::variable_for(first)
        )));
    }
    let listed = match tokio::time::timeout(LISTED_WITHIN, gateway.raw_tools()).await {
        Ok(Ok(tools)) => Ok(tools),
        Ok(Err(problem)) => {
            let problem = gateway.why_down().await.unwrap_or(problem);
            let said = gateway.last_words().map_or_else(String::new, |line| {
                format!("; its last line was: {}", visible(&line))
            });
            Err(failed(format!("{problem}{said}")))
        }
        Err(_) => Err(failed(format!(
            "it did not answer within {} s",
            LISTED_WITHIN.as_secs()
        ))),
    };
    gateway.shutdown().await;
    listed
}

/// Reads a file with a `tools/list` result: the result itself, the whole response, or only the
/// array.
///
/// # Errors
/// Says what the file should contain.
pub fn listing(path: &Path) -> Result<Vec<Definition>, Failure> {
    let shown = path.display();
    let bytes = std::fs::read(path).map_err(|error| {
        Failure::new(format!(
            "{shown} cannot be read: {}; make a listing with `portcullis tools --save FILE`",
            why(&error)
        ))
    })?;
    let wrong = |why: String| {
        Failure::new(format!(
            "{shown} does not contain a list of tools ({why}); make one with `portcullis tools --save FILE`"
        ))
    };
    let value = json::parse(&bytes).map_err(|error| wrong(error.to_string()))?;
    let tools = match &value {
        Value::Array(_) => Some(&value),
        value => value
            .get("tools")
            .or_else(|| value.get("result").and_then(|result| result.get("tools"))),
    };
    let tools = tools
        .and_then(Value::as_array)
        .ok_or_else(|| wrong("it has no list under `tools`".to_owned()))?;
    tools
        .iter()
        .map(|tool| {
            Definition::parse(json::canonical(tool).as_bytes())
                .map_err(|error| wrong(error.to_string()))
        })
        .collect()
}

/// Every catalogued tool and `extra`, by name only.
pub fn assumed(extra: &[String]) -> Vec<Definition> {
    let mut names: Vec<&str> = catalog::all().iter().map(|entry| entry.name).collect();
    names.extend(extra.iter().map(String::as_str));
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(Definition::assumed).collect()
}
