//! Pages at any LSN: a role of its own.
//!
//! A pageserver follows the committed WAL of each of its branches ([`follower`]), cuts it into records, which
//! [`quire_ingest`] turns into changes of keys ([`pipeline`]), has every version of every key kept by [`quire_layers`],
//! and rebuilds any page as of any LSN ([`shard_pages`]). Where a read would take too long, it makes an image of the
//! page ([`images`]). Layers are merged in the background ([`compactor`]).
//!
//! Computes ask over TCP ([`server`]), people over HTTP ([`http`]).
//!
//! Everything that was acknowledged survives a `kill -9` at any moment: a file exists whole or not at all
//! ([`quire_files`]), the [manifest](quire_layers::manifest) names what counts, and what was only in memory is followed
//! again from the safekeepers, which keep WAL until it is durable here.

pub mod compactor;
pub mod config;
pub mod follower;
pub mod http;
pub mod images;
pub mod ingest_gate;
pub mod metrics;
pub mod pageserver;
pub mod pipeline;
pub mod put_aside;
pub mod read_failures;
pub mod rebuilder;
pub mod server;
pub mod shard;
pub mod shard_key;
pub mod shard_pages;
pub mod shards;

pub use config::Config;
pub use pageserver::{Pageserver, PageserverError};
