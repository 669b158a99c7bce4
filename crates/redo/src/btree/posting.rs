//! Posting lists: many heap TIDs under one key. Source: `nbtdedup.c`, `btree_xlog_dedup`.

use super::opaque::{FLAG_HAS_GARBAGE, Opaque};
use super::rebuilt::Rebuilt;
use super::tuple::{Leaf, Scratch, TID_BYTES, posting_range, size};
use crate::block_redo::BlockRedo;
use crate::error::Misfit;
use crate::page_items::{Bounds, Page, item, u16_at};
use quire_types::Reader;
use std::ops::Range;

/// `_bt_swap_posting`: `new`'s TID goes into the list of `old` at `position`, and the list's last TID becomes `new`'s.
pub(super) fn swap(old: &mut [u8], new: &mut [u8], position: u16) -> Result<(), Misfit> {
    let list = posting_range(old)?;
    size(new)?;
    let at = list.start + usize::from(position) * TID_BYTES;
    let last = list.end.checked_sub(TID_BYTES).filter(|last| position > 0 && at <= *last);
    let last = last.ok_or(Misfit::Value { field: "posting list position", value: position.into() })?;
    let mut pushed_out = [0; TID_BYTES];
    pushed_out.copy_from_slice(&old[last..list.end]);
    old.copy_within(at..last, at + TID_BYTES);
    old[at..at + TID_BYTES].copy_from_slice(&new[..TID_BYTES]);
    new[..TID_BYTES].copy_from_slice(&pushed_out);
    Ok(())
}

/// `btree_xlog_dedup`: each interval of items becomes one tuple with a posting list; the page is written anew.
pub(super) fn deduplicate(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let count = usize::from(Reader::new(redo.record.main_data).u16("intervals")?);
    let logged = Reader::new(redo.block.data).bytes("intervals", count * 4)?;
    let mut intervals = logged.chunks_exact(4).map(|pair| (u16_at(pair, 0), u16_at(pair, 2))).peekable();
    let mut opaque = Opaque::of(page)?;
    opaque.flags &= !FLAG_HAS_GARBAGE;
    let mut rebuilt = Rebuilt::new(opaque)?;
    let end = Bounds::of(page)?.item_count() as u16 + 1;
    let mut offset = 1;
    while offset < end {
        offset = match intervals.next_if(|(base, _)| *base == offset && offset >= opaque.first_data_offset()) {
            Some((_, items)) => {
                let next = interval_end(offset, items, end)?;
                rebuilt.push(merge(page, offset..next)?.bytes())?;
                next
            }
            None => {
                rebuilt.push(&page[unmerged(page, offset, opaque)?])?;
                offset + 1
            }
        };
    }
    if let Some((base, _)) = intervals.next() {
        return Err(Misfit::Value { field: "interval's base", value: base.into() });
    }
    *page = rebuilt.into_page();
    Ok(())
}

fn interval_end(base: u16, items: u16, end: u16) -> Result<u16, Misfit> {
    let found = base.checked_add(items).filter(|found| items > 1 && *found <= end);
    found.ok_or(Misfit::Value { field: "interval's items", value: items.into() })
}

/// An item that stays as it is; a data item is only as long as its tuple says.
fn unmerged(page: &Page, offset: u16, opaque: Opaque) -> Result<Range<usize>, Misfit> {
    let range = item(page, offset)?;
    if offset < opaque.first_data_offset() {
        return Ok(range);
    }
    let length = size(&page[range.clone()])?;
    Ok(range.start..range.start + length)
}

/// One tuple out of several with the same key (`_bt_dedup_save_htid`, `_bt_form_posting`).
fn merge(page: &Page, offsets: Range<u16>) -> Result<Scratch, Misfit> {
    let base = item(page, offsets.start)?;
    let base = Leaf::of(&page[base])?;
    let mut merged = Scratch::with_key(&base)?;
    for offset in offsets {
        let range = item(page, offset)?;
        merged.push(Leaf::of(&page[range])?.tids)?;
    }
    merged.finish_posting(base.key.len())?;
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap_tuple::item_pointer;

    /// A leaf tuple with an eight-byte key.
    fn plain(block: u32) -> Vec<u8> {
        [&item_pointer(block, 1)[..], &16u16.to_le_bytes(), &[0xAB; 8]].concat()
    }

    fn list(blocks: &[u32]) -> Scratch {
        let tuples: Vec<_> = blocks.iter().map(|block| plain(*block)).collect();
        let mut merged = Scratch::with_key(&Leaf::of(&tuples[0]).unwrap()).unwrap();
        tuples.iter().for_each(|tuple| merged.push(Leaf::of(tuple).unwrap().tids).unwrap());
        merged.finish_posting(16).unwrap();
        merged
    }

    fn blocks(tuple: &[u8]) -> Vec<u32> {
        let tids = Leaf::of(tuple).unwrap().tids.chunks_exact(TID_BYTES);
        tids.map(|tid| crate::heap_tuple::item_pointer_block(tid, 0)).collect()
    }

    #[test]
    fn a_new_tid_pushes_the_last_one_out() {
        let mut old = list(&[1, 2, 4, 5]);
        let mut new = plain(3);
        swap(old.bytes_mut(), &mut new, 2).unwrap();
        assert_eq!((blocks(old.bytes()), blocks(&new)), (vec![1, 2, 3, 4], vec![5]));
        for outside in [0, 4, 5] {
            assert!(swap(old.bytes_mut(), &mut new, outside).is_err(), "{outside}");
        }
    }

    #[test]
    fn one_tid_makes_a_plain_tuple() {
        assert_eq!(list(&[9]).bytes(), plain(9));
        assert_eq!(list(&[1, 2, 3]).bytes().len(), 40);
    }
}
