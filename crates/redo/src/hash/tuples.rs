//! Tuples put into a bucket's pages, moved between them, and deleted.

use super::opaque::{FLAG_HAS_DEAD_TUPLES, change_flags};
use crate::block_redo::BlockRedo;
use crate::error::Misfit;
use crate::index_tuple::split_first;
use crate::page_items::{Page, add_index_item, delete_listed_items, offset_numbers};
use quire_types::Reader;

/// `hash_xlog_insert`.
pub(super) fn insert(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let offset = Reader::new(redo.record.main_data).u16("offset")?;
    add_index_item(page, offset, redo.block.data)
}

/// `hash_xlog_move_page_contents`: the page that the tuples go to.
pub(super) fn add_moved(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let tuples = Reader::new(redo.record.main_data).u16("moved tuples")?;
    insert_all(page, redo.block.data, tuples)
}

/// `hash_xlog_move_page_contents`: the page that the tuples come from.
pub(super) fn remove_moved(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    delete_listed_items(page, redo.block.data)
}

/// Inserts `count` tuples: `data` has their offset numbers, then the tuples with their padding.
pub(super) fn insert_all(page: &mut Page, data: &[u8], count: u16) -> Result<(), Misfit> {
    let mut data = Reader::new(data);
    let offsets = data.bytes("offsets of moved tuples", usize::from(count) * 2)?;
    let mut tuples = data.rest();
    for offset in offset_numbers(offsets) {
        let (tuple, rest) = split_first(tuples)?;
        add_index_item(page, offset, tuple)?;
        tuples = rest;
    }
    Ok(Reader::new(tuples).finish()?)
}

/// `hash_xlog_delete`.
pub(super) fn delete(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let clears_dead_mark = Reader::new(redo.record.main_data).u8("whether no dead tuples are left")? != 0;
    delete_listed_items(page, redo.block.data)?;
    if clears_dead_mark { clear_dead_mark(page) } else { Ok(()) }
}

/// `hash_xlog_vacuum_one_page`: an insertion that looked for room deleted what was marked dead.
pub(super) fn vacuum(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let mut main = Reader::new(redo.record.main_data);
    let _latest_removed_xid = main.u32("latest removed transaction")?;
    let count = main.u32("deleted items")?;
    let bytes = (count as usize).saturating_mul(2);
    delete_listed_items(page, main.bytes("deleted items", bytes)?)?;
    clear_dead_mark(page)
}

fn clear_dead_mark(page: &mut Page) -> Result<(), Misfit> {
    change_flags(page, |flags| flags & !FLAG_HAS_DEAD_TUPLES)
}
