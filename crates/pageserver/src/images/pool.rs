//! The threads that make images, shared by all branches of a pageserver.
//!
//! Each queued page puts one token with its shard into the pool. A worker takes a token and makes the next image of
//! that shard, so branches are served in the order in which their pages were queued.

use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};

/// Has pages that wait for an image.
pub trait HasBacklog: Send + Sync + std::fmt::Debug {
    /// Makes the image of the page that has waited longest.
    fn work_off(self: Arc<Self>);
}

/// Work for the threads.
#[derive(Debug, Default)]
pub struct ImagePool {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    tokens: VecDeque<Weak<dyn HasBacklog>>,
    ended: bool,
}

impl ImagePool {
    /// A pool without threads.
    pub fn new() -> Arc<ImagePool> {
        Arc::default()
    }

    /// Starts `threads` workers; they end with [`ImagePool::end`].
    pub fn start(self: &Arc<ImagePool>, threads: usize) -> std::io::Result<Vec<JoinHandle<()>>> {
        let start = |number| {
            let pool = Arc::clone(self);
            thread::Builder::new().name(format!("images-{number}")).spawn(move || pool.work())
        };
        (0..threads).map(start).collect()
    }

    /// One more page of this shard waits.
    pub fn add(&self, shard: Weak<dyn HasBacklog>) {
        self.lock().tokens.push_back(shard);
        self.changed.notify_one();
    }

    /// Lets the workers end.
    pub fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn work(&self) {
        while let Some(token) = self.next() {
            quire_crash::plant("pageserver.images");
            if let Some(shard) = token.upgrade() {
                shard.work_off();
            }
        }
    }

    fn next(&self) -> Option<Weak<dyn HasBacklog>> {
        let waiting = |inner: &mut Inner| inner.tokens.is_empty() && !inner.ended;
        let mut inner = self.lock();
        self.changed.wait_while(&mut inner, waiting);
        if inner.ended { None } else { inner.tokens.pop_front() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }
}
