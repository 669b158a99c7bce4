//! GIN indexes. Source: `ginxlog.c`, `gindatapage.c`, `ginpostinglist.c`, `ginutil.c`, `ginblock.h`.
//!
//! An index on `tags` has a meta page; the entry tree, whose keys are the tags; a posting tree of heap TIDs for each
//! tag that is too frequent for a list inside its entry; and the pending list of rows whose tags are still to be put
//! into the trees. Inner pages of posting trees hold [posting items](posting_items), their leaves compressed [posting
//! lists](posting_list), and neither has line pointers.
//!
//! Splits, and vacuum of the entry tree, log images of the pages they write, so redo proper never sees those pages.

mod entry;
mod meta;
mod opaque;
mod pending_list;
mod posting_items;
mod posting_leaf;
mod posting_list;
#[cfg(test)]
mod tests;
mod unlink;

use crate::block_redo::{BlockRedo, ResourceManager};
use crate::error::Misfit;
use crate::heap_tuple::item_pointer_block;
use crate::page_items::Page;
use opaque::{FLAG_DATA, FLAG_INCOMPLETE_SPLIT, FLAG_LEAF, Opaque};
use quire_types::Reader;
use quire_wal::page::set_lsn;
use quire_wal::rmgr::*;

pub(crate) use opaque::FLAG_DELETED;

pub(crate) const MANAGER: ResourceManager = ResourceManager {
    supports: |info| (XLOG_GIN_CREATE_PTREE..=XLOG_GIN_VACUUM_DATA_LEAF_PAGE).contains(&(info & XLR_RMGR_INFO_MASK)),
    redo,
};

/// `gin_redo`.
fn redo(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    match (redo.record.info & XLR_RMGR_INFO_MASK, redo.block.id) {
        (XLOG_GIN_CREATE_PTREE, 0) => posting_leaf::create(page, redo.record.main_data),
        (XLOG_GIN_INSERT, 0) => insert(page, redo),
        (XLOG_GIN_INSERT, 1) | (XLOG_GIN_SPLIT, 3) => clear_incomplete_split(page),
        (XLOG_GIN_SPLIT, 0..=2) | (XLOG_GIN_VACUUM_PAGE, 0) => Err(Misfit::MissingImage),
        (XLOG_GIN_VACUUM_DATA_LEAF_PAGE, 0) => posting_leaf::recompress(page, redo.block.data),
        (XLOG_GIN_DELETE_PAGE, 0..=2) => unlink::delete_page(page, redo),
        (XLOG_GIN_UPDATE_META_PAGE, 0) => meta::update(page, redo),
        (XLOG_GIN_UPDATE_META_PAGE, 1) => pending_list::extend_tail(page, redo),
        (XLOG_GIN_INSERT_LISTPAGE, 0) => pending_list::write_page(page, redo),
        (XLOG_GIN_DELETE_LISTPAGE, 0) => meta::delete_list_pages(page, redo),
        (XLOG_GIN_DELETE_LISTPAGE, _) => pending_list::delete_page(page, redo),
        _ => Err(redo.unexpected_block()),
    }?;
    set_lsn(page, redo.lsn);
    Ok(())
}

/// `ginRedoInsert`: the main data says what kind of page it is and, unless that is a leaf, which child was split.
fn insert(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    /// `GIN_INSERT_ISDATA`.
    const IS_DATA: u16 = 1 << 0;
    /// `GIN_INSERT_ISLEAF`.
    const IS_LEAF: u16 = 1 << 1;
    let mut main = Reader::new(redo.record.main_data);
    let flags = main.u16("insertion's flags")?;
    let flag = |is_set: bool, flag: u16| if is_set { flag } else { 0 };
    let kind = flag(flags & IS_DATA != 0, FLAG_DATA) | flag(flags & IS_LEAF != 0, FLAG_LEAF);
    Opaque::of(page)?.require(FLAG_DATA | FLAG_LEAF, kind)?;
    let data = redo.block.data;
    match (flags & IS_DATA != 0, flags & IS_LEAF != 0) {
        (false, true) => entry::insert(page, data),
        (false, false) => entry::insert_downlink(page, data, right_child(main)?),
        (true, true) => posting_leaf::recompress(page, data),
        (true, false) => posting_items::insert_downlink(page, data, right_child(main)?),
    }
}

/// The right one of the two pages that a child was split into.
fn right_child(mut main: Reader<'_>) -> Result<u32, Misfit> {
    let _left: [u8; 4] = main.array("left child")?;
    let right: [u8; 4] = main.array("right child")?;
    Ok(item_pointer_block(&right, 0))
}

/// `ginRedoClearIncompleteSplit`.
fn clear_incomplete_split(page: &mut Page) -> Result<(), Misfit> {
    let mut opaque = Opaque::of(page)?;
    opaque.flags &= !FLAG_INCOMPLETE_SPLIT;
    opaque.write(page)
}
