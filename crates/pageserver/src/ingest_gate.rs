//! Where ingest waits for flushes and image workers.

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Whether ingest has to wait for the workers.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MustWait {
    /// The next record may come.
    No,
    /// There has to be [room](crate::shard_pages::ShardPages::wait_for_room) first.
    Yes,
}

/// A condition that others make true. What is waited for is checked under a lock that those who announce take too, and
/// they hold no other lock when they do.
#[derive(Debug, Default)]
pub struct IngestGate {
    ended: Mutex<bool>,
    changed: Condvar,
}

impl IngestGate {
    /// Blocks until `is_relieved`, or for good reason no longer.
    pub fn wait_until(&self, is_relieved: impl Fn() -> bool) {
        self.changed.wait_while(&mut self.lock(), |ended| !*ended && !is_relieved());
    }

    /// Blocks for a while; says whether anybody is still to wait.
    pub fn pause(&self, time: Duration) -> bool {
        let mut ended = self.lock();
        self.changed.wait_while_for(&mut ended, |ended| !*ended, time);
        !*ended
    }

    /// Something changed that may be waited for.
    pub fn announce(&self) {
        drop(self.lock());
        self.changed.notify_all();
    }

    /// No thread is to wait any more.
    pub fn end(&self) {
        *self.lock() = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.ended.lock()
    }
}
