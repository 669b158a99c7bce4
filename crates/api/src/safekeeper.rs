//! The HTTP interface of a safekeeper: `GET /status` and `GET /metrics`.

use quire_types::{BranchId, Lsn, NodeId, ProjectId, Term};
use serde::{Deserialize, Serialize};

/// The answer to `GET /status`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The safekeeper.
    pub node: NodeId,
    /// Its branches.
    pub branches: Vec<BranchStatus>,
}

/// A branch's log in [`Status`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct BranchStatus {
    /// The branch's project.
    pub project: ProjectId,
    /// The branch.
    pub branch: BranchId,
    /// Why the log cannot be used, if it cannot; the rest is then as it last was.
    pub error: Option<String>,
    /// The acceptor's term.
    pub term: Term,
    /// Everything before is durable here.
    pub flush: Lsn,
    /// Everything before is committed.
    pub commit: Lsn,
    /// The oldest WAL that is kept.
    pub oldest: Lsn,
    /// The shards that read the log.
    pub followers: Vec<FollowerStatus>,
}

/// A follower in [`BranchStatus`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FollowerStatus {
    /// The shard, as `number/count`.
    pub shard: String,
    /// What it has made durable.
    pub durable: Lsn,
}
