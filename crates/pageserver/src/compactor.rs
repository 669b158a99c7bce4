//! The thread that compacts, one for all branches of a pageserver.

use crate::timeline::Timeline;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::thread::{self, JoinHandle};
use tracing::error;

/// A handle to the thread.
#[derive(Clone, Debug, Default)]
pub struct Compactor {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    timelines: VecDeque<Weak<Timeline>>,
    ended: bool,
}

impl Compactor {
    /// Starts the thread; it ends with [`Compactor::end`].
    pub fn start(&self) -> std::io::Result<JoinHandle<()>> {
        let compactor = self.clone();
        thread::Builder::new().name("compaction".into()).spawn(move || compactor.work())
    }

    /// Asks for a timeline to be looked at.
    pub fn request(&self, timeline: &Arc<Timeline>) {
        let timeline = Arc::downgrade(timeline);
        let mut queue = self.lock();
        if !queue.timelines.iter().any(|waiting| waiting.ptr_eq(&timeline)) {
            queue.timelines.push_back(timeline);
            self.shared.changed.notify_one();
        }
    }

    /// Lets the thread end; a merge under way ends early once its timeline is shut down.
    pub fn end(&self) {
        self.lock().ended = true;
        self.shared.changed.notify_all();
    }

    fn work(&self) {
        lower_priority();
        while let Some(timeline) = self.next() {
            let Some(timeline) = timeline.upgrade() else { continue };
            match timeline.store().compact() {
                Ok(true) => self.request(&timeline),
                Ok(false) => {}
                Err(reason) if self.lock().ended => tracing::debug!(%reason, "compaction ends"),
                Err(reason) => error!(branch = %timeline.origin().timeline, %reason, "cannot compact"),
            }
        }
    }

    fn next(&self) -> Option<Weak<Timeline>> {
        let waiting = |queue: &mut Queue| queue.timelines.is_empty() && !queue.ended;
        let queue = self.shared.changed.wait_while(self.lock(), waiting);
        let mut queue = queue.expect("nothing panics while the queue is locked");
        match queue.ended {
            true => None,
            false => queue.timelines.pop_front(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.shared.queue.lock().expect("nothing panics while the queue is locked")
    }
}

/// Reads and ingest come first. On Linux the priority is the calling thread's alone.
fn lower_priority() {
    const NICENESS: i32 = 10;
    // SAFETY: the call takes three integers and touches no memory; a refusal changes nothing, and is no reason to stop.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
}
