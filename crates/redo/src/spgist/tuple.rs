//! SP-GiST's tuples. Leaf and inner tuples differ, but both begin with a word whose lowest two bits are the tuple's
//! state, and a page's dead tuples (see `dead`) have a leaf tuple's header.
//!
//! | | leaf | inner |
//! |---|---|---|
//! | 0 | state 2 bits, size 30 bits | state 2 bits, all-the-same 1 bit, nodes 13 bits, prefix size 16 bits |
//! | 4 | next in the chain 14 bits, flags 2 bits | size `u16` |
//! | 6 | heap TID | padding |
//!
//! After an inner tuple's 8 bytes come the prefix and the nodes, which are index tuples whose TIDs lead downwards.

use super::opaque::Opaque;
use crate::error::Misfit;
use crate::heap_tuple::item_pointer;
use crate::index_tuple;
use crate::page_items::{Bounds, Page, add_index_item, delete_index_item, item, put, u16_at, u32_at};
use quire_types::Reader;

/// `SGDTSIZE`: no tuple of a leaf page is shorter, so that it can become a dead one.
pub(super) const DEAD_TUPLE_BYTES: usize = 16;
/// `SGITHDRSZ`.
const INNER_HEADER_BYTES: usize = 8;

const STATE_MASK: u32 = 0x3;
const SIZE_SHIFT: u32 = 2;
const CHAIN_AT: usize = 4;
const CHAIN_MASK: u16 = 0x3FFF;

/// What a tuple is (`tupstate`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    /// `SPGIST_LIVE`.
    Live = 0,
    /// `SPGIST_REDIRECT`.
    Redirect = 1,
    /// `SPGIST_DEAD`.
    Dead = 2,
    /// `SPGIST_PLACEHOLDER`.
    Placeholder = 3,
}

/// The state of the tuple with this offset number, which may be of any kind.
pub(super) fn state(page: &Page, offset: u16) -> Result<State, Misfit> {
    let range = item(page, offset)?;
    let word: [u8; 4] = Reader::new(&page[range]).array("tuple's header")?;
    Ok(match u32::from_le_bytes(word) & STATE_MASK {
        0 => State::Live,
        1 => State::Redirect,
        2 => State::Dead,
        _ => State::Placeholder,
    })
}

/// The first word of a leaf or dead tuple.
pub(super) fn leaf_word(state: State, size: usize) -> u32 {
    (size as u32) << SIZE_SHIFT | state as u32
}

/// Takes a leaf tuple, which is not aligned in a record.
pub(super) fn take_leaf<'a>(data: &mut Reader<'a>) -> Result<&'a [u8], Misfit> {
    let size = data.clone().u32("leaf tuple's size")? >> SIZE_SHIFT;
    take(data, size as usize, DEAD_TUPLE_BYTES)
}

/// Takes an inner tuple, which is not aligned in a record.
pub(super) fn take_inner<'a>(data: &mut Reader<'a>) -> Result<&'a [u8], Misfit> {
    let mut header = data.clone();
    header.u32("inner tuple's header")?;
    let size = header.u16("inner tuple's size")?;
    take(data, size.into(), INNER_HEADER_BYTES)
}

fn take<'a>(data: &mut Reader<'a>, size: usize, size_min: usize) -> Result<&'a [u8], Misfit> {
    if size < size_min || !size.is_multiple_of(8) {
        return Err(Misfit::Value { field: "tuple's size", value: size as u64 });
    }
    Ok(data.bytes("tuple", size)?)
}

/// `SGLT_SET_NEXTOFFSET`: what follows this leaf tuple in its chain.
pub(super) fn set_next_in_chain(page: &mut Page, offset: u16, next: u16) -> Result<(), Misfit> {
    let leaf = item(page, offset)?;
    let leaf = &mut page[leaf];
    if leaf.len() < DEAD_TUPLE_BYTES {
        return Err(Misfit::ItemState(offset));
    }
    let info = u16_at(leaf, CHAIN_AT) & !CHAIN_MASK | next & CHAIN_MASK;
    put(leaf, CHAIN_AT, &info.to_le_bytes());
    Ok(())
}

/// A place of a tuple within the index.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The block.
    pub block: u32,
    /// The offset number on its page.
    pub offset: u16,
}

/// A downlink: a node of an inner tuple.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    /// The inner tuple's offset number.
    pub offset: u16,
    /// The node's number within it.
    pub number: u16,
}

impl Node {
    /// Reads it as all records have it.
    pub fn read(main: &mut Reader<'_>) -> Result<Node, Misfit> {
        Ok(Node { offset: main.u16("parent's offset")?, number: main.u16("node's number")? })
    }

    /// `spgUpdateNodeLink`: makes it lead there.
    pub fn link(self, page: &mut Page, target: Place) -> Result<(), Misfit> {
        let inner = item(page, self.offset)?;
        let inner = &mut page[inner];
        let at = self.find(inner)?;
        put(inner, at, &item_pointer(target.block, target.offset));
        Ok(())
    }

    /// Where it is in its inner tuple. Nodes differ in size, so they are walked.
    fn find(self, inner: &[u8]) -> Result<usize, Misfit> {
        if inner.len() < INNER_HEADER_BYTES {
            return Err(Misfit::ItemState(self.offset));
        }
        let header = u32_at(inner, 0);
        let (nodes, prefix_bytes) = (header >> 3 & 0x1FFF, header >> 16);
        let mut at = INNER_HEADER_BYTES + prefix_bytes as usize;
        if u32::from(self.number) >= nodes {
            return Err(Misfit::Value { field: "node's number", value: self.number.into() });
        }
        for _ in 0..self.number {
            at += index_tuple::size(inner.get(at..).unwrap_or_default())?;
        }
        index_tuple::size(inner.get(at..).unwrap_or_default())?;
        Ok(at)
    }
}

/// `addOrReplaceTuple`: puts a tuple after the last one, or in a placeholder's stead.
pub(super) fn add_or_replace(page: &mut Page, offset: u16, tuple: &[u8]) -> Result<(), Misfit> {
    if usize::from(offset) <= Bounds::of(page)?.item_count() {
        if state(page, offset)? != State::Placeholder {
            return Err(Misfit::ItemState(offset));
        }
        let mut opaque = Opaque::of(page)?;
        opaque.add_placeholders(-1)?;
        opaque.write(page)?;
        delete_index_item(page, offset)?;
    }
    add_index_item(page, offset, tuple)
}

/// Puts a tuple in another's stead, whatever that is.
pub(super) fn replace(page: &mut Page, offset: u16, tuple: &[u8]) -> Result<(), Misfit> {
    delete_index_item(page, offset)?;
    add_index_item(page, offset, tuple)
}
