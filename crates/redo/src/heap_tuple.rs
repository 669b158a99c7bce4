//! The header of a heap tuple. Source: `htup_details.h`.

use crate::error::Misfit;
use crate::page_items::{Page, normal_item, put, u16_at, u32_at};

/// `SizeofHeapTupleHeader`; the null bitmap and the data follow.
pub(crate) const TUPLE_HEADER_BYTES: usize = 23;

pub(crate) const XMAX_KEYSHR_LOCK: u16 = 0x0010;
pub(crate) const COMBOCID: u16 = 0x0020;
pub(crate) const XMAX_EXCL_LOCK: u16 = 0x0040;
pub(crate) const XMAX_LOCK_ONLY: u16 = 0x0080;
pub(crate) const XMIN_FROZEN: u16 = 0x0300;
pub(crate) const XMAX_COMMITTED: u16 = 0x0400;
pub(crate) const XMAX_INVALID: u16 = 0x0800;
pub(crate) const XMAX_IS_MULTI: u16 = 0x1000;
const LOCK_MASK: u16 = XMAX_KEYSHR_LOCK | XMAX_EXCL_LOCK;
/// Everything that says who deleted or locked the tuple (`HEAP_XMAX_BITS`).
const XMAX_BITS: u16 = XMAX_COMMITTED | XMAX_INVALID | XMAX_IS_MULTI | LOCK_MASK | XMAX_LOCK_ONLY;
/// What `VACUUM FULL` of long ago left behind (`HEAP_MOVED`).
const MOVED: u16 = 0xC000;
/// All bits about transactions (`HEAP_XACT_MASK`).
pub(crate) const XACT_MASK: u16 = 0xFFF0;

const KEYS_UPDATED: u16 = 0x2000;
const HOT_UPDATED: u16 = 0x4000;

/// `SpecTokenOffsetNumber`: the tuple was inserted speculatively and is not confirmed.
pub(crate) const SPECULATIVE_OFFSET: u16 = 0xFFFE;
/// `MovedPartitionsOffsetNumber`, with an invalid block number: the row went to another partition.
const MOVED_PARTITIONS: (u32, u16) = (u32::MAX, 0xFFFD);

const XMIN_AT: usize = 0;
const XMAX_AT: usize = 4;
/// Command id, or the transaction of an old `VACUUM FULL` (`t_field3`).
const COMMAND_AT: usize = 8;
const CTID_AT: usize = 12;
const INFOMASK2_AT: usize = 18;
const INFOMASK_AT: usize = 20;
const HOFF_AT: usize = 22;

/// A tuple on a heap page: at least a whole header.
pub(crate) struct HeapTuple<'p> {
    bytes: &'p mut [u8],
}

impl<'p> HeapTuple<'p> {
    /// The tuple with this offset number.
    pub fn of(page: &'p mut Page, offset: u16) -> Result<HeapTuple<'p>, Misfit> {
        let range = normal_item(page, offset)?;
        if range.len() < TUPLE_HEADER_BYTES {
            return Err(Misfit::ItemBounds { offset, start: range.start, length: range.len() });
        }
        Ok(HeapTuple { bytes: &mut page[range] })
    }

    /// The tuple that a mask found; `None` if it is too short to be one.
    pub fn from_bytes(bytes: &'p mut [u8]) -> Option<HeapTuple<'p>> {
        (bytes.len() >= TUPLE_HEADER_BYTES).then_some(HeapTuple { bytes })
    }

    /// `t_infomask`.
    pub fn infomask(&self) -> u16 {
        u16_at(self.bytes, INFOMASK_AT)
    }

    /// Sets `t_infomask`.
    pub fn set_infomask(&mut self, infomask: u16) {
        put(self.bytes, INFOMASK_AT, &infomask.to_le_bytes());
    }

    /// Sets `t_infomask2`.
    pub fn set_infomask2(&mut self, infomask2: u16) {
        put(self.bytes, INFOMASK2_AT, &infomask2.to_le_bytes());
    }

    /// `t_hoff`, where the data begin, of a tuple that was only looked up.
    pub fn data_offset_of(tuple: &[u8]) -> Option<usize> {
        tuple.get(HOFF_AT).map(|offset| usize::from(*offset))
    }

    /// Sets `t_xmin`.
    pub fn set_xmin(&mut self, xid: u32) {
        put(self.bytes, XMIN_AT, &xid.to_le_bytes());
    }

    /// Sets `t_xmax`.
    pub fn set_xmax(&mut self, xid: u32) {
        put(self.bytes, XMAX_AT, &xid.to_le_bytes());
    }

    /// Sets the field that holds a command id or the transaction of an old `VACUUM FULL`.
    pub fn set_command(&mut self, value: u32) {
        put(self.bytes, COMMAND_AT, &value.to_le_bytes());
    }

    /// `HeapTupleHeaderSetCmax` with the first command id, which is what redo always stores.
    pub fn reset_command(&mut self) {
        self.set_command(0);
        self.set_infomask(self.infomask() & !COMBOCID);
    }

    /// The offset number in `t_ctid`.
    pub fn ctid_offset(&self) -> u16 {
        u16_at(self.bytes, CTID_AT + 4)
    }

    /// Sets `t_ctid`.
    pub fn set_ctid(&mut self, block: u32, offset: u16) {
        put(self.bytes, CTID_AT, &item_pointer(block, offset));
    }

    /// `HeapTupleHeaderSetMovedPartitions`.
    pub fn set_moved_partitions(&mut self) {
        self.set_ctid(MOVED_PARTITIONS.0, MOVED_PARTITIONS.1);
    }

    /// Sets or clears the mark that a heap-only version follows.
    pub fn set_hot_updated(&mut self, hot_updated: bool) {
        let rest = u16_at(self.bytes, INFOMASK2_AT) & !HOT_UPDATED;
        self.set_infomask2(if hot_updated { rest | HOT_UPDATED } else { rest });
    }

    /// Forgets who deleted or locked the tuple, then sets what the record says of it
    /// (`fix_infomask_from_infobits`).
    pub fn set_xmax_bits(&mut self, logged: u8) {
        const FLAGS: [(u8, u16); 4] =
            [(0x01, XMAX_IS_MULTI), (0x02, XMAX_LOCK_ONLY), (0x04, XMAX_EXCL_LOCK), (0x08, XMAX_KEYSHR_LOCK)];
        const LOGGED_KEYS_UPDATED: u8 = 0x10;
        let kept = self.infomask() & !(XMAX_BITS | MOVED);
        let set = FLAGS.iter().filter(|(bit, _)| logged & bit != 0).fold(0, |set, (_, flag)| set | flag);
        self.set_infomask(kept | set);
        let kept = u16_at(self.bytes, INFOMASK2_AT) & !KEYS_UPDATED;
        self.set_infomask2(if logged & LOGGED_KEYS_UPDATED != 0 { kept | KEYS_UPDATED } else { kept });
    }

    /// `HEAP_XMAX_IS_LOCKED_ONLY`: the tuple is neither deleted nor updated.
    pub fn is_only_locked(&self) -> bool {
        let infomask = self.infomask();
        infomask & XMAX_LOCK_ONLY != 0 || infomask & (XMAX_IS_MULTI | LOCK_MASK) == XMAX_EXCL_LOCK
    }

    /// The data, from `t_hoff` on.
    pub fn data_mut(&mut self) -> Option<&mut [u8]> {
        let at = HeapTuple::data_offset_of(self.bytes)?;
        self.bytes.get_mut(at..)
    }
}

/// An `ItemPointerData`: the block as two halves, high one first, then the offset number.
pub(crate) fn item_pointer(block: u32, offset: u16) -> [u8; 6] {
    let [a, b, c, d] = block.to_le_bytes();
    let [e, f] = offset.to_le_bytes();
    [c, d, a, b, e, f]
}

/// The fields of a new tuple's header.
pub(crate) struct NewHeader {
    /// `t_xmin`.
    pub xmin: u32,
    /// `t_xmax`.
    pub xmax: u32,
    /// `t_infomask2`.
    pub infomask2: u16,
    /// `t_infomask`.
    pub infomask: u16,
    /// `t_hoff`.
    pub data_offset: u8,
}

impl NewHeader {
    /// Writes the header, pointing at itself; the command id is the first one, so no combo command id is meant.
    pub fn write(&self, block: u32, offset: u16) -> [u8; TUPLE_HEADER_BYTES] {
        let mut header = [0; TUPLE_HEADER_BYTES];
        put(&mut header, XMIN_AT, &self.xmin.to_le_bytes());
        put(&mut header, XMAX_AT, &self.xmax.to_le_bytes());
        put(&mut header, CTID_AT, &item_pointer(block, offset));
        put(&mut header, INFOMASK2_AT, &self.infomask2.to_le_bytes());
        put(&mut header, INFOMASK_AT, &(self.infomask & !COMBOCID).to_le_bytes());
        header[HOFF_AT] = self.data_offset;
        header
    }
}

/// Reads the block half of an `ItemPointerData` that the caller knows to be within `bytes`.
pub(crate) fn item_pointer_block(bytes: &[u8], at: usize) -> u32 {
    u32_at(bytes, at).rotate_left(16)
}
