//! What must hold after every step of every run.

use crate::world::Acceptors;
use quire_consensus::history::common_point;
use quire_types::{Lsn, Term};
use std::collections::BTreeMap;

/// A broken promise, in words.
pub type Violation = String;

/// Remembers everything that was ever promised.
#[derive(Debug)]
pub struct Checker {
    start: Lsn,
    /// All bytes that any proposer ever called committed.
    committed: Vec<u8>,
    /// How much of it was committed in each term.
    committed_in: BTreeMap<Term, usize>,
    leaders: BTreeMap<Term, usize>,
    /// The log that went with each granted vote.
    ballots: BTreeMap<(Term, usize), Vec<u8>>,
}

fn promise(holds: bool, broken: impl FnOnce() -> String) -> Result<(), Violation> {
    holds.then_some(()).ok_or_else(broken)
}

impl Checker {
    pub fn new(start: Lsn) -> Checker {
        let (leaders, ballots) = (BTreeMap::new(), BTreeMap::new());
        Checker { start, committed: Vec::new(), committed_in: BTreeMap::new(), leaders, ballots }
    }

    pub fn committed_bytes(&self) -> usize {
        self.committed.len()
    }

    pub fn granted(&mut self, term: Term, acceptor: usize, log: &[u8]) -> Result<(), Violation> {
        let twice = self.ballots.insert((term, acceptor), log.to_vec()).is_some();
        promise(!twice, || format!("acceptor {acceptor} granted term {term} twice"))
    }

    /// A compute was elected: no other was, and its log has everything committed in earlier terms. Gives that log.
    /// What was committed in later ones it may lack: it was overtaken before it knew that it had won, and can commit
    /// nothing.
    pub fn elected(&mut self, term: Term, compute: usize, donor: usize, end: Lsn) -> Result<Vec<u8>, Violation> {
        let rival = self.leaders.insert(term, compute);
        promise(rival.is_none(), || format!("computes {rival:?} and {compute} both hold term {term}"))?;
        let mut log = self.ballots.get(&(term, donor)).cloned().ok_or("the donor did not vote")?;
        log.truncate(end.bytes_since(self.start) as usize);
        let earlier = self.committed_in.range(..term).map(|(_, length)| *length).max().unwrap_or(0);
        let has_all = log.starts_with(&self.committed[..earlier]);
        promise(has_all, || format!("term {term} starts at {end} without all that is committed"))?;
        Ok(log)
    }

    /// A compute with this log calls everything before `lsn` committed.
    pub fn committed(&mut self, term: Term, lsn: Lsn, log: &[u8], acceptors: &Acceptors) -> Result<(), Violation> {
        let length = lsn.bytes_since(self.start) as usize;
        let log = log.get(..length).ok_or("more is committed than was written")?;
        let shared = length.min(self.committed.len());
        promise(log[..shared] == self.committed[..shared], || format!("two values are committed before {lsn}"))?;
        self.committed.extend_from_slice(&log[shared..]);
        self.committed_in.insert(term, length);
        self.committed_is_durable(acceptors)
    }

    pub fn committed_is_durable(&self, acceptors: &Acceptors) -> Result<(), Violation> {
        let holding = acceptors.iter().filter(|acceptor| acceptor.disk.durable().starts_with(&self.committed)).count();
        promise(holding > acceptors.len() / 2, || format!("{holding} acceptors have all that is committed"))
    }

    /// An acceptor's log has changed: it agrees with all others as far as their histories do.
    pub fn log_changed(&self, changed: usize, acceptors: &Acceptors) -> Result<(), Violation> {
        let Some(ours) = &acceptors[changed].acceptor else { return Ok(()) };
        let commit = ours.state().commit.bytes_since(self.start) as usize;
        promise(commit <= self.committed.len(), || format!("acceptor {changed} calls committed what is not"))?;
        for (index, other) in acceptors.iter().enumerate() {
            let Some(theirs) = other.acceptor.as_ref().filter(|_| index != changed) else { continue };
            let reach = common_point(self.start, ours.flush(), &ours.state().history, &theirs.state().history);
            let reach = reach.min(theirs.flush());
            let agree = acceptors[changed].disk.log(reach) == other.disk.log(reach);
            promise(agree, || format!("acceptors {changed} and {index} share terms but differ before {reach}"))?;
        }
        Ok(())
    }
}
