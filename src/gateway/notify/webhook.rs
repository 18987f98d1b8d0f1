//! A web service to which requests for approval are announced.
//!
//! In: the spec, Secrets, a request. Out: a signed POST, and whether it was accepted. Must not do:
//! show a URL or a key; the URLs of chats are credentials.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Request};
use jiff::Timestamp;
use ring::hmac;
use tokio::time::timeout;

use super::message;
use crate::api::SecretKeyRef;
use crate::api::approval::McpApproval;
use crate::api::server::{ApprovalWebhook, McpServerSpec, WebhookFormat};
use crate::gateway::force::secrets::Secrets;
use crate::gateway::upstream::{HttpUpstream, UpstreamError};

/// For one POST.
pub const POST_TIMEOUT: Duration = Duration::from_secs(10);
/// A shorter key could be guessed.
const MIN_KEY_BYTES: usize = 16;

const TIMESTAMP: HeaderName = HeaderName::from_static("portcullis-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("portcullis-signature");
const DELIVERY: HeaderName = HeaderName::from_static("portcullis-delivery");

/// The webhooks of one server, in the order of the spec; those that cannot be used with the reason.
pub type Webhooks = Vec<Result<Webhook, String>>;

/// One webhook.
pub struct Webhook {
    client: HttpUpstream,
    format: WebhookFormat,
    key: Option<hmac::Key>,
    with_arguments: bool,
}

impl Webhook {
    /// Announces a request; the error says why it was not accepted, without the URL.
    pub async fn announce(&self, object: &McpApproval, now: Timestamp) -> Result<(), String> {
        let body = match self.format {
            WebhookFormat::Generic => message::generic(object, self.with_arguments),
            WebhookFormat::Slack => message::slack(object, self.with_arguments),
        };
        let mut request = Request::post("/")
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Bytes::from(body))
            .map_err(|_| "the announcement cannot be written".to_owned())?;
        let (seconds, body) = (now.as_second().to_string(), request.body().clone());
        let headers = request.headers_mut();
        let delivery = object.spec.decision_id.as_deref().unwrap_or_default();
        headers.extend(HeaderValue::from_str(delivery).map(|id| (DELIVERY, id)));
        if let Some(key) = &self.key {
            let signature = format!("v1={}", sign(key, &seconds, &body));
            headers.extend(HeaderValue::from_str(&signature).map(|value| (SIGNATURE, value)));
        }
        headers.extend(HeaderValue::from_str(&seconds).map(|value| (TIMESTAMP, value)));
        match timeout(POST_TIMEOUT, self.client.send(request)).await {
            Ok(Ok(answer)) if answer.status().is_success() => Ok(()),
            Ok(Ok(answer)) => Err(format!("it answered HTTP {}", answer.status())),
            Ok(Err(UpstreamError::NotSent(_))) => Err("it cannot be reached".to_owned()),
            Ok(Err(UpstreamError::Timeout(_))) | Err(_) => Err(format!(
                "it did not answer within {} s",
                POST_TIMEOUT.as_secs()
            )),
            Ok(Err(UpstreamError::Broken(_) | UpstreamError::Unacceptable(_))) => {
                Err("its answer broke off".to_owned())
            }
        }
    }
}

/// HMAC-SHA256 over `TIMESTAMP.BODY`, in hexadecimal.
fn sign(key: &hmac::Key, seconds: &str, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(seconds.as_bytes());
    context.update(b".");
    context.update(body);
    let tag = context.sign();
    let digits = tag.as_ref().iter().map(|byte| format!("{byte:02x}"));
    digits.collect()
}

/// Makes webhooks, and keeps them while nothing has changed, with their connections.
#[derive(Default)]
pub struct WebhookBuilder {
    made: Option<(Vec<WebhookParts>, Arc<Webhooks>)>,
}

/// What a webhook is made from; a missing Secret is its name and key.
#[derive(PartialEq)]
struct WebhookParts {
    webhook: ApprovalWebhook,
    url: Result<Vec<u8>, String>,
    key: Option<Result<Vec<u8>, String>>,
    ca: Option<Result<Vec<u8>, String>>,
}

impl WebhookBuilder {
    /// The webhooks of a spec. What is missing keeps no call from being served.
    pub fn of(&mut self, spec: &McpServerSpec, secrets: &dyn Secrets) -> Arc<Webhooks> {
        let read = |reference: &SecretKeyRef| {
            let SecretKeyRef { name, key } = reference;
            let value = secrets.key(name, key);
            value.ok_or_else(|| format!("the Secret {name} has no key {key}"))
        };
        let of: Vec<WebhookParts> = spec
            .approval_webhooks()
            .map(|webhook| WebhookParts {
                webhook: webhook.clone(),
                url: read(&webhook.url_secret_ref),
                key: webhook.hmac_secret_ref.as_ref().map(read),
                ca: webhook.ca_secret_ref.as_ref().map(read),
            })
            .collect();
        if let Some((same, webhooks)) = &self.made
            && *same == of
        {
            return Arc::clone(webhooks);
        }
        let webhooks = Arc::new(of.iter().map(make).collect());
        self.made = Some((of, Arc::clone(&webhooks)));
        webhooks
    }
}

fn make(of: &WebhookParts) -> Result<Webhook, String> {
    let url = of.url.as_deref().map_err(Clone::clone)?;
    let ca = of.ca.as_ref().map(Result::as_deref).transpose();
    let ca = ca.map_err(Clone::clone)?;
    let key = match &of.key {
        None => None,
        Some(Err(why)) => return Err(why.clone()),
        Some(Ok(key)) if key.trim_ascii_end().len() < MIN_KEY_BYTES => {
            return Err(format!(
                "the key of hmacSecretRef has fewer than {MIN_KEY_BYTES} bytes; write a longer one, for example that of `openssl rand -hex 32`"
            ));
        }
        Some(Ok(key)) => Some(hmac::Key::new(hmac::HMAC_SHA256, key.trim_ascii_end())),
    };
    // The reason of the client would show the URL.
    let client = std::str::from_utf8(url)
        .ok()
        .and_then(|url| HttpUpstream::aside(url.trim(), ca).ok())
        .ok_or(
            "the value of urlSecretRef is not an http:// or https:// URL without user and password, or that of caSecretRef is not PEM",
        )?;
    Ok(Webhook {
        client,
        format: of.webhook.format.unwrap_or(WebhookFormat::Generic),
        key,
        with_arguments: of.webhook.include_arguments.unwrap_or(false),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_over_the_time_and_the_body() {
        // RFC 4231 has no such input; `printf 1700000000.{} | openssl dgst -sha256 -hmac
        // 0123456789abcdef`.
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"0123456789abcdef");
        let signed = sign(&key, "1700000000", b"{}");
        assert_eq!(signed, SIGNED);
        assert_ne!(signed, sign(&key, "1700000001", b"{}"));
        assert_ne!(signed, sign(&key, "1700000000", b"{} "));
    }

    const SIGNED: &str = "e4f8e2ecae2295b2ddb2f0b5584c8275e226c0ebe9b3b819e70156bb67122e3e";
}
