//! The Kubernetes API as a gateway's pod reaches it.
//!
//! In: the address and credentials that every Kubernetes client finds. Out: a client, and errors in
//! words for the log. Must not do: read or write any object.

use kube::{Client, Config};

/// A client of its own for each start over: an earlier kubeconfig, token or CA may be outdated.
///
/// # Errors
/// Why there is none, in words.
pub async fn connect() -> Result<Client, String> {
    let config = Config::infer()
        .await
        .map_err(|error| format!("{error}; give the pod a service account token"))?;
    Client::try_from(config).map_err(|error| describe(&error))
}

/// An error with its causes, each once.
pub fn describe(error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// A number in 0..1 from the keys that every hash map gets: good enough to spread retries.
pub fn random() -> f64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    let bits = std::hash::RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(bits >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_lie_between_nothing_and_one() {
        assert!(
            (0..1_000)
                .map(|_| random())
                .all(|number| (0.0..=1.0).contains(&number))
        );
    }
}
