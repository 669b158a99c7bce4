//! Native redo: what a change does to a page, one module per resource manager.
//!
//! Pure: a page, a delta, the LSN; out comes the page. Nothing here knows where pages are kept.
//!
//! An `UPDATE` whose new row version went to another page is one WAL record with two block references. Storage keeps
//! it under both pages' keys, and each page's redo looks at the reference that is the page itself, and at nothing else
//! than the record: no redo of PostgreSQL's needs the contents of a second page. What the same record does to a page it
//! does not reference, such as clearing bits of the visibility map, is a small [`Delta`] of its own.
//!
//! # Invariants
//! - A delta is applied once, to the page as the deltas before it left it. A page that is already as new as a record is
//!   an error, because it would hide a fault of storage.
//! - A record is redone as the server did that wrote it: where minor versions differ, redo takes the version
//!   ([`depends_on_server`]).
//! - The page afterwards equals PostgreSQL's under the masks of [`mask`], tuple placement included.
//! - Neither a record nor a page is trusted: what does not fit is a [`RedoError`], never a panic, and the page is to be
//!   thrown away.

#![forbid(unsafe_code)]

mod block_redo;
mod brin;
mod btree;
pub mod clog;
pub mod commit_ts;
pub mod delta;
mod effect;
pub mod error;
mod generic;
mod gin;
mod gist;
mod hash;
mod heap;
mod heap2;
mod heap_tuple;
mod index_tuple;
mod manager;
pub mod mask;
pub mod multixact;
mod page_items;
mod sequence;
mod special;
mod spgist;
#[cfg(test)]
mod test_record;
#[cfg(test)]
mod tests;
pub mod touch;
pub mod visibility_map;
mod xlog;

pub use delta::{Delta, MultixactMember, TransactionStatus};
pub use error::{Effect, Misfit, RecordKind, RedoError};

use block_redo::BlockRedo;
use manager::{after_image, is_without_pages, resource_manager};
use quire_types::{Key, Lsn, PAGE_SIZE};
use quire_wal::{BlockView, ImageUse, RecordView, ServerVersion, page, record, rmgr};

/// Changes `page`, which is the page of `key`, as `delta` says. `lsn` is the end of the record that the delta came
/// from.
///
/// The page is a zeroed one if nothing was stored before, or if the record initialises it.
///
/// # Errors
/// See [`RedoError`]; the page's contents are undefined then.
pub fn apply(page: &mut [u8; PAGE_SIZE], key: Key, lsn: Lsn, delta: &Delta) -> Result<(), RedoError> {
    match delta {
        Delta::Record(bytes, start) => apply_record(page, key, lsn, bytes, *start, ServerVersion::UNRECORDED),
        Delta::RecordOf(server, bytes, start) => apply_record(page, key, lsn, bytes, *start, *server),
        effect => effect::apply(page, key, effect).map_err(|what| RedoError::WrongPage { what, lsn, key }),
    }
}

/// Whether [`apply`] knows what records of this kind do to the pages they reference.
///
/// An image that redo restores can be applied whichever resource manager logged it; this asks for redo proper. Kinds of
/// records that reference no page need none, so they are supported. Extensions' resource managers are not.
pub fn supports(rmgr: u8, info: u8) -> bool {
    is_without_pages(rmgr) || resource_manager(rmgr).is_some_and(|manager| (manager.supports)(info))
}

/// Whether minor versions of the server differ in redo of records of this kind.
pub fn depends_on_server(rmgr: u8, info: u8) -> bool {
    rmgr == rmgr::GIST && gist::depends_on_server(info)
}

/// Does to `page`, after the image of it in the record was restored, what the record does on top: to most pages
/// nothing, but some changes are made only after PostgreSQL put the image into the record. [`apply`] includes this.
///
/// # Errors
/// See [`RedoError`]; the page's contents are undefined then.
pub fn finish_image(
    page: &mut [u8; PAGE_SIZE],
    record: &RecordView<'_>,
    block: &BlockView<'_>,
    lsn: Lsn,
) -> Result<(), RedoError> {
    let kind = RecordKind { rmgr: record.rmgr, info: record.info };
    // No version of the server differs in this.
    let redo = BlockRedo { record, block, lsn, server: ServerVersion::UNRECORDED };
    after_image(page, &redo).map_err(|reason| RedoError::Misfit { kind, lsn, key: key_of(block), reason })
}

fn apply_record(
    page: &mut [u8; PAGE_SIZE],
    key: Key,
    lsn: Lsn,
    bytes: &[u8],
    start: Lsn,
    server: ServerVersion,
) -> Result<(), RedoError> {
    let (record, block) = RecordView::parse_for(bytes, key).map_err(|reason| RedoError::Malformed { start, reason })?;
    let block = block.ok_or(RedoError::NotReferenced { start, key })?;
    apply_block(page, &record, &block, start, lsn, server)
}

/// [`apply`] for a record that was parsed already: does to `page` what the record does to this one of its block
/// references. For readers that replay a whole log, and so come across each reference of a record with the record
/// itself at hand. `start` is the record's first byte, `lsn` its end, `server` wrote it.
///
/// # Errors
/// See [`RedoError`]; the page's contents are undefined then.
pub fn apply_block(
    page: &mut [u8; PAGE_SIZE],
    record: &RecordView<'_>,
    block: &BlockView<'_>,
    start: Lsn,
    lsn: Lsn,
    server: ServerVersion,
) -> Result<(), RedoError> {
    let kind = RecordKind { rmgr: record.rmgr, info: record.info };
    let redo = BlockRedo { record, block, lsn, server };
    let misfit = |reason| RedoError::Misfit { kind, lsn, key: key_of(block), reason };
    if block.image == ImageUse::Restore {
        restore_image(page, block, start, lsn)?;
        return after_image(page, &redo).map_err(misfit);
    }
    let manager = resource_manager(record.rmgr).filter(|manager| (manager.supports)(record.info));
    let manager = manager.ok_or(RedoError::Unsupported { start, kind })?;
    if block.will_init {
        // Redo must not lean on what was there before.
        page.fill(0);
    } else if page::lsn(page) >= lsn {
        return Err(RedoError::NotNewer { key: key_of(block), page_lsn: page::lsn(page), lsn });
    }
    (manager.redo)(page, &redo).map_err(misfit)
}

fn key_of(block: &BlockView<'_>) -> Key {
    Key::RelBlock { rel: block.rel, block: block.block }
}

/// `XLogReadBufferForRedoExtended` for a block with an image. An image of a page that was never initialised has no LSN
/// to set.
fn restore_image(page: &mut [u8; PAGE_SIZE], block: &BlockView<'_>, start: Lsn, lsn: Lsn) -> Result<(), RedoError> {
    record::restore_image(block.image_header, block.image_bytes, page).map_err(|source| RedoError::Image {
        start,
        key: key_of(block),
        source,
    })?;
    if !page::is_new(page) {
        page::set_lsn(page, lsn);
    }
    Ok(())
}
