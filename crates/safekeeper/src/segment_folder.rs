//! Where a branch's segments are.

use quire_files::{Durability, PublishError, Staged, sync_folder_of};
use quire_types::Lsn;
use quire_types::data_file_name::WalSegmentName;
use quire_types::lsn::segment_file_name;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::PathBuf;

pub(crate) static ZEROES: [u8; 256 << 10] = [0; 256 << 10];

/// Where a branch's segments are and how long they are.
#[derive(Clone, Debug)]
pub(crate) struct SegmentFolder {
    /// The branch's directory.
    pub path: PathBuf,
    /// Bytes in a segment.
    pub segment_bytes: u64,
}

impl SegmentFolder {
    /// The file of a segment.
    pub fn file(&self, segment: u64) -> PathBuf {
        self.path.join(segment_file_name(1, segment, self.segment_bytes))
    }

    /// Numbers of the segments that exist, ascending.
    pub fn list(&self) -> io::Result<Vec<u64>> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            segments.extend(entry?.file_name().to_str().and_then(|name| self.segment_of(name)));
        }
        segments.sort_unstable();
        Ok(segments)
    }

    fn segment_of(&self, name: &str) -> Option<u64> {
        let segment = WalSegmentName::parse(name.as_bytes())?.segment_number(self.segment_bytes)?;
        (segment_file_name(1, segment, self.segment_bytes) == name).then_some(segment)
    }

    /// Creates a segment of zeroes, unless it exists; its name is durable then. A file that another thread put there in
    /// the meantime is left alone.
    pub fn create(&self, segment: u64) -> io::Result<()> {
        self.place(self.stage(segment)?)
    }

    /// Makes a segment of zeroes that has no name yet.
    pub fn stage(&self, segment: u64) -> io::Result<Staged> {
        let mut staged = Staged::create_distinct(&self.file(segment))?;
        write_zeroes(&mut staged, self.segment_bytes)?;
        Ok(staged)
    }

    /// Gives a segment its name, durably, unless there is one that has it.
    pub fn place(&self, staged: Staged) -> io::Result<()> {
        Ok(staged.publish_if_absent(Durability::Machine).map(drop)?)
    }

    /// Makes the names of the segments durable.
    pub fn sync_names(&self) -> io::Result<()> {
        sync_folder_of(&self.file(0))
    }

    /// Opens a segment, which must have its length.
    pub fn open(&self, segment: u64) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).open(self.file(segment))?;
        if file.metadata()?.len() != self.segment_bytes {
            let message = format!("{} has the wrong length", self.file(segment).display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(file)
    }

    /// The part of `[begin, end)` that is in the segment of `begin`: its number, the offset in it, and the length.
    pub fn first_part(&self, begin: Lsn, end: Lsn) -> (u64, u64, u64) {
        let (segment, offset) = (begin.segment_number(self.segment_bytes), begin.segment_offset(self.segment_bytes));
        (segment, offset, end.bytes_since(begin).min(self.segment_bytes - offset))
    }
}

fn write_zeroes(staged: &mut Staged, length: u64) -> Result<(), PublishError> {
    while staged.written() < length {
        let count = (length - staged.written()).min(ZEROES.len() as u64);
        staged.write(&ZEROES[..count as usize])?;
    }
    Ok(())
}
