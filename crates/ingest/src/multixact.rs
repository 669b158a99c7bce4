//! Multixacts created and forgotten.

use crate::changes::Batch;
use crate::error::IngestError;
use crate::slru;
use crate::state::IngestState;
use quire_redo::multixact::{MEMBERS_PER_PAGE, member_page_of, offset_page_of};
use quire_redo::{Delta, MultixactMember};
use quire_types::{SLRU_SEGMENT_PAGES, Slru};
use quire_wal::effects::multixact::{self, Member, MultixactEffect};

/// A record of the multixact manager.
pub(crate) fn apply(state: &mut IngestState, batch: &mut Batch<'_>) -> Result<(), IngestError> {
    let record = batch.record;
    match multixact::parse(record.info, &record.main_data).map_err(|source| batch.malformed(source))? {
        MultixactEffect::ZeroOffsetsPage(page) => zero_offsets_page(state, batch, page),
        MultixactEffect::ZeroMembersPage(page) => slru::zero_page(batch, Slru::MultixactMembers, page),
        MultixactEffect::Create { multi, offset, members } => create(state, batch, multi, offset, &members),
        MultixactEffect::Truncate { oldest_multi_db, end_multi, start_member, end_member } => {
            state.counters.set_oldest_multi(end_multi, oldest_multi_db);
            remove_members(batch, start_member, end_member)?;
            let latest = offset_page_of(state.counters.checkpoint.next_multi);
            // One multixact back, because the page of the oldest one need not exist if it is not assigned yet.
            let kept = if end_multi == 1 { u32::MAX } else { end_multi.wrapping_sub(1) };
            slru::truncate(batch, Slru::MultixactOffsets, latest, offset_page_of(kept))
        }
    }
}

/// Servers before 15.15 log the page after the multixact that already needed it; zeroing it then would lose an entry.
fn zero_offsets_page(state: &mut IngestState, batch: &mut Batch<'_>, page: u32) -> Result<(), IngestError> {
    if state.early_offsets_page.take() == Some(page) {
        Ok(())
    } else {
        slru::zero_page(batch, Slru::MultixactOffsets, page)
    }
}

fn create(
    state: &mut IngestState,
    batch: &mut Batch<'_>,
    multi: u32,
    offset: u32,
    members: &[Member],
) -> Result<(), IngestError> {
    let count = u32::try_from(members.len()).expect("a record's members number less than its bytes");
    let end = offset.wrapping_add(count);
    set_offsets(state, batch, [(multi, offset), (multi.wrapping_add(1).max(1), end.max(1))])?;
    set_members(batch, offset, members)?;
    state.counters.advance_multi(multi.wrapping_add(1), end);
    members.iter().for_each(|member| state.counters.advance_past(member.xid));
    Ok(())
}

/// The entry of the new multixact, and that of the next one, which says where the new one's members end. Neither the
/// multixact 0 nor the offset 0 is used.
fn set_offsets(state: &mut IngestState, batch: &mut Batch<'_>, entries: [(u32, u32); 2]) -> Result<(), IngestError> {
    let [page, next_page] = entries.map(|(multi, _)| offset_page_of(multi));
    let set = |entries: &[(u32, u32)]| Delta::MultixactOffset { entries: entries.to_vec() };
    state.early_offsets_page = None;
    if page == next_page {
        return batch.change_slru(Slru::MultixactOffsets, page, set(&entries)).map(drop);
    }
    batch.change_slru(Slru::MultixactOffsets, page, set(&entries[..1]))?;
    if batch.change_slru(Slru::MultixactOffsets, next_page, set(&entries[1..]))? {
        state.early_offsets_page = Some(next_page);
    }
    Ok(())
}

fn set_members(batch: &mut Batch<'_>, offset: u32, members: &[Member]) -> Result<(), IngestError> {
    let (mut first, mut left) = (offset, members);
    while !left.is_empty() {
        let room = MEMBERS_PER_PAGE - first % MEMBERS_PER_PAGE;
        // The last page before the offsets wrap around is not full.
        let room = room.min((u32::MAX - first).saturating_add(1)).max(1);
        let (here, rest) = left.split_at(left.len().min(room as usize));
        let members = here.iter().map(|member| MultixactMember { xid: member.xid, status: member.status }).collect();
        let delta = Delta::MultixactMembers { first, members };
        batch.change_slru(Slru::MultixactMembers, member_page_of(first), delta)?;
        first = first.wrapping_add(room);
        left = rest;
    }
    Ok(())
}

/// Removes the segments from that of the first member to forget up to, not including, that of the first to keep
/// (`PerformMembersTruncation`); the numbers may wrap around between.
fn remove_members(batch: &mut Batch<'_>, start: u32, end: u32) -> Result<(), IngestError> {
    let segment = |member: u32| member_page_of(member) / SLRU_SEGMENT_PAGES;
    let (start, end) = (segment(start), segment(end));
    slru::remove_segments(batch, Slru::MultixactMembers, |segment| {
        if start <= end { (start..end).contains(&segment) } else { segment >= start || segment < end }
    })
}
