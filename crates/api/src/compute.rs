//! The HTTP interface of a compute agent.
//!
//! | request | answer, once it is done |
//! |---|---|
//! | `GET /status` | [`Status`] |
//! | `GET /metrics` | OpenMetrics text |
//! | `POST /start`, `POST /restart` with [`StartOptions`] | [`Status`] |
//! | `POST /stop`, `POST /forget` | [`Status`] |
//! | `POST /pushdown` with [`Pushdown`] | [`Status`] |
//! | `POST /verify` | [`Verification`] |

use quire_types::{Endpoint, Lsn, Term};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Where PostgreSQL is started.
pub const START: &str = "/start";
/// Where it is stopped, with a last checkpoint.
pub const STOP: &str = "/stop";
/// Where it is stopped and started.
pub const RESTART: &str = "/restart";
/// Where the agent is to forget which pages were in use.
pub const FORGET: &str = "/forget";
/// Where image generation pushdown is switched.
pub const PUSHDOWN: &str = "/pushdown";
/// Where all cached pages are compared with storage's.
pub const VERIFY: &str = "/verify";

/// How PostgreSQL is started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StartOptions {
    /// Whether the cache is thrown away first.
    #[serde(default)]
    pub cold: bool,
}

/// Who is to make page images.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pushdown {
    /// Storage, and not PostgreSQL in its WAL.
    pub on: bool,
}

/// The answer to `GET /status`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The branch's name.
    pub branch: String,
    /// What the compute is doing.
    pub state: Phase,
    /// What went wrong last, if it is not running.
    pub error: Option<String>,
    /// How often PostgreSQL itself has failed to start since it last ran.
    pub failed_starts: u32,
    /// Which settings of `ALTER SYSTEM` were left out because PostgreSQL did not start with them, and what to do.
    pub settings_rejected: Option<String>,
    /// That another PostgreSQL is installed than the one that runs, and what to do.
    pub outdated: Option<String>,
    /// The postmaster's process id.
    pub pid: Option<i32>,
    /// A libpq URI.
    pub url: String,
    /// The term that is held.
    pub term: Option<Term>,
    /// Where the compute started: what is absent in the cache is read as of then.
    pub start_lsn: Option<Lsn>,
    /// The server that writes the log.
    pub server: Option<Server>,
    /// Positions in the log.
    pub lsn: Positions,
    /// The quorum.
    pub quorum: Option<QuorumStatus>,
    /// Whether the pageserver answers.
    pub storage_connected: Option<bool>,
    /// What holds commits back, if anything does.
    pub throttle: Option<Throttled>,
    /// The cache.
    pub cache: Cache,
    /// Whether storage is to make the full-page images.
    pub pushdown: bool,
    /// How pages compare with storage's.
    pub verification: Sampling,
}

/// What a compute is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// PostgreSQL is being started.
    Starting,
    /// PostgreSQL runs.
    Running,
    /// PostgreSQL is being stopped.
    Stopping,
    /// PostgreSQL was stopped.
    Stopped,
    /// PostgreSQL could not be started or kept running; it is tried again.
    Failed,
    /// A newer compute writes the branch; this one never runs again.
    Fenced,
}

/// Which PostgreSQL runs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Server {
    /// Its version, such as 15.18.
    pub version: String,
    /// Why redo of what it writes is not known to be right, if it is not.
    pub doubt: Option<String>,
    /// In that case: how many of its pages were compared and equal, by kind.
    pub compared: BTreeMap<String, usize>,
    /// And how many of each are wanted.
    pub wanted: usize,
}

/// What came of comparing pages while PostgreSQL works.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Sampling {
    /// Pages a second.
    pub rate: u32,
    /// Pages compared since the agent started.
    pub checked: u64,
    /// Pages of those that differ.
    pub mismatches: u64,
    /// Where pages that differ are put aside.
    pub evidence: PathBuf,
    /// How many are there, of whatever start of the agent.
    pub kept: usize,
    /// Files of the relations that are under guard.
    pub guarded: Vec<String>,
}

/// Positions in the log.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Positions {
    /// End of what was handed to the quorum.
    pub written: Option<Lsn>,
    /// End of what is committed.
    pub committed: Option<Lsn>,
}

/// What the cache has done since the last cold start.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Cache {
    /// Fetches that processes asked for.
    pub fills: u64,
    /// Fetches that failed.
    pub fill_errors: u64,
    /// Pages that came from storage since the agent started.
    pub blocks: u64,
    /// Requests that they came with.
    pub requests: u64,
    /// Pages among them that were fetched because they were in use before the last cold start.
    pub warmed: u64,
    /// Pages compared by the running, or the last, verification.
    pub verified: u64,
    /// Bytes it holds, as last measured; none if it is not bounded.
    pub bytes: Option<u64>,
    /// Beyond how many bytes pages leave it.
    pub limit: Option<u64>,
    /// Pages that left it since the agent started.
    pub dropped: u64,
}

/// The compute's view of the quorum.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
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

/// The compute's link to a safekeeper.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LinkStatus {
    /// The safekeeper's address.
    #[serde(rename = "addr")]
    pub address: Endpoint,
    /// Whether it takes this term's WAL.
    pub connected: bool,
    /// What it has flushed.
    pub flush: Option<Lsn>,
    /// Why it is not connected, or why the last connection ended.
    pub trouble: Option<String>,
}

/// What holds commits back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Throttled {
    /// What lags.
    pub component: Component,
    /// Whether commits wait until it has moved, and are not only slower.
    pub holds: bool,
    /// Bytes of WAL that are shipped and not ingested.
    pub lag_bytes: u64,
    /// From how many on commits wait.
    pub limit_bytes: u64,
}

/// What commits can wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Component {
    /// Ingest, which is behind.
    Ingest,
    /// A pageserver that does not answer.
    Pageserver,
}

/// What a verification found.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Verification {
    /// Pages compared.
    pub checked: u64,
    /// Pages in the cache's files that are not in the cache, and so equal by definition.
    pub absent: u64,
    /// Pages that are never in storage.
    pub skipped: u64,
    /// Pages that differ.
    pub mismatches: Vec<Mismatch>,
}

/// A page that differs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Mismatch {
    /// Its relation's file, below the data directory.
    pub relation: String,
    /// Its block in the fork.
    pub block: u32,
    /// LSN in the cache's copy.
    pub cache_lsn: Lsn,
    /// LSN in storage's copy; none if storage has no such page.
    pub storage_lsn: Option<Lsn>,
    /// Offset of the first byte that differs under the masks.
    pub first_difference: Option<usize>,
}

impl Phase {
    /// The word in JSON and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Running => "running",
            Phase::Stopping => "stopping",
            Phase::Stopped => "stopped",
            Phase::Failed => "failed",
            Phase::Fenced => "fenced",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Component {
    /// All of them.
    pub const ALL: [Component; 2] = [Component::Ingest, Component::Pageserver];

    /// The word in JSON, in metrics and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Component::Ingest => "ingest",
            Component::Pageserver => "pageserver",
        }
    }
}
