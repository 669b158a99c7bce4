//! The entry tree, whose pages have ordinary items. Source: `ginRedoInsertEntry`.

use crate::error::Misfit;
use crate::heap_tuple::item_pointer;
use crate::index_tuple;
use crate::page_items::{Page, add_index_item, delete_index_item, item, put};
use quire_types::Reader;

/// `ginxlogInsertEntry`.
struct InsertEntry<'a> {
    offset: u16,
    /// Whether the item at that offset gives way to the new one.
    is_replacement: bool,
    tuple: &'a [u8],
}

impl<'a> InsertEntry<'a> {
    fn read(data: &'a [u8]) -> Result<InsertEntry<'a>, Misfit> {
        let mut data = Reader::new(data);
        let offset = data.u16("offset")?;
        let [is_delete, _padding] = data.array("replacement flag")?;
        // The size of GIN's tuples is always a multiple of eight, so no padding follows.
        let (tuple, rest) = index_tuple::split_first(data.rest())?;
        Reader::new(rest).finish()?;
        Ok(InsertEntry { offset, is_replacement: is_delete != 0, tuple })
    }

    fn place(&self, page: &mut Page) -> Result<(), Misfit> {
        if self.is_replacement {
            delete_index_item(page, self.offset)?;
        }
        add_index_item(page, self.offset, self.tuple)
    }
}

/// A leaf takes a new key, or a key gets a longer posting list or a posting tree.
pub(super) fn insert(page: &mut Page, data: &[u8]) -> Result<(), Misfit> {
    InsertEntry::read(data)?.place(page)
}

/// An inner page learns that a child was split: what led to the child leads to the right half now, and the new item
/// before it leads to the left one.
pub(super) fn insert_downlink(page: &mut Page, data: &[u8], right_child: u32) -> Result<(), Misfit> {
    let entry = InsertEntry::read(data)?;
    let old = item(page, entry.offset)?;
    set_downlink(&mut page[old], right_child)?;
    entry.place(page)
}

/// `GinSetDownlink`.
fn set_downlink(tuple: &mut [u8], block: u32) -> Result<(), Misfit> {
    index_tuple::size(tuple)?;
    put(tuple, 0, &item_pointer(block, 0));
    Ok(())
}
