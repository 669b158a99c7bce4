//! The envelope around every part of a layer file: checksum, lengths, compression.
//!
//! ```text
//! 0   u32  CRC32C of all that follows
//! 4   u32  bytes stored
//! 8   u32  bytes before compression
//! 12  u8   compression: 0 none, 1 zstd
//! 13  ...  the stored bytes
//! ```

use crate::error::StorageError;
use crate::objects::Object;
use quire_types::{CodecError, Reader, Writer};
use std::cell::RefCell;
use std::io;
use std::path::Path;
use zstd::bulk::Decompressor;

const HEADER_BYTES: usize = 13;
const STORED: u8 = 0;
const ZSTD: u8 = 1;
const ZSTD_LEVEL: i32 = 1;

/// The most bytes that one frame holds: more than any WAL record, which a version is at most.
pub(super) const MAX_RAW_BYTES: usize = 1 << 30;

/// Where a frame is in its file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Extent {
    /// Its first byte.
    pub offset: u64,
    /// Its length with the header.
    pub length: u32,
}

/// The frame around `raw`, compressed where that helps.
///
/// # Panics
/// If `raw` is longer than [`MAX_RAW_BYTES`].
pub(super) fn encode(raw: &[u8]) -> Vec<u8> {
    assert!(raw.len() <= MAX_RAW_BYTES, "no version is longer than a WAL record");
    let compressed = zstd::bulk::compress(raw, ZSTD_LEVEL).ok().filter(|bytes| bytes.len() < raw.len());
    let (compression, stored) = match &compressed {
        Some(bytes) => (ZSTD, bytes.as_slice()),
        None => (STORED, raw),
    };
    let mut checked = Writer::with_capacity(HEADER_BYTES + stored.len());
    checked.u32(stored.len() as u32).u32(raw.len() as u32).u8(compression).bytes(stored);
    let mut frame = Writer::with_capacity(HEADER_BYTES + stored.len());
    frame.u32(crc32c::crc32c(checked.as_slice())).bytes(checked.as_slice());
    frame.into_vec()
}

/// Reads the frame at `extent` of the object at `path`, and gives its content.
pub(super) fn read(object: &dyn Object, path: &Path, extent: Extent) -> Result<Vec<u8>, StorageError> {
    let mut raw = vec![0; extent.length as usize];
    object.read_exact_at(&mut raw, extent.offset)?;
    let corrupt = |reason: String| StorageError::Corrupt { path: path.to_owned(), offset: extent.offset, reason };
    decode(&raw).map_err(corrupt)
}

/// Reads the frame that starts at `offset`, of whatever length, and where the next would start.
pub(super) fn read_next(
    object: &dyn Object,
    path: &Path,
    offset: u64,
    end: u64,
) -> Result<(Vec<u8>, u64), StorageError> {
    let corrupt = |reason: &str| StorageError::Corrupt { path: path.to_owned(), offset, reason: reason.to_owned() };
    let mut head = [0; 8];
    object.read_exact_at(&mut head, offset)?;
    let mut reader = Reader::new(&head[4..]);
    let stored = reader.u32("stored length").map_err(StorageError::malformed(path, offset))?;
    let length = stored.checked_add(HEADER_BYTES as u32).ok_or_else(|| corrupt("frame length"))?;
    let next = offset + u64::from(length);
    if next > end {
        return Err(corrupt("a frame reaches past its section"));
    }
    Ok((read(object, path, Extent { offset, length })?, next))
}

fn decode(raw: &[u8]) -> Result<Vec<u8>, String> {
    let mut reader = Reader::new(raw);
    let checksum = reader.u32("checksum").map_err(|error| error.to_string())?;
    if crc32c::crc32c(&raw[4..]) != checksum {
        return Err("checksum mismatch".into());
    }
    let (length, compression, stored) = split(reader).map_err(|error| error.to_string())?;
    let content = match compression {
        STORED => stored.to_vec(),
        ZSTD => decompress(stored, length).map_err(|error| error.to_string())?,
        other => return Err(format!("unknown compression {other}")),
    };
    if content.len() == length {
        Ok(content)
    } else {
        Err(format!("{} bytes where {length} are announced", content.len()))
    }
}

/// Making a decompressor takes longer than using it on a block, so every thread keeps its own.
fn decompress(stored: &[u8], length: usize) -> io::Result<Vec<u8>> {
    thread_local! {
        static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    }
    DECOMPRESSOR.with_borrow_mut(|slot| match slot {
        Some(decompressor) => decompressor.decompress(stored, length),
        None => slot.insert(Decompressor::new()?).decompress(stored, length),
    })
}

fn split(mut reader: Reader<'_>) -> Result<(usize, u8, &[u8]), CodecError> {
    let stored = reader.u32("stored length")? as usize;
    let length = reader.u32("raw length")? as usize;
    let compression = reader.u8("compression")?;
    let bytes = reader.bytes("stored bytes", stored)?;
    reader.finish()?;
    if length <= MAX_RAW_BYTES {
        Ok((length, compression, bytes))
    } else {
        Err(CodecError::Invalid { field: "raw length", value: length as u64 })
    }
}
