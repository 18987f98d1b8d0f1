//! `portcullis explain --decision`: the id that an agent quotes leads to the line, the rules and
//! the decision.

use super::*;

const GOOD: &str =
    "    - { name: good, tools: { names: [echo] }, when: args.text == 'good', action: Allow }\n";
const ANY: &str = "    - { name: good, tools: { names: [echo] }, action: Allow }\n";

/// Runs `explain` with the log on standard input too; code, standard output, standard error.
fn explain(serve: &Serve, arguments: &[&str]) -> (i32, String, String) {
    let log = std::fs::File::open(serve.folder.path().join("audit.jsonl")).unwrap();
    let output = portcullis()
        .arg("explain")
        .args(arguments)
        .current_dir(serve.folder.path())
        .stdin(log)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap_or(-1),
        text(output.stdout),
        text(output.stderr),
    )
}

/// The id that the agent reads, once the line is in the log.
fn quoted(serve: &Serve, result: &Value) -> String {
    let text = result["content"][0]["text"].as_str().unwrap();
    let (_, id) = text.split_once("quote decision ").unwrap();
    let id = id.trim_end_matches('.').to_owned();
    let deadline = Instant::now() + PATIENCE;
    let log = serve.folder.path().join("audit.jsonl");
    while !std::fs::read_to_string(&log)
        .unwrap()
        .contains(&format!("\"{id}\""))
    {
        assert!(Instant::now() < deadline, "{id} is not in the log");
        std::thread::yield_now();
    }
    id
}

#[test]
fn a_refusal_is_explained_by_the_id_that_the_agent_quotes() {
    let serve = Serve::start(GOOD);
    let session = serve.session();
    let id = quoted(&serve, &serve.echo(&session, "hello"));

    let (code, said, err) = explain(&serve, &["--decision", &id, "--audit", "audit.jsonl"]);
    assert_eq!((code, err.as_str()), (0, ""), "{said}");
    for words in [
        format!("Decision {id}\n"),
        "audit.jsonl:".to_owned(),
        "  denied\n  tools/call echo by anonymous at ml/scripted\n".to_owned(),
        "decided by policy rules, rule (default)\n".to_owned(),
        "  reason: ".to_owned(),
        "would let it pass if their condition held: rules/good\n".to_owned(),
        "arguments: text (only their names are in the log)\n".to_owned(),
        format!("session: "),
        "note: name the files of the server and its policies with -f".to_owned(),
    ] {
        assert!(said.contains(&words), "{words}\n{said}");
    }
    // The beginning of the id, as an agent quotes it in a sentence, and the log by a pipe.
    let begin = &id[..10];
    let (code, piped, _) = explain(
        &serve,
        &["--decision", begin, "--audit", "-", "-f", "files"],
    );
    assert_eq!(code, 0, "{piped}");
    for words in [
        "standard input:",
        "The files have the revision of the line: these rules decided.\n",
        "policy rules, rule good, in files/policy.yaml:7\n    name: good\n",
        "when: args.text == 'good'",
        "note: not decided again: the rules read `text`, and the log has only the names of the arguments (`spec.audit.arguments: \
         Keys`). Set `spec.audit.arguments: Full`",
    ] {
        assert!(piped.contains(words), "{words}\n{piped}");
    }

    // With the value that the log does not have, and with another.
    for (value, verdict, as_logged) in [("hello", "Deny", true), ("good", "Allow", false)] {
        let given = json!({"text": value}).to_string();
        let arguments = [
            "--decision",
            &id,
            "--audit",
            "audit.jsonl",
            "-f",
            "files",
            "--args",
            &given,
            "-o",
            "json",
        ];
        let (code, data, err) = explain(&serve, &arguments);
        assert_eq!(code, 0, "{err}");
        let data: Value = serde_json::from_str(&data).unwrap();
        assert_eq!(data["decidedAgain"]["decision"], verdict, "{data}");
        assert_eq!(data["decidedAgain"]["asLogged"], as_logged, "{data}");
        assert_eq!(data["rules"]["same"], true, "{data}");
        assert_eq!(data["lines"][0]["record"]["decisionId"], id, "{data}");
    }

    let (code, said, err) = explain(
        &serve,
        &["--decision", "ffffffffffff-9", "--audit", "audit.jsonl"],
    );
    assert_eq!((code, said.as_str()), (1, ""), "{err}");
    assert!(
        err.contains("no line of audit.jsonl is of the decision `ffffffffffff-9`; name the log of every gateway"),
        "{err}"
    );
}

#[test]
fn a_refusal_is_decided_again_with_the_logged_arguments_and_its_files_are_found_in_git() {
    let server = server_yaml() + "  audit: { arguments: Full }\n";
    let mut serve = Serve::start_as(&server, GOOD, |_, _| {});
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .args([
                "-c",
                "user.name=a",
                "-c",
                "user.email=a@b.example",
                "-c",
                "init.defaultBranch=main",
            ])
            .args(arguments)
            .current_dir(serve.folder.path().join("files"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "--quiet"]);
    let commit = || {
        git(&["add", "."]);
        git(&["commit", "--quiet", "--message", "x"]);
        git(&["rev-parse", "--short", "HEAD"])
    };
    let first = commit();
    let session = serve.session();
    let refused = serve.echo(&session, "hello");
    let id = quoted(&serve, &refused);
    let same = ["--decision", &id, "--audit", "audit.jsonl", "-f", "files"];
    let (code, said, err) = explain(&serve, &same);
    assert_eq!((code, err.as_str()), (0, ""), "{said}");
    for words in [
        "arguments: {\"text\":\"hello\"}\n",
        "\nDecided again\n  As the line says.\n  Deny  echo for anonymous at ml/scripted\n",
        "its condition does not hold",
    ] {
        assert!(said.contains(words), "{words}\n{said}");
    }

    // The rules change; yesterday's line is of the rules of yesterday.
    serve.write_policy(&policy_yaml(ANY));
    serve.echo_until(&session, |result| !is_error(result));
    let second = commit();
    let (code, said, err) = explain(&serve, &same);
    assert_eq!((code, err.as_str()), (0, ""), "{said}");
    for words in [
        "The files have another revision (",
        "Not what the line says.",
        "note: other files decided: the line has the revision ",
        "`git log --oneline -- files` lists the commits",
    ] {
        assert!(said.contains(words), "{words}\n{said}");
    }

    // The loop of the documentation, with this revision and this folder.
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/audit.md"))
        .unwrap();
    let (_, block) = page.split_once("```sh\nfor commit in").unwrap();
    let block = block.split("```").next().unwrap();
    let (_, revision) = said.split_once("prints ").unwrap();
    let revision = revision.split(' ').next().unwrap();
    let script = format!("for commit in{block}")
        .replace("53d1f831", revision)
        .replace("policies", ".");
    let bin = Path::new(env!("CARGO_BIN_EXE_portcullis"))
        .parent()
        .unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let output = Command::new("sh")
        .args(["-c", &script])
        .env("PATH", path)
        .current_dir(serve.folder.path().join("files"))
        .output()
        .unwrap();
    let found = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        found.trim(),
        first,
        "{script}\n{:?}",
        String::from_utf8(output.stderr)
    );
    assert_ne!(first, second);

    // Files that cannot be used do not keep the line from being explained.
    std::fs::write(serve.folder.path().join("files/policy.yaml"), "kind: {").unwrap();
    let (code, said, err) = explain(&serve, &same);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("  denied\n") && err.contains("the files have errors"),
        "{said}{err}"
    );
    serve.says("keep their previous version");
}
