//! Items taken off a leaf, whole or some of their heap TIDs. Source: `btree_xlog_vacuum`, `btree_xlog_delete`,
//! `btree_xlog_updates`, `_bt_update_posting`.

use super::opaque::{FLAG_HAS_GARBAGE, Opaque};
use super::tuple::{Leaf, Scratch, TID_BYTES};
use crate::block_redo::BlockRedo;
use crate::error::Misfit;
use crate::page_items::{Page, delete_listed_items, item, offset_numbers, overwrite_index_item};
use quire_types::Reader;

/// By vacuum.
pub(super) fn vacuum(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    take_off(page, Reader::new(redo.record.main_data), redo.block.data)
}

/// By an insertion that looked for room; the record also says which snapshots it conflicts with.
pub(super) fn delete(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let mut main = Reader::new(redo.record.main_data);
    let _latest_removed_xid = main.u32("latest removed transaction")?;
    take_off(page, main, redo.block.data)
}

fn take_off(page: &mut Page, mut main: Reader<'_>, data: &[u8]) -> Result<(), Misfit> {
    let (deleted, updated) = (main.u16("deleted items")?, main.u16("updated items")?);
    let mut data = Reader::new(data);
    let deleted = data.bytes("deleted items", usize::from(deleted) * 2)?;
    let updated = data.bytes("updated items", usize::from(updated) * 2)?;
    for offset in offset_numbers(updated) {
        let count = data.u16("deleted TIDs")?;
        update_posting(page, offset, data.bytes("deleted TIDs", usize::from(count) * 2)?)?;
    }
    delete_listed_items(page, deleted)?;
    let mut opaque = Opaque::of(page)?;
    opaque.flags &= !FLAG_HAS_GARBAGE;
    opaque.write(page)
}

/// Takes the TIDs at these positions out of a posting list; what remains is a shorter list or a plain tuple.
fn update_posting(page: &mut Page, offset: u16, positions: &[u8]) -> Result<(), Misfit> {
    let range = item(page, offset)?;
    let leaf = Leaf::of(&page[range])?;
    let mut remaining = Scratch::with_key(&leaf)?;
    let mut doomed = offset_numbers(positions).map(usize::from).peekable();
    for (position, tid) in leaf.tids.chunks_exact(TID_BYTES).enumerate() {
        if doomed.next_if_eq(&position).is_none() {
            remaining.push(tid)?;
        }
    }
    if let (false, _) | (_, Some(_)) = (leaf.is_posting, doomed.next()) {
        return Err(Misfit::ItemState(offset));
    }
    remaining.finish_posting(leaf.key.len())?;
    overwrite_index_item(page, offset, remaining.bytes())
}
