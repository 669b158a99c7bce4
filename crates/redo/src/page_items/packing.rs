//! Packing a page's items against its special space, after some of them went. Source: `compactify_tuples`.

use super::{Bounds, HEADER_BYTES, ITEM_ID_BYTES, ItemId, Page, align, moved_to, set_upper, u32_at, write_item_id};
use crate::error::Misfit;
use std::ops::Range;

/// Packs the items of a page whose line pointers are final, the first one's item last, and points the line pointers at
/// them. `bounds.upper` is where the tuple space starts until then.
pub(super) fn pack_items(page: &mut Page, bounds: Bounds) -> Result<(), Misfit> {
    let layout = Layout::of(page, bounds)?;
    if layout.bytes > bounds.special - bounds.lower {
        return Err(Misfit::NoRoom(layout.bytes));
    }
    let upper = if layout.is_descending {
        move_items(page, bounds, |page, run, to| page.copy_within(run, to))
    } else {
        // Items that are not in order may overlap what others are moved to.
        let scratch = *page;
        move_items(page, bounds, |page, run, to| page[to..to + run.len()].copy_from_slice(&scratch[run]))
    };
    set_upper(page, upper);
    Ok(())
}

/// How the items lie.
struct Layout {
    /// What they take together.
    bytes: usize,
    /// Whether each lies below the one before it, so that moving them up one after the other overwrites none that has
    /// still to be moved.
    is_descending: bool,
}

impl Layout {
    /// Looks at every item, which must lie within the tuple space.
    fn of(page: &Page, bounds: Bounds) -> Result<Layout, Misfit> {
        let mut layout = Layout { bytes: 0, is_descending: true };
        let mut previous = bounds.special;
        for (offset, line) in (1..).zip(page[HEADER_BYTES..bounds.lower].chunks_exact(ITEM_ID_BYTES)) {
            let id = ItemId(u32_at(line, 0));
            if id.has_storage() {
                let item = bounds.storage(offset, id)?;
                let end = item.start + align(item.len());
                layout.bytes += end - item.start;
                layout.is_descending &= end <= previous;
                previous = item.start;
            }
        }
        Ok(layout)
    }
}

/// Moves the items down from the special space, in runs of items that already lie one below the other; gives back where
/// the last one begins. Moving a run does not touch the line pointers.
fn move_items(page: &mut Page, bounds: Bounds, move_run: impl Fn(&mut Page, Range<usize>, usize)) -> usize {
    let mut upper = bounds.special;
    let mut run = upper..upper;
    for at in (HEADER_BYTES..bounds.lower).step_by(ITEM_ID_BYTES) {
        let id = ItemId(u32_at(page, at));
        if !id.has_storage() {
            continue;
        }
        let start = usize::from(id.offset());
        let end = start + align(id.length().into());
        if end != run.start {
            move_run(page, run, upper);
            run = end..end;
        }
        run.start = start;
        upper -= end - start;
        if upper != start {
            write_item_id(page, at, moved_to(id, upper));
        }
    }
    move_run(page, run, upper);
    upper
}
