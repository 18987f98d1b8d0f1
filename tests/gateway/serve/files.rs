//! Files that go wrong while they are served.

use super::*;

const KEPT: &str = "what is wrong keeps its previous form";
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
    serve.says("McpPolicy ml/guard is no longer in the files");
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
