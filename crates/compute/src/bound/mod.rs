//! Keeps the cache within its bound: pages that storage can rebuild exactly leave it.
//!
//! `horizon` says which writes are old enough for that, `sweep` takes pages out, `quire_cache::protocol` keeps that apart from what
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

mod horizon;
mod sweep;

use crate::fill::Files;
use crate::metrics::Metrics;
use crate::page_client::PageClient;
use crate::quorum::Quorum;
use crate::start::{Session, Setting};
use crate::{Config, Error, postgres};
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
    sql: Option<Client>,
    horizon: Horizon,
    hand: Hand,
    readable: Lsn,
    still: u32,
}

impl Bound {
    /// For a cold start's empty cache.
    pub fn new(setting: &Setting, session: &Session, files: Arc<Files>) -> Bound {
        Bound {
            config: setting.config.clone(),
            files,
            client: session.client.clone(),
            quorum: session.quorum.clone(),
            control: session.control.clone(),
            metrics: setting.metrics.clone(),
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
            if let Err(error) = self.round().await {
                tracing::debug!(%error, "the cache is not looked after for now");
                self.sql = None;
            }
            tokio::time::sleep(self.pause()).await;
        }
    }

    /// Until the next round: a look takes time in proportion to the number of files, and a cache needs time to fill.
    fn pause(&self) -> Duration {
        match self.config.drop_everything {
            true => INTERVAL_EVERYTHING,
            false => time_to_fill(busy_bytes(self.limit()).saturating_sub(self.metrics.cache_bytes())),
        }
    }

    fn limit(&self) -> u64 {
        self.config.cache_bytes.unwrap_or(u64::MAX)
    }

    async fn round(&mut self) -> Result<(), Error> {
        let pgdata = self.config.pgdata();
        let taken = tokio::task::spawn_blocking(move || Inventory::take(&pgdata)).await;
        let inventory = taken.map_err(|_| Error::ShuttingDown)?;
        self.metrics.cache_holds(inventory.bytes);
        let (limit, everything) = (self.limit(), self.config.drop_everything);
        if everything || inventory.bytes > busy_bytes(limit) {
            // Without PostgreSQL's word on what runs, what was safe stays so.
            let looked = self.look().await;
            self.drop_pages(inventory, limit / 10 * 9, everything).await?;
            looked?;
        } else {
            self.sql = None;
        }
        Ok(())
    }

    /// Learns who runs, and how far storage is.
    async fn look(&mut self) -> Result<(), Error> {
        let (ingested, _) = self.client.position(PATIENCE).await?;
        self.readable = self.readable.max(ingested.min(self.quorum.committed_lsn()));
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

    async fn drop_pages(&mut self, inventory: Inventory, target: u64, everything: bool) -> Result<(), Error> {
        let page_bytes = quire_types::PAGE_SIZE as u64;
        let pages = if everything { u64::MAX } else { inventory.bytes.saturating_sub(target) / page_bytes };
        if pages == 0 {
            return Ok(());
        }
        let quota = Quota { pages, safe_epoch: self.horizon.safe(), readable: self.readable, everything };
        let (pgdata, files, mut hand) = (self.config.pgdata(), self.files.clone(), self.hand);
        let work = move || (sweep(&pgdata, &files, &inventory, &mut hand, quota), hand);
        let swept = tokio::task::spawn_blocking(work).await;
        let (dropped, hand) = swept.map_err(|_| Error::ShuttingDown)?;
        self.hand = hand;
        self.metrics.dropped(dropped);
        Ok(())
    }
}

/// From how many bytes on it is prepared that pages leave.
fn busy_bytes(limit: u64) -> u64 {
    limit / 4 * 3
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
