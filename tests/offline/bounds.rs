//! docs/bounds.md: every collection of the gateway that grows from outside has a row that says what
//! bounds it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Types that hold as much as is put into them.
const COLLECTIONS: &[&str] = &[
    "HashMap<",
    "HashSet<",
    "BTreeMap<",
    "BTreeSet<",
    "VecDeque<",
    "Sender<",
    "Receiver<",
];

/// Lists that are filled by what callers or servers do, beside those that are made whole from a
/// spec or a message.
const LISTS: &[(&str, &str)] = &[
    ("approvals/cluster.rs", "creating"),
    ("approvals/steps.rs", "sessions"),
    ("observe/audit/sink.rs", "pending"),
    ("observe/audit/writer.rs", "buffer"),
    ("bridge/per_session.rs", "calls"),
    ("bridge/session.rs", "streams"),
    ("upstream/pool.rs", "connections"),
];

/// Channels that hold one value, whatever is sent.
const ONE_VALUE: &str = "watch::";

fn files(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push(path);
        }
    }
}

/// `(file, field)` of every field of a type in the text that is a collection.
fn fields(text: &str) -> Vec<String> {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        let declares = ["struct ", "enum "].iter().any(|word| {
            line.trim_start_matches("pub ")
                .trim_start_matches("pub(super) ")
                .starts_with(word)
        });
        if declares {
            inside = line.ends_with('{');
            continue;
        }
        if line.starts_with('}') {
            inside = false;
        }
        let Some((name, kind)) = line.split_once(": ").filter(|_| inside) else {
            continue;
        };
        let name = name.rsplit(' ').next().unwrap_or_default();
        let collection = COLLECTIONS
            .iter()
            .any(|collection| kind.contains(collection));
        if collection && !kind.contains(ONE_VALUE) && !line.trim_start().starts_with("//") {
            found.push(name.to_owned());
        }
    }
    found
}

#[test]
fn every_collection_that_grows_from_outside_has_a_bound_in_the_docs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    files(&root.join("src/gateway"), &mut sources);
    let mut expected: BTreeSet<(String, String)> = LISTS
        .iter()
        .map(|(file, field)| ((*file).to_owned(), (*field).to_owned()))
        .collect();
    for path in sources {
        let file = path.strip_prefix(root.join("src/gateway")).unwrap();
        let file = file.to_str().unwrap().to_owned();
        for field in fields(&fs::read_to_string(&path).unwrap()) {
            expected.insert((file.clone(), field));
        }
    }
    let page = fs::read_to_string(root.join("docs/bounds.md")).unwrap();
    let rows: BTreeSet<(String, String)> = page
        .lines()
        .filter_map(|line| {
            let (file, rest) = line.strip_prefix("| `")?.split_once("` `")?;
            let (field, rest) = rest.split_once("` |")?;
            let cells: Vec<&str> = rest.split('|').map(str::trim).collect();
            assert!(
                cells.len() >= 3 && cells[..3].iter().all(|cell| !cell.is_empty()),
                "{line}"
            );
            Some((file.to_owned(), field.to_owned()))
        })
        .collect();
    assert_eq!(
        rows, expected,
        "docs/bounds.md, \"Every collection\", differs from src/gateway"
    );
}

#[test]
fn the_check_sees_fields_and_nothing_else() {
    let text = "
pub struct A {
    /// Doc: HashMap<of, words>
    pub(super) one: Mutex<HashMap<String, u8>>,
    two: u8,
    three: watch::Sender<u8>,
    pub four: mpsc::UnboundedSender<u8>,
}
struct B(HashMap<u8, u8>);
fn f(x: HashMap<u8, u8>) {
    let y: HashMap<u8, u8> = x;
}
#[cfg(test)]
struct C {
    five: HashMap<u8, u8>,
}
";
    assert_eq!(fields(text), ["one", "four"]);
}
