//! Resource managers: who wrote a record, and what the bits of its `info` mean. Source: `rmgrlist.h` and the headers
//! each submodule names.
//!
//! Everything is reachable as `rmgr::NAME`, under PostgreSQL's own names.

mod heap;
mod index;
pub mod kind;
mod status;
mod storage;
mod xact;
mod xlog;

pub use heap::*;
pub use index::*;
pub use status::*;
pub use storage::*;
pub use xact::*;
pub use xlog::*;

/// Checkpoints, page images, settings.
pub const XLOG: u8 = 0;
/// Transaction ends.
pub const XACT: u8 = 1;
/// Creation and truncation of relation files.
pub const SMGR: u8 = 2;
/// Commit status pages.
pub const CLOG: u8 = 3;
/// Databases.
pub const DBASE: u8 = 4;
/// Tablespaces.
pub const TBLSPC: u8 = 5;
/// Multixacts.
pub const MULTIXACT: u8 = 6;
/// Relation maps.
pub const RELMAP: u8 = 7;
/// What hot standbys track.
pub const STANDBY: u8 = 8;
/// Heap pages, second table of operations.
pub const HEAP2: u8 = 9;
/// Heap pages.
pub const HEAP: u8 = 10;
/// B-tree indexes.
pub const BTREE: u8 = 11;
/// Hash indexes.
pub const HASH: u8 = 12;
/// GIN indexes.
pub const GIN: u8 = 13;
/// GiST indexes.
pub const GIST: u8 = 14;
/// Sequences.
pub const SEQ: u8 = 15;
/// SP-GiST indexes.
pub const SPGIST: u8 = 16;
/// BRIN indexes.
pub const BRIN: u8 = 17;
/// Commit timestamps.
pub const COMMIT_TS: u8 = 18;
/// Replication origins.
pub const REPLORIGIN: u8 = 19;
/// Generic WAL of extensions: byte ranges of pages.
pub const GENERIC: u8 = 20;
/// Messages for logical decoding.
pub const LOGICALMSG: u8 = 21;

/// Resource managers of extensions have ids from here to 255 (`RM_MIN_CUSTOM_ID`).
pub const CUSTOM_FIRST: u8 = 128;

/// The bits of `info` that belong to the WAL machinery.
pub const XLR_INFO_MASK: u8 = 0x0F;
/// The bits of `info` that belong to the resource manager.
pub const XLR_RMGR_INFO_MASK: u8 = 0xF0;
/// The record changes relation files in ways its block references do not show.
pub const XLR_SPECIAL_REL_UPDATE: u8 = 0x01;
/// The record carries images for `wal_consistency_checking`.
pub const XLR_CHECK_CONSISTENCY: u8 = 0x02;

const NAMES: [&str; 22] = [
    "XLOG",
    "Transaction",
    "Storage",
    "CLOG",
    "Database",
    "Tablespace",
    "MultiXact",
    "RelMap",
    "Standby",
    "Heap2",
    "Heap",
    "Btree",
    "Hash",
    "Gin",
    "Gist",
    "Sequence",
    "SPGist",
    "BRIN",
    "CommitTs",
    "ReplicationOrigin",
    "Generic",
    "LogicalMessage",
];

/// The name `pg_waldump` prints, of the resource managers that come with PostgreSQL.
pub fn name(id: u8) -> Option<&'static str> {
    NAMES.get(usize::from(id)).copied()
}

/// Whether an id can occur in WAL at all (`RmgrIdIsValid`): one of PostgreSQL's own or of the range for extensions.
pub fn is_valid(id: u8) -> bool {
    usize::from(id) < NAMES.len() || id >= CUSTOM_FIRST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_ids() {
        assert_eq!(name(XLOG), Some("XLOG"));
        assert_eq!(name(HEAP), Some("Heap"));
        assert_eq!(name(SEQ), Some("Sequence"));
        assert_eq!(name(LOGICALMSG), Some("LogicalMessage"));
        assert_eq!(name(22), None);
    }

    #[test]
    fn ids_between_the_built_in_and_the_custom_ones_are_invalid() {
        assert!(is_valid(LOGICALMSG) && is_valid(CUSTOM_FIRST) && is_valid(255));
        assert!(!is_valid(22) && !is_valid(127));
    }
}
