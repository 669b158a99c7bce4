//! Transactions that end or are prepared.

use crate::changes::Batch;
use crate::counters::{precedes, xids_of};
use crate::error::IngestError;
use crate::relation;
use crate::state::IngestState;
use bytes::BytesMut;
use quire_redo::{Delta, TransactionStatus, clog, commit_ts};
use quire_types::{CodecError, Key, Lsn, Slru};
use quire_wal::effects::replorigin::OriginState;
use quire_wal::effects::xact::{self, Completion, Prepare, XactEffect};
use std::collections::BTreeMap;

/// Bytes of the CRC-32C that closes a state file of a prepared transaction.
const STATE_FILE_CRC_BYTES: usize = 4;

/// A record of the transaction manager.
pub(crate) fn apply(state: &mut IngestState, batch: &mut Batch<'_>) -> Result<(), IngestError> {
    let record = batch.record;
    match xact::parse(record.info, &record.main_data).map_err(|source| batch.malformed(source))? {
        XactEffect::Commit(end) => {
            set_commit_timestamps(state, batch, &end)?;
            complete(state, batch, &end, TransactionStatus::Committed)
        }
        XactEffect::Abort(end) => complete(state, batch, &end, TransactionStatus::Aborted),
        XactEffect::Prepare(prepare) => prepared(state, batch, &prepare),
        XactEffect::Assignment | XactEffect::Invalidations => Ok(()),
    }
}

fn complete(
    state: &mut IngestState,
    batch: &mut Batch<'_>,
    end: &Completion,
    status: TransactionStatus,
) -> Result<(), IngestError> {
    let xid = end.prepared_xid.unwrap_or(batch.record.xid);
    xids_of(xid, &end.subxacts).for_each(|xid| state.counters.advance_past(xid));
    for (page, xids) in by_page(xid, &end.subxacts, clog::page_of) {
        batch.change_slru(Slru::Clog, page, Delta::ClogStatus { status, xids })?;
    }
    if let Some(progress) = end.origin {
        advance_origin(batch, batch.record.origin.unwrap_or(0), progress.remote_lsn, false)?;
    }
    relation::drop_all(batch, &end.dropped)?;
    if let Some(xid) = end.prepared_xid {
        batch.remove(Key::TwoPhase { xid });
    }
    Ok(())
}

/// Does what PostgreSQL does while `track_commit_timestamp` is on. The log says that by the last parameter change.
fn set_commit_timestamps(state: &mut IngestState, batch: &mut Batch<'_>, end: &Completion) -> Result<(), IngestError> {
    if !state.counters.checkpoint.track_commit_timestamp {
        return Ok(());
    }
    let xid = end.prepared_xid.unwrap_or(batch.record.xid);
    let time = end.origin.map_or(end.time, |origin| origin.time);
    let origin = batch.record.origin.unwrap_or(0);
    for (page, xids) in by_page(xid, &end.subxacts, commit_ts::page_of) {
        batch.change_slru(Slru::CommitTs, page, Delta::CommitTs { time, origin, xids })?;
    }
    let newest = end.subxacts.last().copied().unwrap_or(xid);
    if precedes(state.counters.checkpoint.newest_commit_ts_xid, newest) {
        state.counters.checkpoint.newest_commit_ts_xid = newest;
    }
    Ok(())
}

/// A transaction and its subtransactions by the page of an SLRU area that holds them.
fn by_page(xid: u32, subxacts: &[u32], page_of: fn(u32) -> u32) -> BTreeMap<u32, Vec<u32>> {
    let mut pages: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for xid in xids_of(xid, subxacts) {
        pages.entry(page_of(xid)).or_default().push(xid);
    }
    pages
}

/// The state file is the record's data and their CRC-32C, as `RecreateTwoPhaseFile` writes it at a checkpoint.
fn prepared(state: &mut IngestState, batch: &mut Batch<'_>, prepare: &Prepare) -> Result<(), IngestError> {
    let data = &batch.record.main_data;
    if prepare.file_bytes as usize != data.len() + STATE_FILE_CRC_BYTES {
        let invalid = CodecError::Invalid { field: "total_len", value: prepare.file_bytes.into() };
        return Err(batch.malformed(invalid));
    }
    xids_of(prepare.xid, &prepare.subxacts).for_each(|xid| state.counters.advance_past(xid));
    let mut file = BytesMut::with_capacity(data.len() + STATE_FILE_CRC_BYTES);
    file.extend_from_slice(data);
    file.extend_from_slice(&crc32c::crc32c(data).to_le_bytes());
    batch.set(Key::TwoPhase { xid: prepare.xid }, file.freeze());
    match batch.record.origin {
        Some(origin) => advance_origin(batch, origin, prepare.origin_lsn, false),
        None => Ok(()),
    }
}

/// Moves an origin's progress, forwards only unless `force` (`replorigin_advance`).
pub(crate) fn advance_origin(
    batch: &mut Batch<'_>,
    origin: u16,
    remote_lsn: Lsn,
    force: bool,
) -> Result<(), IngestError> {
    let key = Key::ReplicationOrigin { origin };
    let known = batch.view.value(key)?.map(|raw| OriginState::decode(&raw)).transpose();
    let known = known.map_err(|source| IngestError::Stored { key, source })?.filter(|_| !force).unwrap_or_default();
    let state =
        OriginState { remote_lsn: known.remote_lsn.max(remote_lsn), local_lsn: known.local_lsn.max(batch.record.end) };
    batch.set(key, state.encode());
    Ok(())
}
