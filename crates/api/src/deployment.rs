//! What `quire status --json` prints: all that the roles of a deployment show, in one document.
//!
//! The names in it are a promise to scripts: `safekeepers[]`, `pageservers[]` and `branches[]` with `compute`,
//! `pushdown`, `lsn` and `images`. A role that does not answer is shown as `down`, and what only it knows as null.

use crate::compute::{Cache, Phase, Sampling, Server, Throttled};
use crate::pageserver::{ImageStatus, PushdownState, ShardStatus};
use crate::safekeeper::BranchStatus;
use quire_types::{BranchId, Endpoint, Lsn, NodeId, ProjectId, Term};
use serde::{Deserialize, Serialize};

/// The document.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The supervisor's pid, if it runs.
    pub supervisor: Option<u32>,
    /// The first project.
    pub project: ProjectId,
    /// Whether a majority of the safekeepers answers.
    pub quorum: Quorum,
    /// One entry for each safekeeper.
    pub safekeepers: Vec<Node<BranchStatus>>,
    /// One entry for each pageserver.
    pub pageservers: Vec<Node<ShardStatus>>,
    /// One entry for each branch.
    pub branches: Vec<Branch>,
}

/// Whether commits can be made.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Quorum {
    /// Whether a majority answers.
    pub state: QuorumState,
    /// Safekeepers that answer.
    pub up: usize,
    /// Safekeepers there are.
    pub of: usize,
}

/// Whether a majority of the safekeepers answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuorumState {
    /// It does.
    Ok,
    /// It does not.
    Lost,
}

/// A safekeeper or pageserver, and what it shows of the branches that exist.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Node<T> {
    /// Its number.
    pub node: NodeId,
    /// Whether it answers.
    pub state: NodeState,
    /// Where it speaks to other roles.
    pub address: Endpoint,
    /// Where it shows its status and metrics.
    pub http: Endpoint,
    /// Its branches.
    pub branches: Vec<Named<T>>,
}

/// Whether a role answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It does.
    Up,
    /// It does not.
    Down,
}

/// What a role shows of a branch, with the branch's name.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Named<T> {
    /// The branch's name.
    pub name: String,
    /// What the role shows.
    #[serde(flatten)]
    pub status: T,
}

/// A branch: its compute, and what storage has of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Branch {
    /// Its project.
    pub project: ProjectId,
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: BranchId,
    /// Its compute.
    pub compute: Compute,
    /// How cached pages compare with storage's.
    pub verification: Option<Sampling>,
    /// Who makes page images, as storage sees it.
    pub pushdown: Pushdown,
    /// Positions in the log.
    pub lsn: Positions,
    /// The images that storage made.
    pub images: Option<ImageStatus>,
    /// What is wrong with the branch in storage.
    pub error: Option<String>,
}

/// The compute of a branch.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Compute {
    /// What it is doing.
    pub state: ComputeState,
    /// The libpq URI of its PostgreSQL.
    pub url: String,
    /// The postmaster's process id.
    pub pid: Option<i32>,
    /// The term that is held.
    pub term: Option<Term>,
    /// What went wrong last, if it is not running.
    pub error: Option<String>,
    /// Which settings of `ALTER SYSTEM` were left out, and what to do.
    pub settings_rejected: Option<String>,
    /// That another PostgreSQL is installed than the one that runs, and what to do.
    pub outdated: Option<String>,
    /// Where its agent shows its status and takes orders.
    pub http: Endpoint,
    /// Whether it has lost the quorum, so that commits wait.
    pub quorum_lost: Option<bool>,
    /// What holds commits back, if anything does.
    pub throttle: Option<Throttled>,
    /// Which PostgreSQL runs.
    pub server: Option<Server>,
    /// Its cache.
    pub cache: Option<Cache>,
}

/// What a compute is doing, or that its agent does not answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ComputeState {
    /// What the agent answers.
    Answer(Phase),
    /// No answer: [`NodeState::Down`].
    Silent(NodeState),
}

/// Who makes page images.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Pushdown {
    /// Who does.
    pub state: Option<PushdownState>,
    /// Since when.
    pub since_lsn: Option<Lsn>,
}

/// Positions in the log of a branch.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Positions {
    /// End of what was handed to the quorum.
    pub written: Option<Lsn>,
    /// End of what is committed.
    pub committed: Option<Lsn>,
    /// Everything before is ingested by storage.
    pub ingested: Option<Lsn>,
    /// Everything before is in storage's layer files.
    pub durable: Option<Lsn>,
}

impl Quorum {
    /// `up` of `of` safekeepers answer.
    pub fn new(up: usize, of: usize) -> Quorum {
        let state = if up > of / 2 { QuorumState::Ok } else { QuorumState::Lost };
        Quorum { state, up, of }
    }

    /// Whether there is no majority.
    pub fn is_lost(&self) -> bool {
        self.state == QuorumState::Lost
    }
}

impl Compute {
    /// One whose agent does not answer.
    pub fn silent(url: String, http: Endpoint) -> Compute {
        Compute {
            state: ComputeState::Silent(NodeState::Down),
            url,
            pid: None,
            term: None,
            error: None,
            settings_rejected: None,
            outdated: None,
            http,
            quorum_lost: None,
            throttle: None,
            server: None,
            cache: None,
        }
    }
}

impl ComputeState {
    /// The word in JSON and in messages.
    pub fn name(self) -> &'static str {
        match self {
            ComputeState::Answer(phase) => phase.name(),
            ComputeState::Silent(state) => state.name(),
        }
    }
}

impl NodeState {
    /// The word in JSON and in messages.
    pub fn name(self) -> &'static str {
        match self {
            NodeState::Up => "up",
            NodeState::Down => "down",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pageserver;
    use serde_json::json;

    #[test]
    fn quorum_is_lost_with_half_or_fewer_left() {
        assert_eq!([0, 1, 2, 3].map(|up| Quorum::new(up, 3).is_lost()), [true, true, false, false]);
        assert!(Quorum::new(2, 5).is_lost());
        let written = serde_json::to_value(Quorum::new(3, 3)).expect("written");
        assert_eq!(written, json!({ "state": "ok", "up": 3, "of": 3 }));
    }

    #[test]
    fn a_shard_is_written_flat_and_read_back() {
        let open = json!({
            "project": ProjectId::default(), "branch": BranchId::default(), "shard": { "number": 0, "count": 1 },
            "error": null, "name": "main", "start": "0/1", "postgres_version": 15,
            "lsn": { "ingested": "0/9", "durable": "0/8" },
            "pushdown": { "state": "on", "since_lsn": "0/5" },
            "images": { "made": 1, "bytes_written": 8192, "backlog_pages": 2, "broken_pages": 0,
                        "incomplete_pages": 0, "longest_chain": 3, "long_chain_reads": 0,
                        "max_deltas": 32, "max_bytes": 65_536 },
            "wal": { "records": 4, "bytes": 5, "full_page_images": 6 },
            "layers": { "runs": 1, "layers": 1, "layer_bytes": 7, "frozen_memtables": 0, "memtable_bytes": 8 },
        });
        let read: Named<ShardStatus> = serde_json::from_value(open.clone()).expect("readable");
        let lsn = read.status.open.as_ref().map(|open| open.lsn);
        assert_eq!(lsn, Some(pageserver::Positions { ingested: Lsn(9), durable: Lsn(8) }));
        assert_eq!(serde_json::to_value(&read).expect("written"), open);

        let failed = json!({ "project": ProjectId::default(), "branch": BranchId::default(), "name": "main",
                             "shard": { "number": 0, "count": 1 }, "error": "damaged" });
        let read: Named<ShardStatus> = serde_json::from_value(failed.clone()).expect("readable");
        assert_eq!((read.status.error.as_deref(), read.status.open.is_none()), (Some("damaged"), true));
        assert_eq!(serde_json::to_value(&read).expect("written"), failed);
    }
}
