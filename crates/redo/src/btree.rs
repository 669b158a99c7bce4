//! B-tree indexes. Source: `nbtxlog.c`, `nbtdedup.c`, `nbtree.h`.
//!
//! A split, say, references up to four pages: the left one is rebuilt from its own items and what the record adds, the
//! right one from the record alone, their right neighbour and a child get one field changed. Each is redone by itself.

mod delete;
mod opaque;
mod posting;
mod rebuilt;
mod split;
mod tuple;
mod unlink;

use crate::block_redo::{BlockRedo, ResourceManager};
use crate::error::Misfit;
use crate::page_items::{Page, add_index_item, item, put, set_lower};
use opaque::Opaque;
use quire_types::Reader;
use quire_wal::page::{HEADER_BYTES, set_lsn};
use quire_wal::rmgr::*;

pub(crate) use opaque::{FLAG_HAS_GARBAGE, FLAG_LEAF, FLAG_SPLIT_END};

pub(crate) const MANAGER: ResourceManager =
    ResourceManager { supports: |info| info & XLR_RMGR_INFO_MASK <= XLOG_BTREE_META_CLEANUP, redo };

fn redo(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    match (redo.record.info & XLR_RMGR_INFO_MASK, redo.block.id) {
        (XLOG_BTREE_INSERT_LEAF | XLOG_BTREE_INSERT_UPPER | XLOG_BTREE_INSERT_META, 0) => insert(page, redo),
        (XLOG_BTREE_INSERT_UPPER | XLOG_BTREE_INSERT_META, 1) => clear_incomplete_split(page),
        (XLOG_BTREE_INSERT_META, 2) => restore_meta(page, redo),
        (XLOG_BTREE_INSERT_POST, 0) => insert_into_posting(page, redo),
        (XLOG_BTREE_SPLIT_L, 0) => split::left(page, redo, true),
        (XLOG_BTREE_SPLIT_R, 0) => split::left(page, redo, false),
        (XLOG_BTREE_SPLIT_L | XLOG_BTREE_SPLIT_R, 1) => split::right(page, redo),
        (XLOG_BTREE_SPLIT_L | XLOG_BTREE_SPLIT_R, 2) => split::right_neighbour(page, redo),
        (XLOG_BTREE_SPLIT_L | XLOG_BTREE_SPLIT_R, 3) => clear_incomplete_split(page),
        (XLOG_BTREE_DEDUP, 0) => posting::deduplicate(page, redo),
        (XLOG_BTREE_VACUUM, 0) => delete::vacuum(page, redo),
        (XLOG_BTREE_DELETE, 0) => delete::delete(page, redo),
        (XLOG_BTREE_MARK_PAGE_HALFDEAD, 0) => unlink::halfdead_leaf(page, redo),
        (XLOG_BTREE_MARK_PAGE_HALFDEAD, 1) => unlink::halfdead_parent(page, redo),
        (XLOG_BTREE_UNLINK_PAGE | XLOG_BTREE_UNLINK_PAGE_META, 0..=3) => unlink::unlink_page(page, redo),
        (XLOG_BTREE_UNLINK_PAGE_META, 4) => restore_meta(page, redo),
        (XLOG_BTREE_NEWROOT, 0) => new_root(page, redo),
        (XLOG_BTREE_NEWROOT, 1) => clear_incomplete_split(page),
        (XLOG_BTREE_NEWROOT, 2) | (XLOG_BTREE_META_CLEANUP, 0) => restore_meta(page, redo),
        _ => return Err(redo.unexpected_block()),
    }?;
    set_lsn(page, redo.lsn);
    Ok(())
}

/// `btree_xlog_insert` without a posting list.
fn insert(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let offset = Reader::new(redo.record.main_data).u16("offset")?;
    add_index_item(page, offset, redo.block.data)
}

/// `btree_xlog_insert` where the new tuple's heap TID falls into the posting list before it: the list takes the TID in
/// and gives up its last one, with which the tuple is inserted.
fn insert_into_posting(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let offset = Reader::new(redo.record.main_data).u16("offset")?;
    let mut data = Reader::new(redo.block.data);
    let position = data.u16("posting list position")?;
    let mut new = tuple::Scratch::copy_of(data.rest())?;
    let old = item(page, offset.wrapping_sub(1))?;
    posting::swap(&mut page[old], new.bytes_mut(), position)?;
    add_index_item(page, offset, new.bytes())
}

/// `_bt_clear_incomplete_split`.
fn clear_incomplete_split(page: &mut Page) -> Result<(), Misfit> {
    let mut opaque = Opaque::of(page)?;
    opaque.flags &= !opaque::FLAG_INCOMPLETE_SPLIT;
    opaque.write(page)
}

/// `_bt_restore_meta`: the meta page, written anew.
fn restore_meta(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    const MAGIC: u32 = 0x0005_3162;
    const META_BYTES: usize = 48;
    const HEAP_TUPLES_AT: usize = 32;
    const ALL_EQUAL_IMAGE_AT: usize = 40;
    let mut data = Reader::new(redo.block.data);
    let fields: [u8; 24] = data.array("metadata")?;
    let all_equal_image = data.u8("allequalimage")?;
    Opaque { flags: opaque::FLAG_META, ..Opaque::default() }.init_page(page)?;
    put(page, HEADER_BYTES, &MAGIC.to_le_bytes());
    put(page, HEADER_BYTES + 4, &fields);
    put(page, HEADER_BYTES + HEAP_TUPLES_AT, &(-1.0f64).to_le_bytes());
    page[HEADER_BYTES + ALL_EQUAL_IMAGE_AT] = all_equal_image;
    set_lower(page, HEADER_BYTES + META_BYTES);
    Ok(())
}

/// `btree_xlog_newroot`: an empty leaf, or the two downlinks of a root that was split.
fn new_root(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let mut main = Reader::new(redo.record.main_data);
    let _block = main.u32("root block")?;
    let level = main.u32("level")?;
    let leaf = if level == 0 { opaque::FLAG_LEAF } else { 0 };
    Opaque { level, flags: opaque::FLAG_ROOT | leaf, ..Opaque::default() }.init_page(page)?;
    if level > 0 {
        split::restore_items(page, redo.block.data)?;
    }
    Ok(())
}
