//! What is read for acceptors that lag.

use super::shipped::Range;
use quire_types::{Lsn, Term};
use std::net::SocketAddr;

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
    /// Who has it, best first.
    pub sources: Vec<SocketAddr>,
}
