//! Records of the log's own manager. Source: `pg_control.h`, `xlog.c` (`xlog_redo`).

use super::unknown;
use crate::rmgr::*;
use quire_types::{CodecError, Reader};

/// What a record of the log's own manager says. The data of checkpoints and parameter changes are read by
/// [`crate::CheckpointState`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XlogEffect {
    /// A checkpoint of a server that has stopped.
    CheckpointShutdown,
    /// A checkpoint of a running server.
    CheckpointOnline,
    /// Object ids below this one may have been used.
    NextOid(u32),
    /// Settings that a standby has to know.
    ParameterChange,
    /// Whether full-page writes are on from here.
    FullPageWrites(bool),
    /// Pages, each with its image.
    PageImages,
    /// Pages whose hint bits changed; they may come without an image, and then mean nothing.
    PageImagesForHints,
    /// Marks that change no state: no-operation, segment switch, end of a backup, restore point, end of recovery,
    /// overwritten continuation record.
    Nothing,
}

/// Reads a record of the log's own manager.
pub fn parse(info: u8, data: &[u8]) -> Result<XlogEffect, CodecError> {
    let mut input = Reader::new(data);
    match info & XLR_RMGR_INFO_MASK {
        XLOG_CHECKPOINT_SHUTDOWN => Ok(XlogEffect::CheckpointShutdown),
        XLOG_CHECKPOINT_ONLINE => Ok(XlogEffect::CheckpointOnline),
        XLOG_NEXTOID => Ok(XlogEffect::NextOid(input.u32("next oid")?)),
        XLOG_PARAMETER_CHANGE => Ok(XlogEffect::ParameterChange),
        XLOG_FPW_CHANGE => Ok(XlogEffect::FullPageWrites(input.u8("full_page_writes")? != 0)),
        XLOG_FPI_FOR_HINT => Ok(XlogEffect::PageImagesForHints),
        XLOG_FPI => Ok(XlogEffect::PageImages),
        XLOG_NOOP
        | XLOG_SWITCH
        | XLOG_BACKUP_END
        | XLOG_RESTORE_POINT
        | XLOG_END_OF_RECOVERY
        | XLOG_OVERWRITE_CONTRECORD => Ok(XlogEffect::Nothing),
        other => unknown("log record type", other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_switches_are_read() {
        assert_eq!(parse(XLOG_NEXTOID, &[0, 64, 0, 0]), Ok(XlogEffect::NextOid(16384)));
        assert_eq!(parse(XLOG_FPW_CHANGE, &[0]), Ok(XlogEffect::FullPageWrites(false)));
        assert!(parse(XLOG_NEXTOID, &[0]).is_err());
    }

    #[test]
    fn an_unknown_record_type_is_refused() {
        assert!(parse(0xC0, &[]).is_err());
    }
}
