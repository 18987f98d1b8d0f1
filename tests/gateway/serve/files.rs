//! Files that go wrong while they are served.

use super::*;

const KEPT: &str = "objects with errors keep their previous version";
const TAKEN: &str = "the files changed";

impl Serve {
    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join("files").join(file)
    }

    /// Puts a file there as a whole.
    fn put(&self, file: &str, text: &str) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, text).unwrap();
        let path = self.path(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        let to = self.path(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::rename(self.path(from), to).unwrap();
    }

    fn problems(&self) -> String {
        String::from_utf8(self.command(&["status"]).stderr).unwrap()
            + &String::from_utf8(self.command(&["status"]).stdout).unwrap()
    }
}

#[test]
fn a_policy_stays_in_force_when_its_document_becomes_something_that_is_not_read() {
    let mut serve = Serve::start(DENY);
    let session = serve.session();
    let policy = policy_yaml(DENY);
    let version = "portcullis.dev/v1alpha1";
    let documents = [
        (
            "apiVersion",
            policy.replace(version, "portcullis.io/v1alpha1"),
        ),
        (
            "apiVersion",
            policy.replace(version, "portculis.dev/v1alpha1"),
        ),
        ("apiVersion", policy.replace(version, "v1alpha1")),
        (
            "apiVersion",
            policy.replace(version, "portcullis.dev/v1beta1"),
        ),
        ("kind", policy.replace("McpPolicy", "McpPolcy")),
        ("kind", policy.replace("McpPolicy", "mcppolicy")),
        (
            "McpPolicyTest",
            policy.replace("McpPolicy", "McpPolicyTest"),
        ),
        (
            "Deployment",
            policy
                .replace("McpPolicy", "Deployment")
                .replace(version, "apps/v1"),
        ),
        ("valid YAML", policy.replace("spec:", "spec: [")),
        ("acton", policy.replace("action:", "acton:")),
    ];
    for (reason, document) in documents {
        serve.put("policy.yaml", &document);
        serve.says(KEPT);
        assert!(is_error(&serve.echo(&session, "x")), "{document}");
        let problems = serve.problems();
        assert!(
            problems.contains("policy.yaml") && problems.contains(reason),
            "{document}: {problems}"
        );
        serve.put("policy.yaml", &policy);
        serve.says(TAKEN);
    }
    for place in [
        "policy.YAML",
        "policy.txt",
        "policy.yaml.off",
        "below/policy.yaml",
        "below/it/policy.yml",
    ] {
        serve.rename("policy.yaml", place);
        serve.says(KEPT);
        assert!(is_error(&serve.echo(&session, "x")), "{place}");
        let problems = serve.problems();
        assert!(
            problems.contains(place) && problems.contains("not read"),
            "{place}: {problems}"
        );
        serve.rename(place, "policy.yaml");
        serve.says(TAKEN);
    }
    // What `kubectl get -o yaml` writes is read.
    let items = policy_yaml(ALLOW).replace('\n', "\n    ");
    serve.put(
        "policy.yaml",
        &format!(
            "apiVersion: v1\nkind: List\nitems:\n  - {}",
            items.trim_end()
        ),
    );
    serve.says(TAKEN);
    assert!(!is_error(&serve.echo(&session, "x")));
}

#[test]
fn a_mistake_in_one_file_keeps_nothing_in_another_out_of_force() {
    let mut serve = Serve::start(ALLOW);
    let session = serve.session();
    assert!(!is_error(&serve.echo(&session, "x")));
    serve.put("notes.yaml", "apiVersion: [");
    serve.says(KEPT);
    serve.put(
        "guard.yaml",
        &policy_yaml(DENY).replace("name: rules", "name: guard"),
    );
    serve.says(KEPT);
    assert!(is_error(&serve.echo(&session, "x")));
    let problems = serve.problems();
    assert!(problems.contains("notes.yaml"), "{problems}");
    // What is removed goes, and is named.
    std::fs::remove_file(serve.path("guard.yaml")).unwrap();
    serve.says("McpPolicy ml/guard was removed from the files");
    serve.says(KEPT);
    assert!(!is_error(&serve.echo(&session, "x")));
    // Of two documents of one name neither can be the right one.
    serve.put("other.yaml", &policy_yaml(DENY));
    serve.says(KEPT);
    assert!(!is_error(&serve.echo(&session, "x")));
    std::fs::remove_file(serve.path("other.yaml")).unwrap();
    std::fs::remove_file(serve.path("notes.yaml")).unwrap();
    serve.says(TAKEN);
}

/// A `serve` in which one policy allows what another one denies.
fn guarded() -> (Serve, String) {
    let mut serve = Serve::start(ALLOW);
    serve.put("guard.yaml", &guard());
    serve.says(TAKEN);
    let session = serve.session();
    assert!(is_error(&serve.echo(&session, "x")));
    (serve, session)
}

fn guard() -> String {
    policy_yaml(DENY).replace("name: rules", "name: guard")
}

#[test]
fn a_policy_stays_in_force_while_its_file_holds_nothing_that_can_be_read() {
    let (mut serve, session) = guarded();
    let (head, _) = guard()
        .split_once("  rules:")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    let commented: String = guard().lines().map(|line| format!("# {line}\n")).collect();
    let contents = [
        "",
        "# nothing\n",
        "null\n",
        "---\n---\n",
        &commented,
        &head,
        "apiVersion: v1\nkind: List\nitems: []\n",
        "apiVersion: portcullis.dev/v1alpha1\nkind: McpPolicyList\nitems: []\n",
    ];
    for text in contents {
        serve.put("guard.yaml", text);
        serve.says(KEPT);
        assert!(is_error(&serve.echo(&session, "x")), "{text}");
        let problems = serve.problems();
        assert!(problems.contains("guard"), "{text}: {problems}");
        serve.put("guard.yaml", &guard());
        serve.says(TAKEN);
    }
    // What is not a file any more, or has a name that is not read.
    let path = serve.path("guard.yaml");
    serve.rename("guard.yaml", ".guard.yaml");
    serve.says(KEPT);
    assert!(is_error(&serve.echo(&session, "x")));
    std::fs::create_dir(&path).unwrap();
    serve.says(KEPT);
    std::fs::remove_file(serve.path(".guard.yaml")).unwrap();
    assert!(is_error(&serve.echo(&session, "x")));
    std::fs::remove_dir(&path).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    serve.says(KEPT);
    assert!(is_error(&serve.echo(&session, "x")));
    std::fs::remove_file(&path).unwrap();
    serve.says("McpPolicy ml/guard was removed from the files");
    serve.says(TAKEN);
    assert!(!is_error(&serve.echo(&session, "x")));
}

#[test]
fn a_folder_that_cannot_be_read_takes_nothing_out_of_force() {
    let (mut serve, session) = guarded();
    let (files, away) = (
        serve.folder.path().join("files"),
        serve.folder.path().join("away"),
    );
    std::fs::rename(&files, &away).unwrap();
    serve.says(KEPT);
    assert!(
        !serve.seen.contains("was removed from the files"),
        "{}",
        serve.seen
    );
    assert!(is_error(&serve.echo(&session, "x")));
    std::fs::rename(&away, &files).unwrap();
    serve.says(TAKEN);
    assert!(is_error(&serve.echo(&session, "x")));
}

#[test]
fn a_misspelt_target_or_name_takes_no_policy_out_of_force() {
    let (mut serve, session) = guarded();
    let documents = [
        guard().replace("namespace: ml", "namespace: mll"),
        guard().replace(", namespace: ml", ""),
        guard().replace("name: scripted", "name: scriptd"),
        guard().replace(
            "targetRefs: [{ group: portcullis.dev, kind: McpServer, name: scripted }]",
            "targetSelector: { matchLabels: { team: none } }",
        ),
    ];
    for document in documents {
        serve.put("guard.yaml", &document);
        serve.says(KEPT);
        assert!(is_error(&serve.echo(&session, "x")), "{document}");
        let problems = serve.problems();
        assert!(
            problems.contains("does not select any McpServer"),
            "{problems}"
        );
        serve.put("guard.yaml", &guard());
        serve.says(TAKEN);
    }
    // Another name with the same servers is the author's to choose.
    serve.put(
        "guard.yaml",
        &guard().replace("name: guard", "name: sentry"),
    );
    serve.says(TAKEN);
    assert!(is_error(&serve.echo(&session, "x")));
}

#[test]
fn a_policy_that_was_never_right_closes_its_servers_until_it_is() {
    let mut serve = Serve::start(ALLOW);
    let session = serve.session();
    let broken = [
        guard().replace("name: echo", "name: no"),
        guard().replace("action:", "acton:"),
        guard().replace("action: Deny", "action: null"),
        guard().replace("kind: McpPolicy", "kind: McpPolcy"),
        guard().replace("v1alpha1", "v1alpha2"),
    ];
    for document in broken {
        assert!(!is_error(&serve.echo(&session, "x")));
        serve.put("guard.yaml", &document);
        serve.says(KEPT);
        assert!(is_error(&serve.echo(&session, "x")), "{document}");
        let problems = serve.problems();
        assert!(problems.contains("guard"), "{problems}");
        std::fs::remove_file(serve.path("guard.yaml")).unwrap();
        serve.says(TAKEN);
    }
    // It closes no others.
    serve.put(
        "guard.yaml",
        &guard()
            .replace("name: echo", "name: no")
            .replace("name: scripted", "name: other"),
    );
    serve.says(KEPT);
    assert!(!is_error(&serve.echo(&session, "x")));
}

#[test]
fn a_setting_takes_effect_beside_a_broken_file_and_a_new_broken_policy_closes_its_server() {
    let mut serve = Serve::start(DENY);
    let session = serve.session();
    assert!(is_error(&serve.echo(&session, "x")));
    serve.put("notes.yaml", "apiVersion: [");
    serve.says(KEPT);
    // Settings of the server are in another file than the mistake.
    let watching = server_yaml().replace("spec:\n", "spec:\n  enforcement: Audit\n");
    serve.put("server.yaml", &watching);
    serve.says(KEPT);
    assert!(!is_error(&serve.echo(&session, "x")));
    serve.put("server.yaml", &server_yaml());
    serve.says(KEPT);
    std::fs::remove_file(serve.path("notes.yaml")).unwrap();
    serve.says(TAKEN);
    serve.put("policy.yaml", &policy_yaml(ALLOW));
    serve.says(TAKEN);
    assert!(!is_error(&serve.echo(&session, "x")));
    // What a policy that was never valid would refuse is not known.
    serve.put(
        "guard.yaml",
        &guard().replace("action: Deny", "action: Refuse"),
    );
    serve.says(KEPT);
    let refused = serve.echo(&session, "x");
    assert!(
        is_error(&refused) && text(&refused).contains("never been accepted"),
        "{refused}"
    );
    let problems = serve.problems();
    assert!(
        problems.starts_with("warning: ")
            && problems.contains("guard.yaml")
            && problems.contains("closes the servers that it names"),
        "{problems}"
    );
    std::fs::remove_file(serve.path("guard.yaml")).unwrap();
    serve.says(TAKEN);
    assert!(!is_error(&serve.echo(&session, "x")));
}

#[test]
fn the_revision_of_a_line_is_that_of_the_files_and_comes_back_with_them() {
    let mut serve = Serve::start(ALLOW);
    let session = serve.session();
    let validated = |serve: &Serve| -> String {
        let output = portcullis()
            .args(["validate", "-o", "json", "-f"])
            .arg(serve.folder.path().join("files"))
            .output()
            .unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        report["revisions"][0]["revision"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let shown = |serve: &Serve| -> String {
        let output = serve.command(&["status", "-o", "json"]);
        let list: Value = serde_json::from_slice(&output.stdout).unwrap();
        let server = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|item| item["kind"] == "McpServer");
        server.unwrap()["status"]["revision"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let logged = |serve: &Serve| -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let audit = std::fs::read_to_string(serve.folder.path().join("audit.jsonl")).unwrap();
            let mut lines = audit
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let last = lines.rfind(|line| line["event"] == "decision" && line["tool"] == "echo");
            if let Some(last) = last {
                return last["revision"].as_str().unwrap().to_owned();
            }
            assert!(Instant::now() < deadline, "{audit}");
            std::thread::yield_now();
        }
    };
    serve.echo(&session, "x");
    let first = validated(&serve);
    assert_eq!(
        (shown(&serve), logged(&serve)),
        (first.clone(), first.clone())
    );
    serve.put("policy.yaml", &policy_yaml(DENY));
    serve.says(TAKEN);
    let second = validated(&serve);
    assert_ne!(second, first);
    assert_eq!(shown(&serve), second);
    serve.put("policy.yaml", &policy_yaml(ALLOW));
    serve.says(TAKEN);
    assert_eq!(
        (validated(&serve), shown(&serve)),
        (first.clone(), first.clone())
    );
    // Another process with the same files.
    let again = Serve::start(ALLOW);
    assert_eq!(shown(&again), first);
}
