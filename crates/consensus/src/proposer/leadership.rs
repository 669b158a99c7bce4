//! What a proposer knows of the term it won.

use quire_protocol::quorum::{MAX_WAL_BYTES, TermHistory};
use quire_types::{Lsn, Term};
use std::collections::VecDeque;

/// How far apart the remembered record boundaries are.
const ANCHOR_SPACING_BYTES: u64 = 256 << 10;

/// How many are remembered; when there are more, the oldest go, and catching up over them is merely less granular.
const ANCHORS_MAX: usize = 65_536;

/// A term that was won.
#[derive(Debug)]
pub(super) struct Leadership {
    pub term: Term,
    pub history: TermHistory,
    /// Where the term began: the donor's end of log.
    pub start: Lsn,
    /// End of the local WAL, a record boundary.
    pub end: Lsn,
    /// The highest position known to be committed, by this proposer or one before it.
    pub commit: Lsn,
    /// The highest position that a majority has flushed in this term.
    pub committed_here: Lsn,
    /// Record boundaries below `end`, some distance apart, ascending.
    anchors: VecDeque<Lsn>,
}

impl Leadership {
    /// A term that begins where `history` ends, with `commit` learnt from the votes.
    pub fn new(term: Term, history: TermHistory, start: Lsn, commit: Lsn) -> Leadership {
        let anchors = history.0.iter().map(|entry| entry.start).collect();
        Leadership { term, history, start, end: start, commit, committed_here: Lsn::INVALID, anchors }
    }

    /// Moves the end of the local WAL to a later record boundary.
    pub fn extend(&mut self, end: Lsn) {
        let last = self.anchors.back().copied().unwrap_or(Lsn::INVALID);
        if self.end.bytes_since(last) >= ANCHOR_SPACING_BYTES {
            self.anchors.push_back(self.end);
        }
        if self.anchors.len() > ANCHORS_MAX {
            self.anchors.pop_front();
        }
        self.end = end;
    }

    /// Takes `majority_flush`, what a majority has flushed in this term; the new commit position if that moved it.
    ///
    /// Below the term's start a majority's flush proves nothing: those bytes are of older terms, and a rival with a
    /// higher one of these could still replace them.
    pub fn advance_commit(&mut self, majority_flush: Lsn) -> Option<Lsn> {
        if majority_flush < self.start || majority_flush <= self.committed_here {
            return None;
        }
        self.committed_here = majority_flush;
        self.commit = self.commit.max(majority_flush);
        Some(majority_flush)
    }

    /// Where a message that begins at `begin` should end, at a record boundary if one is known within its reach, and
    /// whether it is one. It does not reach across the term's start, for what is before is read elsewhere.
    pub fn chunk_end(&self, begin: Lsn) -> (Lsn, bool) {
        let limit = begin.add(MAX_WAL_BYTES as u64);
        let end = if begin < self.start { self.start } else { self.end };
        if end <= limit {
            return (end, true);
        }
        let above = self.anchors.partition_point(|anchor| *anchor <= limit);
        let boundary = above.checked_sub(1).and_then(|last| self.anchors.get(last)).filter(|anchor| **anchor > begin);
        boundary.map_or((limit, false), |boundary| (*boundary, true))
    }

    /// Whether `lsn` is a record boundary that is remembered.
    pub fn is_boundary(&self, lsn: Lsn) -> bool {
        lsn == self.end || self.anchors.binary_search(&lsn).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_protocol::quorum::TermStart;

    fn leadership() -> Leadership {
        let history = TermHistory(vec![TermStart { term: Term(3), start: Lsn(1000) }]);
        Leadership::new(Term(3), history, Lsn(1000), Lsn(900))
    }

    #[test]
    fn a_majority_below_the_terms_start_commits_nothing() {
        let mut leadership = leadership();
        assert_eq!(leadership.advance_commit(Lsn(999)), None);
        assert_eq!(leadership.commit, Lsn(900));
        assert_eq!(leadership.advance_commit(Lsn(1000)), Some(Lsn(1000)));
        assert_eq!(leadership.advance_commit(Lsn(1000)), None);
    }

    #[test]
    fn a_chunk_ends_at_the_last_boundary_within_reach() {
        let mut leadership = leadership();
        let step = ANCHOR_SPACING_BYTES + 8;
        for count in 1..20 {
            leadership.extend(Lsn(1000 + count * step));
        }
        let (end, whole) = leadership.chunk_end(Lsn(1000));
        assert_eq!((end, whole), (Lsn(1000 + 3 * step), true));
        assert_eq!(leadership.chunk_end(Lsn(1000 + 18 * step)), (leadership.end, true));
        assert!(leadership.is_boundary(end));
    }

    #[test]
    fn a_chunk_does_not_reach_across_the_terms_start() {
        let mut leadership = leadership();
        leadership.extend(Lsn(1100));
        assert_eq!(leadership.chunk_end(Lsn(800)), (Lsn(1000), true));
        assert_eq!(leadership.chunk_end(Lsn(1000)), (Lsn(1100), true));
    }

    #[test]
    fn a_record_longer_than_a_message_is_cut_inside() {
        let mut leadership = leadership();
        leadership.extend(Lsn(1000 + 3 * MAX_WAL_BYTES as u64));
        assert_eq!(leadership.chunk_end(Lsn(1000)), (Lsn(1000 + MAX_WAL_BYTES as u64), false));
    }
}
