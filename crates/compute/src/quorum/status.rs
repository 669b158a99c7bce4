//! What others see of a quorum.

use quire_protocol::quorum::LogIdentity;
use quire_types::{Lsn, Term};

/// A won election.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Won {
    /// The term.
    pub term: Term,
    /// The end of the log, a record boundary; not all of it need be committed yet.
    pub end_of_log: Lsn,
    /// Which safekeeper has all of it.
    pub donor: usize,
    /// Which log it is.
    pub identity: LogIdentity,
}

/// What others wait for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// The election, once won.
    pub elected: Option<Won>,
    /// A higher term, once seen.
    pub fenced: Option<Term>,
    /// Why the commit path cannot go on.
    pub failed: Option<String>,
}
