//! The credentials of callers as a pod mounts them.
//!
//! In: the variables of each credential, and a folder of Secrets (`DIR/SECRET/KEY`) that is read
//! twice a second. Out: a table for the bridge, another one when a value has changed. A kubelet
//! swaps a whole Secret by one link, and a value is read through it each time. Must not do:
//! show a value.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::Bridge;
use super::credentials::CredentialTable;
use crate::policy::credential::{CredentialVariables, Unresolved};

/// Between two reads of the folder.
const READ_INTERVAL: Duration = Duration::from_millis(500);

/// Credentials whose values are in files.
pub(super) struct CredentialFiles {
    credentials: Vec<CredentialVariables>,
    dir: PathBuf,
}

impl CredentialFiles {
    pub(super) fn new(credentials: Vec<CredentialVariables>, dir: PathBuf) -> Self {
        CredentialFiles { credentials, dir }
    }

    /// What the files hold now.
    pub(super) fn table(&self) -> CredentialTable {
        self.read().0
    }

    /// The same, and why some credentials have no values.
    fn read(&self) -> (CredentialTable, Vec<Unresolved>) {
        let mut troubles = Vec::new();
        let resolved = self.credentials.iter().map(|credential| {
            let values = credential.resolve(|secret, key| value(&self.dir, secret, key));
            let values = values.map_err(|why| {
                troubles.push(why);
                // Callers read this: no name of a Secret.
                "this caller's credential is not there or cannot be used, as the log of the server's pod says".to_owned()
            });
            (credential.id(), values)
        });
        (resolved.collect(), troubles)
    }

    /// Gives the bridge what the files hold, again and again.
    pub(super) async fn follow(self, bridge: Arc<Bridge>) {
        let mut reads = interval(READ_INTERVAL);
        reads.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut troubles = Vec::new();
        loop {
            reads.tick().await;
            let (table, now) = self.read();
            if now != troubles {
                for trouble in &now {
                    tracing::error!(
                        "a credential of upstream.stdio.credentials cannot be used: {trouble}; its callers are refused"
                    );
                }
                troubles = now;
            }
            if let Err(error) = bridge.use_credentials(Some(table)) {
                tracing::error!("{error}");
                return;
            }
        }
    }
}

fn value(dir: &Path, secret: &str, key: &str) -> Option<Vec<u8>> {
    std::fs::read(dir.join(secret).join(key)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_has_the_values_of_now_or_says_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"[{"name":"USER","value":"alice"},{"name":"PASSWORD","secret":"alice","key":"password"}]"#;
        let credential: CredentialVariables = text.parse().unwrap();
        let id = credential.id();
        let files = CredentialFiles::new(vec![credential], folder.path().to_owned());
        let (table, troubles) = files.read();
        assert!(!table[&id].clone().unwrap_err().contains("password"));
        let missing = Unresolved::Missing(vec!["alice/password".to_owned()]);
        assert_eq!(troubles, [missing]);
        std::fs::create_dir(folder.path().join("alice")).unwrap();
        for password in ["one", "two"] {
            std::fs::write(folder.path().join("alice/password"), password).unwrap();
            let expected = vec![
                ("USER".into(), "alice".into()),
                ("PASSWORD".into(), password.into()),
            ];
            assert_eq!(files.table()[&id], Ok(expected));
        }
    }
}
