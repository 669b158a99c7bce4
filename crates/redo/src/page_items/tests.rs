//! Pages against a model: a list of items.

use super::*;
use proptest::prelude::*;
use quire_wal::page::{ItemState, init};

fn empty_page(special: usize) -> Page {
    let mut page = [0; PAGE_SIZE];
    init(&mut page, special);
    page
}

fn items(page: &Page) -> Vec<Vec<u8>> {
    let bounds = Bounds::of(page).unwrap();
    bounds.offsets().map(|offset| page[item(page, offset).unwrap()].to_vec()).collect()
}

fn used_bytes(page: &Page) -> usize {
    let bounds = Bounds::of(page).unwrap();
    bounds.special - bounds.upper
}

#[derive(Clone, Debug)]
enum Operation {
    Add(prop::sample::Index, Vec<u8>),
    Delete(Vec<bool>),
    Overwrite(prop::sample::Index, Vec<u8>),
}

fn any_item() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 1..200)
}

fn any_operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => (any::<prop::sample::Index>(), any_item()).prop_map(|(at, item)| Operation::Add(at, item)),
        1 => proptest::collection::vec(prop::bool::weighted(0.3), 0..60).prop_map(Operation::Delete),
        2 => (any::<prop::sample::Index>(), any_item()).prop_map(|(at, item)| Operation::Overwrite(at, item)),
    ]
}

/// Does the same to the page and to the model.
fn step(page: &mut Page, model: &mut Vec<Vec<u8>>, operation: Operation) {
    let free = Bounds::of(page).map(|bounds| bounds.upper - bounds.lower).unwrap();
    match operation {
        Operation::Add(at, item) => {
            let at = at.index(model.len() + 1);
            let added = add_index_item(page, at as u16 + 1, &item);
            assert_eq!(added.is_ok(), align(item.len()) + ITEM_ID_BYTES <= free);
            if added.is_ok() {
                model.insert(at, item);
            }
        }
        Operation::Delete(doomed) => {
            let is_doomed = |index: usize| doomed.get(index).copied().unwrap_or(false);
            let offsets: Vec<u16> = (0..model.len()).filter(|i| is_doomed(*i)).map(|i| i as u16 + 1).collect();
            delete_index_items(page, &offsets).unwrap();
            let mut index = 0..;
            model.retain(|_| !is_doomed(index.next().unwrap()));
        }
        Operation::Overwrite(at, item) if !model.is_empty() => {
            let at = at.index(model.len());
            let overwritten = overwrite_index_item(page, at as u16 + 1, &item);
            assert_eq!(overwritten.is_ok(), align(item.len()) <= align(model[at].len()) + free);
            if overwritten.is_ok() {
                model[at] = item;
            }
        }
        Operation::Overwrite(..) => {}
    }
}

fn add_filled(page: &mut Page, number: u16, size: usize) {
    let start = add_heap_item(page, number, size).unwrap();
    page[start..start + size].fill(number as u8);
}

/// The items are one below the other in the order of their numbers, each with its own bytes.
fn check_packed(page: &Page, numbers: &[u16]) {
    let bounds = Bounds::of(page).unwrap();
    let end = numbers.iter().fold(bounds.special, |end, number| {
        let range = normal_item(page, *number).unwrap();
        assert_eq!(range.start + align(range.len()), end);
        assert!(page[range.clone()].iter().all(|byte| *byte == *number as u8));
        range.start
    });
    assert_eq!(end, bounds.upper);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn repair_packs_items_in_order_whose_line_pointers_were_taken_again(
        sizes in proptest::collection::vec(1usize..60, 30),
        unused in proptest::collection::vec(proptest::collection::vec(0u16..30, 0..6), 1..8),
    ) {
        let mut page = empty_page(0);
        (1..).zip(&sizes).for_each(|(number, size)| add_filled(&mut page, number, *size));
        for offsets in unused {
            let gone: std::collections::HashSet<u16> = offsets.iter().map(|offset| offset + 1).collect();
            gone.iter().for_each(|number| set_item_id(&mut page, *number, ItemId::UNUSED).unwrap());
            repair_fragmentation(&mut page).unwrap();
            check_packed(&page, &(1..=30).filter(|number| !gone.contains(number)).collect::<Vec<_>>());
            let mut again: Vec<u16> = gone.into_iter().collect();
            again.sort_unstable();
            again.iter().for_each(|number| add_filled(&mut page, *number, sizes[usize::from(*number) - 1]));
        }
    }

    #[test]
    fn an_index_page_holds_what_was_put_on_it_without_gaps(
        operations in proptest::collection::vec(any_operation(), 1..120),
    ) {
        let mut page = empty_page(16);
        let mut model = vec![];
        for operation in operations {
            step(&mut page, &mut model, operation);
            prop_assert_eq!(used_bytes(&page), model.iter().map(|item| align(item.len())).sum::<usize>());
        }
        prop_assert_eq!(items(&page), model);
    }

    #[test]
    fn repair_keeps_used_items_and_packs_them_in_order(
        sizes in proptest::collection::vec(1usize..120, 1..60),
        unused in proptest::collection::vec(any::<bool>(), 60),
    ) {
        let mut page = empty_page(0);
        for (number, size) in (1..).zip(&sizes) {
            let start = add_heap_item(&mut page, number, *size).unwrap();
            page[start..start + size].fill(number as u8);
        }
        let kept: Vec<u16> = (1..=sizes.len() as u16).filter(|offset| !unused[usize::from(*offset) - 1]).collect();
        for offset in (1..=sizes.len() as u16).filter(|offset| !kept.contains(offset)) {
            set_item_id(&mut page, offset, ItemId::UNUSED).unwrap();
        }
        repair_fragmentation(&mut page).unwrap();
        let bounds = Bounds::of(&page).unwrap();
        prop_assert_eq!(bounds.item_count(), usize::from(kept.last().copied().unwrap_or(0)));
        let mut end = bounds.special;
        for offset in &kept {
            let range = normal_item(&page, *offset).unwrap();
            prop_assert_eq!(range.start + align(range.len()), end);
            prop_assert!(page[range.clone()].iter().all(|byte| *byte == *offset as u8));
            end = range.start;
        }
        prop_assert_eq!(end, bounds.upper);
        prop_assert_eq!(page::flags(&page) & PD_HAS_FREE_LINES != 0, kept.len() < bounds.item_count());
    }
}

#[test]
fn a_heap_item_takes_an_unused_line_pointer_but_no_used_one() {
    let mut page = empty_page(0);
    add_heap_item(&mut page, 1, 40).unwrap();
    add_heap_item(&mut page, 2, 40).unwrap();
    assert_eq!(add_heap_item(&mut page, 1, 40), Err(Misfit::ItemState(1)));
    assert_eq!(add_heap_item(&mut page, 4, 40), Err(Misfit::NoItem { offset: 4, count: 2 }));
    set_item_id(&mut page, 1, ItemId::UNUSED).unwrap();
    let lower = Bounds::of(&page).unwrap().lower;
    add_heap_item(&mut page, 1, 40).unwrap();
    assert_eq!(Bounds::of(&page).unwrap().lower, lower);
}

#[test]
fn line_pointers_are_cut_off_the_end_but_never_the_first() {
    let mut page = empty_page(0);
    for offset in 1..=4 {
        add_heap_item(&mut page, offset, 8).unwrap();
    }
    for (unused, left, has_free_lines) in [(4, 3, false), (2, 3, true), (3, 1, false), (1, 1, true)] {
        set_item_id(&mut page, unused, ItemId::UNUSED).unwrap();
        truncate_line_pointers(&mut page).unwrap();
        assert_eq!(Bounds::of(&page).unwrap().item_count(), left);
        assert_eq!(page::flags(&page) & PD_HAS_FREE_LINES != 0, has_free_lines);
    }
}

#[test]
fn the_state_of_an_overwritten_item_stays() {
    let mut page = empty_page(16);
    add_index_item(&mut page, 1, &[1; 16]).unwrap();
    let id = page::item_id(&page, 1).unwrap();
    set_item_id(&mut page, 1, ItemId::new(id.offset(), ItemState::Dead, 16)).unwrap();
    overwrite_index_item(&mut page, 1, &[2; 8]).unwrap();
    let id = page::item_id(&page, 1).unwrap();
    assert_eq!((id.state(), id.length(), id.offset()), (ItemState::Dead, 8, 8168));
}

#[test]
fn offsets_to_delete_that_do_not_exist_are_an_error() {
    let mut page = empty_page(16);
    for offset in 1..=4 {
        add_index_item(&mut page, offset, &[1; 16]).unwrap();
    }
    assert_eq!(delete_index_items(&mut page, &[1, 3, 5]), Err(Misfit::NoItem { offset: 5, count: 4 }));
    assert_eq!(delete_index_items(&mut page, &[3, 2, 1]), Err(Misfit::NoItem { offset: 2, count: 4 }));
}

#[test]
fn the_oldest_transaction_is_remembered_for_pruning() {
    let mut page = empty_page(0);
    for (xid, known) in [(700, 700), (800, 700), (600, 600), (0xFFFF_FF00, 0xFFFF_FF00), (2, 2)] {
        note_prunable(&mut page, xid);
        assert_eq!(page::prune_xid(&page), known);
    }
}

#[test]
fn a_corrupt_header_is_refused() {
    let mut page = empty_page(16);
    page::set_upper(&mut page, 20);
    assert_eq!(add_index_item(&mut page, 1, &[0; 8]), Err(Misfit::Header { lower: 24, upper: 20, special: 8176 }));
}
