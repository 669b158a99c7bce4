//! Relation maps. Source: `relmapper.h`, `relmapper.c` (`relmap_redo`).

use super::unknown;
use crate::rmgr::*;
use quire_types::{CodecError, Reader};

/// Bytes in a `pg_filenode.map` of PostgreSQL 15 (`RelMapFile`).
pub const MAP_BYTES: usize = 512;

/// A relation map, replaced as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelMapUpdate<'a> {
    /// The database, 0 for the shared map.
    pub database: u32,
    /// Its tablespace.
    pub tablespace: u32,
    /// The new file.
    pub file: &'a [u8],
}

/// Reads a record of the relation mapper.
pub fn parse(info: u8, data: &[u8]) -> Result<RelMapUpdate<'_>, CodecError> {
    if info & XLR_RMGR_INFO_MASK != XLOG_RELMAP_UPDATE {
        return unknown("relation map record type", info);
    }
    let mut input = Reader::new(data);
    let (database, tablespace) = (input.u32("database")?, input.u32("tablespace")?);
    let bytes = input.u32("map size")?;
    if bytes as usize != MAP_BYTES {
        return Err(CodecError::Invalid { field: "map size", value: bytes.into() });
    }
    Ok(RelMapUpdate { database, tablespace, file: input.bytes("map", MAP_BYTES)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::Writer;

    #[test]
    fn a_map_of_another_size_is_refused() {
        let mut data = Writer::new();
        data.u32(5).u32(1663).u32(12).bytes(&[0; 12]);
        assert_eq!(
            parse(XLOG_RELMAP_UPDATE, data.as_slice()),
            Err(CodecError::Invalid { field: "map size", value: 12 })
        );
    }
}
