//! Leaves of a posting tree: posting lists one after the other, called segments. Source: `ginRedoCreatePTree`,
//! `ginRedoRecompress`.

use super::opaque::{FLAG_COMPRESSED, FLAG_DATA, FLAG_LEAF, Opaque, SPECIAL_AT};
use super::posting_list::{PostingList, TID_BYTES, encode, numbers};
use crate::error::Misfit;
use crate::page_items::{Bounds, Page, align, put, set_lower};
use quire_types::Reader;
use quire_wal::page::HEADER_BYTES;

/// Where the contents of a posting tree's page start, after the greatest TID it may hold (`GinDataPageGetData`).
pub(super) const DATA_AT: usize = HEADER_BYTES + align(TID_BYTES);
/// `GinDataPageMaxDataSize`.
pub(super) const DATA_BYTES_MAX: usize = SPECIAL_AT - DATA_AT;

/// A new posting tree, which is one leaf.
pub(super) fn create(page: &mut Page, main_data: &[u8]) -> Result<(), Misfit> {
    let segments = Reader::new(main_data).length_prefixed("posting lists")?;
    Opaque::new(FLAG_DATA | FLAG_LEAF | FLAG_COMPRESSED).init_page(page)?;
    place(page, segments)
}

/// Changes a leaf segment by segment, as `ginxlogRecompressDataLeaf` lists it.
pub(super) fn recompress(page: &mut Page, data: &[u8]) -> Result<(), Misfit> {
    let mut data = Reader::new(data);
    let actions = data.u16("actions")?;
    compress_old_format(page)?;
    let mut rebuilt = Rebuilt::new(segments(page)?);
    for _ in 0..actions {
        let segment = data.u8("segment number")?;
        rebuilt.copy_up_to(segment)?;
        rebuilt.act(Action::read(&mut data)?)?;
    }
    data.finish()?;
    let segments = rebuilt.finish()?;
    place(page, &segments)
}

/// The posting lists of a compressed leaf.
fn segments(page: &Page) -> Result<&[u8], Misfit> {
    Opaque::of(page)?.require(FLAG_DATA | FLAG_LEAF | FLAG_COMPRESSED, FLAG_DATA | FLAG_LEAF | FLAG_COMPRESSED)?;
    let bounds = Bounds::of(page)?;
    page.get(DATA_AT..bounds.lower).ok_or(Misfit::NoRoom(align(TID_BYTES)))
}

/// Overwrites the posting lists. What is behind them stays, as PostgreSQL leaves it.
fn place(page: &mut Page, segments: &[u8]) -> Result<(), Misfit> {
    if segments.len() > DATA_BYTES_MAX {
        return Err(Misfit::NoRoom(segments.len()));
    }
    put(page, DATA_AT, segments);
    set_lower(page, DATA_AT + segments.len());
    Ok(())
}

/// A leaf that a release before 9.4 wrote holds plain TIDs; the first change makes one segment of them.
fn compress_old_format(page: &mut Page) -> Result<(), Misfit> {
    let mut opaque = Opaque::of(page)?;
    opaque.require(FLAG_DATA | FLAG_LEAF, FLAG_DATA | FLAG_LEAF)?;
    if opaque.flags & FLAG_COMPRESSED != 0 {
        return Ok(());
    }
    let end = DATA_AT + usize::from(opaque.count) * TID_BYTES;
    let tids = page.get(DATA_AT..end).filter(|_| end <= SPECIAL_AT).ok_or(Misfit::TooManyItems)?;
    let segment = encode(&numbers(tids)?)?;
    place(page, &segment)?;
    opaque.flags |= FLAG_COMPRESSED;
    opaque.count = 0;
    opaque.write(page)
}

/// What happens to a segment.
enum Action<'a> {
    /// `GIN_SEGMENT_DELETE`.
    Delete,
    /// `GIN_SEGMENT_INSERT`: a new segment comes before it.
    Insert(PostingList<'a>),
    /// `GIN_SEGMENT_REPLACE`.
    Replace(PostingList<'a>),
    /// `GIN_SEGMENT_ADDITEMS`: it takes in these TIDs.
    AddItems(&'a [u8]),
}

impl<'a> Action<'a> {
    fn read(data: &mut Reader<'a>) -> Result<Action<'a>, Misfit> {
        match data.u8("segment action")? {
            1 => Ok(Action::Delete),
            2 => Ok(Action::Insert(read_list(data)?)),
            3 => Ok(Action::Replace(read_list(data)?)),
            4 => {
                let count = data.u16("added TIDs")?;
                Ok(Action::AddItems(data.bytes("added TIDs", usize::from(count) * TID_BYTES)?))
            }
            other => Err(Misfit::Value { field: "segment action", value: other.into() }),
        }
    }
}

fn read_list<'a>(data: &mut Reader<'a>) -> Result<PostingList<'a>, Misfit> {
    let (list, rest) = PostingList::split_first(data.rest())?;
    *data = Reader::new(rest);
    Ok(list)
}

/// A leaf's segments on their way from the old to the new.
struct Rebuilt<'a> {
    /// Old segments that were not looked at yet.
    left: &'a [u8],
    /// The number of the first of them.
    next_segment: u16,
    new: Vec<u8>,
}

impl<'a> Rebuilt<'a> {
    fn new(old: &'a [u8]) -> Rebuilt<'a> {
        Rebuilt { left: old, next_segment: 0, new: Vec::with_capacity(DATA_BYTES_MAX) }
    }

    /// Keeps the segments before this one as they are.
    fn copy_up_to(&mut self, segment: u8) -> Result<(), Misfit> {
        if u16::from(segment) < self.next_segment {
            return Err(Misfit::Value { field: "segment number", value: segment.into() });
        }
        while self.next_segment < u16::from(segment) {
            let kept = self.take_old()?;
            self.push(kept.bytes)?;
        }
        Ok(())
    }

    fn act(&mut self, action: Action<'_>) -> Result<(), Misfit> {
        match action {
            Action::Delete => self.take_old().map(drop),
            Action::Insert(new) => self.push(new.bytes),
            Action::Replace(new) => {
                self.take_old()?;
                self.push(new.bytes)
            }
            Action::AddItems(tids) => {
                let extended = self.take_old()?.with(tids)?;
                self.push(&extended)
            }
        }
    }

    /// All segments, those included that no action was about.
    fn finish(mut self) -> Result<Vec<u8>, Misfit> {
        self.push(self.left)?;
        Ok(self.new)
    }

    fn take_old(&mut self) -> Result<PostingList<'a>, Misfit> {
        let (list, rest) = PostingList::split_first(self.left)?;
        self.left = rest;
        self.next_segment += 1;
        Ok(list)
    }

    fn push(&mut self, segments: &[u8]) -> Result<(), Misfit> {
        if self.new.len() + segments.len() > DATA_BYTES_MAX {
            return Err(Misfit::NoRoom(segments.len()));
        }
        self.new.extend_from_slice(segments);
        Ok(())
    }
}
