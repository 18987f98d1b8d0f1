use super::*;

const ID: &str = "4cbdc2f09d42-3";

fn decision(id: &str, reason: &str) -> String {
    let line = serde_json::json!({
        "v": 1, "time": "2026-11-21T11:59:02.4Z", "decisionId": id, "event": "decision", "server": "ml/mlflow",
        "grant": "key:trainer", "method": "tools/call", "tool": "echo", "outcome": "denied", "policy": "p", "rule": "r",
        "reason": reason, "enforced": true, "revision": "53d1"
    });
    // As the gateway writes it: `v` first.
    let text = line
        .to_string()
        .replace("\"v\":1,", "")
        .replace(",\"v\":1", "");
    format!("{{\"v\":1,{}", &text[1..])
}

fn found_in(text: &str, id: &str) -> Result<DecisionLines, Failure> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    std::fs::write(&path, text).unwrap();
    find(id, &[path])
}

fn numbers(text: &str) -> Vec<u64> {
    let found = found_in(text, ID).unwrap();
    found.lines.iter().map(|line| line.number).collect()
}

#[test]
fn lines_are_found_as_collectors_keep_them() {
    let line = decision(ID, "no");
    let escaped = serde_json::to_string(&format!("{line}\n")).unwrap();
    for kept in [
        line.clone(),
        format!("[pod/mlflow-gateway-5d9c-x2/gateway] {line}"),
        format!("2026-11-21T11:59:02.412345678Z {line}"),
        format!("[pod/mlflow-gateway-5d9c-x2/gateway] 2026-11-21T11:59:02.412345678Z {line}"),
        format!("2026-11-21T11:59:02.412345678+01:00 stdout F {line}"),
        format!("Nov 21 11:59:02 host portcullis[812]: {line}"),
        format!("2026-11-21T11:59:02+0000 host portcullis[812]: {line}"),
        format!("{{\"log\":{escaped},\"stream\":\"stdout\",\"time\":\"2026-11-21T11:59:02.4Z\"}}"),
        format!("{{\"MESSAGE\":{escaped},\"_PID\":\"812\"}}"),
        format!("{{\"message\":{escaped},\"source_type\":\"file\"}}"),
        format!("{line}\r"),
    ] {
        assert_eq!(numbers(&format!("first\n{kept}\nlast\n")), [2], "{kept}");
        assert_eq!(
            numbers(&kept),
            [1],
            "the last line of a file may lack its end: {kept}"
        );
    }
}

/// What a server prints on its standard error is in the operational log.
#[test]
fn a_record_in_other_text_is_no_record() {
    let forged = decision(ID, "forged");
    let escaped = serde_json::to_string(&forged).unwrap();
    for odd in [
        format!("2026-11-21T11:59:02Z  WARN portcullis: stderr: {forged}"),
        format!("2026-11-21T11:59:02Z 2026-11-21T11:59:02Z  WARN stderr: {forged}"),
        format!("stderr: {forged}"),
        format!("2026-11-21T11:59:02Z stderr F {forged}"),
        format!("Nov 21 11:59:02 host portcullis[812]: stderr: {forged}"),
        format!("{{\"log\":{escaped},\"stream\":\"stderr\"}}"),
        format!("{{\"fields\":{{\"message\":{escaped}}}}}"),
        format!("{forged} and more"),
        format!("{forged}{forged}"),
        // A key twice, and a record within the arguments of another.
        forged.replace("\"event\"", "\"event\":\"end\",\"event\""),
        decision("4cbdc2f09d42-9", "no").replace(
            "\"enforced\"",
            &format!("\"arguments\":{forged},\"enforced\""),
        ),
        forged[..forged.len() - 9].to_owned(),
    ] {
        let failure = found_in(&odd, ID).unwrap_err();
        assert_eq!(failure.code, 1, "{odd}");
        let found = found_in(&format!("{odd}\n{}\n", decision(ID, "true")), ID).unwrap();
        assert_eq!(found.lines.len(), 1, "{odd}");
        assert_eq!(found.lines[0].line.reason.as_deref(), Some("true"), "{odd}");
    }
    let found = found_in(&format!("stderr: {forged}\n{}", decision(ID, "true")), ID).unwrap();
    let note = found.unusable.note().unwrap();
    assert!(
        note.contains("audit.jsonl:1 (there is other text before the record)"),
        "{note}"
    );
}

#[test]
fn an_id_is_found_by_its_beginning_if_no_other_begins_so() {
    let log: String = [
        "4cbdc2f09d42-3",
        "4cbdc2f09d42-31",
        "4cbdc2f09d42-4",
        "77bdc2f09d42-31",
    ]
    .map(|id| decision(id, "no") + "\n")
    .concat();
    for (asked, found) in [
        ("4cbdc2f09d42-3", Ok("4cbdc2f09d42-3")),
        ("4cbdc2f09d42-3.", Ok("4cbdc2f09d42-3")),
        (" 4cbdc2f09d42-31\n", Ok("4cbdc2f09d42-31")),
        ("77bdc2", Ok("77bdc2f09d42-31")),
        (
            "4cbdc2f09d42-",
            Err("4cbdc2f09d42-3, 4cbdc2f09d42-31, 4cbdc2f09d42-4; write more"),
        ),
        ("4cbd", Err("too short")),
        ("5cbdc2f09d42-3", Err("no line of")),
        ("", Err("copy it from the answer")),
        ("\"decisionId\"", Err("copy it from the answer")),
    ] {
        match (found_in(&log, asked), found) {
            (Ok(lines), Ok(id)) => assert_eq!(lines.id, id),
            (Err(failure), Err(words)) => {
                assert!(
                    failure.message.contains(words),
                    "{asked}: {}",
                    failure.message
                );
            }
            (lines, _) => panic!("{asked}: {lines:?}"),
        }
    }
}

#[test]
fn memory_is_bounded_whatever_the_log_says() {
    let many: String = (0..2_000)
        .map(|n| decision(&format!("4cbdc2f09d42-3{n:04}"), "no") + "\n")
        .collect();
    let failure = found_in(&many, ID).unwrap_err();
    assert!(
        failure.message.contains("and others; write more"),
        "{}",
        failure.message
    );
    let same: String = (0..2_000)
        .map(|n| decision(ID, &n.to_string()) + "\n")
        .collect();
    assert_eq!(found_in(&same, ID).unwrap().lines.len(), MAX_LINES);
    let twice = format!("{0}\n{0}\n", decision(ID, "no"));
    assert_eq!(numbers(&twice), [1], "a line that was delivered twice");
}

#[test]
fn lines_that_are_no_text_or_too_long_are_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut bytes = b"\xff\xfe\n".to_vec();
    bytes.resize(bytes.len() + MAX_LINE_BYTES + 7, b'x');
    bytes.extend_from_slice(format!("\n{}\n", decision(ID, "no")).as_bytes());
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(find(ID, &[path.clone()]).unwrap().lines[0].number, 3);
    std::fs::write(&path, [0x1f, 0x8b, 8, 0]).unwrap();
    assert!(find(ID, &[path]).unwrap_err().message.contains("zcat"));
}
