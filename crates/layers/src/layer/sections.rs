//! Lists of fixed-size records in a layer file, in frames of about 64 KiB.

use super::frame;
use crate::error::StorageError;
use crate::objects::NewObject;
use quire_types::{CodecError, Reader, Writer};

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
    out: &mut dyn NewObject,
    records: impl Iterator<Item = Result<R, StorageError>>,
) -> Result<(), StorageError> {
    let mut raw = Writer::new();
    for record in records {
        record?.write(&mut raw);
        if raw.len() >= TARGET_BYTES {
            out.write(&frame::encode(std::mem::take(&mut raw).as_slice()))?;
        }
    }
    if raw.is_empty() { Ok(()) } else { out.write(&frame::encode(raw.as_slice())) }
}
