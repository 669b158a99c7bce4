//! The computes: they start, campaign, write, read for others, and are gone.

use super::{COMPUTES_MAX, Compute, Connection, IDENTITY, World};
use crate::checker::Violation;
use crate::record;
use bytes::Bytes;
use quire_consensus::{Output, Proposer, proposer};
use quire_types::{BranchKey, Lsn, NodeId, Term};

impl World {
    pub(super) fn start_compute(&mut self) -> Result<(), Violation> {
        if self.computes.iter().flatten().count() >= COMPUTES_MAX {
            return Ok(());
        }
        let index = self.computes.len();
        let branch = BranchKey::default();
        let node = NodeId(100 + index as u64);
        let mut proposer =
            Proposer::new(proposer::Config { branch, node, acceptors: self.acceptors.len(), identity: None });
        proposer.campaign();
        self.computes.push(Some(Compute {
            proposer,
            log: Vec::new(),
            local_from: Lsn::MAX,
            term: Term(0),
            donor: 0,
            links: vec![None; self.acceptors.len()],
            reads: Vec::new(),
            fenced: false,
        }));
        self.note(1, index as u64, 0);
        Ok(())
    }

    pub(super) fn living(&self) -> Vec<usize> {
        (0..self.computes.len()).filter(|index| self.computes[*index].is_some()).collect()
    }

    pub(super) fn pick_compute(&mut self) -> Option<usize> {
        let living = self.living();
        self.random.pick(&living)
    }

    pub(super) fn crash_compute(&mut self) -> Result<(), Violation> {
        if let Some(index) = self.pick_compute() {
            self.end_compute(index);
        }
        Ok(())
    }

    pub(super) fn end_compute(&mut self, index: usize) {
        let Some(compute) = self.computes[index].take() else { return };
        for connection in compute.links.into_iter().flatten() {
            self.orphan(connection);
        }
        self.note(2, index as u64, 0);
    }

    pub(super) fn connect(&mut self) -> Result<(), Violation> {
        let Some(index) = self.pick_compute() else { return Ok(()) };
        let acceptor = self.random.below(self.acceptors.len());
        let compute = self.computes[index].as_mut().expect("it lives");
        if compute.links[acceptor].is_some() || self.acceptors[acceptor].acceptor.is_none() {
            return Ok(());
        }
        compute.links[acceptor] = Some(self.connections.len());
        compute.proposer.connected(acceptor);
        self.connections.push(Some(Connection { compute: index, acceptor, ..Connection::default() }));
        self.note(3, index as u64, acceptor as u64);
        self.drain(index)
    }

    pub(super) fn campaign(&mut self) -> Result<(), Violation> {
        let Some(index) = self.pick_compute() else { return Ok(()) };
        self.computes[index].as_mut().expect("it lives").proposer.campaign();
        self.drain(index)
    }

    pub(super) fn tick(&mut self) -> Result<(), Violation> {
        let Some(index) = self.pick_compute() else { return Ok(()) };
        let proposer = &mut self.computes[index].as_mut().expect("it lives").proposer;
        if self.random.percent(50) {
            proposer.announce()
        } else {
            proposer.heartbeat()
        }
        self.drain(index)
    }

    pub(super) fn write(&mut self) -> Result<(), Violation> {
        let Some(index) = self.pick_compute() else { return Ok(()) };
        let compute = self.computes[index].as_mut().expect("it lives");
        let Some(begin) = compute.proposer.end_of_log() else { return Ok(()) };
        let mut wal = Vec::new();
        for _ in 0..1 + self.random.below(4) {
            let length = record::length(self.long_records, &mut self.random);
            wal.extend(record::record(begin.0 + wal.len() as u64, length, &mut self.random));
        }
        compute.log.extend_from_slice(&wal);
        compute.proposer.extend(begin, Bytes::from(wal)).map_err(|error| error.to_string())?;
        self.note(4, index as u64, begin.0);
        self.drain(index)
    }

    /// Writes, unless the term has WAL already.
    pub(super) fn write_once(&mut self) -> Result<(), Violation> {
        let is_new = |compute: &Compute| compute.proposer.end_of_log() == Some(compute.local_from);
        if self.computes.iter().flatten().any(is_new) { self.write() } else { Ok(()) }
    }

    pub(super) fn serve_read(&mut self) -> Result<(), Violation> {
        let Some(index) = self.pick_compute() else { return Ok(()) };
        let compute = self.computes[index].as_mut().expect("it lives");
        if compute.reads.is_empty() {
            return Ok(());
        }
        let (acceptor, begin, end) = compute.reads.swap_remove(self.random.below(compute.reads.len()));
        let wal = self.read(index, begin, end);
        let proposer = &mut self.computes[index].as_mut().expect("it lives").proposer;
        self.trace ^= wal.as_ref().map_or(0, |wal| wal.len() as u64);
        match wal {
            Some(wal) => proposer.wal_read(acceptor, begin, wal),
            None => proposer.wal_read_failed(acceptor),
        }
        self.drain(index)
    }

    /// Local WAL from the compute itself, older WAL from an acceptor that has it.
    pub(super) fn read(&mut self, index: usize, begin: Lsn, end: Lsn) -> Option<Bytes> {
        let compute = self.computes[index].as_ref()?;
        let range = begin.bytes_since(IDENTITY.start) as usize..end.bytes_since(IDENTITY.start) as usize;
        if begin >= compute.local_from {
            return compute.log.get(range).map(Bytes::copy_from_slice);
        }
        let sources: Vec<usize> = compute.proposer.holders(end).iter().chain([compute.donor]).collect();
        let source = &self.acceptors[self.random.pick(&sources)?];
        source.acceptor.as_ref()?.may_read(compute.term, begin, end).ok()?;
        source.disk.log(end).get(range).map(Bytes::copy_from_slice)
    }

    /// Carries out what a proposer wants.
    pub(super) fn drain(&mut self, index: usize) -> Result<(), Violation> {
        while let Some(output) = self.computes[index].as_mut().and_then(|compute| compute.proposer.poll()) {
            self.carry_out(index, output)?;
        }
        if self.computes[index].as_ref().is_some_and(|compute| compute.fenced) {
            self.end_compute(index);
        }
        Ok(())
    }

    pub(super) fn carry_out(&mut self, index: usize, output: Output) -> Result<(), Violation> {
        let compute = self.computes[index].as_mut().expect("it lives");
        match output {
            Output::Send { to, request } => {
                for connection in to.iter().filter_map(|acceptor| compute.links[acceptor]) {
                    self.connections[connection].as_mut().expect("linked").requests.push_back(request.clone());
                }
            }
            Output::ReadWal { acceptor, begin, end } => compute.reads.push((acceptor, begin, end)),
            Output::Elected { term, end_of_log, donor } => {
                (compute.term, compute.donor, compute.local_from) = (term, donor, end_of_log);
                compute.log = self.checker.elected(term, index, donor, end_of_log)?;
                self.elections += 1;
                self.note(5, term.0, end_of_log.0);
            }
            Output::Committed(_) if compute.fenced => return Err("a fenced compute commits".into()),
            Output::Committed(lsn) => {
                self.checker.committed(compute.term, lsn, &compute.log, &self.acceptors)?;
                self.note(6, index as u64, lsn.0);
            }
            Output::Fenced { .. } => compute.fenced = true,
            Output::Outvoted { .. } => {}
            Output::Refused { acceptor, reason } => return self.refused(index, acceptor, &reason),
        }
        Ok(())
    }

    /// A refusal costs a connection. Those that speak of lost WAL must not occur.
    pub(super) fn refused(
        &mut self,
        index: usize,
        acceptor: usize,
        reason: &proposer::Refusal,
    ) -> Result<(), Violation> {
        let lost = match reason {
            proposer::Refusal::LostWal { .. } => true,
            proposer::Refusal::Error { message, .. } => message.contains("committed"),
            _ => false,
        };
        if lost {
            return Err(format!("acceptor {acceptor} is refused: {reason}"));
        }
        let compute = self.computes[index].as_mut().expect("it lives");
        if let Some(connection) = compute.links[acceptor] {
            self.cut(connection);
        }
        Ok(())
    }
}
