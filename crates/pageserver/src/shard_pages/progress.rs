//! How far a shard is, for those who wait for it.

use super::ShardPages;
use quire_layers::error::{ReadError, StorageError};
use quire_types::Lsn;
use std::sync::Arc;
use std::time::Duration;

/// How far a shard is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Every record that ends here or before is taken in.
    pub ingested: Lsn,
    /// Up to here the changes are in frozen memtables or layers.
    pub frozen: Lsn,
    /// Up to here the changes are in layers.
    pub durable: Lsn,
    /// Whether it will get further.
    pub health: IngestHealth,
}

/// Whether ingest of a shard gets further, and why not, in words.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum IngestHealth {
    /// Nothing is in its way.
    #[default]
    Running,
    /// Nothing becomes durable at the moment; it is tried again.
    Held(Arc<str>),
    /// What ingest needs cannot be read at the moment; it is tried again.
    Unreadable(Arc<str>),
    /// It will not get further before a restart.
    Stopped(Arc<str>),
}

impl IngestHealth {
    /// What is in its way, if anything is.
    pub fn reason(&self) -> Option<&Arc<str>> {
        match self {
            IngestHealth::Running => None,
            IngestHealth::Held(reason) | IngestHealth::Unreadable(reason) | IngestHealth::Stopped(reason) => {
                Some(reason)
            }
        }
    }

    /// Whether it will not get further.
    pub fn is_stopped(&self) -> bool {
        matches!(self, IngestHealth::Stopped(_))
    }

    /// Takes the outcome of a flush, or of a read that ingest needed; whether that changes anything. What stopped
    /// ingest stays, and a success ends only what failed in the same way.
    fn note(&mut self, reason: Option<Arc<str>>, state: fn(Arc<str>) -> IngestHealth) -> bool {
        let is_in_this_state = std::mem::discriminant(self) == std::mem::discriminant(&state("".into()));
        let next = match reason {
            _ if self.is_stopped() => return false,
            Some(reason) => state(reason),
            None if is_in_this_state => IngestHealth::Running,
            None => return false,
        };
        std::mem::replace(self, next.clone()) != next
    }
}

impl Progress {
    /// Everything up to `lsn` is durable, and nothing more is known.
    pub(super) fn at(lsn: Lsn) -> Progress {
        Progress { ingested: lsn, frozen: lsn, durable: lsn, health: IngestHealth::Running }
    }

    /// Whether a wait for `lsn` is over, and how.
    fn outcome(&self, lsn: Lsn) -> Option<Result<(), ReadError>> {
        match &self.health {
            _ if self.ingested >= lsn => Some(Ok(())),
            IngestHealth::Stopped(reason) => {
                Some(Err(ReadError::IngestStopped { ingested: self.ingested, reason: Arc::clone(reason) }))
            }
            _ => None,
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

    /// Notes that ingest will not continue; the first reason stays.
    pub fn stop_ingest(&self, reason: &str) {
        self.progress.send_modify(|progress| {
            if !progress.health.is_stopped() {
                progress.health = IngestHealth::Stopped(reason.into());
            }
        });
        self.gate.announce();
    }

    /// Notes that a flush failed, or why not. Waiters for an LSN need not wake for it, and mostly nothing changes.
    pub(super) fn note_flush(&self, failure: Option<&StorageError>) {
        self.note_health(failure, IngestHealth::Held);
    }

    /// The same of a read that ingest needed.
    pub(super) fn note_needed_read(&self, failure: Option<&StorageError>) {
        self.note_health(failure, IngestHealth::Unreadable);
    }

    fn note_health(&self, failure: Option<&StorageError>, state: fn(Arc<str>) -> IngestHealth) {
        if failure.is_none() && self.progress.borrow().health == IngestHealth::Running {
            return;
        }
        let reason = failure.map(|failure| Arc::from(failure.to_string()));
        self.progress.send_if_modified(|progress| progress.health.note(reason, state));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_ends_only_what_failed_in_the_same_way_and_what_stopped_ingest_stays() {
        let mut health = IngestHealth::Running;
        assert!(health.note(Some("disk full".into()), IngestHealth::Held));
        assert!(!health.note(Some("disk full".into()), IngestHealth::Held), "nothing new");
        assert!(!health.note(None, IngestHealth::Unreadable));
        assert_eq!(health, IngestHealth::Held("disk full".into()));
        assert!(health.note(None, IngestHealth::Held));
        assert_eq!((&health, health.reason()), (&IngestHealth::Running, None));
        health = IngestHealth::Stopped("a bug".into());
        assert!(!health.note(Some("disk full".into()), IngestHealth::Held) && !health.note(None, IngestHealth::Held));
        assert_eq!(health.reason().map(|reason| &**reason), Some("a bug"));
    }
}
