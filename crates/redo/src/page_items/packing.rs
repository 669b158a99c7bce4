//! Packing a page's items against its special space, after some of them went. Source: `compactify_tuples`.

use super::{Bounds, HEADER_BYTES, ITEM_ID_BYTES, ItemId, Page, align, moved_to, put, set_upper};
use crate::error::Misfit;
use std::ops::Range;

/// Room for the runs that a page usually has.
const RUNS_USUAL: usize = 16;

/// Packs the items of a page whose line pointers are final, the first one's item last, and points the line pointers at
/// them. `bounds.upper` is where the tuple space starts until then.
///
/// The items of the first line pointers mostly lie where they are to be, because pages fill from there and a pruned
/// page was packed before: only what lies below those is moved.
pub(super) fn pack_items(page: &mut Page, bounds: Bounds) -> Result<(), Misfit> {
    let (staying, packed) = packed_already(page, bounds)?;
    let upper = move_items(page, Bounds { special: packed, ..bounds }, staying)?;
    set_upper(page, upper);
    Ok(())
}

/// The line pointers, numbered as offset numbers are.
fn numbered(lines: &[[u8; ITEM_ID_BYTES]]) -> impl Iterator<Item = (u16, ItemId)> {
    (1..).zip(lines.iter().map(|line| ItemId(u32::from_le_bytes(*line))))
}

/// How many line pointers there are before the first one whose item is to be moved, and where the items of those begin,
/// which stay.
fn packed_already(page: &Page, bounds: Bounds) -> Result<(usize, usize), Misfit> {
    let (lines, _) = page[HEADER_BYTES..bounds.lower].as_chunks();
    let mut upper = bounds.special;
    for (offset, id) in numbered(lines).filter(|(_, id)| id.has_storage()) {
        let item = bounds.storage(offset, id)?;
        if item.start + align(item.len()) != upper {
            return Ok((usize::from(offset) - 1, upper));
        }
        upper = item.start;
    }
    Ok((lines.len(), upper))
}

/// Items that lie one below the other and stay so.
struct Run {
    from: Range<usize>,
    to: usize,
}

/// Moves the items behind the first `staying` line pointers down from `bounds.special`; gives back where the last one
/// begins.
fn move_items(page: &mut Page, bounds: Bounds, staying: usize) -> Result<usize, Misfit> {
    let mut moved = Vec::with_capacity(RUNS_USUAL);
    let mut upper = bounds.special;
    let mut run = upper..upper;
    let (lines, _) = page[HEADER_BYTES..bounds.lower].as_chunks_mut::<ITEM_ID_BYTES>();
    for (offset, line) in (1..).zip(lines).skip(staying) {
        let id = ItemId(u32::from_le_bytes(*line));
        if !id.has_storage() {
            continue;
        }
        let start = bounds.storage(offset, id)?.start;
        let bytes = align(id.length().into());
        if start + bytes != run.start {
            note_run(&mut moved, run, upper);
            run = start + bytes..start + bytes;
        }
        run.start = start;
        upper = upper.checked_sub(bytes).filter(|upper| *upper >= bounds.lower).ok_or(Misfit::NoRoom(bytes))?;
        if upper != start {
            *line = moved_to(id, upper).0.to_le_bytes();
        }
    }
    note_run(&mut moved, run, upper);
    move_runs(page, &moved);
    Ok(upper)
}

/// Remembers a run that is to be moved, unless it lies there already, as much of a page does that was packed before.
fn note_run(moved: &mut Vec<Run>, from: Range<usize>, to: usize) {
    if from.start != to && !from.is_empty() {
        moved.push(Run { from, to });
    }
}

/// Moves the runs all at once: they may lie in any order, and one where another is to be.
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
