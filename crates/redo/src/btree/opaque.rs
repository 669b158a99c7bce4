//! The special space of a B-tree page (`BTPageOpaqueData`).

use crate::error::Misfit;
use crate::page_items::{Page, put, u16_at, u32_at};
use crate::special;
use quire_types::PAGE_SIZE;
use quire_wal::page::init;

/// Bytes of the special space.
pub(crate) const SPECIAL_BYTES: usize = 16;
/// Where it starts.
const SPECIAL_AT: usize = PAGE_SIZE - SPECIAL_BYTES;

/// `BTP_LEAF`.
pub(crate) const FLAG_LEAF: u16 = 1 << 0;
/// `BTP_ROOT`.
pub(super) const FLAG_ROOT: u16 = 1 << 1;
/// `BTP_DELETED`.
pub(super) const FLAG_DELETED: u16 = 1 << 2;
/// `BTP_META`.
pub(super) const FLAG_META: u16 = 1 << 3;
/// `BTP_HALF_DEAD`.
pub(super) const FLAG_HALF_DEAD: u16 = 1 << 4;
/// `BTP_SPLIT_END`.
pub(crate) const FLAG_SPLIT_END: u16 = 1 << 5;
/// `BTP_HAS_GARBAGE`.
pub(crate) const FLAG_HAS_GARBAGE: u16 = 1 << 6;
/// `BTP_INCOMPLETE_SPLIT`.
pub(super) const FLAG_INCOMPLETE_SPLIT: u16 = 1 << 7;
/// `BTP_HAS_FULLXID`.
pub(super) const FLAG_HAS_FULL_XID: u16 = 1 << 8;

/// The special space of a page.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Opaque {
    /// Left sibling, 0 if there is none.
    pub prev: u32,
    /// Right sibling, 0 if there is none.
    pub next: u32,
    /// Level in the tree, 0 for leaves.
    pub level: u32,
    /// `btpo_flags`.
    pub flags: u16,
    /// Vacuum's mark on pages that were split while it ran.
    pub cycle_id: u16,
}

impl Opaque {
    /// Reads it from a page that must be one of a B-tree's.
    pub fn of(page: &Page) -> Result<Opaque, Misfit> {
        special::check(page, SPECIAL_AT)?;
        let special = &page[SPECIAL_AT..];
        let [prev, next, level] = [0, 4, 8].map(|at| u32_at(special, at));
        Ok(Opaque { prev, next, level, flags: u16_at(special, 12), cycle_id: u16_at(special, 14) })
    }

    /// Writes it to a page that must be one of a B-tree's.
    pub fn write(self, page: &mut Page) -> Result<(), Misfit> {
        special::check(page, SPECIAL_AT)?;
        put(page, SPECIAL_AT, &self.prev.to_le_bytes());
        put(page, SPECIAL_AT + 4, &self.next.to_le_bytes());
        put(page, SPECIAL_AT + 8, &self.level.to_le_bytes());
        put(page, SPECIAL_AT + 12, &self.flags.to_le_bytes());
        put(page, SPECIAL_AT + 14, &self.cycle_id.to_le_bytes());
        Ok(())
    }

    /// Makes an empty page with this special space (`_bt_pageinit`).
    pub fn init_page(self, page: &mut Page) -> Result<(), Misfit> {
        init(page, SPECIAL_BYTES);
        self.write(page)
    }

    /// Offset number of the first item that is no high key (`P_FIRSTDATAKEY`).
    pub fn first_data_offset(self) -> u16 {
        if self.next == 0 { 1 } else { 2 }
    }
}
