//! Secrets of `serve`: a folder that changes while it is served, and variables.

use super::*;

const FIRST: &str = "a-first-key-of-this-test";
const SECOND: &str = "a-second-key-of-this-test";
const PROD: &str = "a-key-of-production-only";

fn keyed(secret: &str) -> String {
    server_yaml().replace(
        "authentication: { anonymous: Allow }",
        &format!("authentication: {{ apiKeys: {{ secretRef: {{ name: {secret} }} }} }}"),
    )
}

impl Serve {
    /// What a caller with this key is answered.
    fn status_of(&self, key: &str) -> u16 {
        let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}});
        let header = format!("Authorization: Bearer {key}\r\n");
        self.post_with(&header, None, &initialize).0
    }

    fn status_until(&self, key: &str, wanted: u16) {
        let deadline = Instant::now() + PATIENCE;
        while self.status_of(key) != wanted {
            assert!(Instant::now() < deadline, "never {wanted}");
            std::thread::yield_now();
        }
    }

    /// The environments of the programs that it runs.
    fn environments(&self) -> Vec<String> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let mut found = Vec::new();
        for task in std::fs::read_dir(tasks).unwrap() {
            let children = task.unwrap().path().join("children");
            for child in std::fs::read_to_string(children)
                .unwrap()
                .split_whitespace()
            {
                let environment = std::fs::read(format!("/proc/{child}/environ")).unwrap();
                found.push(String::from_utf8_lossy(&environment).into_owned());
            }
        }
        found
    }
}

/// A mounted Secret: its keys are links into a folder that is swapped as a whole.
fn mount(secrets: &Path, version: &str, key: &str) {
    let secret = secrets.join("ml/agents");
    let data = secret.join(format!("..{version}"));
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("Trainer"), key).unwrap();
    std::os::unix::fs::symlink(format!("..{version}"), secret.join("..new")).unwrap();
    std::fs::rename(secret.join("..new"), secret.join("..data")).unwrap();
    let _ = std::os::unix::fs::symlink("..data/Trainer", secret.join("Trainer"));
}

#[test]
fn a_folder_of_secrets_is_read_as_mounted_and_again_when_it_changes() {
    let mut serve = Serve::start_as(&keyed("agents"), ALLOW, |command, folder| {
        mount(&folder.join("secrets"), "1", FIRST);
        command.arg("--secrets").arg(folder.join("secrets"));
    });
    assert_eq!(
        (serve.status_of(FIRST), serve.status_of(SECOND)),
        (200, 401)
    );
    mount(&serve.folder.path().join("secrets"), "2", SECOND);
    serve.status_until(SECOND, 200);
    assert_eq!(serve.status_of(FIRST), 401);
    // A mistake beside it is told, and keeps no key that is gone in force.
    let secrets = serve.folder.path().join("secrets");
    std::fs::write(secrets.join("ml/stray"), "x").unwrap();
    serve.says("DIR/NAMESPACE/NAME/KEY");
    assert_eq!(serve.status_of(SECOND), 200);
    mount(&secrets, "3", PROD);
    serve.status_until(PROD, 200);
    assert_eq!(serve.status_of(SECOND), 401);
    std::fs::remove_file(secrets.join("ml/agents/Trainer")).unwrap();
    serve.status_until(PROD, 401);
    let (_, said, _) = serve.interrupt();
    assert!(!said.contains(FIRST) && !said.contains(SECOND), "{said}");
}

#[test]
fn variables_are_keys_of_the_secret_that_they_name_and_reach_no_child() {
    let serve = Serve::start_as(&keyed("agents"), ALLOW, |command, _| {
        command.env("PORTCULLIS_SECRET_AGENTS__Trainer", FIRST);
        command.env("PORTCULLIS_SECRET_AGENTS_PROD__ci", PROD);
    });
    assert_eq!((serve.status_of(FIRST), serve.status_of(PROD)), (200, 401));
    let environments = serve.environments();
    assert!(!environments.is_empty());
    for environment in environments {
        assert!(!environment.contains("PORTCULLIS_SECRET") && !environment.contains(FIRST));
    }
}

#[test]
fn a_variable_that_fits_two_secrets_keeps_serve_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let two = format!(
        "{}---\n{}",
        keyed("agents-prod"),
        keyed("agents.prod").replace("name: scripted", "name: other")
    );
    std::fs::write(folder.path().join("server.yaml"), two).unwrap();
    let start = |variable: &str| {
        portcullis()
            .args(["serve", "--listen", "127.0.0.1:0", "--socket"])
            .arg(folder.path().join("serve.sock"))
            .arg("--state")
            .arg(folder.path().join("state"))
            .arg("-f")
            .arg(folder.path().join("server.yaml"))
            .env(variable, PROD)
            .output()
            .unwrap()
    };
    let refused = start("PORTCULLIS_SECRET_AGENTS_PROD__ci");
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(
        said.contains("fits two Secrets, agents-prod and agents.prod")
            && said.contains("--secrets DIR"),
        "{said}"
    );
    assert!(!said.contains(PROD), "{said}");
}
