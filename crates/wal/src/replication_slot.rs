//! State files of replication slots, `pg_replslot/<name>/state`. Source: `slot.c` (`ReplicationSlotOnDisk`), `slot.h`
//! (`ReplicationSlotPersistentData`), as laid out on 64-bit little-endian machines.

use quire_types::{CodecError, Lsn, Reader};

/// `SLOT_MAGIC`.
const MAGIC: u32 = 0x0105_1CA1;
/// `SLOT_VERSION` of PostgreSQL 15.
const VERSION: u32 = 2;
/// Bytes before those that the checksum is taken over: the magic number and the checksum.
const UNCHECKED_BYTES: usize = 8;
/// Between the start of the slot's data and its `restart_lsn`: name, database, persistency, `xmin`, `catalog_xmin`.
const BYTES_BEFORE_RESTART_LSN: usize = 64 + 4 * 4;

/// A state file that cannot be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SlotFileError {
    /// Another program's file, or another major version's.
    #[error("not a replication slot of this version of PostgreSQL: {field} is {found:#x}")]
    Foreign {
        /// What differs.
        field: &'static str,
        /// What the file says.
        found: u32,
    },
    /// Damaged.
    #[error("the replication slot has the wrong CRC")]
    Crc,
    /// Too short or too long.
    #[error("invalid replication slot: {0}")]
    Field(#[from] CodecError),
}

/// The oldest LSN whose WAL the slot may still need (`restart_lsn`); none if it needs none.
pub fn restart_lsn(file: &[u8]) -> Result<Option<Lsn>, SlotFileError> {
    let mut input = Reader::new(file);
    expect("the magic number", input.u32("magic")?, MAGIC)?;
    let checksum = input.u32("checksum")?;
    if crc32c::crc32c(file.get(UNCHECKED_BYTES..).unwrap_or_default()) != checksum {
        return Err(SlotFileError::Crc);
    }
    expect("the format", input.u32("version")?, VERSION)?;
    let mut data = Reader::new(input.length_prefixed("slot")?);
    input.finish()?;
    data.bytes("name to catalog_xmin", BYTES_BEFORE_RESTART_LSN)?;
    Ok(Some(Lsn(data.u64("restart_lsn")?)).filter(|lsn| lsn.is_valid()))
}

fn expect(field: &'static str, found: u32, expected: u32) -> Result<(), SlotFileError> {
    if found == expected { Ok(()) } else { Err(SlotFileError::Foreign { field, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::Writer;

    /// A file as PostgreSQL 15 writes it: 184 bytes of data, of which only the LSN matters here.
    fn file(restart_lsn: u64) -> Vec<u8> {
        let mut data = vec![0; 184];
        data[BYTES_BEFORE_RESTART_LSN..][..8].copy_from_slice(&restart_lsn.to_le_bytes());
        let mut checked = Writer::new();
        checked.u32(VERSION).length_prefixed(&data);
        let mut out = Writer::new();
        out.u32(MAGIC).u32(crc32c::crc32c(checked.as_slice())).bytes(checked.as_slice());
        out.into_vec()
    }

    #[test]
    fn a_slot_says_from_where_on_it_needs_wal() {
        assert_eq!(restart_lsn(&file(0x0300_0028)), Ok(Some(Lsn(0x0300_0028))));
        assert_eq!(restart_lsn(&file(0)), Ok(None));
    }

    #[test]
    fn every_damage_is_an_error() {
        let whole = file(0x0300_0028);
        for position in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[position] ^= 1;
            assert!(restart_lsn(&damaged).is_err(), "byte {position}");
            assert!(restart_lsn(&whole[..position]).is_err(), "cut at {position}");
        }
    }
}
