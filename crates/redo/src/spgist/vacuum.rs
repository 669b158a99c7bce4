//! What vacuum does to a page. Source: `spgRedoVacuumLeaf`, `spgRedoVacuumRoot`, `spgRedoVacuumRedirect`.

use super::dead::{DeadTuple, WriterState, bury, expire_redirection};
use super::opaque::Opaque;
use super::tuple::{State, set_next_in_chain, state};
use crate::block_redo::BlockRedo;
use crate::error::Misfit;
use crate::page_items::{
    Bounds, ITEMS_MAX, Page, delete_index_items, delete_listed_items, offset_numbers, set_item_id,
};
use quire_types::Reader;

/// `spgxlogVacuumLeaf`: lists of offset numbers.
struct VacuumLeaf<'a> {
    dead: &'a [u8],
    placeholders: &'a [u8],
    /// Tuples that move to the places of the next list.
    moved: &'a [u8],
    moved_to: &'a [u8],
    /// Tuples that get the next list's as the next ones in their chains.
    chained: &'a [u8],
    chained_to: &'a [u8],
}

impl<'a> VacuumLeaf<'a> {
    fn read(main_data: &'a [u8]) -> Result<VacuumLeaf<'a>, Misfit> {
        let mut main = Reader::new(main_data);
        let mut count = |field| main.u16(field).map(|count| usize::from(count) * 2);
        let (dead, placeholders) = (count("dead tuples")?, count("placeholders")?);
        let (moves, links) = (count("moved tuples")?, count("chain links")?);
        WriterState::read(&mut main)?;
        Ok(VacuumLeaf {
            dead: main.bytes("dead tuples", dead)?,
            placeholders: main.bytes("placeholders", placeholders)?,
            moved: main.bytes("moved tuples", moves)?,
            moved_to: main.bytes("moved tuples", moves)?,
            chained: main.bytes("chain links", links)?,
            chained_to: main.bytes("chain links", links)?,
        })
    }
}

/// A leaf. The head of a chain keeps its offset number because the downlink leads to it: when it goes, the first tuple
/// that stays moves to its place, and when none stays, a dead one does.
pub(super) fn leaf(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let vacuum = VacuumLeaf::read(redo.record.main_data)?;
    bury(page, vacuum.dead, DeadTuple::Dead, DeadTuple::Dead)?;
    bury(page, vacuum.placeholders, DeadTuple::Placeholder, DeadTuple::Placeholder)?;
    for (a, b) in offset_numbers(vacuum.moved).zip(offset_numbers(vacuum.moved_to)) {
        swap_items(page, a, b)?;
    }
    bury(page, vacuum.moved, DeadTuple::Placeholder, DeadTuple::Placeholder)?;
    for (offset, next) in offset_numbers(vacuum.chained).zip(offset_numbers(vacuum.chained_to)) {
        if state(page, offset)? != State::Live {
            return Err(Misfit::ItemState(offset));
        }
        set_next_in_chain(page, offset, next)?;
    }
    Ok(())
}

/// Exchanges two line pointers.
fn swap_items(page: &mut Page, a: u16, b: u16) -> Result<(), Misfit> {
    let bounds = Bounds::of(page)?;
    let (id_a, id_b) = (bounds.item_id(page, a)?, bounds.item_id(page, b)?);
    set_item_id(page, a, id_b)?;
    set_item_id(page, b, id_a)
}

/// A root that is a leaf: nothing links to its tuples, so they go without a trace.
pub(super) fn root(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let mut main = Reader::new(redo.record.main_data);
    let count = main.u16("deleted tuples")?;
    main.bytes("padding", 2)?;
    WriterState::read(&mut main)?;
    delete_listed_items(page, main.bytes("deleted tuples", usize::from(count) * 2)?)
}

/// Any page: redirections that no scan needs any more become placeholders, and placeholders at the end go.
pub(super) fn redirections(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let mut main = Reader::new(redo.record.main_data);
    let (expired, first_placeholder) = (main.u16("redirections")?, main.u16("first placeholder")?);
    let _newest_redirection_xid = main.u32("newest redirection's transaction")?;
    for offset in offset_numbers(main.bytes("redirections", usize::from(expired) * 2)?) {
        expire_redirection(page, offset)?;
    }
    let mut opaque = Opaque::of(page)?;
    opaque.add_redirections(-i32::from(expired))?;
    opaque.add_placeholders(i32::from(expired))?;
    if first_placeholder != 0 {
        opaque.add_placeholders(-cut_off(page, first_placeholder)?)?;
    }
    opaque.write(page)
}

/// Takes off all items from this one on; says how many.
fn cut_off(page: &mut Page, first: u16) -> Result<i32, Misfit> {
    let last = Bounds::of(page)?.item_count() as u16;
    let mut offsets = [0; ITEMS_MAX];
    let count = usize::from((last + 1).saturating_sub(first));
    let offsets = offsets.get_mut(..count).ok_or(Misfit::TooManyItems)?;
    offsets.iter_mut().zip(first..).for_each(|(slot, offset)| *slot = offset);
    delete_index_items(page, offsets)?;
    Ok(count as i32)
}
