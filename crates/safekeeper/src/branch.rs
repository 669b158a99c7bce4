//! One branch: its acceptor with its log on disk, and what readers and followers see of it.
//!
//! Two locks. `log` is held while requests are carried out, fsync included, so that an acceptor does one thing at a time.
//! `published` holds copies for everybody else and is held for moments only; it is taken after `log` or alone, never before.

use crate::error::BranchError;
use crate::log::{Log, Served};
use crate::metrics::Metrics;
use crate::segments::{SegmentFolder, SegmentReader};
use quire_protocol::quorum::{ErrorCode, LogIdentity, Request, Response};
use quire_types::{Lsn, ShardId, Term, TimelineKey};
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What anybody may know of a branch at any time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Published {
    /// The acceptor's term.
    pub term: Term,
    /// Everything before is durable here.
    pub flush: Lsn,
    /// Everything before is committed.
    pub commit: Lsn,
    /// The oldest WAL that is kept.
    pub oldest: Lsn,
    /// Who follows, and what they have made durable.
    pub followers: BTreeMap<ShardId, Lsn>,
    /// Set when the safekeeper shuts down.
    pub closed: bool,
}

/// A branch's log and everything around it.
#[derive(Debug)]
pub(crate) struct Branch {
    key: TimelineKey,
    folder: SegmentFolder,
    identity: LogIdentity,
    log: Mutex<Log>,
    published: Mutex<Published>,
    /// Signalled when more is committed, and at the end.
    committed: Condvar,
    /// Signalled at the end.
    closed: Condvar,
    metrics: Arc<Metrics>,
}

impl Branch {
    /// Wraps an open log.
    pub fn new(key: TimelineKey, log: Log, metrics: Arc<Metrics>) -> Branch {
        let (folder, identity, published) = (log.folder().clone(), log.identity(), log.published());
        let (log, published) = (Mutex::new(log), Mutex::new(published));
        let (committed, closed) = (Condvar::new(), Condvar::new());
        Branch { key, folder, identity, log, published, committed, closed, metrics }
    }

    /// Its name.
    pub fn key(&self) -> TimelineKey {
        self.key
    }

    /// The log's identity.
    pub fn identity(&self) -> LogIdentity {
        self.identity
    }

    /// A copy of what is published.
    pub fn published(&self) -> Published {
        self.lock_published().clone()
    }

    /// A new reader of the log's files.
    pub fn reader(&self) -> SegmentReader {
        SegmentReader::new(self.folder.clone())
    }

    /// The answer to `Hello`.
    pub fn welcome(&self) -> Response {
        self.with_log(|log| Ok(log.welcome())).unwrap_or_else(|error| storage_error(&error))
    }

    /// Carries out requests to the acceptor with one flush for all, and gives the answer to each.
    pub fn handle(&self, requests: &[Request]) -> Vec<Response> {
        let served = self.with_log(|log| log.handle(requests));
        match served {
            Ok(Served { responses, appended_bytes, flush_duration }) => {
                self.metrics.appended(appended_bytes, flush_duration);
                responses
            }
            Err(error) => vec![storage_error(&error); requests.len()],
        }
    }

    /// Reads WAL for `ReadWal`. The permission is asked for again after reading: the log may have changed on the way.
    pub fn read(&self, term: Term, begin: Lsn, end: Lsn) -> Response {
        let may_read = || self.with_log(|log| Ok(log.may_read(term, begin, end)));
        let read = || -> Result<Response, BranchError> {
            if let Err(refused) = may_read()? {
                return Ok(out_of_range(refused.to_string()));
            }
            let wal = self.reader().read(begin, end);
            if let Err(refused) = may_read()? {
                return Ok(out_of_range(refused.to_string()));
            }
            Ok(Response::Wal { begin, commit: self.lock_published().commit, wal: wal? })
        };
        read().unwrap_or_else(|error| storage_error(&error))
    }

    /// Registers a follower that wants WAL from `from` on.
    pub fn follow(&self, shard: ShardId, from: Lsn) -> Result<(), Response> {
        let oldest = self.lock_published().oldest;
        if from < oldest {
            return Err(out_of_range(format!("WAL is kept from {oldest} on")));
        }
        self.with_log(|log| log.add_follower(shard)).map_err(|error| storage_error(&error))
    }

    /// Takes a follower's report, and lets go of WAL that nobody needs any more.
    pub fn report_durable(&self, shard: ShardId, lsn: Lsn) -> Result<(), BranchError> {
        self.with_log(|log| log.report_durable(shard, lsn))
    }

    /// Waits until more than `beyond` is committed, the branch is closed, or the time is up.
    pub fn wait_committed(&self, beyond: Lsn, timeout: Duration) -> Published {
        let waits = |published: &mut Published| published.commit <= beyond && !published.closed;
        let waited = self.committed.wait_timeout_while(self.lock_published(), timeout, waits);
        waited.unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Waits until the branch is closed or the time is up, whatever is committed meanwhile.
    pub fn wait_closed(&self, timeout: Duration) -> Published {
        let waits = |published: &mut Published| !published.closed;
        let waited = self.closed.wait_timeout_while(self.lock_published(), timeout, waits);
        waited.unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Ends all waiting and leaves the state on disk as recent as it can be.
    pub fn close(&self) -> Result<(), BranchError> {
        self.lock_published().closed = true;
        self.committed.notify_all();
        self.closed.notify_all();
        self.with_log(Log::persist)
    }

    /// Runs `work` on the log, unless it has failed before; whatever goes wrong in it is the end of this log until a restart.
    fn with_log<T>(&self, work: impl FnOnce(&mut Log) -> Result<T, BranchError>) -> Result<T, BranchError> {
        let mut log = self.log.lock().map_err(|_| BranchError::Storage("a thread panicked in it".into()))?;
        log.check_usable()?;
        let result = work(&mut log);
        match &result {
            Ok(_) => self.publish(&log),
            Err(error) => {
                tracing::error!(branch = %self.key, %error, "the log cannot be used until the safekeeper is restarted");
                log.fail(error.to_string());
            }
        }
        result
    }

    fn publish(&self, log: &Log) {
        let mut published = self.lock_published();
        let closed = published.closed;
        let commit_before = std::mem::replace(&mut *published, log.published()).commit;
        published.closed = closed;
        if published.commit > commit_before {
            self.committed.notify_all();
        }
    }

    fn lock_published(&self) -> MutexGuard<'_, Published> {
        // Nothing that holds this lock can leave it half-changed.
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn storage_error(error: &BranchError) -> Response {
    Response::Error { code: ErrorCode::Storage, message: error.to_string() }
}

fn out_of_range(message: String) -> Response {
    Response::Error { code: ErrorCode::OutOfRange, message }
}
