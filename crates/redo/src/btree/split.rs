//! Page splits. Source: `btree_xlog_split`, `_bt_restore_page`.

use super::opaque::{FLAG_INCOMPLETE_SPLIT, FLAG_LEAF, Opaque};
use super::posting::swap;
use super::rebuilt::Rebuilt;
use super::tuple::{Scratch, split_first};
use crate::block_redo::BlockRedo;
use crate::error::Misfit;
use crate::page_items::{ITEMS_MAX, Page, item, place_index_block};
use quire_types::Reader;

/// `xl_btree_split`.
struct Split {
    level: u32,
    first_right_offset: u16,
    new_offset: u16,
    posting_position: u16,
}

impl Split {
    fn read(redo: &BlockRedo<'_>) -> Result<Split, Misfit> {
        let mut main = Reader::new(redo.record.main_data);
        Ok(Split {
            level: main.u32("level")?,
            first_right_offset: main.u16("first right offset")?,
            new_offset: main.u16("new item's offset")?,
            posting_position: main.u16("posting list position")?,
        })
    }

    fn leaf_flag(&self) -> u16 {
        if self.level == 0 { FLAG_LEAF } else { 0 }
    }
}

/// The new right page, which is in the record as a whole.
pub(super) fn right(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let split = Split::read(redo)?;
    let next = redo.record.block(2).map_or(0, |block| block.block);
    let (level, flags) = (split.level, split.leaf_flag());
    Opaque { prev: redo.block_number(0)?, next, level, flags, cycle_id: 0 }.init_page(page)?;
    restore_items(page, redo.block.data)
}

/// The page after the new right one.
pub(super) fn right_neighbour(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let prev = redo.block_number(1)?;
    Opaque { prev, ..Opaque::of(page)? }.write(page)
}

/// The page that was split, which keeps the left half of its items.
///
/// The record adds a new high key, the new item if it belongs here, and, where the new item's TID falls into the
/// posting list before it, what is needed to change that list.
pub(super) fn left(page: &mut Page, redo: &BlockRedo<'_>, has_new_item: bool) -> Result<(), Misfit> {
    let split = Split::read(redo)?;
    let additions = Additions::read(page, redo, &split, has_new_item)?;
    let mut opaque = Opaque::of(page)?;
    let first = opaque.first_data_offset();
    opaque.flags = FLAG_INCOMPLETE_SPLIT | split.leaf_flag();
    opaque.next = redo.block_number(1)?;
    opaque.cycle_id = 0;
    let mut rebuilt = Rebuilt::new(opaque)?;
    rebuilt.push(additions.high_key)?;
    for offset in first..split.first_right_offset {
        if let Some((_, changed)) = additions.changed_posting.as_ref().filter(|(at, _)| *at == offset) {
            rebuilt.push(changed.bytes())?;
            continue;
        }
        additions.push_new_item_at(&mut rebuilt, offset)?;
        rebuilt.push(&page[item(page, offset)?])?;
    }
    additions.push_new_item_at(&mut rebuilt, first.max(split.first_right_offset))?;
    *page = rebuilt.into_page();
    Ok(())
}

/// What a split's record adds to the left page.
struct Additions<'a> {
    high_key: &'a [u8],
    /// The new item and its offset number, if it goes here.
    new_item: Option<(u16, Scratch)>,
    /// The offset number of a posting list and what becomes of it.
    changed_posting: Option<(u16, Scratch)>,
}

impl<'a> Additions<'a> {
    fn read(page: &Page, redo: &BlockRedo<'a>, split: &Split, has_new_item: bool) -> Result<Additions<'a>, Misfit> {
        let has_posting = split.posting_position != 0;
        if !has_new_item && !has_posting {
            let high_key = only_tuple(redo.block.data)?;
            return Ok(Additions { high_key, new_item: None, changed_posting: None });
        }
        let (logged, rest) = split_first(redo.block.data)?;
        let mut new = Scratch::copy_of(logged)?;
        let changed_posting = if has_posting { Some(changed_posting(page, split, &mut new)?) } else { None };
        let new_item = has_new_item.then_some((split.new_offset, new));
        Ok(Additions { high_key: only_tuple(rest)?, new_item, changed_posting })
    }

    fn push_new_item_at(&self, rebuilt: &mut Rebuilt, offset: u16) -> Result<(), Misfit> {
        match &self.new_item {
            Some((at, new)) if *at == offset => rebuilt.push(new.bytes()),
            _ => Ok(()),
        }
    }
}

/// The posting list before the new item, after the new item's TID went in; the new item gets the TID that went out.
fn changed_posting(page: &Page, split: &Split, new: &mut Scratch) -> Result<(u16, Scratch), Misfit> {
    let offset = split.new_offset.wrapping_sub(1);
    let old = item(page, offset)?;
    let mut changed = Scratch::copy_of(&page[old])?;
    swap(changed.bytes_mut(), new.bytes_mut(), split.posting_position)?;
    Ok((offset, changed))
}

fn only_tuple(data: &[u8]) -> Result<&[u8], Misfit> {
    let (tuple, rest) = split_first(data)?;
    Reader::new(rest).finish()?;
    Ok(tuple)
}

/// `_bt_restore_page`: `items` is the tuple space of a page as it was, the last item first. Each gets a line pointer as
/// long as the space it takes.
pub(super) fn restore_items(page: &mut Page, items: &[u8]) -> Result<(), Misfit> {
    let mut lengths = [0; ITEMS_MAX];
    let mut count = 0;
    let mut left = items;
    while !left.is_empty() {
        let (tuple, rest) = split_first(left)?;
        *lengths.get_mut(count).ok_or(Misfit::TooManyItems)? = tuple.len() as u16;
        count += 1;
        left = rest;
    }
    place_index_block(page, items, &lengths[..count])
}
