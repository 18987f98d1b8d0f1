//! Bundles as they come in, from the API and from the mounted copy: which is put into force.
//!
//! In: the text of a bundle and where it is from. Out: what became of it. Must not do: put an older bundle back, or drop what
//! is in force for one that is wrong. What is refused is kept until it is replaced, as a Secret that comes may make it right.

use std::sync::{Arc, PoisonError, RwLock};

use crate::gateway::grants::Grants;
use crate::gateway::{Gateway, Served};
use crate::policy::bundle::Bundle;

/// Where a bundle is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The ConfigMap, through the API.
    Api,
    /// The mounted copy, which lags behind.
    File,
}

/// What becomes of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is in force.
    InForce,
    /// It was in force already, or is a copy that lags behind.
    Known,
    /// It cannot be enforced; what was in force stays.
    Refused(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Try,
    Known,
}

/// Whether a bundle is worth a try. `in_force` is a sequence and a revision.
fn judge(source: Source, in_force: Option<&(u64, String)>, offered: &Bundle) -> Verdict {
    let Some((sequence, revision)) = in_force else {
        return Verdict::Try;
    };
    match source {
        // Kubelets bring copies up to date after a minute: an old one is nothing to report.
        Source::File if offered.sequence <= *sequence => Verdict::Known,
        Source::Api if offered.sequence == *sequence && offered.revision == *revision => {
            Verdict::Known
        }
        // The gateway refuses what is older.
        Source::Api | Source::File => Verdict::Try,
    }
}

/// Who may read the report: whoever holds the bearer whose digest the newest bundle carries.
#[derive(Clone, Default)]
pub struct Readers(Arc<RwLock<Arc<Grants>>>);

impl Readers {
    /// Those of now.
    pub fn now(&self) -> Arc<Grants> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, grants: Grants) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(grants);
    }
}

/// Takes bundles in for one gateway.
pub struct Intake {
    gateway: Arc<Gateway>,
    readers: Readers,
    refused: Option<(Source, Vec<u8>)>,
}

impl Intake {
    /// For this gateway, and for those who read its report.
    pub fn new(gateway: Arc<Gateway>, readers: Readers) -> Self {
        Intake {
            gateway,
            readers,
            refused: None,
        }
    }

    /// Why the gateway cannot take traffic; None when it can.
    pub fn unready(&self) -> Option<String> {
        self.gateway.unready()
    }

    /// Takes a bundle.
    pub fn offer(&mut self, source: Source, text: Vec<u8>) -> Taken {
        let in_force = self.gateway.in_force();
        let taken = match Bundle::parse(&text) {
            Err(error) => {
                let why = error.to_string();
                self.gateway.refuse(why.clone());
                Taken::Refused(why)
            }
            Ok(bundle) => match judge(source, in_force.as_ref(), &bundle) {
                Verdict::Known => return Taken::Known,
                Verdict::Try => self.put(bundle, in_force.map(|(sequence, _)| sequence)),
            },
        };
        self.refused = matches!(taken, Taken::Refused(_)).then_some((source, text));
        taken
    }

    fn put(&mut self, bundle: Bundle, in_force: Option<u64>) -> Taken {
        let newest = in_force.is_none_or(|sequence| bundle.sequence >= sequence);
        if Served::of(&bundle.server) == self.gateway.served() && newest {
            // Also of one that is refused next: its reader is who has to learn why.
            let digest = bundle.report_token_sha256.as_deref();
            match digest.map(|hex| Grants::of_digest("report", hex)) {
                None => self.readers.set(Grants::default()),
                Some(Ok(grants)) => self.readers.set(grants),
                Some(Err(error)) => {
                    let why = format!("reportTokenSha256: {error}");
                    self.gateway.refuse(why.clone());
                    return Taken::Refused(why);
                }
            }
        }
        match self.gateway.apply(bundle) {
            Ok(()) => Taken::InForce,
            Err(error) => Taken::Refused(error.to_string()),
        }
    }

    /// Reads Secrets again, and tries again what was refused.
    pub fn secrets_changed(&mut self) -> Taken {
        let refreshed = match self.gateway.refresh(None) {
            Ok(()) => Taken::InForce,
            Err(error) => Taken::Refused(error.to_string()),
        };
        match self.refused.take() {
            None => refreshed,
            Some((source, text)) => match self.offer(source, text) {
                Taken::Known => refreshed,
                taken => taken,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::bundle::{BundleServer, FORMAT};
    use serde_json::json;

    fn bundle(sequence: u64, path: &str) -> Bundle {
        let spec = json!({"upstream": {"http": {"url": format!("http://mlflow/{path}")}}});
        let bundle = Bundle {
            format: FORMAT,
            sequence,
            revision: String::new(),
            server: BundleServer {
                namespace: "ml".to_owned(),
                name: "mlflow".to_owned(),
                uid: "1".to_owned(),
                spec: serde_json::from_value(spec).unwrap(),
            },
            policies: Vec::new(),
            blocked: Vec::new(),
            issuers: Vec::new(),
            report_token_sha256: None,
        };
        bundle.sealed().unwrap()
    }

    #[test]
    fn the_newest_bundle_is_tried_and_what_is_known_is_not_tried_again() {
        let (same, other) = (bundle(7, "a"), bundle(7, "b"));
        let in_force = Some((7, same.revision.clone()));
        let judge = |source, offered: &Bundle| judge(source, in_force.as_ref(), offered);
        assert_eq!(judge(Source::Api, &same), Verdict::Known);
        assert_eq!(judge(Source::Api, &other), Verdict::Try);
        assert_eq!(judge(Source::File, &same), Verdict::Known);
        assert_eq!(judge(Source::File, &other), Verdict::Known);
        // To be refused, as an older one; from the file it is but late.
        assert_eq!(judge(Source::Api, &bundle(6, "a")), Verdict::Try);
        assert_eq!(judge(Source::File, &bundle(6, "a")), Verdict::Known);
        for source in [Source::Api, Source::File] {
            assert_eq!(judge(source, &bundle(8, "a")), Verdict::Try);
            assert_eq!(super::judge(source, None, &bundle(1, "a")), Verdict::Try);
        }
    }
}
