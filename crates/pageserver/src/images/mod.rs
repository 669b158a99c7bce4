//! Making images of pages with long chains, beside ingest.
//!
//! Ingest gives block 7 of a table its 32nd delta. The shard's [`ImageMaker`] queues the block in the shard's backlog
//! and asks the [`ImagePool`] for a turn. A worker of the pool has the maker rebuild the block at the LSN of its last
//! delta and keep it as an image; from then on a read has nothing to replay. If the workers fall behind, ingest waits
//! at its [gate](crate::ingest_gate).
//!
//! Invariants:
//! - a page is queued at most once, and leaves the backlog when its image is kept, is not needed, or cannot be made;
//! - an image has the LSN of the last delta it includes, and a chain is given one image for each threshold it crosses;
//! - no image is made of a page whose bytes are not all known.

mod backlog;
mod maker;
mod pool;

pub use maker::{ImageMaker, ImageOutcome, Incomplete};
pub use pool::{HasBacklog, ImagePool};
