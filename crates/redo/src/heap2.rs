//! The heap's second table of operations. Source: `heap2_redo` and the `heap_xlog_*` functions of `heapam.c`.

use crate::block_redo::{BlockRedo, ResourceManager};
use crate::error::Misfit;
use crate::heap::{StoredHeader, XmaxChange, add_tuple, clear_all_visible, init_if_first};
use crate::heap_tuple::HeapTuple;
use crate::page_items::{
    Bounds, Page, offset_numbers, repair_fragmentation, set_flags, set_item_id, truncate_line_pointers,
};
use crate::visibility_map;
use quire_types::{CodecError, Fork, Reader};
use quire_wal::page::{ItemId, ItemState, PD_ALL_VISIBLE, set_lsn};
use quire_wal::rmgr::{
    XLH_FREEZE_XVAC, XLH_INSERT_ALL_FROZEN_SET, XLH_INSERT_ALL_VISIBLE_CLEARED, XLH_INVALID_XVAC, XLOG_HEAP_INIT_PAGE,
    XLOG_HEAP_OPMASK, XLOG_HEAP2_FREEZE_PAGE, XLOG_HEAP2_LOCK_UPDATED, XLOG_HEAP2_MULTI_INSERT, XLOG_HEAP2_PRUNE,
    XLOG_HEAP2_VACUUM, XLOG_HEAP2_VISIBLE,
};

/// All eight operations are known; two are there for logical decoding and touch no page.
pub(crate) const MANAGER: ResourceManager = ResourceManager { supports: |_| true, redo };

fn redo(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let operation = redo.record.info & XLOG_HEAP_OPMASK;
    if operation == XLOG_HEAP2_VISIBLE {
        return visible(page, redo);
    }
    match (operation, redo.block.id) {
        (XLOG_HEAP2_PRUNE, 0) => prune(page, redo),
        (XLOG_HEAP2_VACUUM, 0) => vacuum(page, redo),
        (XLOG_HEAP2_FREEZE_PAGE, 0) => freeze_page(page, redo),
        (XLOG_HEAP2_MULTI_INSERT, 0) => multi_insert(page, redo),
        (XLOG_HEAP2_LOCK_UPDATED, 0) => lock_updated(page, redo),
        _ => return Err(redo.unexpected_block()),
    }?;
    set_lsn(page, redo.lsn);
    Ok(())
}

/// `heap_xlog_prune` and `heap_page_prune_execute`: pairs of redirections, then dead items, then unused ones.
fn prune(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let mut main = Reader::new(redo.record.main_data);
    let _latest_removed_xid = main.u32("latest removed transaction")?;
    let (redirected, dead) = (main.u16("redirected items")?, main.u16("dead items")?);
    let mut data = Reader::new(redo.block.data);
    for pair in data.bytes("redirected items", usize::from(redirected) * 4)?.chunks_exact(4) {
        let [from, to] = [&pair[..2], &pair[2..]].map(|half| u16::from_le_bytes([half[0], half[1]]));
        set_item_id(page, from, ItemId::redirect(to))?;
    }
    for offset in offset_numbers(data.bytes("dead items", usize::from(dead) * 2)?) {
        set_item_id(page, offset, ItemId::dead())?;
    }
    for offset in offset_numbers(data.rest()) {
        set_item_id(page, offset, ItemId::UNUSED)?;
    }
    repair_fragmentation(page)
}

/// `heap_xlog_vacuum`: dead line pointers, which have no storage any more, become unused.
fn vacuum(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let count = Reader::new(redo.record.main_data).u16("unused items")?;
    let listed = Reader::new(redo.block.data).bytes("unused items", usize::from(count) * 2)?;
    for offset in offset_numbers(listed) {
        let id = Bounds::of(page)?.item_id(page, offset)?;
        if id.state() != ItemState::Dead || id.has_storage() {
            return Err(Misfit::ItemState(offset));
        }
        set_item_id(page, offset, ItemId::UNUSED)?;
    }
    truncate_line_pointers(page)
}

/// `heap_xlog_visible`: block 0 is the visibility map's page, block 1 the heap's, whose LSN stays as it was.
fn visible(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let mut main = Reader::new(redo.record.main_data);
    let _cutoff_xid = main.u32("cutoff transaction")?;
    let bits = main.u8("visibility bits")?;
    match (redo.block.id, redo.block.rel.fork) {
        (0, Fork::VisibilityMap) => set_visible(page, redo, bits),
        (1, Fork::Main) => {
            Bounds::of(page)?;
            set_flags(page, PD_ALL_VISIBLE);
            Ok(())
        }
        _ => Err(redo.unexpected_block()),
    }
}

fn set_visible(page: &mut Page, redo: &BlockRedo<'_>, bits: u8) -> Result<(), Misfit> {
    let heap_block = redo.block_number(1)?;
    if visibility_map::map_block(heap_block) != redo.block.block {
        return Err(Misfit::Value { field: "heap block", value: heap_block.into() });
    }
    visibility_map::set(page, heap_block, bits, redo.lsn)
}

/// `heap_xlog_freeze_page` and `heap_execute_freeze_tuple`.
fn freeze_page(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    /// `sizeof(xl_heap_freeze_tuple)`.
    const PLAN_BYTES: usize = 12;
    let mut main = Reader::new(redo.record.main_data);
    let _cutoff_xid = main.u32("cutoff transaction")?;
    let count = usize::from(main.u16("frozen tuples")?);
    let plans = Reader::new(redo.block.data).bytes("freeze plans", count * PLAN_BYTES)?;
    plans.chunks_exact(PLAN_BYTES).try_for_each(|plan| freeze_tuple(page, plan))
}

fn freeze_tuple(page: &mut Page, plan: &[u8]) -> Result<(), Misfit> {
    const FROZEN_XID: u32 = 2;
    let mut plan = Reader::new(plan);
    let (xmax, offset) = (plan.u32("xmax")?, plan.u16("offset")?);
    let mut tuple = HeapTuple::of(page, offset)?;
    tuple.set_xmax(xmax);
    tuple.set_infomask2(plan.u16("infomask2")?);
    tuple.set_infomask(plan.u16("infomask")?);
    let flags = plan.u8("freeze flags")?;
    if flags & XLH_FREEZE_XVAC != 0 {
        tuple.set_command(FROZEN_XID);
    }
    if flags & XLH_INVALID_XVAC != 0 {
        tuple.set_command(0);
    }
    Ok(())
}

/// `heap_xlog_multi_insert`. A record that initialises the page leaves out the offset numbers, which ascend from 1.
fn multi_insert(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let mut main = Reader::new(redo.record.main_data);
    let [flags, _padding] = main.array("insert flags")?;
    let count = main.u16("inserted tuples")?;
    let is_init = redo.record.info & XLOG_HEAP_INIT_PAGE != 0;
    init_if_first(page, redo);
    let mut tuples = MultiInsertTuples::new(redo.block.data);
    for number in 1..=count {
        let offset = if is_init { number } else { main.u16("offset")? };
        let (header, rest) = tuples.next()?;
        add_tuple(page, redo.block.block, offset, &header.complete(redo.record.xid, 0), rest)?;
    }
    tuples.left.finish()?;
    clear_all_visible(page, flags & XLH_INSERT_ALL_VISIBLE_CLEARED != 0);
    if flags & XLH_INSERT_ALL_FROZEN_SET != 0 {
        set_flags(page, PD_ALL_VISIBLE);
    }
    Ok(())
}

/// The tuples of a multi-insert: each a header aligned to two bytes (`xl_multi_insert_tuple`), then its data.
struct MultiInsertTuples<'a> {
    left: Reader<'a>,
    total_bytes: usize,
}

impl<'a> MultiInsertTuples<'a> {
    fn new(data: &'a [u8]) -> MultiInsertTuples<'a> {
        MultiInsertTuples { left: Reader::new(data), total_bytes: data.len() }
    }

    fn next(&mut self) -> Result<(StoredHeader, &'a [u8]), Misfit> {
        let position = self.total_bytes - self.left.remaining();
        self.left.bytes("padding", position % 2)?;
        let length = self.left.u16("tuple length")?;
        let header = StoredHeader::read(&mut self.left)?;
        let rest: Result<_, CodecError> = self.left.bytes("tuple", length.into());
        Ok((header, rest?))
    }
}

/// `heap_xlog_lock_updated`: a later version of a locked row is locked as well.
fn lock_updated(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let XmaxChange { xmax, offset, infobits, .. } = XmaxChange::read(redo.record.main_data)?;
    let mut tuple = HeapTuple::of(page, offset)?;
    tuple.set_xmax_bits(infobits);
    tuple.set_xmax(xmax);
    Ok(())
}
