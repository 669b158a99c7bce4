//! Winning a term, and announcing it to acceptors that come later.

use super::leadership::Leadership;
use super::peer::{Ballot, Peer, PeerLink};
use super::{AcceptorSet, Output, Proposer, Refusal, Role};
use crate::history::{common_point, history_of_new_term};
use quire_protocol::quorum::{LogIdentity, MAX_TERM_HISTORY, Request, TermHistory};
use quire_types::{Lsn, NodeId, Term};

impl Proposer {
    pub(super) fn begin_wanted_campaign(&mut self) {
        let reachable = self.select(Peer::is_welcomed);
        let wanted = matches!(self.role, Role::Idle { wants_term: true });
        if !wanted || reachable.len() < self.majority() || self.highest_term >= Term::MAX {
            return;
        }
        let term = Term(self.highest_term.0 + 1);
        self.highest_term = term;
        self.role = Role::Candidate(term);
        self.peers.iter_mut().for_each(|peer| peer.vote = None);
        self.send(reachable, Request::RequestVote { term });
    }

    pub(super) fn welcomed(&mut self, acceptor: usize, node: NodeId, term: Term, identity: Option<LogIdentity>) {
        if let Err(refusal) = self.check_welcome(acceptor, node, identity) {
            return self.refuse(acceptor, refusal);
        }
        self.peers[acceptor].node = Some(node);
        self.peers[acceptor].link = PeerLink::Welcomed;
        if !self.observe(term) {
            return;
        }
        match &self.role {
            Role::Idle { .. } => self.begin_wanted_campaign(),
            Role::Candidate(_) if self.peers[acceptor].vote.is_some() => {}
            Role::Candidate(term) | Role::Leader(Leadership { term, .. }) => {
                self.send(AcceptorSet::one(acceptor), Request::RequestVote { term: *term });
            }
            Role::Deposed => {}
        }
    }

    fn check_welcome(&mut self, acceptor: usize, node: NodeId, identity: Option<LogIdentity>) -> Result<(), Refusal> {
        if !matches!(self.peers[acceptor].link, PeerLink::Greeting) {
            return Err(Refusal::Unexpected("a second welcome"));
        }
        if self.peers[acceptor].node.is_some_and(|known| known != node) {
            return Err(Refusal::OtherNode(node));
        }
        if self.peers.iter().enumerate().any(|(index, peer)| index != acceptor && peer.node == Some(node)) {
            return Err(Refusal::SameNode(node));
        }
        let identity = identity.ok_or(Refusal::NoLog)?;
        if *self.config.identity.get_or_insert(identity) == identity {
            Ok(())
        } else {
            Err(Refusal::IdentityMismatch(identity))
        }
    }

    /// Takes note of a term; `false` if it ends what this proposer is doing.
    pub(super) fn observe(&mut self, term: Term) -> bool {
        self.highest_term = self.highest_term.max(term);
        match &self.role {
            Role::Candidate(own) if term > *own => {
                self.outvoted(term);
                false
            }
            Role::Leader(leadership) if term > leadership.term => {
                self.role = Role::Deposed;
                self.outputs.push_back(Output::Fenced { by: term });
                false
            }
            Role::Deposed => false,
            _ => true,
        }
    }

    fn outvoted(&mut self, by: Term) {
        self.role = Role::Idle { wants_term: false };
        self.outputs.push_back(Output::Outvoted { by });
    }

    pub(super) fn voted(&mut self, acceptor: usize, granted: bool, term: Term, ballot: Ballot) {
        if !self.observe(term) || !self.peers[acceptor].is_welcomed() {
            return;
        }
        match &self.role {
            Role::Candidate(own) if *own == term && granted => {
                self.peers[acceptor].vote = Some(ballot);
                self.take_over_if_majority(term);
            }
            Role::Candidate(own) if *own == term => self.outvoted(term),
            Role::Leader(leadership) if leadership.term == term => self.send_elected(acceptor, &ballot),
            _ => {} // The answer to an earlier campaign's request.
        }
    }

    fn take_over_if_majority(&mut self, term: Term) {
        let voters: Vec<usize> = self.select(|peer| peer.vote.is_some()).iter().collect();
        if voters.len() < self.majority() {
            return;
        }
        let ballots: Vec<Option<Ballot>> = self.peers.iter_mut().map(|peer| peer.vote.take()).collect();
        let rank = |voter: &usize| ballots[*voter].as_ref().map(|b| (b.history.last_term_at(b.flush), b.flush));
        let donor = voters.iter().copied().rev().max_by_key(rank).expect("a majority is not empty");
        let Ballot { flush, history, .. } = ballots[donor].clone().expect("the donor has voted");
        let commit = ballots.iter().flatten().map(|ballot| ballot.commit).max().unwrap_or(Lsn::INVALID);
        if flush < commit {
            self.role = Role::Idle { wants_term: false };
            return self.refuse(donor, Refusal::LostWal { flush, known: commit });
        }
        let history = history_of_new_term(&history, flush, term);
        if history.0.len() > MAX_TERM_HISTORY {
            self.role = Role::Idle { wants_term: false };
            return self.refuse(donor, Refusal::HistoryFull);
        }
        self.take_over(term, donor, history, flush, commit);
        for (voter, ballot) in ballots.iter().enumerate() {
            if let Some(ballot) = ballot.as_ref().filter(|_| self.peers[voter].is_welcomed()) {
                self.send_elected(voter, ballot);
            }
        }
    }

    fn take_over(&mut self, term: Term, donor: usize, history: TermHistory, start: Lsn, commit: Lsn) {
        self.role = Role::Leader(Leadership::new(term, history, start, commit));
        self.outputs.push_back(Output::Elected { term, end_of_log: start, donor });
    }

    fn send_elected(&mut self, acceptor: usize, log: &Ballot) {
        let Role::Leader(Leadership { term, history, .. }) = &self.role else { return };
        let start = self.config.identity.map_or(Lsn::INVALID, |identity| identity.start);
        let stream_from = common_point(start, log.flush, &log.history, history);
        let elected = Request::Elected { term: *term, stream_from, history: history.clone() };
        self.peers[acceptor].link = PeerLink::Electing;
        self.send(AcceptorSet::one(acceptor), elected);
    }
}
