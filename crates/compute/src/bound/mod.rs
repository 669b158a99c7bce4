//! Keeps the cache within its bound: pages that storage can rebuild exactly leave it.
//!
//! [`horizon`] says which writes are old enough for that, [`sweep`] takes pages out, `quire_cache::protocol` keeps that apart from what
//! PostgreSQL does at the same time.
//!
//! What is asked for again is read at the LSN in the file's meta header, which a sweep raises to one that is committed, that storage
//! has, and that is no older than the moment the epoch became safe. One LSN for a file is enough: a block that is absent was not
//! modified since it left (or since the start), except in PostgreSQL's buffers, from which it will be written over the hole before
//! anybody reads it from the file. So all of the log between the LSN it left at and the newest that any block of the file left at
//! says nothing of this block that a reader of the file could miss. That no other compute writes in between needs no
//! trust: the LSN was committed in this term, and what lies before it in the log is fixed.
//!
//! Never dropped: SLRU pages, free space maps, unlogged and temporary relations, pages without an LSN, sequences.

mod fullness;
mod horizon;
mod sweep;

use crate::fill::Files;
use crate::metrics::Metrics;
use crate::page_client::PageClient;
use crate::quorum::Quorum;
use crate::start::{Session, Setting};
use crate::{Config, Error, postgres};
pub use fullness::Fullness;
use horizon::{Horizon, Running};
use quire_cache::ControlMap;
use quire_types::Lsn;
use std::sync::Arc;
use std::time::Duration;
use sweep::{Hand, Inventory, Quota, sweep};
use tokio_postgres::Client;

const INTERVAL: Duration = Duration::from_millis(250);
/// The longest time between two looks at a cache that is far from its bound, and how fast one is taken to fill.
const INTERVAL_MAX: Duration = Duration::from_secs(5);
const FILL_BYTES_PER_SECOND: u64 = 1 << 30;
/// The shortest, while fills call for a sweep.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
const INTERVAL_EVERYTHING: Duration = Duration::from_millis(30);
const PATIENCE: Duration = Duration::from_secs(10);
/// Looks after which a log that does not get further is given a push.
const STILL_LOOKS: u32 = 4;

/// Whoever may have changed a page in a way that the log does not tell yet: those with a transaction id, and those with a lock like
/// VACUUM's. A prepared transaction (which has no process) changes nothing any more.
const RUNNING: &str = "SELECT DISTINCT virtualtransaction FROM pg_locks \
    WHERE granted AND pid IS NOT NULL AND pid <> pg_backend_pid() AND (locktype = 'transactionid' AND mode = 'ExclusiveLock' \
    OR locktype = 'relation' AND mode IN ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', \
    'AccessExclusiveLock'))";
const END: &str = "SELECT pg_current_wal_insert_lsn()::text";
/// A commit, which gets everything before it flushed.
const PUSH: &str = "SET synchronous_commit = on; SELECT pg_logical_emit_message(true, 'quire', 'flush')";

/// Keeps one session's cache within its bound.
#[derive(Debug)]
pub struct Bound {
    config: Arc<Config>,
    files: Arc<Files>,
    client: PageClient,
    quorum: Arc<Quorum>,
    control: Arc<ControlMap>,
    metrics: Arc<Metrics>,
    fullness: Arc<Fullness>,
    sql: Option<Client>,
    horizon: Horizon,
    hand: Hand,
    readable: Lsn,
    still: u32,
}

impl Bound {
    /// For a cold start's empty cache.
    pub fn new(setting: &Setting, session: &Session, files: Arc<Files>, fullness: Arc<Fullness>) -> Bound {
        Bound {
            config: setting.config.clone(),
            files,
            client: session.client.clone(),
            quorum: session.quorum.clone(),
            control: session.control.clone(),
            metrics: setting.metrics.clone(),
            fullness,
            sql: None,
            horizon: Horizon::new(),
            hand: Hand::default(),
            readable: session.control.start_lsn(),
            still: 0,
        }
    }

    /// Does so until aborted.
    pub async fn keep(mut self) {
        loop {
            let dropped = self.round().await.unwrap_or_else(|error| {
                tracing::debug!(%error, "the cache is not looked after for now");
                self.sql = None;
                0
            });
            self.pause(dropped).await;
        }
    }

    /// Until the next round: a look takes time in proportion to the number of files, and a cache needs time to fill. Fills may
    /// call for the next round, unless the last one could not drop anything anyway.
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
        let pgdata = self.config.pgdata();
        let taken = tokio::task::spawn_blocking(move || Inventory::take(&pgdata)).await;
        let inventory = taken.map_err(|_| Error::ShuttingDown)?;
        self.metrics.cache_holds(inventory.bytes);
        self.fullness.measured(inventory.bytes);
        let everything = self.config.drop_everything;
        if !everything && inventory.bytes <= self.fullness.busy() {
            self.sql = None;
            return Ok(0);
        }
        // Without PostgreSQL's word on what runs, what was safe stays so.
        let looked = self.look().await;
        let dropped = self.drop_pages(inventory, self.fullness.target(), everything).await?;
        looked.map(|()| dropped)
    }

    /// Learns who runs, and how far storage is.
    async fn look(&mut self) -> Result<(), Error> {
        let (ingested, _) = self.client.position(PATIENCE).await?;
        self.readable = self.readable.max(ingested.min(self.quorum.view().borrow().committed));
        let looked = tokio::time::timeout(PATIENCE, self.look_at_server()).await;
        looked.map_err(|_| Error::Refused("postgres does not say what runs".into()))??;
        self.horizon.reached(self.readable);
        Ok(())
    }

    async fn look_at_server(&mut self) -> Result<(), Error> {
        if self.sql.as_ref().is_none_or(Client::is_closed) {
            self.sql = Some(postgres::connect(&self.config, "postgres").await?);
        }
        let Some(sql) = &self.sql else { return Ok(()) };
        let epoch = self.control.next_epoch();
        let rows = sql.query(RUNNING, &[]).await?;
        let running: Running = rows.iter().map(|row| row.get(0)).collect();
        let end: String = sql.query_one(END, &[]).await?.get(0);
        let end: Lsn = end.parse().map_err(|_| Error::Refused(format!("{end} is no LSN")))?;
        self.horizon.looked(epoch, running, end);
        self.still = if self.horizon.waits_for_log() { self.still + 1 } else { 0 };
        if self.still > STILL_LOOKS {
            self.still = 0;
            sql.batch_execute(PUSH).await?;
        }
        Ok(())
    }

    async fn drop_pages(&mut self, inventory: Inventory, target: u64, everything: bool) -> Result<u64, Error> {
        let page_bytes = quire_types::PAGE_SIZE as u64;
        let pages = if everything { u64::MAX } else { inventory.bytes.saturating_sub(target) / page_bytes };
        if pages == 0 {
            return Ok(0);
        }
        let quota = Quota { pages, safe_epoch: self.horizon.safe(), readable: self.readable, everything };
        let (pgdata, files, mut hand) = (self.config.pgdata(), self.files.clone(), self.hand);
        let work = move || (sweep(&pgdata, &files, &inventory, &mut hand, quota), hand);
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
