//! What `import` prints is what `validate` and an API server accept.

use std::path::Path;
use std::process::Command;

use crate::docs::pages;

const POLICYLAYER: &str = r#"{"version":"1","default":"deny","hide":["delete_*"],
  "tools":{"get_run_metric":{},"Set_Run_Tag":{"limits":[{"counter":"a_b","window":"minute","max":3,"scope":"grant"}]},
           "set_run_tag":{"limits":[{"counter":"a-b","window":"hour","max":30,"scope":"grant"}]}}}"#;

const INTERCEPT: &str = "
version: '1'
default: deny
tools:
  set_run_tag:
    rules:
      - { name: burst of tags, rate_limit: 5/minute }
      - { name: 'only owner!', conditions: [{ path: args.key, op: eq, value: owner }], on_deny: only owner }
  delete_run:
    rules: [{ name: no, action: deny, on_deny: never }]
";

#[test]
fn imported_policies_are_valid_and_no_two_counters_become_one() {
    for (name, text, counters) in [
        ("policy.json", POLICYLAYER, vec!["a-b", "a-b-2"]),
        ("policy.yaml", INTERCEPT, vec!["set-run-tag-1m"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join(name);
        std::fs::write(&source, text).unwrap();
        let program = env!("CARGO_BIN_EXE_portcullis");
        let imported = Command::new(program)
            .arg("import")
            .arg(&source)
            .output()
            .unwrap();
        assert!(
            imported.status.success(),
            "{}",
            String::from_utf8_lossy(&imported.stderr)
        );
        let yaml = String::from_utf8(imported.stdout).unwrap();
        let target = folder.path().join("imported.yaml");
        std::fs::write(&target, &yaml).unwrap();
        let checked = Command::new(program)
            .args(["validate", "-o", "json"])
            .arg(&target)
            .output()
            .unwrap();
        assert!(
            checked.status.success(),
            "{}\n{yaml}",
            String::from_utf8_lossy(&checked.stdout)
        );
        let mut found: Vec<&str> = yaml
            .lines()
            .filter_map(|line| {
                line.trim_start_matches(['-', ' '])
                    .strip_prefix("counter: ")
            })
            .collect();
        found.sort_unstable();
        assert_eq!(found, counters, "{yaml}");
    }
}

#[test]
fn an_imported_policy_reaches_the_server_that_was_named_with_its_namespace() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("policy.txt");
    std::fs::write(&source, POLICYLAYER).unwrap();
    let import = |server: &str| {
        Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["import", "--server", server])
            .arg(&source)
            .output()
            .unwrap()
    };
    let imported = import("ml/mlflow");
    assert!(imported.status.success());
    std::fs::write(folder.path().join("imported.yaml"), &imported.stdout).unwrap();
    let quickstart = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/examples/quickstart/server.yaml"
    );
    // The document is for tools that no catalogue knows.
    let server = std::fs::read_to_string(quickstart).unwrap();
    let server = server.replacen("spec:\n", "spec:\n  catalog: None\n", 1);
    std::fs::write(folder.path().join("server.yaml"), server).unwrap();
    let checked = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["validate", "--strict"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert_eq!(
        (
            checked.status.code(),
            String::from_utf8_lossy(&checked.stderr).as_ref()
        ),
        (Some(0), "")
    );
    let said = |server: &str| String::from_utf8(import(server).stderr).unwrap();
    assert!(said("mlflow").contains("--server NAMESPACE/mlflow"));
    assert!(!said("ml/mlflow").contains("--server"));
    for wrong in ["/mlflow", "ml/"] {
        assert!(said(wrong).contains("write NAME or NAMESPACE/NAME"));
    }
}

fn import(arguments: &[&str], text: &str) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("policy.yaml");
    std::fs::write(&source, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["import", "--server", "ml/mlflow"])
        .args(arguments)
        .arg(&source)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let said = text(output.stderr).replace(&source.display().to_string(), "policy.yaml");
    (output.status.code(), text(output.stdout), said)
}

const CLOSED: &str = "
version: '1'
default: allow
tools:
  charge:
    rules:
      - { name: limit, rate_limit: 5/hour }
      - { name: odd, conditions: { path: args.x } }
  refund:
    rules:
      - { name: limit, rate_limit: 5/hour }
";

#[test]
fn strict_ends_with_1_if_anything_was_closed_and_prints_the_policy_all_the_same() {
    let (code, policy, said) = import(&[], CLOSED);
    assert_eq!(code, Some(0), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines[0].starts_with(
            "policy.yaml:8:34: closed: tools.charge.rules[1]: conditions must be a list, and this is a mapping; the tool \
             charge is denied"
        ),
        "{said}"
    );
    assert_eq!(said.matches("whole proxy").count(), 1, "{said}");
    assert!(
        said.contains("policy.yaml:7:36: note: tools.charge.rules[0].rate_limit: ")
            && said.contains("(also at 11:36)"),
        "{said}"
    );
    assert!(lines[lines.len() - 2].contains("1 place(s)"), "{said}");
    assert!(lines.last().unwrap().starts_with("next: "), "{said}");
    let (code, strict, said) = import(&["--strict"], CLOSED);
    assert_eq!((code, &strict), (Some(1), &policy), "{said}");
    assert!(
        said.contains("--strict: 1 place(s) of policy.yaml"),
        "{said}"
    );
    let clean = CLOSED.replace(
        "{ path: args.x }",
        "[{ path: args.x, op: exists, value: true }]",
    );
    let (code, _, said) = import(&["--strict"], &clean);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_file_that_is_too_long_is_refused_and_not_cut() {
    let long = format!("{CLOSED}#{}\n", "x".repeat(4 << 20));
    let (code, policy, said) = import(&[], &format!("{long}hide: ['*']\n"));
    assert_eq!((code, policy.as_str()), (Some(1), ""));
    assert!(said.contains("longer than 4194304 bytes"), "{said}");
    let (code, _, said) = import(&[], "version: '1'\ndefault: allow\ntools: {a: {}, b: [1, }");
    assert_eq!(code, Some(1));
    assert!(said.contains("policy.yaml:3:"), "{said}");
}

#[test]
fn a_file_beyond_the_bounds_of_a_policy_becomes_several_that_validate_takes() {
    let mut text = "version: '1'\ndefault: allow\ntools:\n  charge:\n    deny_if:\n".to_owned();
    for i in 0..100 {
        text.push_str(&format!(
            "    - {{ path: args.x, op: regex, value: '^v{i}$' }}\n"
        ));
    }
    for output in ["yaml", "json"] {
        let (code, policies, said) = import(&["-o", output], &text);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("so there are 2"), "{said}");
        assert_eq!(
            policies.matches("mlflow-imported-2").count(),
            1,
            "{policies}"
        );
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join(format!("imported.{output}"));
        std::fs::write(&target, &policies).unwrap();
        let checked = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["validate"])
            .arg(&target)
            .output()
            .unwrap();
        assert!(
            checked.status.success(),
            "{}",
            String::from_utf8_lossy(&checked.stderr)
        );
    }
}

/// The rows of a page's tables, without their heads.
fn rows(page: &str) -> Vec<(String, String)> {
    let page = pages::page(page);
    let cells = page.text.lines().filter_map(|line| {
        let (left, right) = line
            .strip_prefix("| ")?
            .strip_suffix(" |")?
            .split_once(" | ")?;
        Some((left.to_owned(), right.to_owned()))
    });
    cells.filter(|(left, _)| left.contains('`')).collect()
}

/// What stands in backticks.
fn code(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The policy of another product that the left cell is a part of: of Intercept, or as JSON of
/// PolicyLayer.
fn policy_of(part: &str) -> String {
    let part = part.replace("NAME", "set_run_tag");
    let is_json = part.starts_with('"') || part.starts_with("{\"");
    match (is_json, part.strip_prefix('{')) {
        (true, Some(_)) => {
            format!(r#"{{"version": "1", "default": "deny", "tools": {{"set_run_tag": {part}}}}}"#)
        }
        (true, None) if part.starts_with("\"default\"") => format!(r#"{{"version": "1", {part}}}"#),
        (true, None) => format!(r#"{{"version": "1", "default": "deny", {part}}}"#),
        (false, Some(rule)) => format!(
            "version: '1'\ndefault: deny\ntools: {{ set_run_tag: {{ rules: [{{ name: r, {rule}] }} }}\n"
        ),
        (false, None) => {
            let usual = ["version: '1'", "default: deny"]
                .into_iter()
                .filter(|line| {
                    let (key, _) = line.split_once(':').unwrap();
                    !part.starts_with(key)
                });
            usual
                .chain([part.as_str()])
                .map(|line| format!("{line}\n"))
                .collect()
        }
    }
}

fn portcullis(folder: &Path, arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.success(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn each_row_of_the_page_about_moving_is_what_import_makes_of_it() {
    let rows = rows("docs/howto/migrate.md");
    assert!(rows.len() > 12, "{rows:?}");
    for (left, right) in &rows {
        let [part] = code(left)[..] else {
            panic!("{left} is not one part of a policy");
        };
        let folder = tempfile::tempdir().unwrap();
        let policy = policy_of(part);
        std::fs::write(folder.path().join("source"), &policy).unwrap();
        let import = ["import", "source", "--server", "ml/mlflow", "--strict"];
        let (imported, yaml, said) = portcullis(folder.path(), &import);
        assert!(imported, "{left}\n{policy}\n{said}");
        std::fs::write(folder.path().join("imported.yaml"), &yaml).unwrap();
        let (valid, report, said) = portcullis(folder.path(), &["validate", "imported.yaml"]);
        assert!(valid, "{left}\n{yaml}\n{report}{said}");
        for words in code(right) {
            let found = match words.contains(": ") {
                true => yaml
                    .lines()
                    .any(|line| line.trim_start_matches([' ', '-']) == words),
                // The path of a field.
                false => words.split('.').all(|field| {
                    yaml.contains(&format!("{field}: ")) || yaml.contains(&format!("{field}:\n"))
                }),
            };
            assert!(found, "{left} | {right}: there is no `{words}` in\n{yaml}");
        }
    }
}
