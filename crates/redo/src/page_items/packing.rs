//! Packing a page's items against its special space, after some of them went. Source: `compactify_tuples`.

use super::{Bounds, HEADER_BYTES, ITEM_ID_BYTES, ItemId, Page, align, moved_to, put, set_upper};
use crate::error::Misfit;
use std::ops::Range;

/// Room for the runs that a page usually has.
const RUNS_USUAL: usize = 16;
/// Line pointers that are looked at together.
const GROUP: usize = 8;

type Line = [u8; ITEM_ID_BYTES];

/// Packs the items of a page whose line pointers are final, the first one's item last, and points the line pointers at
/// them. `bounds.upper` is where the tuple space starts until then.
///
/// Most items are one below the other already, because pages fill from their ends and a pruned page was packed before:
/// such runs are moved, or left, as a whole.
pub(super) fn pack_items(page: &mut Page, bounds: Bounds) -> Result<(), Misfit> {
    let mut packing = Packing::new(bounds);
    let (lines, _) = page[HEADER_BYTES..bounds.lower].as_chunks_mut();
    let (groups, rest) = lines.as_chunks_mut::<GROUP>();
    let mut first = 1;
    for group in groups {
        if !packing.prolong(group) {
            packing.place_all(first, group)?;
        }
        first += GROUP as u16;
    }
    packing.place_all(first, rest)?;
    packing.end_run();
    move_runs(page, &packing.moved);
    set_upper(page, packing.upper);
    Ok(())
}

/// Items that are one below the other and stay so.
struct Run {
    from: Range<usize>,
    to: usize,
}

/// How far the line pointers have been gone through. They are changed at once, the items when all have their places.
struct Packing {
    bounds: Bounds,
    /// Where the last item is to begin.
    upper: usize,
    /// Where the items of the last run are, none of them below another's place.
    run: Range<usize>,
    /// The runs before it that are to be moved.
    moved: Vec<Run>,
}

impl Packing {
    fn new(bounds: Bounds) -> Packing {
        let moved = Vec::with_capacity(RUNS_USUAL);
        Packing { bounds, upper: bounds.special, run: bounds.special..bounds.special, moved }
    }

    /// Adds the items of a group to the run, if that is where all of them are; there is no branch for a single one.
    fn prolong(&mut self, group: &mut [Line; GROUP]) -> bool {
        let (mut start, mut elsewhere) = (self.run.start, 0);
        for line in group.iter() {
            let id = ItemId(u32::from_le_bytes(*line));
            // An item that does not fit takes this below zero, where no item is.
            start = start.wrapping_sub(align(id.length().into()));
            elsewhere |= if id.has_storage() { start ^ usize::from(id.offset()) } else { 0 };
        }
        if elsewhere != 0 || start < self.bounds.upper {
            return false;
        }
        let upper = (self.upper + start).checked_sub(self.run.start).filter(|upper| *upper >= self.bounds.lower);
        let Some(upper) = upper else { return false };
        if upper != start {
            group.iter_mut().for_each(|line| move_line(line, start, upper));
        }
        (self.upper, self.run.start) = (upper, start);
        true
    }

    /// Adds items one by one, the first of which has this offset number.
    fn place_all(&mut self, first: u16, lines: &mut [Line]) -> Result<(), Misfit> {
        (first..).zip(lines).try_for_each(|(offset, line)| self.place(offset, line))
    }

    /// Adds one item, to the run or as the first one of the next.
    fn place(&mut self, offset: u16, line: &mut Line) -> Result<(), Misfit> {
        let id = ItemId(u32::from_le_bytes(*line));
        if !id.has_storage() {
            return Ok(());
        }
        let start = self.bounds.storage(offset, id)?.start;
        let bytes = align(id.length().into());
        if start + bytes != self.run.start {
            self.end_run();
            self.run = start + bytes..start + bytes;
        }
        self.run.start = start;
        let upper = self.upper.checked_sub(bytes).filter(|upper| *upper >= self.bounds.lower);
        self.upper = upper.ok_or(Misfit::NoRoom(bytes))?;
        if self.upper != start {
            *line = moved_to(id, self.upper).0.to_le_bytes();
        }
        Ok(())
    }

    /// Remembers the run, unless it is where it is to be.
    fn end_run(&mut self) {
        if self.run.start != self.upper && !self.run.is_empty() {
            self.moved.push(Run { from: self.run.clone(), to: self.upper });
        }
    }
}

/// Points at the item as far from where it is as `to` is from `from`, both of them and the item's places on the page.
#[inline]
fn move_line(line: &mut Line, from: usize, to: usize) {
    let id = ItemId(u32::from_le_bytes(*line));
    // The offset is what the lowest bits hold.
    let moved = if id.has_storage() { id.0.wrapping_add(to as u32).wrapping_sub(from as u32) } else { id.0 };
    *line = moved.to_le_bytes();
}

/// Moves the runs all at once: they may be in any order, and one where another is to be.
fn move_runs(page: &mut Page, moved: &[Run]) {
    if let [Run { from, to }] = moved {
        return page.copy_within(from.clone(), *to);
    }
    let mut copy = Vec::with_capacity(moved.iter().map(|run| run.from.len()).sum());
    moved.iter().for_each(|run| copy.extend_from_slice(&page[run.from.clone()]));
    let mut left = &copy[..];
    for Run { from, to } in moved {
        let (items, rest) = left.split_at(from.len());
        put(page, *to, items);
        left = rest;
    }
}
