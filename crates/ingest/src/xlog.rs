//! Records of the log's own manager: checkpoints, counters, settings.

use crate::changes::Batch;
use crate::error::IngestError;
use crate::slru;
use crate::state::IngestState;
use quire_redo::commit_ts;
use quire_types::{Key, Slru};
use quire_wal::effects::FullPageWrites;
use quire_wal::effects::xlog::{self, XlogEffect};

/// A record of the log's own manager, but for the blocks it names.
pub(crate) fn apply(state: &mut IngestState, batch: &mut Batch<'_>) -> Result<(), IngestError> {
    let record = batch.record;
    match xlog::parse(record.info, &record.main_data).map_err(|source| batch.malformed(source))? {
        XlogEffect::CheckpointShutdown => {
            state.counters.take_from(&record.main_data).map_err(|source| batch.malformed(source))?;
            state.shut_down = true;
            note_full_page_writes(state, batch);
        }
        XlogEffect::CheckpointOnline => {
            state.counters.raise(&record.main_data).map_err(|source| batch.malformed(source))?;
            note_full_page_writes(state, batch);
        }
        XlogEffect::NextOid(oid) => state.counters.checkpoint.next_oid = oid,
        XlogEffect::ParameterChange => change_parameters(state, batch)?,
        XlogEffect::FullPageWrites(on) => {
            state.counters.checkpoint.full_page_writes = on;
            note_full_page_writes(state, batch);
        }
        XlogEffect::PageImages | XlogEffect::PageImagesForHints | XlogEffect::Nothing => {}
    }
    Ok(())
}

/// Writes what the log says of full-page writes if that is news.
fn note_full_page_writes(state: &mut IngestState, batch: &mut Batch<'_>) {
    let on = state.counters.checkpoint.full_page_writes;
    if state.full_page_writes.on != on {
        state.full_page_writes = FullPageWrites { on, since: batch.record.end };
        batch.set(Key::FullPageWrites, state.full_page_writes.encode());
    }
}

fn change_parameters(state: &mut IngestState, batch: &mut Batch<'_>) -> Result<(), IngestError> {
    let checkpoint = &mut state.counters.checkpoint;
    let was_tracking = checkpoint.track_commit_timestamp;
    let data = &batch.record.main_data;
    checkpoint.update_from_parameter_change(data).map_err(|source| batch.malformed(source))?;
    let is_tracking = checkpoint.track_commit_timestamp;
    match (was_tracking, is_tracking) {
        (false, true) => start_commit_timestamps(state, batch),
        (true, false) => stop_commit_timestamps(state, batch),
        _ => Ok(()),
    }
}

/// PostgreSQL creates the current page without a record of its own (`ActivateCommitTs`).
fn start_commit_timestamps(state: &mut IngestState, batch: &mut Batch<'_>) -> Result<(), IngestError> {
    let next_xid = state.counters.next_xid32();
    if state.counters.checkpoint.oldest_commit_ts_xid == 0 {
        state.counters.checkpoint.oldest_commit_ts_xid = next_xid;
        state.counters.checkpoint.newest_commit_ts_xid = next_xid;
    }
    let page = commit_ts::page_of(next_xid);
    if batch.extend_slru(Slru::CommitTs, page)? {
        batch.remove(Key::SlruBlock { slru: Slru::CommitTs, page });
    }
    Ok(())
}

/// PostgreSQL removes all files (`DeactivateCommitTs`).
fn stop_commit_timestamps(state: &mut IngestState, batch: &mut Batch<'_>) -> Result<(), IngestError> {
    state.counters.checkpoint.oldest_commit_ts_xid = 0;
    state.counters.checkpoint.newest_commit_ts_xid = 0;
    slru::remove_segments(batch, Slru::CommitTs, |_| true)
}
