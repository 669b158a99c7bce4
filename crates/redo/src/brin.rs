//! BRIN indexes. Source: `brin_xlog.c`, `brin_pageops.c`, `brin_revmap.c`, `brin_page.h`.
//!
//! Block 0 is the meta page; the pages of the range map follow, which have one TID for each range of heap blocks; the
//! summaries that these lead to are on regular pages behind. A summary's TID is that of its line pointer, so a deleted
//! summary leaves an unused line pointer rather than to shift those after it.

use crate::block_redo::{BlockRedo, ResourceManager};
use crate::error::Misfit;
use crate::heap_tuple::item_pointer;
use crate::page_items::{
    Bounds, Page, add_item_in_place, delete_item_in_place, overwrite_index_item, put, set_lower, u16_at,
};
use quire_types::{PAGE_SIZE, Reader};
use quire_wal::page::{HEADER_BYTES, init, set_lsn};
use quire_wal::rmgr::*;

/// Bytes of the special space, of which only a few flags and the type are used.
const SPECIAL_BYTES: usize = 8;
/// `BrinPageType`: the last half-word of a page.
const TYPE_AT: usize = PAGE_SIZE - 2;

/// `BRIN_PAGETYPE_META`.
pub(crate) const TYPE_META: u16 = 0xF091;
/// `BRIN_PAGETYPE_REVMAP`.
pub(crate) const TYPE_REVMAP: u16 = 0xF092;
/// `BRIN_PAGETYPE_REGULAR`.
pub(crate) const TYPE_REGULAR: u16 = 0xF093;
/// `BRIN_EVACUATE_PAGE`, which is not logged.
pub(crate) const FLAG_EVACUATE: u16 = 1 << 0;

const META_MAGIC: u32 = 0xA810_9CFA;
const META_BYTES: usize = 16;
const LAST_REVMAP_PAGE_AT: usize = HEADER_BYTES + 12;

const TID_BYTES: usize = 6;
/// `REVMAP_PAGE_MAXITEMS`.
const REVMAP_ITEMS: u32 = 1360;
/// The TID of a range without a summary (`ItemPointerSetInvalid`).
const NO_SUMMARY: (u32, u16) = (u32::MAX, 0);

pub(crate) const MANAGER: ResourceManager =
    ResourceManager { supports: |info| info & XLOG_BRIN_OPMASK <= XLOG_BRIN_DESUMMARIZE, redo };

fn redo(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    match (redo.record.info & XLOG_BRIN_OPMASK, redo.block.id) {
        (XLOG_BRIN_CREATE_INDEX, 0) => create_index(page, redo),
        (XLOG_BRIN_INSERT | XLOG_BRIN_UPDATE, 0) => insert(page, redo),
        (XLOG_BRIN_INSERT | XLOG_BRIN_UPDATE, 1) => point_at_summary(page, redo),
        (XLOG_BRIN_UPDATE, 2) => delete_old(page, redo),
        (XLOG_BRIN_SAMEPAGE_UPDATE, 0) => update_in_page(page, redo),
        (XLOG_BRIN_REVMAP_EXTEND, 0) => note_revmap_page(page, redo),
        (XLOG_BRIN_REVMAP_EXTEND, 1) => {
            init_page(page, TYPE_REVMAP);
            Ok(())
        }
        (XLOG_BRIN_DESUMMARIZE, 0) => point_nowhere(page, redo),
        (XLOG_BRIN_DESUMMARIZE, 1) => delete_desummarized(page, redo),
        _ => return Err(redo.unexpected_block()),
    }?;
    set_lsn(page, redo.lsn);
    Ok(())
}

/// `brin_xlog_createidx`, `brin_metapage_init`.
fn create_index(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let mut main = Reader::new(redo.record.main_data);
    let (pages_per_range, version) = (main.u32("pages per range")?, main.u16("version")?);
    init_page(page, TYPE_META);
    let fields = [META_MAGIC, version.into(), pages_per_range, 0];
    put(page, HEADER_BYTES, &fields.map(u32::to_le_bytes).concat());
    set_lower(page, HEADER_BYTES + META_BYTES);
    Ok(())
}

/// `xl_brin_insert`, which is also the second part of `xl_brin_update`.
struct Insertion {
    heap_block: u32,
    pages_per_range: u32,
    offset: u16,
}

impl Insertion {
    fn read(redo: &BlockRedo<'_>) -> Result<Insertion, Misfit> {
        let mut main = Reader::new(redo.record.main_data);
        if redo.record.info & XLOG_BRIN_OPMASK == XLOG_BRIN_UPDATE {
            let _old_offset_and_padding = main.u32("old offset")?;
        }
        let (heap_block, pages_per_range) = (main.u32("heap block")?, main.u32("pages per range")?);
        Ok(Insertion { heap_block, pages_per_range, offset: main.u16("offset")? })
    }
}

/// `brin_xlog_insert_update`: the summary's page.
fn insert(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let Insertion { offset, .. } = Insertion::read(redo)?;
    if redo.record.info & XLOG_BRIN_INIT_PAGE != 0 {
        init_page(page, TYPE_REGULAR);
    }
    check_type(page, TYPE_REGULAR)?;
    let start = add_item_in_place(page, offset, redo.block.data.len())?;
    put(page, start, redo.block.data);
    Ok(())
}

/// `brin_xlog_insert_update`: the range map's page.
fn point_at_summary(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let Insertion { heap_block, pages_per_range, offset } = Insertion::read(redo)?;
    set_tid(page, pages_per_range, heap_block, (redo.block_number(0)?, offset))
}

/// `brin_xlog_update`: the page that the summary left.
fn delete_old(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    delete(page, Reader::new(redo.record.main_data).u16("old offset")?)
}

/// `brin_xlog_samepage_update`.
fn update_in_page(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    check_type(page, TYPE_REGULAR)?;
    let offset = Reader::new(redo.record.main_data).u16("offset")?;
    overwrite_index_item(page, offset, redo.block.data)
}

/// `brin_xlog_revmap_extend`: the meta page.
fn note_revmap_page(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    check_type(page, TYPE_META)?;
    let last = Reader::new(redo.record.main_data).u32("last page of the range map")?;
    put(page, LAST_REVMAP_PAGE_AT, &last.to_le_bytes());
    set_lower(page, HEADER_BYTES + META_BYTES);
    Ok(())
}

/// `xl_brin_desummarize`.
struct Desummarization {
    pages_per_range: u32,
    heap_block: u32,
    offset: u16,
}

impl Desummarization {
    fn read(redo: &BlockRedo<'_>) -> Result<Desummarization, Misfit> {
        let mut main = Reader::new(redo.record.main_data);
        let (pages_per_range, heap_block) = (main.u32("pages per range")?, main.u32("heap block")?);
        Ok(Desummarization { pages_per_range, heap_block, offset: main.u16("offset")? })
    }
}

/// `brin_xlog_desummarize_page`: the range map's page.
fn point_nowhere(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let Desummarization { pages_per_range, heap_block, .. } = Desummarization::read(redo)?;
    set_tid(page, pages_per_range, heap_block, NO_SUMMARY)
}

/// `brin_xlog_desummarize_page`: the summary's page.
fn delete_desummarized(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    delete(page, Desummarization::read(redo)?.offset)
}

fn delete(page: &mut Page, offset: u16) -> Result<(), Misfit> {
    check_type(page, TYPE_REGULAR)?;
    delete_item_in_place(page, offset)
}

/// `brinSetHeapBlockItemptr`: where the summary of the range with this heap block is.
fn set_tid(page: &mut Page, pages_per_range: u32, heap_block: u32, tid: (u32, u16)) -> Result<(), Misfit> {
    check_type(page, TYPE_REVMAP)?;
    let range = heap_block.checked_div(pages_per_range);
    let range = range.ok_or(Misfit::Value { field: "pages per range", value: 0 })?;
    let at = HEADER_BYTES + (range % REVMAP_ITEMS) as usize * TID_BYTES;
    put(page, at, &item_pointer(tid.0, tid.1));
    Ok(())
}

/// `brin_page_init`.
fn init_page(page: &mut Page, page_type: u16) {
    init(page, SPECIAL_BYTES);
    put(page, TYPE_AT, &page_type.to_le_bytes());
}

fn check_type(page: &Page, page_type: u16) -> Result<(), Misfit> {
    let special = Bounds::of(page)?.special;
    match (PAGE_SIZE - special, u16_at(page, TYPE_AT)) {
        (SPECIAL_BYTES, found) if found == page_type => Ok(()),
        (SPECIAL_BYTES, found) => Err(Misfit::Value { field: "BRIN page type", value: found.into() }),
        (bytes, _) => Err(Misfit::Special(bytes)),
    }
}

#[cfg(test)]
mod tests;
