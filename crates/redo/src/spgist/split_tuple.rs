//! An inner tuple split into one with a shorter prefix and, below it, one with the rest. Source: `spgRedoSplitTuple`.

use super::opaque::init_inner;
use super::tuple::{add_or_replace, replace, take_inner};
use crate::block_redo::BlockRedo;
use crate::error::Misfit;
use crate::page_items::Page;
use quire_types::Reader;

/// `spgxlogSplitTuple`, with the tuples that follow it.
struct SplitTuple<'a> {
    prefix_offset: u16,
    postfix_offset: u16,
    is_new_page: bool,
    is_postfix_on_same_page: bool,
    prefix: &'a [u8],
    postfix: &'a [u8],
}

impl<'a> SplitTuple<'a> {
    fn read(main_data: &'a [u8]) -> Result<SplitTuple<'a>, Misfit> {
        let mut main = Reader::new(main_data);
        Ok(SplitTuple {
            prefix_offset: main.u16("prefix's offset")?,
            postfix_offset: main.u16("postfix's offset")?,
            is_new_page: main.u8("new page")? != 0,
            is_postfix_on_same_page: main.u8("postfix on the same page")? != 0,
            prefix: take_inner(&mut main)?,
            postfix: take_inner(&mut main)?,
        })
    }
}

/// The page of the tuple that was split, where the prefix takes its place.
pub(super) fn prefix(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let split = SplitTuple::read(redo.record.main_data)?;
    replace(page, split.prefix_offset, split.prefix)?;
    if split.is_postfix_on_same_page { add_or_replace(page, split.postfix_offset, split.postfix) } else { Ok(()) }
}

/// Another page that the postfix went to.
pub(super) fn postfix(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    let split = SplitTuple::read(redo.record.main_data)?;
    if split.is_postfix_on_same_page {
        return Err(redo.unexpected_block());
    }
    if split.is_new_page {
        // Tuples of the tree of nulls have no prefix to split.
        init_inner(page, false)?;
    }
    add_or_replace(page, split.postfix_offset, split.postfix)
}
