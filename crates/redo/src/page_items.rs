//! Items on a page: the header's pointers, line pointers, and putting in, taking out and moving tuples.
//! Source: `bufpage.h`, `itemid.h`, `bufpage.c`.
//!
//! Nothing here trusts a page: pointers and line pointers are checked before they are followed, so a corrupt page is a
//! [`Misfit`], never an access out of bounds. Where tuples end up is exactly where PostgreSQL would put them, because
//! its own consistency check compares the whole tuple space.

use crate::error::Misfit;
use quire_types::PAGE_SIZE;
use quire_wal::page::{self, HEADER_BYTES, ITEM_ID_BYTES, ItemId, PD_HAS_FREE_LINES};
use std::ops::Range;

mod in_place;
mod packing;

pub(crate) use in_place::{add_heap_item, add_item_in_place, delete_item_in_place};
use packing::pack_items;

/// A page.
pub(crate) type Page = [u8; PAGE_SIZE];

/// `MaxHeapTuplesPerPage`.
const HEAP_ITEMS_MAX: u16 = 291;
/// `MaxIndexTuplesPerPage`.
pub(crate) const ITEMS_MAX: usize = 408;

/// Rounds up to 8 bytes (`MAXALIGN`).
pub(crate) const fn align(bytes: usize) -> usize {
    (bytes + 7) & !7
}

/// Reads a `u16` where the caller knows that it is within `bytes`.
#[inline]
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Reads a `u32` where the caller knows that it is within `bytes`.
#[inline]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Writes bytes where the caller knows that there is room.
#[inline]
pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// The offset numbers in a record's data.
pub(crate) fn offset_numbers(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.chunks_exact(2).map(|pair| u16_at(pair, 0))
}

/// A position on a page as the page stores it.
#[inline]
fn stored(position: usize) -> u16 {
    u16::try_from(position).expect("positions on a page fit 16 bits")
}

/// Sets `pd_lower`.
#[inline]
pub(crate) fn set_lower(page: &mut Page, lower: usize) {
    page::set_lower(page, stored(lower));
}

/// Sets `pd_upper`.
#[inline]
pub(crate) fn set_upper(page: &mut Page, upper: usize) {
    page::set_upper(page, stored(upper));
}

/// Sets bits of `pd_flags`.
pub(crate) fn set_flags(page: &mut Page, bits: u16) {
    let flags = page::flags(page) | bits;
    page::set_flags(page, flags);
}

/// Clears bits of `pd_flags`.
pub(crate) fn clear_flags(page: &mut Page, bits: u16) {
    let flags = page::flags(page) & !bits;
    page::set_flags(page, flags);
}

/// Sets or clears the hint that unused line pointers are between used ones.
fn set_free_lines(page: &mut Page, has_free_lines: bool) {
    if has_free_lines { set_flags(page, PD_HAS_FREE_LINES) } else { clear_flags(page, PD_HAS_FREE_LINES) }
}

/// `PageSetPrunable`: remembers the oldest transaction that may have left something to prune.
pub(crate) fn note_prunable(page: &mut Page, xid: u32) {
    let known = page::prune_xid(page);
    if known == 0 || xid_precedes(xid, known) {
        page::set_prune_xid(page, xid);
    }
}

/// `TransactionIdPrecedes`: normal transaction ids are compared around the circle.
fn xid_precedes(a: u32, b: u32) -> bool {
    const FIRST_NORMAL: u32 = 3;
    if a < FIRST_NORMAL || b < FIRST_NORMAL { a < b } else { a.wrapping_sub(b) > i32::MAX as u32 }
}

/// Where the line pointer with this offset number is, if it is one at all.
#[inline]
fn line_at(offset: u16) -> Option<usize> {
    Some(HEADER_BYTES + usize::from(offset.checked_sub(1)?) * ITEM_ID_BYTES)
}

/// The page's three pointers, found to be in order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// `pd_lower`: end of the line pointers.
    pub lower: usize,
    /// `pd_upper`: start of the tuple space.
    pub upper: usize,
    /// `pd_special`: end of the tuple space.
    pub special: usize,
}

impl Bounds {
    /// Reads them, refusing a page on which following them would go wrong.
    #[inline]
    pub fn of(page: &Page) -> Result<Bounds, Misfit> {
        let [lower, upper, special] = [page::lower(page), page::upper(page), page::special(page)];
        let bounds = Bounds { lower: lower.into(), upper: upper.into(), special: special.into() };
        let sane = HEADER_BYTES <= bounds.lower
            && bounds.lower <= bounds.upper
            && bounds.upper <= bounds.special
            && bounds.special <= PAGE_SIZE
            && bounds.special.is_multiple_of(8);
        if sane { Ok(bounds) } else { Err(Misfit::Header { lower, upper, special }) }
    }

    /// `PageGetMaxOffsetNumber`.
    #[inline]
    pub fn item_count(self) -> usize {
        (self.lower - HEADER_BYTES) / ITEM_ID_BYTES
    }

    /// All offset numbers in use.
    pub fn offsets(self) -> std::ops::RangeInclusive<u16> {
        1..=self.item_count() as u16
    }

    /// The line pointer with this offset number.
    #[inline]
    pub fn item_id(self, page: &Page, offset: u16) -> Result<ItemId, Misfit> {
        let at = self.item_id_at(offset)?;
        Ok(ItemId(u32_at(page, at)))
    }

    /// Where the line pointer with this offset number is.
    #[inline]
    fn item_id_at(self, offset: u16) -> Result<usize, Misfit> {
        let at = line_at(offset).filter(|at| at + ITEM_ID_BYTES <= self.lower);
        at.ok_or(Misfit::NoItem { offset, count: self.item_count() })
    }

    /// Where the item of this line pointer is; it must have storage, and all of it within the tuple space.
    #[inline]
    fn storage(self, offset: u16, id: ItemId) -> Result<Range<usize>, Misfit> {
        let (start, length) = (usize::from(id.offset()), usize::from(id.length()));
        if length == 0 {
            return Err(Misfit::ItemState(offset));
        }
        if start < self.upper || start + align(length) > self.special {
            return Err(Misfit::ItemBounds { offset, start, length });
        }
        Ok(start..start + length)
    }
}

/// The same item elsewhere.
fn moved_to(id: ItemId, start: usize) -> ItemId {
    ItemId::new(stored(start), id.state(), id.length())
}

/// Overwrites the line pointer with this offset number.
pub(crate) fn set_item_id(page: &mut Page, offset: u16, id: ItemId) -> Result<(), Misfit> {
    let at = Bounds::of(page)?.item_id_at(offset)?;
    write_item_id(page, at, id);
    Ok(())
}

#[inline]
fn write_item_id(page: &mut Page, at: usize, id: ItemId) {
    put(page, at, &id.0.to_le_bytes());
}

/// Where the item with this offset number is, which must have storage but may be marked dead (index pages).
pub(crate) fn item(page: &Page, offset: u16) -> Result<Range<usize>, Misfit> {
    let bounds = Bounds::of(page)?;
    bounds.storage(offset, bounds.item_id(page, offset)?)
}

/// Where the item with this offset number is, which must be in the normal state (heap pages).
pub(crate) fn normal_item(page: &Page, offset: u16) -> Result<Range<usize>, Misfit> {
    let bounds = Bounds::of(page)?;
    let id = bounds.item_id(page, offset)?;
    if id.is_normal() { bounds.storage(offset, id) } else { Err(Misfit::ItemState(offset)) }
}

/// `PageAddItemExtended` for an index page: line pointers from `offset` on move up by one.
pub(crate) fn add_index_item(page: &mut Page, offset: u16, item: &[u8]) -> Result<(), Misfit> {
    let bounds = Bounds::of(page)?;
    let start = place_item(page, bounds, offset, item.len(), ITEM_ID_BYTES)?;
    put(page, start, item);
    Ok(())
}

/// Fills an empty page with items that are one after the other, the last one first, each as long as `lengths` says.
pub(crate) fn place_index_block(page: &mut Page, items: &[u8], lengths: &[u16]) -> Result<(), Misfit> {
    let bounds = Bounds::of(page)?;
    let lower = HEADER_BYTES + lengths.len() * ITEM_ID_BYTES;
    let upper = bounds.upper.checked_sub(items.len()).filter(|upper| lower <= *upper);
    let upper = upper.ok_or(Misfit::NoRoom(items.len()))?;
    put(page, upper, items);
    let mut start = upper;
    for (number, length) in lengths.iter().enumerate() {
        let at = lower - (number + 1) * ITEM_ID_BYTES;
        write_item_id(page, at, ItemId::normal(stored(start), *length));
        start += usize::from(*length);
    }
    set_lower(page, lower);
    set_upper(page, upper);
    Ok(())
}

/// Makes room for an item and `line_bytes` of line pointers, and sets the line pointer `offset`.
fn place_item(page: &mut Page, bounds: Bounds, offset: u16, length: usize, line_bytes: usize) -> Result<usize, Misfit> {
    let at = line_at(offset).filter(|at| *at <= bounds.lower);
    let at = at.ok_or(Misfit::NoItem { offset, count: bounds.item_count() })?;
    let lower = bounds.lower + line_bytes;
    let upper = bounds.upper.checked_sub(align(length)).filter(|upper| lower <= *upper);
    let upper = upper.ok_or(Misfit::NoRoom(length))?;
    if line_bytes > 0 {
        page.copy_within(at..bounds.lower, at + ITEM_ID_BYTES);
    }
    write_item_id(page, at, ItemId::normal(stored(upper), stored(length)));
    set_lower(page, lower);
    set_upper(page, upper);
    Ok(upper)
}

/// `PageRepairFragmentation` (heap pages): packs the tuples, cuts unused line pointers off the end, and sets the hint
/// about unused ones between others.
pub(crate) fn repair_fragmentation(page: &mut Page) -> Result<(), Misfit> {
    let bounds = Bounds::of(page)?;
    let (lines, _) = page[HEADER_BYTES..bounds.lower].as_chunks_mut::<ITEM_ID_BYTES>();
    let mut unused = 0;
    // Without a branch, so that several line pointers are looked at together.
    for line in lines.iter_mut() {
        let id = ItemId(u32::from_le_bytes(*line));
        unused += usize::from(!id.is_used());
        *line = if id.is_used() { id } else { ItemId::UNUSED }.0.to_le_bytes();
    }
    let kept = lines.iter().rposition(|line| ItemId(u32::from_le_bytes(*line)).is_used()).map_or(0, |last| last + 1);
    pack_items(page, bounds)?;
    let cut = bounds.item_count() - kept;
    set_lower(page, HEADER_BYTES + kept * ITEM_ID_BYTES);
    set_free_lines(page, unused > cut);
    Ok(())
}

/// `PageTruncateLinePointerArray` (heap pages): cuts unused line pointers off the end but never the first one, and sets
/// the hint about unused ones that remain.
pub(crate) fn truncate_line_pointers(page: &mut Page) -> Result<(), Misfit> {
    let bounds = Bounds::of(page)?;
    let is_unused = |offset: &usize| !ItemId(u32_at(page, HEADER_BYTES + (offset - 1) * ITEM_ID_BYTES)).is_used();
    let count = bounds.item_count();
    let kept = (2..=count).rev().find(|offset| !is_unused(offset)).unwrap_or(1).min(count);
    let has_free_lines = (1..=kept).any(|offset| is_unused(&offset));
    set_lower(page, HEADER_BYTES + kept * ITEM_ID_BYTES);
    set_free_lines(page, has_free_lines);
    Ok(())
}

/// `PageIndexTupleDelete`: takes an item out together with its line pointer and closes both gaps.
pub(crate) fn delete_index_item(page: &mut Page, offset: u16) -> Result<(), Misfit> {
    let bounds = Bounds::of(page)?;
    let at = bounds.item_id_at(offset)?;
    let gap = bounds.storage(offset, ItemId(u32_at(page, at)))?;
    page.copy_within(at + ITEM_ID_BYTES..bounds.lower, at);
    close_gap(page, bounds, gap, bounds.lower - ITEM_ID_BYTES);
    Ok(())
}

/// Moves the items below a gap up over it; the line pointers, which end at `lower` from now on, follow.
fn close_gap(page: &mut Page, bounds: Bounds, gap: Range<usize>, lower: usize) {
    let size = align(gap.len());
    page.copy_within(bounds.upper..gap.start, bounds.upper + size);
    set_lower(page, lower);
    set_upper(page, bounds.upper + size);
    shift_items(page, lower, gap.start, |start| start + size);
}

/// Moves the line pointers of all items that are at or below `limit`.
fn shift_items(page: &mut Page, lower: usize, limit: usize, shift: impl Fn(usize) -> usize) {
    for at in (HEADER_BYTES..lower).step_by(ITEM_ID_BYTES) {
        let id = ItemId(u32_at(page, at));
        let start = usize::from(id.offset());
        if id.has_storage() && start <= limit {
            // A line pointer that was corrupt before stays so; it is checked when it is followed.
            write_item_id(page, at, moved_to(id, shift(start) & 0x7FFF));
        }
    }
}

/// `PageIndexMultiDelete`: takes out the items with these offset numbers, which ascend, and packs the rest.
pub(crate) fn delete_index_items(page: &mut Page, offsets: &[u16]) -> Result<(), Misfit> {
    if offsets.len() <= 2 {
        // Few items are taken out one by one, which leaves the others in another order than packing would.
        return offsets.iter().rev().try_for_each(|offset| delete_index_item(page, *offset));
    }
    let bounds = Bounds::of(page)?;
    let mut doomed = offsets.iter().copied().peekable();
    let mut lower = HEADER_BYTES;
    for offset in bounds.offsets() {
        let id = bounds.item_id(page, offset)?;
        bounds.storage(offset, id)?;
        if doomed.next_if_eq(&offset).is_none() {
            write_item_id(page, lower, id);
            lower += ITEM_ID_BYTES;
        }
    }
    if let Some(offset) = doomed.next() {
        return Err(Misfit::NoItem { offset, count: bounds.item_count() });
    }
    set_lower(page, lower);
    pack_items(page, Bounds { lower, ..bounds })
}

/// The offset numbers in a record's data, copied to `buffer`.
pub(crate) fn copy_offsets<'b>(listed: &[u8], buffer: &'b mut [u16; ITEMS_MAX]) -> Result<&'b mut [u16], Misfit> {
    let offsets = buffer.get_mut(..listed.len() / 2).ok_or(Misfit::TooManyItems)?;
    offsets.iter_mut().zip(offset_numbers(listed)).for_each(|(slot, offset)| *slot = offset);
    Ok(offsets)
}

/// [`delete_index_items`] for a list as records have it.
pub(crate) fn delete_listed_items(page: &mut Page, listed: &[u8]) -> Result<(), Misfit> {
    delete_index_items(page, copy_offsets(listed, &mut [0; ITEMS_MAX])?)
}

/// `PageIndexTupleOverwrite`: replaces an item in place, shifting what is below it if the size changes.
pub(crate) fn overwrite_index_item(page: &mut Page, offset: u16, item: &[u8]) -> Result<(), Misfit> {
    let bounds = Bounds::of(page)?;
    let at = bounds.item_id_at(offset)?;
    let id = ItemId(u32_at(page, at));
    let old = bounds.storage(offset, id)?;
    let (old_size, new_size) = (align(old.len()), align(item.len()));
    if new_size > old_size + bounds.upper - bounds.lower {
        return Err(Misfit::NoRoom(item.len()));
    }
    let start = old.start + old_size - new_size;
    if new_size != old_size {
        let upper = bounds.upper + old_size - new_size;
        page.copy_within(bounds.upper..old.start, upper);
        set_upper(page, upper);
        shift_items(page, bounds.lower, old.start, |start| (start + old_size).wrapping_sub(new_size));
    }
    write_item_id(page, at, ItemId::new(stored(start), id.state(), stored(item.len())));
    put(page, start, item);
    Ok(())
}

#[cfg(test)]
mod tests;
