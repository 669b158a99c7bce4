//! Finding the end of a log after a crash.
//!
//! Records carry checksums and follow each other without gaps, so the end is where decoding stops: at zeroes, at a
//! record of which only a part was written, or at remains of what a truncation was about to remove. The commit position
//! of the state file is a record boundary that is never cut, so the search starts there. All that is kept before it is
//! decoded too: should it not lead to the commit position, or the log not reach its [flush mark](crate::flush_mark),
//! WAL that others rely on is lost, and that must not pass as an end.

use crate::error::BranchLogError;
use crate::flush_mark::FlushMark;
use crate::segment_folder::SegmentFolder;
use crate::segments::{SegmentReader, SegmentWriter};
use quire_consensus::AcceptorState;
use quire_types::Lsn;
use quire_wal::{WalError, WalStream};
use std::io;

const READ_BYTES: u64 = 256 << 10;

/// The end of the last complete record, or the commit position if none follows it.
pub(crate) fn find_end(folder: &SegmentFolder, state: &AcceptorState) -> Result<Lsn, BranchLogError> {
    check_committed(folder, state)?;
    let mut stream = WalStream::at_boundary(state.commit, folder.segment_bytes, Some(state.identity.system_id));
    if let Some(error) = decode(folder, &mut stream, Lsn::MAX)? {
        tracing::info!(%error, end = %stream.boundary(), "the log ends at bytes that are no record");
    }
    let (end, flushed) = (stream.boundary(), FlushMark::read(&folder.path)?);
    if end < flushed { Err(lost(folder, end, flushed)) } else { Ok(end) }
}

/// The damage is in the record that follows `at`, or in the page header before it.
fn lost(folder: &SegmentFolder, at: Lsn, durable: Lsn) -> BranchLogError {
    BranchLogError::LostWal { path: folder.file(at.segment_number(folder.segment_bytes)), at, durable }
}

/// Refuses a log whose records do not lead up to the commit position.
fn check_committed(folder: &SegmentFolder, state: &AcceptorState) -> Result<(), BranchLogError> {
    let commit = state.commit;
    if commit == state.identity.start {
        return Ok(());
    }
    // The commit position in the file may have been learnt before the oldest segments were removed.
    let start = state.oldest.min(segment_start(folder, Lsn(commit.0 - 1)));
    let mut stream = WalStream::new(start, folder.segment_bytes, Some(state.identity.system_id));
    let error = decode(folder, &mut stream, commit)?;
    // All of it may be the rest of one record that began in an earlier segment.
    let is_rest = error.is_none() && stream.last_record().is_none() && begins_with_a_page(folder, start)?;
    if stream.boundary() == commit || is_rest { Ok(()) } else { Err(lost(folder, stream.boundary(), commit)) }
}

/// Feeds the stream from the log, at most up to `limit`, until it has no more to give; gives the error that it met.
fn decode(folder: &SegmentFolder, stream: &mut WalStream, limit: Lsn) -> io::Result<Option<WalError>> {
    let mut reader = SegmentReader::new(folder.clone());
    loop {
        match stream.next_record() {
            Ok(Some(_)) => continue,
            Ok(None) => {}
            Err(error) => return Ok(Some(error)),
        }
        let begin = stream.position();
        let segment_end = segment_start(folder, begin).add(folder.segment_bytes);
        match reader.read(begin, limit.min(segment_end).min(begin.add(READ_BYTES))) {
            Ok(wal) if wal.is_empty() => return Ok(None),
            Ok(wal) => stream.feed(&wal),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

fn segment_start(folder: &SegmentFolder, lsn: Lsn) -> Lsn {
    Lsn(lsn.0 - lsn.segment_offset(folder.segment_bytes))
}

fn begins_with_a_page(folder: &SegmentFolder, segment_start: Lsn) -> io::Result<bool> {
    match SegmentReader::new(folder.clone()).read(segment_start, segment_start.add(8)) {
        Ok(start) => Ok(start.iter().any(|byte| *byte != 0)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Cuts the log at its end and makes what is left durable: it was written, but perhaps never flushed. It is written
/// once more, because a flush that failed leaves bytes in the system's memory that no later flush writes.
pub(crate) fn cut_and_flush(writer: &mut SegmentWriter, end: Lsn, commit: Lsn) -> io::Result<()> {
    let mut reader = SegmentReader::new(writer.folder().clone());
    let mut at = commit;
    while at < end {
        let wal = reader.read(at, end.min(at.add(READ_BYTES)))?;
        writer.write(at, &wal)?;
        at = at.add(wal.len() as u64);
    }
    writer.flush()?;
    writer.truncate(end)
}
