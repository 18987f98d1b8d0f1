//! `portcullis import`: another product's policy as McpPolicies.
//!
//! In: a PolicyLayer `policy.json` or an Intercept YAML. Out: the McpPolicies as YAML on standard
//! output, and on standard error every part without an equivalent, with its place in the file. Exit
//! code 0 when the file was imported, 1 when it was not, or with `--strict` when a part that could
//! not be imported denies its tool.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::output::{Failure, Output, print, print_manifest, visible, why};
use crate::api::policy::McpPolicy;
use crate::policy::import::{MAX_BYTES, Note, import};

/// Turn a PolicyLayer policy.json or an Intercept YAML into an McpPolicy
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file; `-` reads standard input
    file: PathBuf,
    /// The McpServer that the policy is for; a policy reaches only servers in its own namespace
    #[arg(long, default_value = "mlflow", value_name = "[NAMESPACE/]NAME")]
    server: String,
    /// Exit with code 1 if a part could not be imported and denies its tool; the policy is still
    /// printed
    #[arg(long)]
    strict: bool,
    /// The output format
    #[arg(short, long, value_enum, default_value_t = Output::Yaml)]
    output: Output,
}

/// Runs the command.
///
/// # Errors
/// Code 1 when the file is not a known kind of policy, and with `--strict` when a part of it was
/// closed.
pub fn run(args: Args) -> Result<(), Failure> {
    let shown = visible(&args.file.display().to_string());
    let text = read(&args.file)
        .map_err(|error| Failure::new(format!("{shown} cannot be read: {}; name a policy.json of PolicyLayer or a YAML file of Intercept", why(&error))))?;
    let (namespace, server) = server(&args.server)?;
    let imported = import(&text, server).map_err(|error| Failure {
        message: match error.at {
            Some(at) => format!(
                "{shown}:{}:{}: {}",
                at.line,
                at.column,
                visible(&error.message)
            ),
            None => format!("{shown}: {}", visible(&error.message)),
        },
        code: 1,
    })?;
    for note in &imported.notes {
        eprintln!("{}", line(&shown, note));
    }
    if namespace.is_none() {
        eprintln!(
            "note: the policy has no namespace, and it must be in the namespace of the McpServer; name both with \
            --server NAMESPACE/{server}"
        );
    }
    let policies: Vec<McpPolicy> = imported
        .policies
        .into_iter()
        .enumerate()
        .map(|(i, spec)| {
            let name = match i {
                0 => format!("{server}-imported"),
                i => format!("{server}-imported-{}", i + 1),
            };
            let mut policy = McpPolicy::new(&name, spec);
            // Where it is not given, `kubectl apply -n` decides.
            policy.metadata.namespace = namespace.map(str::to_owned);
            policy
        })
        .collect();
    if policies.len() > 1 {
        eprintln!(
            "note: one policy would be too large, so there are {}; they belong together, so apply all of them",
            policies.len()
        );
    }
    print_all(&policies, args.output)?;
    let closed: usize = imported
        .notes
        .iter()
        .filter(|note| note.closes)
        .map(|note| note.places.len())
        .sum();
    match closed {
        0 => {
            eprintln!("{}", next(&args.file, server));
            Ok(())
        }
        closed if args.strict => Err(Failure {
            message: format!(
                "--strict: {closed} place(s) of {shown} could not be imported and deny calls; see the lines marked \
                `closed`"
            ),
            code: 1,
        }),
        closed => {
            eprintln!(
                "note: {closed} place(s) could not be imported and deny calls; see the lines marked `closed`"
            );
            eprintln!("{}", next(&args.file, server));
            Ok(())
        }
    }
}

/// What to do with the policy.
fn next(file: &Path, server: &str) -> String {
    let stem = file
        .file_stem()
        .map_or_else(|| "policy".into(), |stem| stem.to_string_lossy());
    let saved = match stem.as_ref() {
        "-" => format!("{server}-imported.yaml"),
        stem => format!("{}-imported.yaml", visible(stem)),
    };
    format!(
        "next: save this with `> {saved}` beside the McpServer {server}, run `portcullis validate --strict .` there, and \
         `portcullis explain -f . --tool TOOL --args JSON` for the calls that matter"
    )
}

/// The namespace, if it is given, and the name of a server.
fn server(text: &str) -> Result<(Option<&str>, &str), Failure> {
    let refused = |what: String| {
        Failure::new(format!(
            "--server: {what}; write NAME or NAMESPACE/NAME, each of lower-case letters, digits and `-`, such as mlflow or ml/mlflow"
        ))
    };
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, text),
    };
    // A server's name starts with a letter, because it begins the names of Services.
    let is_label = |text: &str, most: usize| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !text.is_empty()
            && text.len() <= most
            && text.bytes().all(inner)
            && !text.starts_with('-')
            && !text.ends_with('-')
    };
    if !is_label(name, LONGEST_SERVER) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(refused(format!(
            "`{}` is not the name of an McpServer",
            visible(name)
        )));
    }
    match namespace {
        Some(namespace) if !is_label(namespace, 63) => Err(refused(format!(
            "`{}` is not the name of a namespace",
            visible(namespace)
        ))),
        namespace => Ok((namespace, name)),
    }
}

/// Characters that the name of an McpServer may have.
const LONGEST_SERVER: usize = 52;

/// The content of a file, or why it cannot be read.
fn read(file: &Path) -> std::io::Result<String> {
    let source: Box<dyn Read> = match file.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => Box::new(std::fs::File::open(file)?),
    };
    let mut text = String::new();
    // One byte more than the limit, so that a longer file is refused and not truncated.
    source
        .take(MAX_BYTES as u64 + 1)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// The number of places that a note about several of them lists.
const LISTED: usize = 8;

fn line(file: &str, note: &Note) -> String {
    let kind = if note.closes { "closed" } else { "note" };
    let text = visible(&note.text);
    let Some(first) = note.places.first() else {
        return format!("{kind}: {text}");
    };
    let path = match first.path.as_str() {
        "" => return format!("{kind}: {text}"),
        path => visible(path),
    };
    let at = |line: u32, column: u32| format!("{line}:{column}");
    let others: Vec<String> = note
        .places
        .iter()
        .skip(1)
        .map(|place| at(place.at.line, place.at.column))
        .collect();
    let also = match others.len() {
        0 => String::new(),
        count if count <= LISTED => format!(" (also at {})", others.join(", ")),
        count => format!(
            " (also at {} and {} more places)",
            others[..LISTED].join(", "),
            count - LISTED
        ),
    };
    let at = at(first.at.line, first.at.column);
    format!("{file}:{at}: {kind}: {path}: {text}{also}")
}

fn print_all(policies: &[McpPolicy], output: Output) -> Result<(), Failure> {
    match (policies, output) {
        ([policy], output) => print_manifest(policy, output),
        (policies, Output::Json) => {
            let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": policies});
            print_manifest(&list, output)
        }
        (policies, output) => {
            for (i, policy) in policies.iter().enumerate() {
                if i > 0 {
                    print("---\n")?;
                }
                print_manifest(policy, output)?;
            }
            Ok(())
        }
    }
}
