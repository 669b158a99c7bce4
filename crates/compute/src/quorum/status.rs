//! What others see of a quorum.

use quire_protocol::quorum::LogIdentity;
use quire_types::{Lsn, Term};
use serde::Serialize;
use std::net::SocketAddr;

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

/// One safekeeper, for people.
#[derive(Clone, Debug, Serialize)]
pub struct LinkStatus {
    /// Its address.
    #[serde(rename = "addr")]
    pub address: SocketAddr,
    /// Whether it takes this term's WAL.
    pub connected: bool,
    /// What it has flushed.
    pub flush: Option<Lsn>,
    /// Why it is not connected, or why the last connection ended.
    pub trouble: Option<String>,
}

/// The quorum, for people.
#[derive(Clone, Debug, Serialize)]
pub struct QuorumStatus {
    /// How many safekeepers take this term's WAL.
    pub connected: usize,
    /// Whether commits wait for want of a majority.
    pub lost: bool,
    /// The term, while it is held.
    pub term: Option<Term>,
    /// End of the WAL handed to the quorum.
    pub written: Option<Lsn>,
    /// End of what is committed.
    pub committed: Option<Lsn>,
    /// Each safekeeper.
    pub safekeepers: Vec<LinkStatus>,
}
