//! A connection that ends when its peer reads nothing for too long.
//!
//! In: a connection. Out: the same, whose writes fail once a write has waited for [`WRITE_WITHIN`].
//! Unread data stays in memory: without the timeout, a client that reads nothing would keep it
//! there indefinitely. Must not do: set a timer for a write that completes at once, as nearly all
//! do.

use std::future::Future as _;
use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::time::{Sleep, sleep};

/// A client that has taken no byte for this long is cut off.
pub const WRITE_WITHIN: Duration = Duration::from_secs(30);

/// See the module.
pub struct Timed<I> {
    io: I,
    /// Set while a write waits.
    waits: Option<Pin<Box<Sleep>>>,
}

impl<I> Timed<I> {
    /// Takes the connection.
    pub fn new(io: I) -> Self {
        Timed { io, waits: None }
    }

    fn watched<T>(
        &mut self,
        wrote: Poll<Result<T, Error>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, Error>> {
        if wrote.is_ready() {
            self.waits = None;
            return wrote;
        }
        let waits = self
            .waits
            .get_or_insert_with(|| Box::pin(sleep(WRITE_WITHIN)));
        match waits.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(Error::new(
                ErrorKind::TimedOut,
                "the client reads nothing",
            ))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<I: Read + Unpin> Read for Timed<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<I: Write + Unpin> Write for Timed<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, Error>> {
        let wrote = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.watched(wrote, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[std::io::IoSlice<'_>],
    ) -> Poll<Result<usize, Error>> {
        let wrote = Pin::new(&mut self.io).poll_write_vectored(cx, bytes);
        self.watched(wrote, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        // What TLS has not handed on yet waits here; a flush with nothing to do says nothing of a
        // write that waits.
        if flushed.is_ready() {
            return flushed;
        }
        self.watched(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let shut = Pin::new(&mut self.io).poll_shutdown(cx);
        self.watched(shut, cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use hyper_util::rt::TokioIo;
    use tokio::io::AsyncReadExt as _;
    use tokio::time::Instant;

    use super::*;

    async fn write(io: &mut Timed<TokioIo<tokio::io::DuplexStream>>) -> Result<usize, Error> {
        poll_fn(|cx| Pin::new(&mut *io).poll_write(cx, &[7; 64])).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_nobody_takes_fails_and_one_that_is_slow_does_not() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut io = Timed::new(TokioIo::new(near));
        assert_eq!(write(&mut io).await.unwrap(), 64);
        for _ in 0..3 {
            let started = Instant::now();
            let reader = async {
                sleep(WRITE_WITHIN - Duration::from_secs(1)).await;
                far.read_exact(&mut [0; 64]).await.unwrap();
            };
            let (wrote, ()) = tokio::join!(write(&mut io), reader);
            assert_eq!(wrote.unwrap(), 64);
            assert!(started.elapsed() < WRITE_WITHIN);
        }
        let error = write(&mut io).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
