//! Items whose line pointers keep their numbers, because TIDs elsewhere name them: heap tuples, and BRIN's summaries.

use super::{Bounds, HEAP_ITEMS_MAX, ITEM_ID_BYTES, ItemId, Page, close_gap, place_item, u32_at, write_item_id};
use crate::error::Misfit;

/// `PageAddItemExtended` for a heap page: [`add_item_in_place`], within the number of items that a heap page may have.
pub(crate) fn add_heap_item(page: &mut Page, offset: u16, length: usize) -> Result<usize, Misfit> {
    if offset > HEAP_ITEMS_MAX {
        return Err(Misfit::TooManyItems);
    }
    add_item_in_place(page, offset, length)
}

/// `PageAddItemExtended` with `PAI_OVERWRITE`: takes an unused line pointer or the next one, and makes room for an item
/// of `length` bytes. Gives back where the item begins; its bytes are the caller's to fill.
pub(crate) fn add_item_in_place(page: &mut Page, offset: u16, length: usize) -> Result<usize, Misfit> {
    let bounds = Bounds::of(page)?;
    if usize::from(offset) <= bounds.item_count() {
        let id = bounds.item_id(page, offset)?;
        if id.is_used() || id.has_storage() {
            return Err(Misfit::ItemState(offset));
        }
        return place_item(page, bounds, offset, length, 0);
    }
    place_item(page, bounds, offset, length, ITEM_ID_BYTES)
}

/// `PageIndexTupleDeleteNoCompact`: takes an item out and closes the gap, but leaves its line pointer, unused, unless
/// it is the last one.
pub(crate) fn delete_item_in_place(page: &mut Page, offset: u16) -> Result<(), Misfit> {
    let bounds = Bounds::of(page)?;
    let at = bounds.item_id_at(offset)?;
    let gap = bounds.storage(offset, ItemId(u32_at(page, at)))?;
    let is_last = usize::from(offset) == bounds.item_count();
    if !is_last {
        write_item_id(page, at, ItemId::UNUSED);
    }
    let lower = if is_last { at } else { bounds.lower };
    close_gap(page, bounds, gap, lower);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{item, put};
    use super::*;
    use quire_types::PAGE_SIZE;
    use quire_wal::page::init;

    /// A page with the items 1 to `count`, each of as many bytes as its number says, and of that number.
    fn page_of(count: u8) -> Page {
        let mut page = [0; PAGE_SIZE];
        init(&mut page, 8);
        (1..=count).for_each(|number| add(&mut page, number.into(), &vec![number; number.into()]).unwrap());
        page
    }

    fn add(page: &mut Page, offset: u16, item: &[u8]) -> Result<(), Misfit> {
        let start = add_item_in_place(page, offset, item.len())?;
        put(page, start, item);
        Ok(())
    }

    fn check(page: &Page, numbers: &[u8]) {
        for number in numbers {
            assert_eq!(page[item(page, (*number).into()).unwrap()], vec![*number; (*number).into()]);
        }
    }

    fn used_bytes(page: &Page) -> (usize, usize) {
        let bounds = Bounds::of(page).unwrap();
        (bounds.item_count(), bounds.special - bounds.upper)
    }

    #[test]
    fn a_deleted_item_leaves_its_line_pointer_unless_it_is_the_last() {
        let mut page = page_of(20);
        delete_item_in_place(&mut page, 10).unwrap();
        assert_eq!(used_bytes(&page), (20, 8 * 8 + 7 * 16 + 4 * 24));
        delete_item_in_place(&mut page, 20).unwrap();
        assert_eq!(used_bytes(&page), (19, 8 * 8 + 7 * 16 + 3 * 24));
        check(&page, &[1, 8, 9, 11, 19]);
        assert_eq!(delete_item_in_place(&mut page, 10), Err(Misfit::ItemState(10)));
        assert_eq!(delete_item_in_place(&mut page, 20), Err(Misfit::NoItem { offset: 20, count: 19 }));
    }

    #[test]
    fn a_new_item_takes_an_unused_line_pointer_or_the_next_one() {
        let mut page = page_of(3);
        delete_item_in_place(&mut page, 2).unwrap();
        assert_eq!(add(&mut page, 3, &[9; 9]), Err(Misfit::ItemState(3)));
        assert_eq!(add(&mut page, 5, &[9; 9]), Err(Misfit::NoItem { offset: 5, count: 3 }));
        assert_eq!(add(&mut page, 0, &[9; 9]), Err(Misfit::NoItem { offset: 0, count: 3 }));
        add(&mut page, 2, &[2; 2]).unwrap();
        add(&mut page, 4, &[4; 4]).unwrap();
        check(&page, &[1, 2, 3, 4]);
    }

    #[test]
    fn a_heap_page_has_only_so_many_items() {
        let mut page = [0; PAGE_SIZE];
        init(&mut page, 0);
        for offset in 1..=HEAP_ITEMS_MAX {
            add_heap_item(&mut page, offset, 8).unwrap();
        }
        assert_eq!(add_heap_item(&mut page, HEAP_ITEMS_MAX + 1, 8), Err(Misfit::TooManyItems));
        assert!(add_item_in_place(&mut page, HEAP_ITEMS_MAX + 1, 8).is_ok());
    }
}
