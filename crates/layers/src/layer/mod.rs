//! Layer files: immutable, sorted by key and then LSN, compressed and checksummed block by block.
//!
//! A flushed memtable becomes one layer; compaction makes one run of layers out of several. Reading page P as of LSN L
//! asks a layer for the versions of P at or below L, newest first, until one of them is a base: the bloom filter says
//! no for most layers, the index (kept in memory) names the block where the search starts, and the block is read with
//! one `pread` unless the block cache has it.
//!
//! Besides versions a layer carries what would be expensive to find again: for each page in it the page's image account
//! as it was when the layer was frozen ([`crate::accounts`]).
//!
//! Invariants:
//! - a layer appears under its name whole and synced, or not at all, and is never changed;
//! - `(key, LSN)` is unique within a layer, and strictly ascending through it;
//! - a block whose checksum does not match is an error that names the file and the offset, never a page.
//!
//! `docs/format.md` gives every byte.

mod block;
mod bloom;
mod cache;
mod carry;
mod folder;
mod footer;
mod frame;
mod merge;
mod reader;
mod records;
mod sections;
mod writer;

pub use cache::BlockCache;
pub use folder::LayerFolder;
pub use footer::Summary;
pub use merge::{Merge, Stream};
pub use reader::{Entries, Layer};
pub use records::Records;
pub use sections::SectionRecord;
pub use writer::LayerWriter;

#[cfg(test)]
mod tests;
