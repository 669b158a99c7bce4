//! Page images inside records: with or without their hole, compressed or not. Source: `xlogrecord.h`
//! (`XLogRecordBlockImageHeader`), `xlogreader.c` (`RestoreBlockImage`).

use super::{Fault, WalError};
use crate::pglz;
use bytes::Bytes;
use quire_types::{PAGE_SIZE, Reader};

const HAS_HOLE: u8 = 0x01;
const APPLY: u8 = 0x02;
const COMPRESS_PGLZ: u8 = 0x04;
const COMPRESS_LZ4: u8 = 0x08;
const COMPRESS_ZSTD: u8 = 0x10;

/// How a page image is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ImageCompression {
    /// Not at all.
    None,
    /// PostgreSQL's own LZ.
    Pglz,
    /// LZ4 block format.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// A page image within a record.
#[derive(Clone, Debug)]
pub struct BlockImage {
    /// As logged: without the hole, perhaps compressed.
    pub bytes: Bytes,
    /// Where the hole starts.
    pub hole_offset: u16,
    /// How long the hole is; 0 if there is none.
    pub hole_length: u16,
    /// How `bytes` are compressed.
    pub compression: ImageCompression,
    /// `BKPIMAGE_APPLY`: redo restores it. Images of `wal_consistency_checking` alone do not have it.
    pub apply: bool,
}

impl BlockImage {
    /// The page: decompressed, its hole refilled with zeroes, its LSN as logged (which is the one *before* the record;
    /// redo sets it to the record's end).
    pub fn restore(&self) -> Result<Box<[u8; PAGE_SIZE]>, WalError> {
        let mut page = Box::new([0; PAGE_SIZE]);
        restore(self, &self.bytes, &mut page)?;
        Ok(page)
    }
}

/// [`BlockImage::restore`] into `page`, for a reader that looks at a record in place: `header` is the image's header
/// within the block reference, and `logged` the image's bytes.
pub fn restore_image(header: &[u8], logged: &[u8], page: &mut [u8; PAGE_SIZE]) -> Result<(), WalError> {
    let (image, _) = read_header(&mut Reader::new(header)).map_err(|fault| invalid(fault.0))?;
    restore(&image, logged, page)
}

/// Fills `page` from an image whose bytes are `logged`.
fn restore(image: &BlockImage, logged: &[u8], page: &mut [u8; PAGE_SIZE]) -> Result<(), WalError> {
    let (hole_start, hole_bytes) = (usize::from(image.hole_offset), usize::from(image.hole_length));
    if hole_start + hole_bytes > PAGE_SIZE {
        return Err(invalid(format!("a hole of {hole_bytes} bytes at {hole_start} leaves the page")));
    }
    let logged_bytes = PAGE_SIZE - hole_bytes;
    decompress(image.compression, logged, &mut page[..logged_bytes])?;
    page.copy_within(hole_start..logged_bytes, hole_start + hole_bytes);
    page[hole_start..hole_start + hole_bytes].fill(0);
    Ok(())
}

/// Fills `to`, the page without its hole, exactly.
fn decompress(compression: ImageCompression, from: &[u8], to: &mut [u8]) -> Result<(), WalError> {
    let written = match compression {
        ImageCompression::None => copy(from, to),
        ImageCompression::Pglz => pglz::decompress_exact(from, to),
        ImageCompression::Lz4 => lz4_flex::block::decompress_into(from, to).ok(),
        ImageCompression::Zstd => zstd::bulk::decompress_to_buffer(from, to).ok(),
    };
    if written == Some(to.len()) {
        return Ok(());
    }
    let (bytes, wanted) = (from.len(), to.len());
    Err(invalid(format!("{bytes} bytes ({compression:?}) do not restore {wanted} bytes of page")))
}

fn copy(from: &[u8], to: &mut [u8]) -> Option<usize> {
    if from.len() != to.len() {
        return None;
    }
    to.copy_from_slice(from);
    Some(to.len())
}

fn invalid(reason: String) -> WalError {
    WalError::InvalidImage { reason }
}

/// Reads an image's header within a block reference: the image without its bytes, and how many those are. Its hole lies
/// in the page, and the bytes are at most a page.
pub(super) fn read_header(reader: &mut Reader<'_>) -> Result<(BlockImage, u16), Fault> {
    let length = reader.u16("image length")?;
    let hole_offset = reader.u16("hole offset")?;
    let flags = reader.u8("image flags")?;
    let compression = compression(flags)?;
    let hole_length = match (compression, flags & HAS_HOLE != 0) {
        (ImageCompression::None, _) => (PAGE_SIZE as u16).checked_sub(length).ok_or_else(|| too_long(length))?,
        (_, true) => reader.u16("hole length")?,
        (_, false) => 0,
    };
    let apply = flags & APPLY != 0;
    let image = BlockImage { bytes: Bytes::new(), hole_offset, hole_length, compression, apply };
    check_header(&image, length, flags & HAS_HOLE != 0)?;
    Ok((image, length))
}

fn check_header(image: &BlockImage, bytes: u16, has_hole: bool) -> Result<(), Fault> {
    let (offset, length, compression) = (image.hole_offset, image.hole_length, image.compression);
    let consistent = match has_hole {
        true => offset > 0 && length > 0 && usize::from(offset) + usize::from(length) <= PAGE_SIZE,
        false => offset == 0 && length == 0,
    };
    let page_bytes = PAGE_SIZE as u16;
    let fits = bytes < page_bytes || (bytes == page_bytes && compression == ImageCompression::None);
    if consistent && fits {
        return Ok(());
    }
    Err(Fault(format!("image of {bytes} bytes ({compression:?}) with a hole of {length} bytes at {offset}")))
}

fn compression(flags: u8) -> Result<ImageCompression, Fault> {
    match flags & !(HAS_HOLE | APPLY) {
        0 => Ok(ImageCompression::None),
        COMPRESS_PGLZ => Ok(ImageCompression::Pglz),
        COMPRESS_LZ4 => Ok(ImageCompression::Lz4),
        COMPRESS_ZSTD => Ok(ImageCompression::Zstd),
        unknown => Err(Fault(format!("image with unknown flags {unknown:#04x}"))),
    }
}

fn too_long(length: u16) -> Fault {
    Fault(format!("image of {length} bytes is longer than a page"))
}
