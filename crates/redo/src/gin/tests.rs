//! Small records on pages made by hand; whole workloads are in `tests/oracle`.

use super::opaque::{FLAG_COMPRESSED, FLAG_LIST, FLAG_LIST_FULL_ROW, FLAG_META, NO_BLOCK};
use super::posting_leaf::DATA_AT;
use super::posting_list::{PostingList, encode};
use super::*;
use crate::heap_tuple::item_pointer;
use crate::page_items::{Bounds, item, put, set_lower};
use crate::test_record::{REL, TestRecord, key};
use crate::{Delta, RedoError, apply};
use proptest::prelude::*;
use quire_types::{Lsn, PAGE_SIZE};
use quire_wal::page;

const POSTING_LEAF: u16 = FLAG_DATA | FLAG_LEAF | FLAG_COMPRESSED;

fn empty_page(flags: u16) -> Page {
    let mut page = [0; PAGE_SIZE];
    Opaque::new(flags).init_page(&mut page).unwrap();
    page
}

/// Redoes a record on the page that is its block reference `id`.
fn redo_block(page: &mut Page, info: u8, id: u8, data: &[u8], main: &[u8]) -> Result<(), RedoError> {
    let record = TestRecord::new(GIN, info).block(id, REL, 9, false, data).build(main);
    apply(page, key(9), Lsn(800), &Delta::Record(record, Lsn(40)))
}

fn numbers(raw: &[u32]) -> Vec<u8> {
    raw.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// An index tuple of sixteen bytes.
fn tuple(fill: u8) -> Vec<u8> {
    [&item_pointer(7, 7)[..], &16u16.to_le_bytes(), &[fill; 8]].concat()
}

fn update_meta(previous_tail: u32, new_right: u32, tuples: u32) -> Vec<u8> {
    [&[0; 16][..], &[0xAB; 56], &numbers(&[previous_tail, new_right, tuples, 0])].concat()
}

#[test]
fn the_meta_page_is_written_anew() {
    let mut page = [0; PAGE_SIZE];
    redo_block(&mut page, XLOG_GIN_UPDATE_META_PAGE, 0, b"", &update_meta(NO_BLOCK, NO_BLOCK, 0)).unwrap();
    assert_eq!((page::lsn(&page), page::lower(&page), Opaque::of(&page).unwrap().flags), (Lsn(800), 80, FLAG_META));
    assert_eq!((&page[24..80], page[80]), (&[0xAB; 56][..], 0));
}

#[test]
fn the_pending_lists_tail_takes_tuples_or_a_right_link() {
    let mut page = empty_page(FLAG_LIST);
    let rows = [tuple(1), tuple(2)].concat();
    for fill in [0, 2] {
        redo_block(&mut page, XLOG_GIN_UPDATE_META_PAGE, 1, &rows, &update_meta(NO_BLOCK, NO_BLOCK, 2)).unwrap();
        assert_eq!(page[item(&page, fill + 2).unwrap()], tuple(2));
        page::set_lsn(&mut page, Lsn(1));
    }
    redo_block(&mut page, XLOG_GIN_UPDATE_META_PAGE, 1, b"", &update_meta(9, 12, 0)).unwrap();
    let tail = Opaque::of(&page).unwrap();
    assert_eq!((tail.count, tail.right, Bounds::of(&page).unwrap().item_count()), (2, 12, 4));
    page::set_lsn(&mut page, Lsn(1));
    for wrong in [update_meta(NO_BLOCK, 12, 0), update_meta(9, 12, 1), update_meta(9, 12, 3)] {
        let data = if wrong[84] == 0 { &rows[..] } else { b"" };
        redo_block(&mut page, XLOG_GIN_UPDATE_META_PAGE, 1, data, &wrong).unwrap_err();
    }
}

#[test]
fn a_sublists_last_page_has_the_whole_row() {
    for (right, count, flags) in [(12, 0, FLAG_LIST), (NO_BLOCK, 1, FLAG_LIST | FLAG_LIST_FULL_ROW)] {
        let mut page = empty_page(0);
        redo_block(&mut page, XLOG_GIN_INSERT_LISTPAGE, 0, &tuple(5), &numbers(&[right, 1])).unwrap();
        let opaque = Opaque::of(&page).unwrap();
        assert_eq!((opaque.right, opaque.count, opaque.flags), (right, count, flags));
        assert_eq!(page[item(&page, 1).unwrap()], tuple(5));
    }
}

#[test]
fn pages_are_taken_off_the_pending_list() {
    let main = [&[0xAB; 56][..], &numbers(&[2, 0])].concat();
    for (id, flags) in [(0, FLAG_META), (1, FLAG_DELETED), (2, FLAG_DELETED)] {
        let mut page = empty_page(FLAG_LIST);
        redo_block(&mut page, XLOG_GIN_DELETE_LISTPAGE, id, b"", &main).unwrap();
        assert_eq!(Opaque::of(&page).unwrap().flags, flags);
    }
    redo_block(&mut empty_page(FLAG_LIST), XLOG_GIN_DELETE_LISTPAGE, 3, b"", &main).unwrap_err();
}

/// An inner page of a posting tree with these children.
fn inner_page(children: &[u32]) -> Page {
    let mut page = empty_page(FLAG_DATA);
    for (number, child) in children.iter().enumerate() {
        put(&mut page, DATA_AT + number * posting_items::ITEM_BYTES, &posting_item(*child));
    }
    Opaque { count: children.len() as u16, ..Opaque::new(FLAG_DATA) }.write(&mut page).unwrap();
    page
}

/// A posting item whose key follows from its child.
fn posting_item(child: u32) -> Vec<u8> {
    [&item_pointer(child, 0)[..4], &item_pointer(child * 10, 1)].concat()
}

fn posting_items(page: &Page) -> Vec<&[u8]> {
    let end = DATA_AT + usize::from(Opaque::of(page).unwrap().count) * posting_items::ITEM_BYTES;
    assert_eq!(usize::from(page::lower(page)), end);
    page[DATA_AT..end].chunks_exact(posting_items::ITEM_BYTES).collect()
}

#[test]
fn a_downlink_goes_before_the_one_that_leads_to_the_right_half() {
    let main = [&1u16.to_le_bytes()[..], &item_pointer(2, 0)[..4], &item_pointer(70_000, 0)[..4]].concat();
    let insertion = |offset: u16| [&offset.to_le_bytes()[..], &posting_item(2)].concat();
    let mut page = inner_page(&[1, 2, 3]);
    redo_block(&mut page, XLOG_GIN_INSERT, 0, &insertion(2), &main).unwrap();
    let right_half = [&item_pointer(70_000, 0)[..4], &item_pointer(20, 1)].concat();
    assert_eq!(posting_items(&page), [posting_item(1), posting_item(2), right_half, posting_item(3)]);
    for nowhere in [0, 4] {
        redo_block(&mut inner_page(&[1, 2, 3]), XLOG_GIN_INSERT, 0, &insertion(nowhere), &main).unwrap_err();
    }
    redo_block(&mut inner_page(&[1; 814]), XLOG_GIN_INSERT, 0, &insertion(814), &main).unwrap();
    redo_block(&mut inner_page(&[1; 815]), XLOG_GIN_INSERT, 0, &insertion(815), &main).unwrap_err();
}

#[test]
fn the_downlink_of_an_entry_page_leads_to_the_right_half() {
    let main = [&0u16.to_le_bytes()[..], &item_pointer(2, 0)[..4], &item_pointer(3, 0)[..4]].concat();
    let insertion = |fill: u8| [&[1, 0, 0, 0][..], &tuple(fill)].concat();
    let mut page = empty_page(FLAG_LEAF);
    redo_block(&mut page, XLOG_GIN_INSERT, 0, &insertion(1), &2u16.to_le_bytes()).unwrap();
    assert!(redo_block(&mut page.clone(), XLOG_GIN_INSERT, 0, &insertion(2), &main).is_err(), "no inner page");
    Opaque::new(0).write(&mut page).unwrap();
    page::set_lsn(&mut page, Lsn(1));
    redo_block(&mut page, XLOG_GIN_INSERT, 0, &insertion(2), &main).unwrap();
    assert_eq!(page[item(&page, 1).unwrap()], tuple(2));
    let right_half = page[item(&page, 2).unwrap()].to_vec();
    assert_eq!((&right_half[..6], &right_half[6..]), (&item_pointer(3, 0)[..], &tuple(1)[6..]));
}

#[test]
fn a_replaced_entry_gives_up_its_room() {
    let mut page = empty_page(FLAG_LEAF);
    for (flag, fill) in [(0, 1), (1, 2)] {
        let data = [&[1, 0, flag, 0][..], &tuple(fill)].concat();
        redo_block(&mut page, XLOG_GIN_INSERT, 0, &data, &2u16.to_le_bytes()).unwrap();
        page::set_lsn(&mut page, Lsn(1));
    }
    assert_eq!((page::lower(&page), page::upper(&page), &page[item(&page, 1).unwrap()]), (28, 8168, &tuple(2)[..]));
}

#[test]
fn a_page_leaves_its_posting_tree() {
    let main = [&[2, 0, 0, 0][..], &numbers(&[77, 900])].concat();
    let mut left = empty_page(POSTING_LEAF);
    redo_block(&mut left, XLOG_GIN_DELETE_PAGE, 2, b"", &main).unwrap();
    assert_eq!(Opaque::of(&left).unwrap().right, 77);
    let mut parent = inner_page(&[1, 2, 3]);
    redo_block(&mut parent, XLOG_GIN_DELETE_PAGE, 1, b"", &main).unwrap();
    assert_eq!(posting_items(&parent), [posting_item(1), posting_item(3)]);
    let mut deleted = empty_page(POSTING_LEAF);
    redo_block(&mut deleted, XLOG_GIN_DELETE_PAGE, 0, b"", &main).unwrap();
    let opaque = Opaque::of(&deleted).unwrap();
    assert_eq!((opaque.flags, opaque.right, page::prune_xid(&deleted)), (POSTING_LEAF | FLAG_DELETED, NO_BLOCK, 900));
    redo_block(&mut empty_page(POSTING_LEAF), XLOG_GIN_DELETE_PAGE, 1, b"", &main).unwrap_err();
    redo_block(&mut empty_page(FLAG_LEAF), XLOG_GIN_DELETE_PAGE, 0, b"", &main).unwrap_err();
}

#[test]
fn a_split_that_is_finished_loses_its_flag() {
    for (info, id) in [(XLOG_GIN_INSERT, 1), (XLOG_GIN_SPLIT, 3)] {
        let mut page = empty_page(POSTING_LEAF | FLAG_INCOMPLETE_SPLIT);
        redo_block(&mut page, info, id, b"", &[1, 0]).unwrap();
        assert_eq!(Opaque::of(&page).unwrap().flags, POSTING_LEAF);
    }
}

#[test]
fn records_that_are_images_must_have_them() {
    for (info, id) in [(XLOG_GIN_SPLIT, 0), (XLOG_GIN_SPLIT, 2), (XLOG_GIN_VACUUM_PAGE, 0)] {
        let error = redo_block(&mut empty_page(0), info, id, b"", b"").unwrap_err();
        assert!(matches!(error, RedoError::Misfit { reason: Misfit::MissingImage, .. }), "{error}");
    }
}

/// A posting tree that was just created with these posting lists.
fn posting_leaf(segments: &[&[u64]]) -> Page {
    let lists: Vec<u8> = segments.iter().flat_map(|tids| encode(tids).unwrap()).collect();
    let main = [&(lists.len() as u32).to_le_bytes()[..], &lists].concat();
    let mut page = empty_page(0);
    redo_block(&mut page, XLOG_GIN_CREATE_PTREE, 0, b"", &main).unwrap();
    page::set_lsn(&mut page, Lsn(1));
    page
}

fn segments(page: &Page) -> Vec<Vec<u64>> {
    let mut left = &page[DATA_AT..page::lower(page).into()];
    let mut segments = vec![];
    while !left.is_empty() {
        let (list, rest) = PostingList::split_first(left).unwrap();
        segments.push(list.tids().unwrap());
        left = rest;
    }
    segments
}

fn recompress(page: &mut Page, actions: &[Vec<u8>]) -> Result<(), RedoError> {
    let data = [&(actions.len() as u16).to_le_bytes()[..], &actions.concat()].concat();
    redo_block(page, XLOG_GIN_VACUUM_DATA_LEAF_PAGE, 0, &data, b"")
}

fn segment_action(segment: u8, action: u8, data: &[u8]) -> Vec<u8> {
    [&[segment, action], data].concat()
}

#[test]
fn segments_are_deleted_inserted_replaced_and_extended() {
    let mut page = posting_leaf(&[&[1, 2], &[10, 11], &[20, 21], &[30, 31], &[40]]);
    let added = [&[2, 0][..], &item_pointer(0, 29), &item_pointer(0, 35)].concat();
    let actions = [
        segment_action(1, 1, b""),
        segment_action(2, 2, &encode(&[15, 16]).unwrap()),
        segment_action(2, 3, &encode(&[21, 22, 23]).unwrap()),
        segment_action(3, 4, &added),
        segment_action(5, 2, &encode(&[50]).unwrap()),
    ];
    recompress(&mut page, &actions).unwrap();
    let expected = [&[1, 2][..], &[15, 16], &[21, 22, 23], &[29, 30, 31, 35], &[40], &[50]];
    assert_eq!((segments(&page), page::lsn(&page)), (expected.map(<[u64]>::to_vec).to_vec(), Lsn(800)));
}

#[test]
fn actions_on_segments_that_do_not_exist_are_refused() {
    let list = encode(&[7]).unwrap();
    let wrong = [
        vec![segment_action(2, 1, b"")],
        vec![segment_action(3, 2, &list)],
        vec![segment_action(1, 3, &list), segment_action(0, 1, b"")],
        vec![segment_action(0, 5, b"")],
        vec![segment_action(0, 2, &list[..6])],
    ];
    for actions in wrong {
        recompress(&mut posting_leaf(&[&[1], &[2]]), &actions).unwrap_err();
    }
}

#[test]
fn segments_that_do_not_fit_the_page_are_refused() {
    let wide = encode(&(1..4000u64).map(|number| number << 12).collect::<Vec<_>>()).unwrap();
    let insert = segment_action(0, 2, &wide);
    recompress(&mut posting_leaf(&[]), std::slice::from_ref(&insert)).unwrap();
    recompress(&mut posting_leaf(&[]), &[insert.clone(), insert]).unwrap_err();
}

#[test]
fn a_leaf_of_an_old_release_becomes_one_segment_first() {
    let mut page = empty_page(FLAG_DATA | FLAG_LEAF);
    for number in 0..3 {
        put(&mut page, DATA_AT + 6 * usize::from(number), &item_pointer(4, number + 1));
    }
    Opaque { count: 3, ..Opaque::of(&page).unwrap() }.write(&mut page).unwrap();
    let tid = 4 << 11;
    let added = [&[1, 0][..], &item_pointer(4, 9)].concat();
    recompress(&mut page, &[segment_action(0, 4, &added)]).unwrap();
    assert_eq!(segments(&page), [vec![tid + 1, tid + 2, tid + 3, tid + 9]]);
    let opaque = Opaque::of(&page).unwrap();
    assert_eq!((opaque.flags, opaque.count), (POSTING_LEAF, 0));
    Opaque { count: 1400, flags: FLAG_DATA | FLAG_LEAF, ..opaque }.write(&mut page).unwrap();
    page::set_lsn(&mut page, Lsn(1));
    assert!(recompress(&mut page, &[]).is_err(), "more TIDs than fit");
}

fn any_bytes(longest: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![0u8..6, Just(0xFF), any::<u8>()];
    proptest::collection::vec(byte, 0..longest)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_record_makes_redo_panic(
        (info, id) in (1u8..=9, 0u8..4),
        (data, main) in (any_bytes(200), any_bytes(100)),
        (flags, count, lower) in (0u16..256, prop_oneof![0u16..5, 810u16..820, any::<u16>()], 0usize..8184),
        contents in any_bytes(300),
    ) {
        let mut page = empty_page(flags);
        put(&mut page, 24, &contents);
        Opaque { right: 3, count, flags }.write(&mut page).unwrap();
        set_lower(&mut page, lower);
        let _is_refused_or_not = redo_block(&mut page, info << 4, id, &data, &main);
    }
}
