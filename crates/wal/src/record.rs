//! One WAL record, decoded. Source: `xlogrecord.h`, `xlogreader.c` (`DecodeXLogRecord`).
//!
//! A record is a 24-byte header, then the headers of its fragments, then the fragments' bytes in the same order: per
//! block reference the page image and the data, last the main data. Decoding copies nothing.

mod image;

pub use image::{BlockImage, ImageCompression, restore_image};

use crate::crc;
use bytes::Bytes;
use quire_types::{CodecError, Fork, Lsn, Reader, RelTag};

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

const FORK_MASK: u8 = 0x0F;
const HAS_IMAGE: u8 = 0x10;
const HAS_DATA: u8 = 0x20;
const WILL_INIT: u8 = 0x40;
const SAME_REL: u8 = 0x80;

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

impl Record {
    /// Decodes one whole record: `bytes` are its `xl_tot_len` bytes without page headers. The CRC is not looked at
    /// again: [`crate::WalStream`] has checked it.
    pub fn decode(start: Lsn, end: Lsn, bytes: Bytes) -> Result<Record, WalError> {
        decode(start, end, &bytes).map_err(|fault| WalError::invalid(start, fault.0))
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

/// Why a record is refused; its position is added by the caller.
struct Fault(String);

impl From<CodecError> for Fault {
    fn from(error: CodecError) -> Fault {
        Fault(format!("record with invalid length: {error}"))
    }
}

fn decode(start: Lsn, end: Lsn, bytes: &Bytes) -> Result<Record, Fault> {
    let header = RecordHeader::read(bytes)?;
    if usize::try_from(header.total_bytes) != Ok(bytes.len()) {
        return Err(Fault(format!("record length {} does not match its {} bytes", header.total_bytes, bytes.len())));
    }
    let mut fragments = Fragments::new();
    let payload = fragments.read_headers(&bytes[HEADER_BYTES..])?;
    let (blocks, main_data) = fragments.cut(bytes.slice(bytes.len() - payload..));
    let RecordHeader { xid, prev, info, rmgr, .. } = header;
    let Fragments { origin, toplevel_xid, .. } = fragments;
    Ok(Record { start, end, prev, xid, info, rmgr, origin, toplevel_xid, blocks, main_data })
}

/// What the fragment headers announce. Invariant: `payload_bytes` is the sum of all announced lengths.
struct Fragments {
    /// Without their bytes, which are cut off once all headers were read.
    blocks: Vec<Block>,
    /// By block: how long its image and its data are.
    lengths: [(u16, u16); BLOCK_ID_MAX as usize + 1],
    origin: Option<u16>,
    toplevel_xid: Option<u32>,
    main_bytes: usize,
    payload_bytes: usize,
}

impl Fragments {
    fn new() -> Fragments {
        let lengths = [(0, 0); BLOCK_ID_MAX as usize + 1];
        Fragments { blocks: Vec::new(), lengths, origin: None, toplevel_xid: None, main_bytes: 0, payload_bytes: 0 }
    }

    /// Reads headers until only announced bytes are left, and returns how many those are.
    fn read_headers(&mut self, after_header: &[u8]) -> Result<usize, Fault> {
        let mut reader = Reader::new(after_header);
        while reader.remaining() > self.payload_bytes {
            let id = reader.u8("fragment id")?;
            self.read_header(id, &mut reader)?;
            // Main data is always the last fragment.
            if id == ID_DATA_SHORT || id == ID_DATA_LONG {
                break;
            }
        }
        if reader.remaining() != self.payload_bytes {
            let (left, announced) = (reader.remaining(), self.payload_bytes);
            return Err(Fault(format!("record with invalid length: {left} bytes where {announced} are announced")));
        }
        Ok(self.payload_bytes)
    }

    fn read_header(&mut self, id: u8, reader: &mut Reader<'_>) -> Result<(), Fault> {
        match id {
            ID_DATA_SHORT => self.main_bytes = usize::from(reader.u8("main data length")?),
            // A length that does not fit the address space cannot fit the record either.
            ID_DATA_LONG => self.main_bytes = usize::try_from(reader.u32("main data length")?).unwrap_or(usize::MAX),
            ID_ORIGIN => self.origin = Some(reader.u16("replication origin")?),
            ID_TOPLEVEL_XID => self.toplevel_xid = Some(reader.u32("top-level transaction")?),
            0..=BLOCK_ID_MAX => return self.read_block(id, reader),
            _ => return Err(Fault(format!("invalid block_id {id}"))),
        }
        self.payload_bytes = self.payload_bytes.saturating_add(self.main_bytes);
        Ok(())
    }

    fn read_block(&mut self, id: u8, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let previous = self.blocks.last();
        if previous.is_some_and(|previous| id <= previous.id) {
            return Err(Fault(format!("out-of-order block_id {id}")));
        }
        let (block, image_bytes, data_bytes) = read_block_header(id, previous.map(|previous| previous.rel), reader)?;
        self.payload_bytes += usize::from(image_bytes) + usize::from(data_bytes);
        // Ids ascend, so that there are no more blocks than ids.
        self.lengths[self.blocks.len()] = (image_bytes, data_bytes);
        self.blocks.push(block);
        Ok(())
    }

    /// Cuts the payload, which is exactly as long as announced, into its fragments.
    fn cut(&mut self, mut payload: Bytes) -> (Vec<Block>, Bytes) {
        for (block, (image_bytes, data_bytes)) in self.blocks.iter_mut().zip(self.lengths) {
            if let Some(image) = &mut block.image {
                image.bytes = payload.split_to(image_bytes.into());
            }
            block.data = payload.split_to(data_bytes.into());
        }
        debug_assert_eq!(payload.len(), self.main_bytes, "the announced lengths add up to the payload");
        (std::mem::take(&mut self.blocks), payload)
    }
}

/// The block without its bytes, and how long its image and its data are.
fn read_block_header(id: u8, previous: Option<RelTag>, reader: &mut Reader<'_>) -> Result<(Block, u16, u16), Fault> {
    let flags = reader.u8("fork and flags")?;
    let fork = Fork::from_number(flags & FORK_MASK).ok_or_else(|| Fault(format!("invalid fork of block {id}")))?;
    let data_bytes = reader.u16("block data length")?;
    if (flags & HAS_DATA != 0) != (data_bytes != 0) {
        return Err(Fault(format!("BKPBLOCK_HAS_DATA contradicts the data length {data_bytes} of block {id}")));
    }
    let (image, image_bytes) = match flags & HAS_IMAGE {
        0 => (None, 0),
        _ => image::read_header(reader).map(|(image, bytes)| (Some(image), bytes))?,
    };
    let rel = match (flags & SAME_REL != 0, previous) {
        (false, _) => read_rel(reader)?,
        (true, Some(previous)) => previous,
        (true, None) => return Err(Fault("BKPBLOCK_SAME_REL set but no previous rel".into())),
    };
    let (rel, will_init) = (rel.with_fork(fork), flags & WILL_INIT != 0);
    let block = Block { id, rel, block: reader.u32("block number")?, will_init, image, data: Bytes::new() };
    Ok((block, image_bytes, data_bytes))
}

fn read_rel(reader: &mut Reader<'_>) -> Result<RelTag, CodecError> {
    let (tablespace, database) = (reader.u32("tablespace")?, reader.u32("database")?);
    Ok(RelTag { tablespace, database, relation: reader.u32("relation")?, fork: Fork::Main })
}

#[cfg(test)]
mod tests;
