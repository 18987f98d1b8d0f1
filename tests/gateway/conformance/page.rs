//! docs/conformance.md, as the run of the suite makes it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::{Installed, Outcome, ROUTES, Route, SPOKEN, Scenarios, count, excused};

type Runs = BTreeMap<(&'static str, Route), Scenarios>;

const PAGE: &str = "docs/conformance.md";
const HEAD: &str = include_str!("page.txt");

/// Fails where the page does not say what was found; `UPDATE=1` writes it.
pub fn is_as_the_run(installed: &Installed, runs: &Runs) {
    let expected = page(installed, runs);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{PAGE} is out of date: run `UPDATE=1 make test-gateway T=conformance` and commit it. The run found:\n{expected}"
    );
}

fn page(installed: &Installed, runs: &Runs) -> String {
    let manifest = std::fs::read_to_string(installed.suite().join("package.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let module = include_str!("../../setup/reference-server/go.mod");
    let server = module.lines().find_map(|line| {
        let line = line
            .trim()
            .strip_prefix("github.com/modelcontextprotocol/go-sdk v")?;
        line.split(' ').next()
    });
    let mut page = HEAD
        .replace("{SUITE}", manifest["version"].as_str().unwrap())
        .replace("{SERVER}", server.unwrap());
    let scored = installed.scored();
    for spoken in &SPOKEN {
        let of = |route: Route| &runs[&(spoken.version, route)];
        let _ = writeln!(page, "\n## {}\n", spoken.version);
        page.push_str("| scenario | direct | HTTP | stdio, `PerSession` | stdio, `Shared` |\n|---|---|---|---|---|\n");
        let mut sums = [[0; 2]; 4];
        let mut notes = Vec::new();
        for name in of(Route::Direct)
            .keys()
            .filter(|name| scored.contains(*name))
        {
            let _ = write!(page, "| {name} |");
            for (at, route) in ROUTES.into_iter().enumerate() {
                let none = Default::default();
                let checks = of(route).get(name).unwrap_or(&none);
                let passed = count(checks, Outcome::Passed);
                let all = passed + count(checks, Outcome::Failed);
                let mark = excused(spoken.version, route, name).map_or(String::new(), |why| {
                    let at = notes.iter().position(|note| *note == why);
                    let at = at.unwrap_or_else(|| {
                        notes.push(why);
                        notes.len() - 1
                    });
                    format!(" ({})", at + 1)
                });
                sums[at] = [sums[at][0] + passed, sums[at][1] + all];
                let _ = write!(page, " {passed} of {all}{mark} |");
            }
            page.push('\n');
        }
        page.push_str("| **all** |");
        for [passed, all] in sums {
            let _ = write!(page, " **{passed} of {all}** |");
        }
        page.push('\n');
        for (at, note) in notes.iter().enumerate() {
            let _ = write!(page, "\n{}. {note}", at + 1);
        }
        if !notes.is_empty() {
            page.push('\n');
        }
    }
    page
}
