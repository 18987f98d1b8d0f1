//! The answers of `serve` on its socket and its admin port.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use jiff::Timestamp;

use super::super::socket::{self, DecisionRequest, problem};
use super::Serving;
use crate::api::approval::Verdict;
use crate::gateway::Gateway;
use crate::gateway::approvals::{DecideError, NewDecision};
use crate::gateway::observe::authentication_failure::AuthenticationFailure;
use crate::telemetry::admin::Admin;

impl socket::Handler for Serving {
    fn handle(
        &self,
        method: &Method,
        path: &str,
        body: &[u8],
        user: &str,
    ) -> (StatusCode, Vec<u8>) {
        let now = Timestamp::now();
        match (method, path, path.strip_prefix("/approvals/")) {
            (&Method::GET, "/status", _) => json(&self.status(now)),
            (&Method::GET, "/approvals", _) => json(&self.memory.list(now)),
            (&Method::POST, _, Some(name)) => {
                let request: DecisionRequest = match serde_json::from_slice(body) {
                    Ok(request) => request,
                    Err(error) => {
                        return problem(
                            StatusCode::BAD_REQUEST,
                            &format!("not a valid decision: {error}"),
                        );
                    }
                };
                if request.verdict == Verdict::Approved && request.digest.is_none() {
                    return problem(
                        StatusCode::BAD_REQUEST,
                        "to approve, give the digest of what you approve; `portcullis approvals approve NAME` does so",
                    );
                }
                let decided = NewDecision {
                    verdict: request.verdict,
                    by: user,
                    reason: request.reason,
                    digest: request.digest.as_deref(),
                };
                match self.memory.decide(name, decided, now) {
                    Ok(approval) => json(&approval),
                    Err(error) => {
                        let status = match error {
                            DecideError::NotFound(_) => StatusCode::NOT_FOUND,
                            DecideError::Ambiguous(_) => StatusCode::BAD_REQUEST,
                            DecideError::Decided { .. }
                            | DecideError::Twice(_)
                            | DecideError::Expired(_)
                            | DecideError::Withdrawn(_)
                            | DecideError::Stale(_)
                            | DecideError::OtherDigest { .. } => StatusCode::CONFLICT,
                        };
                        problem(status, &error.to_string())
                    }
                }
            }
            _ => problem(
                StatusCode::NOT_FOUND,
                "the endpoints are GET /status, GET /approvals and POST /approvals/NAME",
            ),
        }
    }
}

fn json<T: serde::Serialize>(value: &T) -> (StatusCode, Vec<u8>) {
    match serde_json::to_vec(value) {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

impl Admin for Serving {
    fn ready(&self) -> Result<(), String> {
        let unready: Vec<String> = self
            .gateways()
            .iter()
            .filter_map(|gateway| {
                Some(format!(
                    "{}: {}",
                    gateway.observe.server(),
                    gateway.unready()?
                ))
            })
            .collect();
        if unready.is_empty() {
            Ok(())
        } else {
            Err(unready.join("; "))
        }
    }

    fn unwell(&self) -> Vec<String> {
        let of = |gateway: &Arc<Gateway>| -> Vec<String> {
            let server = gateway.observe.server();
            let lines = gateway.unwell().into_iter();
            lines.map(|line| format!("{server}: {line}")).collect()
        };
        self.gateways().iter().flat_map(of).collect()
    }

    fn before_scrape(&self) {
        for gateway in self.gateways() {
            gateway.show_gauges();
        }
    }

    fn get(&self, request: &Request<Incoming>) -> Option<Response<Full<Bytes>>> {
        if request.uri().path() != "/report" {
            return None;
        }
        if self.report_readers.authenticate(request.headers()).is_err() {
            for gateway in self.gateways() {
                gateway.failed_login(AuthenticationFailure::ReportBearer, None);
            }
            let why = "/report needs the bearer token of --report-token-file\n";
            let mut response = crate::telemetry::admin::text(StatusCode::UNAUTHORIZED, why);
            let challenge = http::HeaderValue::from_static("Bearer realm=\"portcullis\"");
            response
                .headers_mut()
                .insert(http::header::WWW_AUTHENTICATE, challenge);
            return Some(response);
        }
        let reports: Vec<_> = self
            .gateways()
            .iter()
            .map(|gateway| gateway.report())
            .collect();
        let (status, body) = json(&reports);
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let kind = http::HeaderValue::from_static("application/json");
        response
            .headers_mut()
            .insert(http::header::CONTENT_TYPE, kind);
        Some(response)
    }
}
