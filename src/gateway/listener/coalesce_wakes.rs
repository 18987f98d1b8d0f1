//! A future that wakes itself while it is polled, polled again in place.
//!
//! In: the future of a connection, whose parts talk to each other through channels and so wake
//! their own task all the time. Out: the same future, which bothers the runtime only with wakes
//! from outside. To the runtime a task that wakes itself is one more task to run, for which it
//! rouses an idle thread; that costs more than all the rest of a request. Must not do: lose a wake,
//! or keep a thread for itself.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

/// How often a future is polled in a row; then others have their turn.
const POLLS_IN_A_ROW: usize = 8;

const RESTING: u8 = 0;
const POLLED: u8 = 1;
const WOKEN: u8 = 2;

/// See the module.
pub struct CoalescedWakes<F> {
    future: Pin<Box<F>>,
    gate: Arc<Gate>,
    waker: Waker,
}

#[derive(Default)]
struct Gate {
    state: AtomicU8,
    outer: AtomicWaker,
}

impl Wake for Gate {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let polled =
            self.state
                .compare_exchange(POLLED, WOKEN, Ordering::AcqRel, Ordering::Acquire);
        // Woken while it was polled, from inside or outside, it will be polled again; at rest, the
        // outer task must be woken.
        if polled == Err(RESTING) {
            self.outer.wake();
        }
    }
}

impl<F> CoalescedWakes<F> {
    /// Takes the future.
    pub fn new(future: F) -> Self {
        let gate = Arc::new(Gate::default());
        let waker = Waker::from(Arc::clone(&gate));
        CoalescedWakes {
            future: Box::pin(future),
            gate,
            waker,
        }
    }
}

impl<F: Future> Future for CoalescedWakes<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        this.gate.outer.register(cx.waker());
        for _ in 0..POLLS_IN_A_ROW {
            this.gate.state.store(POLLED, Ordering::Release);
            let mut inner = Context::from_waker(&this.waker);
            if let Poll::Ready(output) = this.future.as_mut().poll(&mut inner) {
                return Poll::Ready(output);
            }
            let rests = this.gate.state.compare_exchange(
                POLLED,
                RESTING,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            if rests.is_ok() {
                return Poll::Pending;
            }
        }
        this.gate.state.store(RESTING, Ordering::Release);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Polls once a future that wakes itself at each of its first `times` polls; how often it was
    /// polled, and woke the runtime.
    fn polled(times: usize) -> (usize, usize) {
        let mut polls = 0;
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let polled = &mut polls;
        let mut future = CoalescedWakes::new(poll_fn(move |cx| {
            *polled += 1;
            if *polled <= times {
                cx.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        }));
        assert!(
            Pin::new(&mut future)
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        drop(future);
        (polls, count.0.load(Ordering::SeqCst))
    }

    #[test]
    fn a_future_that_wakes_itself_is_polled_again_in_place_but_not_for_ever() {
        assert_eq!(polled(0), (1, 0));
        assert_eq!(polled(3), (4, 0));
        assert_eq!(polled(1_000), (POLLS_IN_A_ROW, 1));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_from_another_thread_is_lost() {
        let (to, mut from) = tokio::sync::mpsc::channel(1);
        let sender = tokio::spawn(CoalescedWakes::new(async move {
            for number in 0..50_000_u32 {
                to.send(number).await.unwrap();
            }
        }));
        let receiver = tokio::spawn(CoalescedWakes::new(async move {
            let mut sum = 0_u64;
            while let Some(number) = from.recv().await {
                sum += u64::from(number);
            }
            sum
        }));
        let sum = tokio::time::timeout(std::time::Duration::from_secs(60), receiver);
        assert_eq!(sum.await.unwrap().unwrap(), 49_999 * 25_000);
        sender.await.unwrap();
    }
}
