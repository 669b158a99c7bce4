//! How far a shard is, for those who wait for it.

use super::ShardPages;
use quire_layers::error::ReadError;
use quire_types::Lsn;
use std::sync::Arc;
use std::time::Duration;

/// How far a shard is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Every record that ends here or before is taken in.
    pub ingested: Lsn,
    /// Up to here the changes lie in frozen memtables or layers.
    pub frozen: Lsn,
    /// Up to here the changes lie in layers.
    pub durable: Lsn,
    /// Why ingest will not go on, if it will not.
    pub stopped: Option<Arc<str>>,
    /// Why nothing becomes durable at the moment; it is tried again.
    pub held: Option<Arc<str>>,
    /// What ingest needs and cannot read at the moment; it is tried again.
    pub unread: Option<Arc<str>>,
}

impl Progress {
    /// Everything up to `lsn` is durable, and nothing more is known.
    pub(super) fn at(lsn: Lsn) -> Progress {
        Progress { ingested: lsn, frozen: lsn, durable: lsn, stopped: None, held: None, unread: None }
    }

    /// Whether a wait for `lsn` is over, and how.
    fn outcome(&self, lsn: Lsn) -> Option<Result<(), ReadError>> {
        match &self.stopped {
            _ if self.ingested >= lsn => Some(Ok(())),
            Some(reason) => Some(Err(ReadError::IngestStopped { ingested: self.ingested, reason: Arc::clone(reason) })),
            None => None,
        }
    }
}

impl ShardPages {
    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Is told when more is durable.
    pub fn subscribe_durable(&self) -> tokio::sync::watch::Receiver<Lsn> {
        self.durable.subscribe()
    }

    /// Wakes those who wait for what was applied since the last time: once for many records, for it is not free.
    pub fn announce_ingested(&self) {
        self.progress.send_modify(|_| {});
    }

    /// Notes that ingest will not go on; the first reason stays.
    pub fn stop_ingest(&self, reason: &str) {
        self.progress.send_modify(|progress| {
            progress.stopped.get_or_insert_with(|| reason.into());
        });
        self.gate.announce();
    }

    /// Waits until everything up to `lsn` is taken in.
    pub async fn wait_for(&self, lsn: Lsn, timeout: Duration) -> Result<(), ReadError> {
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(|progress| progress.outcome(lsn).is_some());
        match tokio::time::timeout(timeout, reached).await {
            Ok(Ok(progress)) => progress.outcome(lsn).expect("it was waited for"),
            Ok(Err(_)) | Err(_) => Err(ReadError::Timeout { lsn, ingested: self.progress().ingested }),
        }
    }
}
