//! What `apply` refuses, and small records end to end; whole workloads are in `tests/oracle`.

mod arbitrary;

use super::*;
use crate::test_record::{REL, TestRecord, key};
use quire_types::Slru;
use quire_wal::rmgr::{self, XLOG_HEAP_INIT_PAGE, XLOG_HEAP_INSERT, XLOG_HEAP_LOCK};

/// Insertion of a tuple with eight bytes of data as item `offset`.
fn insertion(block: u32, offset: u8, is_first: bool) -> Delta {
    let info = XLOG_HEAP_INSERT | if is_first { XLOG_HEAP_INIT_PAGE } else { 0 };
    let data = [&[1, 0, 0, 8, 24][..], &[0], &[offset; 8]].concat();
    let record = TestRecord::new(rmgr::HEAP, info).block(0, REL, block, is_first, &data);
    Delta::Record(record.build(&[offset, 0, 0]), Lsn(40))
}

fn blank() -> [u8; PAGE_SIZE] {
    [0; PAGE_SIZE]
}

#[test]
fn tuples_are_inserted_one_after_the_other() {
    let mut page = [0xEE; PAGE_SIZE];
    apply(&mut page, key(3), Lsn(100), &insertion(3, 1, true)).unwrap();
    apply(&mut page, key(3), Lsn(200), &insertion(3, 2, false)).unwrap();
    assert_eq!((page::lsn(&page), page::lower(&page), page::upper(&page)), (Lsn(200), 32, 8192 - 64));
    let second = &page[8192 - 64..8192 - 32];
    assert_eq!(second[..4], 700u32.to_le_bytes());
    assert_eq!(second[12..18], [0, 0, 3, 0, 2, 0], "points at itself");
    assert_eq!(second[23..], [0, 2, 2, 2, 2, 2, 2, 2, 2]);
}

#[test]
fn a_record_is_not_applied_twice() {
    let mut page = blank();
    apply(&mut page, key(3), Lsn(100), &insertion(3, 1, true)).unwrap();
    apply(&mut page, key(3), Lsn(200), &insertion(3, 2, false)).unwrap();
    let twice = apply(&mut page, key(3), Lsn(200), &insertion(3, 3, false));
    assert_eq!(twice, Err(RedoError::NotNewer { key: key(3), page_lsn: Lsn(200), lsn: Lsn(200) }));
}

#[test]
fn a_record_that_does_not_fit_the_page_is_an_error() {
    let mut page = blank();
    apply(&mut page, key(3), Lsn(100), &insertion(3, 1, true)).unwrap();
    let error = apply(&mut page, key(3), Lsn(200), &insertion(3, 3, false)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "redo of Heap record 0x00 ending at 0/C8 on relation 1663/5/16384 block 3: no item 3 on a page of 1"
    );
    assert!(matches!(apply(&mut blank(), key(3), Lsn(200), &insertion(3, 1, false)), Err(RedoError::Misfit { .. })));
}

#[test]
fn another_page_than_the_records_is_an_error() {
    let error = apply(&mut blank(), key(4), Lsn(100), &insertion(3, 1, true));
    assert_eq!(error, Err(RedoError::NotReferenced { start: Lsn(40), key: key(4) }));
}

#[test]
fn an_image_is_restored_whoever_logged_it_unless_it_is_for_comparison() {
    const CUSTOM: u8 = 200;
    let mut image = blank();
    quire_wal::page::init(&mut image, 0);
    let record = |is_restored| {
        Delta::Record(TestRecord::new(CUSTOM, 0).image(0, REL, 3, is_restored, &image).build(b""), Lsn(40))
    };
    let mut page = blank();
    apply(&mut page, key(3), Lsn(100), &record(true)).unwrap();
    assert_eq!((page::lsn(&page), &page[8..]), (Lsn(100), &image[8..]));
    let error = apply(&mut page, key(3), Lsn(200), &record(false)).unwrap_err();
    assert_eq!(error.to_string(), "redo of resource manager 200 record 0x00 is not supported (record at 0/28)");
}

#[test]
fn an_image_of_a_new_page_stays_all_zero() {
    let delta = Delta::Record(TestRecord::new(rmgr::XLOG, 0xB0).image(0, REL, 3, true, &blank()).build(b""), Lsn(40));
    let mut page = [1; PAGE_SIZE];
    apply(&mut page, key(3), Lsn(100), &delta).unwrap();
    assert_eq!(page, blank());
}

#[test]
fn a_hint_logged_without_an_image_changes_nothing() {
    let delta =
        |info| Delta::Record(TestRecord::new(rmgr::XLOG, info).block(0, REL, 3, false, b"").build(b""), Lsn(40));
    let mut page = blank();
    assert_eq!(apply(&mut page, key(3), Lsn(100), &delta(rmgr::XLOG_FPI_FOR_HINT)), Ok(()));
    assert_eq!(page, blank());
    assert!(apply(&mut page, key(3), Lsn(100), &delta(rmgr::XLOG_FPI)).is_err());
}

#[test]
fn effects_are_refused_on_pages_where_they_do_not_belong() {
    let visibility = Delta::VisibilityCleared { heap_blocks: vec![5, 40_000], bits: 3 };
    assert!(matches!(apply(&mut blank(), key(0), Lsn(9), &visibility), Err(RedoError::WrongPage { .. })));
    let clog = Delta::ClogStatus { status: TransactionStatus::Committed, xids: vec![40_000] };
    for (slru, page, is_right) in [(Slru::Clog, 1, true), (Slru::Clog, 0, false), (Slru::CommitTs, 1, false)] {
        assert_eq!(apply(&mut blank(), Key::SlruBlock { slru, page }, Lsn(9), &clog).is_ok(), is_right);
    }
}

#[test]
fn members_may_wrap_around_the_end_of_the_area() {
    let members = vec![MultixactMember { xid: 7, status: 1 }; 2];
    let last = Key::SlruBlock { slru: Slru::MultixactMembers, page: multixact::member_page_of(u32::MAX) };
    let delta = Delta::MultixactMembers { first: u32::MAX, members };
    assert!(apply(&mut blank(), last, Lsn(9), &delta).is_err(), "the second member lies on page 0");
    let delta = Delta::MultixactMembers { first: u32::MAX, members: vec![MultixactMember { xid: 7, status: 1 }] };
    assert_eq!(apply(&mut blank(), last, Lsn(9), &delta), Ok(()));
}

#[test]
fn kinds_of_records_without_redo_are_not_supported() {
    assert!(supports(rmgr::HEAP, XLOG_HEAP_LOCK) && supports(rmgr::BTREE, 0xE0) && supports(rmgr::XACT, 0));
    let unknown =
        [(rmgr::GIN, 0x00), (rmgr::GIN, 0xA0), (rmgr::HASH, 0x50), (rmgr::BRIN, 0x60), (rmgr::BTREE, 0xF0), (200, 0)];
    for (id, info) in unknown {
        assert!(!supports(id, info), "{id}");
    }
}
