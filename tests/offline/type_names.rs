//! One name, one meaning: no two types of the gateway share a name.

use std::collections::BTreeMap;

use super::layering::{code, sources};

/// Names that two files give to the same thing, for two kinds of server.
const SAME_MEANING: &[&str] = &["Unsent"];

#[test]
fn no_type_name_of_the_gateway_has_two_meanings() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, text) in sources() {
        if !path.starts_with("gateway/") || path.ends_with("tests.rs") {
            continue;
        }
        for name in defined(&code(&text)) {
            places.entry(name).or_default().push(path.clone());
        }
    }
    let twice: Vec<_> = places
        .into_iter()
        .filter(|(name, files)| files.len() > 1 && !SAME_MEANING.contains(&name.as_str()))
        .collect();
    assert!(
        twice.is_empty(),
        "types with one name and two meanings; say what each is the kind, key or state of: {twice:#?}"
    );
}

#[test]
fn the_check_sees_types_and_neither_fields_nor_associated_types() {
    let text = "
pub struct A<T> { kind: T }
pub(super) enum B { Struct }
type C = u8;
impl Iterator for A<u8> {
    type Item = u8;
}
";
    assert_eq!(defined(text), ["A", "B", "C"]);
}

/// The types that are defined at the top of a file.
fn defined(code: &str) -> Vec<String> {
    code.lines()
        .filter_map(|line| {
            let line = match line.strip_prefix("pub") {
                Some(rest) => rest.split_once(' ')?.1,
                None => line,
            };
            let rest = ["struct ", "enum ", "trait ", "type "]
                .iter()
                .find_map(|word| line.strip_prefix(word))?;
            let name: String = rest
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            Some(name)
        })
        .collect()
}
