//! The connections, and the acceptors at their other end.

use super::{Connection, Sabotage, SimAcceptor, World};
use crate::checker::Violation;
use quire_consensus::{Acceptor, Action};
use quire_protocol::quorum::{Request, Response};
use quire_types::NodeId;
use std::collections::VecDeque;

impl World {
    pub(super) fn open_connections(&self, wanted: impl Fn(&Connection) -> bool) -> Vec<usize> {
        let is_wanted = |index: &usize| self.connections[*index].as_ref().is_some_and(&wanted);
        (0..self.connections.len()).filter(is_wanted).collect()
    }

    pub(super) fn deliver(&mut self) -> Result<(), Violation> {
        let busy =
            self.open_connections(|connection| !connection.requests.is_empty() || !connection.responses.is_empty());
        let Some(index) = self.random.pick(&busy) else { return Ok(()) };
        let connection = self.connections[index].as_mut().expect("it is open");
        let answers_first = self.random.percent(50);
        if connection.requests.is_empty() || (answers_first && !connection.responses.is_empty()) {
            return self.deliver_response(index);
        }
        let request = connection.requests.pop_front().expect("it has one");
        self.deliver_request(index, request)
    }

    pub(super) fn deliver_response(&mut self, index: usize) -> Result<(), Violation> {
        let connection = self.connections[index].as_mut().expect("it is open");
        let (compute, acceptor) = (connection.compute, connection.acceptor);
        let response = connection.responses.pop_front().expect("it has one");
        let Some(receiver) = self.computes[compute].as_mut() else { return Ok(()) };
        let response = match (self.sabotage, response) {
            (Sabotage::CountAnyTerm, Response::Appended { flush, commit, .. }) => {
                let end = receiver.proposer.end_of_log().unwrap_or(flush);
                Response::Appended { term: receiver.term, flush: flush.min(end), commit }
            }
            (_, response) => response,
        };
        receiver.proposer.received(acceptor, response);
        self.note(7, compute as u64, acceptor as u64);
        self.drain(compute)
    }

    pub(super) fn deliver_request(&mut self, index: usize, request: Request) -> Result<(), Violation> {
        let acceptor = self.connections[index].as_ref().expect("it is open").acceptor;
        self.note(8, index as u64, acceptor as u64);
        let mut answers = VecDeque::new();
        for part in self.in_parts(request) {
            answers = self.handle(acceptor, &part)?;
        }
        self.checker.log_changed(acceptor, &self.acceptors)?;
        if let Some(connection) = self.connections[index].as_mut().filter(|connection| !connection.orphaned) {
            connection.responses.append(&mut answers);
        }
        Ok(())
    }

    /// Now and then WAL arrives in two pieces, as that of a long record does; only the second is answered.
    pub(super) fn in_parts(&mut self, request: Request) -> Vec<Request> {
        match request {
            Request::Append { term, begin, commit, durable, ends_record, mut wal }
                if wal.len() > 1 && self.random.percent(20) =>
            {
                let first = wal.split_to(1 + self.random.below(wal.len() - 1));
                let middle = begin.add(first.len() as u64);
                let piece =
                    |begin, ends_record, wal| Request::Append { term, begin, commit, durable, ends_record, wal };
                vec![piece(begin, false, first), piece(middle, ends_record, wal)]
            }
            whole => vec![whole],
        }
    }

    /// Lets an acceptor carry out a request, with a crash on the way now and then.
    pub(super) fn handle(&mut self, index: usize, request: &Request) -> Result<VecDeque<Response>, Violation> {
        let Some(acceptor) = self.acceptors[index].acceptor.as_mut() else { return Ok(VecDeque::new()) };
        let actions = match request {
            Request::Hello { .. } => vec![Action::Reply(acceptor.welcome())],
            request => acceptor.handle(request),
        };
        let mut answers = VecDeque::new();
        for action in actions {
            if !self.calm && self.random.below(1000) == 0 {
                self.take_down(index)?;
                return Ok(VecDeque::new());
            }
            let is_vote = matches!(request, Request::RequestVote { .. });
            self.act(index, action, is_vote, &mut answers)?;
        }
        Ok(answers)
    }

    pub(super) fn act(
        &mut self,
        index: usize,
        action: Action,
        is_vote: bool,
        answers: &mut VecDeque<Response>,
    ) -> Result<(), Violation> {
        let disk = &mut self.acceptors[index].disk;
        match action {
            Action::PersistState(_) if is_vote && self.sabotage == Sabotage::ForgetVotes => {}
            Action::PersistState(state) => disk.state = state,
            Action::TruncateWal { .. } if self.sabotage == Sabotage::KeepDivergentTail => {}
            Action::TruncateWal { to } => {
                disk.truncate(to);
                self.checker.committed_is_durable(&self.acceptors)?;
            }
            Action::WriteWal { begin, wal } => disk.write(begin, &wal),
            Action::Flush if self.sabotage == Sabotage::AnswerBeforeFlush => {}
            Action::Flush => disk.flush(),
            Action::Reply(response) => {
                if let Response::Vote { granted: true, term, flush, .. } = &response {
                    self.checker.granted(*term, index, self.acceptors[index].disk.log(*flush))?;
                }
                answers.push_back(response);
            }
        }
        Ok(())
    }

    pub(super) fn crash_acceptor(&mut self) -> Result<(), Violation> {
        let index = self.random.below(self.acceptors.len());
        let SimAcceptor { disk, acceptor } = &mut self.acceptors[index];
        if let Some(acceptor) = acceptor.as_ref().filter(|_| self.random.percent(20)) {
            // As a safekeeper does now and then: the commit position is persisted.
            disk.state = acceptor.state().clone();
        }
        self.take_down(index)
    }

    pub(super) fn take_down(&mut self, index: usize) -> Result<(), Violation> {
        if self.acceptors[index].acceptor.take().is_none() {
            return Ok(());
        }
        for connection in self.open_connections(|connection| connection.acceptor == index) {
            self.cut(connection);
        }
        self.note(9, index as u64, 0);
        Ok(())
    }

    pub(super) fn restart_acceptor(&mut self) -> Result<(), Violation> {
        let index = self.random.below(self.acceptors.len());
        let down = &mut self.acceptors[index];
        if down.acceptor.is_some() {
            return Ok(());
        }
        let end = down.disk.crash(&mut self.random);
        let restored = Acceptor::restore(NodeId(index as u64 + 1), down.disk.state.clone(), end);
        down.acceptor = Some(restored.map_err(|error| error.to_string())?);
        self.note(10, index as u64, end.0);
        self.checker.committed_is_durable(&self.acceptors)?;
        self.checker.log_changed(index, &self.acceptors)
    }

    pub(super) fn break_connection(&mut self) -> Result<(), Violation> {
        let open = self.open_connections(|connection| !connection.orphaned);
        if let Some(index) = self.random.pick(&open) {
            if self.random.percent(50) { self.orphan(index) } else { self.cut(index) }
        }
        Ok(())
    }

    /// The connection is gone for both sides.
    pub(super) fn cut(&mut self, index: usize) {
        self.orphan(index);
        self.connections[index] = None;
    }

    /// The connection is gone for the compute, while the acceptor continues with what it has received.
    pub(super) fn orphan(&mut self, index: usize) {
        let Some(connection) = self.connections[index].as_mut() else { return };
        connection.orphaned = true;
        connection.responses.clear();
        let (compute, acceptor) = (connection.compute, connection.acceptor);
        if connection.requests.is_empty() {
            self.connections[index] = None;
        }
        if let Some(compute) = self.computes[compute].as_mut().filter(|compute| compute.links[acceptor] == Some(index))
        {
            compute.links[acceptor] = None;
            compute.proposer.disconnected(acceptor);
        }
        self.note(11, index as u64, 0);
    }
}
