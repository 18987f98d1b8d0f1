//! What the admin port of a gateway in a pod answers: whether it is ready, and its report.
//!
//! In: requests of kubelets, Prometheus and the operator. Out: pages. Must not do: give the report
//! to anyone but the holder of the bearer whose digest the bundle carries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::watch;

use super::bundle_source::Readers;
use crate::gateway::Gateway;
use crate::gateway::observe::authentication_failure::AuthenticationFailure;
use crate::status::report::MAX_REPORT_BYTES;
use crate::telemetry::admin::{Admin, text};

/// The admin side of one gateway.
pub struct GatewayAdmin {
    gateway: Arc<Gateway>,
    readers: Readers,
    terminating: AtomicBool,
    /// How many violations of this run the operator has stored.
    stored: watch::Sender<u64>,
}

impl GatewayAdmin {
    /// For this gateway.
    pub fn new(gateway: Arc<Gateway>, readers: Readers) -> Self {
        GatewayAdmin {
            gateway,
            readers,
            terminating: AtomicBool::new(false),
            stored: watch::Sender::new(0),
        }
    }

    /// From now on it is not ready, so that no new clients are sent here.
    pub fn terminate(&self) {
        self.terminating.store(true, Ordering::SeqCst);
    }

    /// Waits until every violation that was recorded so far has been stored. Read alone is not
    /// enough: the operator may end between reading and writing.
    pub async fn all_stored(&self) {
        let recorded = self.gateway.observe.violation_count();
        let mut stored = self.stored.subscribe();
        // Fails only when the sender is dropped, and this value owns it.
        let _ = stored.wait_for(|stored| *stored >= recorded).await;
    }

    fn report(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if self.readers.now().authenticate(request.headers()).is_err() {
            self.gateway
                .failed_login(AuthenticationFailure::ReportBearer, None);
            let why =
                "a bearer token is needed: the one whose SHA-256 is in this gateway's bundle\n";
            let mut response = text(StatusCode::UNAUTHORIZED, why);
            let challenge = HeaderValue::from_static("Bearer realm=\"portcullis\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            return response;
        }
        if let Some(stored) = stored(request.uri().query().unwrap_or_default()) {
            self.stored.send_replace(stored);
        }
        let mut report = self.gateway.report();
        let mut body = serde_json::to_vec(&report);
        // With thousands of long tool names, the figures matter more.
        if body
            .as_ref()
            .is_ok_and(|body| body.len() > MAX_REPORT_BYTES)
        {
            report.shorten();
            body = serde_json::to_vec(&report);
        }
        match body {
            Ok(body) => {
                let mut response = text(StatusCode::OK, body);
                let kind = HeaderValue::from_static("application/json");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }
}

/// The reader says how many violations of this run it has stored: `?stored=17`.
fn stored(query: &str) -> Option<u64> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .filter(|(key, _)| *key == "stored")
        .find_map(|(_, value)| value.parse().ok())
}

impl Admin for GatewayAdmin {
    fn ready(&self) -> Result<(), String> {
        if self.terminating.load(Ordering::SeqCst) {
            return Err("shutting down".to_owned());
        }
        self.gateway.unready().map_or(Ok(()), Err)
    }

    fn unwell(&self) -> Vec<String> {
        self.gateway.unwell()
    }

    fn before_scrape(&self) {
        self.gateway.show_gauges();
    }

    fn get(&self, request: &Request<Incoming>) -> Option<Response<Full<Bytes>>> {
        (request.uri().path() == "/report").then(|| self.report(request))
    }
}
