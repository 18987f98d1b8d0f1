//! Decides which bundles, from the API and from the mounted copy, are put into force.
//!
//! In: the text of a bundle and where it is from. Out: what became of it. Must not do: accept a
//! bundle that the operator did not sign, go back to an older bundle, or drop the current bundle
//! for an invalid one. A refused bundle is kept until it is replaced, as a later Secret may make it
//! valid.

use std::sync::Arc;

use parking_lot::RwLock;

use crate::gateway::grants::Grants;
use crate::gateway::{Gateway, Served};
use crate::policy::bundle::Bundle;
use crate::policy::signature::{self, PublicKey};

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
pub enum ApplyResult {
    /// It is in force.
    InForce,
    /// It was in force already, or is a copy that lags behind.
    Known,
    /// It cannot be trusted or enforced; the previous bundle stays in force.
    Refused(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Newness {
    Try,
    Known,
}

/// Whether a bundle is worth a try. `in_force` is a sequence and a revision.
fn judge(source: Source, in_force: Option<&(u64, String)>, offered: &Bundle) -> Newness {
    let Some((sequence, revision)) = in_force else {
        return Newness::Try;
    };
    match source {
        // Kubelets bring copies up to date after a minute: an old one is nothing to report.
        Source::File if offered.sequence <= *sequence => Newness::Known,
        Source::Api if offered.sequence == *sequence && offered.revision == *revision => {
            Newness::Known
        }
        // The gateway refuses what is older.
        Source::Api | Source::File => Newness::Try,
    }
}

/// Who may read the report: the holder of the bearer whose digest the newest bundle carries.
#[derive(Clone, Default)]
pub struct Readers(Arc<RwLock<Arc<Grants>>>);

impl Readers {
    /// The current readers.
    pub fn now(&self) -> Arc<Grants> {
        Arc::clone(&self.0.read())
    }

    fn set(&self, grants: Grants) {
        *self.0.write() = Arc::new(grants);
    }
}

/// Sequences are times in milliseconds, or follow one another. One that is ahead of the clock by
/// more than this would, once in force, keep every later bundle out.
const MAX_AHEAD_MILLIS: u64 = 60_000;

/// Whether the operator signed the bundle, and not for the future. `now` is the time in
/// milliseconds.
fn believed(
    offered: &Bundle,
    keys: &[PublicKey],
    in_force: Option<u64>,
    now: u64,
) -> Result<(), String> {
    signature::verify(offered, keys).map_err(|error| error.to_string())?;
    // The successor of the current bundle is never ahead: this gateway's clock may have been set
    // back.
    let latest = now
        .max(in_force.unwrap_or_default())
        .saturating_add(MAX_AHEAD_MILLIS);
    if offered.sequence > latest {
        return Err(format!(
            "the bundle's sequence {} is ahead of this gateway's clock by {} s: correct the operator's clock or this node's clock",
            offered.sequence,
            offered.sequence.saturating_sub(now) / 1_000
        ));
    }
    Ok(())
}

fn now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}

/// Takes bundles in for one gateway.
pub struct Intake {
    gateway: Arc<Gateway>,
    readers: Readers,
    keys: Vec<PublicKey>,
    refused: Option<(Source, Vec<u8>)>,
}

impl Intake {
    /// For this gateway, and for those who read its report; bundles are signed by one of these
    /// keys.
    pub fn new(gateway: Arc<Gateway>, readers: Readers, keys: Vec<PublicKey>) -> Self {
        Intake {
            gateway,
            readers,
            keys,
            refused: None,
        }
    }

    /// Why the gateway cannot take traffic; None when it can.
    pub fn unready(&self) -> Option<String> {
        self.gateway.unready()
    }

    /// Takes a bundle.
    pub fn offer(&mut self, source: Source, text: Vec<u8>) -> ApplyResult {
        let in_force = self.gateway.in_force();
        let sequence = in_force.as_ref().map(|(sequence, _)| *sequence);
        let read = Bundle::parse(&text)
            .map_err(|error| error.to_string())
            .and_then(|bundle| {
                believed(&bundle, &self.keys, sequence, now())?;
                Ok(bundle)
            });
        let taken = match read {
            Err(why) => {
                self.gateway.refuse(why.clone());
                ApplyResult::Refused(why)
            }
            Ok(bundle) => match judge(source, in_force.as_ref(), &bundle) {
                // The API offers the current bundle again, after one that was refused.
                Newness::Known if source == Source::Api && self.gateway.last_error().is_some() => {
                    self.put(bundle, sequence)
                }
                Newness::Known => return ApplyResult::Known,
                Newness::Try => self.put(bundle, sequence),
            },
        };
        self.refused = matches!(taken, ApplyResult::Refused(_)).then_some((source, text));
        taken
    }

    fn put(&mut self, bundle: Bundle, in_force: Option<u64>) -> ApplyResult {
        let newest = in_force.is_none_or(|sequence| bundle.sequence >= sequence);
        if Served::of(&bundle.server) == *self.gateway.served() && newest {
            // Also for a bundle that is refused below: its reader has to learn why.
            let digest = bundle.report_token_sha256.as_deref();
            match digest.map(|hex| Grants::of_digest("report", hex)) {
                None => self.readers.set(Grants::default()),
                Some(Ok(grants)) => self.readers.set(grants),
                Some(Err(error)) => {
                    let why = format!("reportTokenSha256: {error}");
                    self.gateway.refuse(why.clone());
                    return ApplyResult::Refused(why);
                }
            }
        }
        match self.gateway.apply(bundle) {
            Ok(()) => ApplyResult::InForce,
            Err(error) => ApplyResult::Refused(error.to_string()),
        }
    }

    /// Reads Secrets again, and tries again what was refused.
    pub fn secrets_changed(&mut self) -> ApplyResult {
        let refreshed = match self.gateway.refresh(None) {
            Ok(()) => ApplyResult::InForce,
            Err(error) => ApplyResult::Refused(error.to_string()),
        };
        match self.refused.take() {
            None => refreshed,
            Some((source, text)) => match self.offer(source, text) {
                ApplyResult::Known => refreshed,
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
            signature: None,
            report_token_sha256: None,
            rules: String::new(),
        };
        bundle.sealed().unwrap()
    }

    #[test]
    fn only_what_the_operator_signed_for_now_is_believed() {
        let signer = signature::Signer::of_seed(&[1; 32]).unwrap();
        let keys = [signer.public()];
        let signed = |sequence| {
            let mut bundle = bundle(sequence, "a");
            signer.sign(&mut bundle);
            bundle
        };
        let clock = 1_000_000;
        let believed = |bundle: &Bundle, in_force| believed(bundle, &keys, in_force, clock);
        assert!(believed(&bundle(7, "a"), None).is_err(), "unsigned");
        assert_eq!(believed(&signed(7), None), Ok(()));
        assert_eq!(believed(&signed(clock + MAX_AHEAD_MILLIS), None), Ok(()));
        for ahead in [clock + MAX_AHEAD_MILLIS + 1, u64::MAX] {
            let why = believed(&signed(ahead), None).unwrap_err();
            assert!(why.contains("clock"), "{why}");
        }
        // A clock that was set back keeps no bundle out.
        let in_force = clock * 100;
        assert_eq!(believed(&signed(in_force + 1), Some(in_force)), Ok(()));
        let raised = Bundle {
            sequence: clock + 1,
            ..signed(7)
        };
        assert!(
            believed(&raised, None).is_err(),
            "only the sequence was raised"
        );
    }

    #[test]
    fn the_newest_bundle_is_tried_and_what_is_known_is_not_tried_again() {
        let (same, other) = (bundle(7, "a"), bundle(7, "b"));
        let in_force = Some((7, same.revision.clone()));
        let judge = |source, offered: &Bundle| judge(source, in_force.as_ref(), offered);
        assert_eq!(judge(Source::Api, &same), Newness::Known);
        assert_eq!(judge(Source::Api, &other), Newness::Try);
        assert_eq!(judge(Source::File, &same), Newness::Known);
        assert_eq!(judge(Source::File, &other), Newness::Known);
        // To be refused, as an older one; from the file it is but late.
        assert_eq!(judge(Source::Api, &bundle(6, "a")), Newness::Try);
        assert_eq!(judge(Source::File, &bundle(6, "a")), Newness::Known);
        for source in [Source::Api, Source::File] {
            assert_eq!(judge(source, &bundle(8, "a")), Newness::Try);
            assert_eq!(super::judge(source, None, &bundle(1, "a")), Newness::Try);
        }
    }
}
