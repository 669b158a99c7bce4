//! What is read for acceptors that lag.

use super::shipped::Range;
use bytes::Bytes;
use quire_types::{Endpoint, Lsn, Term};

/// WAL that the proposer needs for an acceptor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadJob {
    /// Who lacks it.
    pub acceptor: usize,
    /// The proposer's term.
    pub term: Term,
    /// First byte.
    pub begin: Lsn,
    /// One past the last byte.
    pub end: Lsn,
    /// What of it, and around it, was shipped from the local files; empty if that is not known.
    pub shipped: Vec<Range>,
    /// The agent's own WAL, of which no safekeeper may have anything yet, if the end is in it.
    pub own: Option<OwnWal>,
    /// Who has it, best first.
    pub sources: Vec<Endpoint>,
}

/// WAL that the agent itself wrote, which no file has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnWal {
    /// Its first byte.
    pub begin: Lsn,
    /// The bytes.
    pub wal: Bytes,
}

impl OwnWal {
    /// One past its last byte.
    pub fn end(&self) -> Lsn {
        self.begin.add(self.wal.len() as u64)
    }

    /// Its part of what a job reads; where that is not all, it is the end.
    pub fn part_of(&self, job: &ReadJob) -> Bytes {
        let offset = |lsn: Lsn| usize::try_from(lsn.bytes_since(self.begin)).expect("what is held fits memory");
        self.wal.slice(offset(job.begin.max(self.begin))..offset(job.end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_part_is_the_end_of_what_is_read() {
        let own = OwnWal { begin: Lsn(100), wal: Bytes::from_static(b"0123456789") };
        let part = |begin, end| {
            let (begin, end) = (Lsn(begin), Lsn(end));
            let (shipped, sources) = (Vec::new(), Vec::new());
            own.part_of(&ReadJob { acceptor: 0, term: Term(1), begin, end, shipped, own: None, sources })
        };
        assert_eq!((own.end(), &part(100, 110)[..]), (Lsn(110), &b"0123456789"[..]));
        assert_eq!((&part(40, 103)[..], &part(104, 106)[..]), (&b"012"[..], &b"45"[..]));
    }
}
