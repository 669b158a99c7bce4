//! Quire's vocabulary: log positions, identities, keys, names of data files, and the bounded codec every format is
//! written with.
//!
//! Nothing here does I/O, and nothing here knows what a WAL record means.

#![forbid(unsafe_code)]

pub mod backoff;
pub mod codec;
pub mod data_file_name;
pub mod endpoint;
pub mod id;
pub mod key;
pub mod lsn;
pub mod size;

pub use backoff::Backoff;
pub use codec::{CodecError, Reader, Writer};
pub use data_file_name::DataFileName;
pub use endpoint::Endpoint;
pub use id::{BranchId, BranchKey, NodeId, ProjectId, ShardId, Term};
pub use key::{Fork, Key, RelTag, Slru};
pub use lsn::Lsn;

/// Bytes in a PostgreSQL page (`BLCKSZ`); Quire serves servers built with the default.
pub const PAGE_SIZE: usize = 8192;

/// Blocks in one segment file of a relation (`RELSEG_SIZE`): files are cut at 1 GiB.
pub const RELATION_SEGMENT_BLOCKS: u32 = 131_072;

/// Pages in one SLRU segment file (`SLRU_PAGES_PER_SEGMENT`).
pub const SLRU_SEGMENT_PAGES: u32 = 32;
