//! The header and line pointers of a relation's page. Source: `bufpage.h`, `itemid.h`, `bufpage.c`.
//!
//! Functions over plain bytes, so that a page may be in a cache file, a layer or on the stack. They expect a whole
//! page and panic on a slice shorter than the 24-byte header; everything found *in* the page is checked before it is
//! followed.

use quire_types::{Lsn, PAGE_SIZE};

/// Bytes before the first line pointer (`SizeOfPageHeaderData`).
pub const HEADER_BYTES: usize = 24;
/// Bytes of a line pointer.
pub const ITEM_ID_BYTES: usize = 4;
/// `pd_pagesize_version` of every initialised page: 8192 bytes, layout 4.
pub const PAGE_SIZE_AND_VERSION: u16 = 8192 | 4;

/// `pd_flags`: there may be unused line pointers (a hint).
pub const PD_HAS_FREE_LINES: u16 = 0x0001;
/// `pd_flags`: an update found no room (a hint).
pub const PD_PAGE_FULL: u16 = 0x0002;
/// `pd_flags`: all tuples are visible to everybody.
pub const PD_ALL_VISIBLE: u16 = 0x0004;
/// All bits that may be set in `pd_flags`.
pub const PD_VALID_FLAG_BITS: u16 = 0x0007;

fn u16_at(page: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([page[offset], page[offset + 1]])
}

fn set_u16_at(page: &mut [u8], offset: usize, value: u16) {
    page[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
}

fn u32_at(page: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes([page[offset], page[offset + 1], page[offset + 2], page[offset + 3]])
}

fn set_u32_at(page: &mut [u8], offset: usize, value: u32) {
    page[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
}

/// `pd_lsn`: end of the last record that changed the page. The high half is stored first.
#[inline]
pub fn lsn(page: &[u8]) -> Lsn {
    Lsn(u64::from(u32_at(page, 0)) << 32 | u64::from(u32_at(page, 4)))
}

/// Sets `pd_lsn`.
#[inline]
pub fn set_lsn(page: &mut [u8], lsn: Lsn) {
    let halves = lsn.0.rotate_left(32);
    page[..8].copy_from_slice(&halves.to_le_bytes());
}

/// `pd_checksum`.
pub fn checksum(page: &[u8]) -> u16 {
    u16_at(page, 8)
}

/// Sets `pd_checksum`.
pub fn set_checksum(page: &mut [u8], checksum: u16) {
    set_u16_at(page, 8, checksum);
}

/// `pd_flags`.
#[inline]
pub fn flags(page: &[u8]) -> u16 {
    u16_at(page, 10)
}

/// Sets `pd_flags`.
#[inline]
pub fn set_flags(page: &mut [u8], flags: u16) {
    set_u16_at(page, 10, flags);
}

/// `pd_lower`: where free space starts.
#[inline]
pub fn lower(page: &[u8]) -> u16 {
    u16_at(page, 12)
}

/// Sets `pd_lower`.
#[inline]
pub fn set_lower(page: &mut [u8], lower: u16) {
    set_u16_at(page, 12, lower);
}

/// `pd_upper`: where free space ends; 0 on a page that was never initialised.
#[inline]
pub fn upper(page: &[u8]) -> u16 {
    u16_at(page, 14)
}

/// Sets `pd_upper`.
#[inline]
pub fn set_upper(page: &mut [u8], upper: u16) {
    set_u16_at(page, 14, upper);
}

/// `pd_special`: where the access method's own area starts.
#[inline]
pub fn special(page: &[u8]) -> u16 {
    u16_at(page, 16)
}

/// Sets `pd_special`.
#[inline]
pub fn set_special(page: &mut [u8], special: u16) {
    set_u16_at(page, 16, special);
}

/// `pd_pagesize_version`.
pub fn pagesize_version(page: &[u8]) -> u16 {
    u16_at(page, 18)
}

/// Sets `pd_pagesize_version`.
pub fn set_pagesize_version(page: &mut [u8], value: u16) {
    set_u16_at(page, 18, value);
}

/// `pd_prune_xid`: oldest transaction whose tuples might be pruned, 0 if none.
#[inline]
pub fn prune_xid(page: &[u8]) -> u32 {
    u32_at(page, 20)
}

/// Sets `pd_prune_xid`.
#[inline]
pub fn set_prune_xid(page: &mut [u8], xid: u32) {
    set_u32_at(page, 20, xid);
}

/// Whether the page was never initialised (`PageIsNew`).
#[inline]
pub fn is_new(page: &[u8]) -> bool {
    upper(page) == 0
}

/// Blanks the page and gives it a header with `special_bytes` of special space, rounded up to a multiple of 8
/// (`PageInit`).
///
/// # Panics
/// If `page` is not one page long, or the special space leaves no room for the header.
pub fn init(page: &mut [u8], special_bytes: usize) {
    let special_bytes = special_bytes.next_multiple_of(8);
    assert!(page.len() == PAGE_SIZE && special_bytes <= PAGE_SIZE - HEADER_BYTES, "special space exceeds the page");
    let special = u16::try_from(PAGE_SIZE - special_bytes).expect("an offset in a page fits 16 bits");
    page.fill(0);
    set_lower(page, HEADER_BYTES as u16);
    set_upper(page, special);
    set_special(page, special);
    set_pagesize_version(page, PAGE_SIZE_AND_VERSION);
}

/// The special area, or `None` if the header points outside the page.
pub fn special_area(page: &[u8]) -> Option<&[u8]> {
    let start = usize::from(special(page));
    if start < HEADER_BYTES { None } else { page.get(start..) }
}

/// The special area for writing, or `None` if the header points outside the page.
pub fn special_area_mut(page: &mut [u8]) -> Option<&mut [u8]> {
    let start = usize::from(special(page));
    if start < HEADER_BYTES { None } else { page.get_mut(start..) }
}

/// A line pointer (`ItemIdData`): 15 bits of offset, 2 of state, 15 of length.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ItemId(pub u32);

/// What a line pointer stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ItemState {
    /// `LP_UNUSED`: free for reuse.
    Unused,
    /// `LP_NORMAL`: points to a tuple.
    Normal,
    /// `LP_REDIRECT`: its offset is another line pointer's number.
    Redirect,
    /// `LP_DEAD`: dead, with or without storage.
    Dead,
}

impl ItemId {
    /// Unused, without storage.
    pub const UNUSED: ItemId = ItemId(0);

    /// From its parts; bits of `offset` and `length` above the fifteenth are dropped.
    #[inline]
    pub fn new(offset: u16, state: ItemState, length: u16) -> ItemId {
        ItemId(u32::from(offset & 0x7FFF) | (state as u32) << 15 | u32::from(length & 0x7FFF) << 17)
    }

    /// A pointer to a tuple.
    #[inline]
    pub fn normal(offset: u16, length: u16) -> ItemId {
        ItemId::new(offset, ItemState::Normal, length)
    }

    /// A redirection to another line pointer.
    #[inline]
    pub fn redirect(to: u16) -> ItemId {
        ItemId::new(to, ItemState::Redirect, 0)
    }

    /// Dead, without storage.
    #[inline]
    pub fn dead() -> ItemId {
        ItemId::new(0, ItemState::Dead, 0)
    }

    /// Offset of the tuple in the page; of a redirection, the other line pointer's number.
    #[inline]
    pub fn offset(self) -> u16 {
        (self.0 & 0x7FFF) as u16
    }

    /// Its state.
    #[inline]
    pub fn state(self) -> ItemState {
        match self.0 >> 15 & 3 {
            0 => ItemState::Unused,
            1 => ItemState::Normal,
            2 => ItemState::Redirect,
            _ => ItemState::Dead,
        }
    }

    /// Length of the tuple.
    #[inline]
    pub fn length(self) -> u16 {
        (self.0 >> 17) as u16
    }

    /// Whether it is not unused (`ItemIdIsUsed`).
    #[inline]
    pub fn is_used(self) -> bool {
        self.state() != ItemState::Unused
    }

    /// Whether it is a pointer to a tuple (`ItemIdIsNormal`).
    #[inline]
    pub fn is_normal(self) -> bool {
        self.state() == ItemState::Normal
    }

    /// Whether it has a tuple, dead or not (`ItemIdHasStorage`).
    #[inline]
    pub fn has_storage(self) -> bool {
        self.length() != 0
    }
}

/// Number of line pointers, which is the last one's number (`PageGetMaxOffsetNumber`). Never more than fit the page.
pub fn max_offset_number(page: &[u8]) -> u16 {
    let end = usize::from(lower(page)).min(page.len());
    (end.saturating_sub(HEADER_BYTES) / ITEM_ID_BYTES) as u16
}

/// Byte offset of line pointer `number`, which counts from 1; `None` for 0.
fn item_id_offset(number: u16) -> Option<usize> {
    Some(HEADER_BYTES + ITEM_ID_BYTES * usize::from(number.checked_sub(1)?))
}

/// Line pointer `number` (from 1), or `None` past the last one.
pub fn item_id(page: &[u8], number: u16) -> Option<ItemId> {
    let offset = item_id_offset(number)?;
    (number <= max_offset_number(page)).then(|| ItemId(u32_at(page, offset)))
}

/// Overwrites line pointer `number` (from 1); `None`, and nothing is written, if it is outside the page. It may be
/// past `pd_lower`, which the caller then raises.
#[must_use]
pub fn set_item_id(page: &mut [u8], number: u16, item: ItemId) -> Option<()> {
    let offset = item_id_offset(number)?;
    page.get_mut(offset..offset + ITEM_ID_BYTES)?.copy_from_slice(&item.0.to_le_bytes());
    Some(())
}

/// The bytes a line pointer points to, or `None` if they reach out of the page.
pub fn item(page: &[u8], item: ItemId) -> Option<&[u8]> {
    let start = usize::from(item.offset());
    page.get(start..start + usize::from(item.length()))
}

/// The bytes a line pointer points to, for writing, or `None` if they reach out of the page.
pub fn item_mut(page: &mut [u8], item: ItemId) -> Option<&mut [u8]> {
    let start = usize::from(item.offset());
    page.get_mut(start..start + usize::from(item.length()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lsn_stores_its_high_half_first() {
        let mut page = [0; PAGE_SIZE];
        set_lsn(&mut page, Lsn(0x0102_0304_0506_0708));
        assert_eq!(page[..8], [4, 3, 2, 1, 8, 7, 6, 5]);
        assert_eq!(lsn(&page), Lsn(0x0102_0304_0506_0708));
    }

    #[test]
    fn an_initialised_page_is_empty_and_keeps_its_special_space() {
        let mut page = [0xAA; PAGE_SIZE];
        init(&mut page, 13);
        assert_eq!((lower(&page), upper(&page), special(&page)), (24, 8176, 8176));
        assert_eq!(pagesize_version(&page), 0x2004);
        assert_eq!((max_offset_number(&page), is_new(&page)), (0, false));
        assert_eq!(special_area(&page).map(<[u8]>::len), Some(16));
        assert!(is_new(&[0; PAGE_SIZE]));
    }

    #[test]
    fn line_pointers_are_bounded_by_the_page() {
        let mut page = [0; PAGE_SIZE];
        init(&mut page, 0);
        set_item_id(&mut page, 1, ItemId::normal(8000, 100)).unwrap();
        set_lower(&mut page, 28);
        let first = item_id(&page, 1).unwrap();
        assert_eq!((first.offset(), first.length(), first.state()), (8000, 100, ItemState::Normal));
        assert_eq!(item(&page, first).map(<[u8]>::len), Some(100));
        assert_eq!((item_id(&page, 0), item_id(&page, 2)), (None, None));
        assert_eq!(item(&page, ItemId::normal(8000, 193)), None);
        set_lower(&mut page, u16::MAX);
        assert_eq!(max_offset_number(&page), 2042);
        assert_eq!(set_item_id(&mut page, 2043, ItemId::UNUSED), None);
    }

    proptest! {
        #[test]
        fn line_pointers_keep_their_parts(offset in 0u16..0x8000, length in 0u16..0x8000, state in 0usize..4) {
            let state = [ItemState::Unused, ItemState::Normal, ItemState::Redirect, ItemState::Dead][state];
            let item = ItemId::new(offset, state, length);
            prop_assert_eq!((item.offset(), item.state(), item.length()), (offset, state, length));
        }

        #[test]
        fn no_page_makes_the_accessors_panic(seed in proptest::collection::vec(any::<u8>(), HEADER_BYTES..200)) {
            let mut page = [0; PAGE_SIZE];
            page[..seed.len()].copy_from_slice(&seed);
            let _ = special_area(&page);
            for number in 0..=max_offset_number(&page) {
                let _ = item_id(&page, number).and_then(|found| item(&page, found));
            }
        }
    }
}
