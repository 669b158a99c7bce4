//! An inner tuple that got one node more, and may have had to move for it. Source: `spgRedoAddNode`.

use super::dead::WriterState;
use super::opaque::{Opaque, init_inner};
use super::tuple::{Node, Place, add_or_replace, replace, take_inner};
use crate::block_redo::BlockRedo;
use crate::error::Misfit;
use crate::page_items::Page;
use quire_types::Reader;

/// `spgxlogAddNode`, with the tuple that follows it.
struct AddNode<'a> {
    offset: u16,
    new_offset: u16,
    is_new_page: bool,
    /// The block reference that is the page with the downlink; none of them if the tuple did not move.
    parent_id: u8,
    parent: Node,
    state: WriterState,
    tuple: &'a [u8],
}

impl<'a> AddNode<'a> {
    fn read(main_data: &'a [u8]) -> Result<AddNode<'a>, Misfit> {
        let mut main = Reader::new(main_data);
        let (offset, new_offset) = (main.u16("offset")?, main.u16("new offset")?);
        let (is_new_page, parent_id) = (main.u8("new page")? != 0, main.u8("parent's reference")?);
        let parent = Node::read(&mut main)?;
        main.bytes("padding", 2)?;
        let state = WriterState::read(&mut main)?;
        Ok(AddNode { offset, new_offset, is_new_page, parent_id, parent, state, tuple: take_inner(&mut main)? })
    }

    /// Where the tuple is now, if it moved.
    fn target(&self, redo: &BlockRedo<'_>) -> Result<Place, Misfit> {
        Ok(Place { block: redo.block_number(1)?, offset: self.new_offset })
    }

    /// Changes the downlink if it is on this page.
    fn link_if_parent(&self, page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
        if self.parent_id == redo.block.id { self.parent.link(page, self.target(redo)?) } else { Ok(()) }
    }
}

/// The page of the tuple as it was: it is replaced, or, if it moved, a dead tuple takes its place.
pub(super) fn old(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let added = AddNode::read(redo.record.main_data)?;
    if redo.record.block(1).is_none() {
        return replace(page, added.offset, added.tuple);
    }
    let dead = added.state.trace_of_move(added.target(redo)?);
    replace(page, added.offset, &dead.bytes())?;
    let mut opaque = Opaque::of(page)?;
    dead.count(&mut opaque)?;
    opaque.write(page)?;
    added.link_if_parent(page, redo)
}

/// The page that it moved to.
pub(super) fn new(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let added = AddNode::read(redo.record.main_data)?;
    if added.is_new_page {
        // Tuples of the tree of nulls have no nodes to add to.
        init_inner(page, false)?;
    }
    add_or_replace(page, added.new_offset, added.tuple)?;
    added.link_if_parent(page, redo)
}

/// The page with the downlink, if that is a third one.
pub(super) fn parent(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    AddNode::read(redo.record.main_data)?.link_if_parent(page, redo)
}
