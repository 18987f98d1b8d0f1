//! `portcullis` as a plugin of kubectl: its completions, and the manifest that krew installs it by.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_portcullis");

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_shell_gets_completions_that_know_the_commands() {
    for (shell, starts) in [
        ("bash", "_portcullis()"),
        ("zsh", "#compdef portcullis"),
        ("fish", ""),
    ] {
        let script = said(Command::new(PROGRAM).args(["completions", shell]));
        assert!(script.starts_with(starts), "{shell}");
        for word in ["approvals", "kubeconfig", "all-namespaces", "pending"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn kubectl_is_answered_under_the_name_that_it_looks_for() {
    let folder = tempfile::tempdir().unwrap();
    let completer = folder.path().join("kubectl_complete-portcullis");
    std::os::unix::fs::symlink(PROGRAM, &completer).unwrap();
    let text = said(Command::new(&completer).args(["approvals", "list", "-o", "w"]));
    assert_eq!(text, "wide\tFor people, with more columns\n:4\n");
    let text = said(Command::new(&completer).args(["approvals", ""]));
    let words: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split('\t').next())
        .collect();
    assert_eq!(words, ["list", "show", "approve", "deny", "watch", ":4"]);
}

#[test]
fn the_manifest_for_krew_names_each_archive_with_its_digest() {
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/krew.sh");
    let render = |url: &str| {
        let mut command = Command::new("bash");
        command.arg(&script).arg(url).arg(folder.path());
        command
    };
    let url = "https://downloads.example/v0";
    // Without archives, or over plain HTTP, there is nothing that krew could install.
    assert!(!render(url).output().unwrap().status.success());
    for name in ["linux-amd64", "darwin-arm64"] {
        let archive = folder.path().join(format!("portcullis-{name}.tar.gz"));
        std::fs::write(archive, b"abc").unwrap();
    }
    assert!(
        !render("http://downloads.example")
            .output()
            .unwrap()
            .status
            .success()
    );
    let manifest: Value = crate::chart::yaml(&said(&mut render(url)));
    assert_eq!(
        manifest["apiVersion"],
        "krew.googlecontainertools.github.com/v1alpha2"
    );
    assert_eq!(manifest["kind"], "Plugin");
    // kubectl-portcullis, as the program tells by its name.
    assert_eq!(manifest["metadata"]["name"], "portcullis");
    let spec = &manifest["spec"];
    assert_eq!(spec["version"], format!("v{}", env!("CARGO_PKG_VERSION")));
    let short = spec["shortDescription"].as_str().unwrap();
    assert!(
        !short.is_empty() && short.len() <= 50 && !short.ends_with('.'),
        "{short}"
    );
    assert!(
        spec["description"]
            .as_str()
            .unwrap()
            .contains("kubectl portcullis")
    );
    let platforms = spec["platforms"].as_array().unwrap();
    let named: Vec<(&str, &str)> = platforms
        .iter()
        .map(|one| {
            assert_eq!(one["bin"], "portcullis");
            // SHA-256 of "abc" (FIPS 180-2, appendix B.1).
            let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
            assert_eq!(one["sha256"], digest);
            let labels = &one["selector"]["matchLabels"];
            let (os, arch) = (
                labels["os"].as_str().unwrap(),
                labels["arch"].as_str().unwrap(),
            );
            assert_eq!(one["uri"], format!("{url}/portcullis-{os}-{arch}.tar.gz"));
            (os, arch)
        })
        .collect();
    assert_eq!(named, [("linux", "amd64"), ("darwin", "arm64")]);
}
