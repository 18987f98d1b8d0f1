//! Where a connection runs its requests.
//!
//! In: a request. Out: its answer. The future that answers a request has several KiB. A connection
//! that held it in place would keep them for as long as it is open, and a stream is open for hours
//! after its request was answered; a box for each request would allocate and copy those KiB each
//! time. So one boxed task answers request after request, and a stream gives it up. Must not do:
//! run two requests in one task; if two overlap, each has its own.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Response;
use http_body::Body as _;
use parking_lot::Mutex;

use crate::gateway::body::Body;

/// What answers the requests of a connection.
pub trait Responder<R>: Send + Sync + 'static {
    /// Answers one.
    fn respond(&self, request: R) -> impl Future<Output = Response<Body>> + Send;
}

/// Runs the requests of one connection.
pub struct RequestRunner<R, A> {
    responder: A,
    /// The task, while no request is in it.
    free: Mutex<Option<RequestTask<R>>>,
}

/// Answers what is handed over, and then waits for more. It has no waker of its own: it is polled
/// as the request that it answers.
struct RequestTask<R> {
    future: Pin<Box<dyn Future<Output = Infallible> + Send>>,
    handover: Arc<Handover<R>>,
}

struct Handover<R> {
    request: Mutex<Option<R>>,
    answer: Mutex<Option<Response<Body>>>,
}

impl<R: Send + 'static, A: Responder<R>> RequestRunner<R, A> {
    /// No request yet.
    pub fn new(responder: A) -> Arc<Self> {
        Arc::new(RequestRunner {
            responder,
            free: Mutex::new(None),
        })
    }

    /// Answers a request.
    pub fn run(self: &Arc<Self>, request: R) -> RunningRequest<R, A> {
        let free = self.free.lock().take();
        let task = free.unwrap_or_else(|| self.start());
        *task.handover.request.lock() = Some(request);
        RunningRequest {
            task: Some(task),
            runner: Arc::clone(self),
        }
    }

    fn start(self: &Arc<Self>) -> RequestTask<R> {
        let handover = Arc::new(Handover {
            request: Mutex::new(None),
            answer: Mutex::new(None),
        });
        let (runner, handed) = (Arc::downgrade(self), Arc::clone(&handover));
        let future = Box::pin(async move {
            loop {
                let request = poll_fn(|_| match handed.request.lock().take() {
                    Some(request) => Poll::Ready(request),
                    None => Poll::Pending,
                });
                let request = request.await;
                // A request in progress keeps the runner.
                if let Some(runner) = runner.upgrade() {
                    let answer = runner.responder.respond(request).await;
                    *handed.answer.lock() = Some(answer);
                }
            }
        });
        RequestTask { future, handover }
    }
}

/// A request in progress. Its task goes back to the connection, unless the answer is a stream.
pub struct RunningRequest<R, A> {
    /// None once it has been answered.
    task: Option<RequestTask<R>>,
    runner: Arc<RequestRunner<R, A>>,
}

impl<R, A> Future for RunningRequest<R, A> {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(task) = &mut self.task else {
            return Poll::Pending;
        };
        // Never ready: after an answer it waits for the next request.
        let _ = task.future.as_mut().poll(context);
        let Some(answer) = task.handover.answer.lock().take() else {
            return Poll::Pending;
        };
        let free = self.task.take();
        if answer.body().size_hint().exact().is_some() {
            *self.runner.free.lock() = free;
        }
        Poll::Ready(Ok(answer))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;
    use crate::gateway::body::full;

    /// Answers a number with as many bytes, zero with a stream, and a negative one never.
    struct Sizes;

    impl Responder<isize> for Sizes {
        async fn respond(&self, request: isize) -> Response<Body> {
            tokio::task::yield_now().await;
            Response::new(match usize::try_from(request) {
                Ok(0) => StreamBody::new(futures::stream::pending()).boxed_unsync(),
                Ok(size) => full(Bytes::from(vec![b'x'; size])),
                Err(_) => std::future::pending().await,
            })
        }
    }

    fn is_free(runner: &RequestRunner<isize, Sizes>) -> bool {
        runner.free.lock().is_some()
    }

    async fn size(running: RunningRequest<isize, Sizes>) -> Option<u64> {
        let Ok(answer) = running.await;
        answer.body().size_hint().exact()
    }

    #[tokio::test]
    async fn one_task_answers_request_after_request_and_a_stream_gives_it_up() {
        let runner = RequestRunner::new(Sizes);
        for wanted in [1, 2, 3] {
            let running = runner.run(wanted);
            assert!(!is_free(&runner), "the request has it");
            assert_eq!(size(running).await, u64::try_from(wanted).ok());
            assert!(is_free(&runner), "it has come back");
        }
        let Ok(stream) = runner.run(0).await;
        assert!(!is_free(&runner), "a stream does not keep it");
        assert_eq!(size(runner.run(5)).await, Some(5), "beside the stream");
        drop(stream);
    }

    #[tokio::test]
    async fn requests_that_overlap_or_are_given_up_do_not_meet() {
        let runner = RequestRunner::new(Sizes);
        let mut stuck = Box::pin(runner.run(-1));
        assert!(futures::poll!(stuck.as_mut()).is_pending());
        let (one, two) = (runner.run(1), runner.run(2));
        assert_eq!(size(two).await, Some(2));
        assert_eq!(size(one).await, Some(1));
        drop(stuck);
        // Never polled: its request is not answered in the place of another.
        drop(runner.run(7));
        assert_eq!(size(runner.run(3)).await, Some(3));
    }

    #[tokio::test]
    async fn nothing_is_left_once_the_connection_has_ended() {
        let runner = RequestRunner::new(Sizes);
        assert_eq!(size(runner.run(1)).await, Some(1));
        let left = Arc::downgrade(&runner);
        drop(runner);
        assert!(left.upgrade().is_none(), "the task does not keep it");
    }
}
