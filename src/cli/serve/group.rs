//! `--socket-group`: the group that may decide approvals.
//!
//! In: the option's value. Out: the number of a group. Must not do: take a group for another.

use std::fs::read_to_string;

/// Finds a group by its name or number.
///
/// # Errors
/// A sentence that says what to write.
pub(super) fn find(named: &str) -> Result<u32, String> {
    parse(named, &read_to_string("/etc/group").unwrap_or_default())
}

fn parse(named: &str, groups: &str) -> Result<u32, String> {
    let found = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (name == named).then(|| number.parse().ok()).flatten()
    });
    found.or_else(|| named.parse().ok()).ok_or_else(|| {
        format!(
            "--socket-group {named}: /etc/group has no such group; name one that it has, make one (groupadd --system {named}), or write its number"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_its_name_or_number() {
        let groups = "root:x:0:\napprovers:x:997:alice,bob\nbroken\n12:x:34:\n";
        assert_eq!(parse("approvers", groups), Ok(997));
        assert_eq!(parse("1234", groups), Ok(1234));
        // A name comes before a number.
        assert_eq!(parse("12", groups), Ok(34));
        assert!(parse("alice", groups).unwrap_err().contains("groupadd"));
        assert!(parse("-1", groups).is_err());
    }
}
