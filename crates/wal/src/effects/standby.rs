//! What a primary tells its standbys. Source: `standbydefs.h`, `standby.c` (`standby_redo`).

use super::unknown;
use crate::rmgr::*;
use quire_types::{CodecError, Reader};

/// What a standby record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandbyEffect {
    /// Which transactions were running.
    RunningXacts {
        /// The next transaction id at that time.
        next_xid: u32,
    },
    /// Locks and invalidations, which concern running standbys alone.
    Nothing,
}

/// Reads a standby record.
pub fn parse(info: u8, data: &[u8]) -> Result<StandbyEffect, CodecError> {
    match info & XLR_RMGR_INFO_MASK {
        XLOG_STANDBY_LOCK | XLOG_INVALIDATIONS => Ok(StandbyEffect::Nothing),
        XLOG_RUNNING_XACTS => {
            let mut input = Reader::new(data);
            input.bytes("counts", 12)?;
            Ok(StandbyEffect::RunningXacts { next_xid: input.u32("next xid")? })
        }
        other => unknown("standby record type", other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_transactions_give_the_next_one() {
        let raw: Vec<u8> = [1u32, 0, 0, 744, 740, 743, 740].iter().flat_map(|n| n.to_le_bytes()).collect();
        assert_eq!(parse(XLOG_RUNNING_XACTS, &raw), Ok(StandbyEffect::RunningXacts { next_xid: 744 }));
    }
}
