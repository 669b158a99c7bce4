//! What a resource manager's redo is, and what it is given.

use crate::error::Misfit;
use crate::page_items::Page;
use quire_types::Lsn;
use quire_wal::ServerVersion;
use quire_wal::{BlockView, RecordView};

/// What a resource manager's redo gets to see: one record, and the block reference that is the page at hand.
#[derive(Clone, Copy)]
pub(crate) struct BlockRedo<'a> {
    /// The record.
    pub record: &'a RecordView<'a>,
    /// The reference to the page.
    pub block: &'a BlockView<'a>,
    /// The record's end, which becomes the page's LSN.
    pub lsn: Lsn,
    /// Which server wrote the record.
    pub server: ServerVersion,
}

impl BlockRedo<'_> {
    /// The block number of a reference of the record.
    pub fn block_number(&self, id: u8) -> Result<u32, Misfit> {
        if id == self.block.id {
            return Ok(self.block.block);
        }
        self.record.block(id).map(|block| block.block).ok_or(Misfit::MissingBlock(id))
    }

    /// The error for a reference that this kind of record does not have.
    pub fn unexpected_block(&self) -> Misfit {
        Misfit::UnexpectedBlock(self.block.id)
    }
}

/// A resource manager whose records reference pages.
pub(crate) struct ResourceManager {
    /// Whether `redo` knows this kind of record.
    pub supports: fn(info: u8) -> bool,
    /// Does to the page what the record says. Restoring images, and the check that the record is newer than the page,
    /// come before it; setting the page's LSN is its own duty, because not every record does.
    pub redo: fn(&mut Page, &BlockRedo<'_>) -> Result<(), Misfit>,
}
