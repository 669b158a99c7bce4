//! What records do to pages that they do not reference: the visibility map, and the SLRU areas, whose pages have
//! neither header nor LSN.

use crate::delta::Delta;
use crate::error::Effect;
use crate::page_items::Page;
use crate::{clog, commit_ts, multixact, visibility_map};
use quire_types::{Fork, Key, Slru};

/// Changes the page of `key`, or says what does not belong there. A record changes nothing here.
pub(crate) fn apply(page: &mut Page, key: Key, delta: &Delta) -> Result<(), Effect> {
    match delta {
        Delta::Record(..) | Delta::RecordOf(..) => {}
        Delta::VisibilityCleared { heap_blocks, bits } => {
            check_visibility(key, heap_blocks.iter().copied())?;
            heap_blocks.iter().for_each(|heap_block| visibility_map::clear(page, *heap_block, *bits));
        }
        Delta::VisibilityTruncated { heap_blocks } => {
            check_visibility(key, [*heap_blocks])?;
            visibility_map::truncate(page, *heap_blocks);
        }
        Delta::ClogStatus { status, xids } => {
            check_slru(key, Slru::Clog, xids.iter().map(|xid| clog::page_of(*xid)))?;
            xids.iter().for_each(|xid| clog::set_status(page, *xid, *status));
        }
        Delta::MultixactOffset { entries } => {
            let pages = entries.iter().map(|(multixact, _)| multixact::offset_page_of(*multixact));
            check_slru(key, Slru::MultixactOffsets, pages)?;
            entries.iter().for_each(|(multixact, offset)| multixact::set_offset(page, *multixact, *offset));
        }
        Delta::MultixactMembers { first, members } => {
            let numbered = || (0..).map(|number| first.wrapping_add(number)).zip(members);
            check_slru(key, Slru::MultixactMembers, numbered().map(|(offset, _)| multixact::member_page_of(offset)))?;
            numbered().for_each(|(offset, member)| multixact::set_member(page, offset, *member));
        }
        Delta::CommitTs { time, origin, xids } => {
            check_slru(key, Slru::CommitTs, xids.iter().map(|xid| commit_ts::page_of(*xid)))?;
            xids.iter().for_each(|xid| commit_ts::set_timestamp(page, *xid, *time, *origin));
        }
    }
    Ok(())
}

/// All these heap blocks have their bits on the page of `key`.
fn check_visibility(key: Key, heap_blocks: impl IntoIterator<Item = u32>) -> Result<(), Effect> {
    let is_right = |map_block: u32| match key {
        Key::RelBlock { rel, block } => rel.fork == Fork::VisibilityMap && block == map_block,
        _ => false,
    };
    if heap_blocks.into_iter().map(visibility_map::map_block).all(is_right) { Ok(()) } else { Err(Effect::Visibility) }
}

/// All these pages of the area are the page of `key`.
fn check_slru(key: Key, slru: Slru, mut pages: impl Iterator<Item = u32>) -> Result<(), Effect> {
    if pages.all(|page| key == Key::SlruBlock { slru, page }) { Ok(()) } else { Err(Effect::Slru(slru)) }
}
