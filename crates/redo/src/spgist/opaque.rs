//! The special space of an SP-GiST page (`SpGistPageOpaqueData`).

use crate::error::Misfit;
use crate::page_items::{Page, put, u16_at};
use crate::special;
use quire_types::PAGE_SIZE;
use quire_wal::page::init;

/// Bytes of the special space.
const SPECIAL_BYTES: usize = 8;
/// Where it starts.
const SPECIAL_AT: usize = PAGE_SIZE - SPECIAL_BYTES;

/// `SPGIST_PAGE_ID`, the last half-word of every page.
pub(crate) const PAGE_ID: u16 = 0xFF82;

/// `SPGIST_META`.
pub(crate) const FLAG_META: u16 = 1 << 0;
/// `SPGIST_LEAF`.
const FLAG_LEAF: u16 = 1 << 2;
/// `SPGIST_NULLS`.
const FLAG_NULLS: u16 = 1 << 3;

/// The special space of a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opaque {
    flags: u16,
    /// How many redirections are on the page.
    redirections: u16,
    /// How many placeholders are on the page.
    placeholders: u16,
}

impl Opaque {
    /// Reads it from a page that must be one of an SP-GiST index.
    pub fn of(page: &Page) -> Result<Opaque, Misfit> {
        special::check(page, SPECIAL_AT)?;
        let [flags, redirections, placeholders] = [0, 2, 4].map(|at| u16_at(page, SPECIAL_AT + at));
        Ok(Opaque { flags, redirections, placeholders })
    }

    /// Writes it to a page that must be one of an SP-GiST index.
    pub fn write(self, page: &mut Page) -> Result<(), Misfit> {
        special::check(page, SPECIAL_AT)?;
        put(page, SPECIAL_AT, &self.flags.to_le_bytes());
        put(page, SPECIAL_AT + 2, &self.redirections.to_le_bytes());
        put(page, SPECIAL_AT + 4, &self.placeholders.to_le_bytes());
        Ok(())
    }

    /// There are so many redirections more, or fewer.
    pub fn add_redirections(&mut self, change: i32) -> Result<(), Misfit> {
        self.redirections = changed("number of redirections", self.redirections, change)?;
        Ok(())
    }

    /// There are so many placeholders more, or fewer.
    pub fn add_placeholders(&mut self, change: i32) -> Result<(), Misfit> {
        self.placeholders = changed("number of placeholders", self.placeholders, change)?;
        Ok(())
    }
}

/// A count after a change that must leave it one.
fn changed(field: &'static str, count: u16, change: i32) -> Result<u16, Misfit> {
    let changed = i32::from(count).saturating_add(change);
    u16::try_from(changed).map_err(|_| Misfit::Value { field, value: count.into() })
}

/// Makes an empty leaf of the tree of values, or of that of nulls.
pub(super) fn init_leaf(page: &mut Page, stores_nulls: bool) -> Result<(), Misfit> {
    init_page(page, FLAG_LEAF | nulls_flag(stores_nulls))
}

/// Makes an empty page for inner tuples of the tree of values, or of that of nulls.
pub(super) fn init_inner(page: &mut Page, stores_nulls: bool) -> Result<(), Misfit> {
    init_page(page, nulls_flag(stores_nulls))
}

fn nulls_flag(stores_nulls: bool) -> u16 {
    if stores_nulls { FLAG_NULLS } else { 0 }
}

/// `SpGistInitPage`.
fn init_page(page: &mut Page, flags: u16) -> Result<(), Misfit> {
    init(page, SPECIAL_BYTES);
    put(page, SPECIAL_AT + 6, &PAGE_ID.to_le_bytes());
    Opaque { flags, redirections: 0, placeholders: 0 }.write(page)
}
