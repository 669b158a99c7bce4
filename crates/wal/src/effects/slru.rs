//! Pages of the commit log and of the commit timestamps. Source: `clog.h`, `clog.c` (`clog_redo`), `commit_ts.h`,
//! `commit_ts.c` (`commit_ts_redo`).

use super::{page_number, unknown};
use crate::rmgr::*;
use quire_types::{CodecError, Reader};

/// What a record of the commit log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClogEffect {
    /// A page is set to zeroes.
    ZeroPage(u32),
    /// Segments wholly before a page are removed.
    Truncate {
        /// The oldest page that is still of use.
        page: u32,
        /// The oldest transaction whose status is kept, which is also the oldest that any table may contain.
        oldest_xid: u32,
        /// The database that holds it back.
        oldest_xid_db: u32,
    },
}

/// What a record of the commit timestamps says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitTsEffect {
    /// A page is set to zeroes.
    ZeroPage(u32),
    /// Segments wholly before a page are removed.
    Truncate {
        /// The oldest page that is still of use.
        page: u32,
        /// The oldest transaction that has a timestamp.
        oldest_xid: u32,
    },
}

/// Reads a record of the commit log.
pub fn parse_clog(info: u8, data: &[u8]) -> Result<ClogEffect, CodecError> {
    let mut input = Reader::new(data);
    match info & XLR_RMGR_INFO_MASK {
        CLOG_ZEROPAGE => Ok(ClogEffect::ZeroPage(page_number(&mut input)?)),
        CLOG_TRUNCATE => Ok(ClogEffect::Truncate {
            page: page_number(&mut input)?,
            oldest_xid: input.u32("oldest xid")?,
            oldest_xid_db: input.u32("oldest xid's database")?,
        }),
        other => unknown("commit log record type", other),
    }
}

/// Reads a record of the commit timestamps.
pub fn parse_commit_ts(info: u8, data: &[u8]) -> Result<CommitTsEffect, CodecError> {
    let mut input = Reader::new(data);
    match info & XLR_RMGR_INFO_MASK {
        COMMIT_TS_ZEROPAGE => Ok(CommitTsEffect::ZeroPage(page_number(&mut input)?)),
        COMMIT_TS_TRUNCATE => {
            Ok(CommitTsEffect::Truncate { page: page_number(&mut input)?, oldest_xid: input.u32("oldest xid")? })
        }
        other => unknown("commit timestamp record type", other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_page_is_refused() {
        assert!(parse_clog(CLOG_ZEROPAGE, &(-1i32).to_le_bytes()).is_err());
        assert_eq!(parse_clog(CLOG_ZEROPAGE, &7u32.to_le_bytes()), Ok(ClogEffect::ZeroPage(7)));
    }

    #[test]
    fn truncations_carry_the_oldest_transaction() {
        let raw: Vec<u8> = [3u32, 100_000, 5].iter().flat_map(|n| n.to_le_bytes()).collect();
        let clog = ClogEffect::Truncate { page: 3, oldest_xid: 100_000, oldest_xid_db: 5 };
        assert_eq!(parse_clog(CLOG_TRUNCATE, &raw), Ok(clog));
        assert_eq!(
            parse_commit_ts(COMMIT_TS_TRUNCATE, &raw),
            Ok(CommitTsEffect::Truncate { page: 3, oldest_xid: 100_000 })
        );
    }
}
