//! The thread that compacts, one for all branches of a pageserver.

use crate::shard_pages::ShardPages;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tracing::error;

/// How long a merge that failed is not tried again: it may have read much before it came to what is damaged.
const FAILURE_PAUSE: Duration = Duration::from_secs(60);

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
    shards: VecDeque<Weak<ShardPages>>,
    /// Where a merge failed, and when it may be tried again.
    failed: Vec<(Weak<ShardPages>, Instant)>,
    ended: bool,
}

impl Compactor {
    /// Starts the thread; it ends with [`Compactor::end`].
    pub fn start(&self) -> std::io::Result<JoinHandle<()>> {
        let compactor = self.clone();
        thread::Builder::new().name("compaction".into()).spawn(move || compactor.work())
    }

    /// Asks for a shard to be looked at; not soon after a merge of it has failed.
    pub fn request(&self, pages: &Arc<ShardPages>) {
        let pages = Arc::downgrade(pages);
        let (mut queue, now) = (self.lock(), Instant::now());
        queue.failed.retain(|(_, until)| *until > now);
        if queue.failed.iter().any(|(failed, _)| failed.ptr_eq(&pages)) {
            return;
        }
        if !queue.shards.iter().any(|waiting| waiting.ptr_eq(&pages)) {
            queue.shards.push_back(pages);
            self.shared.changed.notify_one();
        }
    }

    /// Lets the thread end; a merge under way ends early once its shard is shut down.
    pub fn end(&self) {
        self.lock().ended = true;
        self.shared.changed.notify_all();
    }

    fn work(&self) {
        lower_priority();
        while let Some(pages) = self.next() {
            quire_crash::plant("pageserver.compaction");
            let Some(pages) = pages.upgrade() else { continue };
            match pages.store().compact() {
                Ok(true) => self.request(&pages),
                Ok(false) => {}
                Err(reason) if self.lock().ended => tracing::debug!(%reason, "compaction ends"),
                Err(reason) => {
                    error!(branch = %pages.origin().branch, %reason, "cannot compact, will retry");
                    self.lock().failed.push((Arc::downgrade(&pages), Instant::now() + FAILURE_PAUSE));
                }
            }
        }
    }

    fn next(&self) -> Option<Weak<ShardPages>> {
        let waiting = |queue: &mut Queue| queue.shards.is_empty() && !queue.ended;
        let mut queue = self.lock();
        self.shared.changed.wait_while(&mut queue, waiting);
        if queue.ended { None } else { queue.shards.pop_front() }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.shared.queue.lock()
    }
}

/// Reads and ingest come first. On Linux the priority is the calling thread's alone.
fn lower_priority() {
    const NICENESS: i32 = 10;
    // SAFETY: the call takes three integers and touches no memory; a refusal changes nothing, and is no reason to stop.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) };
}
