//! Deletion of empty leaves by vacuum. Source: `gistRedoPageDelete`, `GistPageSetDeleted`.

use super::opaque::{FLAG_DELETED, Opaque};
use crate::block_redo::BlockRedo;
use crate::error::Misfit;
use crate::page_items::{Bounds, Page, delete_index_item, put, set_lower};
use quire_types::Reader;
use quire_wal::page::HEADER_BYTES;

/// The leaf, which then says from which transaction on it may be used again.
pub(super) fn leaf(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    const CONTENTS_END: usize = HEADER_BYTES + size_of::<u64>();
    let delete_xid = Reader::new(redo.record.main_data).u64("deleting transaction")?;
    let bounds = Bounds::of(page)?;
    if bounds.item_count() > 0 {
        return Err(Misfit::Value { field: "number of items", value: bounds.item_count() as u64 });
    }
    if bounds.upper < CONTENTS_END {
        return Err(Misfit::NoRoom(CONTENTS_END));
    }
    let mut opaque = Opaque::of(page)?;
    opaque.flags |= FLAG_DELETED;
    opaque.write(page)?;
    put(page, HEADER_BYTES, &delete_xid.to_le_bytes());
    set_lower(page, CONTENTS_END);
    Ok(())
}

/// The page that had the leaf's downlink.
pub(super) fn parent(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let mut main = Reader::new(redo.record.main_data);
    let _delete_xid = main.u64("deleting transaction")?;
    delete_index_item(page, main.u16("downlink's offset")?)
}
