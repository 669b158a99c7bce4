//! Updates: the old version of a row is marked, the new one inserted, on one page or two. Source: `heap_xlog_update`.

use super::{StoredHeader, XmaxChange, add_tuple, clear_all_visible, init_if_first};
use crate::block_redo::BlockRedo;
use crate::error::Misfit;
use crate::heap_tuple::HeapTuple;
use crate::page_items::{Page, add_heap_item, normal_item, note_prunable, put};
use quire_types::Reader;
use quire_wal::rmgr::{
    XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED, XLH_UPDATE_OLD_ALL_VISIBLE_CLEARED, XLH_UPDATE_PREFIX_FROM_OLD,
    XLH_UPDATE_SUFFIX_FROM_OLD,
};
use std::ops::Range;

/// `xl_heap_update`.
struct Update {
    old_xmax: u32,
    old_offset: u16,
    old_infobits: u8,
    flags: u8,
    new_xmax: u32,
    new_offset: u16,
}

impl Update {
    fn read(main_data: &[u8]) -> Result<Update, Misfit> {
        let mut main = Reader::new(main_data);
        let XmaxChange { xmax, offset, infobits, flags } = XmaxChange::read(main.bytes("old tuple", 8)?)?;
        Ok(Update {
            old_xmax: xmax,
            old_offset: offset,
            old_infobits: infobits,
            flags,
            new_xmax: main.u32("new xmax")?,
            new_offset: main.u16("new offset")?,
        })
    }
}

/// Block 0 has the new tuple; block 1 the old one, unless that is on the same page.
pub(super) fn redo(page: &mut Page, redo: &BlockRedo<'_>, is_hot: bool) -> Result<(), Misfit> {
    let update = Update::read(redo.record.main_data)?;
    let is_one_page = redo.record.block(1).is_none();
    if redo.block.id == 1 || is_one_page {
        old_tuple(page, redo, &update, is_hot)?;
    }
    if redo.block.id == 0 {
        if !is_one_page {
            init_if_first(page, redo);
        }
        new_tuple(page, redo, &update, is_one_page)?;
    }
    Ok(())
}

fn old_tuple(page: &mut Page, redo: &BlockRedo<'_>, update: &Update, is_hot: bool) -> Result<(), Misfit> {
    let mut tuple = HeapTuple::of(page, update.old_offset)?;
    tuple.set_xmax_bits(update.old_infobits);
    tuple.set_hot_updated(is_hot);
    tuple.set_xmax(update.old_xmax);
    tuple.reset_command();
    tuple.set_ctid(redo.block_number(0)?, update.new_offset);
    note_prunable(page, redo.record.xid);
    clear_all_visible(page, update.flags & XLH_UPDATE_OLD_ALL_VISIBLE_CLEARED != 0);
    Ok(())
}

fn new_tuple(page: &mut Page, redo: &BlockRedo<'_>, update: &Update, is_one_page: bool) -> Result<(), Misfit> {
    let mut data = Reader::new(redo.block.data);
    let mut shared = |flag: u8| match update.flags & flag {
        0 => Ok(0),
        _ if is_one_page => Ok(usize::from(data.u16("bytes shared with the old tuple")?)),
        _ => Err(Misfit::Value { field: "update flags", value: update.flags.into() }),
    };
    let (prefix, suffix) = (shared(XLH_UPDATE_PREFIX_FROM_OLD)?, shared(XLH_UPDATE_SUFFIX_FROM_OLD)?);
    let header = StoredHeader::read(&mut data)?;
    let rest = data.rest();
    let complete = header.complete(redo.record.xid, update.new_xmax);
    if prefix == 0 && suffix == 0 {
        add_tuple(page, redo.block.block, update.new_offset, &complete, rest)?;
    } else {
        let (prefix, suffix) = old_parts(page, update.old_offset, prefix, suffix)?;
        // The prefix goes between the null bitmap, which the record has in full, and the other data.
        let (bitmap, middle) = split(rest, if prefix.is_empty() { 0 } else { header.bitmap_bytes()? })?;
        let fixed = complete.write(redo.block.block, update.new_offset);
        let parts = [Part::New(&fixed), Part::New(bitmap), Part::Old(prefix), Part::New(middle), Part::Old(suffix)];
        add_parts(page, update.new_offset, &parts)?;
    }
    clear_all_visible(page, update.flags & XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED != 0);
    Ok(())
}

/// A stretch of a new tuple: out of the record, or where it stands on the page in the old tuple.
enum Part<'a> {
    New(&'a [u8]),
    Old(Range<usize>),
}

impl Part<'_> {
    fn len(&self) -> usize {
        match self {
            Part::New(bytes) => bytes.len(),
            Part::Old(range) => range.len(),
        }
    }
}

/// Puts a tuple on a page that is made of several parts.
fn add_parts(page: &mut Page, offset: u16, parts: &[Part<'_>]) -> Result<(), Misfit> {
    let mut at = add_heap_item(page, offset, parts.iter().map(Part::len).sum())?;
    for part in parts {
        match part {
            Part::New(bytes) => put(page, at, bytes),
            Part::Old(range) => page.copy_within(range.clone(), at),
        }
        at += part.len();
    }
    Ok(())
}

/// Where the first `prefix` and the last `suffix` bytes of the old tuple's data stand.
fn old_parts(page: &Page, offset: u16, prefix: usize, suffix: usize) -> Result<(Range<usize>, Range<usize>), Misfit> {
    let item = normal_item(page, offset)?;
    let data = item.start + HeapTuple::data_offset_of(&page[item.clone()]).ok_or(Misfit::ItemState(offset))?;
    if data + prefix > item.end || item.start + suffix > item.end {
        return Err(Misfit::Value { field: "bytes shared with the old tuple", value: (prefix + suffix) as u64 });
    }
    Ok((data..data + prefix, item.end - suffix..item.end))
}

fn split(bytes: &[u8], at: usize) -> Result<(&[u8], &[u8]), Misfit> {
    bytes.split_at_checked(at).ok_or(Misfit::Value { field: "null bitmap's length", value: at as u64 })
}
