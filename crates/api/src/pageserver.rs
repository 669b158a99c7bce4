//! The HTTP interface of a pageserver.
//!
//! | request | answer |
//! |---|---|
//! | `GET /status` | [`Status`]: all shards |
//! | `GET /metrics` | OpenMetrics text |
//! | `GET /page?project=&branch=&tablespace=&database=&relation=&fork=&block=[&lsn=]` | [`PageChain`] |
//! | `GET /hot?project=&branch=[&count=]` | a list of [`HotPage`], the longest chain first |
//! | `PUT /settings?project=&branch=` with [`ImageThresholds`] | 204 |
//!
//! `shard=` and `shards=` name a shard; 0 of 1 is meant where they are missing.

use quire_types::{BranchId, Lsn, ProjectId, ShardId};
use serde::{Deserialize, Serialize};

/// Where the chain of a page is shown.
pub const PAGE: &str = "/page";
/// Where the longest chains of a branch are shown.
pub const HOT: &str = "/hot";
/// Where a branch's thresholds are set.
pub const SETTINGS: &str = "/settings";

/// The answer to `GET /status`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// The shards, of all branches.
    pub branches: Vec<ShardStatus>,
}

/// A shard of a branch in [`Status`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ShardStatus {
    /// The branch's project.
    pub project: ProjectId,
    /// The branch.
    pub branch: BranchId,
    /// The shard.
    pub shard: ShardId,
    /// Why ingest stopped, or nothing becomes durable, or what cannot be read, or why the shard cannot be opened.
    pub error: Option<String>,
    /// The rest, where the shard could be opened.
    #[serde(flatten)]
    pub open: Option<OpenShard>,
}

/// A shard that is open.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OpenShard {
    /// Positions in the log.
    pub lsn: Positions,
    /// Where the branch began.
    pub start: Lsn,
    /// The major version of the PostgreSQL that writes the log.
    pub postgres_version: u32,
    /// Whether storage makes the page images.
    pub pushdown: Pushdown,
    /// The images that storage made, and when it makes them.
    pub images: ImageStatus,
    /// What was ingested.
    pub wal: WalStatus,
    /// What is stored.
    pub layers: LayerStatus,
}

/// How far a shard is.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Positions {
    /// Everything before is ingested and can be read.
    pub ingested: Lsn,
    /// Everything before is in layer files.
    pub durable: Lsn,
}

/// Who makes page images, as the WAL says.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Pushdown {
    /// Who does.
    pub state: PushdownState,
    /// Since when.
    pub since_lsn: Option<Lsn>,
}

/// Whether image generation pushdown is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PushdownState {
    /// The compute leaves page images to storage.
    On,
    /// The compute logs them.
    Off,
    /// That cannot be read.
    Unknown,
}

/// The images of a shard.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ImageStatus {
    /// Images made since the pageserver started.
    pub made: u64,
    /// Their bytes.
    pub bytes_written: u64,
    /// Pages that wait for an image.
    pub backlog_pages: usize,
    /// Pages that cannot be rebuilt.
    pub broken_pages: usize,
    /// Pages without images because bytes of theirs were not logged and may still come.
    pub incomplete_pages: usize,
    /// Deltas of the longest chain.
    pub longest_chain: u32,
    /// Reads that replayed more than the thresholds allow.
    pub long_chain_reads: u64,
    /// The thresholds.
    #[serde(flatten)]
    pub thresholds: ImageThresholds,
}

/// A branch's thresholds: a page that reaches either is given an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ImageThresholds {
    /// Deltas since the last image.
    pub max_deltas: u32,
    /// Bytes of deltas since the last image.
    pub max_bytes: u64,
}

/// What a shard has ingested since the pageserver started.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WalStatus {
    /// Records.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Page images in them.
    pub full_page_images: u64,
}

/// What a shard has stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LayerStatus {
    /// Runs of layers, the most layers that a read visits.
    pub runs: usize,
    /// Layer files.
    pub layers: usize,
    /// Their bytes.
    pub layer_bytes: u64,
    /// Memtables waiting to be flushed.
    pub frozen_memtables: usize,
    /// Bytes in memtables.
    pub memtable_bytes: usize,
}

/// How a page is stored: what a read at an LSN applies.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PageChain {
    /// The LSN that is looked at.
    pub lsn: Lsn,
    /// Where the newest image is.
    pub image_lsn: Option<Lsn>,
    /// Deltas since.
    pub deltas: u32,
    /// Their bytes.
    pub delta_bytes: u64,
    /// Image and deltas, the oldest first.
    pub versions: Vec<PageVersion>,
}

/// A version of a page in [`PageChain`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PageVersion {
    /// Its LSN.
    pub lsn: Lsn,
    /// What it is, such as `image` or `delta`.
    pub kind: String,
    /// Its stored bytes.
    pub bytes: usize,
}

/// A page with a long chain.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HotPage {
    /// The page.
    pub page: String,
    /// Deltas since its last image.
    pub deltas: u32,
    /// Their bytes.
    pub delta_bytes: u64,
    /// Its last change.
    pub last_lsn: Lsn,
}

impl ShardStatus {
    /// Positions, where the shard is open.
    pub fn lsn(&self) -> Option<Positions> {
        Some(self.open.as_ref()?.lsn)
    }
}

impl PushdownState {
    /// The word in JSON and in messages.
    pub fn name(self) -> &'static str {
        match self {
            PushdownState::On => "on",
            PushdownState::Off => "off",
            PushdownState::Unknown => "unknown",
        }
    }
}
