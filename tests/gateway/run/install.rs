//! `portcullis-gateway install`, and what `run` says of a command line that cannot work.

use super::pod::{gateway, is_program};

#[test]
fn the_program_installs_a_copy_of_itself_over_an_older_one() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("portcullis-gateway");
    std::fs::write(&target, "an older one").unwrap();
    let output = gateway()
        .arg("install")
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(is_program(&target));
    let own = std::fs::read(env!("CARGO_BIN_EXE_portcullis-gateway")).unwrap();
    assert!(std::fs::read(&target).unwrap() == own, "the copy differs");
    let version = std::process::Command::new(&target)
        .arg("--version")
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8(version.stdout).unwrap(),
        format!("portcullis-gateway {}\n", env!("CARGO_PKG_VERSION"))
    );
    let names: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["portcullis-gateway"], "something is left behind");
}

#[test]
fn a_directory_that_is_not_there_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let output = gateway().arg("install").arg(&missing).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        said,
        format!(
            "error: {}/portcullis-gateway cannot be written: No such file or directory (os error 2); mount a writable volume there\n",
            missing.display()
        )
    );
}

#[test]
fn a_command_line_that_cannot_work_starts_nothing() {
    let common = [
        "run",
        "--namespace=ml",
        "--server=fake",
        "--server-uid=1",
        "--bundle-key=0000000000000000000000000000000000000000000000000000000000000000",
        "--bundle-file=/b",
        "--secrets-dir=/s",
        "--sealing-keys-file=/k",
    ];
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("--listen={}", busy.local_addr().unwrap());
    let cases: [(&[&str], &str); 3] = [
        (
            &[&listen],
            "another program uses this port; choose another with --listen",
        ),
        (
            &["--upstream-url=http://x/mcp"],
            "--upstream-bearer-file <FILE>",
        ),
        (&["--watch-timeout=0"], "0 is not in 1..=3600"),
    ];
    for (more, says) in cases {
        let output = gateway().args(common).args(more).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(says), "{said}");
    }
}
