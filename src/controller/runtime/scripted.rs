//! An API server for tests that answers what a script says, in its order.
//!
//! In: the requests that a step of the operator makes. Out: the answers of the script. A request that the script does not expect
//! fails the test, and so does one that it expects and nobody makes.

use std::collections::VecDeque;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// One request that is expected, and its answer.
pub struct Exchange {
    method: Method,
    /// Path and query contain all of these.
    holds: Vec<String>,
    status: StatusCode,
    body: String,
    retry_after: Option<u32>,
}

/// A script, and what was asked so far.
#[derive(Clone, Default)]
pub struct Script {
    left: Arc<Mutex<VecDeque<Exchange>>>,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

/// Expects a request whose path and query contain all of `holds`, and answers with that body.
pub fn answer(method: Method, holds: &[&str], status: u16, body: Value) -> Exchange {
    Exchange {
        method,
        holds: holds.iter().map(|&part| part.to_owned()).collect(),
        status: StatusCode::from_u16(status).unwrap(),
        body: body.to_string(),
        retry_after: None,
    }
}

/// Expects a watch, and sends those events and its end.
pub fn watch(holds: &[&str], events: &[Value]) -> Exchange {
    let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
    Exchange {
        body: lines,
        ..answer(
            Method::GET,
            &[holds, &["watch=true"]].concat(),
            200,
            Value::Null,
        )
    }
}

/// A refusal as the API server words it.
pub fn refusal(code: u16, reason: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("{reason} says the script"), "reason": reason, "code": code,
    })
}

impl Exchange {
    /// With the header Retry-After, in seconds.
    pub fn retry_after(mut self, seconds: u32) -> Exchange {
        self.retry_after = Some(seconds);
        self
    }
}

impl Script {
    pub fn new(exchanges: Vec<Exchange>) -> Script {
        Script {
            left: Arc::new(Mutex::new(exchanges.into())),
            asked: Arc::default(),
        }
    }

    /// A client of this server.
    pub fn client(&self) -> Client {
        let script = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let script = script.clone();
            async move { script.answer(request).await }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, std::io::Error> {
        let (head, body) = request.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let said = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let what = format!("{} {}", head.method, head.uri);
        self.asked.lock().push((what.clone(), said));
        let next = self.left.lock().pop_front();
        let Some(next) = next else {
            // The end of the script: nothing is answered, and the test looks at what was asked.
            return std::future::pending().await;
        };
        let uri = head.uri.to_string();
        let expected =
            head.method == next.method && next.holds.iter().all(|part| uri.contains(part));
        assert!(
            expected,
            "{what} was asked; expected was {} with {:?}",
            next.method, next.holds
        );
        let mut response = Response::builder()
            .status(next.status)
            .header("content-type", "application/json");
        if let Some(seconds) = next.retry_after {
            response = response.header("retry-after", seconds);
        }
        Ok(response.body(Body::from(next.body.into_bytes())).unwrap())
    }

    /// Everything that was asked: method and URI, and the body.
    pub fn asked(&self) -> Vec<(String, Value)> {
        self.asked.lock().clone()
    }

    /// Fails the test if something that was expected was not asked.
    pub fn is_done(&self) -> bool {
        self.left.lock().is_empty()
    }
}
