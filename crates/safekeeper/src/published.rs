//! What anybody may know of a branch's log.

use crate::error::BranchLogError;
use quire_types::{Lsn, ShardId, Term};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What anybody may know of a branch at any time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published {
    /// The acceptor's term.
    pub term: Term,
    /// Everything before is durable here.
    pub flush: Lsn,
    /// Everything before is committed.
    pub commit: Lsn,
    /// The oldest WAL that is kept.
    pub oldest: Lsn,
    /// Who follows, and what they have made durable.
    pub followers: BTreeMap<ShardId, Lsn>,
    /// Why the log cannot be used, if it cannot.
    pub unusable: Option<Arc<BranchLogError>>,
    /// Set when the safekeeper shuts down.
    pub closed: bool,
}
