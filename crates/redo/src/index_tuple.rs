//! The header of an index tuple: a TID, and the tuple's size together with some flags. Source: `itup.h`.

use crate::error::Misfit;
use crate::page_items::{align, u16_at};

/// `sizeof(IndexTupleData)`.
pub(crate) const HEADER_BYTES: usize = 8;

/// Where the size and the flags are (`t_info`).
pub(crate) const INFO_AT: usize = 6;
/// Which bits of them are the size.
pub(crate) const SIZE_MASK: u16 = 0x1FFF;

fn invalid(field: &'static str, value: usize) -> Misfit {
    Misfit::Value { field, value: value as u64 }
}

/// `IndexTupleSize` of the tuple that starts here, checked against what is there.
pub(crate) fn size(tuple: &[u8]) -> Result<usize, Misfit> {
    if tuple.len() < HEADER_BYTES {
        return Err(invalid("index tuple's length", tuple.len()));
    }
    let size = usize::from(u16_at(tuple, INFO_AT) & SIZE_MASK);
    if size < HEADER_BYTES || size > tuple.len() {
        return Err(invalid("index tuple's size", size));
    }
    Ok(size)
}

/// Splits off the tuple that starts `data`, its padding included.
pub(crate) fn split_first(data: &[u8]) -> Result<(&[u8], &[u8]), Misfit> {
    let size = align(size(data)?);
    data.split_at_checked(size).ok_or(invalid("index tuple's size", size))
}
