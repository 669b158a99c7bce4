//! The WAL segment files in the data directory, as PostgreSQL and the agent write them.

use crate::Error;
use crate::descriptors::{self, Seldom};
use crate::owner::Owner;
use quire_types::Lsn;
use quire_types::lsn::segment_file_name;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The timeline of all WAL: a branch never changes it, because the quorum, not a new timeline, keeps histories apart.
pub const TIMELINE: u32 = 1;

/// How long a reader that may open no file waits before it tries again.
const LACK_PAUSE: Duration = Duration::from_millis(10);

/// Reads and writes `pg_wal`. Holds the last file it read open.
#[derive(Debug)]
pub struct LocalWal {
    folder: PathBuf,
    segment_bytes: u64,
    open: Option<(u64, File)>,
    lacking: Seldom,
}

impl LocalWal {
    /// The WAL in `folder`, cut into segments of `segment_bytes`.
    pub fn new(folder: impl Into<PathBuf>, segment_bytes: u64) -> LocalWal {
        LocalWal { folder: folder.into(), segment_bytes, open: None, lacking: Seldom::default() }
    }

    /// A second reader of the same files.
    pub fn another(&self) -> LocalWal {
        LocalWal::new(&self.folder, self.segment_bytes)
    }

    /// Bytes in a segment.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// As [`LocalWal::read`], but waits as long as no file can be opened because too many are, unless `gives_up` says
    /// not to.
    pub fn read_patiently(
        &mut self,
        begin: Lsn,
        end: Lsn,
        out: &mut Vec<u8>,
        gives_up: impl Fn() -> bool,
    ) -> Result<(), Error> {
        let filled = out.len();
        loop {
            match self.read(begin, end, out) {
                Err(error) if descriptors::is_lack_in(&error) && !gives_up() => {
                    out.truncate(filled);
                    if self.lacking.is_time() {
                        tracing::warn!(%error, "commits wait until a file can be opened");
                    }
                    std::thread::sleep(LACK_PAUSE);
                }
                outcome => return outcome,
            }
        }
    }

    /// Appends the bytes `[begin, end)` to `out`. A segment that is not there is [`Error::WalMissing`].
    pub fn read(&mut self, begin: Lsn, end: Lsn, out: &mut Vec<u8>) -> Result<(), Error> {
        let mut position = begin;
        while position < end {
            let segment_end = Lsn((position.segment_number(self.segment_bytes) + 1) * self.segment_bytes);
            let count = end.min(segment_end).bytes_since(position);
            self.read_in_segment(position, count, out)?;
            position = position.add(count);
        }
        Ok(())
    }

    fn read_in_segment(&mut self, position: Lsn, count: u64, out: &mut Vec<u8>) -> Result<(), Error> {
        let offset = position.segment_offset(self.segment_bytes);
        let number = position.segment_number(self.segment_bytes);
        let path = self.path(number);
        let filled = out.len();
        out.resize(filled + usize::try_from(count).expect("a segment fits memory"), 0);
        let missing = |error: std::io::Error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::UnexpectedEof => Error::WalMissing { at: position },
            _ => Error::File { action: "read", path: path.clone(), source: error },
        };
        let file = self.file(number, &path).map_err(&missing)?;
        file.read_exact_at(&mut out[filled..], offset).map_err(&missing)
    }

    fn file(&mut self, number: u64, path: &Path) -> std::io::Result<&File> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != number) {
            // Closed first: where as many files are open as may be, this leaves room for the next one.
            self.open = None;
            self.open = Some((number, File::open(path)?));
        }
        Ok(&self.open.as_ref().expect("opened above").1)
    }

    /// Writes `wal` at `begin`, into segment files that are made where they are missing, zero-filled to their full
    /// length.
    pub fn write(&self, begin: Lsn, wal: &[u8], owner: Owner) -> Result<(), Error> {
        let (mut position, mut rest) = (begin, wal);
        while !rest.is_empty() {
            let offset = position.segment_offset(self.segment_bytes);
            let room = usize::try_from(self.segment_bytes - offset).expect("a segment fits memory");
            let (here, later) = rest.split_at(rest.len().min(room));
            let path = self.path(position.segment_number(self.segment_bytes));
            self.write_in_segment(&path, offset, here, owner).map_err(Error::file("write", &path))?;
            position = position.add(here.len() as u64);
            rest = later;
        }
        Ok(())
    }

    fn write_in_segment(&self, path: &Path, offset: u64, bytes: &[u8], owner: Owner) -> std::io::Result<()> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        owner.give_open(&file)?;
        if file.metadata()?.len() < self.segment_bytes {
            file.set_len(self.segment_bytes)?;
        }
        file.write_all_at(bytes, offset)
    }

    /// The file of a segment.
    pub fn path(&self, segment_number: u64) -> PathBuf {
        self.folder.join(segment_file_name(TIMELINE, segment_number, self.segment_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 1 << 20;

    #[test]
    fn wal_reads_back_across_segments_and_the_rest_is_zero() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut wal = LocalWal::new(folder.path(), SEGMENT);
        let bytes: Vec<u8> = (0..100u8).collect();
        let begin = Lsn(3 * SEGMENT - 40);
        wal.write(begin, &bytes, Owner::unchanged()).expect("written");
        let mut read = Vec::new();
        wal.read(begin, begin.add(108), &mut read).expect("read");
        assert_eq!(read[..100], bytes);
        assert_eq!(read[100..], [0; 8]);
        assert_eq!(wal.path(3).metadata().expect("made").len(), SEGMENT);
    }

    #[test]
    fn a_missing_segment_is_named_by_its_first_byte() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut wal = LocalWal::new(folder.path(), SEGMENT);
        wal.write(Lsn(SEGMENT), &[1], Owner::unchanged()).expect("written");
        let error = wal.read(Lsn(2 * SEGMENT - 1), Lsn(2 * SEGMENT + 1), &mut Vec::new()).expect_err("not there");
        assert!(matches!(error, Error::WalMissing { at } if at == Lsn(2 * SEGMENT)), "{error}");
    }

    /// Set in the process that the test below starts.
    const CHILD: &str = "QUIRE_TEST_WITHOUT_DESCRIPTORS";

    /// Descriptors are the whole process's, so this runs in one of its own.
    #[test]
    fn a_reader_that_may_open_no_file_waits_until_it_may() {
        if std::env::var_os(CHILD).is_some() {
            return read_without_descriptors();
        }
        let mut child = std::process::Command::new(std::env::current_exe().expect("this program"));
        child.args(["--exact", "quorum::local_wal::tests::a_reader_that_may_open_no_file_waits_until_it_may"]);
        let output = child.env(CHILD, "1").output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }

    fn read_without_descriptors() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut wal = LocalWal::new(folder.path(), SEGMENT);
        wal.write(Lsn(SEGMENT), &[7; 16], Owner::unchanged()).expect("written");
        let taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).take(1 << 20).collect();
        let error = wal.read(Lsn(SEGMENT), Lsn(SEGMENT + 16), &mut Vec::new()).expect_err("no file can be opened");
        assert!(descriptors::is_lack_in(&error), "{error}");
        let given_up = wal.read_patiently(Lsn(SEGMENT), Lsn(SEGMENT + 16), &mut Vec::new(), || true);
        assert!(given_up.is_err());
        let (asked, was_asked) = std::sync::mpsc::channel();
        let freeing = std::thread::spawn(move || {
            was_asked.recv().expect("it waits");
            drop(taken);
        });
        let mut read = vec![1];
        let waits = || asked.send(()).is_err();
        wal.read_patiently(Lsn(SEGMENT), Lsn(SEGMENT + 16), &mut read, || {
            waits();
            false
        })
        .expect("read in the end");
        assert_eq!(read, [&[1][..], &[7; 16]].concat());
        freeing.join().expect("no panic");
    }
}
