use std::sync::Mutex;

use super::*;
use crate::protocol::text;

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn id(number: u64) -> DecisionId<'static> {
    DecisionId {
        instance: "i",
        number,
    }
}

fn written(records: &[Record<'_>]) -> String {
    let sink = Sink::default();
    let (log, writer) = AuditLog::start(vec![Box::new(sink.clone())]).unwrap();
    for record in records {
        log.record(record, false);
    }
    drop(writer);
    let written = sink.0.lock().unwrap().clone();
    String::from_utf8(written).unwrap()
}

#[test]
fn every_record_is_one_line_of_json_in_the_order_made() {
    let full = Record {
        session: Some("s"),
        policy: Some("p"),
        rule: Some("r"),
        enforced: false,
        approval: Some("a"),
        approval_state: Some(ApprovalState::Denied),
        retry_after_ms: Some(1_500),
        arguments: Some(Arguments::Full(
            RawValue::from_string(r#"{"a":"\u202e"}"#.to_owned()).unwrap(),
        )),
        trace_id: Some("t"),
        decision_id: id(u64::MAX),
        ..named("x")
    };
    let keys = Record {
        arguments: Some(Arguments::Keys(vec!["run_id".into(), "a\n\"b".into()])),
        ..named("get_run")
    };
    let written = written(&[keys, full]);
    let lines: Vec<serde_json::Value> = written
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        lines,
        [
            serde_json::json!({
                "v": 1, "time": "1970-01-01T00:00:00Z", "decisionId": "i-7", "event": "decision", "server": "ml/mlflow", "grant": "anonymous",
                "method": "tools/call", "tool": "get_run", "outcome": "unknown", "enforced": true,
                "arguments": ["run_id", "a\n\"b"], "revision": "r",
            }),
            serde_json::json!({
                "v": 1, "time": "1970-01-01T00:00:00Z", "decisionId": "i-18446744073709551615", "event": "decision", "server": "ml/mlflow",
                "grant": "anonymous", "session": "s", "method": "tools/call", "tool": "x", "outcome": "unknown",
                "policy": "p", "rule": "r", "enforced": false, "approval": "a", "approvalState": "denied", "retryAfterMs": 1_500,
                "arguments": {"a": "\u{202e}"}, "revision": "r", "traceId": "t",
            })
        ]
    );
}

proptest::proptest! {
    #[test]
    fn whatever_callers_call_things_comes_back_from_the_log_and_is_plain(tool in ".*", key in ".*", instance in "[a-z0-9-]{0,40}") {
        let record = Record {
            decision_id: DecisionId { instance: &instance, number: 1 },
            arguments: Some(Arguments::Keys(vec![key.as_str().into()])),
            ..named(&tool)
        };
        let written = written(&[record]);
        proptest::prop_assert!(!written.trim_end_matches('\n').contains(char::is_control));
        let read: serde_json::Value = serde_json::from_str(&written).unwrap();
        proptest::prop_assert_eq!(read["tool"].as_str(), Some(text::cut(&tool, MAX_NAME_BYTES)));
        proptest::prop_assert_eq!(read["arguments"][0].as_str(), Some(text::cut(&key, MAX_NAME_BYTES)));
        let id = format!("{instance}-1");
        proptest::prop_assert_eq!(read["decisionId"].as_str(), Some(id.as_str()));
    }
}

#[test]
fn it_is_told_how_many_names_were_left_out() {
    for (count, more) in [
        (MAX_ARGUMENT_NAMES, None),
        (MAX_ARGUMENT_NAMES + 3, Some(3)),
    ] {
        let keys = (0..count).map(|number| format!("a{number}").into());
        let record = Record {
            arguments: Some(Arguments::Keys(keys.collect())),
            ..named("x")
        };
        let line: serde_json::Value = serde_json::from_str(&written(&[record])).unwrap();
        assert_eq!(
            line["arguments"].as_array().unwrap().len(),
            MAX_ARGUMENT_NAMES
        );
        assert_eq!(line["argumentsOmitted"].as_u64(), more);
    }
}

struct Stuck;

impl Write for Stuck {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        loop {
            std::thread::park();
        }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn named(tool: &str) -> Record<'_> {
    Record {
        time: Timestamp::UNIX_EPOCH,
        decision_id: id(7),
        server: "ml/mlflow",
        grant: "anonymous",
        session: None,
        method: "tools/call",
        tool: Some(tool),
        outcome: "unknown",
        policy: None,
        rule: None,
        reason: None,
        near: &[],
        enforced: true,
        approval: None,
        approval_state: None,
        retry_after_ms: None,
        arguments: None,
        revision: "r",
        trace_id: None,
    }
}

#[tokio::test]
async fn a_log_that_nobody_reads_makes_requests_wait_and_holds_up_no_thread() {
    let (log, writer) = AuditLog::start(vec![Box::new(Stuck)]).unwrap();
    let name = "x".repeat(MAX_NAME_BYTES);
    while !log.shared.full.load(Ordering::SeqCst) {
        log.record(&named(&name), false);
    }
    log.record(&named(&name), false);
    let room = tokio::time::timeout(Duration::from_millis(50), log.room());
    assert!(room.await.is_err());
    // Returns, although that write never ends.
    drop(writer);
}

#[tokio::test]
async fn requests_go_on_once_the_log_has_been_read() {
    let sink = Sink::default();
    let held = sink.0.lock().unwrap();
    let (log, _writer) = AuditLog::start(vec![Box::new(sink.clone())]).unwrap();
    while !log.shared.full.load(Ordering::SeqCst) {
        log.record(&named("x"), false);
    }
    drop(held);
    let room = tokio::time::timeout(Duration::from_secs(20), log.room());
    assert!(room.await.is_ok());
}

/// Takes a few bytes at a time and fails in between, as a disk that is full now and then.
#[derive(Clone, Default)]
struct Moody(Sink, Arc<std::sync::atomic::AtomicUsize>);

impl Write for Moody {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let turn = self.1.fetch_add(1, Ordering::SeqCst);
        if turn % 3 == 2 {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        let some = bytes.len().min(turn % 90 + 1);
        self.0.write(&bytes[..some])
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn every_line_is_written_once_and_whole_however_often_writing_fails() {
    let (moody, steady) = (Moody::default(), Sink::default());
    let sinks: Vec<Box<dyn Write + Send>> = vec![Box::new(moody.clone()), Box::new(steady.clone())];
    let (log, writer) = AuditLog::start(sinks).unwrap();
    let mut last = Position(0);
    for number in 0..20 {
        let record = Record {
            decision_id: id(number),
            ..named("x")
        };
        last = log.record(&record, true);
    }
    let written = async {
        while log.written(last).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), written)
        .await
        .unwrap();
    assert_eq!(log.trouble(), None);
    drop(writer);
    for sink in [moody.0, steady] {
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let numbers = text.lines().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["decisionId"].as_str().unwrap().to_owned()
        });
        let expected: Vec<String> = (0..20).map(|number| format!("i-{number}")).collect();
        assert_eq!(numbers.collect::<Vec<_>>(), expected);
    }
}

#[tokio::test]
async fn who_waits_for_a_line_is_told_when_it_cannot_be_written() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (log, _writer) = AuditLog::start(vec![Box::new(Closed)]).unwrap();
    let position = log.record(&named("x"), true);
    let told = log.written(position).await.unwrap_err();
    assert!(told.to_string().contains("broken pipe"), "{told}");
    assert_eq!(log.trouble(), Some(told));
    // What no longer fits is counted, not forgotten.
    let name = "x".repeat(MAX_NAME_BYTES);
    while log.lost() == 0 {
        log.record(&named(&name), true);
    }
}

#[test]
fn a_file_that_was_moved_away_or_removed_is_made_again_and_no_line_is_lost() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let mut sink = super::Sink::file(path.clone()).unwrap();
    assert_eq!(sink.put(b"one\n"), (0, Ok(())));
    // As logrotate does it, and then says so.
    std::fs::rename(&path, folder.path().join("audit.jsonl.1")).unwrap();
    look_again();
    assert_eq!(sink.put(b"two\n"), (0, Ok(())));
    assert_eq!(text("audit.jsonl.1"), "one\n");
    assert_eq!(text("audit.jsonl"), "two\n");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // As copytruncate does it.
    std::fs::write(&path, "").unwrap();
    look_again();
    assert_eq!(sink.put(b"three\n"), (0, Ok(())));
    assert_eq!(text("audit.jsonl"), "three\n");
    // Nothing can be made there: lines go to the file that was moved, until that is gone too.
    std::fs::rename(&path, folder.path().join("audit.jsonl.2")).unwrap();
    std::fs::create_dir(&path).unwrap();
    look_again();
    assert_eq!(sink.put(b"four\n"), (0, Ok(())));
    assert_eq!(text("audit.jsonl.2"), "three\nfour\n");
    std::fs::remove_file(folder.path().join("audit.jsonl.2")).unwrap();
    look_again();
    let (lost, failed) = sink.put(b"five\n");
    assert_eq!(lost, 0);
    assert!(failed.unwrap_err().contains("audit.jsonl"));
    // What was refused meanwhile comes first.
    std::fs::remove_dir(&path).unwrap();
    look_again();
    assert_eq!(sink.put(b"six\n"), (0, Ok(())));
    assert_eq!(text("audit.jsonl"), "five\nsix\n");
}

#[test]
fn every_line_is_as_the_published_schema_says() {
    let schema = include_str!("../../../../docs/audit.schema.json");
    let schema = serde_json::from_str(schema).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let near = ["p/a".to_owned(), "ns/p/b".to_owned()];
    let whole = Record {
        reason: Some("because"),
        near: &near,
        session: Some("s"),
        policy: Some("p"),
        rule: Some("(default)"),
        approval: Some("a"),
        approval_state: Some(ApprovalState::Unshowable),
        retry_after_ms: Some(1),
        arguments: Some(Arguments::Keys(
            (0..300).map(|number| format!("a{number}").into()).collect(),
        )),
        trace_id: Some("t"),
        ..named("x\u{202e}")
    };
    let mut text = written(&[named("x"), whole]);
    text.push_str(&Line::of_end(
        &Ended {
            time: Timestamp::UNIX_EPOCH,
            decision_id: id(1),
            server: "ml/mlflow",
            status: "toolError",
            latency_ms: 3,
        },
        String::new(),
    ));
    let failed = AuthenticationFailure::ALL.map(FailedLoginDetail::Refused);
    let suppressed = FailedLoginDetail::Suppressed {
        count: 7,
        seconds: 60,
    };
    for detail in failed.into_iter().chain([suppressed]) {
        let login = FailedLogin {
            time: Timestamp::UNIX_EPOCH,
            decision_id: id(1),
            server: "ml/mlflow",
            address: (!matches!(detail, FailedLoginDetail::Suppressed { .. }))
                .then_some(IpAddr::from([10, 0, 0, 7])),
            detail,
        };
        text.push_str(&Line::of_failed_login(&login, String::new()));
    }
    for line in text.lines() {
        let line = serde_json::from_str(line).unwrap();
        let mistakes: Vec<_> = schema.iter_errors(&line).map(|e| e.to_string()).collect();
        assert!(mistakes.is_empty(), "{line}: {mistakes:?}");
    }
    // It says something: a member that is not in it is refused.
    let mut line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    line["password"] = "hunter2".into();
    assert!(!schema.is_valid(&line));
}

#[test]
fn a_file_never_holds_half_a_line() {
    use std::io::Read as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    // As another run left it that was killed.
    std::fs::write(&path, "whole\nhal").unwrap();
    let open = || {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).append(true).open(&path).unwrap()
    };
    let mut sink = super::Sink::file(path.clone()).unwrap();
    assert_eq!(sink.put(b"one\n"), (0, Ok(())));
    let text = || {
        let mut text = String::new();
        open().read_to_string(&mut text).unwrap();
        text
    };
    assert_eq!(text(), "whole\nhal\none\n");
    super::sink::take_back(&open(), b"ne\n").unwrap();
    assert_eq!(text(), "whole\nhal\no");
    assert!(
        super::sink::take_back(&open(), b"x").is_err(),
        "another's bytes"
    );
}

#[test]
fn a_callers_text_is_cut_and_cannot_move_a_terminals_cursor() {
    let name = format!("a\u{9b}2J\u{202e}{}", "é".repeat(5_000));
    let written = written(&[named(&name)]);
    assert!(written.contains(r#""tool":"a\u009b2J\u202e"#), "{written}");
    let tool = serde_json::from_str::<serde_json::Value>(&written).unwrap()["tool"].clone();
    assert_eq!(tool, text::cut(&name, MAX_NAME_BYTES));
}
