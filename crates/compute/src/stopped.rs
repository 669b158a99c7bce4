//! Whether a PostgreSQL that has ended has shut down.
//!
//! Its exit status does not say: a postmaster that was told to quit at once ends with 0 as well, without a checkpoint
//! and after it has killed its children, perhaps in the middle of a page. `pg_control` says. Only over files that were
//! shut down may a PostgreSQL start again, since without full-page images nothing repairs a torn page.

use crate::{Config, layout};
use quire_types::Lsn;
use quire_wal::{ControlFile, DatabaseState};
use std::fs;

const WAL_PAGE: u64 = 8192;
/// Headers of a page of the log, and of the first in a segment.
const PAGE_HEADER: u64 = 24;
const SEGMENT_HEADER: u64 = 40;
/// A record's header, its data's, and a checkpoint.
const SHUTDOWN_RECORD: u64 = 24 + 2 + 88;

/// Nothing if PostgreSQL has shut down and the log ends with that, at `committed`; else what speaks against it.
pub fn check(config: &Config, committed: Lsn) -> Result<(), String> {
    let path = layout::control_file(&config.dir);
    let bytes = fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let control = ControlFile::parse(&bytes).map_err(|error| error.to_string())?;
    let end = end_of_shutdown(control.checkpoint, control.layout.wal_segment_bytes.into());
    is_shut_down(control.state, end, committed)
}

/// `end` is where the last checkpoint ends.
fn is_shut_down(state: DatabaseState, end: Lsn, committed: Lsn) -> Result<(), String> {
    if state != DatabaseState::ShutDown {
        return Err(format!("pg_control says {state:?}"));
    }
    if end == committed { Ok(()) } else { Err(format!("its last checkpoint ends at {end} and the log at {committed}")) }
}

/// Where the record of a shutdown checkpoint ends that starts at `start`.
fn end_of_shutdown(start: Lsn, segment_bytes: u64) -> Lsn {
    let room = WAL_PAGE - start.0 % WAL_PAGE;
    let end = match SHUTDOWN_RECORD.checked_sub(room) {
        None | Some(0) => start.0.saturating_add(SHUTDOWN_RECORD),
        Some(rest) => {
            let page = start.0.saturating_add(room);
            let header = if page.checked_rem(segment_bytes) == Some(0) { SEGMENT_HEADER } else { PAGE_HEADER };
            page.saturating_add(header + rest)
        }
    };
    Lsn(end.next_multiple_of(8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_wal::CheckpointState;
    use quire_wal::checkpoint::encode_shutdown_checkpoint;
    use quire_wal::postgres_version::PG15;

    const SEGMENT: u64 = 1 << 20;

    #[test]
    fn it_takes_both_the_state_and_the_end_of_the_log() {
        let (end, later) = (Lsn(0x100_0078), Lsn(0x100_0080));
        assert!(is_shut_down(DatabaseState::ShutDown, end, end).is_ok());
        assert!(is_shut_down(DatabaseState::InProduction, end, end).is_err());
        assert!(is_shut_down(DatabaseState::ShutDown, end, later).is_err());
        assert!(is_shut_down(DatabaseState::ShutDown, later, end).is_err());
    }

    #[test]
    fn the_end_is_where_the_record_as_it_is_written_ends() {
        let state = CheckpointState { this_timeline: 1, ..CheckpointState::default() };
        let pages = [2 * SEGMENT, 2 * SEGMENT - WAL_PAGE, 2 * SEGMENT + WAL_PAGE];
        for at in pages.iter().flat_map(|page| (page + 40..page + WAL_PAGE).step_by(8)) {
            let (bytes, start) = encode_shutdown_checkpoint(&PG15, &state, Lsn(at), Lsn(at - 8), 7, SEGMENT);
            assert_eq!(end_of_shutdown(start, SEGMENT), Lsn(at + bytes.len() as u64), "at {at}");
        }
    }
}
