//! The records of a layer's section, read one frame after the other.

use super::reader::Layer;
use super::sections::SectionRecord;
use crate::accounts::Carry;
use crate::error::StorageError;
use quire_types::Reader;
use std::collections::VecDeque;
use std::sync::Arc;

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

impl Layer {
    /// The image accounts it carries, in key order.
    pub fn carries(self: &Arc<Layer>) -> Records<Carry> {
        Records::new(Arc::clone(self), self.footer.carries, self.footer.bloom.offset)
    }
}
