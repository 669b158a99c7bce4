//! What tuples leave behind when they go. Source: `spgFormDeadTuple`, `spgPageIndexMultiDelete`.
//!
//! A dead tuple has the header of a leaf tuple; where that has the heap TID, a redirection has the place the tuple went
//! to, and its transaction after it.

use super::opaque::Opaque;
use super::tuple::{DEAD_TUPLE_BYTES, Place, State, leaf_word};
use crate::error::Misfit;
use crate::heap_tuple::item_pointer;
use crate::page_items::{ITEMS_MAX, Page, add_index_item, copy_offsets, delete_index_items, item, put};
use quire_types::Reader;

const POINTER_AT: usize = 6;
const XID_AT: usize = 12;
/// `ItemPointerSetInvalid`.
const NOWHERE: Place = Place { block: u32::MAX, offset: 0 };

/// What records say of the state in which the index was changed (`spgxlogState`).
#[derive(Clone, Copy, Debug)]
pub(super) struct WriterState {
    /// The transaction, which redirections are made with.
    xid: u32,
    /// Whether the index was being built, so that no scan needed redirections.
    is_build: bool,
}

impl WriterState {
    /// Reads it together with the padding after it.
    pub fn read(main: &mut Reader<'_>) -> Result<WriterState, Misfit> {
        let (xid, is_build) = (main.u32("transaction")?, main.u8("index build")? != 0);
        main.bytes("padding", 3)?;
        Ok(WriterState { xid, is_build })
    }

    /// What a tuple that moved to another place leaves behind.
    pub fn trace_of_move(self, to: Place) -> DeadTuple {
        if self.is_build { DeadTuple::Placeholder } else { DeadTuple::Redirection { to, xid: self.xid } }
    }
}

/// A dead tuple in the making.
#[derive(Clone, Copy, Debug)]
pub(super) enum DeadTuple {
    /// It says where the tuple went and in which transaction.
    Redirection {
        /// Where to.
        to: Place,
        /// The transaction.
        xid: u32,
    },
    /// It stays because a downlink leads to it: the last one of a chain.
    Dead,
    /// Nothing leads to it; it keeps an offset number taken until there is a use for that.
    Placeholder,
}

impl DeadTuple {
    /// Its bytes (`spgFormDeadTuple`).
    pub fn bytes(self) -> [u8; DEAD_TUPLE_BYTES] {
        let (state, pointer, xid) = match self {
            DeadTuple::Redirection { to, xid } => (State::Redirect, to, xid),
            DeadTuple::Dead => (State::Dead, NOWHERE, 0),
            DeadTuple::Placeholder => (State::Placeholder, NOWHERE, 0),
        };
        let mut bytes = [0; DEAD_TUPLE_BYTES];
        put(&mut bytes, 0, &leaf_word(state, DEAD_TUPLE_BYTES).to_le_bytes());
        put(&mut bytes, POINTER_AT, &item_pointer(pointer.block, pointer.offset));
        put(&mut bytes, XID_AT, &xid.to_le_bytes());
        bytes
    }

    /// Counts it as one that is on the page now.
    pub fn count(self, opaque: &mut Opaque) -> Result<(), Misfit> {
        match self {
            DeadTuple::Redirection { .. } => opaque.add_redirections(1),
            DeadTuple::Dead => Ok(()),
            DeadTuple::Placeholder => opaque.add_placeholders(1),
        }
    }
}

/// `spgPageIndexMultiDelete`: puts dead tuples in the stead of those listed, `first` for the first one in the list,
/// which is not sorted.
pub(super) fn bury(page: &mut Page, listed: &[u8], first: DeadTuple, rest: DeadTuple) -> Result<(), Misfit> {
    let mut buffer = [0; ITEMS_MAX];
    let offsets = copy_offsets(listed, &mut buffer)?;
    let Some(first_offset) = offsets.first().copied() else { return Ok(()) };
    offsets.sort_unstable();
    delete_index_items(page, offsets)?;
    let mut opaque = Opaque::of(page)?;
    for offset in offsets {
        let tuple = if *offset == first_offset { first } else { rest };
        add_index_item(page, *offset, &tuple.bytes())?;
        tuple.count(&mut opaque)?;
    }
    opaque.write(page)
}

/// Makes a placeholder of the redirection with this offset number; its transaction stays.
pub(super) fn expire_redirection(page: &mut Page, offset: u16) -> Result<(), Misfit> {
    let tuple = item(page, offset)?;
    let tuple = &mut page[tuple];
    if tuple.len() != DEAD_TUPLE_BYTES || tuple[0] & 0x3 != State::Redirect as u8 {
        return Err(Misfit::ItemState(offset));
    }
    tuple[0] |= State::Placeholder as u8;
    put(tuple, POINTER_AT, &item_pointer(NOWHERE.block, NOWHERE.offset));
    Ok(())
}
