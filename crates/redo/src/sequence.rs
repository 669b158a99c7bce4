//! Sequences: one page with one tuple, written anew by each record. Source: `seq_redo`.

use crate::block_redo::{BlockRedo, ResourceManager};
use crate::error::Misfit;
use crate::page_items::{Bounds, Page, add_index_item, put};
use quire_types::Reader;
use quire_wal::page::{init, set_lsn};
use quire_wal::rmgr::{XLOG_SEQ_LOG, XLR_RMGR_INFO_MASK};

/// `SEQ_MAGIC`, which tells a sequence's page by its special space.
pub(crate) const SEQUENCE_MAGIC: u32 = 0x1717;
/// `sizeof(sequence_magic)`.
const MAGIC_BYTES: usize = 4;

pub(crate) const MANAGER: ResourceManager =
    ResourceManager { supports: |info| info & XLR_RMGR_INFO_MASK == XLOG_SEQ_LOG, redo };

fn redo(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    if redo.block.id != 0 {
        return Err(redo.unexpected_block());
    }
    let mut data = Reader::new(redo.record.main_data);
    let _relation: [u8; 12] = data.array("sequence's relation")?;
    init(page, MAGIC_BYTES);
    let special = Bounds::of(page)?.special;
    put(page, special, &SEQUENCE_MAGIC.to_le_bytes());
    add_index_item(page, 1, data.rest())?;
    set_lsn(page, redo.lsn);
    Ok(())
}
