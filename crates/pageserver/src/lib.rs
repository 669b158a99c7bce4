//! Pages at any LSN: ingest, layers, reads, image generation.
//!
//! A pageserver follows the committed WAL of each of its branches ([`follower`]), cuts it into records and those into
//! changes of keys ([`pipeline`], [`quire_ingest`]), keeps every version of every key ([`quire_layers::store`], [`quire_layers::layer`]), and rebuilds
//! any page as of any LSN ([`shard_pages`], [`quire_layers::chain`]). For each page it knows how long a read would take
//! ([`quire_layers::accounts`]), and makes an image of the page where it would take too long ([`quire_layers::image_policy`], [`images`]).
//!
//! A branch begins with an [`quire_layers::import`]. Computes ask over TCP ([`server`]), people over HTTP ([`http`]).
//!
//! What PostgreSQL keeps outside WAL is kept whole, file by file ([`quire_layers::small_files`]).
//!
//! Everything that was acknowledged survives a `kill -9` at any moment: a file exists whole or not at all
//! ([`quire_files`]), the [`quire_layers::manifest`] names what counts, and what was only in memory is followed again from the
//! safekeepers, which keep WAL until it is durable here.

pub mod compactor;
pub mod config;
pub mod follower;
pub mod http;
pub mod images;
pub mod metrics;
pub mod pageserver;
pub mod pipeline;
pub mod put_aside;
pub mod server;
pub mod shard;
pub mod shard_key;
pub mod shard_pages;
pub mod shards;

pub use config::Config;
pub use pageserver::{Pageserver, PageserverError};
