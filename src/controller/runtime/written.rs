//! The status that was written last: caches may be behind it.

use kube::core::ObjectMeta;
use tokio::time::Instant;

/// A status that was written, with the resource version that this came to, and when. The caches may
/// be behind it.
pub struct Written<S> {
    last: Option<(String, S)>,
    version: String,
    pub at: Option<Instant>,
}

impl<S> Default for Written<S> {
    fn default() -> Self {
        Written {
            last: None,
            version: String::new(),
            at: None,
        }
    }
}

impl<S: Clone> Written<S> {
    /// The newest status that is known, with the metadata to write over it.
    pub fn newest(&self, cached: &ObjectMeta, status: Option<S>) -> (ObjectMeta, Option<S>) {
        let mut metadata = cached.clone();
        match (&self.last, &cached.resource_version) {
            (Some((version, written)), Some(seen)) if is_newer(version, seen) => {
                metadata.resource_version = Some(version.clone());
                (metadata, Some(written.clone()))
            }
            _ => (metadata, status),
        }
    }

    /// The caches have that version now: what is not newer need not be remembered. False if it is
    /// not the one that was written.
    pub fn seen(&mut self, cached: &str) -> bool {
        self.last.take_if(|(version, _)| !is_newer(version, cached));
        self.version == cached
    }

    pub fn set(&mut self, version: String, status: S) {
        self.version.clone_from(&version);
        self.last = Some((version, status));
        self.at = Some(Instant::now());
    }
}

/// Resource versions grow (KEP-5504).
pub fn is_newer(seen: &str, known: &str) -> bool {
    match (seen.parse::<u64>(), known.parse::<u64>()) {
        (Ok(seen), Ok(known)) => seen > known,
        _ => seen != known,
    }
}
