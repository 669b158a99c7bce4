//! What the workloads of `tests/oracle` do not bring about, and records made to break redo.

use super::opaque::{FLAG_DELETED, NO_BLOCK, Opaque};
use super::*;
use crate::error::{Misfit, RedoError};
use crate::mask::first_difference;
use crate::page_items::{item, put, set_lower, u16_at};
use crate::test_record::{REL, TestRecord, key};
use crate::{Delta, apply};
use proptest::prelude::*;
use quire_types::PAGE_SIZE;
use quire_wal::page::{self, ItemId, ItemState};
use quire_wal::rmgr::GIST;

const LSN: Lsn = Lsn(0x1_2345_6789);

/// A page with the mark that it is to be followed to the right.
fn child() -> Page {
    let mut page = [0; PAGE_SIZE];
    Opaque { nsn: Lsn(7), right_link: 12, flags: FLAG_LEAF | FLAG_FOLLOW_RIGHT }.init_page(&mut page).unwrap();
    page
}

fn redo_on(page: &mut Page, block: u32, record: bytes::Bytes) -> Result<(), RedoError> {
    apply(page, key(block), LSN, &Delta::Record(record, Lsn(40)))
}

fn tuple(fill: u8) -> Vec<u8> {
    [&[fill; 6][..], &16u16.to_le_bytes(), &[fill; 8]].concat()
}

/// A split into `pages` pages of what had the right link 77 and the NSN 7.
fn split_data(is_leaf: bool, pages: u16) -> Vec<u8> {
    [
        &77u32.to_le_bytes()[..],
        &[0; 4],
        &7u64.to_le_bytes(),
        &[u8::from(is_leaf), 0],
        &pages.to_le_bytes(),
        &[1, 0, 0, 0],
    ]
    .concat()
}

#[test]
fn a_child_gets_its_number_also_when_its_image_is_restored() {
    for (info, id) in [(XLOG_GIST_PAGE_UPDATE, 1), (XLOG_GIST_PAGE_SPLIT, 0)] {
        let redone = TestRecord::new(GIST, info).block(id, REL, 3, false, b"").build(&[0; 24]);
        let restored = TestRecord::new(GIST, info).image(id, REL, 3, true, &child()).build(&[0; 24]);
        for (record, before) in [(redone, child()), (restored, [0; PAGE_SIZE])] {
            let mut page = before;
            redo_on(&mut page, 3, record).unwrap();
            let opaque = Opaque::of(&page).unwrap();
            assert_eq!((opaque.nsn, opaque.right_link, opaque.flags), (LSN, 12, FLAG_LEAF));
            assert_eq!((page::lsn(&page), &page[8176..8180]), (LSN, &[1, 0, 0, 0][..]));
        }
    }
}

#[test]
fn tuples_deleted_by_a_vacuum_are_noted_as_the_server_did_that_wrote_the_record() {
    let main = [&1u16.to_le_bytes()[..], &0u16.to_le_bytes()].concat();
    let record = TestRecord::new(GIST, XLOG_GIST_PAGE_UPDATE).block(0, REL, 3, false, &1u16.to_le_bytes()).build(&main);
    let flags_after = |server: Option<ServerVersion>| {
        let mut page = child();
        add_index_item(&mut page, 1, &tuple(1)).unwrap();
        let delta = Delta::of_record(GIST, XLOG_GIST_PAGE_UPDATE, server, record.clone(), Lsn(40));
        // As it comes back from storage.
        let delta = Delta::decode(delta.encode()).unwrap();
        apply(&mut page, key(3), LSN, &delta).unwrap();
        Opaque::of(&page).unwrap().flags & opaque::FLAG_TUPLES_DELETED
    };
    let marked = opaque::FLAG_TUPLES_DELETED;
    assert_eq!(flags_after(None), marked, "a delta from before versions were recorded");
    for (minor, flags) in [(0, marked), (18, marked), (20, 0), (21, 0)] {
        assert_eq!(flags_after(Some(ServerVersion::new(15, minor))), flags, "15.{minor}");
    }
    let other = Delta::of_record(GIST, XLOG_GIST_DELETE, Some(ServerVersion::new(15, 20)), record.clone(), Lsn(40));
    assert_eq!(other, Delta::Record(record, Lsn(40)), "the version takes room only where it matters");
}

#[test]
fn an_image_of_any_other_page_stays_as_it_is() {
    for (info, id) in [(XLOG_GIST_PAGE_UPDATE, 0), (XLOG_GIST_DELETE, 0), (XLOG_GIST_PAGE_DELETE, 1)] {
        let mut page = [0; PAGE_SIZE];
        redo_on(&mut page, 3, TestRecord::new(GIST, info).image(id, REL, 3, true, &child()).build(&[0; 24])).unwrap();
        assert_eq!(page[8..], child()[8..]);
    }
}

#[test]
fn the_parts_of_a_split_page_are_chained_and_marked_but_for_the_last() {
    let data = [&1u32.to_le_bytes()[..], &tuple(9)].concat();
    let split = |blocks: [u32; 3]| {
        let parts =
            blocks.into_iter().zip(1..).fold(TestRecord::new(GIST, XLOG_GIST_PAGE_SPLIT), |record, (block, id)| {
                record.block(id, REL, block, true, &data)
            });
        let record = parts.build(&split_data(true, 3));
        blocks.map(|block| {
            let mut page = [0xEE; PAGE_SIZE];
            redo_on(&mut page, block, record.clone()).unwrap();
            assert_eq!(page[item(&page, 1).unwrap()], tuple(9));
            assert_eq!(u16_at(&page, PAGE_SIZE - 2), PAGE_ID);
            let opaque = Opaque::of(&page).unwrap();
            (opaque.right_link, opaque.flags, opaque.nsn)
        })
    };
    let marked = FLAG_LEAF | FLAG_FOLLOW_RIGHT;
    assert_eq!(split([5, 8, 9]), [(8, marked, Lsn(7)), (9, marked, Lsn(7)), (77, FLAG_LEAF, Lsn(7))]);
    assert_eq!(split([0, 8, 9]), [(NO_BLOCK, 0, Lsn(7)), (9, FLAG_LEAF, Lsn(7)), (77, FLAG_LEAF, Lsn(7))]);
}

#[test]
fn tuples_that_are_announced_must_be_there() {
    let data = [&2u32.to_le_bytes()[..], &tuple(9)].concat();
    let record = TestRecord::new(GIST, XLOG_GIST_PAGE_SPLIT).block(1, REL, 5, true, &data).build(&split_data(true, 1));
    let error = redo_on(&mut [0; PAGE_SIZE], 5, record).unwrap_err();
    assert!(matches!(error, RedoError::Misfit { reason: Misfit::Value { value: 2, .. }, .. }));
}

#[test]
fn an_empty_leaf_is_deleted_and_one_with_items_is_not() {
    let main = [&99u64.to_le_bytes()[..], &1u16.to_le_bytes()].concat();
    let record = TestRecord::new(GIST, XLOG_GIST_PAGE_DELETE).block(0, REL, 3, false, b"").build(&main);
    let mut page = child();
    redo_on(&mut page, 3, record.clone()).unwrap();
    assert_eq!((page::lower(&page), &page[24..32]), (32, &99u64.to_le_bytes()[..]));
    assert_eq!(Opaque::of(&page).unwrap().flags & FLAG_DELETED, FLAG_DELETED);
    let mut page = child();
    add_index_item(&mut page, 1, &tuple(1)).unwrap();
    assert!(redo_on(&mut page, 3, record).is_err());
}

#[test]
fn hints_and_the_state_of_splits_are_masked_but_not_where_a_page_leads() {
    let mut page = child();
    add_index_item(&mut page, 1, &tuple(1)).unwrap();
    let mut other = page;
    let id = page::item_id(&page, 1).unwrap();
    page::set_item_id(&mut other, 1, ItemId::new(id.offset(), ItemState::Dead, 16)).unwrap();
    let opaque = Opaque { nsn: Lsn(9), right_link: 12, flags: FLAG_LEAF | FLAG_HAS_GARBAGE };
    opaque.write(&mut other).unwrap();
    assert_eq!(first_difference(&page, &other, key(3)), None);
    Opaque { right_link: 13, ..opaque }.write(&mut other).unwrap();
    assert_eq!(first_difference(&page, &other, key(3)), Some(8184));
}

/// Bytes that are small, as counts and offset numbers are, or extreme.
fn any_bytes(longest: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![3 => Just(0), 3 => 0u8..5, 1 => Just(16), 1 => Just(0xFF), 1 => any::<u8>()];
    proptest::collection::vec(byte, 0..longest)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_record_makes_redo_panic(
        (info, id) in (0u8..8, 0u8..4),
        (data, main) in (any_bytes(100), any_bytes(40)),
        items in 0u16..5,
        lower in proptest::option::of(0usize..8200),
    ) {
        let mut page = child();
        for offset in 1..=items {
            add_index_item(&mut page, offset, &tuple(3)).unwrap();
        }
        if let Some(lower) = lower {
            set_lower(&mut page, lower);
        }
        put(&mut page, 8188, &[1, 0]);
        let record = TestRecord::new(GIST, info << 4).block(id, REL, 3, false, &data).build(&main);
        let _is_refused_or_not = redo_on(&mut page, 3, record);
    }
}
