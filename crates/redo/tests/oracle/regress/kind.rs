//! Types of records that no test reaches, and why.

use quire_wal::rmgr::{self, kind::Kind};

/// Why records of a type are not to be had here.
pub fn why_absent(kind: Kind) -> Option<&'static str> {
    ABSENT.iter().find(|(manager, info, _)| (*manager, *info) == kind).map(|(_, _, why)| *why)
}

const ABSENT: &[(u8, u8, &str)] = &[
    (rmgr::XLOG, rmgr::XLOG_NOOP, "PostgreSQL never writes it; it touches no page"),
    (rmgr::XLOG, rmgr::XLOG_END_OF_RECOVERY, "written when a standby is promoted; it touches no page"),
    (rmgr::XLOG, rmgr::XLOG_OVERWRITE_CONTRECORD, "written after a crash within a record; it touches no page"),
    (
        rmgr::CLOG,
        rmgr::CLOG_TRUNCATE,
        "takes more than a million transactions, as `tests/tests/statements/counters.rs` makes on a Quire; it removes whole segments",
    ),
    (rmgr::GIST, rmgr::XLOG_GIST_ASSIGN_LSN, "written at `wal_level = minimal` alone; it touches no page"),
];
