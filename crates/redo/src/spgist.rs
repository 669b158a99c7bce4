//! SP-GiST indexes. Source: `spgxlog.c`, `spgdoinsert.c`, `spgutils.c`, `spgist_private.h`.
//!
//! Tuples keep their offset numbers because others link to them, so a tuple that goes leaves a dead one behind: a
//! redirection to where it went for scans under way, or a placeholder whose offset number may be used again.
//!
//! Moving tuples changes up to four pages, each with a block reference of its own: where they were (source), where they
//! went (destination), the inner tuple above them, and its parent. Each is redone by itself, from the record's list of
//! tuples and the other references' block numbers. Where one page plays two of these parts there is one reference to
//! it:
//!
//! | record | the page of | is also |
//! |---|---|---|
//! | add node | the old inner tuple (0) | the new one's, if the record has no reference 1; or the parent's, if it says so |
//! | add node | the new inner tuple (1) | the parent's, if the record says so |
//! | split tuple | the prefix (0) | the postfix's, if the record says so |
//! | pick split | the source (0) | the destination of some or all tuples |
//! | pick split | the inner tuple (2) | the parent's, if the record says so; the source's, if a root is split |

mod add_leaf;
mod add_node;
mod dead;
mod move_leaves;
mod opaque;
mod pick_split;
mod split_tuple;
#[cfg(test)]
mod tests;
mod tuple;
mod vacuum;

use crate::block_redo::{BlockRedo, ResourceManager};
use crate::error::Misfit;
use crate::page_items::Page;
use quire_wal::page::set_lsn;
use quire_wal::rmgr::*;

pub(crate) use opaque::{FLAG_META, PAGE_ID};

pub(crate) const MANAGER: ResourceManager = ResourceManager {
    supports: |info| (XLOG_SPGIST_ADD_LEAF..=XLOG_SPGIST_VACUUM_REDIRECT).contains(&(info & XLR_RMGR_INFO_MASK)),
    redo,
};

/// `spg_redo`.
fn redo(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    match (redo.record.info & XLR_RMGR_INFO_MASK, redo.block.id) {
        (XLOG_SPGIST_ADD_LEAF, 0) => add_leaf::leaf(page, redo),
        (XLOG_SPGIST_ADD_LEAF, 1) => add_leaf::parent(page, redo),
        (XLOG_SPGIST_MOVE_LEAFS, 0) => move_leaves::source(page, redo),
        (XLOG_SPGIST_MOVE_LEAFS, 1) => move_leaves::destination(page, redo),
        (XLOG_SPGIST_MOVE_LEAFS, 2) => move_leaves::parent(page, redo),
        (XLOG_SPGIST_ADD_NODE, 0) => add_node::old(page, redo),
        (XLOG_SPGIST_ADD_NODE, 1) => add_node::new(page, redo),
        (XLOG_SPGIST_ADD_NODE, 2) => add_node::parent(page, redo),
        (XLOG_SPGIST_SPLIT_TUPLE, 0) => split_tuple::prefix(page, redo),
        (XLOG_SPGIST_SPLIT_TUPLE, 1) => split_tuple::postfix(page, redo),
        (XLOG_SPGIST_PICKSPLIT, 0) => pick_split::source(page, redo),
        (XLOG_SPGIST_PICKSPLIT, 1) => pick_split::destination(page, redo),
        (XLOG_SPGIST_PICKSPLIT, 2) => pick_split::inner(page, redo),
        (XLOG_SPGIST_PICKSPLIT, 3) => pick_split::parent(page, redo),
        (XLOG_SPGIST_VACUUM_LEAF, 0) => vacuum::leaf(page, redo),
        (XLOG_SPGIST_VACUUM_ROOT, 0) => vacuum::root(page, redo),
        (XLOG_SPGIST_VACUUM_REDIRECT, 0) => vacuum::redirections(page, redo),
        _ => return Err(redo.unexpected_block()),
    }?;
    set_lsn(page, redo.lsn);
    Ok(())
}
