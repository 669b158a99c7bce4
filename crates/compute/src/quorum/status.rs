//! What others see of a quorum.

use crate::Error;
use quire_protocol::quorum::LogIdentity;
use quire_types::{Lsn, Term};
use std::sync::Arc;

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
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The election, once won.
    pub elected: Option<Won>,
    /// How often a safekeeper could not be used. A start that waits for the election looks for a reason each time.
    pub refusals: u64,
    /// Why this term cannot be used any more, once that is so.
    pub ended: Option<SessionEnd>,
}

/// Why a term cannot be used any more.
#[derive(Clone, Debug)]
pub enum SessionEnd {
    /// A higher term was seen; this comes before any other reason.
    Fenced(Term),
    /// Commits cannot be made.
    CommitPath(CommitPathError),
}

/// Why commits cannot be made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitPathError {
    /// WAL that no safekeeper has yet is not in the data directory either.
    #[error("the WAL from {at} on is lost: it is not in the data directory as it was written")]
    Lost {
        /// The first byte that is missing.
        at: Lsn,
    },
    /// The WAL in the data directory cannot be shipped.
    #[error(transparent)]
    Shipper(Arc<Error>),
}

impl SessionEnd {
    /// As an operation that needed the term fails.
    pub fn into_error(self) -> Error {
        match self {
            SessionEnd::Fenced(newer) => Error::Fenced { newer },
            SessionEnd::CommitPath(error) => error.into(),
        }
    }
}
