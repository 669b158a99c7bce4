//! Heap records that clear bits in the visibility map, which they do not name as a block.
//! Source: `heapam_xlog.h`, `heapam.c` (`heap_xlog_insert`, `_multi_insert`, `_delete`, `_update`, `_lock`,
//! `_lock_updated`).

use crate::record::Record;
use crate::rmgr::*;
use quire_types::RelTag;

/// Both bits of a heap block in the visibility map.
pub const VISIBILITY_ALL_BITS: u8 = 0x03;
/// The bit that says every row is frozen.
pub const VISIBILITY_ALL_FROZEN: u8 = 0x02;

/// Where the flags are in the data of an update, a delete and a lock; of an insertion; and of one of several rows.
const FLAGS_AFTER_XID: usize = 7;
const FLAGS_OF_INSERT: usize = 2;
const FLAGS_OF_MULTI_INSERT: usize = 0;

/// Bits to clear in the visibility map for one heap block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VisibilityCleared {
    /// The heap's main fork.
    pub rel: RelTag,
    /// The heap block.
    pub block: u32,
    /// Which bits: [`VISIBILITY_ALL_BITS`] or [`VISIBILITY_ALL_FROZEN`].
    pub bits: u8,
}

/// Whether a record with this `xl_rmid`, `xl_info` and main data may clear anything. Few records do, and this is soon
/// answered.
#[inline]
fn may_clear_visibility(rmgr: u8, info: u8, main_data: &[u8]) -> bool {
    let (flags_offset, bits) = match (rmgr, info & XLOG_HEAP_OPMASK) {
        (HEAP, XLOG_HEAP_INSERT) => (FLAGS_OF_INSERT, XLH_INSERT_ALL_VISIBLE_CLEARED),
        (HEAP2, XLOG_HEAP2_MULTI_INSERT) => (FLAGS_OF_MULTI_INSERT, XLH_INSERT_ALL_VISIBLE_CLEARED),
        (HEAP, XLOG_HEAP_DELETE) => (FLAGS_AFTER_XID, XLH_DELETE_ALL_VISIBLE_CLEARED),
        (HEAP, XLOG_HEAP_UPDATE | XLOG_HEAP_HOT_UPDATE) => {
            (FLAGS_AFTER_XID, XLH_UPDATE_OLD_ALL_VISIBLE_CLEARED | XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED)
        }
        (HEAP, XLOG_HEAP_LOCK) | (HEAP2, XLOG_HEAP2_LOCK_UPDATED) => (FLAGS_AFTER_XID, XLH_LOCK_ALL_FROZEN_CLEARED),
        _ => return false,
    };
    main_data.get(flags_offset).is_some_and(|flags| flags & bits != 0)
}

/// What a record clears: nothing, one heap block's bits, or two's.
///
/// A record too short to hold its flags clears nothing here: redo of its pages refuses it.
pub fn visibility_cleared(record: &Record) -> impl Iterator<Item = VisibilityCleared> {
    let block = |id| record.block(id).map(|block| (block.rel, block.block));
    visibility_cleared_by(record.rmgr, record.info, &record.main_data, block)
}

/// The same for a record that is not decoded: its `xl_rmid`, `xl_info`, main data, and the page that a block id stands
/// for.
#[inline]
pub fn visibility_cleared_by(
    rmgr: u8,
    info: u8,
    main_data: &[u8],
    block: impl Fn(u8) -> Option<(RelTag, u32)>,
) -> impl Iterator<Item = VisibilityCleared> {
    let of_block = |id, bits| block(id).map(|(rel, block)| VisibilityCleared { rel, block, bits });
    let [first, second] = match (rmgr, info & XLOG_HEAP_OPMASK) {
        _ if !may_clear_visibility(rmgr, info, main_data) => [None, None],
        (HEAP, XLOG_HEAP_UPDATE | XLOG_HEAP_HOT_UPDATE) => {
            // The new row is in block 0; the old row in block 1 if that is another page.
            let has = |bit| main_data.get(FLAGS_AFTER_XID).is_some_and(|flags| flags & bit != 0);
            let page = |id, bit| has(bit).then(|| of_block(id, VISIBILITY_ALL_BITS))?;
            let old_id = u8::from(block(1).is_some());
            [page(old_id, XLH_UPDATE_OLD_ALL_VISIBLE_CLEARED), page(0, XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED)]
        }
        (HEAP, XLOG_HEAP_LOCK) | (HEAP2, XLOG_HEAP2_LOCK_UPDATED) => [of_block(0, VISIBILITY_ALL_FROZEN), None],
        _ => [of_block(0, VISIBILITY_ALL_BITS), None],
    };
    first.into_iter().chain(second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Block;
    use bytes::Bytes;
    use quire_types::{Fork, Lsn};

    const HEAP_REL: RelTag = RelTag { tablespace: 1663, database: 5, relation: 16384, fork: Fork::Main };

    fn block(id: u8, block: u32) -> Block {
        Block { id, rel: HEAP_REL, block, will_init: false, image: None, data: Bytes::new() }
    }

    fn record(rmgr: u8, info: u8, main_data: &'static [u8], blocks: Vec<Block>) -> Record {
        Record {
            start: Lsn(8),
            end: Lsn(16),
            prev: Lsn(0),
            xid: 700,
            info,
            rmgr,
            origin: None,
            toplevel_xid: None,
            blocks,
            main_data: Bytes::from_static(main_data),
            bytes: Bytes::new(),
            extent: Default::default(),
        }
    }

    fn of(record: &Record) -> Vec<(u32, u8)> {
        visibility_cleared(record).map(|cleared| (cleared.block, cleared.bits)).collect()
    }

    #[test]
    fn an_update_clears_the_pages_of_both_rows() {
        let data = &[0, 0, 0, 0, 1, 0, 0, 1 | 2, 0, 0, 0, 0, 1, 0];
        assert_eq!(of(&record(HEAP, XLOG_HEAP_UPDATE, data, vec![block(0, 9), block(1, 4)])), [(4, 3), (9, 3)]);
        assert_eq!(of(&record(HEAP, XLOG_HEAP_HOT_UPDATE, data, vec![block(0, 9)])), [(9, 3), (9, 3)]);
    }

    #[test]
    fn a_lock_clears_the_frozen_bit_alone() {
        let data = &[0, 0, 0, 0, 1, 0, 0, 1];
        assert_eq!(of(&record(HEAP, XLOG_HEAP_LOCK, data, vec![block(0, 9)])), [(9, 2)]);
        assert_eq!(of(&record(HEAP2, XLOG_HEAP2_LOCK_UPDATED, data, vec![block(0, 9)])), [(9, 2)]);
    }

    #[test]
    fn inserts_and_deletes_clear_when_their_flag_says_so() {
        assert_eq!(of(&record(HEAP, XLOG_HEAP_INIT_PAGE, &[1, 0, 1], vec![block(0, 2)])), [(2, 3)]);
        assert_eq!(of(&record(HEAP, XLOG_HEAP_INSERT, &[1, 0, 0x08], vec![block(0, 2)])), []);
        assert_eq!(of(&record(HEAP2, XLOG_HEAP2_MULTI_INSERT, &[1, 0, 1, 0], vec![block(0, 3)])), [(3, 3)]);
        assert_eq!(of(&record(HEAP, XLOG_HEAP_DELETE, &[0, 0, 0, 0, 1, 0, 0, 1], vec![block(0, 2)])), [(2, 3)]);
    }

    #[test]
    fn a_record_without_its_flags_clears_nothing() {
        assert_eq!(of(&record(HEAP, XLOG_HEAP_DELETE, &[0, 0], vec![block(0, 2)])), []);
    }
}
