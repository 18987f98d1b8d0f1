//! Calls that wait for a person, and whose client asked for progress.
//!
//! In: a call that needs approval. Out: its answer; once the call waits, a stream that tells of the
//! wait and ends with the answer. A client that goes away takes the call with it. Must not do:
//! forward anything; what was decided continues as without progress.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use jiff::Timestamp;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::Exchange;
use super::accept::as_events;
use super::responses::{Answer, accepted};
use crate::gateway::Gateway;
use crate::gateway::body::message::{ContentType, content_type, event_stream};
use crate::gateway::body::{Body, BoxError};
use crate::gateway::enforce::{Waiting, approved_call};
use crate::gateway::grants::Grant;
use crate::gateway::relay::{MAX_TIMEOUTS_PER_CALL, WaitProgress};
use crate::gateway::sessions::{LastSession, Session};
use crate::policy::Decision;
use crate::protocol::envelope::{self, Message, Request as Rpc};
use crate::protocol::forward;
use crate::protocol::header::Fields;
use crate::protocol::method;
use crate::protocol::sse::{Event, Item, encode};

/// Between two notifications. Clients that give up a silent request wait for at least 5 s.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// The progress token of a request, as JSON.
pub(super) fn progress_token<'a>(request: &Rpc<'a>) -> Option<&'a str> {
    forward::progress_token(request.params.as_ref()?)
}

impl Exchange<'_> {
    /// Continues with a call that needs approval. The answer is a stream if the call waits.
    pub(super) async fn hold(
        &self,
        session: Arc<Session>,
        request: &Rpc<'_>,
        body: &Bytes,
        decided: (Box<Decision>, Timestamp),
    ) -> Answer {
        let Some(token) = progress_token(request) else {
            return accepted();
        };
        let (sender, mut waiting) = watch::channel(None);
        let told = Arc::new(WaitProgress::default());
        let within = self.snapshot.settings.timeout * MAX_TIMEOUTS_PER_CALL;
        let mut call = self.answer_later(session, body.clone(), decided, &told, sender);
        let decision = tokio::select! {
            biased;
            // Approved before, or refused.
            answer = &mut call => return answer,
            told = waiting.wait_for(Option::is_some) => {
                told.ok().and_then(|told| Some(told.as_ref()?.decision))
            }
        };
        let mut ticks = interval(PROGRESS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let streams = self.gateway.observe.streams.clone();
        streams.inc();
        let held = HeldStream {
            stage: Stage::Waits(call),
            waiting,
            token: token.to_owned(),
            told,
            ticks,
            grant: self.grant.clone(),
            within,
            streams,
        };
        let frames = stream::unfold(held, |mut held| async move {
            let frame = held.next().await?;
            Some((frame, held))
        });
        self.naming(
            decision,
            event_stream(StreamBody::new(frames).boxed_unsync()),
        )
    }

    /// The answer to a call, in a future that needs nothing of the request that is being answered:
    /// the head of its answer is out long before.
    fn answer_later(
        &self,
        session: Arc<Session>,
        body: Bytes,
        (decision, at): (Box<Decision>, Timestamp),
        told: &Arc<WaitProgress>,
        waiting: watch::Sender<Option<Waiting>>,
    ) -> HeldAnswer {
        let gateway: Arc<Gateway> = Arc::clone(self.gateway);
        let (head, trace_id, hops) = (self.head.clone(), self.trace_id.clone(), self.hops.clone());
        let (snapshot, upstream) = (Arc::clone(&self.snapshot), self.upstream.clone());
        let (grant, told) = (self.grant.clone(), Some(Arc::clone(told)));
        Box::pin(async move {
            let exchange = Exchange {
                gateway: &gateway,
                snapshot,
                upstream,
                grant,
                head: &head,
                fields: Fields::of(&head.headers),
                last_session: &LastSession::default(),
                trace_id,
                hops,
                takes_events: true,
                told,
            };
            let decided = (&*decision, at);
            let answer = exchange.approved(session, &body, decided, &waiting);
            answer.await.unwrap_or_else(|refusal| *refusal)
        })
    }

    async fn approved(
        &self,
        session: Arc<Session>,
        body: &Bytes,
        decided: (&Decision, Timestamp),
        waiting: &watch::Sender<Option<Waiting>>,
    ) -> Result<Answer, Box<Answer>> {
        // It was read once already, so none of this fails.
        let Ok(Message::Request(request)) = envelope::parse(body) else {
            return Ok(accepted());
        };
        let (Some(row), Ok(call)) = (method::lookup(&request.method), request.tool_call()) else {
            return Ok(accepted());
        };
        let asked = self.asked(&session, row, &request, &call, body);
        let envelope = || self.envelope(&session);
        let (gateway, snapshot) = (self.gateway, &self.snapshot);
        let admission = approved_call(gateway, snapshot, &asked, &envelope, decided, waiting).await;
        self.admitted(Arc::clone(&session), (&request.id, &call.name), admission)
            .await
    }
}

type HeldAnswer = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// The answer to a call that waits, as the client reads it.
struct HeldStream {
    stage: Stage,
    waiting: watch::Receiver<Option<Waiting>>,
    /// As JSON.
    token: String,
    told: Arc<WaitProgress>,
    ticks: Interval,
    grant: Grant,
    /// For what is left of the call once it is answered.
    within: Duration,
    streams: Gauge,
}

enum Stage {
    /// No answer yet.
    Waits(HeldAnswer),
    /// The stream that holds it.
    Answers(Body),
    Over,
}

impl HeldStream {
    /// The next bytes for the client, or None at the end.
    async fn next(&mut self) -> Option<Result<Frame<Bytes>, BoxError>> {
        loop {
            match &mut self.stage {
                Stage::Over => return None,
                Stage::Answers(body) => return body.frame().await,
                Stage::Waits(call) => {
                    let answer = tokio::select! {
                        biased;
                        answer = call => answer,
                        _ = self.ticks.tick() => match self.progress() {
                            Some(bytes) => return Some(Ok(Frame::data(bytes))),
                            None => continue,
                        },
                    };
                    self.stage = match content_type(&answer) {
                        Some(ContentType::EventStream) => Stage::Answers(answer.into_body()),
                        Some(ContentType::Json) => {
                            let events = as_events(answer, &self.grant, self.within).await;
                            Stage::Answers(events.into_body())
                        }
                        // Cancelled: the client wants no answer.
                        None => Stage::Over,
                    };
                }
            }
        }
    }

    fn progress(&self) -> Option<Bytes> {
        let message = {
            let waiting = self.waiting.borrow();
            let Waiting {
                approval, until, ..
            } = waiting.as_ref()?;
            let until = until.strftime("%Y-%m-%dT%H:%M:%SZ");
            format!("waiting for approval {approval} until {until}")
        };
        let text = self.told.next(&self.token, &message);
        let mut bytes = Vec::new();
        encode(&Item::Event(Event::message(text)), &mut bytes).ok()?;
        Some(bytes.into())
    }
}

impl Drop for HeldStream {
    fn drop(&mut self) {
        self.streams.dec();
    }
}
