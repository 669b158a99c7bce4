//! The special space of a GIN page (`GinPageOpaqueData`).

use crate::error::Misfit;
use crate::page_items::{Page, put, u16_at, u32_at};
use crate::special;
use quire_types::PAGE_SIZE;
use quire_wal::page::init;

/// Bytes of the special space.
const SPECIAL_BYTES: usize = 8;
/// Where it starts.
pub(super) const SPECIAL_AT: usize = PAGE_SIZE - SPECIAL_BYTES;

/// `GIN_DATA`: a page of a posting tree.
pub(super) const FLAG_DATA: u16 = 1 << 0;
/// `GIN_LEAF`.
pub(super) const FLAG_LEAF: u16 = 1 << 1;
/// `GIN_DELETED`.
pub(crate) const FLAG_DELETED: u16 = 1 << 2;
/// `GIN_META`.
pub(super) const FLAG_META: u16 = 1 << 3;
/// `GIN_LIST`: a page of the pending list.
pub(super) const FLAG_LIST: u16 = 1 << 4;
/// `GIN_LIST_FULLROW`: no row continues on the next page of the pending list.
pub(super) const FLAG_LIST_FULL_ROW: u16 = 1 << 5;
/// `GIN_INCOMPLETE_SPLIT`: the parent does not know yet of the right page.
pub(super) const FLAG_INCOMPLETE_SPLIT: u16 = 1 << 6;
/// `GIN_COMPRESSED`: a posting tree's leaf that holds posting lists, not plain TIDs.
pub(super) const FLAG_COMPRESSED: u16 = 1 << 7;

/// `InvalidBlockNumber`.
pub(super) const NO_BLOCK: u32 = u32::MAX;

/// The special space of a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opaque {
    /// `rightlink`, [`NO_BLOCK`] if there is none.
    pub right: u32,
    /// `maxoff`: posting items on an inner page of a posting tree, rows on a page of the pending list, TIDs on a leaf
    /// that is not compressed.
    pub count: u16,
    /// `flags`.
    pub flags: u16,
}

impl Opaque {
    /// That of a page without a right neighbour and without contents.
    pub fn new(flags: u16) -> Opaque {
        Opaque { right: NO_BLOCK, count: 0, flags }
    }

    /// Reads it from a page that must be one of a GIN index's.
    pub fn of(page: &Page) -> Result<Opaque, Misfit> {
        special::check(page, SPECIAL_AT)?;
        let special = &page[SPECIAL_AT..];
        Ok(Opaque { right: u32_at(special, 0), count: u16_at(special, 4), flags: u16_at(special, 6) })
    }

    /// Writes it to a page that must be one of a GIN index's.
    pub fn write(self, page: &mut Page) -> Result<(), Misfit> {
        special::check(page, SPECIAL_AT)?;
        put(page, SPECIAL_AT, &self.right.to_le_bytes());
        put(page, SPECIAL_AT + 4, &self.count.to_le_bytes());
        put(page, SPECIAL_AT + 6, &self.flags.to_le_bytes());
        Ok(())
    }

    /// Makes an empty page with this special space (`GinInitPage`).
    pub fn init_page(self, page: &mut Page) -> Result<(), Misfit> {
        init(page, SPECIAL_BYTES);
        self.write(page)
    }

    /// Refuses a page of another kind: of the flags in `mask`, exactly those in `flags` must be set.
    pub fn require(self, mask: u16, flags: u16) -> Result<(), Misfit> {
        if self.flags & mask == flags {
            Ok(())
        } else {
            Err(Misfit::Value { field: "page's flags", value: self.flags.into() })
        }
    }
}
