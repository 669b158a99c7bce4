//! `info` bits of transaction status areas and what standbys track: `CLOG`, `MultiXact`, `CommitTs`,
//! `ReplicationOrigin`, `Standby`, `LogicalMessage`.

/// A commit status page was zeroed.
pub const CLOG_ZEROPAGE: u8 = 0x00;
/// Commit status before a page was removed.
pub const CLOG_TRUNCATE: u8 = 0x10;
/// A page of `pg_multixact/offsets` was zeroed.
pub const XLOG_MULTIXACT_ZERO_OFF_PAGE: u8 = 0x00;
/// A page of `pg_multixact/members` was zeroed.
pub const XLOG_MULTIXACT_ZERO_MEM_PAGE: u8 = 0x10;
/// A multixact and its members.
pub const XLOG_MULTIXACT_CREATE_ID: u8 = 0x20;
/// Multixacts before a bound were removed.
pub const XLOG_MULTIXACT_TRUNCATE_ID: u8 = 0x30;
/// A commit timestamp page was zeroed.
pub const COMMIT_TS_ZEROPAGE: u8 = 0x00;
/// Commit timestamps before a page were removed.
pub const COMMIT_TS_TRUNCATE: u8 = 0x10;
/// Progress of a replication origin.
pub const XLOG_REPLORIGIN_SET: u8 = 0x00;
/// A replication origin was dropped.
pub const XLOG_REPLORIGIN_DROP: u8 = 0x10;
/// Access exclusive locks.
pub const XLOG_STANDBY_LOCK: u8 = 0x00;
/// The transactions that are running.
pub const XLOG_RUNNING_XACTS: u8 = 0x10;
/// Invalidation messages of a transaction without an id.
pub const XLOG_INVALIDATIONS: u8 = 0x20;
/// A message for logical decoding.
pub const XLOG_LOGICAL_MESSAGE: u8 = 0x00;
