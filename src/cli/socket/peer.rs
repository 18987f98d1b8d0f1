//! Which process is at the other end of a Unix socket, and whether it descends from this one.
//!
//! In: the process id that the kernel noted when the socket was connected, and when no connection
//! was waiting last. Out: whether the process may ask. A stdio server runs as the same user, so the
//! user does not distinguish it, but its descent from this process does, because this process
//! adopts the orphans of its children (see `gateway::upstream::stdio::orphans`). Must not do: admit
//! a process that it cannot inspect.
//!
//! A process id can belong to another process by the time it is inspected. Two checks rule that
//! out. A process that started before the moment at which no connection was waiting has had its id
//! since before this connection was made. And a process that is still the parent after it was
//! inspected was alive the whole time, because orphans get another parent at once.

use std::fmt;

use rustix::time::{ClockId, clock_gettime};

/// Clock ticks since boot, the unit in which the kernel reports the start of a process. They are
/// hundredths of a second on every architecture that this runs on (`USER_HZ`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticks(u64);

const TICKS_PER_SECOND: u64 = 100;

/// The maximum length of a chain of parents.
const LONGEST: usize = 1_024;
/// How many times the chain is read: it changes when a process in it ends.
const ATTEMPTS: usize = 5;

impl Ticks {
    pub(super) fn now() -> Self {
        #[cfg(target_os = "linux")]
        let now = clock_gettime(ClockId::Boottime);
        #[cfg(not(target_os = "linux"))]
        let now = clock_gettime(ClockId::Monotonic);
        let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
        let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or_default();
        Ticks(seconds * TICKS_PER_SECOND + nanoseconds / (1_000_000_000 / TICKS_PER_SECOND))
    }
}

/// Why a process is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// This process started it.
    Descendant,
    /// It started so recently that its id could have been another's when the connection was made;
    /// it may connect again.
    TooYoung,
    /// It cannot be inspected.
    Unknown(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Descendant => f.write_str(
                "this program was started by `portcullis serve`, as are the MCP servers that it protects, so it may \
                neither see nor decide approvals; run it from a shell of your own",
            ),
            Refused::TooYoung => f.write_str("this program has only just started; connect again"),
            Refused::Unknown(why) => write!(
                f,
                "`portcullis serve` cannot verify that this program is not one of the MCP servers that it protects \
                ({why}), so it may neither see nor decide approvals; run both on one Linux system, in one PID \
                namespace, with a /proc that shows every process (without hidepid)"
            ),
        }
    }
}

/// Admits a process that does not descend from this one. `idle` is a moment after which the
/// connection was made.
pub(super) fn admit(peer: Option<i32>, idle: Ticks) -> Result<(), Refused> {
    let peer = peer
        .filter(|peer| *peer > 0)
        .ok_or_else(|| Refused::Unknown("its process id is not visible here".to_owned()))?;
    let own = rustix::process::getpid().as_raw_pid();
    judge(peer, own, idle, look)
}

/// One process: its parent, and when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    pid: i32,
    parent: i32,
    started: Ticks,
}

fn judge(
    peer: i32,
    own: i32,
    idle: Ticks,
    look: impl Fn(i32) -> Result<Link, String>,
) -> Result<(), Refused> {
    let mut why = "its parents keep changing".to_owned();
    for _ in 0..ATTEMPTS {
        let twice = chain(peer, own, &look).and_then(|first| Ok((first, chain(peer, own, &look)?)));
        match twice {
            Ok((first, second)) if first == second => {
                if first.iter().any(|link| link.pid == own) {
                    return Err(Refused::Descendant);
                }
                let before = first.first().is_some_and(|link| link.started < idle);
                return if before {
                    Ok(())
                } else {
                    Err(Refused::TooYoung)
                };
            }
            Ok(_) => {}
            Err(error) => why = error,
        }
    }
    Err(Refused::Unknown(why))
}

/// The process and its parents, up to the first of the system or to this process.
fn chain(
    peer: i32,
    own: i32,
    look: &impl Fn(i32) -> Result<Link, String>,
) -> Result<Vec<Link>, String> {
    let mut links: Vec<Link> = Vec::new();
    let mut pid = peer;
    while pid != 0 {
        if links.len() == LONGEST {
            return Err("it has too many parents".to_owned());
        }
        let link = look(pid)?;
        links.push(link);
        if pid == own {
            break;
        }
        pid = link.parent;
    }
    Ok(links)
}

fn look(pid: i32) -> Result<Link, String> {
    let unreadable = || format!("its parent process {pid} cannot be inspected");
    let stat = std::fs::read(format!("/proc/{pid}/stat")).map_err(|_| unreadable())?;
    parse(pid, &stat).ok_or_else(unreadable)
}

/// Reads `/proc/PID/stat` (proc(5)): the parent is its fourth field, the start its twenty-second.
fn parse(pid: i32, stat: &[u8]) -> Option<Link> {
    // The command's name is in parentheses and may contain anything, including parentheses and
    // bytes that are not text.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok().map(Ticks)?;
    Some(Link {
        pid,
        parent,
        started,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::collections::HashMap;

    const OWN: i32 = 50;

    fn link(pid: i32, parent: i32, started: u64) -> Link {
        let started = Ticks(started);
        Link {
            pid,
            parent,
            started,
        }
    }

    fn tree(links: &[(i32, i32, u64)]) -> impl Fn(i32) -> Result<Link, String> {
        let links: HashMap<i32, Link> = links
            .iter()
            .map(|(pid, parent, started)| (*pid, link(*pid, *parent, *started)))
            .collect();
        move |pid| links.get(&pid).copied().ok_or_else(|| format!("no {pid}"))
    }

    #[test]
    fn only_who_does_not_descend_from_here_and_was_there_before_is_let_in() {
        let processes = tree(&[
            (1, 0, 0),
            (10, 1, 5),
            (OWN, 10, 20),
            (60, OWN, 30),
            (61, 60, 31),
            (70, 10, 40),
            (90, 89, 40),
            (95, 0, 40),
        ]);
        let judged = |peer, idle| judge(peer, OWN, Ticks(idle), &processes);
        assert_eq!(judged(70, 41), Ok(()));
        // From another container's start, as `docker exec` does it: its parent is not of this
        // namespace.
        assert_eq!(judged(95, 41), Ok(()));
        assert_eq!(judged(70, 40), Err(Refused::TooYoung));
        for child in [OWN, 60, 61] {
            assert_eq!(judged(child, 100), Err(Refused::Descendant), "{child}");
        }
        // Its parent is not shown, or it is not there any more.
        assert!(matches!(judged(90, 100), Err(Refused::Unknown(_))));
        assert!(matches!(judged(99, 100), Err(Refused::Unknown(_))));
        for invalid in [None, Some(0), Some(-1)] {
            assert!(matches!(
                admit(invalid, Ticks(u64::MAX)),
                Err(Refused::Unknown(_))
            ));
        }
    }

    #[test]
    fn a_parent_that_ended_while_it_was_looked_at_hides_invalid() {
        // 61's parent 60 ends after 61 was inspected, and 60 becomes the id of another user's
        // process.
        let looks = Cell::new(0);
        let processes = |pid| {
            looks.set(looks.get() + 1);
            let ended = looks.get() > 1;
            Ok(match pid {
                61 if ended => link(61, OWN, 31),
                61 => link(61, 60, 31),
                60 => link(60, 1, 35),
                OWN => link(OWN, 1, 20),
                pid => link(pid, 0, 0),
            })
        };
        assert_eq!(
            judge(61, OWN, Ticks(100), processes),
            Err(Refused::Descendant)
        );
        // A process whose parents keep changing is not admitted.
        let restless = |pid| {
            looks.set(looks.get() + 1);
            let parent = if pid == 61 { 1_000 + looks.get() } else { 0 };
            Ok(link(pid, parent, 1))
        };
        assert!(matches!(
            judge(61, OWN, Ticks(100), restless),
            Err(Refused::Unknown(_))
        ));
        let endless = |pid: i32| Ok(link(pid, pid + 1, 1));
        assert!(matches!(
            judge(61, OWN, Ticks(100), endless),
            Err(Refused::Unknown(_))
        ));
    }

    #[test]
    fn a_command_cannot_pretend_to_have_another_parent() {
        let stat = b"61 (x) S 1 1 1 0 -1 ) \xff) S 50 61 61 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 777 9 9 9 9\n";
        assert_eq!(parse(61, stat), Some(link(61, 50, 777)));
        assert_eq!(parse(61, b"61 (x) S"), None);
        let me = rustix::process::getpid().as_raw_pid();
        let own = look(me).unwrap();
        let parent = rustix::process::getppid().map_or(0, |parent| parent.as_raw_pid());
        assert_eq!(own.parent, parent);
        assert!(own.started <= Ticks::now());
        assert_eq!(admit(Some(me), Ticks(u64::MAX)), Err(Refused::Descendant));
    }
}
