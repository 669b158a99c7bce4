//! The proposer: wins a term, brings the acceptors' logs into agreement, replicates the local WAL, says what is
//! committed.
//!
//! Calls tell it what happened; [`Proposer::poll`] gives out what is to be done about it. See the [crate] for the rules
//! and for an example. The caller owes it this:
//!
//! - One connection per acceptor. After [`Proposer::disconnected`] nothing that arrived on the old connection may be
//!   handed in, and messages that were not sent yet are dropped. Messages of one connection keep their order.
//! - [`Proposer::extend`] gets each byte of this term's WAL once, in order, cut at record boundaries, before it is
//!   thrown away locally: bytes of an earlier call may be asked for again with [`Output::ReadWal`].
//! - After [`Output::Outvoted`], [`Proposer::campaign`] is called again after a *random* delay, so that of two
//!   candidates one gets through. The same goes for a campaign that nothing comes of.
//! - After [`Output::Fenced`] the local WAL is no longer the branch's. The proposer does nothing more.
//!
//! A sketch of a driver:
//!
//! ```text
//! connect i            -> proposer.connected(i)
//! frame from i         -> proposer.received(i, Response::from_frame(&frame)?)
//! connection i breaks  -> proposer.disconnected(i), connect again later
//! WAL was written      -> proposer.extend(proposer.end_of_log(), bytes up to the last record boundary)
//! every 10 ms or so    -> proposer.announce()      commit reaches acceptors, hence pageservers, without a next commit
//! every second         -> proposer.heartbeat()     also retries failed reads
//! then always          -> while let Some(output) = proposer.poll() { carry it out }
//! ```

mod election;
mod leadership;
mod output;
mod peer;
mod replication;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use leadership::Leadership;
pub use output::{AcceptorSet, ExtendError, Output, Refusal};
pub use peer::WINDOW_BYTES;
use peer::{Ballot, Peer, PeerLink, Stream};
use quire_protocol::quorum::{LogIdentity, Request, Response};
use quire_types::{BranchKey, Lsn, NodeId, Term};
use std::collections::VecDeque;

/// Who proposes to whom.
#[derive(Clone, Debug)]
pub struct Config {
    /// The branch.
    pub branch: BranchKey,
    /// The compute, for the acceptors' logs.
    pub node: NodeId,
    /// How many acceptors the branch has, 1 to [`AcceptorSet::CAPACITY`], whether or not they can be reached. They are
    /// named by their index.
    pub acceptors: usize,
    /// The log's identity, if the caller knows it; else what the first acceptor says is taken.
    pub identity: Option<LogIdentity>,
}

/// The proposer of one branch.
#[derive(Debug)]
pub struct Proposer {
    config: Config,
    peers: Vec<Peer>,
    highest_term: Term,
    role: Role,
    /// What every pageserver shard has made durable, as the caller knows it.
    durable: Lsn,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
enum Role {
    /// Nothing is asked for. A campaign begins once a majority can be reached, if one is wanted.
    Idle { wants_term: bool },
    /// Votes are being asked for.
    Candidate(Term),
    /// The term is won.
    Leader(Leadership),
    /// Another proposer has a higher term.
    Deposed,
}

impl Proposer {
    /// A proposer that knows no acceptor yet.
    ///
    /// # Panics
    /// If the number of acceptors is out of range.
    pub fn new(config: Config) -> Proposer {
        assert!((1..=AcceptorSet::CAPACITY).contains(&config.acceptors), "a quorum has 1 to 64 acceptors");
        let peers = (0..config.acceptors).map(|_| Peer::default()).collect();
        let role = Role::Idle { wants_term: false };
        Proposer { config, peers, highest_term: Term(0), role, durable: Lsn::MAX, outputs: VecDeque::new() }
    }

    /// The next thing to do, in order; none when all is done.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// How many acceptors make a majority.
    pub fn majority(&self) -> usize {
        self.config.acceptors / 2 + 1
    }

    /// The log's identity, once known.
    pub fn identity(&self) -> Option<LogIdentity> {
        self.config.identity
    }

    /// The term, while it is held.
    pub fn term(&self) -> Option<Term> {
        self.leadership().map(|leadership| leadership.term)
    }

    /// Whether a higher term was seen after this proposer was elected.
    pub fn is_fenced(&self) -> bool {
        matches!(self.role, Role::Deposed)
    }

    /// Where the next [`Proposer::extend`] continues, while elected.
    pub fn end_of_log(&self) -> Option<Lsn> {
        self.leadership().map(|leadership| leadership.end)
    }

    /// The highest position a majority has flushed in this term, if there is one.
    pub fn committed(&self) -> Option<Lsn> {
        self.leadership().map(|leadership| leadership.committed_here).filter(|lsn| lsn.is_valid())
    }

    /// Acceptors that are connected and take this term's WAL: fewer than a majority of them means that commits wait.
    pub fn streaming(&self) -> AcceptorSet {
        self.select(|peer| matches!(peer.link, PeerLink::Streaming(_)))
    }

    /// Acceptors that have everything before `lsn` flushed in this proposer's log, for [`Output::ReadWal`].
    pub fn holders(&self, lsn: Lsn) -> AcceptorSet {
        self.select(|peer| peer.flush.is_some_and(|flush| flush >= lsn))
    }

    /// What the acceptor last said to have flushed in this term.
    pub fn flushed_by(&self, acceptor: usize) -> Option<Lsn> {
        self.peers.get(acceptor)?.flush
    }

    /// Whether an answer of the acceptor is due: if none comes for long, its connection should be given up.
    pub fn is_waiting_for(&self, acceptor: usize) -> bool {
        let Some(peer) = self.peers.get(acceptor) else { return false };
        match &peer.link {
            PeerLink::Down | PeerLink::Refused => false,
            PeerLink::Greeting | PeerLink::Electing => true,
            PeerLink::Welcomed => matches!(self.role, Role::Candidate(_) | Role::Leader(_)) && peer.vote.is_none(),
            PeerLink::Streaming(stream) => stream.is_waiting(),
        }
    }

    /// A connection to the acceptor is open and nothing was said on it.
    pub fn connected(&mut self, acceptor: usize) {
        self.peers[acceptor].link = PeerLink::Greeting;
        let hello = Request::Hello { branch: self.config.branch, node: self.config.node };
        self.send(AcceptorSet::one(acceptor), hello);
    }

    /// The connection to the acceptor is gone, with all that was under way on it.
    pub fn disconnected(&mut self, acceptor: usize) {
        self.peers[acceptor].link = PeerLink::Down;
    }

    /// Wants to be elected, now or as soon as a majority can be reached. Each call is a new attempt with a higher term.
    /// Does nothing while elected, or once fenced.
    pub fn campaign(&mut self) {
        if matches!(self.role, Role::Idle { .. } | Role::Candidate(_)) {
            self.role = Role::Idle { wants_term: true };
            self.begin_wanted_campaign();
        }
    }

    /// An acceptor answered.
    pub fn received(&mut self, acceptor: usize, response: Response) {
        if let Some(term) = term_of(&response).filter(|term| *term > Term::MAX) {
            return self.refuse(acceptor, Refusal::TermOutOfReach(term));
        }
        match response {
            Response::Welcome { node, term, identity } => self.welcomed(acceptor, node, term, identity),
            Response::Vote { granted, term, flush, commit, history, .. } => {
                self.voted(acceptor, granted, term, Ballot { flush, commit, history });
            }
            Response::Appended { term, flush, .. } => self.appended(acceptor, term, flush),
            Response::Wal { .. } => self.refuse(acceptor, Refusal::Unexpected("WAL that nobody asked for")),
            Response::Error { code, message } => self.refuse(acceptor, Refusal::Error { code, message }),
        }
    }

    /// The local WAL has grown by `wal`, from `begin` to a record boundary.
    pub fn extend(&mut self, begin: Lsn, wal: Bytes) -> Result<(), ExtendError> {
        let Role::Leader(leadership) = &mut self.role else {
            return Err(ExtendError::NotElected);
        };
        if begin != leadership.end {
            return Err(ExtendError::NotContiguous { end: leadership.end, begin });
        }
        leadership.extend(begin.add(wal.len() as u64));
        let ready = self.ready_for(begin, wal.len() as u64);
        self.send_in_chunks(ready, begin, wal);
        self.pump_all();
        Ok(())
    }

    /// The bytes that [`Output::ReadWal`] asked for; fewer or none is taken as a failed read.
    pub fn wal_read(&mut self, acceptor: usize, begin: Lsn, wal: Bytes) {
        let Some(stream) = self.peers[acceptor].stream() else { return };
        let Some((_, end)) = stream.reading.take_if(|(asked, _)| *asked == begin) else { return };
        if stream.next == begin && begin.add(wal.len() as u64) == end {
            self.send_wal(AcceptorSet::one(acceptor), begin, wal);
            self.pump(acceptor);
        }
    }

    /// The bytes that [`Output::ReadWal`] asked for could not be had; they are asked for again at the next heartbeat.
    pub fn wal_read_failed(&mut self, acceptor: usize) {
        if let Some(stream) = self.peers[acceptor].stream() {
            stream.reading = None;
        }
    }

    /// Every pageserver shard has made everything before `lsn` durable. Without this call it is left to the acceptors,
    /// to which the shards report too.
    pub fn set_durable(&mut self, lsn: Lsn) {
        self.durable = lsn;
    }

    /// Tells the acceptors how far the log is committed, where they do not know it and no WAL is about to tell them.
    pub fn announce(&mut self) {
        let Some(commit) = self.leadership().map(|leadership| leadership.commit) else { return };
        let unaware = |stream: &Stream| stream.told_commit < commit && stream.has_room(0);
        let to = self.select(|peer| matches!(&peer.link, PeerLink::Streaming(stream) if unaware(stream)));
        self.send_heartbeats(to);
    }

    /// Sends an empty message to each acceptor that has nothing to answer, and asks again for WAL that could not be
    /// read.
    pub fn heartbeat(&mut self) {
        self.pump_all();
        let to = self.select(|peer| matches!(&peer.link, PeerLink::Streaming(stream) if !stream.is_waiting()));
        self.send_heartbeats(to);
    }
}

impl Proposer {
    fn leadership(&self) -> Option<&Leadership> {
        match &self.role {
            Role::Leader(leadership) => Some(leadership),
            _ => None,
        }
    }

    fn select(&self, wanted: impl Fn(&Peer) -> bool) -> AcceptorSet {
        self.peers.iter().enumerate().filter(|(_, peer)| wanted(peer)).map(|(index, _)| index).collect()
    }

    fn send(&mut self, to: AcceptorSet, request: Request) {
        self.outputs.push_back(Output::Send { to, request });
    }

    fn refuse(&mut self, acceptor: usize, reason: Refusal) {
        self.peers[acceptor].link = PeerLink::Refused;
        self.outputs.push_back(Output::Refused { acceptor, reason });
    }
}

/// The term that a response tells of.
fn term_of(response: &Response) -> Option<Term> {
    match response {
        Response::Welcome { term, .. } | Response::Vote { term, .. } | Response::Appended { term, .. } => Some(*term),
        Response::Wal { .. } | Response::Error { .. } => None,
    }
}
