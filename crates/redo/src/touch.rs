//! Where on a page redo of a record is going to read and write, told before it does.
//!
//! A replay that goes through much WAL waits for memory most: the pages are many and come in no order. It knows the
//! next few records, though, and can have the processor fetch what they need while others are applied. This is a guess
//! from the page as it stands and decides nothing; that it is wrong costs time only.

use crate::page_items::{Bounds, Page, item, offset_numbers};
use quire_wal::rmgr::{
    HEAP, HEAP2, XLOG_HEAP_DELETE, XLOG_HEAP_HOT_UPDATE, XLOG_HEAP_LOCK, XLOG_HEAP_OPMASK, XLOG_HEAP_UPDATE,
    XLOG_HEAP2_PRUNE,
};
use quire_wal::{BlockView, RecordView};
use std::ops::Range;

/// Bytes that a page's header and the line pointers of a usual heap page take.
const HEAD_BYTES: usize = 320;
/// Of a tuple, what is fetched of its beginning.
const TUPLE_BYTES: usize = 128;

/// What is touched on every page: its header, and the line pointers or most of them.
pub const HEAD: Range<usize> = 0..HEAD_BYTES;

/// What else is touched on this page: the space where a new item goes, or all items where they are to be moved; and the
/// item that the record names. Empty ranges are nothing. The page's [`HEAD`] is read for it.
pub fn touched(page: &Page, record: &RecordView<'_>, block: &BlockView<'_>) -> [Range<usize>; 2] {
    let Ok(bounds) = Bounds::of(page) else { return [0..0, 0..0] };
    if record.rmgr == HEAP2 && record.info & XLOG_HEAP_OPMASK == XLOG_HEAP2_PRUNE {
        return [moved(page, bounds, block), 0..0];
    }
    let new_bytes = block.data.len() + TUPLE_BYTES;
    let new = bounds.upper.saturating_sub(new_bytes)..bounds.upper;
    let named = named_item(record).and_then(|offset| item(page, offset).ok());
    [new, named.map_or(0..0, |item| item.start..item.end.min(item.start + TUPLE_BYTES))]
}

/// What pruning moves: the items that are below one that goes, as they do if they were packed before.
fn moved(page: &Page, bounds: Bounds, block: &BlockView<'_>) -> Range<usize> {
    let ends = offset_numbers(block.data).filter_map(|offset| item(page, offset).ok()).map(|item| item.end);
    bounds.upper..ends.max().unwrap_or(bounds.upper)
}

/// The offset number of the old tuple, which these records all have at the same place.
fn named_item(record: &RecordView<'_>) -> Option<u16> {
    let operation = record.info & XLOG_HEAP_OPMASK;
    let names = matches!(operation, XLOG_HEAP_UPDATE | XLOG_HEAP_HOT_UPDATE | XLOG_HEAP_DELETE | XLOG_HEAP_LOCK);
    if record.rmgr != HEAP || !names {
        return None;
    }
    record.main_data.get(4..6).map(|offset| u16::from_le_bytes([offset[0], offset[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_record::{REL, TestRecord, key};
    use crate::{Delta, apply};
    use quire_types::{Lsn, PAGE_SIZE};
    use quire_wal::rmgr::{XLOG_HEAP_INIT_PAGE, XLOG_HEAP_INSERT};

    /// Insertion of a tuple with eight bytes of data as item `offset`.
    fn insertion(offset: u8, info: u8) -> bytes::Bytes {
        let data = [&[1, 0, 0, 8, 24][..], &[0], &[offset; 8]].concat();
        TestRecord::new(HEAP, XLOG_HEAP_INSERT | info).block(0, REL, 3, info != 0, &data).build(&[offset, 0, 0])
    }

    /// Applies the record, and asserts that the bytes it changed were foretold.
    fn check(page: &mut Page, record: bytes::Bytes, lsn: u64) {
        let (view, block, _) = RecordView::parse_first(&record).unwrap();
        let foretold = touched(page, &view, &block.unwrap());
        let before = *page;
        apply(page, key(3), Lsn(lsn), &Delta::Record(record.clone(), Lsn(40))).unwrap();
        let changed = (0..PAGE_SIZE).filter(|at| before[*at] != page[*at]);
        let unforeseen: Vec<usize> =
            changed.filter(|at| !HEAD.contains(at) && !foretold.iter().any(|part| part.contains(at))).collect();
        assert!(unforeseen.is_empty(), "{unforeseen:?}");
    }

    #[test]
    fn what_insertions_locks_and_prunes_change_is_foretold() {
        let mut page = [0; PAGE_SIZE];
        apply(&mut page, key(3), Lsn(100), &Delta::Record(insertion(1, XLOG_HEAP_INIT_PAGE), Lsn(40))).unwrap();
        (2..9).for_each(|offset| check(&mut page, insertion(offset, 0), 100 + u64::from(offset)));
        let lock = TestRecord::new(HEAP, XLOG_HEAP_LOCK).block(0, REL, 3, false, b"");
        check(&mut page, lock.build(&[1, 2, 3, 4, 2, 0, 0x04, 0]), 200);
        let prune = TestRecord::new(HEAP2, XLOG_HEAP2_PRUNE).block(0, REL, 3, false, &[3, 0]);
        check(&mut page, prune.build(&[0; 8]), 300);
    }

    #[test]
    fn nothing_is_foretold_of_a_page_that_is_none() {
        let record = insertion(1, 0);
        let (view, block, _) = RecordView::parse_first(&record).unwrap();
        assert_eq!(touched(&[0xFF; PAGE_SIZE], &view, &block.unwrap()), [0..0, 0..0]);
    }
}
