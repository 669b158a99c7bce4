//! The special space of a GiST page (`GISTPageOpaqueData`).

use crate::error::Misfit;
use crate::page_items::{Page, put, u16_at, u32_at};
use crate::special;
use quire_types::{Lsn, PAGE_SIZE};
use quire_wal::page::init;

/// Bytes of the special space.
const SPECIAL_BYTES: usize = 16;
/// Where it starts.
const SPECIAL_AT: usize = PAGE_SIZE - SPECIAL_BYTES;

/// `GIST_PAGE_ID`, the last half-word of every page.
pub(crate) const PAGE_ID: u16 = 0xFF81;

/// `F_LEAF`.
pub(crate) const FLAG_LEAF: u16 = 1 << 0;
/// `F_DELETED`.
pub(super) const FLAG_DELETED: u16 = 1 << 1;
/// `F_TUPLES_DELETED`.
pub(super) const FLAG_TUPLES_DELETED: u16 = 1 << 2;
/// `F_FOLLOW_RIGHT`.
pub(crate) const FLAG_FOLLOW_RIGHT: u16 = 1 << 3;
/// `F_HAS_GARBAGE`.
pub(crate) const FLAG_HAS_GARBAGE: u16 = 1 << 4;

/// `InvalidBlockNumber`: there is no right sibling.
pub(super) const NO_BLOCK: u32 = u32::MAX;

/// The special space of a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opaque {
    /// Node sequence number.
    pub nsn: Lsn,
    /// Right sibling, or [`NO_BLOCK`].
    pub right_link: u32,
    /// Flags.
    pub flags: u16,
}

impl Opaque {
    /// Reads it from a page that must be one of a GiST index.
    pub fn of(page: &Page) -> Result<Opaque, Misfit> {
        special::check(page, SPECIAL_AT)?;
        let special = &page[SPECIAL_AT..];
        let nsn = u64::from(u32_at(special, 0)) << 32 | u64::from(u32_at(special, 4));
        Ok(Opaque { nsn: Lsn(nsn), right_link: u32_at(special, 8), flags: u16_at(special, 12) })
    }

    /// Writes it to a page that must be one of a GiST index.
    pub fn write(self, page: &mut Page) -> Result<(), Misfit> {
        special::check(page, SPECIAL_AT)?;
        // Like a page's LSN, the more significant half comes first.
        let halves = self.nsn.0.rotate_left(32);
        put(page, SPECIAL_AT, &halves.to_le_bytes());
        put(page, SPECIAL_AT + 8, &self.right_link.to_le_bytes());
        put(page, SPECIAL_AT + 12, &self.flags.to_le_bytes());
        Ok(())
    }

    /// Makes an empty page with this special space (`gistinitpage`).
    pub fn init_page(self, page: &mut Page) -> Result<(), Misfit> {
        init(page, SPECIAL_BYTES);
        put(page, SPECIAL_AT + 14, &PAGE_ID.to_le_bytes());
        self.write(page)
    }
}
