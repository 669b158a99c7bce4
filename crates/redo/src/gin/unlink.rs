//! An empty page leaves a posting tree. Source: `ginRedoDeletePage`.

use super::opaque::{FLAG_DATA, FLAG_DELETED, FLAG_LEAF, Opaque};
use super::posting_items;
use crate::block_redo::BlockRedo;
use crate::error::Misfit;
use crate::page_items::Page;
use quire_types::Reader;
use quire_wal::page::set_prune_xid;

/// `ginxlogDeletePage`.
struct DeletePage {
    parent_offset: u16,
    right: u32,
    /// The transaction that must be over everywhere before the page is used again.
    delete_xid: u32,
}

impl DeletePage {
    fn read(main_data: &[u8]) -> Result<DeletePage, Misfit> {
        let mut main = Reader::new(main_data);
        let parent_offset = main.u16("parent's offset")?;
        main.bytes("padding", 2)?;
        Ok(DeletePage { parent_offset, right: main.u32("right link")?, delete_xid: main.u32("deleting transaction")? })
    }
}

/// The page that goes (0), which keeps its contents and its right link for those who are on their way to it; its parent
/// (1); its left neighbour (2).
pub(super) fn delete_page(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let delete = DeletePage::read(redo.record.main_data)?;
    let opaque = Opaque::of(page)?;
    opaque.require(FLAG_DATA, FLAG_DATA)?;
    match redo.block.id {
        0 => {
            set_prune_xid(page, delete.delete_xid);
            Opaque { flags: opaque.flags | FLAG_DELETED, ..opaque }.write(page)
        }
        1 => {
            opaque.require(FLAG_LEAF, 0)?;
            posting_items::delete(page, delete.parent_offset)
        }
        _ => Opaque { right: delete.right, ..opaque }.write(page),
    }
}
