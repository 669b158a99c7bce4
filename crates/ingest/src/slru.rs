//! The SLRU areas: which page holds what, and what a truncation removes.

use crate::changes::Batch;
use crate::counters::{is_before, precedes};
use crate::error::IngestError;
use crate::state::IngestState;
use quire_redo::{clog, commit_ts, multixact};
use quire_types::{Key, SLRU_SEGMENT_PAGES, Slru};
use quire_wal::effects::slru::{self, ClogEffect, CommitTsEffect};

/// A record of the commit log.
pub(crate) fn apply_clog(state: &mut IngestState, batch: &mut Batch<'_>) -> Result<(), IngestError> {
    let record = batch.record;
    match slru::parse_clog(record.info, &record.main_data).map_err(|source| batch.malformed(source))? {
        ClogEffect::ZeroPage(page) => zero_page(batch, Slru::Clog, page),
        ClogEffect::Truncate { page, oldest_xid, oldest_xid_db } => {
            state.counters.raise_oldest_xid(oldest_xid, oldest_xid_db);
            let latest = clog::page_of(state.counters.next_xid32());
            truncate(batch, Slru::Clog, latest, page)
        }
    }
}

/// A record of the commit timestamps.
pub(crate) fn apply_commit_ts(state: &mut IngestState, batch: &mut Batch<'_>) -> Result<(), IngestError> {
    let record = batch.record;
    match slru::parse_commit_ts(record.info, &record.main_data).map_err(|source| batch.malformed(source))? {
        CommitTsEffect::ZeroPage(page) => zero_page(batch, Slru::CommitTs, page),
        CommitTsEffect::Truncate { page, oldest_xid } => {
            let known = &mut state.counters.checkpoint.oldest_commit_ts_xid;
            if *known != 0 && precedes(*known, oldest_xid) {
                *known = oldest_xid;
            }
            truncate(batch, Slru::CommitTs, page, page)
        }
    }
}

/// A page is created, or reset, as zeroes.
pub(crate) fn zero_page(batch: &mut Batch<'_>, slru: Slru, page: u32) -> Result<(), IngestError> {
    batch.extend_slru(slru, page)?;
    batch.remove(Key::SlruBlock { slru, page });
    Ok(())
}

/// Removes the segments that are wholly before a page (`SimpleLruTruncate`). If that would include the latest page, the
/// numbers have wrapped around and nothing is removed.
pub(crate) fn truncate(batch: &mut Batch<'_>, slru: Slru, latest: u32, cutoff: u32) -> Result<(), IngestError> {
    if page_precedes(slru, latest, cutoff) {
        return Ok(());
    }
    remove_segments(batch, slru, |segment| {
        let first = segment.saturating_mul(SLRU_SEGMENT_PAGES);
        let last = first.saturating_add(SLRU_SEGMENT_PAGES - 1);
        page_precedes(slru, first, cutoff) && page_precedes(slru, last, cutoff)
    })
}

/// Removes the segments that exist and meet a condition.
pub(crate) fn remove_segments(
    batch: &mut Batch<'_>,
    slru: Slru,
    condition: impl Fn(u32) -> bool,
) -> Result<(), IngestError> {
    let key = |segment| Key::SlruSegment { slru, segment };
    for (key, _) in batch.view.live(key(0), key(u32::MAX))? {
        if matches!(key, Key::SlruSegment { segment, .. } if condition(segment)) {
            batch.remove_sized(key)?;
        }
    }
    Ok(())
}

/// Whether everything on one page is older than everything on another, with numbers that wrap around
/// (`CLOGPagePrecedes` and its siblings).
fn page_precedes(slru: Slru, page: u32, other: u32) -> bool {
    let (per_page, first) = match slru {
        Slru::Clog => (clog::XIDS_PER_PAGE, 4),
        Slru::CommitTs => (commit_ts::XIDS_PER_PAGE, 4),
        Slru::MultixactOffsets => (multixact::OFFSETS_PER_PAGE, 2),
        Slru::MultixactMembers => (multixact::MEMBERS_PER_PAGE, 0),
    };
    let start = |page: u32| page.wrapping_mul(per_page).wrapping_add(first);
    let before = |a: u32, b: u32| match slru {
        Slru::Clog | Slru::CommitTs => precedes(a, b),
        Slru::MultixactOffsets | Slru::MultixactMembers => is_before(a, b),
    };
    let (page, other) = (start(page), start(other));
    before(page, other) && before(page, other.wrapping_add(per_page - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_older_only_if_all_their_transactions_are() {
        for slru in Slru::ALL {
            assert!(page_precedes(slru, 3, 4), "{slru:?}");
            assert!(!page_precedes(slru, 4, 4), "{slru:?}");
            assert!(!page_precedes(slru, 5, 4), "{slru:?}");
        }
    }

    #[test]
    fn the_last_page_before_the_wraparound_is_older_than_the_first_after() {
        let last = u32::MAX / clog::XIDS_PER_PAGE;
        assert!(page_precedes(Slru::Clog, last, 0));
        assert!(!page_precedes(Slru::Clog, 0, last));
    }

    #[test]
    fn half_the_numbers_away_is_not_older() {
        let half = (1 << 31) / clog::XIDS_PER_PAGE;
        assert!(!page_precedes(Slru::Clog, 7, 7 + half));
        assert!(page_precedes(Slru::Clog, 7, 7 + half - 1));
    }
}
