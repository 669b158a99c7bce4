//! Hash indexes. Source: `hash_xlog.c`, `hashpage.c`, `hashovfl.c`, `hash.h`.
//!
//! A bucket is a chain of pages: its primary page, then overflow pages. Bitmap pages say which overflow pages are in
//! use, and the meta page in block 0 counts tuples, buckets and overflow pages. Nearly every record changes a field
//! or two of the meta page along with the pages it is about.
//!
//! Records that move or delete tuples of an overflow page also reference the bucket's primary page, for the sake of the
//! lock that a standby must take on it. Redo leaves that page alone, its LSN included.

mod bitmap;
mod meta;
mod opaque;
mod overflow;
mod split;
mod tuples;

use crate::block_redo::{BlockRedo, ResourceManager};
use crate::error::Misfit;
use crate::page_items::Page;
use quire_wal::page::set_lsn;
use quire_wal::rmgr::*;

pub(crate) use opaque::{FLAG_BUCKET_PAGE, FLAG_HAS_DEAD_TUPLES, FLAG_OVERFLOW_PAGE, PAGE_ID, PAGE_TYPE_MASK};

pub(crate) const MANAGER: ResourceManager = ResourceManager { supports, redo };

/// A page that a split filled is logged as an image, so there is no redo of that record without one.
fn supports(info: u8) -> bool {
    let kind = info & XLR_RMGR_INFO_MASK;
    kind <= XLOG_HASH_VACUUM_ONE_PAGE && kind != XLOG_HASH_SPLIT_PAGE
}

fn redo(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    match (redo.record.info & XLR_RMGR_INFO_MASK, redo.block.id) {
        (XLOG_HASH_INIT_META_PAGE, 0) => meta::init(page, redo),
        (XLOG_HASH_INIT_BITMAP_PAGE, 0) | (XLOG_HASH_ADD_OVFL_PAGE, 3) => bitmap::init(page, redo),
        (XLOG_HASH_INIT_BITMAP_PAGE, 1) => meta::note_first_bitmap(page),
        (XLOG_HASH_INSERT, 0) => tuples::insert(page, redo),
        (XLOG_HASH_INSERT, 1) => meta::count_insertion(page),
        (XLOG_HASH_ADD_OVFL_PAGE, 0) => overflow::init(page, redo),
        (XLOG_HASH_ADD_OVFL_PAGE, 1) => overflow::append(page, redo),
        (XLOG_HASH_ADD_OVFL_PAGE, 2) => bitmap::mark_used(page, redo),
        (XLOG_HASH_ADD_OVFL_PAGE, 4) => meta::add_overflow_page(page, redo),
        (XLOG_HASH_SPLIT_ALLOCATE_PAGE, 0) => split::begin(page, redo),
        (XLOG_HASH_SPLIT_ALLOCATE_PAGE, 1) => split::init_new_bucket(page, redo),
        (XLOG_HASH_SPLIT_ALLOCATE_PAGE, 2) => meta::add_bucket(page, redo),
        (XLOG_HASH_SPLIT_COMPLETE, 0 | 1) => split::complete(page, redo),
        (XLOG_HASH_SPLIT_CLEANUP, 0) => split::clean_up(page),
        (XLOG_HASH_MOVE_PAGE_CONTENTS | XLOG_HASH_SQUEEZE_PAGE | XLOG_HASH_DELETE, 0) => return Ok(()),
        (XLOG_HASH_MOVE_PAGE_CONTENTS, 1) => tuples::add_moved(page, redo),
        (XLOG_HASH_MOVE_PAGE_CONTENTS, 2) => tuples::remove_moved(page, redo),
        (XLOG_HASH_SQUEEZE_PAGE, 1) => overflow::squeeze_into(page, redo),
        (XLOG_HASH_SQUEEZE_PAGE, 2) => overflow::free(page),
        (XLOG_HASH_SQUEEZE_PAGE, 3) => overflow::unlink_next(page, redo),
        (XLOG_HASH_SQUEEZE_PAGE, 4) => overflow::unlink_previous(page, redo),
        (XLOG_HASH_SQUEEZE_PAGE, 5) => bitmap::mark_free(page, redo),
        (XLOG_HASH_SQUEEZE_PAGE, 6) => meta::set_first_free(page, redo),
        (XLOG_HASH_DELETE, 1) => tuples::delete(page, redo),
        (XLOG_HASH_UPDATE_META_PAGE, 0) => meta::set_tuples(page, redo),
        (XLOG_HASH_VACUUM_ONE_PAGE, 0) => tuples::vacuum(page, redo),
        (XLOG_HASH_VACUUM_ONE_PAGE, 1) => meta::count_vacuumed(page, redo),
        _ => return Err(redo.unexpected_block()),
    }?;
    set_lsn(page, redo.lsn);
    Ok(())
}

#[cfg(test)]
mod tests;
