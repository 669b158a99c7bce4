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
//!   [`ShardPages::apply`] waits when it is told to.

mod keep;
mod progress;
mod read;
mod view;

#[cfg(test)]
mod tests;

pub use keep::{KeepError, Kept};
pub use progress::{IngestHealth, Progress};
pub use read::PageChain;
pub use view::{LatestView, PatientView};

use crate::images::{ImageMaker, ImagePool};
use crate::ingest_gate::{IngestGate, MustWait};
use crate::metrics::ShardMetrics;
use crate::put_aside::PutAside;
use crate::rebuilder::Rebuilder;
use bytes::Bytes;
use quire_files::Durability;
use quire_layers::chain::Redo;
use quire_layers::change::Change;
use quire_layers::error::{ApplyError, StorageError};
use quire_layers::guard::Guard;
use quire_layers::manifest::Origin;
use quire_layers::store::Store;
use quire_layers::value::Version;
use quire_protocol::chain_file::ChainFile;
use quire_types::{Key, Lsn};
use std::sync::Arc;
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
    rebuilder: Arc<Rebuilder>,
    images: Arc<ImageMaker>,
    progress: watch::Sender<Progress>,
    /// [`Progress::durable`] alone: it moves seldom, and who waits for it need not wake for each record.
    durable: watch::Sender<Lsn>,
    gate: Arc<IngestGate>,
    froze: Notify,
    metrics: ShardMetrics,
}

impl ShardPages {
    /// The pages that the store has; chains that are too long already are queued.
    pub fn new(store: Store, parts: ShardPagesParts) -> Arc<ShardPages> {
        let ShardPagesParts { redo, backlog_max, pool, metrics, put_aside } = parts;
        let durable = store.durable();
        let (rebuilder, gate) = (Arc::new(Rebuilder::new(store, redo, put_aside)), Arc::new(IngestGate::default()));
        let images = ImageMaker::new(Arc::clone(&rebuilder), Arc::clone(&gate), pool, backlog_max, metrics.clone());
        Arc::new(ShardPages {
            rebuilder,
            images,
            progress: watch::Sender::new(Progress::at(durable)),
            durable: watch::Sender::new(durable),
            gate,
            froze: Notify::new(),
            metrics,
        })
    }

    /// What is not done any more because this process panicked of it.
    pub fn put_aside(&self) -> &PutAside {
        self.rebuilder.put_aside()
    }

    /// Writes what there is of the pages that are put aside to where the notes of the panics are.
    pub fn write_evidence(&self) {
        for key in self.put_aside().pages.keys() {
            let name = format!("{}-{key}.chain", self.origin().branch).replace('/', "_");
            let path = self.put_aside().folder.join(name);
            let written = self.rebuilder.chain(*key, self.progress().ingested).map(|chain| {
                let versions = chain.versions().filter_map(Version::to_message).collect();
                let file = ChainFile { key: *key, versions };
                quire_files::publish(&path, &file.encode(), Durability::Machine)
            });
            let place = path.display();
            match written {
                Ok(Ok(())) => {
                    error!(branch = %self.origin().branch, %key, evidence = %place, "a page is not redone: redo panicked twice")
                }
                Ok(Err(reason)) => {
                    error!(branch = %self.origin().branch, %key, %reason, "cannot write evidence of a page that is not redone")
                }
                Err(reason) => {
                    error!(branch = %self.origin().branch, %key, %reason, "cannot read a page that is not redone")
                }
            }
        }
    }

    /// What was imported.
    pub fn origin(&self) -> &Origin {
        self.rebuilder.origin()
    }

    /// Its storage.
    pub fn store(&self) -> &Store {
        self.rebuilder.store()
    }

    /// Relations of which redo is not trusted.
    pub fn guard(&self) -> &Guard {
        self.rebuilder.guard()
    }

    /// What makes its images.
    pub fn images(&self) -> &Arc<ImageMaker> {
        &self.images
    }

    /// Its counters.
    pub fn metrics(&self) -> &ShardMetrics {
        &self.metrics
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
        let touched = self.store().insert(versions)?;
        self.progress.send_if_modified(|progress| {
            progress.ingested = end;
            false
        });
        Ok(self.images.consider(&touched))
    }

    /// Closes the open memtable at the end of the last record; `ingest_state` is ingest's state there. Nothing is done
    /// if nothing came since the last time.
    pub fn freeze(&self, ingest_state: Bytes) {
        let Progress { ingested, frozen, .. } = self.progress();
        if ingested > frozen || self.store().open_bytes() > 0 {
            self.store().freeze(ingested, ingest_state);
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
        while let Some(durable) = self.store().flush()? {
            self.progress.send_modify(|progress| progress.durable = durable);
            self.durable.send_replace(durable);
            self.gate.announce();
        }
        Ok(())
    }

    /// Logs that something could not be read, unless it was logged a moment ago.
    pub fn note_unread(&self, reason: &StorageError) {
        self.rebuilder.note_unread(reason);
    }

    /// What could not be read just now.
    pub fn unread(&self) -> Option<String> {
        self.rebuilder.unread()
    }

    /// Blocks until the image workers and flushes have caught up, or ingest is over.
    pub fn wait_for_room(&self) {
        self.gate.wait_until(|| self.has_room() || self.progress.borrow().health.is_stopped());
    }

    fn has_room(&self) -> bool {
        self.images.has_room() && self.store().frozen_memtables() < FROZEN_MEMTABLES_MAX
    }

    /// Lets everybody go who waits for room, and writes nothing any more.
    pub fn shut_down(&self) {
        self.gate.end();
        self.store().close();
    }
}

fn version_of(change: &Change, end: Lsn, ingested: Lsn) -> Result<(Key, Version), ApplyError> {
    if change.lsn != end {
        return Err(ApplyError::OutOfOrder { lsn: change.lsn, ingested });
    }
    let version = Version::new(change.key, end, &change.value).ok_or(ApplyError::WrongKind(change.key))?;
    Ok((change.key, version))
}
