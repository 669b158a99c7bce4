//! A chain of leaf tuples moved to a page where the new one has room with them. Source: `spgRedoMoveLeafs`.

use super::dead::{DeadTuple, WriterState, bury};
use super::opaque::init_leaf;
use super::tuple::{Node, Place, add_or_replace, take_leaf};
use crate::block_redo::BlockRedo;
use crate::error::Misfit;
use crate::page_items::{Page, offset_numbers};
use quire_types::Reader;

/// `spgxlogMoveLeafs`, with the lists that follow it.
struct MoveLeaves<'a> {
    is_new_page: bool,
    stores_nulls: bool,
    parent: Node,
    state: WriterState,
    /// Offset numbers on the source page.
    deleted: &'a [u8],
    /// Offset numbers on the destination page.
    inserted: &'a [u8],
    /// Leaf tuples, as many as are inserted.
    leaves: Reader<'a>,
}

impl<'a> MoveLeaves<'a> {
    fn read(main_data: &'a [u8]) -> Result<MoveLeaves<'a>, Misfit> {
        let mut main = Reader::new(main_data);
        let moves = usize::from(main.u16("moved tuples")?);
        let is_new_page = main.u8("new page")? != 0;
        let replaces_dead = main.u8("dead tuple replaced")? != 0;
        let stores_nulls = main.u8("stores nulls")? != 0;
        main.bytes("padding", 1)?;
        let parent = Node::read(&mut main)?;
        main.bytes("padding", 2)?;
        let state = WriterState::read(&mut main)?;
        // A dead tuple is not moved, so there is only the new one.
        let insertions = if replaces_dead { 1 } else { moves + 1 };
        let deleted = main.bytes("moved tuples", moves * 2)?;
        let inserted = main.bytes("inserted tuples", insertions * 2)?;
        Ok(MoveLeaves { is_new_page, stores_nulls, parent, state, deleted, inserted, leaves: main })
    }

    /// Where the chain begins now: with the last tuple, because each was linked to the one before.
    fn target(&self, redo: &BlockRedo<'_>) -> Result<Place, Misfit> {
        let offset = offset_numbers(self.inserted).last().unwrap_or_default();
        Ok(Place { block: redo.block_number(1)?, offset })
    }
}

/// The page that the tuples left.
pub(super) fn source(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let moved = MoveLeaves::read(redo.record.main_data)?;
    let first = moved.state.trace_of_move(moved.target(redo)?);
    bury(page, moved.deleted, first, DeadTuple::Placeholder)
}

/// The page that they came to.
pub(super) fn destination(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let mut moved = MoveLeaves::read(redo.record.main_data)?;
    if moved.is_new_page {
        init_leaf(page, moved.stores_nulls)?;
    }
    for offset in offset_numbers(moved.inserted) {
        add_or_replace(page, offset, take_leaf(&mut moved.leaves)?)?;
    }
    Ok(moved.leaves.finish()?)
}

/// The page with the downlink to the chain.
pub(super) fn parent(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let moved = MoveLeaves::read(redo.record.main_data)?;
    moved.parent.link(page, moved.target(redo)?)
}
