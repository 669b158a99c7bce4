//! Compressed posting lists: ascending heap TIDs, the first one as it is, of each other one the difference to the one
//! before. Source: `ginpostinglist.c`.
//!
//! A TID counts as the number `block << 11 | offset`. A difference is written seven bits to a byte, the lowest first,
//! with the top bit set in all bytes but the last.

use crate::error::Misfit;
use crate::heap_tuple::{item_pointer, item_pointer_block};
use crate::page_items::u16_at;

/// `sizeof(ItemPointerData)`.
pub(super) const TID_BYTES: usize = 6;
/// The first TID and the number of bytes that follow (`offsetof(GinPostingList, bytes)`).
const HEADER_BYTES: usize = TID_BYTES + 2;
/// `MaxHeapTuplesPerPageBits`.
const OFFSET_BITS: u32 = 11;
/// `MaxBytesPerInteger`.
const DIFFERENCE_BYTES_MAX: u32 = 7;
const CONTINUED: u8 = 0x80;

/// A posting list in place.
#[derive(Clone, Copy, Debug)]
pub(super) struct PostingList<'a> {
    /// All of it, with a byte of padding if the differences have an odd number of bytes (`SizeOfGinPostingList`).
    pub bytes: &'a [u8],
    differences: &'a [u8],
}

impl<'a> PostingList<'a> {
    /// Splits off the list that starts `data`.
    pub fn split_first(data: &'a [u8]) -> Result<(PostingList<'a>, &'a [u8]), Misfit> {
        let too_long = Misfit::Value { field: "posting list's length", value: data.len() as u64 };
        let header = data.get(..HEADER_BYTES).ok_or(too_long)?;
        let length = u16_at(header, TID_BYTES);
        let too_long = Misfit::Value { field: "posting list's length", value: length.into() };
        let end = HEADER_BYTES + usize::from(length).next_multiple_of(2);
        let (bytes, rest) = data.split_at_checked(end).ok_or(too_long)?;
        Ok((PostingList { bytes, differences: &bytes[HEADER_BYTES..HEADER_BYTES + usize::from(length)] }, rest))
    }

    /// `ginPostingListDecode`: the TIDs' numbers.
    pub fn tids(self) -> Result<Vec<u64>, Misfit> {
        let mut tid = number(&self.bytes[..TID_BYTES])?;
        let mut tids = Vec::with_capacity(1 + self.differences.len());
        tids.push(tid);
        let mut left = self.differences;
        while !left.is_empty() {
            tid += next_difference(&mut left)?;
            check_block(tid)?;
            tids.push(tid);
        }
        Ok(tids)
    }

    /// The list with more TIDs, which are one after the other (`ginMergeItemPointers`, `ginCompressPostingList`).
    pub fn with(self, more: &[u8]) -> Result<Vec<u8>, Misfit> {
        let mut tids = self.tids()?;
        for tid in more.chunks_exact(TID_BYTES) {
            tids.push(number(tid)?);
        }
        // Two ascending runs, which sorting merges.
        tids.sort();
        tids.dedup();
        encode(&tids)
    }
}

/// `ginCompressPostingList` for all of `tids`, which ascend.
pub(super) fn encode(tids: &[u64]) -> Result<Vec<u8>, Misfit> {
    let Some((first, rest)) = tids.split_first() else { return Ok(vec![]) };
    let mut list = Vec::with_capacity(HEADER_BYTES + 2 * tids.len());
    list.extend_from_slice(&item_pointer(block(*first)?, offset(*first)));
    list.extend_from_slice(&[0; 2]);
    let mut previous = *first;
    for tid in rest {
        let difference = tid.checked_sub(previous).filter(|difference| *difference > 0);
        push_difference(&mut list, difference.ok_or(Misfit::Value { field: "heap TID", value: *tid })?);
        previous = *tid;
    }
    let length = list.len() - HEADER_BYTES;
    let stored = u16::try_from(length).map_err(|_| Misfit::NoRoom(length))?;
    list[TID_BYTES..HEADER_BYTES].copy_from_slice(&stored.to_le_bytes());
    list.resize(list.len().next_multiple_of(2), 0);
    Ok(list)
}

/// The numbers of TIDs that are one after the other.
pub(super) fn numbers(tids: &[u8]) -> Result<Vec<u64>, Misfit> {
    tids.chunks_exact(TID_BYTES).map(number).collect()
}

/// `itemptr_to_uint64`.
fn number(tid: &[u8]) -> Result<u64, Misfit> {
    let offset = u16_at(tid, 4);
    if offset >> OFFSET_BITS != 0 {
        return Err(Misfit::Value { field: "heap TID's offset number", value: offset.into() });
    }
    Ok(u64::from(item_pointer_block(tid, 0)) << OFFSET_BITS | u64::from(offset))
}

fn block(tid: u64) -> Result<u32, Misfit> {
    u32::try_from(tid >> OFFSET_BITS).map_err(|_| Misfit::Value { field: "heap TID", value: tid })
}

fn check_block(tid: u64) -> Result<(), Misfit> {
    block(tid).map(drop)
}

fn offset(tid: u64) -> u16 {
    (tid & ((1 << OFFSET_BITS) - 1)) as u16
}

/// `decode_varbyte`.
fn next_difference(left: &mut &[u8]) -> Result<u64, Misfit> {
    let mut difference = 0;
    for number in 0..DIFFERENCE_BYTES_MAX {
        let Some((byte, rest)) = left.split_first() else { break };
        *left = rest;
        difference |= u64::from(byte & !CONTINUED) << (7 * number);
        if byte & CONTINUED == 0 {
            return Ok(difference);
        }
    }
    Err(Misfit::Value { field: "difference of heap TIDs", value: difference })
}

/// `encode_varbyte`.
fn push_difference(list: &mut Vec<u8>, mut difference: u64) {
    while difference >= u64::from(CONTINUED) {
        list.push(difference as u8 | CONTINUED);
        difference >>= 7;
    }
    list.push(difference as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tid(block: u32, offset: u16) -> u64 {
        u64::from(block) << OFFSET_BITS | u64::from(offset)
    }

    #[test]
    fn a_list_is_laid_out_as_postgresql_does() {
        let list = encode(&[tid(0x1_0002, 3), tid(0x1_0002, 5), tid(0x1_0003, 5), tid(0x1_0003, 6)]).unwrap();
        assert_eq!(list, [1, 0, 2, 0, 3, 0, 4, 0, 2, 0x80, 0x10, 1]);
        assert_eq!(encode(&[tid(7, 1), tid(7, 2)]).unwrap(), [0, 0, 7, 0, 1, 0, 1, 0, 1, 0], "padded");
    }

    #[test]
    fn tids_that_do_not_ascend_and_lists_that_end_early_are_refused() {
        assert!(encode(&[tid(7, 2), tid(7, 1)]).is_err() && encode(&[tid(7, 1), tid(7, 1)]).is_err());
        let decode = |bytes: &[u8]| PostingList::split_first(bytes).and_then(|(list, _)| list.tids());
        assert_eq!(decode(&[0, 0, 7, 0, 1, 0, 2, 0, 0x81, 1]), Ok(vec![tid(7, 1), tid(7, 1) + 129]));
        for invalid in [&[0, 0, 7, 0, 1, 0, 2, 0, 1][..], &[0, 0, 7, 0, 1, 0, 1, 0, 0x81, 1], &[0; 7]] {
            assert!(decode(invalid).is_err(), "{invalid:?}");
        }
        let too_long = [&[0, 0, 7, 0, 1, 0, 8, 0][..], &[0x81; 7], &[1]].concat();
        assert!(decode(&too_long).is_err());
        let past_the_last_block = [&[0xFF; 4][..], &[1, 0, 2, 0, 0x80, 0x10]].concat();
        assert!(decode(&past_the_last_block).is_err());
    }

    fn any_tids() -> impl Strategy<Value = Vec<u64>> {
        let any_tid = prop_oneof![0u64..5000, 0..(1u64 << 43)];
        proptest::collection::btree_set(any_tid, 1..80).prop_map(|tids| tids.into_iter().collect())
    }

    proptest! {
        #[test]
        fn encoding_round_trips(tids in any_tids()) {
            let bytes = encode(&tids).unwrap();
            let followed = [&bytes[..], b"next"].concat();
            let (list, rest) = PostingList::split_first(&followed).unwrap();
            prop_assert_eq!(rest, b"next");
            prop_assert_eq!(list.bytes, &bytes[..]);
            prop_assert_eq!(list.tids().unwrap(), tids);
        }

        #[test]
        fn more_tids_are_merged_into_the_list(old in any_tids(), more in any_tids()) {
            let raw: Vec<u8> = more.iter().flat_map(|tid| item_pointer(block(*tid).unwrap(), offset(*tid))).collect();
            let bytes = encode(&old).unwrap();
            let merged = PostingList::split_first(&bytes).unwrap().0.with(&raw).unwrap();
            let mut all = [old, more].concat();
            all.sort();
            all.dedup();
            prop_assert_eq!(merged, encode(&all).unwrap());
        }
    }
}
