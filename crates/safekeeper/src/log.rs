//! An acceptor with its disk: carries out the acceptor's actions on the state file and the WAL segments.

use crate::error::BranchLogError;
use crate::flush_mark::FlushMark;
use crate::published::Published;
use crate::recover::{cut_and_flush, find_end};
use crate::segment_folder::SegmentFolder;
use crate::segment_thread::SegmentThread;
use crate::segments::SegmentWriter;
use crate::state_file::{STATE_FILE, StateFile};
use quire_consensus::acceptor::ReadRefused;
use quire_consensus::{Acceptor, Action};
use quire_files::remove_leftovers;
use quire_files::sync_folder_of;
use quire_protocol::quorum::{LogIdentity, Request, Response};
use quire_types::{Lsn, NodeId, ShardId, Term};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a log is opened with.
#[derive(Clone, Debug)]
pub(crate) struct LogContext {
    /// This safekeeper.
    pub node: NodeId,
    /// Prepares and removes segments.
    pub segment_thread: SegmentThread,
    /// Segments kept before the one that holds the last committed byte, needed or not.
    pub keep_segments: u64,
}

/// The log of one branch.
#[derive(Debug)]
pub(crate) struct Log {
    acceptor: Acceptor,
    writer: SegmentWriter,
    mark: FlushMark,
    followers: BTreeMap<ShardId, Lsn>,
    context: LogContext,
    /// What the proposer said that is not needed any more; 0 as long as it said nothing.
    removable: Lsn,
    /// The commit position in the state file.
    persisted_commit: Lsn,
}

/// What a group of requests led to.
#[derive(Debug)]
pub(crate) struct Served {
    /// One for each request, in order.
    pub responses: Vec<Response>,
    /// WAL written.
    pub appended_bytes: u64,
    /// How long the flush took, if there was one.
    pub flush_duration: Option<Duration>,
}

impl Log {
    /// Creates the log of a branch in its directory, which exists and is empty.
    pub fn create(path: &Path, identity: LogIdentity, context: LogContext) -> Result<Log, BranchLogError> {
        let acceptor = Acceptor::create(context.node, identity);
        let mut log = Log::assemble(path.to_owned(), acceptor, BTreeMap::new(), context)?;
        log.persist()?;
        Ok(log)
    }

    /// Opens the log in a directory, as a crash may have left it.
    pub fn open(path: &Path, context: LogContext) -> Result<Log, BranchLogError> {
        remove_leftovers(path)?;
        // A crash of the process may have come between a rename and the flush of the directory, and whoever hears of
        // what is read relies on it.
        sync_names(path)?;
        let StateFile { acceptor: state, followers } = StateFile::read(path)?;
        let folder = SegmentFolder { path: path.to_owned(), segment_bytes: state.identity.segment_bytes.into() };
        let (end, commit) = (find_end(&folder, &state)?, state.commit);
        let acceptor = Acceptor::restore(context.node, state, end).map_err(|lost| BranchLogError::LostWal {
            path: folder.file(lost.flush.segment_number(folder.segment_bytes)),
            at: lost.flush,
            durable: lost.commit,
        })?;
        let mut log = Log::assemble(path.to_owned(), acceptor, followers, context)?;
        cut_and_flush(&mut log.writer, end, commit)?;
        // Flushed, because the disk may have a higher mark than what was read here, if the flush of its lowering
        // failed.
        log.mark.lower(end)?;
        Ok(log)
    }

    fn assemble(
        path: PathBuf,
        acceptor: Acceptor,
        followers: BTreeMap<ShardId, Lsn>,
        context: LogContext,
    ) -> Result<Log, BranchLogError> {
        let mark = FlushMark::open(&path)?;
        let segment_bytes = acceptor.state().identity.segment_bytes.into();
        let writer = SegmentWriter::new(SegmentFolder { path, segment_bytes }, context.segment_thread.clone());
        let persisted_commit = acceptor.state().commit;
        Ok(Log { acceptor, writer, mark, followers, context, removable: Lsn::INVALID, persisted_commit })
    }

    /// Where its segments are.
    pub fn folder(&self) -> &SegmentFolder {
        self.writer.folder()
    }

    /// What never changes of it.
    pub fn identity(&self) -> LogIdentity {
        self.acceptor.state().identity
    }

    /// The answer to `Hello`.
    pub fn welcome(&self) -> Response {
        self.acceptor.welcome()
    }

    /// Whether WAL may be given to a reader that asks in `term`.
    pub fn may_read(&self, term: Term, begin: Lsn, end: Lsn) -> Result<(), ReadRefused> {
        self.acceptor.may_read(term, begin, end)
    }

    /// What others may see.
    pub fn published(&self) -> Published {
        let state = self.acceptor.state();
        Published {
            term: state.term,
            flush: self.acceptor.flush(),
            commit: state.commit,
            oldest: state.oldest,
            followers: self.followers.clone(),
            unusable: None,
            closed: false,
        }
    }

    /// Carries out requests, with one flush at the end for all that want one. No answer is given out before it.
    pub fn handle(&mut self, requests: &[Request]) -> Result<Served, BranchLogError> {
        let mut served =
            Served { responses: Vec::with_capacity(requests.len()), appended_bytes: 0, flush_duration: None };
        let mut wants_flush = false;
        for request in requests {
            for action in self.acceptor.handle(request) {
                self.carry_out(action, &mut wants_flush, &mut served)?;
            }
            self.note_removable(request);
        }
        self.flush_if(&mut wants_flush, &mut served)?;
        self.tidy()?;
        Ok(served)
    }

    fn carry_out(&mut self, action: Action, wants_flush: &mut bool, served: &mut Served) -> Result<(), BranchLogError> {
        match action {
            Action::WriteWal { begin, wal } => {
                served.appended_bytes += wal.len() as u64;
                self.writer.write(begin, &wal)?;
            }
            Action::Flush => *wants_flush = true,
            Action::Reply(response) => served.responses.push(response),
            Action::TruncateWal { to } => {
                self.flush_if(wants_flush, served)?;
                self.mark.lower(to)?;
                self.writer.truncate(to)?;
            }
            Action::PersistState(_) => {
                // The state tells the commit position, which must not be ahead of what is on disk.
                self.flush_if(wants_flush, served)?;
                self.persist()?;
            }
        }
        Ok(())
    }

    fn flush_if(&mut self, wanted: &mut bool, served: &mut Served) -> Result<(), BranchLogError> {
        let started = Instant::now();
        if std::mem::take(wanted) && self.writer.flush()? {
            served.flush_duration = Some(served.flush_duration.unwrap_or_default() + started.elapsed());
            self.mark.set(self.acceptor.flush())?;
        }
        Ok(())
    }

    fn note_removable(&mut self, request: &Request) {
        if let Request::Append { term, durable, .. } = request
            && *term == self.acceptor.state().term
        {
            self.removable = self.removable.max(*durable);
        }
    }

    /// Makes the state durable as it is now. Everything the acceptor says to be flushed must be.
    pub fn persist(&mut self) -> Result<(), BranchLogError> {
        let state = StateFile { acceptor: self.acceptor.state().clone(), followers: self.followers.clone() };
        state.write(&self.writer.folder().path)?;
        self.persisted_commit = self.acceptor.state().commit;
        Ok(())
    }

    /// Adds a follower, which holds WAL back from now on.
    pub fn add_follower(&mut self, shard: ShardId) -> Result<(), BranchLogError> {
        if self.followers.contains_key(&shard) {
            return Ok(());
        }
        self.followers.insert(shard, self.acceptor.state().oldest);
        self.persist()
    }

    /// Takes a follower's report. It becomes durable with the next state that is written: WAL goes only then.
    pub fn report_durable(&mut self, shard: ShardId, lsn: Lsn) -> Result<(), BranchLogError> {
        if let Some(durable) = self.followers.get_mut(&shard) {
            *durable = lsn.max(*durable);
        }
        self.tidy()
    }

    /// Keeps recovery short and the disk small: once per segment, the commit position is persisted and old WAL removed.
    fn tidy(&mut self) -> Result<(), BranchLogError> {
        let segment_bytes = self.folder().segment_bytes;
        let commit = self.acceptor.state().commit;
        let keep_from = Lsn(self.first_segment_to_keep() * segment_bytes);
        let removes = keep_from > self.acceptor.state().oldest;
        if removes {
            self.acceptor.removed_before(keep_from);
        }
        if removes || commit.segment_number(segment_bytes) > self.persisted_commit.segment_number(segment_bytes) {
            self.persist()?;
        }
        if removes {
            self.context.segment_thread.remove_before(self.folder().clone(), keep_from.segment_number(segment_bytes));
        }
        Ok(())
    }

    /// WAL is needed by followers and, after the last committed byte's segment, by the next start of a compute. As long
    /// as no follower or no proposer is known, all of it is.
    fn first_segment_to_keep(&self) -> u64 {
        let segment_bytes = self.folder().segment_bytes;
        let last_committed = self.acceptor.state().commit.0.saturating_sub(1) / segment_bytes;
        let followed = self.followers.values().copied().min().unwrap_or(Lsn::INVALID);
        let needed = followed.min(self.removable).segment_number(segment_bytes);
        needed.min(last_committed.saturating_sub(self.context.keep_segments))
    }
}

/// Makes the names of what is in a branch's directory, of the directory, its project's and the data directory durable.
pub(crate) fn sync_names(branch: &Path) -> io::Result<()> {
    branch.join(STATE_FILE).ancestors().take(4).try_for_each(sync_folder_of)
}
