//! The counters that a checkpoint at the end of the log would record.
//!
//! In memory they are exact. As a version of `Key::Checkpoint`, which has to be written when they change, the next
//! transaction id is rounded up ([`Counters::rounded`]): a compute that starts from such a version skips some ids,
//! which does no harm. Multixact and object id counters are written as they are.

use quire_types::{CodecError, Lsn};
use quire_wal::CheckpointState;

/// The next transaction id is written rounded up to a multiple of this, so once for as many transactions.
pub(crate) const XID_GRANULARITY: u64 = 1024;

/// Transaction ids below this one are special and always in the past (`FirstNormalTransactionId`).
const FIRST_NORMAL_XID: u32 = 3;

/// The counters as of the last record, and the settings that go with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Counters {
    /// What a checkpoint would say.
    pub(crate) checkpoint: CheckpointState,
}

impl Counters {
    /// The low half of the next transaction id.
    pub(crate) fn next_xid32(&self) -> u32 {
        low_half(self.checkpoint.next_xid)
    }

    /// Moves the next transaction id past one that was seen, into the next epoch if the ids have wrapped around
    /// (`AdvanceNextFullTransactionIdPastXid`).
    pub(crate) fn advance_past(&mut self, xid: u32) {
        let next = self.next_xid32();
        if xid < FIRST_NORMAL_XID || precedes(xid, next) {
            return;
        }
        let advanced = xid.wrapping_add(1).max(FIRST_NORMAL_XID);
        let epoch = (self.checkpoint.next_xid >> 32) + u64::from(advanced < next);
        // A log that claims to be in the last epoch stays in it: nothing can come after.
        self.checkpoint.next_xid = epoch.min(u32::MAX.into()) << 32 | u64::from(advanced);
    }

    /// Moves the multixact counters forward (`MultiXactAdvanceNextMXact`).
    pub(crate) fn advance_multi(&mut self, next_multi: u32, next_offset: u32) {
        let known = &mut self.checkpoint;
        if is_before(known.next_multi, next_multi) {
            known.next_multi = next_multi;
        }
        if is_before(known.next_multi_offset, next_offset) {
            known.next_multi_offset = next_offset;
        }
    }

    /// Moves the oldest transaction id of the cluster forward.
    pub(crate) fn raise_oldest_xid(&mut self, oldest_xid: u32, database: u32) {
        if precedes(self.checkpoint.oldest_xid, oldest_xid) {
            self.checkpoint.oldest_xid = oldest_xid;
            self.checkpoint.oldest_xid_db = database;
        }
    }

    /// Sets the oldest multixact of the cluster.
    pub(crate) fn set_oldest_multi(&mut self, oldest_multi: u32, database: u32) {
        self.checkpoint.oldest_multi = oldest_multi;
        self.checkpoint.oldest_multi_db = database;
    }

    fn raise_oldest_multi(&mut self, seen: &CheckpointState) {
        if is_before(self.checkpoint.oldest_multi, seen.oldest_multi) {
            self.set_oldest_multi(seen.oldest_multi, seen.oldest_multi_db);
        }
    }

    /// Takes over a shutdown checkpoint: nothing was running, so its counters are exact.
    pub(crate) fn take_from(&mut self, data: &[u8]) -> Result<(), CodecError> {
        self.checkpoint.update_from_record_data(data)?;
        self.checkpoint.oldest_active_xid = 0;
        Ok(())
    }

    /// Takes over an online checkpoint, whose counters are from its start and may have been passed since. Object ids
    /// are not taken at all: their own records are newer.
    pub(crate) fn raise(&mut self, data: &[u8]) -> Result<(), CodecError> {
        let seen = CheckpointState::from_record_data(data)?;
        self.checkpoint.next_xid = self.checkpoint.next_xid.max(seen.next_xid);
        self.advance_multi(seen.next_multi, seen.next_multi_offset);
        self.raise_oldest_multi(&seen);
        self.raise_oldest_xid(seen.oldest_xid, seen.oldest_xid_db);
        let known = &mut self.checkpoint;
        (known.redo, known.time) = (seen.redo, seen.time);
        (known.this_timeline, known.prev_timeline) = (seen.this_timeline, seen.prev_timeline);
        known.full_page_writes = seen.full_page_writes;
        Ok(())
    }

    /// What is written as a version of `Key::Checkpoint`. The newest transaction with a commit timestamp changes with
    /// every commit, too, and becomes the one before the next.
    pub(crate) fn rounded(&self) -> CheckpointState {
        let mut rounded = self.checkpoint;
        rounded.next_xid = rounded.next_xid.checked_next_multiple_of(XID_GRANULARITY).unwrap_or(u64::MAX);
        if low_half(rounded.next_xid) < FIRST_NORMAL_XID {
            rounded.next_xid |= u64::from(FIRST_NORMAL_XID);
        }
        if rounded.newest_commit_ts_xid != 0 {
            rounded.newest_commit_ts_xid = retreat(low_half(rounded.next_xid));
        }
        rounded.redo = Lsn::INVALID;
        rounded
    }
}

fn low_half(xid: u64) -> u32 {
    u32::try_from(xid & u64::from(u32::MAX)).expect("half of 64 bits")
}

/// Whether one transaction id is before another; normal ones are compared modulo 2^32 (`TransactionIdPrecedes`).
pub(crate) fn precedes(xid: u32, other: u32) -> bool {
    if xid < FIRST_NORMAL_XID || other < FIRST_NORMAL_XID { xid < other } else { is_before(xid, other) }
}

/// Whether one number is before another modulo 2^32 (`MultiXactIdPrecedes`).
pub(crate) fn is_before(number: u32, other: u32) -> bool {
    number.wrapping_sub(other).cast_signed() < 0
}

/// The transaction id before one (`TransactionIdRetreat`).
pub(crate) fn retreat(xid: u32) -> u32 {
    match xid.wrapping_sub(1) {
        before if before < FIRST_NORMAL_XID => u32::MAX,
        before => before,
    }
}

/// A transaction and its subtransactions.
pub(crate) fn xids_of(xid: u32, subxacts: &[u32]) -> impl Iterator<Item = u32> {
    std::iter::once(xid).chain(subxacts.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(next_xid: u64) -> Counters {
        Counters { checkpoint: CheckpointState { next_xid, ..CheckpointState::default() } }
    }

    #[test]
    fn the_next_transaction_only_goes_forward() {
        let mut counters = at(1000);
        for xid in [999, 0, 1, 2, 1000u32.wrapping_sub(1 << 30)] {
            counters.advance_past(xid);
            assert_eq!(counters.checkpoint.next_xid, 1000, "{xid}");
        }
        counters.advance_past(1000);
        assert_eq!(counters.checkpoint.next_xid, 1001);
    }

    #[test]
    fn the_epoch_rises_when_ids_wrap_around() {
        let mut counters = at(7 << 32 | 0xFFFF_FFF0);
        counters.advance_past(5);
        assert_eq!(counters.checkpoint.next_xid, 8 << 32 | 6);
        let mut counters = at(7 << 32 | 0xFFFF_FFF0);
        counters.advance_past(u32::MAX);
        assert_eq!(counters.checkpoint.next_xid, 8 << 32 | 3);
    }

    #[test]
    fn the_last_transaction_of_all_is_not_counted_past() {
        let mut counters = at(u64::MAX);
        assert_eq!(counters.rounded().next_xid, u64::MAX);
        counters.advance_past(u32::MAX);
        assert_eq!(counters.checkpoint.next_xid >> 32, u64::from(u32::MAX));
    }

    #[test]
    fn the_written_state_changes_once_in_a_thousand_transactions() {
        assert_eq!(at(1).rounded(), at(1024).rounded());
        assert_ne!(at(1024).rounded(), at(1025).rounded());
        assert_eq!(at(0xFFFF_FFFF).rounded().next_xid, 1 << 32 | 3);
    }

    #[test]
    fn an_online_checkpoint_does_not_set_counters_back() {
        let mut counters = at(5000);
        counters.checkpoint.next_oid = 24_576;
        let old = CheckpointState { next_xid: 4000, next_oid: 16_384, next_multi: 9, ..CheckpointState::default() };
        counters.raise(&old.to_record_data()).unwrap();
        assert_eq!((counters.checkpoint.next_xid, counters.checkpoint.next_oid), (5000, 24_576));
        assert_eq!(counters.checkpoint.next_multi, 9);
        counters.take_from(&old.to_record_data()).unwrap();
        assert_eq!((counters.checkpoint.next_xid, counters.checkpoint.next_oid), (4000, 16_384));
    }
}
