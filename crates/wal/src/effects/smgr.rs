//! Relation files created and truncated. Source: `storage_xlog.h`, `storage.c` (`smgr_redo`).

use super::{relation, unknown};
use crate::rmgr::*;
use quire_types::{CodecError, Fork, Reader, RelTag};

/// What a record of the storage manager says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmgrEffect {
    /// A fork is created, empty; it may exist already.
    Create(RelTag),
    /// A relation is cut.
    Truncate {
        /// Its main fork.
        rel: RelTag,
        /// Blocks that remain of the main fork.
        blocks: u32,
        /// Whether the main fork is cut.
        main: bool,
        /// Whether the visibility map is cut accordingly.
        visibility_map: bool,
    },
}

/// Reads a record of the storage manager.
pub fn parse(info: u8, data: &[u8]) -> Result<SmgrEffect, CodecError> {
    let mut input = Reader::new(data);
    match info & XLR_RMGR_INFO_MASK {
        XLOG_SMGR_CREATE => create(&mut input),
        XLOG_SMGR_TRUNCATE => truncate(&mut input),
        other => unknown("storage record type", other),
    }
}

fn create(input: &mut Reader<'_>) -> Result<SmgrEffect, CodecError> {
    let rel = relation(input)?;
    let number = input.u32("fork")?;
    let fork = u8::try_from(number).ok().and_then(Fork::from_number);
    let fork = fork.ok_or(CodecError::Invalid { field: "fork", value: number.into() })?;
    Ok(SmgrEffect::Create(rel.with_fork(fork)))
}

fn truncate(input: &mut Reader<'_>) -> Result<SmgrEffect, CodecError> {
    let blocks = input.u32("block count")?;
    let rel = relation(input)?;
    let flags = input.u32("truncation flags")?;
    let (main, visibility_map) = (flags & SMGR_TRUNCATE_HEAP != 0, flags & SMGR_TRUNCATE_VM != 0);
    Ok(SmgrEffect::Truncate { rel, blocks, main, visibility_map })
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::Writer;

    #[test]
    fn a_created_fork_and_a_truncation_are_read() {
        let rel = RelTag { tablespace: 1663, database: 5, relation: 9, fork: Fork::Main };
        let mut create = Writer::new();
        create.u32(1663).u32(5).u32(9).u32(3);
        assert_eq!(parse(XLOG_SMGR_CREATE, create.as_slice()), Ok(SmgrEffect::Create(rel.with_fork(Fork::Init))));
        let mut cut = Writer::new();
        cut.u32(40).u32(1663).u32(5).u32(9).u32(7);
        let expected = SmgrEffect::Truncate { rel, blocks: 40, main: true, visibility_map: true };
        assert_eq!(parse(XLOG_SMGR_TRUNCATE, cut.as_slice()), Ok(expected));
    }

    #[test]
    fn an_unknown_fork_is_refused() {
        let mut create = Writer::new();
        create.u32(1663).u32(5).u32(9).u32(256);
        assert!(parse(XLOG_SMGR_CREATE, create.as_slice()).is_err());
    }
}
