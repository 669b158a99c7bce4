//! Bitmap pages: one bit for each overflow page, set while it is in use.

use super::opaque::{FLAG_BITMAP_PAGE, Opaque, SPECIAL_AT, check_type};
use crate::block_redo::BlockRedo;
use crate::error::Misfit;
use crate::page_items::{Page, set_lower};
use quire_types::Reader;
use quire_wal::page::HEADER_BYTES;

/// `_hash_initbitmapbuffer`: a page that says that all is in use. Both kinds of records that make one begin with its
/// size.
pub(super) fn init(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let bytes = Reader::new(redo.record.main_data).u16("bitmap's size")?;
    let end = HEADER_BYTES + usize::from(bytes);
    if end > SPECIAL_AT {
        return Err(Misfit::Value { field: "bitmap's size", value: bytes.into() });
    }
    Opaque::without_bucket(FLAG_BITMAP_PAGE).init_page(page)?;
    page[HEADER_BYTES..end].fill(0xFF);
    set_lower(page, end);
    Ok(())
}

/// `hash_xlog_add_ovfl_page`: an overflow page that was free is taken.
pub(super) fn mark_used(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    change(page, redo, |byte, bit| byte | bit)
}

/// `hash_xlog_squeeze_page`: an overflow page is free.
pub(super) fn mark_free(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    change(page, redo, |byte, bit| byte & !bit)
}

fn change(page: &mut Page, redo: &BlockRedo<'_>, change: fn(u8, u8) -> u8) -> Result<(), Misfit> {
    let bit = Reader::new(redo.block.data).u32("bit of the bitmap")?;
    check_type(page, FLAG_BITMAP_PAGE)?;
    let byte = page[HEADER_BYTES..SPECIAL_AT].get_mut((bit / 8) as usize);
    let byte = byte.ok_or(Misfit::Value { field: "bit of the bitmap", value: bit.into() })?;
    *byte = change(*byte, 1 << (bit % 8));
    Ok(())
}
