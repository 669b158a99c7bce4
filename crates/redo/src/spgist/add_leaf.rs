//! A leaf tuple added. Source: `spgRedoAddLeaf`.

use super::opaque::init_leaf;
use super::tuple::{Node, Place, add_or_replace, replace, set_next_in_chain, take_leaf};
use crate::block_redo::BlockRedo;
use crate::error::Misfit;
use crate::page_items::Page;
use quire_types::Reader;

/// `spgxlogAddLeaf`, with the tuple that follows it.
struct AddLeaf<'a> {
    is_new_page: bool,
    stores_nulls: bool,
    offset: u16,
    /// First tuple of the chain that the new one comes into, 0 if there is none.
    head_offset: u16,
    parent: Node,
    tuple: &'a [u8],
}

impl<'a> AddLeaf<'a> {
    fn read(main_data: &'a [u8]) -> Result<AddLeaf<'a>, Misfit> {
        let mut main = Reader::new(main_data);
        Ok(AddLeaf {
            is_new_page: main.u8("new page")? != 0,
            stores_nulls: main.u8("stores nulls")? != 0,
            offset: main.u16("leaf's offset")?,
            head_offset: main.u16("chain head's offset")?,
            parent: Node::read(&mut main)?,
            tuple: take_leaf(&mut main)?,
        })
    }
}

/// The leaf tuple's page: the tuple becomes the second one of a chain, or the only one, or takes the place of a dead
/// one that a chain has left.
pub(super) fn leaf(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let added = AddLeaf::read(redo.record.main_data)?;
    if added.is_new_page {
        init_leaf(page, added.stores_nulls)?;
    }
    if added.offset == added.head_offset {
        return replace(page, added.offset, added.tuple);
    }
    add_or_replace(page, added.offset, added.tuple)?;
    match added.head_offset {
        0 => Ok(()),
        head => set_next_in_chain(page, head, added.offset),
    }
}

/// The page with the downlink, if that changes.
pub(super) fn parent(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let added = AddLeaf::read(redo.record.main_data)?;
    added.parent.link(page, Place { block: redo.block_number(0)?, offset: added.offset })
}
