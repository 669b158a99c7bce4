//! Multixacts: where each one's members begin, and the members. Source: `multixact.c`.

use crate::delta::MultixactMember;
use crate::page_items::{Page, put};

/// Multixacts on one page of offsets (`MULTIXACT_OFFSETS_PER_PAGE`).
pub const OFFSETS_PER_PAGE: u32 = 2048;

/// Members come in groups: four status bytes, then four transactions.
const MEMBERS_PER_GROUP: u32 = 4;
const GROUP_BYTES: u32 = 20;
const GROUPS_PER_PAGE: u32 = 409;
/// Members on one page (`MULTIXACT_MEMBERS_PER_PAGE`).
pub const MEMBERS_PER_PAGE: u32 = GROUPS_PER_PAGE * MEMBERS_PER_GROUP;

/// The page that holds a multixact's offset (`MultiXactIdToOffsetPage`).
pub fn offset_page_of(multixact: u32) -> u32 {
    multixact / OFFSETS_PER_PAGE
}

/// The page that holds the member at this offset (`MXOffsetToMemberPage`).
pub fn member_page_of(offset: u32) -> u32 {
    offset / MEMBERS_PER_PAGE
}

/// Says where a multixact's members begin, as `RecordNewMultiXact` does.
pub(crate) fn set_offset(page: &mut Page, multixact: u32, offset: u32) {
    let at = (multixact % OFFSETS_PER_PAGE) as usize * 4;
    put(page, at, &offset.to_le_bytes());
}

/// Stores the member at this offset, as `RecordNewMultiXact` does.
pub(crate) fn set_member(page: &mut Page, offset: u32, member: MultixactMember) {
    let group = (offset / MEMBERS_PER_GROUP % GROUPS_PER_PAGE * GROUP_BYTES) as usize;
    let within = (offset % MEMBERS_PER_GROUP) as usize;
    page[group + within] = member.status;
    put(page, group + 4 + within * 4, &member.xid.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::PAGE_SIZE;

    #[test]
    fn a_member_lies_in_its_group() {
        let mut page = [0; PAGE_SIZE];
        set_member(&mut page, MEMBERS_PER_PAGE + 6, MultixactMember { xid: 0x0403_0201, status: 5 });
        assert_eq!(page[20..24], [0, 0, 5, 0]);
        assert_eq!(page[32..36], [1, 2, 3, 4]);
        assert_eq!(page.iter().filter(|byte| **byte != 0).count(), 5);
    }

    #[test]
    fn the_last_member_of_a_page_fits() {
        let mut page = [0; PAGE_SIZE];
        set_member(&mut page, MEMBERS_PER_PAGE - 1, MultixactMember { xid: u32::MAX, status: 1 });
        set_offset(&mut page, OFFSETS_PER_PAGE - 1, 9);
        assert_eq!((member_page_of(MEMBERS_PER_PAGE - 1), member_page_of(MEMBERS_PER_PAGE)), (0, 1));
        assert_eq!(page[PAGE_SIZE - 4], 9);
    }
}
