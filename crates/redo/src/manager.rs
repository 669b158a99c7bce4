//! Which module redoes which records.

use crate::block_redo::{BlockRedo, ResourceManager};
use crate::error::Misfit;
use crate::page_items::Page;
use crate::{brin, btree, generic, gin, gist, hash, heap, heap2, sequence, spgist, xlog};
use quire_wal::rmgr;

/// The manager with this id, if it is one of those that are implemented.
pub(crate) fn resource_manager(id: u8) -> Option<ResourceManager> {
    Some(match id {
        rmgr::XLOG => xlog::MANAGER,
        rmgr::HEAP2 => heap2::MANAGER,
        rmgr::HEAP => heap::MANAGER,
        rmgr::BTREE => btree::MANAGER,
        rmgr::HASH => hash::MANAGER,
        rmgr::GIN => gin::MANAGER,
        rmgr::GIST => gist::MANAGER,
        rmgr::SEQ => sequence::MANAGER,
        rmgr::SPGIST => spgist::MANAGER,
        rmgr::BRIN => brin::MANAGER,
        rmgr::GENERIC => generic::MANAGER,
        _ => return None,
    })
}

/// Does what redo does to a page even though it has just restored the page's image (`BLK_RESTORED`).
pub(crate) fn after_image(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    match redo.record.rmgr {
        rmgr::GIST => gist::after_image(page, redo),
        _ => Ok(()),
    }
}

/// Whether records of this manager never reference a page.
pub(crate) fn is_without_pages(id: u8) -> bool {
    matches!(
        id,
        rmgr::XACT
            | rmgr::SMGR
            | rmgr::CLOG
            | rmgr::DBASE
            | rmgr::TBLSPC
            | rmgr::MULTIXACT
            | rmgr::RELMAP
            | rmgr::STANDBY
            | rmgr::COMMIT_TS
            | rmgr::REPLORIGIN
            | rmgr::LOGICALMSG
    )
}
