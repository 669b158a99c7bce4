//! Deletion of empty pages in two steps: a leaf is marked half-dead and loses its downlink, then it and the branch
//! above it are unlinked one by one. Source: `btree_xlog_mark_page_halfdead`, `btree_xlog_unlink_page`.

use super::opaque::{FLAG_DELETED, FLAG_HALF_DEAD, FLAG_HAS_FULL_XID, FLAG_LEAF, Opaque};
use super::tuple::{downlink, set_downlink, top_parent};
use crate::block_redo::BlockRedo;
use crate::error::Misfit;
use crate::page_items::{Page, add_index_item, delete_index_item, item, put, set_lower};
use quire_types::Reader;
use quire_wal::page::HEADER_BYTES;

/// The page that holds the leaf's downlink: the entry takes over its right neighbour's downlink, and the neighbour
/// goes.
pub(super) fn halfdead_parent(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let offset = Reader::new(redo.record.main_data).u16("parent's offset")?;
    let next = offset.wrapping_add(1);
    let right_sibling = downlink(&page[item(page, next)?])?;
    let entry = item(page, offset)?;
    set_downlink(&mut page[entry], right_sibling)?;
    delete_index_item(page, next)
}

/// The leaf itself, written anew.
pub(super) fn halfdead_leaf(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let mut main = Reader::new(redo.record.main_data);
    main.bytes("parent's offset and leaf", 8)?;
    let (left, right) = (main.u32("left sibling")?, main.u32("right sibling")?);
    init_halfdead(page, left, right, main.u32("top parent")?)
}

fn init_halfdead(page: &mut Page, left: u32, right: u32, top: u32) -> Result<(), Misfit> {
    let flags = FLAG_HALF_DEAD | FLAG_LEAF;
    Opaque { prev: left, next: right, flags, ..Opaque::default() }.init_page(page)?;
    add_index_item(page, 1, &top_parent(top))
}

/// `xl_btree_unlink_page`.
struct Unlink {
    left: u32,
    right: u32,
    level: u32,
    safe_xid: u64,
    leaf_left: u32,
    leaf_right: u32,
    leaf_top_parent: u32,
}

impl Unlink {
    fn read(main_data: &[u8]) -> Result<Unlink, Misfit> {
        let mut main = Reader::new(main_data);
        let (left, right, level) = (main.u32("left sibling")?, main.u32("right sibling")?, main.u32("level")?);
        main.bytes("padding", 4)?;
        Ok(Unlink {
            left,
            right,
            level,
            safe_xid: main.u64("safe transaction")?,
            leaf_left: main.u32("leaf's left sibling")?,
            leaf_right: main.u32("leaf's right sibling")?,
            leaf_top_parent: main.u32("leaf's top parent")?,
        })
    }
}

/// The page that goes (0), its siblings (1 and 2), and the leaf at the branch's foot if that is another page (3).
pub(super) fn unlink_page(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let unlink = Unlink::read(redo.record.main_data)?;
    match redo.block.id {
        0 => init_deleted(page, &unlink),
        1 => Opaque { next: unlink.right, ..Opaque::of(page)? }.write(page),
        2 => Opaque { prev: unlink.left, ..Opaque::of(page)? }.write(page),
        _ => init_halfdead(page, unlink.leaf_left, unlink.leaf_right, unlink.leaf_top_parent),
    }
}

/// An empty deleted page that says from which transaction on it may be used again (`BTPageSetDeleted`).
fn init_deleted(page: &mut Page, unlink: &Unlink) -> Result<(), Misfit> {
    let leaf = if unlink.level == 0 { FLAG_LEAF } else { 0 };
    let flags = FLAG_DELETED | FLAG_HAS_FULL_XID | leaf;
    Opaque { prev: unlink.left, next: unlink.right, level: unlink.level, flags, cycle_id: 0 }.init_page(page)?;
    put(page, HEADER_BYTES, &unlink.safe_xid.to_le_bytes());
    set_lower(page, HEADER_BYTES + size_of::<u64>());
    Ok(())
}
