//! The thread that fills run in.
//!
//! A page that a backend waits for is a request in, a request out, an answer in, a write and an answer out, and next to
//! no work in between. Spread over threads, each of these steps would wake another one. In one thread they cost no more
//! than their system calls, and what becomes ready while it is busy leaves together: several requests in one packet,
//! several pages in one read.

use crate::Error;
use std::thread;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// A runtime with one thread of its own, which ends when this is dropped, and with it all tasks in there.
#[derive(Debug)]
pub struct FillThread {
    handle: Handle,
    /// Dropped, it tells the thread to end.
    _alive: oneshot::Sender<()>,
}

impl FillThread {
    /// Starts it.
    pub fn start() -> Result<FillThread, Error> {
        let failed = |error| Error::System("cannot start the thread for fills", error);
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (alive, ended) = oneshot::channel();
        thread::Builder::new().name("fill".into()).spawn(move || run(runtime, ended)).map_err(failed)?;
        Ok(FillThread { handle, _alive: alive })
    }

    /// Has the tasks and sockets that `make` makes belong to this thread.
    pub fn within<R>(&self, make: impl FnOnce() -> R) -> R {
        let _entered = self.handle.enter();
        make()
    }
}

fn run(runtime: Runtime, ended: oneshot::Receiver<()>) {
    // Nothing is ever sent: an error says that the other end was dropped.
    let _ = runtime.block_on(ended);
    // Work that blocks in threads of its own is not waited for.
    runtime.shutdown_background();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::ThreadId;

    async fn thread_of_a_task() -> ThreadId {
        tokio::spawn(async { thread::current().id() }).await.expect("the task runs")
    }

    #[tokio::test]
    async fn tasks_made_within_run_in_the_one_thread_until_it_ends() {
        let fills = FillThread::start().expect("started");
        let spawn = || tokio::spawn(async { (thread_of_a_task().await, thread_of_a_task().await) });
        let (one, other) = fills.within(spawn).await.expect("the task runs");
        assert_eq!(one, other);
        assert_ne!(one, thread::current().id());
        let endless = fills.within(|| tokio::spawn(std::future::pending::<()>()));
        drop(fills);
        assert!(endless.await.expect_err("ended with its thread").is_cancelled());
    }
}
