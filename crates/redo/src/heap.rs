//! The heap's first table of operations. Source: `heap_redo` and the `heap_xlog_*` functions of `heapam.c`.
//!
//! Clearing bits of the visibility map is part of these records too, on a page that they do not reference: storage
//! keeps it as [`crate::Delta::VisibilityCleared`].

mod update;

use crate::block_redo::{BlockRedo, ResourceManager};
use crate::error::Misfit;
use crate::heap_tuple::{HeapTuple, NewHeader, TUPLE_HEADER_BYTES};
use crate::page_items::{Page, add_heap_item, clear_flags, note_prunable, put};
use quire_types::Reader;
use quire_wal::page::{PD_ALL_VISIBLE, init, set_lsn};
use quire_wal::rmgr::{
    XLH_DELETE_ALL_VISIBLE_CLEARED, XLH_DELETE_IS_PARTITION_MOVE, XLH_DELETE_IS_SUPER, XLH_INSERT_ALL_VISIBLE_CLEARED,
    XLOG_HEAP_CONFIRM, XLOG_HEAP_DELETE, XLOG_HEAP_HOT_UPDATE, XLOG_HEAP_INIT_PAGE, XLOG_HEAP_INPLACE,
    XLOG_HEAP_INSERT, XLOG_HEAP_LOCK, XLOG_HEAP_OPMASK, XLOG_HEAP_UPDATE,
};

/// All eight operations are known; truncation is there for logical decoding and touches no page.
pub(crate) const MANAGER: ResourceManager = ResourceManager { supports: |_| true, redo };

fn redo(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let operation = redo.record.info & XLOG_HEAP_OPMASK;
    match (operation, redo.block.id) {
        (XLOG_HEAP_INSERT, 0) => insert(page, redo),
        (XLOG_HEAP_DELETE, 0) => delete(page, redo),
        (XLOG_HEAP_UPDATE | XLOG_HEAP_HOT_UPDATE, 0 | 1) => update::redo(page, redo, operation == XLOG_HEAP_HOT_UPDATE),
        (XLOG_HEAP_CONFIRM, 0) => confirm(page, redo),
        (XLOG_HEAP_LOCK, 0) => lock(page, redo),
        (XLOG_HEAP_INPLACE, 0) => inplace(page, redo),
        _ => return Err(redo.unexpected_block()),
    }?;
    set_lsn(page, redo.lsn);
    Ok(())
}

/// A record that puts the first tuple on a page starts from an empty page.
pub(crate) fn init_if_first(page: &mut Page, redo: &BlockRedo<'_>) {
    if redo.record.info & XLOG_HEAP_INIT_PAGE != 0 {
        init(page, 0);
    }
}

/// Clears the page's own all-visible mark if the record says so.
pub(crate) fn clear_all_visible(page: &mut Page, is_cleared: bool) {
    if is_cleared {
        clear_flags(page, PD_ALL_VISIBLE);
    }
}

/// What a record stores of a tuple's header (`xl_heap_header`).
#[derive(Clone, Copy)]
pub(crate) struct StoredHeader {
    infomask2: u16,
    infomask: u16,
    data_offset: u8,
}

impl StoredHeader {
    /// Reads it where it comes next.
    pub fn read(data: &mut Reader<'_>) -> Result<StoredHeader, Misfit> {
        let [a, b, c, d, data_offset] = data.array("tuple header")?;
        Ok(StoredHeader { infomask2: u16::from_le_bytes([a, b]), infomask: u16::from_le_bytes([c, d]), data_offset })
    }

    /// The tuple header that redo makes of it.
    pub fn complete(self, xmin: u32, xmax: u32) -> NewHeader {
        let StoredHeader { infomask2, infomask, data_offset } = self;
        NewHeader { xmin, xmax, infomask2, infomask, data_offset }
    }

    /// Bytes between the fixed header and the data: the null bitmap and padding.
    fn bitmap_bytes(self) -> Result<usize, Misfit> {
        let value = u64::from(self.data_offset);
        let bytes = usize::from(self.data_offset).checked_sub(TUPLE_HEADER_BYTES);
        bytes.ok_or(Misfit::Value { field: "tuple's data offset", value })
    }
}

/// Puts a tuple on a page: its header, then what follows it.
pub(crate) fn add_tuple(
    page: &mut Page,
    block: u32,
    offset: u16,
    header: &NewHeader,
    rest: &[u8],
) -> Result<(), Misfit> {
    let start = add_heap_item(page, offset, TUPLE_HEADER_BYTES + rest.len())?;
    put(page, start, &header.write(block, offset));
    put(page, start + TUPLE_HEADER_BYTES, rest);
    Ok(())
}

/// `heap_xlog_insert`.
fn insert(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let mut main = Reader::new(redo.record.main_data);
    let (offset, flags) = (main.u16("offset")?, main.u8("insert flags")?);
    let mut data = Reader::new(redo.block.data);
    let header = StoredHeader::read(&mut data)?.complete(redo.record.xid, 0);
    init_if_first(page, redo);
    add_tuple(page, redo.block.block, offset, &header, data.rest())?;
    clear_all_visible(page, flags & XLH_INSERT_ALL_VISIBLE_CLEARED != 0);
    Ok(())
}

/// The fields that `xl_heap_delete`, `xl_heap_lock` and `xl_heap_lock_updated` have in common.
pub(crate) struct XmaxChange {
    /// The deleting or locking transaction, or a multixact.
    pub xmax: u32,
    /// The tuple.
    pub offset: u16,
    /// What the transaction does to the tuple, as logged.
    pub infobits: u8,
    /// Flags of the record.
    pub flags: u8,
}

impl XmaxChange {
    /// Reads the record's main data.
    pub fn read(main_data: &[u8]) -> Result<XmaxChange, Misfit> {
        let mut main = Reader::new(main_data);
        Ok(XmaxChange {
            xmax: main.u32("xmax")?,
            offset: main.u16("offset")?,
            infobits: main.u8("infobits")?,
            flags: main.u8("flags")?,
        })
    }
}

/// `heap_xlog_delete`.
fn delete(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let XmaxChange { xmax, offset, infobits, flags } = XmaxChange::read(redo.record.main_data)?;
    let mut tuple = HeapTuple::of(page, offset)?;
    tuple.set_xmax_bits(infobits);
    tuple.set_hot_updated(false);
    match flags & XLH_DELETE_IS_SUPER {
        0 => tuple.set_xmax(xmax),
        // A speculative insertion that lost: no transaction may see it, not even its own.
        _ => tuple.set_xmin(0),
    }
    tuple.reset_command();
    match flags & XLH_DELETE_IS_PARTITION_MOVE {
        0 => tuple.set_ctid(redo.block.block, offset),
        _ => tuple.set_moved_partitions(),
    }
    note_prunable(page, redo.record.xid);
    clear_all_visible(page, flags & XLH_DELETE_ALL_VISIBLE_CLEARED != 0);
    Ok(())
}

/// `heap_xlog_confirm`: a speculative insertion becomes a real one.
fn confirm(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let offset = Reader::new(redo.record.main_data).u16("offset")?;
    HeapTuple::of(page, offset)?.set_ctid(redo.block.block, offset);
    Ok(())
}

/// `heap_xlog_lock`.
fn lock(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let XmaxChange { xmax, offset, infobits, .. } = XmaxChange::read(redo.record.main_data)?;
    let mut tuple = HeapTuple::of(page, offset)?;
    tuple.set_xmax_bits(infobits);
    if tuple.is_only_locked() {
        tuple.set_hot_updated(false);
        tuple.set_ctid(redo.block.block, offset);
    }
    tuple.set_xmax(xmax);
    tuple.reset_command();
    Ok(())
}

/// `heap_xlog_inplace`: the data of a tuple is overwritten by data of the same length.
fn inplace(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let offset = Reader::new(redo.record.main_data).u16("offset")?;
    let mut tuple = HeapTuple::of(page, offset)?;
    let data = tuple.data_mut().ok_or(Misfit::ItemState(offset))?;
    if data.len() != redo.block.data.len() {
        return Err(Misfit::Value { field: "tuple's length", value: redo.block.data.len() as u64 });
    }
    data.copy_from_slice(redo.block.data);
    Ok(())
}
