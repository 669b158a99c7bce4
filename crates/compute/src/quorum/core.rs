//! The proposer with its connections, as one value behind one lock.
//!
//! The thread that holds the lock tells the proposer what happened and then calls [`Core::carry_out`]. Nothing in here
//! waits: sockets take what they take, WAL to be read is asked of the reader thread. So the lock is held for
//! microseconds, and the thread that ships a flush and the one that receives the answers share it without a queue
//! between them.

use super::link::{LinkProgress, SafekeeperLink};
use super::read_job::{OwnWal, ReadJob};
use super::shipped::Shipped;
use super::status::{CommitPathError, SessionEnd, View, Won};
use crate::Error;
use bytes::Bytes;
use quire_api::compute::{LinkStatus, QuorumStatus};
use quire_cache::{AgentState, ControlMap, FlushRequest};
use quire_consensus::proposer::{self, AcceptorSet, Output, Proposer, Refusal};
use quire_protocol::quorum::Request;
use quire_types::{Endpoint, Lsn, Term};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long after a commit the acceptors are told of it if no WAL carries the news.
const ANNOUNCE_DELAY: Duration = Duration::from_millis(5);
/// See [`Core::is_busy`].
const BUSY_FOR: Duration = Duration::from_millis(20);
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// An acceptor that owes an answer for this long is disconnected.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);
/// A campaign that nothing came of is repeated after this and a random part more.
const CAMPAIGN_PATIENCE: Duration = Duration::from_secs(3);
const OUTVOTED_DELAY: Duration = Duration::from_millis(50);

/// A flush that PostgreSQL waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct PendingFlush {
    /// End of the last whole record below the request.
    boundary: Lsn,
    /// What PostgreSQL asked for.
    request: FlushRequest,
}

/// See the module.
#[derive(Debug)]
pub struct Core {
    proposer: Proposer,
    links: Vec<SafekeeperLink>,
    flushes: VecDeque<PendingFlush>,
    control: Option<Arc<ControlMap>>,
    reads: Option<mpsc::Sender<ReadJob>>,
    view: watch::Sender<View>,
    /// What a majority has flushed in this term. Apart from the view, whose watchers need not wake for each commit.
    committed: watch::Sender<Lsn>,
    /// What was replicated, to know it again.
    shipped: Shipped,
    /// What the agent wrote itself, until it is committed: no file has it, and perhaps no safekeeper yet.
    own: Option<OwnWal>,
    /// Whether this compute cannot continue. Final: no flush is granted any more, whatever else is said of this
    /// compute's state.
    has_failed: bool,
    /// When a flush was last asked for.
    last_flush: Option<Instant>,
    /// Why each acceptor could last not be used.
    refusals: Vec<Option<Refusal>>,
    /// Set by a thread that left something for the one that waits on the sockets.
    wake_needed: bool,
    announce_at: Option<Instant>,
    heartbeat_at: Instant,
    campaign_at: Option<Instant>,
}

impl Core {
    /// A proposer without connections yet.
    pub fn new(
        config: proposer::Config,
        safekeepers: &[Endpoint],
        reads: mpsc::Sender<ReadJob>,
        view: watch::Sender<View>,
        committed: watch::Sender<Lsn>,
    ) -> Core {
        let now = Instant::now();
        Core {
            proposer: Proposer::new(config),
            links: safekeepers.iter().map(|safekeeper| SafekeeperLink::new(safekeeper.clone(), now)).collect(),
            flushes: VecDeque::new(),
            control: None,
            reads: Some(reads),
            view,
            committed,
            shipped: Shipped::default(),
            own: None,
            has_failed: false,
            last_flush: None,
            refusals: vec![None; safekeepers.len()],
            wake_needed: false,
            announce_at: None,
            heartbeat_at: now + HEARTBEAT_INTERVAL,
            campaign_at: None,
        }
    }

    /// The connections, to be waited on.
    pub fn links(&self) -> &[SafekeeperLink] {
        &self.links
    }

    /// Wants the election to be won.
    pub fn campaign(&mut self) {
        self.proposer.campaign();
        self.campaign_at = Some(Instant::now() + CAMPAIGN_PATIENCE + jitter(CAMPAIGN_PATIENCE));
        self.carry_out();
    }

    /// From now on flushes are granted, and a fence is shown, through this.
    pub fn attach(&mut self, control: Arc<ControlMap>) {
        if self.proposer.is_fenced() {
            control.fence();
        }
        if self.has_failed {
            control.set_state(AgentState::Failed);
        }
        self.control = Some(control);
    }

    /// Why no election can be won, if too many acceptors say so.
    pub fn election_blocker(&self) -> Result<(), Error> {
        let refusals = || self.refusals.iter().flatten();
        if refusals().filter(|reason| **reason == Refusal::NoLog).count() >= self.proposer.majority() {
            return Err(Error::NoLog);
        }
        if let Some(reason) = refusals().find(|reason| **reason == Refusal::HistoryFull) {
            return Err(reason.clone().into());
        }
        let wrong = refusals().find(|reason| matches!(reason, Refusal::IdentityMismatch(_) | Refusal::SameNode(_)));
        wrong.map_or(Ok(()), |reason| Err(Error::LogMismatch(reason.to_string())))
    }

    /// Lets the reader thread end.
    pub fn dismiss_reader(&mut self) {
        self.reads = None;
    }

    /// What the pageserver has made durable and no replication slot needs.
    pub fn set_durable(&mut self, lsn: Lsn) {
        self.proposer.set_durable(lsn);
    }

    /// Replicates `wal`, which ends at a record boundary and continues where the log ends.
    pub fn extend(&mut self, begin: Lsn, wal: Bytes) -> Result<(), proposer::ExtendError> {
        self.proposer.extend(begin, wal.clone())?;
        // Before anything is read again to catch up.
        self.shipped.note(begin, &wal);
        self.carry_out();
        Ok(())
    }

    /// The same with WAL that the agent wrote itself.
    pub fn append(&mut self, begin: Lsn, wal: Bytes) -> Result<(), proposer::ExtendError> {
        self.own = Some(OwnWal { begin, wal: wal.clone() });
        self.extend(begin, wal)
    }

    /// Grants the flush of `request` once everything before `boundary` is committed; never after a failure.
    pub fn grant_when_committed(&mut self, boundary: Lsn, request: FlushRequest) {
        if self.has_failed {
            return;
        }
        self.last_flush = Some(Instant::now());
        self.flushes.push_back(PendingFlush { boundary, request });
        self.grant();
    }

    /// Whether this compute cannot continue.
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Whether a majority has everything before `lsn`.
    pub fn is_committed(&self, lsn: Lsn) -> bool {
        self.proposer.committed().is_some_and(|committed| lsn <= committed)
    }

    /// Whether PostgreSQL waits for a flush that was shipped.
    pub fn has_pending_flush(&self) -> bool {
        !self.flushes.is_empty()
    }

    /// Whether a flush was asked for so lately that the next can be expected at any moment.
    pub fn is_busy(&self) -> bool {
        self.last_flush.is_some_and(|last| last.elapsed() < BUSY_FOR)
    }

    /// Hands in WAL that the proposer asked for.
    pub fn wal_read(&mut self, job: &ReadJob, wal: Option<Bytes>) {
        match wal {
            Some(wal) => self.proposer.wal_read(job.acceptor, job.begin, wal),
            None => self.proposer.wal_read_failed(job.acceptor),
        }
        self.carry_out();
    }

    /// Says that this compute cannot continue; everybody who waits for a flush gets an error.
    pub fn fail(&mut self, reason: CommitPathError) {
        tracing::error!(%reason, "the commit path has failed");
        self.has_failed = true;
        if let Some(control) = &self.control {
            control.set_state(AgentState::Failed);
        }
        self.flushes.clear();
        self.view.send_modify(|view| {
            view.ended.get_or_insert(SessionEnd::CommitPath(reason));
        });
    }

    /// Whether the thread that waits on the sockets has to look at them anew; asked once by the thread that worked on
    /// the core.
    pub fn take_wake_needed(&mut self) -> bool {
        std::mem::take(&mut self.wake_needed)
    }

    /// How things stand, for people.
    pub fn status(&self) -> QuorumStatus {
        let streaming = self.proposer.streaming();
        let safekeepers = self.links.iter().enumerate().map(|(acceptor, link)| LinkStatus {
            address: link.endpoint().clone(),
            connected: streaming.contains(acceptor),
            flush: self.proposer.flushed_by(acceptor),
            trouble: link.trouble().map(str::to_owned),
        });
        QuorumStatus {
            connected: streaming.len(),
            lost: streaming.len() < self.proposer.majority(),
            term: self.proposer.term(),
            written: self.proposer.end_of_log(),
            committed: self.proposer.committed(),
            safekeepers: safekeepers.collect(),
        }
    }
}

/// What the thread that waits on the sockets does.
impl Core {
    /// Does what is due on link `acceptor`: connects, reads if its socket `is_ready`, writes, buries.
    pub fn serve_link(&mut self, acceptor: usize, is_ready: bool, now: Instant) {
        if self.links[acceptor].is_broken() {
            let trouble = self.links[acceptor].trouble().unwrap_or("connection broken").to_owned();
            self.close(acceptor, &trouble, now);
        }
        if self.links[acceptor].advance(now) == LinkProgress::Opened {
            self.proposer.connected(acceptor);
        }
        if is_ready {
            match self.links[acceptor].receive(now) {
                Ok(responses) => responses.into_iter().for_each(|response| self.proposer.received(acceptor, response)),
                Err(error) => self.close(acceptor, &error.to_string(), now),
            }
        }
        self.links[acceptor].flush();
        self.carry_out();
    }

    fn close(&mut self, acceptor: usize, trouble: &str, now: Instant) {
        tracing::info!(safekeeper = %self.links[acceptor].endpoint(), trouble, "connection to a safekeeper ended");
        self.links[acceptor].close(trouble, now);
        self.proposer.disconnected(acceptor);
    }

    /// Does what is due by the clock.
    pub fn tick(&mut self, now: Instant) {
        if self.announce_at.is_some_and(|at| at <= now) {
            self.announce_at = None;
            self.proposer.announce();
        }
        if self.heartbeat_at <= now {
            self.heartbeat_at = now + HEARTBEAT_INTERVAL;
            self.proposer.heartbeat();
            self.drop_silent(now);
        }
        if self.campaign_at.is_some_and(|at| at <= now) {
            self.campaign();
        }
        self.carry_out();
    }

    fn drop_silent(&mut self, now: Instant) {
        for acceptor in 0..self.links.len() {
            let silent = self.links[acceptor].heard().is_some_and(|heard| now.duration_since(heard) > ANSWER_PATIENCE);
            if silent && self.proposer.is_waiting_for(acceptor) {
                self.close(acceptor, &format!("no answer for {} s", ANSWER_PATIENCE.as_secs()), now);
            }
        }
    }

    /// When [`Core::tick`] or a link has something to do next.
    pub fn next_wake_up(&self, now: Instant) -> Instant {
        let links = self.links.iter().filter_map(|link| link.wake_up(now));
        let clocks = [self.announce_at, self.campaign_at].into_iter().flatten();
        links.chain(clocks).fold(self.heartbeat_at, Instant::min)
    }
}

/// What the proposer wants done.
impl Core {
    fn carry_out(&mut self) {
        while let Some(output) = self.proposer.poll() {
            match output {
                Output::Send { to, request } => self.send(to, &request),
                Output::ReadWal { acceptor, begin, end } => self.read(acceptor, begin, end),
                Output::Elected { term, end_of_log, donor } => self.elected(term, end_of_log, donor),
                Output::Outvoted { by } => self.outvoted(by),
                Output::Committed(lsn) => self.committed(lsn),
                Output::Fenced { by } => self.fenced(by),
                Output::Refused { acceptor, reason } => self.refused(acceptor, reason),
            }
        }
    }

    fn send(&mut self, to: AcceptorSet, request: &Request) {
        let frame = Bytes::from(request.to_frame(0).encode());
        for acceptor in to.iter() {
            self.wake_needed |= self.links[acceptor].send(&frame);
        }
    }

    fn read(&mut self, acceptor: usize, begin: Lsn, end: Lsn) {
        let holders = self.proposer.holders(end).iter().filter(|holder| *holder != acceptor);
        let donor = self.view.borrow().elected.map(|won| won.donor).filter(|donor| *donor != acceptor);
        let sources = holders.chain(donor).map(|source| self.links[source].endpoint().clone()).collect();
        let term = self.proposer.term().unwrap_or_default();
        if let Some(reads) = &self.reads {
            let shipped = self.shipped.covering(begin, end);
            let own = self.own.clone().filter(|own| own.begin < end && end <= own.end());
            // The reader ends only when this compute does.
            let _ = reads.send(ReadJob { acceptor, term, begin, end, shipped, own, sources });
        }
    }

    fn elected(&mut self, term: Term, end_of_log: Lsn, donor: usize) {
        tracing::info!(%term, %end_of_log, donor = %self.links[donor].endpoint(), "elected");
        self.campaign_at = None;
        let identity = self.proposer.identity();
        let elected = identity.map(|identity| Won { term, end_of_log, donor, identity });
        self.view.send_modify(|view| view.elected = elected);
    }

    fn refused(&mut self, acceptor: usize, reason: Refusal) {
        self.close(acceptor, &reason.to_string(), Instant::now());
        self.refusals[acceptor] = Some(reason);
        self.view.send_modify(|view| view.refusals += 1);
        self.wake_needed = true;
    }

    fn outvoted(&mut self, by: Term) {
        tracing::info!(%by, "outvoted; trying again");
        self.campaign_at = Some(Instant::now() + OUTVOTED_DELAY + jitter(OUTVOTED_DELAY * 5));
        self.wake_needed = true;
    }

    fn committed(&mut self, lsn: Lsn) {
        self.own.take_if(|own| own.end() <= lsn);
        self.committed.send_replace(lsn);
        if let Some(control) = &self.control {
            control.raise_commit_lsn(lsn);
        }
        self.grant();
        self.announce_at.get_or_insert_with(|| Instant::now() + ANNOUNCE_DELAY);
    }

    fn grant(&mut self) {
        if self.has_failed {
            return;
        }
        let (Some(control), Some(committed)) = (&self.control, self.proposer.committed()) else { return };
        while let Some(flush) = self.flushes.front().filter(|flush| flush.boundary <= committed) {
            control.complete_flush(flush.request);
            self.flushes.pop_front();
        }
    }

    fn fenced(&mut self, by: Term) {
        tracing::error!(%by, "fenced by a newer compute");
        if let Some(control) = &self.control {
            control.fence();
        }
        self.flushes.clear();
        self.view.send_modify(|view| view.ended = Some(SessionEnd::Fenced(by)));
    }
}

/// A random part of `most`, so that two candidates do not keep meeting.
fn jitter(most: Duration) -> Duration {
    most.mul_f64(rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_cache::ControlSettings;
    use quire_protocol::quorum::{LogIdentity, Response, TermHistory};
    use quire_types::{BranchKey, NodeId};
    use std::path::Path;

    const START: Lsn = Lsn(1 << 20);
    const IDENTITY: LogIdentity = LogIdentity { system_id: 7, segment_bytes: 1 << 20, start: START };

    /// The only acceptor has voted and taken the term.
    fn elected() -> Core {
        let config =
            proposer::Config { branch: BranchKey::default(), node: NodeId(9), acceptors: 1, identity: Some(IDENTITY) };
        let safekeeper = Endpoint::new("127.0.0.1", 1);
        let (view, committed) = (watch::Sender::default(), watch::Sender::new(Lsn::INVALID));
        let mut core = Core::new(config, &[safekeeper], mpsc::channel().0, view, committed);
        core.proposer.connected(0);
        hear(&mut core, Response::Welcome { node: NodeId(1), term: Term(0), identity: Some(IDENTITY) });
        core.campaign();
        let (flush, commit, oldest, history) = (START, START, START, TermHistory::default());
        hear(&mut core, Response::Vote { granted: true, term: Term(1), flush, commit, oldest, history });
        hear(&mut core, appended(START));
        core
    }

    fn appended(flush: Lsn) -> Response {
        Response::Appended { term: Term(1), flush, commit: START }
    }

    fn hear(core: &mut Core, response: Response) {
        core.proposer.received(0, response);
        core.carry_out();
    }

    fn control(folder: &Path, name: &str) -> Arc<ControlMap> {
        let settings =
            ControlSettings { agent_pid: 1, segment_bytes: 1 << 20, timeline: 1, start_lsn: START, bounded: false };
        Arc::new(ControlMap::create(&folder.join(name), &settings).expect("made"))
    }

    fn request(control: &ControlMap) -> FlushRequest {
        control.raise_wal_written(START.add(8192));
        control.request_flush();
        control.pending_request().expect("asked for")
    }

    #[test]
    fn a_flush_is_granted_once_it_is_committed() {
        let (mut core, folder) = (elected(), tempfile::tempdir().expect("a folder"));
        let control = control(folder.path(), "control");
        core.attach(control.clone());
        core.extend(START, Bytes::from_static(b"a record")).expect("elected");
        core.grant_when_committed(START.add(8), request(&control));
        assert!(control.pending_request().is_some());
        hear(&mut core, appended(START.add(8)));
        assert!(control.pending_request().is_none());
    }

    #[test]
    fn what_the_agent_wrote_itself_is_read_from_memory_until_it_is_committed() {
        let mut core = elected();
        let (reads, jobs) = mpsc::channel();
        core.reads = Some(reads);
        core.append(START, Bytes::from_static(b"a record")).expect("elected");
        let read = |core: &mut Core| {
            core.read(0, START, START.add(8));
            jobs.recv().expect("asked for").own.map(|own| own.wal)
        };
        assert_eq!(read(&mut core).as_deref(), Some(&b"a record"[..]));
        hear(&mut core, appended(START.add(8)));
        assert_eq!(read(&mut core), None, "a safekeeper has it");
    }

    #[test]
    fn after_a_failure_no_flush_is_granted_whatever_the_state_says() {
        let (mut core, folder) = (elected(), tempfile::tempdir().expect("a folder"));
        core.attach(control(folder.path(), "before"));
        core.extend(START, Bytes::from_static(b"a record")).expect("elected");
        core.fail(CommitPathError::Lost { at: START });
        // As if the state had been overwritten.
        let control = control(folder.path(), "after");
        core.control = Some(control.clone());
        core.grant_when_committed(START, request(&control));
        core.flushes.push_back(PendingFlush { boundary: START, request: request(&control) });
        hear(&mut core, appended(START.add(8)));
        assert!(control.pending_request().is_some(), "it was granted");
        assert!(core.has_failed());
    }

    #[test]
    fn a_failure_is_shown_in_what_is_attached_later() {
        let (mut core, folder) = (elected(), tempfile::tempdir().expect("a folder"));
        core.fail(CommitPathError::Lost { at: START });
        let control = control(folder.path(), "control");
        core.attach(control.clone());
        assert_eq!(control.state(), AgentState::Failed);
    }
}
