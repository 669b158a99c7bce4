//! The meta page, which every record that changes it carries as a whole. Source: `ginRedoUpdateMetapage`,
//! `ginRedoDeleteListPages`, `GinInitMetabuffer`.

use super::opaque::{FLAG_META, Opaque};
use crate::block_redo::BlockRedo;
use crate::error::Misfit;
use crate::page_items::{Page, put, set_lower};
use quire_types::Reader;
use quire_wal::page::HEADER_BYTES;

/// `sizeof(GinMetaPageData)`.
const META_BYTES: usize = 56;

/// `ginxlogUpdateMeta`.
pub(super) struct UpdateMeta {
    metadata: [u8; META_BYTES],
    /// The page that was the pending list's tail before a sublist was appended, or no block.
    pub previous_tail: u32,
    /// The sublist's first page.
    pub new_right: u32,
    /// How many tuples the tail page takes in.
    pub tuples: u32,
}

impl UpdateMeta {
    pub fn read(main_data: &[u8]) -> Result<UpdateMeta, Misfit> {
        let mut main = Reader::new(main_data);
        main.bytes("relation and padding", 16)?;
        Ok(UpdateMeta {
            metadata: main.array("metadata")?,
            previous_tail: main.u32("previous tail")?,
            new_right: main.u32("new right link")?,
            tuples: main.u32("tuples")?,
        })
    }
}

/// `ginxlogDeleteListPages`.
pub(super) struct DeleteListPages {
    metadata: [u8; META_BYTES],
    /// How many pages go.
    pub pages: u32,
}

impl DeleteListPages {
    pub fn read(main_data: &[u8]) -> Result<DeleteListPages, Misfit> {
        let mut main = Reader::new(main_data);
        Ok(DeleteListPages { metadata: main.array("metadata")?, pages: main.u32("deleted pages")? })
    }
}

/// The meta page after something was put on the pending list, or after vacuum counted pages.
pub(super) fn update(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    restore(page, &UpdateMeta::read(redo.record.main_data)?.metadata)
}

/// The meta page after pages were taken off the pending list.
pub(super) fn delete_list_pages(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    restore(page, &DeleteListPages::read(redo.record.main_data)?.metadata)
}

fn restore(page: &mut Page, metadata: &[u8; META_BYTES]) -> Result<(), Misfit> {
    Opaque::new(FLAG_META).init_page(page)?;
    put(page, HEADER_BYTES, metadata);
    set_lower(page, HEADER_BYTES + META_BYTES);
    Ok(())
}
