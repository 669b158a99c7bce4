//! GiST indexes. Source: `gistxlog.c`, `gistutil.c`, `gist.h`.
//!
//! A split is made known in two records: the pages that came of it, all but the last marked to be followed to the
//! right, and then the downlinks in the parent, whose record also takes the mark off the left child and gives it a node
//! sequence number (NSN). That number is the LSN of the parent's record, so PostgreSQL can only set it after an image
//! of the child went into the record: redo sets it also on a child whose image it has restored.
//!
//! A child is one level below the page that gets its downlink, so no record means one page in two roles.

mod opaque;
mod page_deletion;
mod split;
#[cfg(test)]
mod tests;

use crate::block_redo::{BlockRedo, ResourceManager};
use crate::error::Misfit;
use crate::index_tuple::split_first;
use crate::page_items::{Bounds, Page, add_index_item, delete_listed_items, overwrite_index_item};
use opaque::Opaque;
use quire_types::{Lsn, Reader};
use quire_wal::ServerVersion;
use quire_wal::page::set_lsn;
use quire_wal::rmgr::*;

pub(crate) use opaque::{FLAG_FOLLOW_RIGHT, FLAG_HAS_GARBAGE, FLAG_LEAF, PAGE_ID};

/// The first server whose vacuum does not note on a leaf that tuples were deleted, in VACUUM itself as in redo. 15.18
/// does; 15.19 was not to be had, and of it this is a guess.
const MARKS_DELETED_BEFORE: ServerVersion = ServerVersion::new(15, 20);

pub(crate) const MANAGER: ResourceManager = ResourceManager { supports, redo };

fn supports(info: u8) -> bool {
    matches!(
        info & XLR_RMGR_INFO_MASK,
        XLOG_GIST_PAGE_UPDATE
            | XLOG_GIST_DELETE
            | XLOG_GIST_PAGE_REUSE
            | XLOG_GIST_PAGE_SPLIT
            | XLOG_GIST_PAGE_DELETE
            | XLOG_GIST_ASSIGN_LSN
    )
}

/// Whether it matters for redo which server wrote a record of this kind.
pub(crate) fn depends_on_server(info: u8) -> bool {
    info & XLR_RMGR_INFO_MASK == XLOG_GIST_PAGE_UPDATE
}

/// `gist_redo`. Records that a page is reused, or that there should be another LSN, reference no page.
fn redo(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    match (redo.record.info & XLR_RMGR_INFO_MASK, redo.block.id) {
        (XLOG_GIST_PAGE_UPDATE, 0) => update(page, redo),
        (XLOG_GIST_PAGE_UPDATE, 1) | (XLOG_GIST_PAGE_SPLIT, 0) => clear_follow_right(page, redo.lsn),
        (XLOG_GIST_DELETE, 0) => delete(page, redo),
        (XLOG_GIST_PAGE_SPLIT, _) => split::part(page, redo),
        (XLOG_GIST_PAGE_DELETE, 0) => page_deletion::leaf(page, redo),
        (XLOG_GIST_PAGE_DELETE, 1) => page_deletion::parent(page, redo),
        _ => return Err(redo.unexpected_block()),
    }?;
    set_lsn(page, redo.lsn);
    Ok(())
}

/// What redo does to a page after restoring its image: a child still gets its NSN and loses its mark.
pub(crate) fn after_image(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    match (redo.record.info & XLR_RMGR_INFO_MASK, redo.block.id) {
        (XLOG_GIST_PAGE_UPDATE, 1) | (XLOG_GIST_PAGE_SPLIT, 0) => clear_follow_right(page, redo.lsn),
        _ => Ok(()),
    }
}

/// `gistRedoClearFollowRight`.
fn clear_follow_right(page: &mut Page, lsn: Lsn) -> Result<(), Misfit> {
    let mut opaque = Opaque::of(page)?;
    opaque.nsn = lsn;
    opaque.flags &= !FLAG_FOLLOW_RIGHT;
    opaque.write(page)
}

/// `gistRedoPageUpdateRecord`: items deleted and others appended, or one overwritten.
fn update(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let mut main = Reader::new(redo.record.main_data);
    let (deleted, inserted) = (main.u16("deleted items")?, main.u16("inserted items")?);
    let mut data = Reader::new(redo.block.data);
    if (deleted, inserted) == (1, 1) {
        let offset = data.u16("offset")?;
        let (tuple, rest) = split_first(data.rest())?;
        Reader::new(rest).finish()?;
        return overwrite_index_item(page, offset, tuple);
    }
    if deleted > 0 {
        delete_listed_items(page, data.bytes("deleted items", usize::from(deleted) * 2)?)?;
        if redo.server < MARKS_DELETED_BEFORE {
            mark_tuples_deleted(page)?;
        }
    }
    append_items(page, data.rest(), inserted.into())
}

/// `GistMarkTuplesDeleted`, which vacuum asks for on leaves only. No index access looks at the mark, but `pageinspect`
/// shows it (`gist_page_opaque_info`), so it counts in comparisons.
fn mark_tuples_deleted(page: &mut Page) -> Result<(), Misfit> {
    let mut opaque = Opaque::of(page)?;
    if opaque.flags & FLAG_LEAF != 0 {
        opaque.flags |= opaque::FLAG_TUPLES_DELETED;
    }
    opaque.write(page)
}

/// `gistfillbuffer`: appends the tuples that follow each other in `tuples`, which are `count`.
fn append_items(page: &mut Page, tuples: &[u8], count: u32) -> Result<(), Misfit> {
    let mut left = tuples;
    let mut appended = 0;
    while !left.is_empty() {
        let (tuple, rest) = split_first(left)?;
        let last = Bounds::of(page)?.item_count() as u16;
        add_index_item(page, last + 1, tuple)?;
        appended += 1;
        left = rest;
    }
    if appended == count { Ok(()) } else { Err(Misfit::Value { field: "number of tuples", value: count.into() }) }
}

/// `gistRedoDeleteRecord`: an insertion that looked for room took dead items off a leaf.
///
/// Redo of PostgreSQL up to 15.18 also marks that tuples were deleted. Its insertion does not in any version; here the
/// page is as the server has it that wrote the record.
fn delete(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let mut main = Reader::new(redo.record.main_data);
    let _latest_removed_xid = main.u32("latest removed transaction")?;
    let count = main.u16("deleted items")?;
    delete_listed_items(page, main.bytes("deleted items", usize::from(count) * 2)?)?;
    let mut opaque = Opaque::of(page)?;
    opaque.flags &= !FLAG_HAS_GARBAGE;
    opaque.write(page)
}
