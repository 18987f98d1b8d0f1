//! The body and error types of the data plane, and reading a body within bounds.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use tokio::time::Instant;

use crate::gateway::fairness::budget::{Room, Share, Spent};

pub mod message;

/// For the first bytes of a body that is not an answer.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// Any error that can end a stream.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A response body, streamed or whole.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A complete body.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// An empty body.
pub fn empty() -> Body {
    full(Bytes::new())
}

/// Why a body could not be read whole.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// More bytes than allowed were announced or sent.
    #[error("the body is larger than the {limit} bytes allowed")]
    TooLarge {
        /// The bound that was passed.
        limit: usize,
    },
    /// The sender stopped sending.
    #[error("the body stopped arriving")]
    Stalled,
    /// The connection broke.
    #[error("the body broke off")]
    Broken(#[source] BoxError),
    /// The caller, or all callers together, have too much buffered already.
    #[error(transparent)]
    Spent(#[from] Spent),
}

/// How a body begins.
pub struct BodyStart {
    /// Its first bytes.
    pub bytes: Vec<u8>,
    /// Nothing comes after them: the body ended, and did not break off.
    pub whole: bool,
}

/// The first bytes of a body, as many as are there within `within`; errors end it.
pub async fn read_start(mut body: Body, limit: usize, within: Duration) -> BodyStart {
    let mut bytes = Vec::new();
    let read = async {
        loop {
            let data = match body.frame().await {
                None => return true,
                Some(Err(_)) => return false,
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            let room = limit - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                return false;
            }
        }
    };
    let whole = tokio::time::timeout(within.min(START_TIMEOUT), read).await;
    BodyStart {
        whole: whole.unwrap_or(false),
        bytes,
    }
}

/// Reads a body whole: at most `limit` bytes, at most `idle` between two frames, at most `within`
/// for all of it.
///
/// A body that came in one frame, as nearly all do, is returned as it is, without a copy; and one
/// that is there already sets no timer.
pub async fn read<B>(
    body: B,
    limit: usize,
    idle: Duration,
    within: Duration,
) -> Result<Bytes, ReadError>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    read_for(None, body, limit, idle, within)
        .await
        .map(|(bytes, _)| bytes)
}

/// A body is kept as it came and is written again: twice its size is in memory for a while.
const COPIES: usize = 2;

/// [`read`], within the caller's share. The returned room is for the bytes and one copy of them.
pub async fn read_for<B>(
    share: Option<&Arc<Share>>,
    mut body: B,
    limit: usize,
    idle: Duration,
    within: Duration,
) -> Result<(Bytes, Option<Room>), ReadError>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    if body.size_hint().lower() > limit as u64 {
        return Err(ReadError::TooLarge { limit });
    }
    let mut until = None;
    let mut first = Bytes::new();
    let mut rest: Option<BytesMut> = None;
    let mut room = share.map(Share::room);
    let announced = body.size_hint().exact();
    loop {
        let there = poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await;
        let frame = match there {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let now = Instant::now();
                let until = *until.get_or_insert(now + within);
                let more = tokio::time::timeout_at(until.min(now + idle), body.frame());
                more.await.map_err(|_| ReadError::Stalled)?
            }
        };
        let frame = match frame {
            None => break,
            Some(Err(error)) => return Err(ReadError::Broken(error.into())),
            Some(Ok(frame)) => frame,
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let have = rest.as_ref().map_or(first.len(), BytesMut::len);
        if have + data.len() > limit {
            return Err(ReadError::TooLarge { limit });
        }
        if let Some(room) = &mut room {
            room.set((have + data.len()) * COPIES)?;
        }
        match &mut rest {
            Some(rest) => rest.extend_from_slice(&data),
            None if first.is_empty() => first = data,
            None => {
                // All of what was announced: growing would hold it twice. What is not used takes no
                // memory.
                let all = announced.and_then(|all| usize::try_from(all).ok());
                let most = all.unwrap_or(0).min(limit);
                let mut buffer = BytesMut::with_capacity(most.max(first.len() + data.len()));
                buffer.extend_from_slice(&first);
                buffer.extend_from_slice(&data);
                rest = Some(buffer);
            }
        }
        if body.is_end_stream() {
            break;
        }
    }
    Ok((rest.map_or(first, BytesMut::freeze), room))
}

/// A body that holds something until it has been sent, or its reader has gone.
pub fn holding<H: Send + Unpin + 'static>(body: Body, held: H) -> Body {
    Holding { body, _held: held }.boxed_unsync()
}

struct Holding<H> {
    body: Body,
    _held: H,
}

impl<H: Unpin> http_body::Body for Holding<H> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How many bytes of a refused body are still read, and for how long.
const DISCARD: (usize, Duration) = (16 << 20, Duration::from_secs(2));

/// Reads and drops the rest of a body, within bounds, so that a client that writes all of its
/// request before it reads sees the answer and not a broken connection.
pub async fn discard<B>(body: &mut B)
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let (bytes, within) = DISCARD;
    let mut left = bytes;
    let rest = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    // The connection closes with whatever is left after that.
    let _ = tokio::time::timeout(within, rest).await;
}
