//! Index tuples as B-trees use them: plain, with a posting list of heap TIDs, or pivots that lead downwards.
//! Source: `itup.h`, `nbtree.h`.

use crate::error::Misfit;
use crate::heap_tuple::{item_pointer, item_pointer_block};
use crate::index_tuple::{INFO_AT, SIZE_MASK};
use crate::page_items::{align, put, u16_at};

pub(super) use crate::index_tuple::{HEADER_BYTES as TUPLE_HEADER_BYTES, size, split_first};

/// `sizeof(ItemPointerData)`.
pub(super) const TID_BYTES: usize = 6;
/// `BTMaxItemSizeNoHeapTid`: the longest tuple that fits a page three times.
const TUPLE_BYTES_MAX: usize = 2712;

/// `INDEX_ALT_TID_MASK`: the TID field holds something else.
const ALTERNATIVE_TID: u16 = 0x2000;
const OFFSET_AT: usize = 4;
/// `BT_IS_POSTING` in the TID's offset number.
const IS_POSTING: u16 = 0x2000;
/// `BT_OFFSET_MASK`: how many TIDs.
const COUNT_MASK: u16 = 0x0FFF;

fn invalid(field: &'static str, value: usize) -> Misfit {
    Misfit::Value { field, value: value as u64 }
}

/// The block that a pivot tuple leads to (`BTreeTupleGetDownLink`).
pub(super) fn downlink(tuple: &[u8]) -> Result<u32, Misfit> {
    size(tuple)?;
    Ok(item_pointer_block(tuple, 0))
}

/// `BTreeTupleSetDownLink`.
pub(super) fn set_downlink(tuple: &mut [u8], block: u32) -> Result<(), Misfit> {
    size(tuple)?;
    put(tuple, 0, &item_pointer(block, u16_at(tuple, OFFSET_AT)));
    Ok(())
}

/// The tuple without attributes that stands for a half-dead page's high key and names the top of the branch that is
/// being deleted (`BTreeTupleSetTopParent`).
pub(super) fn top_parent(block: u32) -> [u8; TUPLE_HEADER_BYTES] {
    let mut tuple = [0; TUPLE_HEADER_BYTES];
    put(&mut tuple, 0, &item_pointer(block, 0));
    put(&mut tuple, INFO_AT, &(TUPLE_HEADER_BYTES as u16 | ALTERNATIVE_TID).to_le_bytes());
    tuple
}

/// The heap TIDs that a leaf's tuple has, and where its key ends.
pub(super) struct Leaf<'a> {
    /// The tuple up to its TIDs, header included.
    pub key: &'a [u8],
    /// Its TIDs, six bytes each.
    pub tids: &'a [u8],
    /// Whether the TIDs are a posting list.
    pub is_posting: bool,
}

impl<'a> Leaf<'a> {
    /// Takes a leaf's tuple apart; a pivot is refused.
    pub fn of(tuple: &'a [u8]) -> Result<Leaf<'a>, Misfit> {
        let tuple = &tuple[..size(tuple)?];
        if u16_at(tuple, INFO_AT) & ALTERNATIVE_TID == 0 {
            return Ok(Leaf { key: tuple, tids: &tuple[..TID_BYTES], is_posting: false });
        }
        let status = u16_at(tuple, OFFSET_AT);
        if status & IS_POSTING == 0 {
            return Err(invalid("leaf tuple's status", status.into()));
        }
        let start = item_pointer_block(tuple, 0) as usize;
        let end = start.saturating_add(usize::from(status & COUNT_MASK) * TID_BYTES);
        let tids = tuple.get(start..end).ok_or(invalid("posting list's end", end))?;
        let key = tuple.get(..start).filter(|key| key.len() >= TUPLE_HEADER_BYTES);
        let key = key.ok_or(invalid("posting list's start", start))?;
        Ok(Leaf { key, tids, is_posting: true })
    }
}

/// Where the posting list is in a tuple that must have one.
pub(super) fn posting_range(tuple: &[u8]) -> Result<std::ops::Range<usize>, Misfit> {
    let leaf = Leaf::of(tuple)?;
    if leaf.is_posting {
        Ok(leaf.key.len()..leaf.key.len() + leaf.tids.len())
    } else {
        Err(invalid("posting list's length", 0))
    }
}

/// A tuple in the making.
pub(super) struct Scratch {
    buffer: [u8; TUPLE_BYTES_MAX],
    length: usize,
}

impl Scratch {
    /// An unfinished tuple with the key of `leaf`; TIDs are to be pushed.
    pub fn with_key(leaf: &Leaf<'_>) -> Result<Scratch, Misfit> {
        Scratch::copy_of(leaf.key)
    }

    /// A copy of a tuple, perhaps with the padding after it.
    pub fn copy_of(bytes: &[u8]) -> Result<Scratch, Misfit> {
        let mut scratch = Scratch { buffer: [0; TUPLE_BYTES_MAX], length: 0 };
        scratch.push(bytes)?;
        Ok(scratch)
    }

    /// Appends bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Misfit> {
        let end = self.length + bytes.len();
        let room = self.buffer.get_mut(self.length..end).ok_or(invalid("index tuple's size", end))?;
        room.copy_from_slice(bytes);
        self.length = end;
        Ok(())
    }

    /// Finishes a tuple whose TIDs were pushed after `key_bytes` of key: a posting list, or a plain tuple if there is
    /// only one (`_bt_form_posting`).
    pub fn finish_posting(&mut self, key_bytes: usize) -> Result<(), Misfit> {
        let count = (self.length - key_bytes) / TID_BYTES;
        let info = u16_at(&self.buffer, INFO_AT) & !(SIZE_MASK | ALTERNATIVE_TID);
        if count == 0 || count > usize::from(COUNT_MASK) || !key_bytes.is_multiple_of(8) {
            return Err(invalid("posting list's length", count));
        }
        if count == 1 {
            self.buffer.copy_within(key_bytes..self.length, 0);
            self.buffer[key_bytes..self.length].fill(0);
            self.length = key_bytes;
            self.set_info(info);
        } else {
            self.length = align(self.length);
            let status = count as u16 | IS_POSTING;
            put(&mut self.buffer, 0, &item_pointer(key_bytes as u32, status));
            self.set_info(info | ALTERNATIVE_TID);
        }
        Ok(())
    }

    fn set_info(&mut self, flags: u16) {
        let info = flags | self.length as u16;
        put(&mut self.buffer, INFO_AT, &info.to_le_bytes());
    }

    /// The tuple.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    /// The tuple, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.length]
    }
}
