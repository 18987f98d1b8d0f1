//! The task that owns one child: pipes, the end, the reaping.

use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::process::{ChildStdin, Command};
use tokio::signal::unix::SignalKind;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::leaders::{MARK, REAPED, leaders};
use super::lines::{Lines, Piece, printable};
use super::orphans;
use super::{Chatters, ChildLimits, Exit, Progress, Queued};

/// How long output is still read after the leader has ended, even if another process holds the
/// pipe open.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(250);

/// A child just started, in a group of its own; if dropped, the group is killed.
pub(super) struct Started {
    child: tokio::process::Child,
    group: ProcessGroup,
}

impl Started {
    pub(super) fn pid(&self) -> u32 {
        self.group.leader.as_raw_pid().unsigned_abs()
    }
}

/// The group that a leader leads, and its entry among the leaders.
struct ProcessGroup {
    leader: Pid,
    reaped: bool,
}

impl ProcessGroup {
    fn signal(&self, signal: Signal) {
        // ESRCH is the only possible error: no process is left.
        let _ = rustix::process::kill_process_group(self.leader, signal);
    }
}

impl Drop for ProcessGroup {
    /// Kills while the leader is unreaped, when its id still names this group: the case of a
    /// runtime that goes away.
    fn drop(&mut self) {
        if !self.reaped {
            self.signal(Signal::KILL);
        }
        if let Some(all) = leaders().as_mut() {
            all.remove(&self.leader.as_raw_pid());
        }
        REAPED.notify_one();
    }
}

/// Starts the command and records its leader; its orphans are recognized by the mark.
pub(super) fn start(command: &mut Command) -> std::io::Result<Started> {
    let mark = uuid::Uuid::new_v4().simple().to_string();
    command.env(MARK, &mark);
    let mut all = leaders();
    let child = command.spawn()?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    let Some(pid) = pid.and_then(Pid::from_raw) else {
        return Err(std::io::Error::other("the child has no process id"));
    };
    all.get_or_insert_default().insert(pid.as_raw_pid(), mark);
    Ok(Started {
        child,
        group: ProcessGroup {
            leader: pid,
            reaped: false,
        },
    })
}

/// What the supervisor of a child starts with.
pub(super) struct Supervisor {
    pub(super) name: Arc<str>,
    pub(super) limits: ChildLimits,
    pub(super) chatter: Arc<Chatters>,
    pub(super) started: Started,
    pub(super) queued: mpsc::UnboundedReceiver<Queued>,
    pub(super) budget: Arc<Semaphore>,
    pub(super) lines: mpsc::Sender<Piece>,
    pub(super) stop: CancellationToken,
    pub(super) exit: watch::Sender<Progress>,
}

/// Runs the child to its end and cleans up after it.
pub(super) async fn run(supervisor: Supervisor) {
    let Supervisor {
        name,
        limits,
        chatter,
        started,
        queued,
        budget,
        lines,
        stop,
        exit,
    } = supervisor;
    let Started {
        mut child,
        mut group,
    } = started;
    let pid = group.leader;
    tracing::info!(server = %name, pid = pid.as_raw_pid(), "server process started");

    let close_input = CancellationToken::new();
    let stop_reading = CancellationToken::new();
    let writer = tokio::spawn(write(
        child.stdin.take(),
        queued,
        budget,
        close_input.clone(),
    ));
    let reader = tokio::spawn(read(
        Arc::clone(&name),
        child.stdout.take(),
        lines,
        limits.clone(),
        Arc::clone(&chatter),
        stop_reading.clone(),
    ));
    let errors = tokio::spawn(log(
        Arc::clone(&name),
        child.stderr.take(),
        limits.log_line_bytes,
        chatter,
    ));
    let (mut writer, mut reader, mut errors) = (writer, reader, errors);
    let mut reader_done = false;

    // Until it is stopped, or exits by itself.
    let mut leader_ended = tokio::select! {
        () = ended(pid) => true,
        () = stop.cancelled() => false,
        _ = &mut reader => { reader_done = true; false }
        _ = &mut writer => false,
    };
    if !leader_ended {
        close_input.cancel();
        leader_ended = timeout(limits.close_grace, ended(pid)).await.is_ok();
    }
    if leader_ended {
        publish_exit(&exit, pid);
    }
    close_input.cancel();
    group.signal(Signal::TERM);
    if !leader_ended {
        if timeout(limits.term_grace, ended(pid)).await.is_err() {
            tracing::warn!(server = %name, pid = pid.as_raw_pid(), "server ignored SIGTERM, killing it");
            group.signal(Signal::KILL);
            ended(pid).await;
        }
        publish_exit(&exit, pid);
    }
    // The leader is dead but not reaped: its id cannot be taken. Others of the group that still
    // hold its pipes get the rest of the grace; what holds none of them is not worth waiting for.
    if !reader_done && timeout(DRAIN_TIMEOUT, &mut reader).await.is_err() {
        // Clients need not wait for stragglers: this ends the lines.
        stop_reading.cancel();
        if timeout(limits.term_grace, &mut reader).await.is_err() {
            reader.abort();
        }
    }
    group.signal(Signal::KILL);
    if timeout(DRAIN_TIMEOUT, &mut errors).await.is_err() {
        errors.abort();
    }
    let status = child.wait().await;
    group.reaped = true;
    drop(group);
    let how = status.map_or_else(
        |error| format!("ended ({error})"),
        |status| describe(status.code(), status.signal()),
    );
    tracing::info!(server = %name, pid = pid.as_raw_pid(), "server process {how}");
    orphans::end_those_of_the_ended().await;
    writer.abort();
    exit.send_modify(|progress| {
        progress.exit.get_or_insert(Exit { how });
        progress.gone = true;
    });
}

fn describe(status: Option<i32>, signal: Option<i32>) -> String {
    match (status, signal) {
        (Some(status), _) => format!("exited with status {status}"),
        (None, Some(9)) => {
            "was killed by signal 9, as the kernel does when the memory runs out".to_owned()
        }
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

fn peek(pid: Pid) -> rustix::io::Result<Option<(Option<i32>, Option<i32>)>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let found = rustix::process::waitid(WaitId::Pid(pid), options)?;
    Ok(found.map(|status| (status.exit_status(), status.terminating_signal())))
}

fn publish_exit(exit: &watch::Sender<Progress>, pid: Pid) {
    let how = match peek(pid) {
        Ok(Some((status, signal))) => describe(status, signal),
        _ => describe(None, None),
    };
    exit.send_modify(|progress| {
        progress.exit.get_or_insert(Exit { how });
    });
}

/// Waits until the process has ended and leaves it to be reaped.
async fn ended(pid: Pid) {
    // Registered before the first look, so that no end is missed.
    let mut changed = tokio::signal::unix::signal(SignalKind::child()).ok();
    loop {
        match peek(pid) {
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            // ECHILD: it has been reaped elsewhere.
            Ok(Some(_)) | Err(_) => return,
        }
        // Signals that come together are delivered once, and another library may take the handler:
        // look now and then.
        let look_again = Duration::from_secs(1);
        match changed.as_mut() {
            Some(changed) => {
                let _ = timeout(look_again, changed.recv()).await;
            }
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn write(
    stdin: Option<ChildStdin>,
    mut queued: mpsc::UnboundedReceiver<Queued>,
    budget: Arc<Semaphore>,
    close: CancellationToken,
) {
    let work = async {
        let Some(mut stdin) = stdin else { return };
        let mut line = Vec::new();
        while let Some(next) = queued.recv().await {
            line.clear();
            line.extend_from_slice(&next.line);
            line.push(b'\n');
            if stdin.write_all(&line).await.is_err() {
                return;
            }
            // The memory of a large message must not stay for the life of the child.
            line.shrink_to(64 << 10);
        }
    };
    tokio::select! {
        () = work => {}
        () = close.cancelled() => {}
    }
    // Senders that wait learn at once that there is no reader.
    budget.close();
}

async fn read(
    name: Arc<str>,
    stdout: Option<impl AsyncRead + Unpin>,
    lines: mpsc::Sender<Piece>,
    limits: ChildLimits,
    chatter: Arc<Chatters>,
    stop: CancellationToken,
) {
    let Some(stdout) = stdout else { return };
    let mut pipe = Lines::new(stdout, limits.line_bytes);
    loop {
        let next = tokio::select! {
            next = pipe.next() => next,
            () = stop.cancelled() => break,
        };
        match next {
            Ok(Some(piece)) => {
                if let Piece::TooLong { start, length, .. } = &piece
                    && let Some(withheld) = chatter.garbage.passes()
                {
                    let start = printable(start, limits.log_line_bytes);
                    tracing::warn!(
                        server = %name, length, limit = limits.line_bytes, start, withheld,
                        "server wrote a line that is too long; it was dropped"
                    );
                }
                let sent = tokio::select! {
                    sent = pass(&lines, piece) => sent,
                    () = stop.cancelled() => false,
                };
                if !sent {
                    break;
                }
            }
            Ok(None) | Err(_) => return,
        }
    }
    // There is no receiver any more, but the pipe is read to its end, which shows that the last
    // writer has exited.
    drop(lines);
    while let Ok(Some(_)) = pipe.next().await {}
}

/// A longer line is passed on only after all before it were taken.
const LONG_LINE_BYTES: usize = 1 << 20;

/// Passes a piece on, when there is room for it; false once there is no receiver. A queue full of
/// the longest lines would hold more than all else in the process together.
async fn pass(lines: &mpsc::Sender<Piece>, piece: Piece) -> bool {
    let long = matches!(&piece, Piece::Line(line) if line.len() > LONG_LINE_BYTES);
    let room = if long { lines.max_capacity() } else { 1 };
    let Ok(mut permits) = lines.reserve_many(room).await else {
        return false;
    };
    if let Some(permit) = permits.next() {
        permit.send(piece);
    }
    true
}

/// Bytes of a server's last line that are kept.
const LAST_WORDS: usize = 300;

async fn log(
    name: Arc<str>,
    stderr: Option<impl AsyncRead + Unpin>,
    cap: usize,
    chatter: Arc<Chatters>,
) {
    let Some(stderr) = stderr else { return };
    let mut pipe = Lines::new(stderr, cap);
    loop {
        let next = pipe.next().await;
        let text = match &next {
            Ok(Some(Piece::Line(line))) => line,
            Ok(Some(Piece::TooLong { start, .. })) => start,
            _ => return,
        };
        let words = printable(text, LAST_WORDS);
        if !words.trim().is_empty() {
            *chatter.last_words.lock() = Some(words.trim().to_owned());
        }
        let passes = match &next {
            Ok(Some(Piece::Line(line))) if line.is_empty() => continue,
            Ok(Some(_)) => chatter.errors.passes(),
            _ => return,
        };
        let Some(withheld) = passes else {
            continue;
        };
        if withheld > 0 {
            tracing::info!(server = %name, withheld, "stderr: too many lines, some were left out");
        }
        match next {
            Ok(Some(Piece::Line(line))) => {
                tracing::info!(server = %name, "stderr: {}", printable(&line, cap));
            }
            Ok(Some(Piece::TooLong { start, length, .. })) => {
                tracing::info!(server = %name, length, "stderr: {}…", printable(&start, cap));
            }
            Ok(None) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[tokio::test]
    async fn lines_that_nobody_takes_hold_one_long_one_at_most() {
        let (lines, mut taken) = mpsc::channel(16);
        let line = |length| Piece::Line(Bytes::from(vec![b'x'; length]));
        let passing = tokio::spawn(async move {
            for length in [10, 10, LONG_LINE_BYTES + 1, LONG_LINE_BYTES + 1, 10] {
                assert!(pass(&lines, line(length)).await);
            }
            lines
        });
        let mut lengths = Vec::new();
        while lengths.len() < 5 {
            // Whatever can be passed on is, before the next one is taken.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            let expected = [2, 1, 1, 2, 1];
            assert_eq!(taken.len(), expected[lengths.len()], "{lengths:?}");
            let Some(Piece::Line(line)) = taken.recv().await else {
                panic!("no line")
            };
            lengths.push(line.len());
        }
        assert_eq!(
            lengths,
            [10, 10, LONG_LINE_BYTES + 1, LONG_LINE_BYTES + 1, 10]
        );
        let lines = passing.await.unwrap();
        drop(taken);
        assert!(!pass(&lines, line(10)).await);
    }
}
