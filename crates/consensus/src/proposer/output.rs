//! What a proposer wants done.

use quire_protocol::quorum::{ErrorCode, LogIdentity, MAX_TERM_HISTORY, Request};
use quire_types::{Lsn, NodeId, Term};

/// A set of acceptors by index.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct AcceptorSet(u64);

impl AcceptorSet {
    /// The most acceptors a quorum may have.
    pub const CAPACITY: usize = 64;

    /// The set of one.
    pub fn one(acceptor: usize) -> AcceptorSet {
        AcceptorSet(1 << acceptor)
    }

    /// Whether the acceptor is in it.
    pub fn contains(self, acceptor: usize) -> bool {
        self.0 & 1 << acceptor != 0
    }

    /// How many are in it.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether none is.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in it, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..AcceptorSet::CAPACITY).filter(move |acceptor| self.contains(*acceptor))
    }
}

impl FromIterator<usize> for AcceptorSet {
    fn from_iter<I: IntoIterator<Item = usize>>(acceptors: I) -> AcceptorSet {
        acceptors.into_iter().fold(AcceptorSet::default(), |set, acceptor| AcceptorSet(set.0 | 1 << acceptor))
    }
}

/// Something for the proposer's caller to do or to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send the message to each of these; it is the same bytes for all.
    Send {
        /// The acceptors.
        to: AcceptorSet,
        /// The message.
        request: Request,
    },
    /// Get WAL `[begin, end)`, at most [`quire_protocol::quorum::MAX_WAL_BYTES`], and hand it to
    /// [`super::Proposer::wal_read`]. It is either all after the term's start, where the local WAL has it, or all
    /// before: then it is read with `ReadWal` in *this* term from the donor or one of [`super::Proposer::holders`] of
    /// `end`, or from the local WAL if that was filled from there. There is at most one such request per acceptor.
    ReadWal {
        /// The acceptor it will go to.
        acceptor: usize,
        /// First byte.
        begin: Lsn,
        /// One past the last byte.
        end: Lsn,
    },
    /// The term is won. The log is what the donor has, up to `end_of_log`; the local WAL continues there. A majority is
    /// being brought up to it now. Until [`Output::Committed`] says that they are, it may lack what a rival with a
    /// higher term, of whom the voters have not told yet, has committed: nothing may be shown to anybody before.
    Elected {
        /// The term.
        term: Term,
        /// A record boundary.
        end_of_log: Lsn,
        /// The acceptor that has all of it.
        donor: usize,
    },
    /// The campaign is lost. Try again after a random delay.
    Outvoted {
        /// The term that was too high.
        by: Term,
    },
    /// Everything before is flushed by a majority in this term and will be in every later proposer's log. Ascending.
    Committed(Lsn),
    /// Another proposer has this higher term. Nothing more will be committed by this one.
    Fenced {
        /// The term.
        by: Term,
    },
    /// The acceptor cannot be used. Close the connection; a later one may go better, except where the configuration is
    /// wrong.
    Refused {
        /// The acceptor.
        acceptor: usize,
        /// Why.
        reason: Refusal,
    },
}

/// Why an acceptor cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// It has no log of this branch. It is not given one: it may have voted, flushed and then lost its disk, and an
    /// acceptor that forgets must not come back as an empty one.
    #[error("the safekeeper has no log of this branch; it is created only with the branch")]
    NoLog,
    /// Its log is another one.
    #[error("the safekeeper has the log of another server: {0}")]
    IdentityMismatch(LogIdentity),
    /// Two addresses lead to one safekeeper, which must not count twice.
    #[error("safekeeper {0} answers at two of the configured addresses")]
    SameNode(NodeId),
    /// Another safekeeper answers than before.
    #[error("another safekeeper, {0}, answers at this address than before")]
    OtherNode(NodeId),
    /// Its log is shorter than what is known to have been flushed: the disk of an acceptor has lost WAL.
    #[error("the safekeeper's log ends at {flush}, before {known} up to which it was flushed: WAL is lost")]
    LostWal {
        /// Where it ends now.
        flush: Lsn,
        /// Where it ended, or up to where it was committed.
        known: Lsn,
    },
    /// It speaks of a term that cannot be.
    #[error("the safekeeper speaks of term {0}, which cannot be")]
    TermOutOfReach(Term),
    /// Its log has gone through as many terms as a message can tell of.
    #[error("the safekeeper's log has gone through {MAX_TERM_HISTORY} terms, and cannot take another")]
    HistoryFull,
    /// It said that it cannot.
    #[error("the safekeeper refuses: {message} ({code:?})")]
    Error {
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: String,
    },
    /// It broke the protocol.
    #[error("the safekeeper sent {0}")]
    Unexpected(&'static str),
}

/// Why the local WAL cannot be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ExtendError {
    /// No term is held.
    #[error("this proposer holds no term")]
    NotElected,
    /// The bytes do not continue where the log ends.
    #[error("WAL at {begin} does not continue at the end of the log, {end}")]
    NotContiguous {
        /// Where the log ends.
        end: Lsn,
        /// Where the bytes begin.
        begin: Lsn,
    },
}
