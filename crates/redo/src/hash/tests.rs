//! What no workload of a reasonable size does, and what is refused.

use super::opaque::{FLAG_BUCKET_PAGE, FLAG_HAS_DEAD_TUPLES, FLAG_META_PAGE, NONE, Opaque};
use crate::page_items::{Page, u16_at, u32_at};
use crate::test_record::{REL, TestRecord, key};
use crate::{Delta, Misfit, RedoError, apply, supports};
use bytes::Bytes;
use quire_types::{Lsn, PAGE_SIZE};
use quire_wal::page::lower;
use quire_wal::rmgr::*;

const BITMAP_BYTES: [u8; 2] = 4096u16.to_le_bytes();

fn redo(page: &mut Page, block: u32, record: &Bytes, lsn: u64) -> Result<(), RedoError> {
    apply(page, key(block), Lsn(lsn), &Delta::Record(record.clone(), Lsn(40)))
}

fn redone(block: u32, record: &Bytes) -> Page {
    let mut page = [0xEE; PAGE_SIZE];
    redo(&mut page, block, record, 100).unwrap();
    page
}

/// The meta page of an index that begins with four buckets, and has its first bitmap in block 5.
fn meta_page() -> Page {
    let main = [&1000f64.to_le_bytes()[..], &450u32.to_le_bytes(), &307u16.to_le_bytes()].concat();
    let mut page = redone(0, &TestRecord::new(HASH, XLOG_HASH_INIT_META_PAGE).block(0, REL, 0, true, b"").build(&main));
    let bitmap = TestRecord::new(HASH, XLOG_HASH_INIT_BITMAP_PAGE);
    let bitmap = bitmap.block(0, REL, 5, true, b"").block(1, REL, 0, false, b"").build(&BITMAP_BYTES);
    redo(&mut page, 0, &bitmap, 200).unwrap();
    page
}

/// An overflow page in block 7 after block 3, which needed a new bitmap page in block 6.
fn overflow_with_new_bitmap() -> Bytes {
    TestRecord::new(HASH, XLOG_HASH_ADD_OVFL_PAGE)
        .block(0, REL, 7, true, &2u32.to_le_bytes())
        .block(1, REL, 3, false, b"")
        .block(3, REL, 6, true, b"")
        .block(4, REL, 0, false, &32_769u32.to_le_bytes())
        .build(&[BITMAP_BYTES[0], BITMAP_BYTES[1], 0])
}

fn field(page: &Page, offset: usize) -> u32 {
    u32_at(page, 24 + offset)
}

#[test]
fn a_meta_page_is_made_of_an_estimate() {
    let page = meta_page();
    let expected = [0x0644_0640, 4, 0, 0, 8152 << 16 | 307, 15 << 16 | 4096, 3, 7, 3, 2, 0, 1, 450, 0, 0, 1];
    let found: Vec<u32> = (0..expected.len()).map(|number| field(&page, 4 * number)).collect();
    assert_eq!(found, expected);
    assert_eq!((field(&page, 52 + 4 * 98), lower(&page)), (5, 4568));
    assert_eq!(Opaque::of(&page), Ok(Opaque { prev: NONE, next: NONE, bucket: NONE, flags: FLAG_META_PAGE }));
}

#[test]
fn a_new_bitmap_page_says_that_all_is_in_use() {
    let page = redone(6, &overflow_with_new_bitmap());
    assert_eq!((lower(&page), u16_at(&page, PAGE_SIZE - 4)), (4120, 4));
    assert!(page[24..4120].iter().all(|byte| *byte == 0xFF) && page[4120..8176].iter().all(|byte| *byte == 0));
}

#[test]
fn a_new_bitmap_page_is_counted_along_with_the_overflow_page() {
    let mut page = meta_page();
    redo(&mut page, 0, &overflow_with_new_bitmap(), 300).unwrap();
    assert_eq!(field(&page, 40), 32_769, "first free");
    assert_eq!(field(&page, 44), 2, "number of bitmaps");
    assert_eq!(field(&page, 52 + 4 * 2), 3, "overflow pages");
    assert_eq!(field(&page, 52 + 4 * 98 + 4), 6, "second bitmap");
}

#[test]
fn a_new_overflow_page_knows_its_bucket_and_the_page_before() {
    let page = redone(7, &overflow_with_new_bitmap());
    assert_eq!(Opaque::of(&page), Ok(Opaque { prev: 3, next: NONE, bucket: 2, flags: 1 }));
}

/// Freed pages are the last of their chains, so that no page follows them; if one did, it would be told.
#[test]
fn the_pages_around_a_freed_one_are_joined() {
    let main = [&3u32.to_le_bytes()[..], &9u32.to_le_bytes(), &[0; 4]].concat();
    let squeeze = TestRecord::new(HASH, XLOG_HASH_SQUEEZE_PAGE);
    let squeeze = squeeze.block(3, REL, 3, false, b"").block(4, REL, 9, false, b"").build(&main);
    for (block, prev, next) in [(3, 2, 9), (9, 3, 12)] {
        let mut page = [0; PAGE_SIZE];
        let before = Opaque { prev: 2, next: 12, bucket: 1, flags: 1 };
        before.init_page(&mut page).unwrap();
        redo(&mut page, block, &squeeze, 300).unwrap();
        assert_eq!(Opaque::of(&page), Ok(Opaque { prev, next, ..before }));
    }
}

#[test]
fn the_list_of_bitmaps_ends() {
    let mut page = meta_page();
    page[24 + 44..24 + 48].copy_from_slice(&1024u32.to_le_bytes());
    let error = redo(&mut page, 0, &overflow_with_new_bitmap(), 300).unwrap_err();
    let expected = Misfit::Value { field: "number of bitmaps", value: 1024 };
    assert!(matches!(error, RedoError::Misfit { reason, .. } if reason == expected));
}

#[test]
fn a_page_of_another_type_is_refused() {
    let mut overflow = redone(7, &overflow_with_new_bitmap());
    let count = TestRecord::new(HASH, XLOG_HASH_UPDATE_META_PAGE).block(0, REL, 7, false, b"").build(&[0; 8]);
    let error = redo(&mut overflow, 7, &count, 300).unwrap_err();
    let expected = Misfit::Value { field: "hash page type", value: 1 };
    assert!(matches!(error, RedoError::Misfit { reason, .. } if reason == expected));
}

#[test]
fn the_primary_page_is_left_alone_by_what_happens_behind_it() {
    for info in [XLOG_HASH_MOVE_PAGE_CONTENTS, XLOG_HASH_SQUEEZE_PAGE, XLOG_HASH_DELETE] {
        let mut page = redone(7, &overflow_with_new_bitmap());
        let before = page;
        redo(&mut page, 7, &TestRecord::new(HASH, info).block(0, REL, 7, false, b"").build(b""), 300).unwrap();
        assert!(page == before);
    }
}

/// The masks hide this hint, so no comparison with a server shows it.
#[test]
fn a_page_without_dead_tuples_loses_the_mark() {
    let cases = [
        (XLOG_HASH_DELETE, 1, &[1, 0][..], false),
        (XLOG_HASH_DELETE, 1, &[0, 0], true),
        (XLOG_HASH_VACUUM_ONE_PAGE, 0, &[0; 8], false),
    ];
    for (info, id, main, is_marked) in cases {
        let mut page = [0; PAGE_SIZE];
        let flags = FLAG_BUCKET_PAGE | FLAG_HAS_DEAD_TUPLES;
        Opaque { prev: 1, next: NONE, bucket: 1, flags }.init_page(&mut page).unwrap();
        redo(&mut page, 7, &TestRecord::new(HASH, info).block(id, REL, 7, false, b"").build(main), 300).unwrap();
        let left = Opaque::of(&page).unwrap().flags;
        assert_eq!(left, if is_marked { flags } else { FLAG_BUCKET_PAGE }, "{info:#04x} {main:?}");
    }
}

#[test]
fn a_filled_page_of_a_split_is_an_image_or_nothing() {
    assert!(!supports(HASH, XLOG_HASH_SPLIT_PAGE));
    let image = meta_page();
    let record = TestRecord::new(HASH, XLOG_HASH_SPLIT_PAGE).image(0, REL, 8, true, &image).build(b"");
    assert!(redone(8, &record)[8..] == image[8..]);
}
