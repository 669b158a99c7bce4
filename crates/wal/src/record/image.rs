//! Page images inside records: with or without their hole, compressed or not. Source: `xlogrecord.h`
//! (`XLogRecordBlockImageHeader`), `xlogreader.c` (`RestoreBlockImage`).

use super::WalError;
use crate::pglz;
use bytes::Bytes;
use quire_types::{CodecError, PAGE_SIZE, Reader};

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
    /// Its header within the block reference, as logged.
    pub header: Bytes,
}

impl BlockImage {
    /// The page: decompressed, its hole refilled with zeroes, its LSN as logged (which is the one *before* the record;
    /// redo sets it to the record's end).
    pub fn restore(&self) -> Result<Box<[u8; PAGE_SIZE]>, WalError> {
        let mut page = Box::new([0; PAGE_SIZE]);
        let BlockImage { hole_offset, hole_length, compression, apply, .. } = *self;
        restore(&ImageHeader { hole_offset, hole_length, compression, apply }, &self.bytes, &mut page)?;
        Ok(page)
    }
}

/// [`BlockImage::restore`] into `page`, for a reader that looks at a record in place: `header` is the image's header
/// within the block reference, and `logged` the image's bytes.
pub fn restore_image(header: &[u8], logged: &[u8], page: &mut [u8; PAGE_SIZE]) -> Result<(), WalError> {
    restore(&read_header(header).map_err(invalid)?, logged, page)
}

/// Fills `page` from an image whose bytes are `logged`.
fn restore(image: &ImageHeader, logged: &[u8], page: &mut [u8; PAGE_SIZE]) -> Result<(), WalError> {
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

/// An image's header, read.
struct ImageHeader {
    hole_offset: u16,
    hole_length: u16,
    compression: ImageCompression,
    apply: bool,
}

/// The image with this header within a block reference, and these bytes, or what is wrong with the header.
pub(super) fn of(header: Bytes, bytes: Bytes) -> Result<BlockImage, String> {
    let ImageHeader { hole_offset, hole_length, compression, apply } = read_header(&header)?;
    Ok(BlockImage { bytes, hole_offset, hole_length, compression, apply, header })
}

/// Whether an image's header with these flags has the length of the hole.
#[inline]
pub(super) fn has_hole_length(flags: u8) -> bool {
    flags & (COMPRESS_PGLZ | COMPRESS_LZ4 | COMPRESS_ZSTD) != 0 && flags & HAS_HOLE != 0
}

/// Whether an image with these flags is restored by redo.
#[inline]
pub(super) fn is_applied(flags: u8) -> bool {
    flags & APPLY != 0
}

/// Reads an image's header within a block reference. Its hole is in the page, and the bytes are at most a page.
fn read_header(header: &[u8]) -> Result<ImageHeader, String> {
    let mut reader = Reader::new(header);
    let (length, hole_offset, flags, mut hole_length) = read_fields(&mut reader).map_err(|error| error.to_string())?;
    let compression = compression(flags)?;
    if compression == ImageCompression::None {
        hole_length = (PAGE_SIZE as u16).checked_sub(length).ok_or_else(|| too_long(length))?;
    }
    let image = ImageHeader { hole_offset, hole_length, compression, apply: is_applied(flags) };
    check_header(&image, length, flags & HAS_HOLE != 0)?;
    Ok(image)
}

fn read_fields(reader: &mut Reader<'_>) -> Result<(u16, u16, u8, u16), CodecError> {
    let (length, hole_offset, flags) =
        (reader.u16("image length")?, reader.u16("hole offset")?, reader.u8("image flags")?);
    let hole_length = if has_hole_length(flags) { reader.u16("hole length")? } else { 0 };
    Ok((length, hole_offset, flags, hole_length))
}

fn check_header(image: &ImageHeader, bytes: u16, has_hole: bool) -> Result<(), String> {
    let (offset, length, compression) = (image.hole_offset, image.hole_length, image.compression);
    let consistent = if has_hole {
        offset > 0 && length > 0 && usize::from(offset) + usize::from(length) <= PAGE_SIZE
    } else {
        offset == 0 && length == 0
    };
    let page_bytes = PAGE_SIZE as u16;
    let fits = bytes < page_bytes || (bytes == page_bytes && compression == ImageCompression::None);
    if consistent && fits {
        return Ok(());
    }
    Err(format!("image of {bytes} bytes ({compression:?}) with a hole of {length} bytes at {offset}"))
}

fn compression(flags: u8) -> Result<ImageCompression, String> {
    match flags & !(HAS_HOLE | APPLY) {
        0 => Ok(ImageCompression::None),
        COMPRESS_PGLZ => Ok(ImageCompression::Pglz),
        COMPRESS_LZ4 => Ok(ImageCompression::Lz4),
        COMPRESS_ZSTD => Ok(ImageCompression::Zstd),
        unknown => Err(format!("image with unknown flags {unknown:#04x}")),
    }
}

fn too_long(length: u16) -> String {
    format!("image of {length} bytes is longer than a page")
}
