//! Pages at any LSN: ingest, layers, reads, image generation.
//!
//! A pageserver follows the committed WAL of each of its branches ([`follower`]), cuts it into records and those into
//! changes of keys ([`pipeline`], [`ingest`]), keeps every version of every key ([`store`], [`layer`]), and rebuilds
//! any page as of any LSN ([`shard_pages`], [`chain`]). For each page it knows how long a read would take
//! ([`accounts`]), and makes an image of the page where it would take too long ([`image_policy`], [`images`]).
//!
//! A branch begins with an [`import`]. Computes ask over TCP ([`server`]), people over HTTP ([`http`]).
//!
//! What PostgreSQL keeps outside WAL is kept whole, file by file ([`small_files`]).
//!
//! Everything that was acknowledged survives a `kill -9` at any moment: a file exists whole or not at all
//! ([`quire_files`]), the [`manifest`] names what counts, and what was only in memory is followed again from the
//! safekeepers, which keep WAL until it is durable here.

pub mod accounts;
pub mod chain;
pub mod change;
pub mod compactor;
pub mod config;
pub mod error;
pub mod follower;
pub mod guard;
pub mod http;
pub mod image_policy;
pub mod images;
pub mod import;
pub mod ingest;
pub mod layer;
pub mod manifest;
pub mod memtable;
pub mod metrics;
pub mod objects;
pub mod pageserver;
pub mod pipeline;
pub mod put_aside;
pub mod server;
pub mod shard;
pub mod shard_key;
pub mod shard_pages;
pub mod shards;
pub mod small_files;
pub mod source;
pub mod store;
pub mod value;

pub use change::Change;
pub use config::Config;
pub use pageserver::{Pageserver, PageserverError};
pub use value::Value;
