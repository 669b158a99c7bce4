//! Records that carry nothing but page images. Source: `xlog_redo`.

use crate::block_redo::{BlockRedo, ResourceManager};
use crate::error::Misfit;
use crate::page_items::Page;
use quire_wal::ImageUse;
use quire_wal::rmgr::{XLOG_FPI, XLOG_FPI_FOR_HINT, XLR_RMGR_INFO_MASK};

/// Images that redo restores never get here; what does is a record without one.
pub(crate) const MANAGER: ResourceManager = ResourceManager { supports: |_| true, redo };

fn redo(_page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    match redo.record.info & XLR_RMGR_INFO_MASK {
        // With full-page writes off, a changed hint bit is logged without an image and means nothing.
        XLOG_FPI_FOR_HINT if redo.block.image == ImageUse::Absent => Ok(()),
        XLOG_FPI | XLOG_FPI_FOR_HINT => Err(Misfit::MissingImage),
        _ => Err(redo.unexpected_block()),
    }
}
