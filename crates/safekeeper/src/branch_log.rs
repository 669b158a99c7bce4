//! One branch: its acceptor with its log on disk, and what readers and followers see of it.
//!
//! A log that cannot be opened, or whose disk fails, is refused to everybody and opened again, as after a restart, when
//! it is next asked for: a disk that was full may have room by then.
//!
//! Two locks. `log` is held while requests are carried out, fsync included, so that an acceptor does one thing at a
//! time. `published` holds copies for everybody else and is held for moments only; it is taken after `log` or alone,
//! never before.

use crate::error::BranchLogError;
use crate::log::{Log, LogContext, Served};
use crate::metrics::Metrics;
use crate::published::Published;
use crate::segments::SegmentReader;
use parking_lot::{Condvar, Mutex, MutexGuard};
use quire_protocol::quorum::{ErrorCode, LogIdentity, Request, Response};
use quire_types::{BranchKey, Lsn, ShardId, Term};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a log that cannot be used is opened again at most.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// A branch's log and everything around it.
#[derive(Debug)]
pub(crate) struct BranchLog {
    key: BranchKey,
    path: PathBuf,
    context: LogContext,
    log: Mutex<Slot>,
    published: Mutex<Published>,
    /// Signalled when more is committed, and at the end.
    committed: Condvar,
    /// Signalled at the end.
    closed: Condvar,
    metrics: Arc<Metrics>,
}

/// The log, or why there is none.
#[derive(Debug)]
enum Slot {
    Open(Box<Log>),
    Unusable { error: Arc<BranchLogError>, since: Instant },
}

impl BranchLog {
    /// The branch whose log is in the directory `path`.
    pub fn open(key: BranchKey, path: &Path, context: LogContext, metrics: Arc<Metrics>) -> BranchLog {
        let log = Log::open(path, context.clone());
        BranchLog::new(key, path, context, log, metrics)
    }

    /// Creates the log of a branch in the directory `path`, which exists and is empty.
    pub fn create(
        key: BranchKey,
        path: &Path,
        identity: LogIdentity,
        context: LogContext,
        metrics: Arc<Metrics>,
    ) -> Result<BranchLog, BranchLogError> {
        let log = Log::create(path, identity, context.clone())?;
        Ok(BranchLog::new(key, path, context, Ok(log), metrics))
    }

    fn new(
        key: BranchKey,
        path: &Path,
        context: LogContext,
        log: Result<Log, BranchLogError>,
        metrics: Arc<Metrics>,
    ) -> BranchLog {
        let path = path.to_owned();
        let (log, published) = (Mutex::new(Slot::of(log)), Mutex::default());
        let (committed, closed) = (Condvar::new(), Condvar::new());
        let this = BranchLog { key, path, context, log, published, committed, closed, metrics };
        this.publish(&this.lock_log());
        this
    }

    /// Its name.
    pub fn key(&self) -> BranchKey {
        self.key
    }

    /// The log's identity.
    pub fn identity(&self) -> Result<LogIdentity, BranchLogError> {
        self.with_log(|log| Ok(log.identity()))
    }

    /// A copy of what is published.
    pub fn published(&self) -> Published {
        self.lock_published().clone()
    }

    /// A new reader of the log's files.
    pub fn reader(&self) -> Result<SegmentReader, BranchLogError> {
        self.with_log(|log| Ok(SegmentReader::new(log.folder().clone())))
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
        let read = || -> Result<Response, BranchLogError> {
            if let Err(refused) = may_read()? {
                return Ok(out_of_range(refused.to_string()));
            }
            let wal = self.reader()?.read(begin, end);
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

    /// Takes a follower's report, and lets go of WAL that is not needed any more.
    pub fn report_durable(&self, shard: ShardId, lsn: Lsn) -> Result<(), BranchLogError> {
        self.with_log(|log| log.report_durable(shard, lsn))
    }

    /// Waits until more than `beyond` is committed, the branch is closed, or the time is up.
    pub fn wait_committed(&self, beyond: Lsn, timeout: Duration) -> Published {
        let waits = |published: &mut Published| published.commit <= beyond && !published.closed;
        let mut published = self.lock_published();
        self.committed.wait_while_for(&mut published, waits, timeout);
        published.clone()
    }

    /// Waits until the branch is closed or the time is up, whatever is committed meanwhile.
    pub fn wait_closed(&self, timeout: Duration) -> Published {
        let waits = |published: &mut Published| !published.closed;
        let mut published = self.lock_published();
        self.closed.wait_while_for(&mut published, waits, timeout);
        published.clone()
    }

    /// Ends all waiting and leaves the state on disk as recent as it can be.
    pub fn close(&self) -> Result<(), BranchLogError> {
        self.lock_published().closed = true;
        self.committed.notify_all();
        self.closed.notify_all();
        self.with_log(Log::persist)
    }

    /// Runs `work` on the log. Whatever goes wrong in it is the end of this log until it is opened again.
    fn with_log<T>(&self, work: impl FnOnce(&mut Log) -> Result<T, BranchLogError>) -> Result<T, BranchLogError> {
        let mut slot = self.lock_log();
        self.open_again(&mut slot);
        let result = match &mut *slot {
            Slot::Open(log) => work(log),
            Slot::Unusable { error, .. } => return Err(BranchLogError::Unusable(Arc::clone(error))),
        };
        let result = result.map_err(|error| {
            tracing::error!(branch = %self.key, %error, "the log cannot be used until it can be opened again");
            let error = Arc::new(error);
            *slot = Slot::Unusable { error: Arc::clone(&error), since: Instant::now() };
            BranchLogError::Unusable(error)
        });
        self.publish(&slot);
        result
    }

    fn lock_log(&self) -> MutexGuard<'_, Slot> {
        self.log.lock()
    }

    fn open_again(&self, slot: &mut Slot) {
        let Slot::Unusable { error: known, since } = slot else { return };
        if since.elapsed() < REOPEN_PAUSE {
            return;
        }
        let opened = Log::open(&self.path, self.context.clone());
        match &opened {
            Ok(_) => tracing::info!(branch = %self.key, "the log can be used again"),
            Err(error) if std::mem::discriminant(error) == std::mem::discriminant(known.as_ref()) => {}
            Err(error) => tracing::error!(branch = %self.key, %error, "the log still cannot be used"),
        }
        *slot = Slot::of(opened);
        self.publish(slot);
    }

    fn publish(&self, slot: &Slot) {
        let mut published = self.lock_published();
        let (closed, commit_before) = (published.closed, published.commit);
        match slot {
            Slot::Open(log) => *published = log.published(),
            Slot::Unusable { error, .. } => published.unusable = Some(Arc::clone(error)),
        }
        published.closed = closed;
        if published.commit > commit_before {
            self.committed.notify_all();
        }
    }

    fn lock_published(&self) -> MutexGuard<'_, Published> {
        self.published.lock()
    }
}

impl Slot {
    fn of(log: Result<Log, BranchLogError>) -> Slot {
        log.map_or_else(Slot::unusable, |log| Slot::Open(Box::new(log)))
    }

    fn unusable(error: BranchLogError) -> Slot {
        Slot::Unusable { error: Arc::new(error), since: Instant::now() }
    }
}

fn storage_error(error: &BranchLogError) -> Response {
    Response::Error { code: ErrorCode::Storage, message: error.to_string() }
}

fn out_of_range(message: String) -> Response {
    Response::Error { code: ErrorCode::OutOfRange, message }
}
