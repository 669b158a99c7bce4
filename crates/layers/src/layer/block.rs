//! A data block: versions one after another, found by binary search over their offsets.
//!
//! ```text
//! 0   18   key, as quire_types::Key encodes it
//! 18  u64  LSN
//! 26  u8   kind of the payload
//! 27  u32  payload length
//! 31  ...  payload
//! ```

use crate::value::{Kind, Place, Version};
use bytes::Bytes;
use quire_types::key::KEY_BYTES;
use quire_types::{CodecError, Key, Lsn, Reader, Writer};

/// Blocks are closed when they reach this size; a block with one large version may be longer.
pub(super) const TARGET_BYTES: usize = 32 << 10;

/// Bytes of an entry before its payload.
const HEADER_BYTES: usize = KEY_BYTES + 8 + 1 + 4;

/// Appends one version to the block being built.
pub(super) fn write_entry(out: &mut Writer, key: Key, version: &Version) {
    out.bytes(&key.encode()).u64(version.lsn.0).u8(version.kind as u8).length_prefixed(&version.payload);
}

/// A block in memory, checked once, its entries addressable.
#[derive(Debug)]
pub(super) struct Block {
    raw: Bytes,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: Key,
    lsn: Lsn,
    kind: Kind,
    start: u32,
    end: u32,
}

impl Entry {
    /// Entries ascend by this, strictly.
    fn place(&self) -> (Key, Place) {
        (self.key, (self.lsn, !self.kind.is_delta()))
    }
}

impl Block {
    /// Takes a block apart and checks that it is in order.
    pub(super) fn parse(raw: Vec<u8>) -> Result<Block, CodecError> {
        let mut reader = Reader::new(&raw);
        let mut entries: Vec<Entry> = Vec::new();
        while reader.remaining() > 0 {
            let entry = read_entry(&mut reader, raw.len())?;
            let ascending = entries.last().is_none_or(|last| last.place() < entry.place());
            if !ascending {
                return Err(CodecError::Invalid { field: "entry order", value: entries.len() as u64 });
            }
            entries.push(entry);
        }
        Ok(Block { raw: raw.into(), entries })
    }

    /// Entries in it.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Memory it takes, roughly.
    pub(super) fn memory_bytes(&self) -> usize {
        self.raw.len() + self.entries.len() * size_of::<Entry>()
    }

    /// The number of entries below `(key, lsn)` or equal to it.
    pub(super) fn count_up_to(&self, key: Key, lsn: Lsn) -> usize {
        self.entries.partition_point(|entry| (entry.key, entry.lsn) <= (key, lsn))
    }

    /// Key and LSN of an entry.
    pub(super) fn position(&self, index: usize) -> (Key, Lsn) {
        (self.entries[index].key, self.entries[index].lsn)
    }

    /// An entry's version; its payload shares the block's memory.
    pub(super) fn version(&self, index: usize) -> Version {
        let entry = self.entries[index];
        let payload = self.raw.slice(entry.start as usize..entry.end as usize);
        Version { lsn: entry.lsn, kind: entry.kind, payload }
    }
}

fn read_entry(reader: &mut Reader<'_>, block_bytes: usize) -> Result<Entry, CodecError> {
    let start = block_bytes - reader.remaining() + HEADER_BYTES;
    let key = Key::decode(reader.bytes("key", KEY_BYTES)?)?;
    let lsn = Lsn(reader.u64("lsn")?);
    let number = reader.u8("kind")?;
    let kind = Kind::from_number(number).ok_or(CodecError::Invalid { field: "kind", value: number.into() })?;
    let length = reader.length_prefixed("payload")?.len();
    // A frame is at most 1 GiB, so that both ends fit.
    Ok(Entry { key, lsn, kind, start: start as u32, end: (start + length) as u32 })
}
