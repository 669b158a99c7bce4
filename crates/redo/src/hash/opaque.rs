//! The special space of a hash index's page (`HashPageOpaqueData`).

use crate::error::Misfit;
use crate::page_items::{Page, put, u16_at, u32_at};
use crate::special;
use quire_types::PAGE_SIZE;
use quire_wal::page::init;

/// Bytes of the special space.
const SPECIAL_BYTES: usize = 16;
/// Where it starts.
pub(super) const SPECIAL_AT: usize = PAGE_SIZE - SPECIAL_BYTES;

/// `HASHO_PAGE_ID`.
pub(crate) const PAGE_ID: u16 = 0xFF80;

/// `LH_OVERFLOW_PAGE`.
pub(crate) const FLAG_OVERFLOW_PAGE: u16 = 1 << 0;
/// `LH_BUCKET_PAGE`.
pub(crate) const FLAG_BUCKET_PAGE: u16 = 1 << 1;
/// `LH_BITMAP_PAGE`.
pub(super) const FLAG_BITMAP_PAGE: u16 = 1 << 2;
/// `LH_META_PAGE`.
pub(super) const FLAG_META_PAGE: u16 = 1 << 3;
/// `LH_BUCKET_NEEDS_SPLIT_CLEANUP`.
pub(super) const FLAG_NEEDS_SPLIT_CLEANUP: u16 = 1 << 6;
/// `LH_PAGE_HAS_DEAD_TUPLES`.
pub(crate) const FLAG_HAS_DEAD_TUPLES: u16 = 1 << 7;
/// `LH_PAGE_TYPE`: the flags of which a page has one, or none if it is unused.
pub(crate) const PAGE_TYPE_MASK: u16 = 0x000F;

/// `InvalidBlockNumber` and `InvalidBucket`.
pub(super) const NONE: u32 = u32::MAX;

/// The special space of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opaque {
    /// The page before this one in the bucket's chain; on a primary page, the highest bucket there was when the bucket
    /// was last split.
    pub prev: u32,
    /// The page after this one in the bucket's chain.
    pub next: u32,
    /// The bucket.
    pub bucket: u32,
    /// `hasho_flag`.
    pub flags: u16,
}

impl Opaque {
    /// The special space of a page that belongs to no bucket.
    pub fn without_bucket(flags: u16) -> Opaque {
        Opaque { prev: NONE, next: NONE, bucket: NONE, flags }
    }

    /// Reads it from a page that must be one of a hash index's.
    pub fn of(page: &Page) -> Result<Opaque, Misfit> {
        special::check(page, SPECIAL_AT)?;
        let special = &page[SPECIAL_AT..];
        match u16_at(special, 14) {
            PAGE_ID => {}
            id => return Err(Misfit::Value { field: "hash page id", value: id.into() }),
        }
        let [prev, next, bucket] = [0, 4, 8].map(|at| u32_at(special, at));
        Ok(Opaque { prev, next, bucket, flags: u16_at(special, 12) })
    }

    /// Writes it to a page that must have room for it.
    pub fn write(self, page: &mut Page) -> Result<(), Misfit> {
        special::check(page, SPECIAL_AT)?;
        put(page, SPECIAL_AT, &self.prev.to_le_bytes());
        put(page, SPECIAL_AT + 4, &self.next.to_le_bytes());
        put(page, SPECIAL_AT + 8, &self.bucket.to_le_bytes());
        put(page, SPECIAL_AT + 12, &self.flags.to_le_bytes());
        put(page, SPECIAL_AT + 14, &PAGE_ID.to_le_bytes());
        Ok(())
    }

    /// Makes an empty page with this special space (`_hash_pageinit`, `_hash_initbuf`).
    pub fn init_page(self, page: &mut Page) -> Result<(), Misfit> {
        init(page, SPECIAL_BYTES);
        self.write(page)
    }
}

/// Refuses a page that is not of this type (`_hash_checkpage`).
pub(super) fn check_type(page: &Page, flag: u16) -> Result<(), Misfit> {
    match Opaque::of(page)?.flags & PAGE_TYPE_MASK {
        found if found == flag => Ok(()),
        found => Err(Misfit::Value { field: "hash page type", value: found.into() }),
    }
}

/// Changes flags of a page.
pub(super) fn change_flags(page: &mut Page, change: impl FnOnce(u16) -> u16) -> Result<(), Misfit> {
    let opaque = Opaque::of(page)?;
    Opaque { flags: change(opaque.flags), ..opaque }.write(page)
}
