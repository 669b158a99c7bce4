//! Inner pages of a posting tree: an array of posting items, each a child's block and the greatest TID that may be
//! found below it. Source: `ginRedoInsertData`, `GinDataPageAddPostingItem`, `GinPageDeletePostingItem`.

use super::opaque::Opaque;
use super::posting_leaf::{DATA_AT, DATA_BYTES_MAX};
use crate::error::Misfit;
use crate::heap_tuple::item_pointer;
use crate::page_items::{Page, put, set_lower};
use quire_types::Reader;

/// `sizeof(PostingItem)`: a block number and a TID.
pub(super) const ITEM_BYTES: usize = 10;
/// As many as fit a page.
const ITEMS_MAX: usize = DATA_BYTES_MAX / ITEM_BYTES;
/// Bytes of a block number in parts of two (`BlockIdData`).
const BLOCK_BYTES: usize = 4;

/// A child was split: what led to it leads to the right half now, and the new item before it leads to the left one.
pub(super) fn insert_downlink(page: &mut Page, data: &[u8], right_child: u32) -> Result<(), Misfit> {
    let mut data = Reader::new(data);
    let offset = data.u16("offset")?;
    let new: [u8; ITEM_BYTES] = data.array("posting item")?;
    data.finish()?;
    let mut array = Array::of(page)?;
    let at = array.position(offset)?;
    if array.count == ITEMS_MAX {
        return Err(Misfit::NoRoom(ITEM_BYTES));
    }
    put(page, at, &item_pointer(right_child, 0)[..BLOCK_BYTES]);
    page.copy_within(at..array.end(), at + ITEM_BYTES);
    put(page, at, &new);
    array.count += 1;
    array.write(page)
}

/// Takes out the item with this number, from 1.
pub(super) fn delete(page: &mut Page, offset: u16) -> Result<(), Misfit> {
    let mut array = Array::of(page)?;
    let at = array.position(offset)?;
    page.copy_within(at + ITEM_BYTES..array.end(), at);
    array.count -= 1;
    array.write(page)
}

/// The array's size, which the special space tells: `pd_lower` is not to be relied on, because releases before 9.4 did
/// not set it.
struct Array {
    opaque: Opaque,
    count: usize,
}

impl Array {
    fn of(page: &Page) -> Result<Array, Misfit> {
        let opaque = Opaque::of(page)?;
        let count = usize::from(opaque.count);
        if count > ITEMS_MAX { Err(Misfit::TooManyItems) } else { Ok(Array { opaque, count }) }
    }

    /// Where the item with this number is, which must be one of those that are there.
    fn position(&self, offset: u16) -> Result<usize, Misfit> {
        let index = usize::from(offset).checked_sub(1).filter(|index| *index < self.count);
        let index = index.ok_or(Misfit::NoItem { offset, count: self.count })?;
        Ok(DATA_AT + index * ITEM_BYTES)
    }

    fn end(&self) -> usize {
        DATA_AT + self.count * ITEM_BYTES
    }

    fn write(self, page: &mut Page) -> Result<(), Misfit> {
        let count = u16::try_from(self.count).map_err(|_| Misfit::TooManyItems)?;
        Opaque { count, ..self.opaque }.write(page)?;
        set_lower(page, self.end());
        Ok(())
    }
}
