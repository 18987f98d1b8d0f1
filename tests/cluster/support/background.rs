//! A runtime that outlives each test's own.

use std::future::Future;
use std::sync::mpsc;

use tokio::runtime::Handle;

/// A thread with a runtime for what goes on beside the tests: each of those has a runtime that ends
/// with it.
///
/// Processes are started from this one thread, as the kernel ends them with the thread that started
/// them.
pub struct Background {
    pub handle: Handle,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Background {
    pub fn start() -> Self {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let handle = runtime.handle().clone();
        let thread = std::thread::spawn(move || {
            let _ = runtime.block_on(stopped);
        });
        Background {
            handle,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Runs it there and waits here, which is why it must not be called from there.
    pub fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        self.handle.spawn(async move { sender.send(future.await) });
        receiver.recv().expect("it panicked; see above")
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
