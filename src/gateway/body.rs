//! The body and error types that every part of the data plane speaks, and how a body is read within bounds.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use tokio::time::Instant;

/// Any error that can end a stream.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A response body, streamed or whole.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body that is all there.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body without a byte.
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
}

/// Reads a body whole: at most `limit` bytes, at most `idle` between two frames, at most `within` for all of it.
///
/// A body that came in one frame, as nearly all do, is returned as it is, without a copy; and one that is there already sets
/// no timer.
pub async fn read<B>(
    mut body: B,
    limit: usize,
    idle: Duration,
    within: Duration,
) -> Result<Bytes, ReadError>
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
        match &mut rest {
            Some(rest) => rest.extend_from_slice(&data),
            None if first.is_empty() => first = data,
            None => {
                let mut buffer = BytesMut::with_capacity(first.len() + data.len());
                buffer.extend_from_slice(&first);
                buffer.extend_from_slice(&data);
                rest = Some(buffer);
            }
        }
        if body.is_end_stream() {
            break;
        }
    }
    Ok(rest.map_or(first, BytesMut::freeze))
}

/// As much of a refused body is still taken off the wire, and for as long.
const DISCARD: (usize, Duration) = (16 << 20, Duration::from_secs(2));

/// Takes the rest of a body off the wire, within bounds, so that a client that writes all of its request before it reads
/// sees the answer and not a broken connection.
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
    // What is still there after that is cut off with the connection.
    let _ = tokio::time::timeout(within, rest).await;
}
