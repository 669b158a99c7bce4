//! What a WAL record does to storage: one record in, changes of keys out.
//!
//! A row is inserted: its record names block 7 of table 16384. Ingest gives out a delta for that block; if the table
//! had seven blocks until now, also its new size; and if the record says that the page was all-visible, a delta for the
//! visibility map. The transaction commits: its record names no block, and becomes a delta of a page of the commit log.
//!
//! The core is pure. It asks storage through [`StateView`], keeps counters in memory, and does no I/O. What holds:
//!
//! - records come in the order of the log, each names the one before it, so that none can be left out, and every change
//!   of a record is in storage before the next record is given;
//! - all changes of a record have the record's end as their LSN, and one record changes a key at most once;
//! - after an error nothing more may be ingested with the same [`Ingest`]: the log is stopped at that record;
//! - a block that comes into a relation, or a page into an SLRU area, starts from zeroes whatever older versions its
//!   key may have from before a truncation: its first version is an image, a delta that initialises, or a tombstone,
//!   which means zeroes;
//! - the free space map is never stored: it is advisory, PostgreSQL repairs it, and is never asked for.
//!
//! Sources: the `*_redo` functions of PostgreSQL 15, as if replayed by crash recovery on a server that never crashed.

#![forbid(unsafe_code)]

mod blocks;
mod changes;
mod counters;
mod database;
mod error;
mod multixact;
mod relation;
mod server;
mod slru;
mod state;
mod tablespace;
mod transaction;
mod view;
mod xlog;

pub use changes::GAP_BLOCKS_MAX;
pub use error::IngestError;
pub use view::{StateError, StateView};

use bytes::Bytes;
use changes::{Batch, Sizes};
use quire_layers::change::Change;
use quire_types::{Key, Lsn};
use quire_wal::effects::{FullPageWrites, relmap, replorigin, standby};
use quire_wal::postgres_version::PostgresVersion;
use quire_wal::{CheckpointState, Record, ServerVersion, rmgr};
use state::IngestState;

/// Turns the records of one branch into changes.
#[derive(Debug)]
pub struct Ingest {
    version: &'static PostgresVersion,
    state: IngestState,
    sizes: Sizes,
}

impl Ingest {
    /// Begins at the import's start, with the counters that were imported from a data directory of `version`.
    pub fn begin(version: &'static PostgresVersion, start: Lsn, view: &dyn StateView) -> Result<Ingest, IngestError> {
        Ok(Ingest { version, state: IngestState::imported(start, view)?, sizes: Sizes::default() })
    }

    /// Continues where [`Ingest::state`] was taken.
    pub fn restore(version: &'static PostgresVersion, state: &[u8]) -> Result<Ingest, IngestError> {
        let state = IngestState::decode(state).map_err(|source| IngestError::IngestState { source })?;
        Ok(Ingest { version, state, sizes: Sizes::default() })
    }

    /// All that has to be remembered with the LSN of [`Ingest::position`] to continue from there.
    pub fn state(&self) -> Bytes {
        self.state.encode()
    }

    /// End of the last record, or where ingest began.
    pub fn position(&self) -> Lsn {
        self.state.position
    }

    /// Start of the last record; none if there was none since the import.
    pub fn last_record(&self) -> Option<Lsn> {
        Some(self.state.last_record).filter(|lsn| lsn.is_valid())
    }

    /// The counters as of [`Ingest::position`], exactly.
    pub fn checkpoint_state(&self) -> &CheckpointState {
        &self.state.counters.checkpoint
    }

    /// Whether the last record is a shutdown checkpoint.
    pub fn log_ends_with_shutdown_checkpoint(&self) -> bool {
        self.state.shut_down
    }

    /// What the log says of full-page writes.
    pub fn full_page_writes(&self) -> FullPageWrites {
        self.state.full_page_writes
    }

    /// Notes how long a relation has become by pages that PostgreSQL wrote without logging them.
    pub fn note_size(&mut self, key: Key, blocks: u32) {
        self.sizes.note(key, blocks);
    }

    /// Which server writes the log, if the log says so.
    pub fn server(&self) -> Option<ServerVersion> {
        self.state.server
    }

    /// The changes that a record makes. `view` must show everything before the record, and nothing else.
    ///
    /// Memory is bounded by the record, but for a database copied file by file (`STRATEGY = FILE_COPY`): its changes
    /// are the whole template.
    pub fn ingest(&mut self, record: &Record, view: &dyn StateView) -> Result<Vec<Change>, IngestError> {
        self.state.check_follows(record)?;
        self.sizes.shrink();
        let mut batch = Batch::new(record, view, &mut self.sizes, self.state.server);
        self.state.shut_down = false;
        self.state.counters.advance_past(record.xid);
        blocks::apply(&mut batch)?;
        dispatch(self.version, &mut self.state, &mut batch)?;
        self.state.write_counters(&mut batch);
        let changes = batch.into_changes()?;
        self.state.position = record.end;
        self.state.last_record = record.start;
        Ok(changes)
    }
}

/// What the record does beyond the blocks it names.
fn dispatch(version: &PostgresVersion, state: &mut IngestState, batch: &mut Batch<'_>) -> Result<(), IngestError> {
    match batch.record.rmgr {
        rmgr::XLOG => xlog::apply(state, batch),
        rmgr::XACT => transaction::apply(state, batch),
        rmgr::SMGR => relation::apply(batch),
        rmgr::CLOG => slru::apply_clog(state, batch),
        rmgr::DBASE => database::apply(batch),
        rmgr::TBLSPC => tablespace::apply(batch),
        rmgr::MULTIXACT => multixact::apply(state, batch),
        rmgr::RELMAP => relation_map(batch),
        rmgr::STANDBY => standby_record(state, batch),
        rmgr::HEAP | rmgr::HEAP2 => blocks::clear_visibility(batch),
        rmgr::COMMIT_TS => slru::apply_commit_ts(state, batch),
        rmgr::REPLORIGIN => replication_origin(batch),
        rmgr::LOGICALMSG => server::apply(version, state, batch),
        rmgr::CUSTOM_FIRST.. => Err(batch.unsupported()),
        _ => Ok(()),
    }
}

fn relation_map(batch: &mut Batch<'_>) -> Result<(), IngestError> {
    let record = batch.record;
    let update = relmap::parse(record.info, &record.main_data).map_err(|source| batch.malformed(source))?;
    let key = Key::RelMap { tablespace: update.tablespace, database: update.database };
    batch.set(key, record.main_data.slice_ref(update.file));
    Ok(())
}

fn standby_record(state: &mut IngestState, batch: &mut Batch<'_>) -> Result<(), IngestError> {
    let record = batch.record;
    let effect = standby::parse(record.info, &record.main_data).map_err(|source| batch.malformed(source))?;
    if let standby::StandbyEffect::RunningXacts { next_xid } = effect {
        state.counters.advance_past(counters::retreat(next_xid));
    }
    Ok(())
}

fn replication_origin(batch: &mut Batch<'_>) -> Result<(), IngestError> {
    let record = batch.record;
    match replorigin::parse(record.info, &record.main_data).map_err(|source| batch.malformed(source))? {
        replorigin::ReplicationOriginEffect::Set { origin, remote_lsn, force } => {
            transaction::advance_origin(batch, origin, remote_lsn, force)
        }
        replorigin::ReplicationOriginEffect::Drop { origin } => {
            batch.remove(Key::ReplicationOrigin { origin });
            Ok(())
        }
    }
}
