//! Progress of replication origins. Source: `origin.h`, `origin.c` (`replorigin_redo`, `CheckPointReplicationOrigin`).

use super::unknown;
use crate::rmgr::*;
use quire_types::{CodecError, Lsn, Reader, Writer};

/// First word of `pg_logical/replorigin_checkpoint`.
const FILE_MAGIC: u32 = 0x1257_DADE;
/// Bytes of a `ReplicationStateOnDisk`, padding included.
const FILE_ENTRY_BYTES: usize = 16;
/// Bytes of the CRC-32C that closes the file.
const FILE_CRC_BYTES: usize = 4;

/// What a record of the replication origins says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicationOriginEffect {
    /// An origin's progress is set.
    Set {
        /// The origin.
        origin: u16,
        /// How far it is replayed, in the origin's log.
        remote_lsn: Lsn,
        /// Whether it may go backwards.
        force: bool,
    },
    /// An origin is forgotten.
    Drop {
        /// The origin.
        origin: u16,
    },
}

/// Reads a record of the replication origins.
pub fn parse(info: u8, data: &[u8]) -> Result<ReplicationOriginEffect, CodecError> {
    let mut input = Reader::new(data);
    match info & XLR_RMGR_INFO_MASK {
        XLOG_REPLORIGIN_SET => {
            let remote_lsn = Lsn(input.u64("remote LSN")?);
            let origin = input.u16("origin")?;
            Ok(ReplicationOriginEffect::Set { origin, remote_lsn, force: input.u8("force")? != 0 })
        }
        XLOG_REPLORIGIN_DROP => Ok(ReplicationOriginEffect::Drop { origin: input.u16("origin")? }),
        other => unknown("replication origin record type", other),
    }
}

/// Reads `pg_logical/replorigin_checkpoint`: origins, and how far each is replayed in its own log.
pub fn parse_file(raw: &[u8]) -> Result<Vec<(u16, Lsn)>, CodecError> {
    let checked_bytes = raw.len().saturating_sub(FILE_CRC_BYTES);
    let mut crc = Reader::new(&raw[checked_bytes..]);
    let said = crc.u32("crc")?;
    if said != crc32c::crc32c(&raw[..checked_bytes]) {
        return Err(CodecError::Invalid { field: "crc", value: said.into() });
    }
    let mut input = Reader::new(&raw[..checked_bytes]);
    let magic = input.u32("magic")?;
    if magic != FILE_MAGIC {
        return Err(CodecError::Invalid { field: "magic", value: magic.into() });
    }
    let mut origins = Vec::with_capacity(input.remaining() / FILE_ENTRY_BYTES);
    while input.remaining() > 0 {
        let origin = input.u16("origin")?;
        input.bytes("padding", 6)?;
        origins.push((origin, Lsn(input.u64("remote LSN")?)));
    }
    Ok(origins)
}

/// The file that says so much of these origins.
pub fn write_file(origins: &[(u16, Lsn)]) -> Vec<u8> {
    let mut out = Writer::with_capacity(4 + origins.len() * FILE_ENTRY_BYTES + FILE_CRC_BYTES);
    out.u32(FILE_MAGIC);
    for (origin, remote_lsn) in origins {
        out.u16(*origin).bytes(&[0; 6]).u64(remote_lsn.0);
    }
    let crc = crc32c::crc32c(out.as_slice());
    out.u32(crc);
    out.into_vec()
}

/// Value of the key of an origin: how far it is replayed in its own log, and the end of the record that says so in
/// ours; two little-endian `u64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct OriginState {
    /// Position in the origin's log.
    pub remote_lsn: Lsn,
    /// Position in our log, invalid if it is not known.
    pub local_lsn: Lsn,
}

impl OriginState {
    /// The 16 bytes.
    pub fn encode(self) -> Vec<u8> {
        let mut out = Writer::with_capacity(16);
        out.u64(self.remote_lsn.0).u64(self.local_lsn.0);
        out.into_vec()
    }

    /// Reads back what [`OriginState::encode`] wrote.
    pub fn decode(raw: &[u8]) -> Result<OriginState, CodecError> {
        let mut input = Reader::new(raw);
        let state = OriginState { remote_lsn: Lsn(input.u64("remote LSN")?), local_lsn: Lsn(input.u64("local LSN")?) };
        input.finish()?;
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_and_drop_are_read() {
        let set = [1, 2, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 0, 0, 0, 0];
        let expected = ReplicationOriginEffect::Set { origin: 9, remote_lsn: Lsn(0x201), force: true };
        assert_eq!(parse(XLOG_REPLORIGIN_SET, &set), Ok(expected));
        assert_eq!(parse(XLOG_REPLORIGIN_DROP, &[9, 0]), Ok(ReplicationOriginEffect::Drop { origin: 9 }));
    }

    #[test]
    fn the_file_round_trips_and_damage_is_found() {
        let origins = vec![(1, Lsn(0x1000)), (7, Lsn(0x16_0000_0000))];
        let mut raw = write_file(&origins);
        assert_eq!(raw.len(), 4 + 2 * 16 + 4);
        assert_eq!(parse_file(&raw), Ok(origins));
        raw[5] ^= 1;
        assert!(parse_file(&raw).is_err());
        assert!(parse_file(&raw[..3]).is_err());
    }
}
