//! How far the log was flushed, noted beside it after every flush.
//!
//! The end of a log is where its records stop, and damage looks like an end. An acceptor that takes damage for its end
//! has forgotten WAL that it promised, and its vote could then lose what is committed. The mark tells the two apart: a
//! log must reach it.
//!
//! It is written without a flush of its own, after the flush that it tells of. So it is never ahead of the log. After a
//! crash of the process it is exact; after one of the machine it may lag, and then shows less damage than there is, but
//! never any where there is none. Before the log is truncated it is lowered, durably. `docs/format-safekeeper.md` has
//! the bytes.

use crate::error::StateError;
use quire_files::sync_content;
use quire_types::{Lsn, Reader, Writer};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Its name in the branch's directory.
pub(crate) const FLUSH_MARK_FILE: &str = "flushed";

const MAGIC: &[u8; 8] = b"QUIRESKF";
const BYTES: usize = 20;

/// The open file.
#[derive(Debug)]
pub(crate) struct FlushMark {
    file: File,
}

impl FlushMark {
    /// The mark of the log in `folder`, to be set.
    pub fn open(folder: &Path) -> io::Result<FlushMark> {
        let options = OpenOptions::new().write(true).create(true).truncate(false).open(path(folder));
        Ok(FlushMark { file: options? })
    }

    /// What was noted of the log in `folder`; 0 if nothing was.
    pub fn read(folder: &Path) -> io::Result<Lsn> {
        match std::fs::read(path(folder)) {
            Ok(raw) if raw.is_empty() => Ok(Lsn::INVALID),
            Ok(raw) => decode(&raw).map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path(folder).display()))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Lsn::INVALID),
            Err(error) => Err(error),
        }
    }

    /// Everything before `flush` has been flushed.
    pub fn set(&self, flush: Lsn) -> io::Result<()> {
        self.file.write_all_at(&encode(flush), 0)
    }

    /// The log is about to be cut at `to`, or was found to end there; durable when this returns.
    pub fn lower(&self, to: Lsn) -> io::Result<()> {
        self.set(to)?;
        sync_content(&self.file)
    }
}

fn path(folder: &Path) -> PathBuf {
    folder.join(FLUSH_MARK_FILE)
}

fn encode(flush: Lsn) -> Vec<u8> {
    let mut raw = Writer::with_capacity(BYTES);
    raw.bytes(MAGIC).u64(flush.0);
    raw.u32(crc32c::crc32c(raw.as_slice()));
    raw.into_vec()
}

fn decode(raw: &[u8]) -> Result<Lsn, StateError> {
    let mut input = Reader::new(raw);
    if input.bytes("magic", MAGIC.len())? != MAGIC {
        return Err(StateError::Magic);
    }
    let flush = Lsn(input.u64("flush position")?);
    let checksum = input.u32("checksum")?;
    input.finish()?;
    if raw.get(..BYTES - 4).is_some_and(|checked| crc32c::crc32c(checked) == checksum) {
        Ok(flush)
    } else {
        Err(StateError::Checksum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mark_reads_back_and_none_is_zero() {
        let folder = tempfile::tempdir().expect("folder");
        assert_eq!(FlushMark::read(folder.path()).expect("none"), Lsn::INVALID);
        let mark = FlushMark::open(folder.path()).expect("opened");
        mark.set(Lsn(1 << 40)).expect("set");
        mark.lower(Lsn(77)).expect("lowered");
        assert_eq!(FlushMark::read(folder.path()).expect("read"), Lsn(77));
    }

    #[test]
    fn every_changed_or_missing_byte_is_noticed() {
        let raw = encode(Lsn(0x1234_5678_9abc));
        assert_eq!((raw.len(), decode(&raw)), (BYTES, Ok(Lsn(0x1234_5678_9abc))));
        for position in 0..raw.len() {
            let mut damaged = raw.clone();
            damaged[position] ^= 0x20;
            assert!(decode(&damaged).is_err(), "byte {position}");
            assert!(decode(&raw[..position]).is_err(), "cut at {position}");
        }
    }
}
