//! Who may import whom: the table of the architecture, checked against every `crate::` path in the
//! sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A module of the library and the others that it may name. A finer path (`status::report`) allows
/// only what is below it.
const TABLE: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("json", &[]),
    ("recent", &[]),
    ("scripted_api", &[]),
    ("telemetry", &[]),
    ("protocol", &["json"]),
    ("catalog", &["api"]),
    ("policy", &["api", "catalog", "json"]),
    ("status", &["api", "policy"]),
    ("manifest", &["api"]),
    (
        "gateway",
        &[
            "policy",
            "status::report",
            "catalog",
            "protocol",
            "json",
            "recent",
            "scripted_api",
            "telemetry",
            "api::contract",
        ],
    ),
    (
        "controller",
        &[
            "api",
            "policy",
            "status",
            "catalog",
            "recent",
            "scripted_api",
            "telemetry",
        ],
    ),
    (
        "cli",
        &[
            "api",
            "catalog",
            "gateway",
            "json",
            "manifest",
            "policy",
            "protocol",
            "status",
            "telemetry",
        ],
    ),
];

/// Single files that may name more than their module.
const FILES: &[(&str, &[&str])] = &[
    ("gateway/force", &["api"]),
    ("gateway/approvals", &["api"]),
    ("gateway/counters/local/tests", &["api"]),
    ("gateway/notify", &["api"]),
    ("gateway/observe/audit/arguments", &["api"]),
    ("gateway/upstream/connect", &["api"]),
];

/// Modules without async, clock, log, HTTP server or client, and file system; and what betrays
/// those.
const PURE: &[&str] = &[
    "api", "catalog", "json", "policy", "protocol", "recent", "status",
];
const IMPURE: &[&str] = &[
    "tokio::",
    "hyper::",
    "hyper_util::",
    "tracing::",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::process",
    "SystemTime::now",
    "Instant::now",
    "Timestamp::now",
    "Utc::now",
    "kube::Client",
    "kube::Api",
    "async fn",
];

#[test]
fn modules_import_only_what_the_table_allows() {
    let allowed: BTreeMap<_, _> = TABLE.iter().copied().collect();
    let mut wrong = BTreeSet::new();
    for (path, text) in sources() {
        let module = module_of(&path);
        let Some(table) = allowed.get(module.as_str()) else {
            wrong.insert(format!(
                "{path}: the module {module} is not in the table; add it with what it may import"
            ));
            continue;
        };
        let extra = FILES.iter().filter(|(file, _)| {
            path == format!("{file}.rs") || path.starts_with(&format!("{file}/"))
        });
        let may: Vec<&str> = table
            .iter()
            .chain(extra.flat_map(|(_, more)| *more))
            .copied()
            .collect();
        for found in crate_paths(&code(&text)) {
            let inside = found == module || found.starts_with(&format!("{module}::"));
            let listed = may
                .iter()
                .any(|may| found == *may || found.starts_with(&format!("{may}::")));
            if !inside && !listed {
                wrong.insert(format!("{path} imports crate::{found}"));
            }
        }
    }
    assert_eq!(wrong, BTreeSet::new());
}

/// What `controller/runtime` may name of the operator: what things are called, and its metrics.
const OF_RUNTIME: &[&str] = &["names", "metrics", "runtime"];

#[test]
fn the_operators_runtime_names_nothing_of_portcullis() {
    let mut wrong = BTreeSet::new();
    let files = sources();
    let runtime = files
        .iter()
        .filter(|(path, _)| path.starts_with("controller/runtime/"));
    for (path, text) in runtime {
        let code = code(&without_tests(text));
        if code.contains("Mcp") {
            wrong.insert(format!("{path} names a kind of Portcullis"));
        }
        for used in crate_paths(&code) {
            let mut parts = used.split("::");
            let allowed = match (parts.next(), parts.next()) {
                (Some("controller"), Some(part)) => OF_RUNTIME.contains(&part),
                (Some("api"), part) => matches!(part, None | Some("raw" | "GROUP")),
                (Some("scripted_api"), _) => true,
                _ => false,
            };
            if !allowed {
                wrong.insert(format!("{path} uses crate::{used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn pure_modules_touch_nothing_outside() {
    let mut wrong = BTreeSet::new();
    for (path, text) in sources() {
        if PURE.contains(&module_of(&path).as_str())
            && !path.ends_with("tests.rs")
            && !path.contains("/tests/")
        {
            let code = code(&text);
            wrong.extend(
                IMPURE
                    .iter()
                    .filter(|word| code.contains(*word))
                    .map(|word| format!("{path} has {word}")),
            );
        }
    }
    assert_eq!(wrong, BTreeSet::new());
}

#[test]
fn the_check_sees_every_way_to_write_a_path() {
    let text = "
        use crate::api::{policy, server};
        pub use crate::{json, status::report::Report, gateway::{http, upstream::{self}}};
        fn f(x: crate::cli::Args) -> crate :: manifest :: Set { $crate::policy::x() }
        // use crate::hidden::comment;
        /* crate::hidden::block */ let s = \"crate::hidden::text\"; let r = r#\"crate::hidden::raw\"#;
        let c = '\"'; let l: &'static str = other_crate::x; crate::telemetry::go();
        #[cfg(test)]
        mod tests {
            use crate::hidden::in_tests;
        }
    ";
    let found: BTreeSet<_> = crate_paths(&code(text)).into_iter().collect();
    let expected = [
        "api::policy",
        "api::server",
        "cli::Args",
        "gateway::http",
        "gateway::upstream::self",
        "json",
        "manifest::Set",
        "policy::x",
        "status::report::Report",
        "telemetry::go",
    ];
    assert_eq!(found, expected.into_iter().map(str::to_owned).collect());
}

/// Every source file of the library but its root and the binaries, by its path under `src`.
pub fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path
                    .strip_prefix(&root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                let text = fs::read_to_string(&path).unwrap();
                match name.as_str() {
                    "lib.rs" => {}
                    // A crate of its own, which the library has as its module `api`.
                    "api/lib.rs" => files.push(("api/mod.rs".to_owned(), text)),
                    _ if name.starts_with("api/") => {
                        files.push((name, text.replace("crate::", "crate::api::")));
                    }
                    _ if name.starts_with("bin/") => {}
                    _ => files.push((name, text)),
                }
            }
        }
    }
    assert!(files.len() > TABLE.len(), "the sources were not found");
    files
}

fn module_of(path: &str) -> String {
    path.split('/')
        .next()
        .unwrap_or_default()
        .trim_end_matches(".rs")
        .to_owned()
}

/// The text without comments, the content of strings, and test modules (tests may build what they
/// need from anywhere).
pub fn code(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let starts = |at: usize, what: &str| {
        what.chars()
            .enumerate()
            .all(|(index, c)| bytes.get(at + index) == Some(&c))
    };
    while at < bytes.len() {
        if starts(at, "//") {
            while at < bytes.len() && bytes[at] != '\n' {
                at += 1;
            }
        } else if starts(at, "/*") {
            let mut depth = 0;
            loop {
                if starts(at, "/*") {
                    depth += 1;
                    at += 2;
                } else if starts(at, "*/") {
                    depth -= 1;
                    at += 2;
                } else {
                    at += 1;
                }
                if depth == 0 || at >= bytes.len() {
                    break;
                }
            }
        } else if let Some(end) = literal(&bytes, at) {
            out.push_str("\"\"");
            at = end;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    without_tests(&out)
}

/// The end of the string or character literal that starts at `at`.
fn literal(text: &[char], at: usize) -> Option<usize> {
    let before = at.checked_sub(1).map(|index| text[index]);
    let in_word = before.is_some_and(|c| c != 'b' && (c.is_alphanumeric() || c == '_'));
    if text[at] == 'r' && !in_word {
        let hashes = text[at + 1..].iter().take_while(|c| **c == '#').count();
        if text.get(at + 1 + hashes) == Some(&'"') {
            let mut end = at + 2 + hashes;
            while end < text.len() {
                if text[end] == '"'
                    && text[end + 1..]
                        .iter()
                        .take(hashes)
                        .filter(|c| **c == '#')
                        .count()
                        == hashes
                {
                    return Some(end + 1 + hashes);
                }
                end += 1;
            }
            return Some(end);
        }
    }
    let quote = text[at];
    if quote == '\'' {
        // A lifetime has no closing quote right after its first character.
        let escaped = text.get(at + 1) == Some(&'\\');
        if !escaped && text.get(at + 2) != Some(&'\'') {
            return None;
        }
    } else if quote != '"' {
        return None;
    }
    let mut end = at + 1;
    while end < text.len() && text[end] != quote {
        end += if text[end] == '\\' { 2 } else { 1 };
    }
    Some(end + 1)
}

/// The text without items under `#[cfg(test)]`.
fn without_tests(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("#[cfg(test)]") {
        out.push_str(before);
        let mut depth = 0;
        let mut end = after.len();
        for (at, character) in after.char_indices() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                ';' if depth == 0 => {}
                _ => continue,
            }
            if depth == 0 {
                end = at + 1;
                break;
            }
        }
        rest = &after[end..];
    }
    out.push_str(rest);
    out
}

/// The paths after `crate::`, those in braces each for itself.
fn crate_paths(code: &str) -> Vec<String> {
    let squeezed: String = code
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace(" :: ", "::");
    let mut paths = Vec::new();
    for (at, _) in squeezed.match_indices("crate::") {
        let before = squeezed[..at].chars().next_back();
        if !before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            tree(&squeezed[at + "crate::".len()..], "", &mut paths);
        }
    }
    paths
}

/// Reads one tree of a path (`a::{b, c::d}`), and gives what comes after it.
pub fn tree<'t>(text: &'t str, prefix: &str, paths: &mut Vec<String>) -> &'t str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start();
            if let Some(rest) = rest.strip_prefix('}') {
                return rest;
            }
            let after = tree(rest, prefix, paths).trim_start();
            rest = after.strip_prefix(',').unwrap_or(after);
            if rest.is_empty() || (rest == after && !rest.starts_with('}')) {
                // An alias (`as x`) or nothing that we know: go on at the next entry.
                rest = &rest[rest.find([',', '}']).unwrap_or(rest.len())..];
                rest = rest.strip_prefix(',').unwrap_or(rest);
                if rest.is_empty() {
                    return rest;
                }
            }
        }
    }
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*')
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let path = if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}::{name}")
    };
    match rest.strip_prefix("::") {
        // A turbofish is not part of the path.
        Some(below) if !below.starts_with('<') => tree(below, &path, paths),
        _ => {
            paths.push(path);
            rest
        }
    }
}
