//! The bundle loader: what it reads it writes and reads again as the same, damage is found, and
//! what compiles keeps the engine's promises.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::json;
use portcullis::policy::bundle::{Bundle, BundleError, FORMAT};
use portcullis_fuzz::judge;

fuzz_target!(|bytes: &[u8]| {
    let read = Bundle::parse(bytes);
    assert!(read.is_err() || json::check(bytes).is_ok());
    // A mutation never hits the right digest, so the content gets its own.
    let Ok(content) = serde_json::from_slice::<Bundle>(bytes) else {
        assert!(!matches!(read, Ok(_) | Err(BundleError::Format(_))));
        return;
    };
    let bundle = content.sealed().unwrap();
    let written = serde_json::to_vec(&bundle).unwrap();
    let again = Bundle::parse(&written);
    // What is nested too deep to be read strictly is refused, and nothing else of what was read.
    if json::check(&written).is_err() {
        assert!(matches!(again, Err(BundleError::Strict(_))));
        return;
    }
    if bundle.format == 0 || bundle.format > FORMAT {
        assert!(matches!(again, Err(BundleError::Format(_))));
        return;
    }
    let again = again.unwrap();
    assert_eq!(again, bundle);
    assert_eq!(serde_json::to_vec(&again).unwrap(), written);

    let mut newer = bundle.clone();
    newer.sequence = newer.sequence.wrapping_add(1);
    assert!(Bundle::parse(&serde_json::to_vec(&newer).unwrap()).is_ok());
    let mut damaged = bundle.clone();
    damaged.server.uid.push('x');
    assert!(matches!(
        Bundle::parse(&serde_json::to_vec(&damaged).unwrap()),
        Err(BundleError::Revision { .. })
    ));
    judge(&bundle);
});
