//! `global/pg_control`. Source: `pg_control.h` (`ControlFileData`), as laid out on 64-bit little-endian machines.

use crate::checkpoint::{CheckpointState, read_checkpoint, read_i32, write_checkpoint};
use crate::postgres_version::{PostgresVersion, PostgresVersions, SUPPORTED};
use quire_types::{CodecError, Lsn, Reader, Writer};

/// Bytes of the file (`PG_CONTROL_FILE_SIZE`).
pub const CONTROL_FILE_BYTES: usize = 8192;
/// Bytes the CRC is taken over.
const CHECKED_BYTES: usize = 288;

/// A `pg_control` that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ControlFileError {
    /// Written by another major version.
    #[error("pg_control has version {found}, which is of no supported version of PostgreSQL (supported: {supported})")]
    Version {
        /// What the file says.
        found: u32,
        /// What is supported.
        supported: PostgresVersions,
    },
    /// Damaged.
    #[error("pg_control has the wrong CRC")]
    Crc,
    /// Too short, or a field that cannot be.
    #[error("invalid pg_control: {0}")]
    Field(#[from] CodecError),
}

/// `DBState`: whether the server runs, and how it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum DatabaseState {
    /// `DB_STARTUP`.
    Startup = 0,
    /// `DB_SHUTDOWNED`: cleanly shut down.
    ShutDown = 1,
    /// `DB_SHUTDOWNED_IN_RECOVERY`.
    ShutDownInRecovery = 2,
    /// `DB_SHUTDOWNING`.
    ShuttingDown = 3,
    /// `DB_IN_CRASH_RECOVERY`.
    InCrashRecovery = 4,
    /// `DB_IN_ARCHIVE_RECOVERY`.
    InArchiveRecovery = 5,
    /// `DB_IN_PRODUCTION`.
    InProduction = 6,
}

impl DatabaseState {
    fn from_number(number: u32) -> Option<DatabaseState> {
        Some(match number {
            0 => DatabaseState::Startup,
            1 => DatabaseState::ShutDown,
            2 => DatabaseState::ShutDownInRecovery,
            3 => DatabaseState::ShuttingDown,
            4 => DatabaseState::InCrashRecovery,
            5 => DatabaseState::InArchiveRecovery,
            6 => DatabaseState::InProduction,
            _ => return None,
        })
    }
}

/// PostgreSQL's `ControlFileData`. Fields may be set freely: [`ControlFile::to_bytes`] computes the CRC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlFile {
    /// The version of PostgreSQL whose file this is, by `pg_control_version`.
    pub version: &'static PostgresVersion,
    /// `system_identifier`.
    pub system_identifier: u64,
    /// `catalog_version_no`.
    pub catalog_version: u32,
    /// `state`.
    pub state: DatabaseState,
    /// When the file was last updated, in seconds since 1970.
    pub time: i64,
    /// Start of the last checkpoint record.
    pub checkpoint: Lsn,
    /// `checkPointCopy`, what that record says, and with it the file's own fields from `wal_level` to
    /// `track_commit_timestamp`.
    pub checkpoint_copy: CheckpointState,
    /// `unloggedLSN`.
    pub unlogged_lsn: Lsn,
    /// `minRecoveryPoint`.
    pub min_recovery_point: Lsn,
    /// `minRecoveryPointTLI`.
    pub min_recovery_timeline: u32,
    /// `backupStartPoint`.
    pub backup_start: Lsn,
    /// `backupEndPoint`.
    pub backup_end: Lsn,
    /// `backupEndRequired`.
    pub backup_end_required: bool,
    /// What the server's build and `initdb` fixed for good.
    pub layout: DataLayout,
    /// `mock_authentication_nonce`.
    pub mock_authentication_nonce: [u8; 32],
}

/// The properties of a data directory that never change and that the server's build must match.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DataLayout {
    /// `maxAlign`.
    pub max_align: u32,
    /// `floatFormat`, the bits of a double.
    pub float_format: u64,
    /// `blcksz`.
    pub block_bytes: u32,
    /// `relseg_size`, in blocks.
    pub relation_segment_blocks: u32,
    /// `xlog_blcksz`.
    pub wal_page_bytes: u32,
    /// `xlog_seg_size`.
    pub wal_segment_bytes: u32,
    /// `nameDataLen`.
    pub name_data_len: u32,
    /// `indexMaxKeys`.
    pub index_max_keys: u32,
    /// `toast_max_chunk_size`.
    pub toast_max_chunk_size: u32,
    /// `loblksize`.
    pub large_object_block_bytes: u32,
    /// `float8ByVal`.
    pub float8_by_value: bool,
    /// `data_checksum_version`, 0 if pages have no checksums.
    pub data_checksum_version: u32,
}

impl ControlFile {
    /// Reads the file; its version and CRC are checked. Bytes after the structure are ignored.
    pub fn parse(bytes: &[u8]) -> Result<ControlFile, ControlFileError> {
        ControlFile::parse_among(SUPPORTED, bytes)
    }

    /// As [`ControlFile::parse`], where `supported` are all versions there are.
    pub(crate) fn parse_among(supported: PostgresVersions, bytes: &[u8]) -> Result<ControlFile, ControlFileError> {
        let mut start = Reader::new(bytes);
        start.u64("system_identifier")?;
        let found = start.u32("pg_control_version")?;
        let version = supported.of_control_version(found).ok_or(ControlFileError::Version { found, supported })?;
        let mut whole = Reader::new(bytes);
        let checked = whole.bytes("control data", CHECKED_BYTES)?;
        if whole.u32("crc")? != crc32c::crc32c(checked) {
            return Err(ControlFileError::Crc);
        }
        Ok(read(version, &mut Reader::new(checked))?)
    }

    /// The file, CRC included.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(CONTROL_FILE_BYTES);
        self.write_state(&mut writer);
        self.write_parameters(&mut writer);
        self.layout.write(&mut writer);
        writer.bytes(&self.mock_authentication_nonce);
        assert_eq!(writer.len(), CHECKED_BYTES, "the layout is PostgreSQL's");
        let crc = crc32c::crc32c(writer.as_slice());
        writer.u32(crc);
        let mut bytes = writer.into_vec();
        bytes.resize(CONTROL_FILE_BYTES, 0);
        bytes
    }

    fn write_state(&self, writer: &mut Writer) {
        writer.u64(self.system_identifier).u32(self.version.control_version).u32(self.catalog_version);
        writer.u32(self.state as u32).u32(0).i64(self.time).u64(self.checkpoint.0);
        write_checkpoint(&self.checkpoint_copy, writer);
        writer.u64(self.unlogged_lsn.0).u64(self.min_recovery_point.0).u32(self.min_recovery_timeline).u32(0);
        writer.u64(self.backup_start.0).u64(self.backup_end.0);
        write_bool(self.backup_end_required, writer);
    }

    fn write_parameters(&self, writer: &mut Writer) {
        let parameters = &self.checkpoint_copy;
        writer.u32(parameters.wal_level.cast_unsigned());
        write_bool(parameters.wal_log_hints, writer);
        writer.u32(parameters.max_connections.cast_unsigned());
        writer.u32(parameters.max_worker_processes.cast_unsigned());
        writer.u32(parameters.max_wal_senders.cast_unsigned());
        writer.u32(parameters.max_prepared_xacts.cast_unsigned());
        writer.u32(parameters.max_locks_per_xact.cast_unsigned());
        write_bool(parameters.track_commit_timestamp, writer);
    }
}

impl DataLayout {
    fn write(&self, writer: &mut Writer) {
        writer.u32(self.max_align).u64(self.float_format);
        writer.u32(self.block_bytes).u32(self.relation_segment_blocks);
        writer.u32(self.wal_page_bytes).u32(self.wal_segment_bytes);
        writer.u32(self.name_data_len).u32(self.index_max_keys);
        writer.u32(self.toast_max_chunk_size).u32(self.large_object_block_bytes);
        write_bool(self.float8_by_value, writer);
        writer.u32(self.data_checksum_version);
    }
}

/// Reads the bytes before the CRC, in their order.
fn read(version: &'static PostgresVersion, reader: &mut Reader<'_>) -> Result<ControlFile, CodecError> {
    let system_identifier = reader.u64("system_identifier")?;
    reader.u32("pg_control_version")?;
    let mut file = ControlFile {
        version,
        system_identifier,
        catalog_version: reader.u32("catalog_version_no")?,
        state: read_state(reader)?,
        time: reader.i64("time")?,
        checkpoint: Lsn(reader.u64("checkPoint")?),
        checkpoint_copy: read_checkpoint(reader)?,
        unlogged_lsn: Lsn(reader.u64("unloggedLSN")?),
        min_recovery_point: Lsn(reader.u64("minRecoveryPoint")?),
        min_recovery_timeline: read_padded_u32("minRecoveryPointTLI", reader)?,
        backup_start: Lsn(reader.u64("backupStartPoint")?),
        backup_end: Lsn(reader.u64("backupEndPoint")?),
        backup_end_required: read_bool("backupEndRequired", reader)?,
        layout: DataLayout::default(),
        mock_authentication_nonce: [0; 32],
    };
    read_parameters(&mut file.checkpoint_copy, reader)?;
    file.layout = read_layout(reader)?;
    file.mock_authentication_nonce = reader.array("mock_authentication_nonce")?;
    Ok(file)
}

fn read_parameters(parameters: &mut CheckpointState, reader: &mut Reader<'_>) -> Result<(), CodecError> {
    parameters.wal_level = read_i32("wal_level", reader)?;
    parameters.wal_log_hints = read_bool("wal_log_hints", reader)?;
    parameters.max_connections = read_i32("MaxConnections", reader)?;
    parameters.max_worker_processes = read_i32("max_worker_processes", reader)?;
    parameters.max_wal_senders = read_i32("max_wal_senders", reader)?;
    parameters.max_prepared_xacts = read_i32("max_prepared_xacts", reader)?;
    parameters.max_locks_per_xact = read_i32("max_locks_per_xact", reader)?;
    parameters.track_commit_timestamp = read_bool("track_commit_timestamp", reader)?;
    Ok(())
}

fn read_layout(reader: &mut Reader<'_>) -> Result<DataLayout, CodecError> {
    Ok(DataLayout {
        max_align: reader.u32("maxAlign")?,
        float_format: reader.u64("floatFormat")?,
        block_bytes: reader.u32("blcksz")?,
        relation_segment_blocks: reader.u32("relseg_size")?,
        wal_page_bytes: reader.u32("xlog_blcksz")?,
        wal_segment_bytes: reader.u32("xlog_seg_size")?,
        name_data_len: reader.u32("nameDataLen")?,
        index_max_keys: reader.u32("indexMaxKeys")?,
        toast_max_chunk_size: reader.u32("toast_max_chunk_size")?,
        large_object_block_bytes: reader.u32("loblksize")?,
        float8_by_value: read_bool("float8ByVal", reader)?,
        data_checksum_version: reader.u32("data_checksum_version")?,
    })
}

fn read_state(reader: &mut Reader<'_>) -> Result<DatabaseState, CodecError> {
    let number = read_padded_u32("state", reader)?;
    DatabaseState::from_number(number).ok_or(CodecError::Invalid { field: "state", value: number.into() })
}

fn read_padded_u32(field: &'static str, reader: &mut Reader<'_>) -> Result<u32, CodecError> {
    let value = reader.u32(field)?;
    reader.bytes("padding", 4)?;
    Ok(value)
}

fn read_bool(field: &'static str, reader: &mut Reader<'_>) -> Result<bool, CodecError> {
    let value = reader.u8(field)?;
    reader.bytes("padding", 3)?;
    Ok(value != 0)
}

/// A `bool` and the padding before a field of four bytes.
fn write_bool(value: bool, writer: &mut Writer) {
    writer.u32(value.into());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres_version::PG15;
    use proptest::prelude::*;

    impl ControlFile {
        pub(crate) fn sample() -> ControlFile {
            ControlFile {
                version: &PG15,
                system_identifier: 7_000_000_000_000_000_001,
                catalog_version: 202_209_061,
                state: DatabaseState::ShutDown,
                time: 1_700_000_000,
                checkpoint: Lsn(0x0150_0028),
                checkpoint_copy: CheckpointState { wal_level: 1, max_connections: 100, ..CheckpointState::default() },
                unlogged_lsn: Lsn(1000),
                min_recovery_point: Lsn(0),
                min_recovery_timeline: 0,
                backup_start: Lsn(0),
                backup_end: Lsn(0),
                backup_end_required: false,
                layout: DataLayout { block_bytes: 8192, wal_segment_bytes: 16 << 20, ..DataLayout::default() },
                mock_authentication_nonce: [9; 32],
            }
        }
    }

    #[test]
    fn the_file_round_trips_and_has_postgresqls_size() {
        let bytes = ControlFile::sample().to_bytes();
        assert_eq!(bytes.len(), CONTROL_FILE_BYTES);
        assert_eq!(ControlFile::parse(&bytes), Ok(ControlFile::sample()));
    }

    #[test]
    fn another_version_is_told_from_damage() {
        let good = ControlFile::sample().to_bytes();
        let mut other = good.clone();
        other[8..12].copy_from_slice(&1700u32.to_le_bytes());
        assert_eq!(ControlFile::parse(&other), Err(ControlFileError::Version { found: 1700, supported: SUPPORTED }));
        let mut damaged = good.clone();
        damaged[40] ^= 1;
        assert_eq!(ControlFile::parse(&damaged), Err(ControlFileError::Crc));
        assert!(matches!(ControlFile::parse(&good[..291]), Err(ControlFileError::Field(_))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = ControlFile::parse(&raw);
            let _ = read(&PG15, &mut Reader::new(&raw));
        }
    }
}
