//! Pages of the pending list, whose items are the keys of rows in the order they came. Source:
//! `ginRedoUpdateMetapage`, `ginRedoInsertListPage`, `ginRedoDeleteListPages`.

use super::meta::{DeleteListPages, UpdateMeta};
use super::opaque::{FLAG_DELETED, FLAG_LIST, FLAG_LIST_FULL_ROW, NO_BLOCK, Opaque};
use crate::block_redo::BlockRedo;
use crate::error::Misfit;
use crate::index_tuple;
use crate::page_items::{Bounds, Page, add_index_item};
use quire_types::Reader;

/// The list's last page: it takes a row's tuples in, or a sublist is appended to it.
pub(super) fn extend_tail(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let update = UpdateMeta::read(redo.record.main_data)?;
    let mut tail = Opaque::of(page)?;
    tail.require(FLAG_LIST, FLAG_LIST)?;
    if update.tuples > 0 {
        append_tuples(page, update.tuples, redo.block.data)?;
        tail.count = tail.count.checked_add(1).ok_or(Misfit::TooManyItems)?;
    } else if update.previous_tail != NO_BLOCK {
        tail.right = update.new_right;
    } else {
        return Err(redo.unexpected_block());
    }
    tail.write(page)
}

/// A new page of a sublist, which holds the tuples of one row. All of the row is there once the sublist ends.
pub(super) fn write_page(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let mut main = Reader::new(redo.record.main_data);
    let (right, tuples) = (main.u32("right link")?, main.u32("tuples")?);
    let (count, full_row) = if right == NO_BLOCK { (1, FLAG_LIST_FULL_ROW) } else { (0, 0) };
    Opaque { right, count, flags: FLAG_LIST | full_row }.init_page(page)?;
    append_tuples(page, tuples, redo.block.data)
}

/// A page that was taken off the list. What was on it does not matter any more, so it is made anew.
pub(super) fn delete_page(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    if u32::from(redo.block.id) > DeleteListPages::read(redo.record.main_data)?.pages {
        return Err(redo.unexpected_block());
    }
    Opaque::new(FLAG_DELETED).init_page(page)
}

/// Adds `count` tuples, which are one after the other in `data`, after those that the page has. Their sizes are always
/// multiples of eight.
fn append_tuples(page: &mut Page, count: u32, data: &[u8]) -> Result<(), Misfit> {
    let mut left = data;
    for _ in 0..count {
        let (tuple, rest) = index_tuple::split_first(left)?;
        add_index_item(page, Bounds::of(page)?.item_count() as u16 + 1, tuple)?;
        left = rest;
    }
    Ok(Reader::new(left).finish()?)
}
