//! One shard of a branch: what was ingested, pages at any LSN, and images of pages with long chains.
//!
//! A compute asks for block 7 of table 16384 as of the LSN it last wrote the page at. The read waits until ingest has
//! come that far, looks up that the table had more than seven blocks then, collects the block's
//! [chain](quire_layers::chain) from the [`Store`], and replays it. Meanwhile ingest applies record after record, and
//! image workers shorten the chains that grow past the branch's thresholds.
//!
//! Invariants:
//! - changes come in the order of the log, and a read at an LSN that was ingested gives the same page for ever, but for
//!   bytes that the log lacks: those come with pages as PostgreSQL wrote them, see [`ShardPages::keep_pages`];
//! - the chain of a newest version never exceeds the hard limit of [`quire_layers::image_policy`], if the caller of
//!   [`ShardPages::apply`] waits when it is told to;
//! - an image has the LSN of the last delta it includes, and a chain is given one image for each threshold it crosses.

mod backlog;
mod gate;
mod images;
mod keep;
mod progress;
mod read;
mod read_failures;
mod view;

#[cfg(test)]
mod tests;

pub use images::{ImageOutcome, Incomplete};
pub use keep::{KeepError, Kept};
pub use progress::{IngestHealth, Progress};
pub use read::PageChain;
pub use view::{LatestView, PatientView};

use crate::images::ImagePool;
use crate::metrics::ShardMetrics;
use crate::put_aside::PutAside;
use backlog::Backlog;
use bytes::Bytes;
use gate::IngestGate;
use parking_lot::RwLock;
use quire_files::Durability;
use quire_layers::chain::Redo;
use quire_layers::change::Change;
use quire_layers::error::{ApplyError, StorageError};
use quire_layers::guard::Guard;
use quire_layers::image_policy::ImageSettings;
use quire_layers::manifest::Origin;
use quire_layers::store::Store;
use quire_layers::value::Version;
use quire_protocol::chain_file::ChainFile;
use quire_types::{Key, Lsn};
use read_failures::ReadFailures;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};
use std::time::Instant;
use tokio::sync::{Notify, watch};
use tracing::error;

/// Memtables that may wait to be flushed before ingest has to.
const FROZEN_MEMTABLES_MAX: usize = 3;

/// What a shard is made of, beside its store.
#[derive(Clone, Debug)]
pub struct ShardPagesParts {
    /// Applies deltas to pages.
    pub redo: Redo,
    /// Pages that may wait for an image before ingest has to.
    pub backlog_max: usize,
    /// Who makes the images.
    pub pool: Arc<ImagePool>,
    /// Where to count.
    pub metrics: ShardMetrics,
    /// What is not done any more.
    pub put_aside: PutAside,
}

/// One shard of a branch.
#[derive(Debug)]
pub struct ShardPages {
    this: Weak<ShardPages>,
    origin: Origin,
    store: Store,
    progress: watch::Sender<Progress>,
    /// [`Progress::durable`] alone: it moves seldom, and who waits for it need not wake for each record.
    durable: watch::Sender<Lsn>,
    settings: RwLock<ImageSettings>,
    settled: AtomicU64,
    guard: Guard,
    backlog: Backlog,
    gate: IngestGate,
    read_failures: ReadFailures,
    froze: Notify,
    parts: ShardPagesParts,
}

impl ShardPages {
    /// The pages that the store has; chains that are too long already are queued.
    pub fn new(store: Store, parts: ShardPagesParts) -> Arc<ShardPages> {
        let durable = store.durable();
        let pages = Arc::new_cyclic(|this| ShardPages {
            this: Weak::clone(this),
            origin: store.origin(),
            settings: RwLock::new(store.settings()),
            store,
            settled: AtomicU64::new(0),
            guard: Guard::default(),
            progress: watch::Sender::new(Progress::at(durable)),
            durable: watch::Sender::new(durable),
            backlog: Backlog::new(parts.backlog_max),
            gate: IngestGate::default(),
            read_failures: ReadFailures::default(),
            froze: Notify::new(),
            parts,
        });
        pages.sweep();
        pages
    }

    /// What is not done any more because this process panicked of it.
    pub fn put_aside(&self) -> &PutAside {
        &self.parts.put_aside
    }

    /// Writes what there is of the pages that are put aside to where the notes of the panics are.
    pub fn write_evidence(&self) {
        for key in self.put_aside().pages.keys() {
            let name = format!("{}-{key}.chain", self.origin.branch).replace('/', "_");
            let path = self.put_aside().folder.join(name);
            let written = self.stored_chain(*key, self.progress().ingested).map(|chain| {
                let versions = chain.versions().filter_map(Version::to_message).collect();
                let file = ChainFile { key: *key, versions };
                quire_files::publish(&path, &file.encode(), Durability::Machine)
            });
            let place = path.display();
            match written {
                Ok(Ok(())) => {
                    error!(branch = %self.origin.branch, %key, evidence = %place, "a page is not redone: redo panicked twice")
                }
                Ok(Err(reason)) => {
                    error!(branch = %self.origin.branch, %key, %reason, "cannot write evidence of a page that is not redone")
                }
                Err(reason) => {
                    error!(branch = %self.origin.branch, %key, %reason, "cannot read a page that is not redone")
                }
            }
        }
    }

    /// What was imported.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Its storage.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Relations of which redo is not trusted.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Its counters.
    pub fn metrics(&self) -> &ShardMetrics {
        &self.parts.metrics
    }

    /// Takes in the changes of the record that ends at `end`. If it says that the workers are behind, the caller has to
    /// [wait](ShardPages::wait_for_room) before the next record. Who waits for records hears of them when they are
    /// [announced](ShardPages::announce_ingested).
    pub fn apply(&self, changes: &[Change], end: Lsn) -> Result<MustWait, ApplyError> {
        let ingested = self.progress().ingested;
        if end <= ingested {
            return Err(ApplyError::OutOfOrder { lsn: end, ingested });
        }
        let versions = changes.iter().map(|change| version_of(change, end, ingested)).collect::<Result<_, _>>()?;
        let touched = self.store.insert(versions)?;
        self.progress.send_if_modified(|progress| {
            progress.ingested = end;
            false
        });
        Ok(self.consider(&touched))
    }

    /// Closes the open memtable at the end of the last record; `ingest_state` is ingest's state there. Nothing is done
    /// if nothing came since the last time.
    pub fn freeze(&self, ingest_state: Bytes) {
        let Progress { ingested, frozen, .. } = self.progress();
        if ingested > frozen || self.store.open_bytes() > 0 {
            self.store.freeze(ingested, ingest_state);
            self.progress.send_modify(|progress| progress.frozen = ingested);
            self.froze.notify_one();
        }
    }

    /// Returns when there is something to flush.
    pub async fn wait_for_freeze(&self) {
        self.froze.notified().await;
    }

    /// Flushes all frozen memtables. After an error they are as they were, and the progress says why.
    pub fn flush(&self) -> Result<(), StorageError> {
        let result = self.flush_frozen();
        self.note_flush(result.as_ref().err());
        result
    }

    fn flush_frozen(&self) -> Result<(), StorageError> {
        while let Some(durable) = self.store.flush()? {
            self.progress.send_modify(|progress| progress.durable = durable);
            self.durable.send_replace(durable);
            self.gate.announce();
        }
        Ok(())
    }

    /// When to make images.
    pub fn settings(&self) -> ImageSettings {
        *self.settings.read()
    }

    /// Changes when to make images, durably and at once: pages that are past a lower threshold are queued.
    pub fn set_settings(&self, settings: ImageSettings) -> Result<(), StorageError> {
        self.store.set_settings(settings)?;
        *self.settings.write() = settings;
        self.sweep();
        Ok(())
    }

    /// Says that something could not be read, if it was not said a moment ago.
    pub fn note_unread(&self, reason: &StorageError) {
        if self.read_failures.note(reason.to_string(), Instant::now()) {
            error!(branch = %self.origin.branch, %reason, "read failed; dependent requests wait or fail");
        }
    }

    /// What could not be read just now.
    pub fn unread(&self) -> Option<String> {
        self.read_failures.latest(Instant::now())
    }

    /// Blocks until the image workers and flushes have caught up, or ingest is over.
    pub fn wait_for_room(&self) {
        self.gate.wait_until(|| self.has_room() || self.progress.borrow().health.is_stopped());
    }

    fn has_room(&self) -> bool {
        self.backlog.has_room() && self.store.frozen_memtables() < FROZEN_MEMTABLES_MAX
    }

    /// Lets everybody go who waits for room, and writes nothing any more.
    pub fn shut_down(&self) {
        self.gate.end();
        self.store.close();
    }
}

/// Whether ingest has to wait for the workers.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MustWait {
    /// The next record may come.
    No,
    /// [`ShardPages::wait_for_room`] comes first.
    Yes,
}

fn version_of(change: &Change, end: Lsn, ingested: Lsn) -> Result<(Key, Version), ApplyError> {
    if change.lsn != end {
        return Err(ApplyError::OutOfOrder { lsn: change.lsn, ingested });
    }
    let version = Version::new(change.key, end, &change.value).ok_or(ApplyError::WrongKind(change.key))?;
    Ok((change.key, version))
}
