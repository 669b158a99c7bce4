//! `info` bits of the index access methods (`nbtxlog.h`, `hash_xlog.h`, `ginxlog.h`, `gistxlog.h`, `spgxlog.h`,
//! `brin_xlog.h`) and sequences.

/// An index tuple was inserted in a leaf.
pub const XLOG_BTREE_INSERT_LEAF: u8 = 0x00;
/// An index tuple was inserted above the leaves.
pub const XLOG_BTREE_INSERT_UPPER: u8 = 0x10;
/// The same, and the meta page changed.
pub const XLOG_BTREE_INSERT_META: u8 = 0x20;
/// A page split; the new tuple is in the left half.
pub const XLOG_BTREE_SPLIT_L: u8 = 0x30;
/// A page split; the new tuple is in the right half.
pub const XLOG_BTREE_SPLIT_R: u8 = 0x40;
/// An index tuple was inserted and split a posting list.
pub const XLOG_BTREE_INSERT_POST: u8 = 0x50;
/// Tuples were merged into posting lists.
pub const XLOG_BTREE_DEDUP: u8 = 0x60;
/// Leaf tuples were deleted.
pub const XLOG_BTREE_DELETE: u8 = 0x70;
/// A half-dead page was unlinked.
pub const XLOG_BTREE_UNLINK_PAGE: u8 = 0x80;
/// The same, and the meta page changed.
pub const XLOG_BTREE_UNLINK_PAGE_META: u8 = 0x90;
/// A new root.
pub const XLOG_BTREE_NEWROOT: u8 = 0xA0;
/// A leaf became half-dead.
pub const XLOG_BTREE_MARK_PAGE_HALFDEAD: u8 = 0xB0;
/// Vacuum deleted tuples of a page.
pub const XLOG_BTREE_VACUUM: u8 = 0xC0;
/// A deleted page is about to be reused.
pub const XLOG_BTREE_REUSE_PAGE: u8 = 0xD0;
/// Cleanup fields of the meta page changed.
pub const XLOG_BTREE_META_CLEANUP: u8 = 0xE0;
/// The meta page was initialised.
pub const XLOG_HASH_INIT_META_PAGE: u8 = 0x00;
/// A bitmap page was initialised.
pub const XLOG_HASH_INIT_BITMAP_PAGE: u8 = 0x10;
/// An index tuple was inserted.
pub const XLOG_HASH_INSERT: u8 = 0x20;
/// An overflow page was added.
pub const XLOG_HASH_ADD_OVFL_PAGE: u8 = 0x30;
/// A page was allocated for a split.
pub const XLOG_HASH_SPLIT_ALLOCATE_PAGE: u8 = 0x40;
/// A page split.
pub const XLOG_HASH_SPLIT_PAGE: u8 = 0x50;
/// A split was completed.
pub const XLOG_HASH_SPLIT_COMPLETE: u8 = 0x60;
/// Tuples moved from one page to another.
pub const XLOG_HASH_MOVE_PAGE_CONTENTS: u8 = 0x70;
/// Tuples moved towards the bucket's start and a page was freed.
pub const XLOG_HASH_SQUEEZE_PAGE: u8 = 0x80;
/// Tuples were deleted.
pub const XLOG_HASH_DELETE: u8 = 0x90;
/// The split-cleanup flag was cleared.
pub const XLOG_HASH_SPLIT_CLEANUP: u8 = 0xA0;
/// The meta page's tuple count changed.
pub const XLOG_HASH_UPDATE_META_PAGE: u8 = 0xB0;
/// Dead tuples of one page were removed.
pub const XLOG_HASH_VACUUM_ONE_PAGE: u8 = 0xC0;
/// A hash split changed the meta page's masks.
pub const XLH_SPLIT_META_UPDATE_MASKS: u8 = 1 << 0;
/// A hash split changed the meta page's split point.
pub const XLH_SPLIT_META_UPDATE_SPLITPOINT: u8 = 1 << 1;
/// A posting tree was created.
pub const XLOG_GIN_CREATE_PTREE: u8 = 0x10;
/// Items were inserted.
pub const XLOG_GIN_INSERT: u8 = 0x20;
/// A page split; the record is page images.
pub const XLOG_GIN_SPLIT: u8 = 0x30;
/// A page was vacuumed; the record is a page image.
pub const XLOG_GIN_VACUUM_PAGE: u8 = 0x40;
/// A posting tree page was deleted.
pub const XLOG_GIN_DELETE_PAGE: u8 = 0x50;
/// The meta page changed.
pub const XLOG_GIN_UPDATE_META_PAGE: u8 = 0x60;
/// A page of the pending list was written.
pub const XLOG_GIN_INSERT_LISTPAGE: u8 = 0x70;
/// Pages of the pending list were deleted.
pub const XLOG_GIN_DELETE_LISTPAGE: u8 = 0x80;
/// A posting tree leaf was vacuumed.
pub const XLOG_GIN_VACUUM_DATA_LEAF_PAGE: u8 = 0x90;
/// Tuples of a page changed.
pub const XLOG_GIST_PAGE_UPDATE: u8 = 0x00;
/// Leaf tuples were deleted.
pub const XLOG_GIST_DELETE: u8 = 0x10;
/// A deleted page is about to be reused.
pub const XLOG_GIST_PAGE_REUSE: u8 = 0x20;
/// A page split.
pub const XLOG_GIST_PAGE_SPLIT: u8 = 0x30;
/// A page was deleted.
pub const XLOG_GIST_PAGE_DELETE: u8 = 0x60;
/// Nothing but a new LSN.
pub const XLOG_GIST_ASSIGN_LSN: u8 = 0x70;
/// A sequence's tuple.
pub const XLOG_SEQ_LOG: u8 = 0x00;
/// A leaf tuple was added.
pub const XLOG_SPGIST_ADD_LEAF: u8 = 0x10;
/// Leaf tuples moved to another page.
pub const XLOG_SPGIST_MOVE_LEAFS: u8 = 0x20;
/// A node was added to an inner tuple.
pub const XLOG_SPGIST_ADD_NODE: u8 = 0x30;
/// An inner tuple was split.
pub const XLOG_SPGIST_SPLIT_TUPLE: u8 = 0x40;
/// Leaf tuples were split over pages.
pub const XLOG_SPGIST_PICKSPLIT: u8 = 0x50;
/// A leaf page was vacuumed.
pub const XLOG_SPGIST_VACUUM_LEAF: u8 = 0x60;
/// A root that is a leaf was vacuumed.
pub const XLOG_SPGIST_VACUUM_ROOT: u8 = 0x70;
/// Redirections became placeholders.
pub const XLOG_SPGIST_VACUUM_REDIRECT: u8 = 0x80;
/// The meta page was initialised.
pub const XLOG_BRIN_CREATE_INDEX: u8 = 0x00;
/// A summary was inserted.
pub const XLOG_BRIN_INSERT: u8 = 0x10;
/// A summary was updated and moved.
pub const XLOG_BRIN_UPDATE: u8 = 0x20;
/// A summary was updated in its page.
pub const XLOG_BRIN_SAMEPAGE_UPDATE: u8 = 0x30;
/// The range map got a page.
pub const XLOG_BRIN_REVMAP_EXTEND: u8 = 0x40;
/// A range lost its summary.
pub const XLOG_BRIN_DESUMMARIZE: u8 = 0x50;
/// The bits of `info` that hold the operation.
pub const XLOG_BRIN_OPMASK: u8 = 0x70;
/// Redo starts from a blank page.
pub const XLOG_BRIN_INIT_PAGE: u8 = 0x80;
