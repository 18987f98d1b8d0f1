//! Whose variables the process of a session gets.
//!
//! In: the credentials that the bridge has now, and the one that a request names. Out: the
//! variables to start a process with, or why none is started. Where there are credentials, each
//! request names one, and where there are none, no request does: a bridge that is older or newer
//! than the gateway's bundle refuses a session rather than start it with what the server's other
//! callers have. Must not do: match callers; the gateway names the credential.

use std::collections::BTreeMap;
use std::ffi::OsString;

use parking_lot::RwLock;

/// The header in which the gateway names the credential of a session.
pub const CREDENTIAL: &str = "portcullis-credential";
/// The name of what the gateway's own session has: the variables that all processes have, and no
/// others.
pub const OWN: &str = "own";

/// Names and values of variables.
pub type Variables = Vec<(OsString, OsString)>;

/// Variables by the id of their credential; the error says why a credential has none.
pub type CredentialTable = BTreeMap<String, Result<Variables, String>>;

/// The credentials of a bridge; None where all processes are alike.
#[derive(Default)]
pub(super) struct Credentials(RwLock<Option<CredentialTable>>);

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

impl Credentials {
    pub(super) fn new(table: Option<CredentialTable>) -> Self {
        Credentials(RwLock::new(table))
    }

    /// What a new process of this caller gets beside what all have; `named` is empty where a
    /// request names none, and `caller` where it is the gateway's own.
    pub(super) fn of(&self, named: &str, caller: &str) -> Result<Variables, String> {
        let table = self.0.read();
        match (&*table, named) {
            (None, "" | OWN) => Ok(Variables::new()),
            (Some(_), OWN) if caller.is_empty() => Ok(Variables::new()),
            (None, _) => Err(
                "the server's pod has no credentials of callers yet; it is being replaced"
                    .to_owned(),
            ),
            (Some(_), "" | OWN) => Err(
                "the server's pod starts no process without a caller's credential; its gateway is still about to learn of them"
                    .to_owned(),
            ),
            (Some(table), id) => match table.get(id) {
                Some(variables) => variables.clone(),
                None => Err(
                    "the server's pod does not know this caller's credential yet; it is being replaced"
                        .to_owned(),
                ),
            },
        }
    }

    /// Takes other credentials. Returns whether a session continues that names this one and is of
    /// this caller: its process has what a new one would get.
    pub(super) fn replace(
        &self,
        table: Option<CredentialTable>,
    ) -> Option<impl Fn(&str, &str) -> bool> {
        let mut now = self.0.write();
        if *now == table {
            return None;
        }
        let before = std::mem::replace(&mut *now, table.clone());
        Some(move |named: &str, caller: &str| match named {
            OWN if caller.is_empty() => true,
            "" | OWN => before.is_none() && table.is_none(),
            id => {
                let of = |table: &Option<CredentialTable>| {
                    let variables = table.as_ref()?.get(id)?.as_ref();
                    variables.ok().cloned()
                };
                of(&table).is_some() && of(&before) == of(&table)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(&str, Option<&str>)]) -> Option<CredentialTable> {
        let variables = |value: &&str| vec![("TOKEN".into(), OsString::from(value))];
        let entries = entries.iter().map(|(id, value)| {
            let value = value.as_ref().map(variables);
            ((*id).to_owned(), value.ok_or_else(|| "missing".to_owned()))
        });
        Some(entries.collect())
    }

    #[test]
    fn a_process_has_the_named_credential_or_is_not_started() {
        let plain = Credentials::new(None);
        assert_eq!(plain.of("", "c"), Ok(vec![]));
        assert_eq!(plain.of(OWN, "c"), Ok(vec![]));
        assert!(
            plain
                .of("alice", "c")
                .unwrap_err()
                .contains("no credentials of callers yet")
        );
        let by_caller = Credentials::new(table(&[("alice", Some("a")), ("bob", None)]));
        assert_eq!(
            by_caller.of("alice", "c"),
            Ok(vec![("TOKEN".into(), "a".into())])
        );
        assert_eq!(by_caller.of(OWN, ""), Ok(vec![]));
        let of_the_gateway = by_caller.of(OWN, "c").unwrap_err();
        assert!(of_the_gateway.contains("without a caller's credential"));
        assert_eq!(by_caller.of("bob", "c"), Err("missing".to_owned()));
        assert!(
            by_caller
                .of("", "c")
                .unwrap_err()
                .contains("without a caller's credential")
        );
        assert!(
            by_caller
                .of("carol", "c")
                .unwrap_err()
                .contains("does not know")
        );
    }

    #[test]
    fn a_session_goes_on_only_with_the_variables_that_it_was_started_with() {
        let credentials = Credentials::new(table(&[("alice", Some("a")), ("bob", Some("b"))]));
        let all = [
            ("alice", "c"),
            ("bob", "c"),
            (OWN, ""),
            (OWN, "c"),
            ("", "c"),
        ];
        let going_on = |to: Option<CredentialTable>| {
            let goes_on = credentials.replace(to)?;
            Some(all.map(|(named, caller)| goes_on(named, caller)))
        };
        let same = table(&[("alice", Some("a")), ("bob", Some("b"))]);
        assert_eq!(going_on(same), None);
        let rotated = table(&[("alice", Some("rotated")), ("bob", Some("b"))]);
        assert_eq!(going_on(rotated), Some([false, true, true, false, false]));
        let gone = table(&[("alice", Some("rotated")), ("bob", None)]);
        assert_eq!(going_on(gone), Some([true, false, true, false, false]));
        assert_eq!(going_on(None), Some([false, false, true, false, false]));
        let first = table(&[("alice", Some("a"))]);
        assert_eq!(going_on(first), Some([false, false, true, false, false]));
    }
}
