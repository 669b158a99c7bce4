//! Overflow pages: put at the end of a bucket's chain, and taken out again when their tuples fit the pages before.

use super::opaque::{FLAG_OVERFLOW_PAGE, NONE, Opaque};
use super::tuples::insert_all;
use crate::block_redo::BlockRedo;
use crate::error::Misfit;
use crate::page_items::Page;
use quire_types::Reader;

/// `hash_xlog_add_ovfl_page`: the new page.
pub(super) fn init(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let bucket = Reader::new(redo.block.data).u32("bucket")?;
    Opaque { prev: redo.block_number(1)?, next: NONE, bucket, flags: FLAG_OVERFLOW_PAGE }.init_page(page)
}

/// `hash_xlog_add_ovfl_page`: the page before it.
pub(super) fn append(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    set_next(page, redo.block_number(0)?)
}

/// `xl_hash_squeeze_page`.
struct Squeeze {
    prev: u32,
    next: u32,
    tuples: u16,
    /// Whether the page that the tuples go to is the one before the freed page.
    is_before_freed: bool,
}

impl Squeeze {
    fn read(redo: &BlockRedo<'_>) -> Result<Squeeze, Misfit> {
        let mut main = Reader::new(redo.record.main_data);
        let (prev, next) = (main.u32("previous page")?, main.u32("next page")?);
        let tuples = main.u16("moved tuples")?;
        let _is_primary_page = main.u8("whether tuples move to the primary page")?;
        let is_before_freed = main.u8("whether tuples move to the previous page")? != 0;
        Ok(Squeeze { prev, next, tuples, is_before_freed })
    }
}

/// `hash_xlog_squeeze_page`: the page that takes the freed page's last tuples.
pub(super) fn squeeze_into(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let squeeze = Squeeze::read(redo)?;
    insert_all(page, redo.block.data, squeeze.tuples)?;
    if squeeze.is_before_freed { set_next(page, squeeze.next) } else { Ok(()) }
}

/// `hash_xlog_squeeze_page`: the freed page.
pub(super) fn free(page: &mut Page) -> Result<(), Misfit> {
    Opaque::without_bucket(0).init_page(page)
}

/// `hash_xlog_squeeze_page`: the page before the freed one.
pub(super) fn unlink_next(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    set_next(page, Squeeze::read(redo)?.next)
}

/// `hash_xlog_squeeze_page`: the page after the freed one.
pub(super) fn unlink_previous(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let prev = Squeeze::read(redo)?.prev;
    Opaque { prev, ..Opaque::of(page)? }.write(page)
}

fn set_next(page: &mut Page, next: u32) -> Result<(), Misfit> {
    Opaque { next, ..Opaque::of(page)? }.write(page)
}
