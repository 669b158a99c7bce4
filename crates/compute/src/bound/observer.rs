//! Sees who runs in PostgreSQL and how far storage is, and so what may leave the cache.

use super::horizon::{Horizon, Running};
use crate::quorum::Quorum;
use crate::storage_position::Position;
use crate::{Config, Error, postgres};
use quire_cache::ControlMap;
use quire_types::Lsn;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_postgres::Client;

const PATIENCE: Duration = Duration::from_secs(10);
/// Looks after which a log that does not get further is given a push.
const STILL_LOOKS: u32 = 4;

/// Backends that may have changed a page in a way that the log does not tell yet: those with a transaction id, and
/// those with a lock like VACUUM's. A prepared transaction (which has no process) changes nothing any more.
const RUNNING: &str = "SELECT DISTINCT virtualtransaction FROM pg_locks \
    WHERE granted AND pid IS NOT NULL AND pid <> pg_backend_pid() AND (locktype = 'transactionid' AND mode = 'ExclusiveLock' \
    OR locktype = 'relation' AND mode IN ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', \
    'AccessExclusiveLock'))";
const END: &str = "SELECT pg_current_wal_insert_lsn()::text";
/// A commit, which gets everything before it flushed.
const PUSH: &str = "SET synchronous_commit = on; SELECT pg_logical_emit_message(true, 'quire', 'flush')";

/// What may leave the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Safe {
    /// What was last written before this epoch.
    pub epoch: u32,
    /// An LSN that storage can be read at, not before that epoch was safe.
    pub readable: Lsn,
}

/// Looks, and says what is safe.
#[derive(Debug)]
pub struct Observer {
    config: Arc<Config>,
    position: watch::Receiver<Position>,
    quorum: Arc<Quorum>,
    control: Arc<ControlMap>,
    sql: Option<Client>,
    horizon: Horizon,
    readable: Lsn,
    still: u32,
    safe: watch::Sender<Safe>,
}

impl Observer {
    /// For a session that has written nothing yet.
    pub fn new(
        config: Arc<Config>,
        position: watch::Receiver<Position>,
        quorum: Arc<Quorum>,
        control: Arc<ControlMap>,
    ) -> Observer {
        let (horizon, readable) = (Horizon::new(), control.start_lsn());
        Observer {
            config,
            position,
            quorum,
            control,
            sql: None,
            safe: watch::Sender::new(Safe { epoch: horizon.safe(), readable }),
            horizon,
            readable,
            still: 0,
        }
    }

    /// What is safe, as it becomes known.
    pub fn safe(&self) -> watch::Receiver<Safe> {
        self.safe.subscribe()
    }

    /// Looks while `is_busy`, with a pause of `interval` between looks.
    pub async fn observe(mut self, interval: Duration, is_busy: impl Fn() -> bool) {
        loop {
            quire_crash::plant("compute.observer");
            if !is_busy() {
                self.sql = None;
            } else if let Err(error) = self.look().await {
                // Without PostgreSQL's word on what runs, what was safe stays so.
                tracing::debug!(%error, "what may leave the cache is not known for now");
                self.sql = None;
            }
            self.safe.send_replace(Safe { epoch: self.horizon.safe(), readable: self.readable });
            tokio::time::sleep(interval).await;
        }
    }

    /// Learns who runs, and how far storage is.
    async fn look(&mut self) -> Result<(), Error> {
        let ingested = self.position.borrow().ingested;
        self.readable = self.readable.max(ingested.min(self.quorum.committed_lsn()));
        let looked = tokio::time::timeout(PATIENCE, self.look_at_server()).await;
        looked.map_err(|_| Error::ServerSilent)??;
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
        let end: Lsn = end.parse().map_err(|_| Error::NotAnLsn(end))?;
        self.horizon.looked(epoch, running, end);
        self.still = if self.horizon.waits_for_log() { self.still + 1 } else { 0 };
        if self.still > STILL_LOOKS {
            self.still = 0;
            sql.batch_execute(PUSH).await?;
        }
        Ok(())
    }
}
