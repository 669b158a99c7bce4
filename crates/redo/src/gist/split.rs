//! Page splits. Source: `gistRedoPageSplitRecord`, `decodePageSplitRecord`.
//!
//! Block reference 0 is a child whose own split this one completes; from 1 on come the pages that one page became, in
//! the order of their right links, each one whole in the record. The root stays where it is, so where it is split the
//! first page is the root with the downlinks to the others.

use super::append_items;
use super::opaque::{FLAG_FOLLOW_RIGHT, FLAG_LEAF, NO_BLOCK, Opaque};
use crate::block_redo::BlockRedo;
use crate::error::Misfit;
use crate::page_items::Page;
use quire_types::{Lsn, Reader};

/// `GIST_ROOT_BLKNO`.
const ROOT_BLOCK: u32 = 0;

/// `gistxlogPageSplit`.
struct Split {
    right_link: u32,
    nsn: Lsn,
    is_leaf: bool,
    pages: u16,
    marks_follow_right: bool,
}

impl Split {
    fn read(main_data: &[u8]) -> Result<Split, Misfit> {
        let mut main = Reader::new(main_data);
        let right_link = main.u32("right link")?;
        main.bytes("padding", 4)?;
        let (nsn, is_leaf) = (Lsn(main.u64("node sequence number")?), main.u8("leaf")? != 0);
        main.bytes("padding", 1)?;
        let pages = main.u16("pages")?;
        Ok(Split { right_link, nsn, is_leaf, pages, marks_follow_right: main.u8("follow-right")? != 0 })
    }
}

/// One of the pages that the split page became.
pub(super) fn part(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let split = Split::read(redo.record.main_data)?;
    let opaque = match redo.block.block {
        ROOT_BLOCK => Opaque { nsn: split.nsn, right_link: NO_BLOCK, flags: 0 },
        _ => part_opaque(&split, redo)?,
    };
    opaque.init_page(page)?;
    let mut data = Reader::new(redo.block.data);
    let count = data.u32("number of tuples")?;
    append_items(page, data.rest(), count)
}

/// The special space of a page that is not the root. A search that comes to a page before its parent has the downlinks
/// has to follow it to the right, but after the split of a root the parent has them already.
fn part_opaque(split: &Split, redo: &BlockRedo<'_>) -> Result<Opaque, Misfit> {
    let (nsn, leaf) = (split.nsn, if split.is_leaf { FLAG_LEAF } else { 0 });
    let id = redo.block.id;
    if u16::from(id) > split.pages {
        return Err(redo.unexpected_block());
    }
    if u16::from(id) == split.pages {
        return Ok(Opaque { nsn, right_link: split.right_link, flags: leaf });
    }
    let is_root_split = redo.block_number(1)? == ROOT_BLOCK;
    let follow_right = if split.marks_follow_right && !is_root_split { FLAG_FOLLOW_RIGHT } else { 0 };
    Ok(Opaque { nsn, right_link: redo.block_number(id + 1)?, flags: leaf | follow_right })
}
