//! The counters of every server that a process serves.
//!
//! In: the UID of a server, a folder for journals. Out: its counters, the same ones each time. Must
//! not do: count.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use super::clock::Clock;
use super::keeper::{self, Servers};
use super::local::Local;
use crate::policy::canonical::sha256;

/// Counts of servers that are not served any more are kept for no more servers than this.
const MAX_SERVERS: usize = 256;

/// The counts of every server that this process serves, or has served: a server that is taken away
/// and comes back has used what it had used.
#[derive(Clone, Default)]
pub struct Counters {
    servers: Arc<Servers>,
    journals: Option<Journals>,
}

#[derive(Clone)]
struct Journals {
    folder: PathBuf,
    wake: Sender<()>,
}

impl Counters {
    /// Counters with a journal for each server in this folder.
    ///
    /// # Errors
    /// When the thread that cares for them cannot be started.
    pub fn kept_in(folder: PathBuf) -> std::io::Result<Self> {
        let servers: Arc<Servers> = Arc::default();
        let wake = keeper::start(Arc::downgrade(&servers))?;
        Ok(Counters {
            servers,
            journals: Some(Journals { folder, wake }),
        })
    }

    /// Those of the server with this UID.
    pub fn of(&self, uid: &str) -> Arc<Local> {
        let mut servers = self.servers.lock();
        if let Some(known) = servers.get(uid) {
            return Arc::clone(known);
        }
        if servers.len() >= MAX_SERVERS {
            servers.retain(|_, local| Arc::strong_count(local) > 1 || !local.is_idle());
        }
        let local = match &self.journals {
            None => Local::default(),
            Some(Journals { folder, wake }) => {
                let folder = folder.join(folder_name(uid));
                let local = Local::new(Clock::default(), Some(folder), Some(wake.clone()));
                // A journal that could not be opened is tried again.
                let _ = wake.send(());
                local
            }
        };
        let local = Arc::new(local);
        servers.insert(uid.to_owned(), Arc::clone(&local));
        local
    }
}

/// UIDs are chosen by the writer of a bundle: they must not lead to another folder.
fn folder_name(uid: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if !uid.is_empty() && uid.len() <= 64 && uid.chars().all(plain) {
        return uid.to_owned();
    }
    hex::encode(sha256(uid.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_names_a_folder_of_its_own_below_the_one_for_journals() {
        for uid in ["", ".", "..", "../a", "a/b", "a\0", &"a".repeat(300)] {
            let name = folder_name(uid);
            assert_eq!(name.len(), 64, "{uid:?}");
        }
        let uid = "0b3c9f9e-7d3d-4a8e-8a57-6d2f7f0a3c11";
        assert_eq!(folder_name(uid), uid);
    }
}
