//! `--server-user`: the user that stdio servers run as.
//!
//! In: the option's value. Out: a user, if this process can start programs as another one. Must not
//! do: fall back to this process's own user.

use std::fs::read_to_string;

use crate::gateway::upstream::stdio::RunAs;

/// The capabilities to become another user and group, as bits (capabilities(7)).
const NEEDED: u64 = 1 << 6 | 1 << 7;

/// Finds the user and checks that this process can start programs as that user.
///
/// # Errors
/// A sentence that says what to write or how to start this program.
pub(super) fn find(named: &str) -> Result<RunAs, String> {
    let users = read_to_string("/etc/passwd").unwrap_or_default();
    let user = parse(named, &users)?;
    let own = rustix::process::getuid().as_raw();
    // Only root leaves the groups that it belongs to when it becomes another user.
    if own != 0 || !rustix::process::geteuid().is_root() || !capable() {
        return Err(format!(
            "--server-user {named}: only root can run servers as another user, and this program runs as user {own}{}; start `portcullis serve` as root (sudo, or a system service), or leave --server-user out, and read \"The server as attacker\" in docs/security.md",
            if own == 0 {
                " without the capabilities CAP_SETUID and CAP_SETGID"
            } else {
                ""
            }
        ));
    }
    Ok(user)
}

fn parse(named: &str, users: &str) -> Result<RunAs, String> {
    let entries = users.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, _] = fields.as_slice() else {
            return None;
        };
        let user = RunAs {
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: (*home).into(),
        };
        Some((*name, user))
    });
    let numbers = named
        .split_once(':')
        .map(|(uid, gid)| (uid.parse().ok(), gid.parse().ok()));
    let user = match numbers {
        Some((Some(uid), Some(gid))) => RunAs {
            uid,
            gid,
            home: "/".into(),
        },
        Some(_) => return Err(format!("--server-user {named}: write UID:GID as numbers")),
        None => {
            let number: Option<u32> = named.parse().ok();
            let mut entries = entries;
            let found = entries.find(|(name, user)| *name == named || number == Some(user.uid));
            let (_, user) = found.ok_or_else(|| {
                format!(
                    "--server-user {named}: /etc/passwd has no such user; name one that it has, make one (useradd --system {named}), or write UID:GID"
                )
            })?;
            user
        }
    };
    if user.uid == 0 || user.gid == 0 {
        return Err(format!(
            "--server-user {named}: this is root, or root's group; name a user without rights"
        ));
    }
    Ok(user)
}

/// Whether root still has the capabilities to become another user.
fn capable() -> bool {
    // Elsewhere than on Linux root is root.
    let Ok(status) = read_to_string("/proc/self/status") else {
        return !cfg!(target_os = "linux");
    };
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .is_some_and(|bits| bits & NEEDED == NEEDED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_number_or_both_numbers_and_is_never_root() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbroken\nmcp:x:990:980::/var/lib/mcp:/usr/sbin/nologin\nwheel:x:7:0::/:/bin/sh\n";
        let mcp = RunAs {
            uid: 990,
            gid: 980,
            home: "/var/lib/mcp".into(),
        };
        assert_eq!(parse("mcp", users), Ok(mcp.clone()));
        assert_eq!(parse("990", users), Ok(mcp));
        let plain = parse("5:6", users).unwrap();
        assert_eq!((plain.uid, plain.gid), (5, 6));
        for refused in [
            "root", "0", "0:5", "5:0", "wheel", "nobody", "", "5:x", ":", "-1",
        ] {
            assert!(parse(refused, users).is_err(), "{refused}");
        }
    }
}
