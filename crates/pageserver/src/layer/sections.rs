//! Lists of fixed-size records in a layer file, in frames of about 64 KiB.

use super::frame;
use super::reader::Layer;
use crate::error::StorageError;
use quire_files::Staged;
use quire_types::{CodecError, Reader, Writer};
use std::collections::VecDeque;
use std::sync::Arc;

const TARGET_BYTES: usize = 64 << 10;

/// Something a layer keeps a list of.
pub trait SectionRecord: Sized {
    /// Appends its bytes.
    fn write(&self, out: &mut Writer);
    /// Reads back what `write` wrote.
    fn read(input: &mut Reader<'_>) -> Result<Self, CodecError>;
}

/// Writes a list as it comes.
pub(super) fn write_all<R: SectionRecord>(
    out: &mut Staged,
    records: impl Iterator<Item = Result<R, StorageError>>,
) -> Result<(), StorageError> {
    let mut raw = Writer::new();
    for record in records {
        record?.write(&mut raw);
        if raw.len() >= TARGET_BYTES {
            out.write(&frame::encode(std::mem::take(&mut raw).as_slice()))?;
        }
    }
    match raw.is_empty() {
        true => Ok(()),
        false => Ok(out.write(&frame::encode(raw.as_slice()))?),
    }
}

/// Reads a list frame by frame.
pub struct Records<R> {
    layer: Arc<Layer>,
    offset: u64,
    end: u64,
    ready: VecDeque<R>,
}

impl<R: SectionRecord> Records<R> {
    pub(super) fn new(layer: Arc<Layer>, offset: u64, end: u64) -> Records<R> {
        Records { layer, offset, end, ready: VecDeque::new() }
    }

    fn read_frame(&mut self) -> Result<(), StorageError> {
        let (raw, next) = self.layer.read_frame_at(self.offset, self.end)?;
        let mut reader = Reader::new(&raw);
        while reader.remaining() > 0 {
            let record = R::read(&mut reader).map_err(StorageError::malformed(self.layer.path(), self.offset))?;
            self.ready.push_back(record);
        }
        self.offset = next;
        Ok(())
    }
}

impl<R: SectionRecord> Iterator for Records<R> {
    type Item = Result<R, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() && self.offset < self.end {
            if let Err(error) = self.read_frame() {
                self.offset = self.end;
                return Some(Err(error));
            }
        }
        self.ready.pop_front().map(Ok)
    }
}
