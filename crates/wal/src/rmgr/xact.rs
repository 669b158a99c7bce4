//! `info` bits of the `Transaction` resource manager (`xact.h`), with the flags that say what a commit or abort record
//! holds.

/// Commit.
pub const XLOG_XACT_COMMIT: u8 = 0x00;
/// Prepare: the record's data is the state file.
pub const XLOG_XACT_PREPARE: u8 = 0x10;
/// Abort.
pub const XLOG_XACT_ABORT: u8 = 0x20;
/// Commit of a prepared transaction.
pub const XLOG_XACT_COMMIT_PREPARED: u8 = 0x30;
/// Abort of a prepared transaction.
pub const XLOG_XACT_ABORT_PREPARED: u8 = 0x40;
/// Subtransactions of a transaction.
pub const XLOG_XACT_ASSIGNMENT: u8 = 0x50;
/// Invalidation messages.
pub const XLOG_XACT_INVALIDATIONS: u8 = 0x60;
/// The bits of `info` that hold the operation.
pub const XLOG_XACT_OPMASK: u8 = 0x70;
/// The record has an `xinfo` field.
pub const XLOG_XACT_HAS_INFO: u8 = 0x80;
/// `xl_xact_dbinfo` follows.
pub const XACT_XINFO_HAS_DBINFO: u32 = 1 << 0;
/// `xl_xact_subxacts` follows.
pub const XACT_XINFO_HAS_SUBXACTS: u32 = 1 << 1;
/// `xl_xact_relfilenodes` follows: relations to delete.
pub const XACT_XINFO_HAS_RELFILENODES: u32 = 1 << 2;
/// `xl_xact_invals` follows.
pub const XACT_XINFO_HAS_INVALS: u32 = 1 << 3;
/// `xl_xact_twophase` follows: the prepared transaction's id.
pub const XACT_XINFO_HAS_TWOPHASE: u32 = 1 << 4;
/// `xl_xact_origin` follows, unaligned.
pub const XACT_XINFO_HAS_ORIGIN: u32 = 1 << 5;
/// The transaction held access exclusive locks.
pub const XACT_XINFO_HAS_AE_LOCKS: u32 = 1 << 6;
/// The prepared transaction's global id follows, ended by a zero byte.
pub const XACT_XINFO_HAS_GID: u32 = 1 << 7;
/// `xl_xact_stats_items` follows.
pub const XACT_XINFO_HAS_DROPPED_STATS: u32 = 1 << 8;
/// The committer waits for standbys to apply.
pub const XACT_COMPLETION_APPLY_FEEDBACK: u32 = 1 << 29;
/// The relation cache's init file is stale.
pub const XACT_COMPLETION_UPDATE_RELCACHE_FILE: u32 = 1 << 30;
/// The commit must be flushed at once.
pub const XACT_COMPLETION_FORCE_SYNC_COMMIT: u32 = 1 << 31;
