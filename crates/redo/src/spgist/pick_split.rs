//! Leaf tuples that had no room together distributed below a new inner tuple. Source: `spgRedoPickSplit`.

use super::dead::{DeadTuple, WriterState, bury};
use super::opaque::{init_inner, init_leaf};
use super::tuple::{Node, Place, add_or_replace, take_inner, take_leaf};
use crate::block_redo::BlockRedo;
use crate::error::Misfit;
use crate::page_items::{Page, offset_numbers};
use quire_types::Reader;

/// `spgxlogPickSplit`, with the lists that follow it.
struct PickSplit<'a> {
    is_root_split: bool,
    is_source_new: bool,
    is_destination_new: bool,
    is_inner_new: bool,
    stores_nulls: bool,
    is_inner_parent: bool,
    inner_offset: u16,
    parent: Node,
    state: WriterState,
    /// Offset numbers on the source page.
    deleted: &'a [u8],
    /// Offset numbers on the page that each leaf tuple goes to.
    inserted: &'a [u8],
    /// For each leaf tuple 0 if it goes to the source page, otherwise to the destination page.
    selectors: &'a [u8],
    inner: &'a [u8],
    leaves: Reader<'a>,
}

impl<'a> PickSplit<'a> {
    fn read(main_data: &'a [u8]) -> Result<PickSplit<'a>, Misfit> {
        let mut main = Reader::new(main_data);
        let is_root_split = main.u8("root split")? != 0;
        main.bytes("padding", 1)?;
        let (deletions, insertions) = (main.u16("deleted tuples")?, main.u16("inserted tuples")?);
        let (deletions, insertions) = (usize::from(deletions), usize::from(insertions));
        let is_source_new = main.u8("new source")? != 0;
        let is_destination_new = main.u8("new destination")? != 0;
        let inner_offset = main.u16("inner tuple's offset")?;
        let is_inner_new = main.u8("new inner page")? != 0;
        let stores_nulls = main.u8("stores nulls")? != 0;
        let is_inner_parent = main.u8("inner page is parent")? != 0;
        main.bytes("padding", 1)?;
        let parent = Node::read(&mut main)?;
        main.bytes("padding", 2)?;
        Ok(PickSplit {
            is_root_split,
            is_source_new,
            is_destination_new,
            is_inner_new,
            stores_nulls,
            is_inner_parent,
            inner_offset,
            parent,
            state: WriterState::read(&mut main)?,
            deleted: main.bytes("deleted tuples", deletions * 2)?,
            inserted: main.bytes("inserted tuples", insertions * 2)?,
            selectors: main.bytes("page selectors", insertions)?,
            inner: take_inner(&mut main)?,
            leaves: main,
        })
    }

    fn target(&self, redo: &BlockRedo<'_>) -> Result<Place, Misfit> {
        Ok(Place { block: redo.block_number(2)?, offset: self.inner_offset })
    }

    /// Inserts the leaf tuples that go to one of the two pages.
    fn insert_leaves(mut self, page: &mut Page, is_destination: bool) -> Result<(), Misfit> {
        for (offset, selector) in offset_numbers(self.inserted).zip(self.selectors) {
            let leaf = take_leaf(&mut self.leaves)?;
            if (*selector != 0) == is_destination {
                add_or_replace(page, offset, leaf)?;
            }
        }
        Ok(self.leaves.finish()?)
    }
}

/// The page that the leaf tuples were on, where some may stay. A root has no part in this: it becomes the inner page.
pub(super) fn source(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let split = PickSplit::read(redo.record.main_data)?;
    if split.is_root_split {
        return Err(redo.unexpected_block());
    }
    if split.is_source_new {
        init_leaf(page, split.stores_nulls)?;
    } else {
        let first = split.state.trace_of_move(split.target(redo)?);
        bury(page, split.deleted, first, DeadTuple::Placeholder)?;
    }
    split.insert_leaves(page, false)
}

/// The page for those that find no room there.
pub(super) fn destination(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let split = PickSplit::read(redo.record.main_data)?;
    if split.is_destination_new {
        init_leaf(page, split.stores_nulls)?;
    }
    split.insert_leaves(page, true)
}

/// The page of the new inner tuple.
pub(super) fn inner(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let split = PickSplit::read(redo.record.main_data)?;
    if split.is_inner_new {
        init_inner(page, split.stores_nulls)?;
    }
    add_or_replace(page, split.inner_offset, split.inner)?;
    if split.is_inner_parent { split.parent.link(page, split.target(redo)?) } else { Ok(()) }
}

/// The page with the downlink, if that is another one.
pub(super) fn parent(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let split = PickSplit::read(redo.record.main_data)?;
    split.parent.link(page, split.target(redo)?)
}
