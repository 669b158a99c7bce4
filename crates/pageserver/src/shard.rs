//! A shard of a branch that is open, and the tasks that keep it going.

use crate::compactor::Compactor;
use crate::pipeline::{LogEnd, Pipeline, PipelineError};
use crate::shard_pages::{KeepError, ShardPages};
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use quire_layers::error::{ReadError, StorageError};
use quire_layers::small_files::{FileError, SmallFiles};
use quire_protocol::page::{FileVersion, GUARD_PREFIX, Keeping, SmallFile, WrittenPage};
use quire_types::{Key, Lsn, Term};
use quire_wal::effects::FullPageWrites;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::spawn_blocking;
use tracing::{error, info};

/// How often a shard looks whether its memtable is old.
const AGE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How often images are tried again that failed of files that could not be read.
const UNREAD_IMAGES_INTERVAL: Duration = Duration::from_secs(30);

/// An open shard.
#[derive(Debug)]
pub struct Shard {
    pages: Arc<ShardPages>,
    pipeline: Mutex<Pipeline>,
    files: SmallFiles,
    /// A request to keep pages may have to wait for ingest, and then one thread is enough for it.
    keeping: Arc<Semaphore>,
}

impl Shard {
    /// Pages with the one who feeds them, and what is kept outside WAL.
    pub fn new(pages: Arc<ShardPages>, pipeline: Pipeline, files: SmallFiles) -> Result<Arc<Shard>, FileError> {
        pages.images().settle(files.settled());
        files.each(GUARD_PREFIX, |file| pages.guard().kept(&file.name, file.lsn))?;
        Ok(Arc::new(Shard { pages, pipeline: Mutex::new(pipeline), files, keeping: Arc::new(Semaphore::new(1)) }))
    }

    /// What was ingested.
    pub fn pages(&self) -> &Arc<ShardPages> {
        &self.pages
    }

    /// What PostgreSQL keeps outside WAL.
    pub fn files(&self) -> &SmallFiles {
        &self.files
    }

    /// Refuses the writes of all lower terms from now on, durably. What the log lacks up to now is settled then: no
    /// compute can send it any more.
    pub fn fence(&self, term: Term) -> Result<(), FileError> {
        self.files.fence(term, self.pages.progress().ingested)?;
        self.pages.images().settle(self.files.settled());
        Ok(())
    }

    /// Keeps a small file, durably.
    pub fn put_file(&self, version: FileVersion, file: &SmallFile) -> Result<(), FileError> {
        self.files.put(version, file)?;
        self.pages.guard().kept(&file.name, file.lsn);
        Ok(())
    }

    /// Forgets a small file, durably.
    pub fn remove_file(&self, version: FileVersion, name: &str) -> Result<(), FileError> {
        self.files.remove(version, name)?;
        self.pages.guard().removed(name);
        Ok(())
    }

    /// A turn at [`Shard::keep_pages`].
    pub async fn turn_to_keep(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.keeping).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Keeps pages as PostgreSQL wrote them, durably. Blocks while ingest waits for room.
    pub fn keep_pages(&self, term: Term, upto: Lsn, pages: &[WrittenPage]) -> Result<Vec<Keeping>, KeepError> {
        let keepings = {
            let mut pipeline = self.pipeline();
            // Under the lock of the files, so that nothing of this term is kept once another term has fenced them.
            self.files.in_term(term, || pipeline.keep(upto, pages))??
        };
        // All frozen memtables are flushed, also where another thread flushes some.
        if keepings.contains(&Keeping::Kept) {
            self.pages.flush()?;
        }
        Ok(keepings)
    }

    /// The next byte of WAL that is needed.
    pub fn wal_position(&self) -> Lsn {
        self.pipeline().position()
    }

    /// Takes WAL; see [`Pipeline::feed`]. Blocks while storage is behind.
    pub fn feed(&self, begin: Lsn, wal: &Bytes) -> Result<Lsn, PipelineError> {
        self.pipeline().feed(begin, wal)
    }

    /// What a shutdown checkpoint at `lsn` has to say; none if ingest is not exactly there.
    pub fn log_end(&self, lsn: Lsn) -> Option<LogEnd> {
        self.pipeline().log_end(lsn)
    }

    /// What the log says of full-page writes.
    pub fn full_page_writes(&self) -> Result<Option<FullPageWrites>, ReadError> {
        let key = Key::FullPageWrites;
        let value = self.pages.value(key, self.pages.progress().ingested)?;
        let decode = |raw: Bytes| FullPageWrites::decode(&raw).map_err(|source| ReadError::Value { key, source });
        value.map(decode).transpose()
    }

    /// Freezes a memtable that is due and flushes what is frozen.
    fn maintain(&self) -> Result<(), StorageError> {
        // Ingest that is busy freezes by itself, and may be waiting for this very flush.
        if let Some(mut pipeline) = self.pipeline.try_lock() {
            pipeline.freeze_if_due();
        }
        self.pages.flush()
    }

    fn pipeline(&self) -> MutexGuard<'_, Pipeline> {
        self.pipeline.lock()
    }
}

/// Keeps a shard's memtables moving until shutdown: old ones are frozen, frozen ones flushed, layers handed to
/// compaction. A flush that failed and left nothing, as on a full disk, is tried again; ingest waits for it once memory
/// holds enough.
pub async fn keep_flushing(shard: Arc<Shard>, compactor: Compactor, mut shutdown: watch::Receiver<bool>) {
    let name = shard.pages.origin().branch;
    let mut is_held = false;
    let mut images_retried = Instant::now();
    let mut ticks = tokio::time::interval(AGE_CHECK_INTERVAL);
    loop {
        quire_crash::plant("pageserver.flush");
        tokio::select! {
            _ = shutdown.wait_for(|ended| *ended) => return,
            () = shard.pages.wait_for_freeze() => {}
            _ = ticks.tick() => {}
        }
        if images_retried.elapsed() >= UNREAD_IMAGES_INTERVAL {
            shard.pages.images().retry_unread();
            images_retried = Instant::now();
        }
        let maintained = spawn_blocking({
            let shard = Arc::clone(&shard);
            move || shard.maintain()
        });
        match maintained.await {
            Ok(Ok(())) => {
                if std::mem::take(&mut is_held) {
                    info!(branch = %name, "flushing resumed");
                }
                compactor.request(&shard.pages);
            }
            Ok(Err(reason)) if shard.pages.store().has_failed() => {
                error!(branch = %name, %reason, "cannot flush; ingest stopped");
                shard.pages.stop_ingest(&reason.to_string());
                return;
            }
            Ok(Err(reason)) => {
                if !std::mem::replace(&mut is_held, true) {
                    error!(branch = %name, %reason, "cannot flush, will retry");
                }
            }
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests;
