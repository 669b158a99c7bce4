//! Tablespaces created and dropped. Source: `tablespace.h`, `tablespace.c` (`tblspc_redo`).

use super::unknown;
use crate::rmgr::*;
use quire_types::{CodecError, Reader};

/// What a record of the tablespace manager says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TablespaceEffect<'a> {
    /// A tablespace is created.
    Create {
        /// Its number.
        tablespace: u32,
        /// Where, as its creator said; empty for one in the data directory.
        location: &'a [u8],
    },
    /// A tablespace, which has nothing in it, is dropped.
    Drop {
        /// Its number.
        tablespace: u32,
    },
}

/// Reads a record of the tablespace manager.
pub fn parse(info: u8, data: &[u8]) -> Result<TablespaceEffect<'_>, CodecError> {
    let mut input = Reader::new(data);
    match info & XLR_RMGR_INFO_MASK {
        XLOG_TBLSPC_CREATE => {
            let tablespace = input.u32("tablespace")?;
            let path = input.rest();
            let location = path.split(|byte| *byte == 0).next().unwrap_or_default();
            Ok(TablespaceEffect::Create { tablespace, location })
        }
        XLOG_TBLSPC_DROP => Ok(TablespaceEffect::Drop { tablespace: input.u32("tablespace")? }),
        other => unknown("tablespace record type", other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::Writer;

    #[test]
    fn a_location_ends_at_its_zero_byte() {
        for (path, location) in [(&b"/elsewhere\0"[..], &b"/elsewhere"[..]), (b"\0", b""), (b"", b"")] {
            let mut data = Writer::new();
            data.u32(16400).bytes(path);
            let expected = TablespaceEffect::Create { tablespace: 16400, location };
            assert_eq!(parse(XLOG_TBLSPC_CREATE, data.as_slice()), Ok(expected));
        }
    }

    #[test]
    fn a_drop_names_its_tablespace_and_nothing_else_is_known() {
        let mut data = Writer::new();
        data.u32(16400);
        assert_eq!(parse(XLOG_TBLSPC_DROP, data.as_slice()), Ok(TablespaceEffect::Drop { tablespace: 16400 }));
        assert!(parse(0x20, data.as_slice()).is_err());
        assert!(parse(XLOG_TBLSPC_DROP, &[1, 2]).is_err());
    }
}
