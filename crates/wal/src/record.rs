//! One WAL record. Source: `xlogrecord.h`, `xlogreader.c` (`DecodeXLogRecord`).
//!
//! A record is a 24-byte header, then the headers of its fragments, then the fragments' bytes in the same order: per
//! block reference the page image and the data, last the main data. [`RecordView`] parses it in place; a [`Record`] is
//! made from a view by those who keep it. Neither copies anything.

mod image;
mod malformed;
mod view;

pub use image::{BlockImage, ImageCompression, restore_image};
pub use malformed::Malformed;
pub use view::{BlockView, Blocks, ImageUse, RecordView};

use crate::crc;
use bytes::Bytes;
use quire_types::{CodecError, Lsn, Reader, RelTag};

/// Bytes of a record's header (`SizeOfXLogRecord`).
pub const HEADER_BYTES: usize = 24;
/// Longest record that is believed; PostgreSQL 16 and later refuse to write longer ones (`XLogRecordMaxSize`).
pub const RECORD_BYTES_MAX: usize = 1020 << 20;
/// Highest block reference id (`XLR_MAX_BLOCK_ID`).
pub const BLOCK_ID_MAX: u8 = 32;

/// Fragment id of main data with a one-byte length.
pub(crate) const ID_DATA_SHORT: u8 = 255;
/// Fragment id of main data with a four-byte length.
pub(crate) const ID_DATA_LONG: u8 = 254;
const ID_ORIGIN: u8 = 253;
const ID_TOPLEVEL_XID: u8 = 252;

/// WAL that cannot be decoded.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum WalError {
    /// Bytes that are not WAL.
    #[error("invalid WAL at {at}: {reason}")]
    Invalid {
        /// Where the record or page starts.
        at: Lsn,
        /// What is wrong, in PostgreSQL's words where it has some.
        reason: String,
    },
    /// A page image that does not decompress to the page it claims to be.
    #[error("invalid page image: {reason}")]
    InvalidImage {
        /// What is wrong.
        reason: String,
    },
}

impl WalError {
    pub(crate) fn invalid(at: Lsn, reason: impl Into<String>) -> WalError {
        WalError::Invalid { at, reason: reason.into() }
    }
}

/// The fixed header of a record (`XLogRecord`), as it stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// `xl_tot_len`: bytes of the whole record, this header included.
    pub total_bytes: u32,
    /// `xl_xid`.
    pub xid: u32,
    /// `xl_prev`: start of the record before.
    pub prev: Lsn,
    /// `xl_info`.
    pub info: u8,
    /// `xl_rmid`.
    pub rmgr: u8,
    /// `xl_crc`.
    pub crc: u32,
}

impl RecordHeader {
    /// Reads the first [`HEADER_BYTES`] of a record.
    pub fn read(bytes: &[u8]) -> Result<RecordHeader, CodecError> {
        let mut reader = Reader::new(bytes);
        let (total_bytes, xid) = (reader.u32("xl_tot_len")?, reader.u32("xl_xid")?);
        let prev = Lsn(reader.u64("xl_prev")?);
        let (info, rmgr) = (reader.u8("xl_info")?, reader.u8("xl_rmid")?);
        reader.bytes("padding", 2)?;
        Ok(RecordHeader { total_bytes, xid, prev, info, rmgr, crc: reader.u32("xl_crc")? })
    }
}

/// The CRC-32C PostgreSQL stores in `xl_crc`: over what follows the header, then over the header up to `xl_crc`.
///
/// # Panics
/// If `record` is shorter than a record's header.
pub fn record_crc(record: &[u8]) -> u32 {
    crc::append(crc::append(0, &record[HEADER_BYTES..]), &record[..HEADER_BYTES - 4])
}

/// A decoded record. Slices share the record's memory.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its first byte.
    pub start: Lsn,
    /// PostgreSQL's `EndRecPtr`: what redo stores in the pages it changes.
    pub end: Lsn,
    /// `xl_prev`.
    pub prev: Lsn,
    /// Transaction, 0 if none.
    pub xid: u32,
    /// `xl_info`, all eight bits.
    pub info: u8,
    /// Resource manager, see [`crate::rmgr`].
    pub rmgr: u8,
    /// Replication origin, if logged.
    pub origin: Option<u16>,
    /// Top-level transaction, if logged with a subtransaction's first record.
    pub toplevel_xid: Option<u32>,
    /// Block references in ascending order of their ids.
    pub blocks: Vec<Block>,
    /// `XLogRecGetData`.
    pub main_data: Bytes,
    /// All of it, as it is in the log without page headers.
    pub bytes: Bytes,
    pub(crate) extent: view::Extent,
}

/// A block reference of a record.
#[derive(Clone, Debug)]
pub struct Block {
    /// Its number within the record, 0 to 32.
    pub id: u8,
    /// The relation and fork.
    pub rel: RelTag,
    /// The block.
    pub block: u32,
    /// `BKPBLOCK_WILL_INIT`: redo starts from a blank page.
    pub will_init: bool,
    /// The page image, if there is one.
    pub image: Option<BlockImage>,
    /// `XLogRecGetBlockData`; empty if none.
    pub data: Bytes,
}

impl Block {
    /// A reference that keeps its parts of the record's `bytes`, or what is wrong with its image's header.
    fn of(view: &BlockView<'_>, bytes: &Bytes) -> Result<Block, String> {
        let image = match view.image {
            ImageUse::Absent => None,
            _ => Some(image::of(bytes.slice_ref(view.image_header), bytes.slice_ref(view.image_bytes))?),
        };
        let BlockView { id, rel, block, will_init, data, .. } = *view;
        Ok(Block { id, rel, block, will_init, image, data: bytes.slice_ref(data) })
    }
}

impl Record {
    /// Decodes one whole record: `bytes` are its `xl_tot_len` bytes without page headers. The CRC is not looked at
    /// again: [`crate::WalStream`] has checked it.
    pub fn decode(start: Lsn, end: Lsn, bytes: Bytes) -> Result<Record, WalError> {
        let (mut seen, mut image_fault) = (Vec::new(), None);
        let parsed = RecordView::parse_each(&bytes, |view| match Block::of(&view, &bytes) {
            Ok(block) => seen.push(block),
            Err(reason) => image_fault = Some(reason),
        });
        let view = parsed.map_err(|reason| WalError::invalid(start, reason.to_string()))?;
        if let Some(reason) = image_fault {
            return Err(WalError::invalid(start, reason));
        }
        let RecordView { xid, prev, info, rmgr, origin, toplevel_xid, main_data, .. } = view;
        let (main_data, extent) = (bytes.slice_ref(main_data), view.extent());
        let blocks = seen;
        Ok(Record { start, end, prev, xid, info, rmgr, origin, toplevel_xid, blocks, main_data, bytes, extent })
    }

    /// The block reference with this id.
    pub fn block(&self, id: u8) -> Option<&Block> {
        self.blocks.iter().find(|block| block.id == id)
    }

    /// The bits of `info` that belong to the resource manager.
    pub fn rmgr_info(&self) -> u8 {
        self.info & crate::rmgr::XLR_RMGR_INFO_MASK
    }
}

#[cfg(test)]
mod tests;
