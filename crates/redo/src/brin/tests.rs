//! The range map's arithmetic, and what is refused.

use super::*;
use crate::test_record::{REL, TestRecord, key};
use crate::{Delta, RedoError, apply};
use bytes::Bytes;
use quire_types::Lsn;

fn redo(page: &mut Page, block: u32, record: Bytes) -> Result<(), RedoError> {
    apply(page, key(block), Lsn(200), &Delta::Record(record, Lsn(40)))
}

fn page_of_type(page_type: u16) -> Page {
    let mut page = [0; PAGE_SIZE];
    init_page(&mut page, page_type);
    page
}

/// A summary for the range with this heap block goes to item 1 of block 9.
fn insertion(heap_block: u32, pages_per_range: u32) -> Bytes {
    let main = [&heap_block.to_le_bytes()[..], &pages_per_range.to_le_bytes(), &1u16.to_le_bytes()].concat();
    let record = TestRecord::new(BRIN, XLOG_BRIN_INSERT | XLOG_BRIN_INIT_PAGE);
    record.block(0, REL, 9, true, &[5; 24]).block(1, REL, 2, false, b"").build(&main)
}

#[test]
fn a_range_has_its_place_in_the_map() {
    let last = REVMAP_ITEMS * 128;
    for (heap_block, place) in [(0, 0), (127, 0), (128, 1), (last - 1, 1359), (last, 0), (u32::MAX, 511)] {
        let mut page = page_of_type(TYPE_REVMAP);
        redo(&mut page, 2, insertion(heap_block, 128)).unwrap();
        let mut expected = page_of_type(TYPE_REVMAP);
        set_lsn(&mut expected, Lsn(200));
        put(&mut expected, HEADER_BYTES + place * 6, &item_pointer(9, 1));
        assert!(page == expected, "{heap_block}");
    }
}

#[test]
fn a_summary_goes_to_a_page_that_the_record_initialises() {
    let mut page = [0xEE; PAGE_SIZE];
    redo(&mut page, 9, insertion(0, 128)).unwrap();
    assert_eq!(page[8160..8184], [5; 24]);
    assert_eq!((u16_at(&page, TYPE_AT), Bounds::of(&page).unwrap().item_count()), (TYPE_REGULAR, 1));
}

#[test]
fn ranges_of_no_pages_are_refused() {
    let error = redo(&mut page_of_type(TYPE_REVMAP), 2, insertion(7, 0)).unwrap_err();
    let expected = Misfit::Value { field: "pages per range", value: 0 };
    assert!(matches!(error, RedoError::Misfit { reason, .. } if reason == expected));
}

#[test]
fn a_page_of_another_type_is_refused() {
    let error = redo(&mut page_of_type(TYPE_REGULAR), 2, insertion(7, 128)).unwrap_err();
    let expected = Misfit::Value { field: "BRIN page type", value: TYPE_REGULAR.into() };
    assert!(matches!(error, RedoError::Misfit { reason, .. } if reason == expected));
}
