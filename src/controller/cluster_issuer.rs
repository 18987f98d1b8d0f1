//! The API server as an issuer of service account tokens: its name and keys.
//!
//! In: the API server's discovery document and key set (Kubernetes, "Service account issuer
//! discovery"; OpenID Connect Discovery 1.0). Out: what bundles carry, so that gateways verify
//! tokens without asking anyone. A change enqueues the servers that accept such tokens. Must not
//! do: dial any other address, whatever the document names.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use serde::Deserialize;
use serde_json::Value;

use crate::controller::context::Context;
use crate::controller::triggers;
use crate::policy::bundle::BundleIssuer;

/// Keys rotate over days; the API server publishes new ones before it signs with them.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// After a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(15);
/// The largest key set that is put into bundles.
const MAX_KEY_SET_BYTES: usize = 64 << 10;
const DISCOVERY: &str = "/.well-known/openid-configuration";
/// Where every API server has them; `jwks_uri` may name another host.
const KEYS: &str = "/openid/v1/jwks";

/// Why the issuer is not known.
#[derive(Debug, thiserror::Error)]
enum Unknown {
    #[error(
        "GET {path}: {source}; may the operator read it? The ClusterRole system:service-account-issuer-discovery allows it"
    )]
    Request {
        path: &'static str,
        source: kube::Error,
    },
    #[error("GET {path}: the answer is not what OpenID Connect Discovery demands: {why}")]
    Answer { path: &'static str, why: String },
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
}

/// Keeps what is known up to date, for as long as the operator runs.
pub async fn keep(ctx: Arc<Context>) {
    let mut failing = false;
    loop {
        let wait = match fetch(&ctx.client).await {
            Ok(issuer) => {
                failing = false;
                if ctx.issuer.set(issuer) {
                    triggers::issuer_changed(&ctx);
                }
                REFRESH_INTERVAL
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(
                        %error,
                        "the issuer of service account tokens is not known; servers keep the keys that they have"
                    );
                }
                RETRY_INTERVAL
            }
        };
        tokio::time::sleep(wait).await;
    }
}

async fn fetch(client: &Client) -> Result<BundleIssuer, Unknown> {
    let answer = |path, why: String| Unknown::Answer { path, why };
    let discovery = get(client, DISCOVERY).await?;
    let Discovery { issuer } =
        serde_json::from_str(&discovery).map_err(|error| answer(DISCOVERY, error.to_string()))?;
    let keys = get(client, KEYS).await?;
    if keys.len() > MAX_KEY_SET_BYTES {
        let why = format!("it has more than {} KiB", MAX_KEY_SET_BYTES >> 10);
        return Err(answer(KEYS, why));
    }
    let jwks: Value =
        serde_json::from_str(&keys).map_err(|error| answer(KEYS, error.to_string()))?;
    match jwks.get("keys") {
        Some(Value::Array(keys)) if !keys.is_empty() => Ok(BundleIssuer { issuer, jwks }),
        _ => Err(answer(KEYS, "it has no keys".to_owned())),
    }
}

async fn get(client: &Client, path: &'static str) -> Result<String, Unknown> {
    let failed = |source| Unknown::Request { path, source };
    let request = http::Request::get(path)
        .body(Vec::new())
        .map_err(|error| failed(kube::Error::HttpError(error)))?;
    client.request_text(request).await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::issuer_keys::ClusterIssuer;
    use http::{Response, StatusCode};
    use serde_json::json;

    /// A client of an API server that answers by path.
    fn serving(discovery: (u16, Value), keys: (u16, Value)) -> Client {
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let (status, body) = match request.uri().path() {
                DISCOVERY => discovery.clone(),
                KEYS => keys.clone(),
                other => panic!("unexpected request for {other}"),
            };
            async move {
                let body = kube::client::Body::from(body.to_string().into_bytes());
                let status = StatusCode::from_u16(status).unwrap();
                Ok::<_, std::convert::Infallible>(
                    Response::builder().status(status).body(body).unwrap(),
                )
            }
        });
        Client::new(service, "default")
    }

    #[tokio::test]
    async fn the_issuer_and_its_keys_are_those_that_the_api_server_publishes() {
        let jwks = json!({"keys": [{"kty": "RSA", "kid": "a", "n": "…", "e": "AQAB"}]});
        // The keys are fetched from the API server even if the document names another place.
        let document =
            json!({"issuer": "https://issuer.example", "jwks_uri": "https://evil.example/keys"});
        let client = serving((200, document), (200, jwks.clone()));
        let found = fetch(&client).await.unwrap();
        assert_eq!(found.issuer, "https://issuer.example");
        assert_eq!(found.jwks, jwks);
        let known = ClusterIssuer::default();
        assert!(known.current().is_none());
        assert!(known.set(found.clone()) && !known.set(found.clone()));
        assert_eq!(known.current(), Some(found));
    }

    #[tokio::test]
    async fn an_answer_that_is_none_says_what_is_wrong() {
        let document = json!({"issuer": "https://issuer.example"});
        let keys = json!({"keys": [{}]});
        let forbidden = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
            "reason": "Forbidden", "message": "no", "code": 403});
        for (discovery, jwks, says) in [
            (
                (403, forbidden),
                (200, keys.clone()),
                "system:service-account-issuer-discovery",
            ),
            ((200, json!({})), (200, keys.clone()), "issuer"),
            ((200, json!([])), (200, keys), DISCOVERY),
            (
                (200, document.clone()),
                (200, json!({"keys": []})),
                "no keys",
            ),
            (
                (200, document.clone()),
                (200, json!("x".repeat(65 << 10))),
                "64 KiB",
            ),
            ((200, document), (200, json!({"keys": {}})), "no keys"),
        ] {
            let error = fetch(&serving(discovery, jwks)).await.unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
