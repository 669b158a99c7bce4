//! How a pageserver is set up.

use quire_layers::image_policy::ImageSettings;
use quire_types::{Endpoint, NodeId};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of one pageserver process.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Config {
    /// Which node this is.
    pub node: NodeId,
    /// Where computes connect.
    pub listen: SocketAddr,
    /// Where status and metrics are served.
    pub http: SocketAddr,
    /// Where the branches' files are.
    pub data_dir: PathBuf,
    /// Where the WAL comes from.
    pub safekeepers: Vec<Endpoint>,
    /// A memtable of this size is frozen.
    #[serde(default = "default_memtable_bytes")]
    pub memtable_bytes: usize,
    /// A memtable that is not empty is frozen after so long.
    #[serde(default = "default_memtable_age_seconds")]
    pub memtable_age_seconds: u64,
    /// Compaction makes layers of about this size.
    #[serde(default = "default_layer_bytes")]
    pub layer_bytes: u64,
    /// Memory for decoded layer blocks.
    #[serde(default = "default_block_cache_bytes")]
    pub block_cache_bytes: usize,
    /// Threads that make page images, at least one.
    #[serde(default = "default_image_workers")]
    pub image_workers: usize,
    /// Pages of a branch that may wait for an image before ingest has to.
    #[serde(default = "default_image_backlog_max")]
    pub image_backlog_max: usize,
    /// When images are made in branches that are not set otherwise.
    #[serde(default)]
    pub images: ImageSettings,
    /// A read waits so long for ingest.
    #[serde(default = "default_read_timeout_seconds")]
    pub read_timeout_seconds: u64,
    /// A safekeeper that says nothing for so long is given up for another.
    #[serde(default = "default_safekeeper_timeout_seconds")]
    pub safekeeper_timeout_seconds: u64,
}

impl Config {
    /// A configuration with everything at its default that has one.
    pub fn new(
        node: NodeId,
        listen: SocketAddr,
        http: SocketAddr,
        data_dir: PathBuf,
        safekeepers: Vec<Endpoint>,
    ) -> Config {
        Config {
            node,
            listen,
            http,
            data_dir,
            safekeepers,
            memtable_bytes: default_memtable_bytes(),
            memtable_age_seconds: default_memtable_age_seconds(),
            layer_bytes: default_layer_bytes(),
            block_cache_bytes: default_block_cache_bytes(),
            image_workers: default_image_workers(),
            image_backlog_max: default_image_backlog_max(),
            images: ImageSettings::default(),
            read_timeout_seconds: default_read_timeout_seconds(),
            safekeeper_timeout_seconds: default_safekeeper_timeout_seconds(),
        }
    }

    /// How long a memtable may stay open.
    pub fn memtable_age(&self) -> Duration {
        Duration::from_secs(self.memtable_age_seconds)
    }

    /// How long a read waits for ingest.
    pub fn read_timeout(&self) -> Duration {
        Duration::from_secs(self.read_timeout_seconds)
    }

    /// How long a safekeeper may be silent.
    pub fn safekeeper_timeout(&self) -> Duration {
        Duration::from_secs(self.safekeeper_timeout_seconds)
    }
}

fn default_memtable_bytes() -> usize {
    64 << 20
}

fn default_memtable_age_seconds() -> u64 {
    60
}

fn default_layer_bytes() -> u64 {
    256 << 20
}

fn default_block_cache_bytes() -> usize {
    128 << 20
}

fn default_image_workers() -> usize {
    1
}

fn default_image_backlog_max() -> usize {
    4096
}

fn default_read_timeout_seconds() -> u64 {
    60
}

fn default_safekeeper_timeout_seconds() -> u64 {
    10
}
