//! The state a checkpoint records, and checkpoint records made by storage. Source: `pg_control.h` (`CheckPoint`),
//! `xlog_internal.h` (`xl_parameter_change`), `xlog.c` (`CreateCheckPoint`).
//!
//! A compute that starts from nothing needs a log that ends in a shutdown checkpoint, so that PostgreSQL finds a clean
//! shutdown and replays nothing. Storage keeps, at every LSN, what such a checkpoint would say: a [`CheckpointState`].

use crate::postgres_version::PostgresVersion;
use crate::rmgr;
use crate::writer::WalWriter;
use quire_types::{CodecError, Lsn, Reader, Writer};

/// Bytes of PostgreSQL's `CheckPoint` structure, padding included.
pub const CHECKPOINT_BYTES: usize = 88;
/// First byte of [`CheckpointState::encode`].
const FORMAT: u8 = 1;

/// What a checkpoint says: PostgreSQL's `CheckPoint` and, since standbys and `pg_control` want them beside it, the
/// settings of `xl_parameter_change`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CheckpointState {
    /// Where redo would start; a shutdown checkpoint's own start.
    pub redo: Lsn,
    /// `ThisTimeLineID`.
    pub this_timeline: u32,
    /// `PrevTimeLineID`: differs only if the record begins a timeline.
    pub prev_timeline: u32,
    /// `full_page_writes` as of the record.
    pub full_page_writes: bool,
    /// `nextXid`: the epoch in the high half.
    pub next_xid: u64,
    /// `nextOid`.
    pub next_oid: u32,
    /// `nextMulti`.
    pub next_multi: u32,
    /// `nextMultiOffset`.
    pub next_multi_offset: u32,
    /// `oldestXid`: the cluster's least `datfrozenxid`.
    pub oldest_xid: u32,
    /// `oldestXidDB`: the database that has it.
    pub oldest_xid_db: u32,
    /// `oldestMulti`: the cluster's least `datminmxid`.
    pub oldest_multi: u32,
    /// `oldestMultiDB`: the database that has it.
    pub oldest_multi_db: u32,
    /// When it was taken, in seconds since 1970.
    pub time: i64,
    /// `oldestCommitTsXid`.
    pub oldest_commit_ts_xid: u32,
    /// `newestCommitTsXid`.
    pub newest_commit_ts_xid: u32,
    /// `oldestActiveXid`: only in online checkpoints, else 0.
    pub oldest_active_xid: u32,
    /// `wal_level` as PostgreSQL numbers it: 0 minimal, 1 replica, 2 logical.
    pub wal_level: i32,
    /// `wal_log_hints`.
    pub wal_log_hints: bool,
    /// `max_connections`.
    pub max_connections: i32,
    /// `max_worker_processes`.
    pub max_worker_processes: i32,
    /// `max_wal_senders`.
    pub max_wal_senders: i32,
    /// `max_prepared_transactions`.
    pub max_prepared_xacts: i32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_xact: i32,
    /// `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
}

impl CheckpointState {
    /// From the data of a checkpoint record; the settings, which it does not hold, are left at zero.
    pub fn from_record_data(data: &[u8]) -> Result<CheckpointState, CodecError> {
        let mut state = CheckpointState::default();
        state.update_from_record_data(data)?;
        Ok(state)
    }

    /// Takes over the data of a checkpoint record and keeps the settings, which it does not hold. Data that cannot be
    /// read change nothing.
    pub fn update_from_record_data(&mut self, data: &[u8]) -> Result<(), CodecError> {
        let mut reader = Reader::new(data);
        let mut state = read_checkpoint(&mut reader)?;
        reader.finish()?;
        state.copy_parameters(self);
        *self = state;
        Ok(())
    }

    /// Takes over the data of an `XLOG_PARAMETER_CHANGE` record. Data that cannot be read change nothing.
    pub fn update_from_parameter_change(&mut self, data: &[u8]) -> Result<(), CodecError> {
        let mut reader = Reader::new(data);
        let mut state = *self;
        state.max_connections = read_i32("MaxConnections", &mut reader)?;
        state.max_worker_processes = read_i32("max_worker_processes", &mut reader)?;
        state.max_wal_senders = read_i32("max_wal_senders", &mut reader)?;
        state.max_prepared_xacts = read_i32("max_prepared_xacts", &mut reader)?;
        state.max_locks_per_xact = read_i32("max_locks_per_xact", &mut reader)?;
        state.wal_level = read_i32("wal_level", &mut reader)?;
        state.wal_log_hints = reader.u8("wal_log_hints")? != 0;
        state.track_commit_timestamp = reader.u8("track_commit_timestamp")? != 0;
        *self = state;
        Ok(())
    }

    /// Takes the settings from `other` and keeps the rest.
    pub fn copy_parameters(&mut self, other: &CheckpointState) {
        self.wal_level = other.wal_level;
        self.wal_log_hints = other.wal_log_hints;
        self.max_connections = other.max_connections;
        self.max_worker_processes = other.max_worker_processes;
        self.max_wal_senders = other.max_wal_senders;
        self.max_prepared_xacts = other.max_prepared_xacts;
        self.max_locks_per_xact = other.max_locks_per_xact;
        self.track_commit_timestamp = other.track_commit_timestamp;
    }

    /// PostgreSQL's `CheckPoint`, the data of a checkpoint record.
    pub fn to_record_data(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(CHECKPOINT_BYTES);
        write_checkpoint(self, &mut writer);
        debug_assert_eq!(writer.len(), CHECKPOINT_BYTES);
        writer.into_vec()
    }

    /// What this state says in a shutdown checkpoint whose record starts at `start`: redo would start with the record
    /// itself, and no transaction is running.
    #[must_use]
    pub fn at_shutdown(self, start: Lsn) -> CheckpointState {
        CheckpointState { redo: start, prev_timeline: self.this_timeline, oldest_active_xid: 0, ..self }
    }

    /// Quire's own bytes of all fields, little endian: a format byte, 1; PostgreSQL's `CheckPoint` with its padding, 88
    /// bytes; `wal_level`, `max_connections`, `max_worker_processes`, `max_wal_senders`, `max_prepared_xacts` and
    /// `max_locks_per_xact` as `i32`; `wal_log_hints` and `track_commit_timestamp` as a byte each.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(FORMAT);
        write_checkpoint(self, &mut writer);
        for number in self.numeric_parameters() {
            writer.u32(number.cast_unsigned());
        }
        writer.u8(self.wal_log_hints.into()).u8(self.track_commit_timestamp.into());
        writer.into_vec()
    }

    fn numeric_parameters(&self) -> [i32; 6] {
        [
            self.wal_level,
            self.max_connections,
            self.max_worker_processes,
            self.max_wal_senders,
            self.max_prepared_xacts,
            self.max_locks_per_xact,
        ]
    }

    /// Reads back what [`CheckpointState::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<CheckpointState, CodecError> {
        let mut reader = Reader::new(bytes);
        let format = reader.u8("checkpoint format")?;
        if format != FORMAT {
            return Err(CodecError::Invalid { field: "checkpoint format", value: format.into() });
        }
        let mut state = read_checkpoint(&mut reader)?;
        state.wal_level = read_i32("wal_level", &mut reader)?;
        state.max_connections = read_i32("max_connections", &mut reader)?;
        state.max_worker_processes = read_i32("max_worker_processes", &mut reader)?;
        state.max_wal_senders = read_i32("max_wal_senders", &mut reader)?;
        state.max_prepared_xacts = read_i32("max_prepared_xacts", &mut reader)?;
        state.max_locks_per_xact = read_i32("max_locks_per_xact", &mut reader)?;
        state.wal_log_hints = reader.u8("wal_log_hints")? != 0;
        state.track_commit_timestamp = reader.u8("track_commit_timestamp")? != 0;
        reader.finish()?;
        Ok(state)
    }
}

/// Reads a C `int`.
pub(crate) fn read_i32(field: &'static str, reader: &mut Reader<'_>) -> Result<i32, CodecError> {
    reader.u32(field).map(u32::cast_signed)
}

/// Reads PostgreSQL's `CheckPoint`; the settings are left at zero.
pub(crate) fn read_checkpoint(reader: &mut Reader<'_>) -> Result<CheckpointState, CodecError> {
    let redo = Lsn(reader.u64("redo")?);
    let (this_timeline, prev_timeline) = (reader.u32("ThisTimeLineID")?, reader.u32("PrevTimeLineID")?);
    let full_page_writes = reader.u8("fullPageWrites")? != 0;
    reader.bytes("padding", 7)?;
    let mut state = CheckpointState { redo, this_timeline, prev_timeline, full_page_writes, ..Default::default() };
    state.next_xid = reader.u64("nextXid")?;
    state.next_oid = reader.u32("nextOid")?;
    state.next_multi = reader.u32("nextMulti")?;
    state.next_multi_offset = reader.u32("nextMultiOffset")?;
    state.oldest_xid = reader.u32("oldestXid")?;
    state.oldest_xid_db = reader.u32("oldestXidDB")?;
    state.oldest_multi = reader.u32("oldestMulti")?;
    state.oldest_multi_db = reader.u32("oldestMultiDB")?;
    reader.bytes("padding", 4)?;
    state.time = reader.i64("time")?;
    state.oldest_commit_ts_xid = reader.u32("oldestCommitTsXid")?;
    state.newest_commit_ts_xid = reader.u32("newestCommitTsXid")?;
    state.oldest_active_xid = reader.u32("oldestActiveXid")?;
    reader.bytes("padding", 4)?;
    Ok(state)
}

/// Appends PostgreSQL's `CheckPoint`.
pub(crate) fn write_checkpoint(state: &CheckpointState, writer: &mut Writer) {
    writer.u64(state.redo.0).u32(state.this_timeline).u32(state.prev_timeline);
    writer.u8(state.full_page_writes.into()).bytes(&[0; 7]);
    writer.u64(state.next_xid).u32(state.next_oid).u32(state.next_multi).u32(state.next_multi_offset);
    writer.u32(state.oldest_xid).u32(state.oldest_xid_db).u32(state.oldest_multi).u32(state.oldest_multi_db).u32(0);
    writer.i64(state.time).u32(state.oldest_commit_ts_xid).u32(state.newest_commit_ts_xid);
    writer.u32(state.oldest_active_xid).u32(0);
}

/// The bytes of a shutdown checkpoint record at `at`, and where the record itself starts.
///
/// `at` is where the log ends: a record boundary, or the start of a page or segment. The bytes go from `at` to the
/// record's aligned end, with a page header wherever a page starts on the way. `prev` is the start of the record
/// before, 0 if the log has none. The record says [`CheckpointState::at_shutdown`] of its own start, on
/// `state.this_timeline`.
///
/// # Panics
/// If `at` is no place where a record or page can start, or `segment_bytes` no size of a WAL segment: both would be a
/// mistake of the caller's that must not get into a log.
pub fn encode_shutdown_checkpoint(
    version: &'static PostgresVersion,
    state: &CheckpointState,
    at: Lsn,
    prev: Lsn,
    system_id: u64,
    segment_bytes: u64,
) -> (Vec<u8>, Lsn) {
    let mut writer = WalWriter::new(version, at, prev, state.this_timeline, system_id, segment_bytes);
    let start = append_shutdown_checkpoint(&mut writer, state);
    (writer.into_vec(), start)
}

/// Appends that record to others; where it starts.
pub fn append_shutdown_checkpoint(writer: &mut WalWriter, state: &CheckpointState) -> Lsn {
    let data = state.at_shutdown(writer.next_record_start()).to_record_data();
    writer.append(rmgr::XLOG, rmgr::XLOG_CHECKPOINT_SHUTDOWN, 0, &data)
}

#[cfg(test)]
mod tests;
