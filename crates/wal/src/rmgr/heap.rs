//! `info` bits of `Heap` and `Heap2` (`heapam_xlog.h`), with the flags inside their records.

/// A tuple was inserted.
pub const XLOG_HEAP_INSERT: u8 = 0x00;
/// A tuple was deleted.
pub const XLOG_HEAP_DELETE: u8 = 0x10;
/// A tuple was updated.
pub const XLOG_HEAP_UPDATE: u8 = 0x20;
/// `TRUNCATE`, for logical decoding only.
pub const XLOG_HEAP_TRUNCATE: u8 = 0x30;
/// A tuple was updated within its page, its indexes untouched.
pub const XLOG_HEAP_HOT_UPDATE: u8 = 0x40;
/// A speculative insertion was confirmed.
pub const XLOG_HEAP_CONFIRM: u8 = 0x50;
/// A tuple was locked.
pub const XLOG_HEAP_LOCK: u8 = 0x60;
/// A tuple was overwritten in place.
pub const XLOG_HEAP_INPLACE: u8 = 0x70;
/// The bits of `info` that hold the operation.
pub const XLOG_HEAP_OPMASK: u8 = 0x70;
/// Redo starts from a blank page.
pub const XLOG_HEAP_INIT_PAGE: u8 = 0x80;
/// A mapping of a rewritten table, for logical decoding only.
pub const XLOG_HEAP2_REWRITE: u8 = 0x00;
/// A page was pruned.
pub const XLOG_HEAP2_PRUNE: u8 = 0x10;
/// Dead line pointers became unused.
pub const XLOG_HEAP2_VACUUM: u8 = 0x20;
/// Tuples were frozen.
pub const XLOG_HEAP2_FREEZE_PAGE: u8 = 0x30;
/// Visibility map bits were set.
pub const XLOG_HEAP2_VISIBLE: u8 = 0x40;
/// Several tuples were inserted.
pub const XLOG_HEAP2_MULTI_INSERT: u8 = 0x50;
/// An updated version of a tuple was locked.
pub const XLOG_HEAP2_LOCK_UPDATED: u8 = 0x60;
/// Command ids of a catalog tuple, for logical decoding only.
pub const XLOG_HEAP2_NEW_CID: u8 = 0x70;
/// The page's all-visible flag was cleared.
pub const XLH_INSERT_ALL_VISIBLE_CLEARED: u8 = 1 << 0;
/// Last record of a multi-insert.
pub const XLH_INSERT_LAST_IN_MULTI: u8 = 1 << 1;
/// The insertion is speculative.
pub const XLH_INSERT_IS_SPECULATIVE: u8 = 1 << 2;
/// The tuple is logged even with an image.
pub const XLH_INSERT_CONTAINS_NEW_TUPLE: u8 = 1 << 3;
/// The relation is a TOAST table.
pub const XLH_INSERT_ON_TOAST_RELATION: u8 = 1 << 4;
/// The page is all frozen after the insertion.
pub const XLH_INSERT_ALL_FROZEN_SET: u8 = 1 << 5;
/// The old page's all-visible flag was cleared.
pub const XLH_UPDATE_OLD_ALL_VISIBLE_CLEARED: u8 = 1 << 0;
/// The new page's all-visible flag was cleared.
pub const XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED: u8 = 1 << 1;
/// The whole old tuple is logged.
pub const XLH_UPDATE_CONTAINS_OLD_TUPLE: u8 = 1 << 2;
/// The old tuple's replica identity is logged.
pub const XLH_UPDATE_CONTAINS_OLD_KEY: u8 = 1 << 3;
/// The new tuple is logged even with an image.
pub const XLH_UPDATE_CONTAINS_NEW_TUPLE: u8 = 1 << 4;
/// The new tuple starts with bytes of the old one.
pub const XLH_UPDATE_PREFIX_FROM_OLD: u8 = 1 << 5;
/// The new tuple ends with bytes of the old one.
pub const XLH_UPDATE_SUFFIX_FROM_OLD: u8 = 1 << 6;
/// The page's all-visible flag was cleared.
pub const XLH_DELETE_ALL_VISIBLE_CLEARED: u8 = 1 << 0;
/// The whole old tuple is logged.
pub const XLH_DELETE_CONTAINS_OLD_TUPLE: u8 = 1 << 1;
/// The old tuple's replica identity is logged.
pub const XLH_DELETE_CONTAINS_OLD_KEY: u8 = 1 << 2;
/// A speculative insertion is taken back.
pub const XLH_DELETE_IS_SUPER: u8 = 1 << 3;
/// The tuple moved to another partition.
pub const XLH_DELETE_IS_PARTITION_MOVE: u8 = 1 << 4;
/// The locker is a multixact.
pub const XLHL_XMAX_IS_MULTI: u8 = 0x01;
/// The tuple is locked only, not deleted.
pub const XLHL_XMAX_LOCK_ONLY: u8 = 0x02;
/// An exclusive lock.
pub const XLHL_XMAX_EXCL_LOCK: u8 = 0x04;
/// A key-share lock.
pub const XLHL_XMAX_KEYSHR_LOCK: u8 = 0x08;
/// Key columns were updated.
pub const XLHL_KEYS_UPDATED: u8 = 0x10;
/// The visibility map's all-frozen bit was cleared.
pub const XLH_LOCK_ALL_FROZEN_CLEARED: u8 = 0x01;
/// The tuple's `xvac` becomes frozen.
pub const XLH_FREEZE_XVAC: u8 = 0x02;
/// The tuple's `xvac` becomes invalid.
pub const XLH_INVALID_XVAC: u8 = 0x04;
