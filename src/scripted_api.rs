//! An API server for tests that answers what a script says, in its order.
//!
//! In: the requests that a step of the operator, or a gateway, makes. Out: the answers of the
//! script. A request that the script does not expect fails the test, and so does an expected one
//! that never comes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{once, pending};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
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
    /// The connection breaks in the middle of the body.
    cut: bool,
    /// The body never ends.
    open: bool,
    /// The body ends this long after what is in it.
    ends_after: Duration,
    /// The answer is the object that was sent, with what the API server adds.
    echo: bool,
}

/// The body of an answer.
type AnswerBody = UnsyncBoxBody<Bytes, tower::BoxError>;

/// A script. Dropping it fails the test if it was not kept to.
pub struct Script(Arc<Play>);

#[derive(Default)]
struct Play {
    left: Mutex<VecDeque<Exchange>>,
    asked: Mutex<Vec<(String, Value)>>,
    answered: Mutex<Vec<Value>>,
    wrong: Mutex<Vec<String>>,
    /// Requests with one of these in their path are not answered, whenever they come.
    aside: Vec<String>,
    /// Requests after the end do not fail the test: they are not answered.
    open: bool,
    /// The same, but every write is taken.
    takes_all: bool,
}

/// Expects a request whose path and query contain all of `holds`, and answers with that body.
pub fn answer(method: Method, holds: &[&str], status: u16, body: Value) -> Exchange {
    Exchange {
        method,
        holds: holds.iter().map(|&part| part.to_owned()).collect(),
        status: StatusCode::from_u16(status).unwrap(),
        body: body.to_string(),
        retry_after: None,
        cut: false,
        open: false,
        ends_after: Duration::ZERO,
        echo: false,
    }
}

/// Expects a write, and answers with the object that was sent, as the API server has it then: with
/// a UID, a generation and a new version.
pub fn echo(method: Method, holds: &[&str]) -> Exchange {
    Exchange {
        echo: true,
        ..answer(method, holds, 200, Value::Null)
    }
}

/// Expects a watch, and sends those events and its end.
pub fn watch(holds: &[&str], events: &[Value]) -> Exchange {
    // The type comes first, as the API server writes it.
    let line = |event: &Value| {
        let (kind, object) = (&event["type"], &event["object"]);
        format!("{{\"type\":{kind},\"object\":{object}}}\n")
    };
    let lines: String = events.iter().map(line).collect();
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

    /// With a body that ends a while after what is in it.
    pub fn ends_after(mut self, time: Duration) -> Exchange {
        self.ends_after = time;
        self
    }

    /// With a list that has more pages, which that token asks for.
    pub fn continued(mut self, token: &str) -> Exchange {
        let mut body: Value = serde_json::from_str(&self.body).unwrap();
        body["metadata"]["continue"] = json!(token);
        self.body = body.to_string();
        self
    }

    /// With a body that never ends.
    pub fn open(mut self) -> Exchange {
        self.open = true;
        self
    }

    /// With a body that ends in the middle.
    pub fn cut(mut self) -> Exchange {
        self.cut = true;
        self
    }
}

impl Script {
    pub fn new(exchanges: Vec<Exchange>) -> Script {
        Script(Arc::new(Play {
            left: Mutex::new(exchanges.into()),
            ..Play::default()
        }))
    }

    /// A script after which more may be asked, without an answer: for what never ends, such
    /// as a watch.
    pub fn open(exchanges: Vec<Exchange>) -> Script {
        Script(Arc::new(Play {
            left: Mutex::new(exchanges.into()),
            open: true,
            ..Play::default()
        }))
    }

    /// Takes every write.
    pub fn taking_all() -> Script {
        Script(Arc::new(Play {
            takes_all: true,
            ..Play::default()
        }))
    }

    /// Does not answer requests with that in their path, whenever they come.
    pub fn aside(self, part: &str) -> Script {
        let left = std::mem::take(&mut *self.0.left.lock());
        Script(Arc::new(Play {
            left: Mutex::new(left),
            aside: vec![part.to_owned()],
            open: self.0.open,
            ..Play::default()
        }))
    }

    /// A client of this server.
    pub fn client(&self) -> Client {
        Client::new(self.service(), "default")
    }

    /// What answers requests.
    pub fn service(
        &self,
    ) -> impl tower::Service<
        Request<Body>,
        Response = Response<AnswerBody>,
        Error = tower::BoxError,
        Future: Send,
    > + Clone
    + use<> {
        let play = Arc::clone(&self.0);
        tower::service_fn(move |request: Request<Body>| {
            let play = Arc::clone(&play);
            async move { play.answer(request).await }
        })
    }

    /// Everything that was asked: method and URI, and the body.
    pub fn asked(&self) -> Vec<(String, Value)> {
        self.0.asked.lock().clone()
    }

    /// The objects that were answered.
    pub fn answered(&self) -> Vec<Value> {
        self.0.answered.lock().clone()
    }

    /// What was asked, as methods and last parts of paths, such as `PUT mlflow/status`.
    pub fn summary(&self) -> Vec<String> {
        let asked = self.asked();
        let short = asked.iter().map(|(what, _)| {
            let (method, uri) = what.split_once(' ').unwrap_or_default();
            let path = uri.split('?').next().unwrap_or_default();
            let parts: Vec<&str> = path.split('/').collect();
            let tail = parts.len().saturating_sub(2);
            format!(
                "{method} {}",
                parts.get(tail..).unwrap_or_default().join("/")
            )
        });
        short.collect()
    }

    /// Whether everything that was expected was asked.
    pub fn is_done(&self) -> bool {
        self.0.left.lock().is_empty()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let wrong = self.0.wrong.lock();
        assert!(wrong.is_empty(), "{wrong:#?}");
        let left = self.0.left.lock();
        let left: Vec<_> = left.iter().map(|one| (&one.method, &one.holds)).collect();
        assert!(
            left.is_empty(),
            "expected and not asked: {left:#?}; asked was: {:#?}",
            self.summary()
        );
    }
}

impl Play {
    async fn answer(
        &self,
        request: Request<Body>,
    ) -> Result<Response<AnswerBody>, tower::BoxError> {
        let (head, body) = request.into_parts();
        let bytes = body.collect().await?.to_bytes();
        let said = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let uri = head.uri.to_string();
        let what = format!("{} {uri}", head.method);
        if self.aside.iter().any(|part| uri.contains(part)) {
            return std::future::pending().await;
        }
        self.asked.lock().push((what.clone(), said.clone()));
        let next = self.left.lock().pop_front();
        let next = next.or_else(|| self.takes_all.then(|| echo(head.method.clone(), &[])));
        let Some(next) = next else {
            if self.open {
                return std::future::pending().await;
            }
            return Err(self.wrong(format!("{what} was asked after the end of the script")));
        };
        let expected =
            head.method == next.method && next.holds.iter().all(|part| uri.contains(part));
        if !expected {
            let (method, holds) = (&next.method, &next.holds);
            return Err(self.wrong(format!(
                "{what} was asked; expected was {method} with {holds:?}"
            )));
        }
        let mut response = Response::builder()
            .status(next.status)
            .header("content-type", "application/json");
        if let Some(seconds) = next.retry_after {
            response = response.header("retry-after", seconds);
        }
        let mut text = next.body;
        if next.echo {
            let mut object = said;
            let version = self.asked.lock().len() + 100;
            let metadata = &mut object["metadata"];
            if metadata["uid"].is_null() {
                metadata["uid"] = json!(format!("uid-{version}"));
            }
            metadata["resourceVersion"] = json!(version.to_string());
            metadata["generation"] = json!(1);
            text = object.to_string();
            self.answered.lock().push(object);
        }
        let mut bytes = Bytes::from(text.into_bytes());
        let mut frames = Vec::new();
        if next.cut {
            bytes.truncate(bytes.len() / 2);
            frames.push(Err(std::io::Error::other("the connection broke").into()));
        }
        frames.insert(0, Ok(http_body::Frame::data(bytes)));
        let frames = futures::stream::iter(frames);
        let body = if next.open {
            AnswerBody::new(StreamBody::new(frames.chain(pending())))
        } else if next.ends_after > Duration::ZERO {
            let end = once(tokio::time::sleep(next.ends_after));
            let end = end.map(|()| Ok(http_body::Frame::data(Bytes::new())));
            AnswerBody::new(StreamBody::new(frames.chain(end)))
        } else {
            AnswerBody::new(StreamBody::new(frames))
        };
        Ok(response.body(body)?)
    }

    fn wrong(&self, what: String) -> tower::BoxError {
        self.wrong.lock().push(what.clone());
        what.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(client: Client, path: &str) -> Result<String, kube::Error> {
        let request = Request::get(path).body(Vec::new()).unwrap();
        client.request_text(request).await
    }

    #[tokio::test]
    #[should_panic(expected = "GET /b was asked")]
    async fn a_request_that_is_not_expected_fails_the_test_whatever_becomes_of_the_error() {
        let script = Script::new(vec![answer(Method::GET, &["/a"], 200, json!({}))]);
        let _ = get(script.client(), "/b").await;
    }

    #[tokio::test]
    #[should_panic(expected = "after the end of the script")]
    async fn a_request_too_many_fails_the_test() {
        let script = Script::new(Vec::new());
        let _ = get(script.client(), "/a").await;
    }

    #[test]
    #[should_panic(expected = "expected and not asked")]
    fn a_request_that_nobody_makes_fails_the_test() {
        drop(Script::new(vec![answer(
            Method::GET,
            &["/a"],
            200,
            json!({}),
        )]));
    }

    #[tokio::test]
    async fn a_body_that_is_cut_is_an_error() {
        let script = Script::new(vec![
            answer(Method::GET, &["/a"], 200, json!({"k": "v"})).cut(),
        ]);
        assert!(get(script.client(), "/a").await.is_err());
    }
}
