//! WAL in segment files, as PostgreSQL lays it out and names it: timeline 1, zeroes after the end.
//!
//! A segment file always has its full length and was zeroed and made durable before it got its name, so that flushing
//! WAL into it changes no file metadata. The next one is prepared by the [`SegmentThread`] thread when the current one
//! is half full.
//!
//! WAL is written only into a segment whose *name* is durable, too: flushing a file does not flush the directory that
//! names it.

use crate::prepared::Prepared;
use crate::segment_folder::{SegmentFolder, ZEROES};
use crate::segment_thread::SegmentThread;
use bytes::{Bytes, BytesMut};
use quire_files::sync_content;
use quire_types::Lsn;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// The writing end of a log. One per branch, behind its lock.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    folder: SegmentFolder,
    segment_thread: SegmentThread,
    prepared: Arc<Prepared>,
    current: Option<(u64, File)>,
    /// Whether the current segment has bytes that were not flushed; earlier ones never have.
    dirty: bool,
    /// The highest segment that the segment_thread was asked for.
    asked_for: u64,
}

impl SegmentWriter {
    /// A writer into the directory.
    pub fn new(folder: SegmentFolder, segment_thread: SegmentThread) -> SegmentWriter {
        SegmentWriter { folder, segment_thread, prepared: Arc::default(), current: None, dirty: false, asked_for: 0 }
    }

    /// Where it writes.
    pub fn folder(&self) -> &SegmentFolder {
        &self.folder
    }

    /// Writes bytes at a position.
    pub fn write(&mut self, begin: Lsn, wal: &[u8]) -> io::Result<()> {
        let end = begin.add(wal.len() as u64);
        let (mut at, mut left) = (begin, wal);
        while !left.is_empty() {
            let (segment, offset, length) = self.folder.first_part(at, end);
            let (part, rest) = left.split_at(length as usize);
            self.write_part(segment, offset, part)?;
            (at, left) = (at.add(length), rest);
        }
        Ok(())
    }

    fn write_part(&mut self, segment: u64, offset: u64, part: &[u8]) -> io::Result<()> {
        self.dirty = true;
        self.switch_to(segment)?.write_all_at(part, offset)?;
        if offset + part.len() as u64 >= self.folder.segment_bytes / 2 && self.asked_for <= segment {
            self.asked_for = segment + 1;
            self.segment_thread.prepare(self.folder.clone(), segment + 1, self.prepared.clone());
        }
        Ok(())
    }

    fn switch_to(&mut self, segment: u64) -> io::Result<&File> {
        if self.current.as_ref().is_none_or(|(current, _)| *current != segment) {
            self.sync_current()?;
            self.current = Some((segment, self.open_durable(segment)?));
        }
        Ok(&self.current.as_ref().expect("it was just set").1)
    }

    /// The file of a segment, whose name is durable when this returns.
    fn open_durable(&self, segment: u64) -> io::Result<File> {
        match self.folder.open(segment) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.folder.create(segment)?;
                self.folder.open(segment)
            }
            Ok(file) if !self.prepared.take(segment) => {
                // The segment_thread may be just about to, or has failed; a crash may have left it, too.
                self.folder.sync_names()?;
                Ok(file)
            }
            other => other,
        }
    }

    /// Makes everything written durable; `false` if it was already.
    pub fn flush(&mut self) -> io::Result<bool> {
        if !self.dirty {
            return Ok(false);
        }
        self.sync_current()?;
        self.dirty = false;
        Ok(true)
    }

    fn sync_current(&self) -> io::Result<()> {
        self.current.as_ref().map_or(Ok(()), |(_, file)| sync_content(file))
    }

    /// Removes every byte from `to` on, durably. A crash on the way leaves a shorter part of what was there, possibly
    /// with remains after it: opening a log cuts again.
    pub fn truncate(&mut self, to: Lsn) -> io::Result<()> {
        (self.current, self.asked_for) = (None, 0);
        std::mem::take(&mut self.prepared).give_up();
        let (segment, offset, _) = self.folder.first_part(to, Lsn::MAX);
        let keeps_first = offset > 0;
        for later in self.folder.list()?.into_iter().rev() {
            if later > segment || (later == segment && !keeps_first) {
                fs::remove_file(self.folder.file(later))?;
            }
        }
        if keeps_first {
            let file = self.open_durable(segment)?;
            zero_from(&file, offset, self.folder.segment_bytes)?;
            sync_content(&file)?;
        }
        self.dirty = false;
        self.folder.sync_names()
    }
}

impl Drop for SegmentWriter {
    fn drop(&mut self) {
        // Who opens the log again begins with the segments that are there then.
        self.prepared.give_up();
    }
}

/// Zeroes a file's bytes from `offset` on. That they read as zeroes would not tell what is on the disk: after a flush
/// that failed the system takes what was written for clean, and no later flush writes it. So all of them are written,
/// always.
fn zero_from(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let mut at = offset;
    while at < length {
        let count = (length - at).min(ZEROES.len() as u64);
        file.write_all_at(&ZEROES[..count as usize], at)?;
        at += count;
    }
    Ok(())
}

/// A reading end of a log; keeps the segment open that it last read.
#[derive(Debug)]
pub(crate) struct SegmentReader {
    folder: SegmentFolder,
    current: Option<(u64, File)>,
}

impl SegmentReader {
    /// A reader of the directory.
    pub fn new(folder: SegmentFolder) -> SegmentReader {
        SegmentReader { folder, current: None }
    }

    /// Reads `[begin, end)`.
    pub fn read(&mut self, begin: Lsn, end: Lsn) -> io::Result<Bytes> {
        let mut wal = BytesMut::zeroed(end.bytes_since(begin) as usize);
        let (mut at, mut done) = (begin, 0);
        while at < end {
            let (segment, offset, length) = self.folder.first_part(at, end);
            let part = done..done + length as usize;
            done = part.end;
            self.switch_to(segment)?.read_exact_at(&mut wal[part], offset)?;
            at = at.add(length);
        }
        Ok(wal.freeze())
    }

    fn switch_to(&mut self, segment: u64) -> io::Result<&File> {
        if self.current.as_ref().is_none_or(|(current, _)| *current != segment) {
            self.current = Some((segment, self.folder.open(segment)?));
        }
        Ok(&self.current.as_ref().expect("it was just set").1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_files::fault;
    use std::os::unix::fs::MetadataExt;

    const MIB: u64 = 1 << 20;

    struct Fixture {
        _folder: tempfile::TempDir,
        writer: SegmentWriter,
        reader: SegmentReader,
    }

    fn fixture() -> Fixture {
        let temporary = tempfile::tempdir().expect("folder");
        let folder = SegmentFolder { path: temporary.path().to_owned(), segment_bytes: MIB };
        let writer = SegmentWriter::new(folder.clone(), SegmentThread::start().expect("thread"));
        Fixture { _folder: temporary, writer, reader: SegmentReader::new(folder) }
    }

    #[test]
    fn wal_that_crosses_segments_reads_back() {
        let mut log = fixture();
        let wal: Vec<u8> = (0..3 * MIB).map(|byte| byte as u8 | 1).collect();
        log.writer.write(Lsn(5 * MIB + 100), &wal).expect("write");
        assert!(log.writer.flush().expect("flush"));
        assert!(!log.writer.flush().expect("flush"), "nothing is left to flush");
        assert_eq!(log.reader.read(Lsn(5 * MIB + 100), Lsn(8 * MIB + 100)).expect("read"), wal);
        assert_eq!(log.reader.read(Lsn(5 * MIB), Lsn(5 * MIB + 100)).expect("read"), vec![0; 100]);
    }

    #[test]
    fn truncation_zeroes_the_rest_of_the_segment_and_removes_later_ones() {
        let mut log = fixture();
        log.writer.write(Lsn(5 * MIB), &vec![7; 3 * MIB as usize]).expect("write");
        log.writer.truncate(Lsn(5 * MIB + 10)).expect("truncate");
        let mut expected = vec![0; MIB as usize];
        expected[..10].fill(7);
        assert_eq!(log.reader.read(Lsn(5 * MIB), Lsn(6 * MIB)).expect("read"), expected);
        assert!(!log.writer.folder().file(6).exists() && !log.writer.folder().file(7).exists());
    }

    #[test]
    fn truncation_at_a_segments_start_removes_it_whole() {
        let mut log = fixture();
        log.writer.write(Lsn(5 * MIB), &vec![7; 2 * MIB as usize]).expect("write");
        log.writer.truncate(Lsn(6 * MIB)).expect("truncate");
        assert!(log.writer.folder().file(5).exists());
        assert!(!log.writer.folder().file(6).exists());
    }

    #[test]
    fn creating_a_segment_leaves_one_that_exists_alone() {
        let mut log = fixture();
        log.writer.write(Lsn(5 * MIB), &[7; 8]).expect("write");
        log.writer.folder().create(5).expect("create");
        assert_eq!(log.reader.read(Lsn(5 * MIB), Lsn(5 * MIB + 8)).expect("read"), vec![7; 8]);
        assert_eq!(fs::read_dir(&log.writer.folder().path).expect("list").count(), 1);
    }

    #[test]
    fn only_segment_names_are_listed() {
        let log = fixture();
        let folder = log.writer.folder();
        folder.create(4096 * 3 + 2).expect("create");
        for other in ["state", "000000020000000000000001", "00000001000000000000000g"] {
            fs::write(folder.path.join(other), b"").expect("write");
        }
        assert_eq!(folder.list().expect("list"), [4096 * 3 + 2]);
    }

    #[test]
    fn the_next_segment_is_prepared_when_half_of_one_is_written() {
        let mut log = fixture();
        log.writer.write(Lsn(5 * MIB), &vec![7; MIB as usize / 2 - 1]).expect("write");
        log.writer.segment_thread.wait_idle();
        assert!(!log.writer.folder().file(6).exists());
        log.writer.write(Lsn(5 * MIB + MIB / 2 - 1), &[7]).expect("write");
        log.writer.segment_thread.wait_idle();
        assert!(log.writer.folder().file(6).exists());
    }

    /// What `work` gives if nothing can be made durable meanwhile.
    fn without_syncs<T>(work: impl FnOnce() -> T) -> T {
        fault::fail_after(Some(0));
        let result = work();
        fault::fail_after(None);
        result
    }

    #[test]
    fn a_segment_is_used_only_once_its_name_is_durable() {
        let mut log = fixture();
        // It has its name, and the name may not survive a power cut.
        fs::write(log.writer.folder().file(5), vec![0; MIB as usize]).expect("write");
        let used = without_syncs(|| log.writer.write(Lsn(5 * MIB), &[7]));
        assert!(used.is_err(), "the name was not made durable before WAL was written");
        log.writer.write(Lsn(5 * MIB), &[7]).expect("the name can be made durable");
        without_syncs(|| log.writer.write(Lsn(5 * MIB + 1), &[7])).expect("it is durable by now");
    }

    #[test]
    fn a_segment_that_was_prepared_whole_is_used_without_another_sync() {
        let mut log = fixture();
        log.writer.write(Lsn(5 * MIB), &vec![7; MIB as usize]).expect("write");
        log.writer.segment_thread.wait_idle();
        fault::fail_after(Some(1));
        let used = log.writer.write(Lsn(6 * MIB), &[7]);
        fault::fail_after(None);
        used.expect("only the segment before it was flushed");
    }

    #[test]
    fn a_segment_whose_preparation_failed_halfway_is_used_only_once_its_name_is_durable() {
        let mut log = fixture();
        log.writer.write(Lsn(5 * MIB), &[7]).expect("write");
        log.writer.segment_thread.fail_after(Some(2));
        log.writer.write(Lsn(5 * MIB + 1), &vec![7; MIB as usize - 1]).expect("write");
        log.writer.segment_thread.wait_idle();
        assert!(log.writer.folder().file(6).exists(), "it has its name");
        log.writer.flush().expect("flushed");
        fault::fail_after(Some(1));
        let used = log.writer.write(Lsn(6 * MIB), &[7]);
        fault::fail_after(None);
        assert!(used.is_err(), "the name was not made durable before WAL was written");
        log.writer.write(Lsn(6 * MIB), &[7]).expect("the name can be made durable");
    }

    #[test]
    fn a_segment_that_was_removed_is_not_prepared_any_more() {
        let mut log = fixture();
        let release = log.writer.segment_thread.hold();
        log.writer.write(Lsn(5 * MIB), &vec![7; MIB as usize]).expect("write");
        log.writer.truncate(Lsn(5 * MIB + 10)).expect("truncate");
        drop(release);
        log.writer.segment_thread.wait_idle();
        assert_eq!(log.writer.folder().list().expect("list"), [5]);
    }

    #[test]
    fn a_segment_prepared_before_a_removal_does_not_vouch_for_the_one_after_it() {
        let mut log = fixture();
        log.writer.write(Lsn(5 * MIB), &vec![7; MIB as usize]).expect("write");
        log.writer.segment_thread.wait_idle();
        log.writer.truncate(Lsn(5 * MIB + 10)).expect("truncate");
        fs::write(log.writer.folder().file(6), vec![0; MIB as usize]).expect("write");
        assert!(without_syncs(|| log.writer.write(Lsn(6 * MIB), &[7])).is_err());
    }

    #[test]
    fn nothing_counts_as_flushed_before_it_is() {
        let mut log = fixture();
        log.writer.write(Lsn(5 * MIB), &[7; 100]).expect("write");
        assert!(without_syncs(|| log.writer.flush()).is_err(), "what was written");
        assert!(log.writer.flush().expect("flush"), "it still has to be");
        log.writer.write(Lsn(5 * MIB + 100), &[7; 100]).expect("write");
        assert!(without_syncs(|| log.writer.write(Lsn(6 * MIB), &[7])).is_err(), "a segment that is left");
        for to in [Lsn(5 * MIB + 50), Lsn(5 * MIB)] {
            assert!(without_syncs(|| log.writer.truncate(to)).is_err(), "what was cut at {to}");
            log.writer.truncate(to).expect("truncate");
        }
    }

    #[test]
    fn a_cut_is_flushed_in_the_file_and_in_the_folder() {
        for (to, steps) in [(Lsn(5 * MIB + 50), 3), (Lsn(5 * MIB), 1)] {
            let mut log = fixture();
            log.writer.write(Lsn(5 * MIB), &[7; 100]).expect("write");
            fault::fail_after(Some(steps - 1));
            let failed = log.writer.truncate(to);
            fault::fail_after(Some(steps));
            let cut = log.writer.truncate(to);
            fault::fail_after(None);
            assert!(failed.is_err() && cut.is_ok(), "{to}: {failed:?}, {cut:?}");
        }
    }

    #[test]
    fn zeroes_whose_flush_failed_are_written_again() {
        let mut log = fixture();
        log.writer.write(Lsn(5 * MIB), &[7; 100]).expect("write");
        log.writer.truncate(Lsn(5 * MIB + 10)).expect("truncate");
        // The memory of the system says zero. That it is on the disk, too, only a flush of what was written says.
        let file = log.writer.folder().file(5);
        File::options().write(true).open(&file).and_then(|file| file.set_modified(std::time::UNIX_EPOCH)).expect("set");
        log.writer.truncate(Lsn(5 * MIB + 10)).expect("truncate");
        assert_ne!(fs::metadata(&file).expect("there").mtime(), 0, "nothing was written");
    }
}
