//! Keeps the cache within its bound: pages that storage can rebuild exactly leave it.
//!
//! `horizon` says which writes are old enough for that by what `observer` sees, `sweep` takes pages out,
//! `quire_cache::protocol` keeps that apart from what PostgreSQL does at the same time.
//!
//! What is asked for again is read at the LSN in the file's meta header, which a sweep raises to one that is committed,
//! that storage has, and that is no older than the moment the epoch became safe. One LSN for a file is enough: a block
//! that is absent was not modified since it left (or since the start), except in PostgreSQL's buffers, from which it
//! will be written over the hole before anybody reads it from the file. So all of the log between the LSN it left at
//! and the newest that any block of the file left at says nothing of this block that a reader of the file could miss.
//! That no other compute writes in between needs no trust: the LSN was committed in this term, and what is before it
//! in the log is fixed.
//!
//! Never dropped: SLRU pages, free space maps, unlogged and temporary relations, pages without an LSN, sequences, and
//! whatever storage still has to be given as PostgreSQL wrote it ([`crate::as_written`]).

mod horizon;
mod observer;
mod sweep;

use crate::as_written::PartialPages;
use crate::fill::Files;
use crate::fullness::Fullness;
use crate::metrics::Metrics;
use crate::quorum::Quorum;
use crate::storage_position::Position;
use crate::{Config, Error};
use observer::{Observer, Safe};
use quire_cache::ControlMap;
use std::sync::Arc;
use std::time::Duration;
use sweep::{Contents, Hand, Quota, sweep};
use tokio::sync::watch;

const INTERVAL: Duration = Duration::from_millis(250);
/// The longest time between two looks at a cache that is far from its bound, and how fast one is taken to fill.
const INTERVAL_MAX: Duration = Duration::from_secs(5);
const FILL_BYTES_PER_SECOND: u64 = 1 << 30;
/// The shortest, while fills call for a sweep.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
const INTERVAL_EVERYTHING: Duration = Duration::from_millis(30);

/// What it takes to keep a cache within its bound.
#[derive(Debug)]
pub struct Parts {
    /// The settings.
    pub config: Arc<Config>,
    /// Where to count.
    pub metrics: Arc<Metrics>,
    /// How far storage is.
    pub position: watch::Receiver<Position>,
    /// Knows what is committed.
    pub quorum: Arc<Quorum>,
    /// The memory shared with PostgreSQL.
    pub control: Arc<ControlMap>,
    /// The cache's files.
    pub files: Arc<Files>,
    /// How full it is.
    pub fullness: Arc<Fullness>,
    /// Pages that may not leave.
    pub partial: Arc<PartialPages>,
}

/// Keeps one session's cache within its bound.
#[derive(Debug)]
pub struct Bound {
    observer: Observer,
    sweeper: Sweeper,
}

impl Bound {
    /// For a cold start's empty cache.
    pub fn new(parts: Parts) -> Bound {
        let Parts { config, metrics, position, quorum, control, files, fullness, partial } = parts;
        let observer = Observer::new(config.clone(), position, quorum, control);
        let (safe, hand) = (observer.safe(), Hand::default());
        Bound { observer, sweeper: Sweeper { config, files, metrics, fullness, partial, safe, hand } }
    }

    /// Does so until aborted. PostgreSQL and storage may take their time to answer; what is known to be safe is dropped
    /// meanwhile.
    pub async fn keep(self) {
        let everything = self.sweeper.config.drop_everything;
        let fullness = self.sweeper.fullness.clone();
        let interval = if everything { INTERVAL_EVERYTHING } else { INTERVAL };
        let is_busy = || everything || fullness.bytes() > fullness.busy();
        tokio::join!(self.observer.observe(interval, is_busy), self.sweeper.keep_sweeping());
    }
}

/// Takes pages out of the cache.
#[derive(Debug)]
struct Sweeper {
    config: Arc<Config>,
    files: Arc<Files>,
    metrics: Arc<Metrics>,
    fullness: Arc<Fullness>,
    partial: Arc<PartialPages>,
    safe: watch::Receiver<Safe>,
    hand: Hand,
}

impl Sweeper {
    async fn keep_sweeping(mut self) {
        loop {
            quire_crash::plant("compute.bound");
            let dropped = self.round().await.unwrap_or_else(|error| {
                tracing::debug!(%error, "the cache is not looked after for now");
                0
            });
            self.pause(dropped).await;
        }
    }

    /// Until the next round: a look takes time in proportion to the number of files, and a cache needs time to fill.
    /// Fills may call for the next round, unless the last one could not drop anything anyway.
    async fn pause(&self, dropped: u64) {
        if self.config.drop_everything {
            return tokio::time::sleep(INTERVAL_EVERYTHING).await;
        }
        let bytes = self.fullness.bytes();
        let longest = time_to_fill(self.fullness.busy().saturating_sub(bytes));
        if dropped == 0 && bytes > self.fullness.target() {
            return tokio::time::sleep(longest).await;
        }
        tokio::time::sleep(INTERVAL_MIN).await;
        // Either way it is time.
        let _ = tokio::time::timeout(longest, self.fullness.overfilled()).await;
    }

    /// How many pages it dropped.
    async fn round(&mut self) -> Result<u64, Error> {
        let files = self.files.clone();
        let taken = tokio::task::spawn_blocking(move || Contents::take(files.dir())).await;
        let contents = taken.map_err(|_| Error::ShuttingDown)?;
        self.metrics.cache_holds(contents.bytes);
        self.fullness.measured(contents.bytes, contents.free_bytes);
        let everything = self.config.drop_everything;
        if !everything && contents.bytes <= self.fullness.target() {
            return Ok(0);
        }
        self.drop_pages(contents, self.fullness.target(), everything).await
    }

    async fn drop_pages(&mut self, contents: Contents, target: u64, everything: bool) -> Result<u64, Error> {
        let page_bytes = quire_types::PAGE_SIZE as u64;
        let pages = if everything { u64::MAX } else { contents.bytes.saturating_sub(target) / page_bytes };
        if pages == 0 {
            return Ok(0);
        }
        let Safe { epoch, readable } = *self.safe.borrow();
        let quota = Quota { pages, safe_epoch: epoch, readable, everything };
        let (files, partial, mut hand) = (self.files.clone(), self.partial.clone(), self.hand);
        let work = move || (sweep(&files, &partial, &contents, &mut hand, quota), hand);
        let swept = tokio::task::spawn_blocking(work).await;
        let (dropped, hand) = swept.map_err(|_| Error::ShuttingDown)?;
        self.hand = hand;
        self.metrics.dropped(dropped);
        self.fullness.shrank(dropped.saturating_mul(page_bytes));
        Ok(dropped)
    }
}

/// How long `bytes` more cannot be there sooner than.
fn time_to_fill(bytes: u64) -> Duration {
    let millis = bytes / (FILL_BYTES_PER_SECOND / 1000);
    Duration::from_millis(millis).clamp(INTERVAL, INTERVAL_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_looked_at_more_often_the_nearer_its_bound_is() {
        let gib = 1 << 30;
        let looks = [0, gib / 8, gib, 100 * gib].map(time_to_fill);
        assert_eq!((looks[0], looks[1], looks[3]), (INTERVAL, INTERVAL, INTERVAL_MAX));
        assert!(looks[2] > INTERVAL && looks[2] < INTERVAL_MAX, "{looks:?}");
    }
}
