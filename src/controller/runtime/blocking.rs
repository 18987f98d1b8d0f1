//! Work that takes the processor for long, on a thread that also runs watches.
//!
//! In: the work. Out: its result, once the runtime has given this thread's other tasks to another
//! one.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Does the work here. Tasks that would wait behind it on this thread are run elsewhere, where the
/// runtime has several threads.
pub fn in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => {
            tokio::task::block_in_place(work)
        }
        _ => work(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn other_tasks_go_on_while_one_thread_is_busy() {
        let (tell, told) = std::sync::mpsc::channel();
        // On the only thread of the runtime: without another one, the second task never runs.
        let busy = tokio::spawn(async move { in_place(|| told.recv()) });
        let other = tokio::spawn(async move { tell.send("done") });
        assert_eq!(busy.await.unwrap(), Ok("done"));
        assert_eq!(other.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn where_there_is_one_thread_it_is_done_all_the_same() {
        assert_eq!(in_place(|| 7), 7);
    }
}
