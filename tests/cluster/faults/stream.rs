//! Watches on their way through the proxy, event by event.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::json;
use tokio::sync::mpsc;

use super::proxy::{Asked, Body, End, Failure, Hold, Shared, Watching, status};

type Out = mpsc::Sender<Result<Frame<Bytes>, Failure>>;

/// The answer to a watch, with a body that goes as `how` says.
pub fn watch(
    shared: Arc<Shared>,
    asked: Asked,
    response: Response<Incoming>,
    how: Option<Watching>,
) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(http::header::TRANSFER_ENCODING);
    let (out, events) = mpsc::channel(1);
    tokio::spawn(pump(shared, asked, body, out, how));
    let events = futures::stream::unfold(events, |mut events| async move {
        Some((events.recv().await?, events))
    });
    Response::from_parts(parts, BodyExt::boxed(StreamBody::new(events)))
}

/// Passes events on until one side or the plan ends it.
async fn pump(
    shared: Arc<Shared>,
    asked: Asked,
    mut body: Incoming,
    out: Out,
    how: Option<Watching>,
) {
    let gone = out.clone();
    let mut hold = shared.hold.subscribe();
    let mut cut = shared.hold.subscribe();
    let lasts = async {
        match how.and_then(|how| how.lasts) {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    let broken = async {
        let _ = cut.wait_for(|hold| asked.number <= hold.cut).await;
    };
    let doubled = how.is_some_and(|how| how.doubled);
    let end = tokio::select! {
        () = gone.closed() => return,
        () = broken => End::Cut,
        () = lasts => how.map_or(End::Clean, |how| how.end),
        end = pass(&asked, &mut body, &out, &mut hold, doubled) => end,
    };
    let last = match end {
        End::Clean => return,
        End::Cut => Err("the watch breaks".into()),
        End::Gone => {
            let event = json!({ "type": "ERROR", "object": status(410) });
            Ok(Frame::data(format!("{event}\n").into()))
        }
    };
    let _ = out.send(last).await;
}

async fn pass(
    asked: &Asked,
    body: &mut Incoming,
    out: &Out,
    hold: &mut tokio::sync::watch::Receiver<Hold>,
    doubled: bool,
) -> End {
    let waits = |hold: &Hold| hold.held.iter().any(|held| *held == asked.resource);
    let silent = |hold: &Hold| {
        let (resources, until) = &hold.silent;
        asked.number <= *until && resources.iter().any(|one| *one == asked.resource)
    };
    let mut text = BytesMut::new();
    loop {
        let frame = body.frame().await;
        if silent(&hold.borrow()) {
            // The end is not told either.
            std::future::pending::<()>().await;
        }
        let data = match frame.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) => data,
            Some(Ok(Err(_))) => continue,
            Some(Err(_)) => return End::Cut,
            None => return End::Clean,
        };
        text.extend_from_slice(&data);
        while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
            let event = text.split_to(end + 1).freeze();
            let _ = hold.wait_for(|hold| !waits(hold)).await;
            for _ in 0..if doubled { 2 } else { 1 } {
                if out.send(Ok(Frame::data(event.clone()))).await.is_err() {
                    return End::Clean;
                }
            }
        }
    }
}
