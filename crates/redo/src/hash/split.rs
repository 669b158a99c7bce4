//! Bucket splits: a new bucket takes half the tuples of an old one. The tuples' move is logged as images of the new
//! bucket's pages, and the flags of both primary pages say how far the split has come.

use super::opaque::{FLAG_NEEDS_SPLIT_CLEANUP, NONE, Opaque, change_flags};
use crate::block_redo::BlockRedo;
use crate::error::Misfit;
use crate::page_items::Page;
use quire_types::Reader;

/// `xl_hash_split_allocate_page`.
pub(super) struct Allocation {
    pub new_bucket: u32,
    old_bucket_flags: u16,
    new_bucket_flags: u16,
    /// What changes of the meta page besides the number of buckets.
    pub flags: u8,
}

impl Allocation {
    pub fn read(redo: &BlockRedo<'_>) -> Result<Allocation, Misfit> {
        let mut main = Reader::new(redo.record.main_data);
        Ok(Allocation {
            new_bucket: main.u32("new bucket")?,
            old_bucket_flags: main.u16("old bucket's flags")?,
            new_bucket_flags: main.u16("new bucket's flags")?,
            flags: main.u8("flags")?,
        })
    }
}

/// `hash_xlog_split_allocate_page`: the old bucket, which is told how many buckets there are now.
pub(super) fn begin(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let allocation = Allocation::read(redo)?;
    let opaque = Opaque { prev: allocation.new_bucket, flags: allocation.old_bucket_flags, ..Opaque::of(page)? };
    opaque.write(page)
}

/// `hash_xlog_split_allocate_page`: the new bucket.
pub(super) fn init_new_bucket(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let Allocation { new_bucket, new_bucket_flags, .. } = Allocation::read(redo)?;
    Opaque { prev: new_bucket, next: NONE, bucket: new_bucket, flags: new_bucket_flags }.init_page(page)
}

/// `hash_xlog_split_complete`: the old bucket's flags are the record's first field, the new bucket's are its second.
pub(super) fn complete(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let mut main = Reader::new(redo.record.main_data);
    let (old, new) = (main.u16("old bucket's flags")?, main.u16("new bucket's flags")?);
    change_flags(page, |_| if redo.block.id == 0 { old } else { new })
}

/// `hash_xlog_split_cleanup`: the old bucket has lost the tuples that went to the new one.
pub(super) fn clean_up(page: &mut Page) -> Result<(), Misfit> {
    change_flags(page, |flags| flags & !FLAG_NEEDS_SPLIT_CLEANUP)
}
