//! No circles of files: which files name one another, read from the `use` lines and inline paths of
//! the sources.
//!
//! A parent and its own private children may name one another: together they are one thing, which
//! was cut into files. Every other circle means that its files can only be understood, moved and
//! tested together.

use std::collections::{BTreeMap, BTreeSet};

use super::layering::{code, sources, tree};

#[test]
fn no_files_name_one_another_in_a_circle() {
    let files = sources();
    let found = Graph::of(&files).circles();
    assert!(
        found.is_empty(),
        "files that name one another in a circle; move what they share into a file of its own:\n{}",
        found.iter().map(ToString::to_string).collect::<String>()
    );
}

#[test]
fn the_check_sees_circles_however_the_paths_are_written() {
    // A parent and its private child, also where the child uses what the parent only imports.
    assert_eq!(
        circles(&[
            ("a.rs", "mod child; use self::child::C; pub struct P;"),
            ("a/child.rs", "use super::P; pub struct C;"),
        ]),
        Vec::<Vec<String>>::new()
    );
    // A child that others may name is no detail of its parent.
    assert_eq!(
        circles(&[
            ("a.rs", "pub mod child; use self::child::C; pub struct P;"),
            ("a/child.rs", "pub struct C(super::P);"),
        ]),
        [["a.rs", "a/child.rs"]]
    );
    // Siblings, by an inline path, by a module that was imported, and through what a map hands on.
    assert_eq!(
        circles(&[
            (
                "a/mod.rs",
                "mod b; mod c; mod d; pub use b::B; pub use self::d::*;"
            ),
            ("a/b.rs", "pub struct B; fn f() { super::c::go() }"),
            ("a/c.rs", "use super::D; pub fn go() -> D {}"),
            (
                "a/d.rs",
                "use crate::a; pub struct D; fn f(x: a::B) {} mod inner { use super::D; }"
            ),
        ]),
        [["a/b.rs", "a/c.rs", "a/d.rs"]]
    );
    // To outsiders a private child is its parent.
    assert_eq!(
        circles(&[
            ("a.rs", "mod child; pub use child::C; use crate::b::B;"),
            ("a/child.rs", "pub struct C;"),
            ("b.rs", "use crate::a::C; pub struct B;"),
        ]),
        [["a.rs", "b.rs"]]
    );
    // Naming a module is no use of what it holds, and tests may name anything.
    assert_eq!(
        circles(&[
            ("a.rs", "use crate::b; pub struct A; fn f(b: b::B) {}"),
            (
                "b.rs",
                "use crate::a; pub struct B; #[cfg(test)] mod tests { use crate::a::A; }"
            ),
        ]),
        Vec::<Vec<String>>::new()
    );
}

fn circles(files: &[(&str, &str)]) -> Vec<Vec<String>> {
    let mut files: Vec<_> = files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
        .collect();
    let roots: BTreeSet<_> = files
        .iter()
        .filter_map(|(path, _)| path.split(['/', '.']).next())
        .map(|root| format!("pub mod {root};"))
        .collect();
    files.push(("lib.rs".to_owned(), roots.into_iter().collect()));
    Graph::of(&files)
        .circles()
        .into_iter()
        .map(|group| group.files)
        .collect()
}

/// Files that can all be reached from one another.
struct Circle {
    files: Vec<String>,
    /// What is named, by whom: `a.rs -> b.rs (b::B)`.
    names: Vec<String>,
}

impl std::fmt::Display for Circle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:?}", self.files)?;
        self.names
            .iter()
            .try_for_each(|name| writeln!(f, "    {name}"))
    }
}

/// A file of the library as a module.
#[derive(Default)]
struct Module {
    file: String,
    /// Those declared as `mod x;`: true if without `pub`.
    children: BTreeMap<String, bool>,
    /// What it defines itself.
    items: BTreeSet<String>,
    /// The names that its `use` lines bring in, and the full paths that they mean.
    names: BTreeMap<String, Vec<String>>,
    /// The modules or types of `use x::*`.
    globs: Vec<Vec<String>>,
    /// All paths, with the first names still as they are written.
    paths: BTreeSet<Vec<String>>,
}

struct Graph {
    modules: BTreeMap<Vec<String>, Module>,
}

impl Graph {
    fn of(files: &[(String, String)]) -> Graph {
        let mut modules = BTreeMap::new();
        for (file, text) in files {
            if file.ends_with("tests.rs") || file.contains("/tests/") {
                continue;
            }
            let stem = file.trim_end_matches(".rs").trim_end_matches("/mod");
            let path: Vec<String> = match stem {
                "lib" => Vec::new(),
                stem => stem.split('/').map(str::to_owned).collect(),
            };
            let mut module = Module {
                file: file.clone(),
                ..Module::default()
            };
            module.read(&path, &code(text));
            modules.insert(path, module);
        }
        Graph { modules }
    }

    /// Where a full path leads: the module of the item that it names. None for modules as such, and
    /// for what is elsewhere.
    fn resolve(&self, path: &[String], depth: usize) -> Option<Vec<String>> {
        if depth > 16 {
            return None;
        }
        let length = (0..=path.len())
            .rev()
            .find(|length| self.modules.contains_key(&path[..*length]))?;
        let (module_path, rest) = path.split_at(length);
        let module = &self.modules[module_path];
        let name = rest.first()?;
        if module.items.contains(name) || name == "*" {
            return Some(module_path.to_vec());
        }
        if let Some(target) = module.names.get(name) {
            let target: Vec<_> = target.iter().chain(&rest[1..]).cloned().collect();
            return self.resolve(&target, depth + 1);
        }
        module.globs.iter().find_map(|glob| {
            let target: Vec<_> = glob.iter().chain(rest).cloned().collect();
            self.modules
                .contains_key(glob)
                .then(|| self.resolve(&target, depth + 1))
                .flatten()
        })
    }

    /// The module that `user` sees at `path`: a private child is seen as its parent by those
    /// outside of the parent.
    fn seen(&self, user: &[String], path: &[String]) -> Vec<String> {
        for length in 1..=path.len() {
            let parent = &path[..length - 1];
            let private = self
                .modules
                .get(parent)
                .and_then(|parent| parent.children.get(&path[length - 1]))
                .is_some_and(|private| *private);
            if private && !user.starts_with(parent) {
                return parent.to_vec();
            }
        }
        path.to_vec()
    }

    /// True if `path` is below `parent` and every module between them is private.
    fn is_private_child(&self, path: &[String], parent: &[String]) -> bool {
        path.len() > parent.len()
            && path.starts_with(parent)
            && (parent.len()..path.len()).all(|length| {
                self.modules
                    .get(&path[..length])
                    .and_then(|above| above.children.get(&path[length]))
                    .is_some_and(|private| *private)
            })
    }

    /// Who names whom, and what.
    fn edges(&self) -> BTreeMap<(&[String], &[String]), String> {
        let mut edges = BTreeMap::new();
        for (path, module) in &self.modules {
            for written in &module.paths {
                let full = module.full(path, written);
                let Some(target) = full.and_then(|full| self.resolve(&full, 0)) else {
                    continue;
                };
                let target = self.seen(path, &target);
                if target == *path || self.is_private_child(path, &target) {
                    continue;
                }
                if let Some((target, _)) = self.modules.get_key_value(&target) {
                    edges
                        .entry((path.as_slice(), target.as_slice()))
                        .or_insert_with(|| written.join("::"));
                }
            }
        }
        edges
    }

    fn circles(&self) -> Vec<Circle> {
        let edges = self.edges();
        let mut reach: BTreeMap<&[String], BTreeSet<&[String]>> = BTreeMap::new();
        for start in self.modules.keys() {
            let mut seen = BTreeSet::new();
            let mut next = vec![start.as_slice()];
            while let Some(at) = next.pop() {
                for ((_, to), _) in edges
                    .range((at, [].as_slice())..)
                    .take_while(|((from, _), _)| *from == at)
                {
                    if seen.insert(*to) {
                        next.push(to);
                    }
                }
            }
            reach.insert(start, seen);
        }
        let mut circles = Vec::new();
        let mut done = BTreeSet::new();
        for start in self.modules.keys() {
            if done.contains(start.as_slice())
                || !reach[start.as_slice()].contains(start.as_slice())
            {
                continue;
            }
            let group: BTreeSet<&[String]> = reach[start.as_slice()]
                .iter()
                .filter(|other| reach[**other].contains(start.as_slice()))
                .copied()
                .collect();
            let file = |path: &[String]| self.modules[path].file.clone();
            let names = edges
                .iter()
                .filter(|((from, to), _)| group.contains(from) && group.contains(to))
                .map(|((from, to), name)| format!("{} -> {} ({name})", file(from), file(to)))
                .collect();
            let mut files: Vec<_> = group.iter().map(|path| file(path)).collect();
            files.sort();
            done.extend(group);
            circles.push(Circle { files, names });
        }
        circles
    }
}

impl Module {
    fn read(&mut self, path: &[String], code: &str) {
        let code = without_inline_modules(code);
        let words: Vec<&str> = code
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .filter(|word| !word.is_empty())
            .collect();
        for pair in words.windows(2) {
            if matches!(
                pair[0],
                "fn" | "struct"
                    | "enum"
                    | "trait"
                    | "type"
                    | "const"
                    | "static"
                    | "union"
                    | "macro_rules"
            ) {
                self.items.insert(pair[1].to_owned());
            }
        }
        let squeezed = code.split_whitespace().collect::<Vec<_>>().join(" ");
        for (at, _) in squeezed.match_indices("mod ") {
            let before = &squeezed[..at];
            let rest = &squeezed[at + "mod ".len()..];
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            if rest[end..].starts_with(';')
                && !before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
            {
                let before = before.trim_end();
                let public = before.ends_with("pub") || before.ends_with(')');
                self.children.insert(rest[..end].to_owned(), !public);
            }
        }
        // The `use` lines first: later paths may start with what they bring in.
        let mut others = String::new();
        let mut rest = squeezed.as_str();
        while let Some(at) = rest
            .match_indices("use ")
            .map(|(at, _)| at)
            .find(|at| !rest[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        {
            others.push_str(&rest[..at]);
            let line = &rest[at + "use ".len()..];
            let end = line.find(';').unwrap_or(line.len());
            self.read_use(path, &line[..end]);
            rest = &line[end..];
        }
        others.push_str(rest);
        let mut at = 0;
        while let Some(found) = others[at..].find("::") {
            let colons = at + found;
            let start = others[..colons]
                .rfind(|c: char| !c.is_alphanumeric() && c != '_')
                .map_or(0, |before| before + 1);
            let mut found = Vec::new();
            let after = tree(&others[start..], "", &mut found);
            at = (others.len() - after.len()).max(colons + 2);
            for written in found {
                self.paths
                    .insert(written.split("::").map(str::to_owned).collect());
            }
        }
    }

    /// Reads what stands between `use` and the semicolon.
    fn read_use(&mut self, path: &[String], line: &str) {
        let mut found = Vec::new();
        entries(line.trim().trim_start_matches("::"), "", &mut found);
        for (written, alias) in found {
            let mut written: Vec<String> = written.split("::").map(str::to_owned).collect();
            if written.last().is_some_and(|last| last == "self") && written.len() > 1 {
                written.pop();
            }
            let Some(full) = self.full(path, &written) else {
                continue;
            };
            if let Some((last, module)) = full.split_last()
                && last == "*"
            {
                self.globs.push(module.to_vec());
            } else if let Some(last) = full.last() {
                let name = alias.unwrap_or_else(|| last.clone());
                self.names.insert(name, full.clone());
            }
            self.paths.insert(written);
        }
    }

    /// The path from the root of the library; None if it starts with what we do not know, as a
    /// crate or a type.
    fn full(&self, own: &[String], written: &[String]) -> Option<Vec<String>> {
        let first = written.first()?;
        let mut rest = &written[1..];
        let mut full = match first.as_str() {
            "crate" => Vec::new(),
            "self" => own.to_vec(),
            "super" => {
                let mut above = own.to_vec();
                above.pop();
                while let Some((word, below)) = rest.split_first()
                    && word == "super"
                {
                    above.pop();
                    rest = below;
                }
                above
            }
            name if self.children.contains_key(name) => {
                let mut child = own.to_vec();
                child.push(name.to_owned());
                child
            }
            name => self.names.get(name)?.clone(),
        };
        full.extend(rest.iter().cloned());
        Some(full)
    }
}

/// The entries of a `use` tree, each with its alias.
fn entries(text: &str, prefix: &str, found: &mut Vec<(String, Option<String>)>) {
    let text = text.trim();
    if let Some((before, inside)) = text.split_once('{') {
        let inside = inside.trim_end().trim_end_matches('}');
        let prefix = format!("{prefix}{}", before.replace(' ', ""));
        let mut depth = 0;
        let mut start = 0;
        for (at, c) in inside.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    entries(&inside[start..at], &prefix, found);
                    start = at + 1;
                }
                _ => {}
            }
        }
        entries(&inside[start..], &prefix, found);
    } else if !text.is_empty() {
        let (path, alias) = match text.split_once(" as ") {
            Some((path, alias)) => (path, Some(alias.trim().to_owned())),
            None => (text, None),
        };
        found.push((format!("{prefix}{}", path.replace(' ', "")), alias));
    }
}

/// The code without `mod x { ... }`: what such a module names by `super` is in this file.
fn without_inline_modules(code: &str) -> String {
    let mut out = String::new();
    let mut rest = code;
    while let Some(at) = rest.match_indices("mod ").map(|(at, _)| at).find(|at| {
        let name =
            rest[at + "mod ".len()..].trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
        !rest[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
            && name.trim_start().starts_with('{')
    }) {
        out.push_str(&rest[..at]);
        let mut depth = 0;
        let mut end = rest.len();
        for (offset, c) in rest[at..].char_indices() {
            match c {
                '{' => depth += 1,
                '}' => {
                    depth -= 1;
                    if depth == 0 {
                        end = at + offset + 1;
                        break;
                    }
                }
                _ => {}
            }
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}
