//! What the workloads of `tests/oracle` do not bring about, and records made to break redo.

use super::dead::{DeadTuple, WriterState, bury};
use super::opaque::{Opaque, init_inner, init_leaf};
use super::tuple::{Node, Place, State, add_or_replace, state};
use super::*;
use crate::error::{Misfit, RedoError};
use crate::mask::first_difference;
use crate::page_items::{Bounds, add_index_item, item, put, set_lower, u16_at};
use crate::test_record::{REL, TestRecord, key};
use crate::{Delta, apply};
use proptest::prelude::*;
use quire_types::{Lsn, PAGE_SIZE, Reader};
use quire_wal::rmgr::SPGIST;

const TARGET: Place = Place { block: 0x0001_0002, offset: 5 };

/// A live leaf tuple of 24 bytes.
fn leaf(fill: u8) -> Vec<u8> {
    [&(24u32 << 2).to_le_bytes()[..], &[0; 2], &[fill; 18]].concat()
}

/// An inner tuple with 8 bytes of prefix and nodes of 8, 16 and 8 bytes.
fn inner() -> Vec<u8> {
    let header = [&(3u32 << 3 | 8 << 16).to_le_bytes()[..], &48u16.to_le_bytes(), &[0; 2]].concat();
    let node = |size: u16| [&[0xFF; 6][..], &size.to_le_bytes(), &vec![0x11; usize::from(size) - 8]].concat();
    [header, vec![0x22; 8], node(8), node(16), node(8)].concat()
}

fn leaf_page(leaves: u16) -> Page {
    let mut page = [0; PAGE_SIZE];
    init_leaf(&mut page, false).unwrap();
    for offset in 1..=leaves {
        add_index_item(&mut page, offset, &leaf(offset as u8)).unwrap();
    }
    page
}

fn inner_page() -> Page {
    let mut page = [0; PAGE_SIZE];
    init_inner(&mut page, false).unwrap();
    add_index_item(&mut page, 1, &inner()).unwrap();
    page
}

/// How many redirections and placeholders the special space speaks of.
fn dead_counts(page: &Page) -> (u16, u16) {
    (u16_at(page, 8186), u16_at(page, 8188))
}

fn redo_block(page: &mut Page, info: u8, id: u8, main: &[u8]) -> Result<(), RedoError> {
    let record = TestRecord::new(SPGIST, info).block(id, REL, 3, false, b"").build(main);
    apply(page, key(3), Lsn(800), &Delta::Record(record, Lsn(40)))
}

fn writer(is_build: u8) -> WriterState {
    WriterState::read(&mut Reader::new(&[0xAA, 2, 0, 0, is_build, 0, 0, 0])).unwrap()
}

#[test]
fn the_first_tuple_listed_leaves_the_redirection_wherever_it_lies() {
    let mut page = leaf_page(5);
    let listed = [4, 0, 1, 0, 3, 0];
    bury(&mut page, &listed, writer(0).trace_of_move(TARGET), DeadTuple::Placeholder).unwrap();
    use State::{Live, Placeholder, Redirect};
    let states = [1, 2, 3, 4, 5].map(|offset| state(&page, offset).unwrap());
    assert_eq!(states, [Placeholder, Live, Placeholder, Redirect, Live]);
    assert_eq!(dead_counts(&page), (1, 2));
    let redirection = &page[item(&page, 4).unwrap()];
    assert_eq!(redirection, [0x41, 0, 0, 0, 0, 0, 1, 0, 2, 0, 5, 0, 0xAA, 2, 0, 0]);
    let placeholder = &page[item(&page, 1).unwrap()];
    assert_eq!(placeholder, [0x43, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn an_index_build_leaves_no_redirection() {
    let mut page = leaf_page(2);
    bury(&mut page, &[2, 0], writer(1).trace_of_move(TARGET), DeadTuple::Placeholder).unwrap();
    assert_eq!((state(&page, 2), dead_counts(&page)), (Ok(State::Placeholder), (0, 1)));
}

#[test]
fn only_a_placeholder_that_was_counted_gives_way_to_a_new_tuple() {
    let mut page = leaf_page(3);
    bury(&mut page, &[2, 0], DeadTuple::Placeholder, DeadTuple::Placeholder).unwrap();
    assert_eq!(add_or_replace(&mut page, 1, &leaf(9)), Err(Misfit::ItemState(1)));
    add_or_replace(&mut page, 2, &leaf(9)).unwrap();
    add_or_replace(&mut page, 4, &leaf(8)).unwrap();
    assert_eq!((&page[item(&page, 2).unwrap()], dead_counts(&page)), (&leaf(9)[..], (0, 0)));
    add_index_item(&mut page, 5, &DeadTuple::Placeholder.bytes()).unwrap();
    let uncounted = add_or_replace(&mut page, 5, &leaf(9));
    assert_eq!(uncounted, Err(Misfit::Value { field: "number of placeholders", value: 0 }));
}

#[test]
fn a_node_is_found_behind_the_prefix_and_the_nodes_before_it() {
    for (number, at) in [(0, 16), (1, 24), (2, 40)] {
        let mut page = inner_page();
        Node { offset: 1, number }.link(&mut page, TARGET).unwrap();
        let mut expected = inner();
        expected[at..at + 6].copy_from_slice(&[1, 0, 2, 0, 5, 0]);
        assert_eq!(page[item(&page, 1).unwrap()], expected);
    }
    let beyond = Node { offset: 1, number: 3 }.link(&mut inner_page(), TARGET);
    assert_eq!(beyond, Err(Misfit::Value { field: "node's number", value: 3 }));
}

#[test]
fn redirections_expire_and_placeholders_at_the_end_are_cut_off() {
    let mut page = leaf_page(5);
    bury(&mut page, &[2, 0, 4, 0, 5, 0], writer(0).trace_of_move(TARGET), DeadTuple::Placeholder).unwrap();
    let main = [1, 0, 4, 0, 0xAA, 2, 0, 0, 2, 0];
    redo_block(&mut page, XLOG_SPGIST_VACUUM_REDIRECT, 0, &main).unwrap();
    assert_eq!((Bounds::of(&page).unwrap().item_count(), dead_counts(&page)), (3, (0, 1)));
    let expired = &page[item(&page, 2).unwrap()];
    assert_eq!(expired, [0x43, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0xAA, 2, 0, 0]);
    assert!(redo_block(&mut leaf_page(5), XLOG_SPGIST_VACUUM_REDIRECT, 0, &main).is_err());
}

#[test]
fn a_moved_inner_tuple_may_have_its_parent_on_the_page_it_comes_to() {
    let mut page = inner_page();
    // Old offset 7, new offset 2, old page kept; the parent is reference 1's item 1, node 2.
    let fields = [&[7, 0, 2, 0, 0, 1, 1, 0, 2, 0, 0, 0][..], &[0; 8], &inner()].concat();
    redo_block(&mut page, XLOG_SPGIST_ADD_NODE, 1, &fields).unwrap();
    assert_eq!(page[item(&page, 2).unwrap()], inner());
    assert_eq!(page[item(&page, 1).unwrap()][40..46], [0, 0, 3, 0, 2, 0]);
}

#[test]
fn a_source_page_is_made_anew_if_the_record_says_so() {
    let mut page = leaf_page(3);
    // One leaf tuple goes to item 1 of the source page, one to the destination.
    let flags = [&[0, 0, 0, 0, 2, 0, 1, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0][..], &[0; 8]].concat();
    let main = [flags, vec![1, 0, 1, 0, 0, 1], inner(), leaf(7), leaf(8)].concat();
    redo_block(&mut page, XLOG_SPGIST_PICKSPLIT, 0, &main).unwrap();
    assert_eq!((Bounds::of(&page).unwrap().item_count(), &page[item(&page, 1).unwrap()]), (1, &leaf(7)[..]));
    assert_eq!(u16_at(&page, 8184), 0xC, "a leaf that stores nulls");
}

#[test]
fn a_meta_page_may_remember_other_pages_with_room() {
    for (flags, is_meta) in [(FLAG_META, true), (0, false)] {
        let mut page = leaf_page(0);
        put(&mut page, 8184, &flags.to_le_bytes());
        set_lower(&mut page, 24 + 68);
        let mut other = page;
        other[28..92].fill(9);
        assert_eq!(first_difference(&page, &other, key(0)).is_none(), is_meta);
        other[27] = 9;
        assert_eq!(first_difference(&page, &other, key(0)), Some(27), "the magic number");
    }
}

/// Bytes that are small, as counts and offset numbers are, or extreme.
fn any_bytes(longest: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => Just(0), 4 => 0u8..4, 1 => Just(64), 1 => Just(0xFF), 1 => any::<u8>()];
    proptest::collection::vec(byte, 0..longest)
}

/// Main data that is more often whole than random bytes are.
fn any_main() -> impl Strategy<Value = Vec<u8>> {
    let tail = prop_oneof![Just(leaf(1)), Just(inner()), Just([inner(), inner()].concat()), any_bytes(20)];
    let head = prop_oneof![any_bytes(60), proptest::collection::vec(0u8..3, 6..40)];
    (head, tail.clone(), tail).prop_map(|(head, a, b)| [head, a, b].concat())
}

fn any_page() -> impl Strategy<Value = Page> {
    (prop_oneof![Just(leaf_page(4)), Just(inner_page())], any::<bool>(), 0usize..120, any::<u8>()).prop_map(
        |(mut page, has_dead, at, damage)| {
            if has_dead {
                bury(&mut page, &[1, 0], writer(0).trace_of_move(TARGET), DeadTuple::Placeholder).unwrap();
            }
            match at {
                0..20 => page[8092 + at * 5] = damage,
                20..24 => set_lower(&mut page, usize::from(damage) * 32),
                _ => {}
            }
            page
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn no_record_makes_redo_panic((info, id) in (1u8..=8, 0u8..4), main in any_main(), mut page in any_page()) {
        let _is_refused_or_not = redo_block(&mut page, info << 4, id, &main);
    }
}

#[test]
fn counts_cannot_pass_their_bounds() {
    let mut page = leaf_page(0);
    let mut opaque = Opaque::of(&page).unwrap();
    assert!(opaque.add_redirections(-1).is_err() && opaque.add_placeholders(i32::MAX).is_err());
    opaque.add_placeholders(0xFFFF).unwrap();
    opaque.write(&mut page).unwrap();
    assert_eq!(dead_counts(&page), (0, 0xFFFF));
}
