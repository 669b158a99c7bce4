//! The visibility map: two bits for each heap page. Source: `visibilitymap.c`.

use crate::delta::VISIBILITY_ALL_BITS;
use crate::error::Misfit;
use crate::page_items::Page;
use quire_types::{Lsn, PAGE_SIZE};
use quire_wal::page::{HEADER_BYTES, init, is_new, set_lsn};

const HEAP_BLOCKS_PER_BYTE: u32 = 4;
const MAP_BYTES: u32 = (PAGE_SIZE - HEADER_BYTES) as u32;
/// Heap blocks that one page of the map speaks of (`HEAPBLOCKS_PER_PAGE`).
pub const HEAP_BLOCKS_PER_PAGE: u32 = MAP_BYTES * HEAP_BLOCKS_PER_BYTE;

/// The page of the map that holds a heap block's bits (`HEAPBLK_TO_MAPBLOCK`).
pub fn map_block(heap_block: u32) -> u32 {
    heap_block / HEAP_BLOCKS_PER_PAGE
}

/// Where a heap block's bits are on their page: the byte, and how far up in it.
fn position(heap_block: u32) -> (usize, u32) {
    let byte = heap_block % HEAP_BLOCKS_PER_PAGE / HEAP_BLOCKS_PER_BYTE;
    (HEADER_BYTES + byte as usize, heap_block % HEAP_BLOCKS_PER_BYTE * 2)
}

/// A map page that was never written is initialised by the first process that touches it (`vm_readbuf`).
fn init_if_new(page: &mut Page) {
    if is_new(page) {
        init(page, 0);
    }
}

/// `visibilitymap_set` as redo of a "visible" record calls it.
pub(crate) fn set(page: &mut Page, heap_block: u32, bits: u8, lsn: Lsn) -> Result<(), Misfit> {
    if bits & !VISIBILITY_ALL_BITS != 0 {
        return Err(Misfit::Value { field: "visibility bits", value: bits.into() });
    }
    init_if_new(page);
    let (byte, shift) = position(heap_block);
    if page[byte] >> shift & VISIBILITY_ALL_BITS != bits {
        page[byte] |= bits << shift;
        set_lsn(page, lsn);
    }
    Ok(())
}

/// `visibilitymap_clear`: the map page's LSN stays as it was.
pub(crate) fn clear(page: &mut Page, heap_block: u32, bits: u8) {
    init_if_new(page);
    let (byte, shift) = position(heap_block);
    page[byte] &= !((bits & VISIBILITY_ALL_BITS) << shift);
}

/// `visibilitymap_prepare_truncate` for the page that holds the new end of the heap.
pub(crate) fn truncate(page: &mut Page, heap_blocks: u32) {
    init_if_new(page);
    let (byte, shift) = position(heap_blocks);
    page[byte] &= (1 << shift) - 1;
    page[byte + 1..].fill(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_wal::page::lsn;

    #[test]
    fn setting_moves_the_lsn_only_if_a_bit_changes_and_clearing_never_does() {
        let mut page = [0; PAGE_SIZE];
        set(&mut page, 5, 3, Lsn(100)).unwrap();
        assert_eq!((page[HEADER_BYTES + 1], lsn(&page)), (0b1100, Lsn(100)));
        set(&mut page, 5, 3, Lsn(200)).unwrap();
        assert_eq!(lsn(&page), Lsn(100));
        clear(&mut page, 5, 2);
        assert_eq!((page[HEADER_BYTES + 1], lsn(&page)), (0b0100, Lsn(100)));
        assert!(set(&mut page, 5, 4, Lsn(300)).is_err());
    }

    #[test]
    fn truncating_keeps_what_lies_before_the_new_end() {
        let mut page = [0xFF; PAGE_SIZE];
        truncate(&mut page, 9);
        assert_eq!(page[HEADER_BYTES..HEADER_BYTES + 4], [0xFF, 0xFF, 0b11, 0]);
        assert_eq!(page[PAGE_SIZE - 1], 0);
        let mut last = [0xFF; PAGE_SIZE];
        truncate(&mut last, HEAP_BLOCKS_PER_PAGE - 1);
        assert_eq!(last[PAGE_SIZE - 1], 0b0011_1111);
    }

    #[test]
    fn the_first_block_of_the_second_page_is_its_first_bit() {
        assert_eq!((map_block(HEAP_BLOCKS_PER_PAGE - 1), map_block(HEAP_BLOCKS_PER_PAGE)), (0, 1));
        assert_eq!(position(HEAP_BLOCKS_PER_PAGE), (HEADER_BYTES, 0));
    }
}
