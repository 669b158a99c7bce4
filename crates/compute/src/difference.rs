//! Whether two copies of a page are equal in all that counts.

use quire_redo::mask::{PageKind, mask_page, page_kind, reads_hole};
use quire_types::{Key, PAGE_SIZE};
use quire_wal::page;

/// What storage has where it has nothing.
pub const NOTHING: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// Where the two first differ in more than what they may differ in; none if they are equal.
pub fn first_difference(key: Key, ours: &[u8; PAGE_SIZE], theirs: &[u8]) -> Option<usize> {
    match <&[u8; PAGE_SIZE]>::try_from(theirs) {
        Ok(theirs) => differences(key, ours, theirs).first().copied(),
        Err(_) => Some(0),
    }
}

/// The offsets of all bytes in which the page of `key` that PostgreSQL wrote differs from storage's, under the masks.
pub fn differences(key: Key, ours: &[u8; PAGE_SIZE], theirs: &[u8; PAGE_SIZE]) -> Vec<usize> {
    if *theirs == NOTHING && is_blank(ours) {
        return Vec::new();
    }
    let (ours, theirs) = (masked(key, ours), masked(key, theirs));
    (0..PAGE_SIZE).filter(|at| ours[*at] != theirs[*at]).collect()
}

/// A copy without what two right copies may differ in: PostgreSQL's own masks, a sequence's state, and of a page whose
/// hole is read, the hole after all, which the masks leave out.
fn masked(key: Key, page: &[u8; PAGE_SIZE]) -> Box<[u8; PAGE_SIZE]> {
    let kind = page_kind(page, key);
    let mut masked = Box::new(*page);
    mask_page(&mut masked, kind);
    if kind == PageKind::Sequence {
        mask_sequence_state(&mut masked);
    }
    let hole = usize::from(page::lower(&page[..]))..usize::from(page::upper(&page[..]));
    if reads_hole(page, key)
        && let (Some(to), Some(from)) = (masked.get_mut(hole.clone()), page.get(hole))
    {
        to.copy_from_slice(from);
    }
    masked
}

/// `last_value` and `log_cnt`: the log is ahead by the values that may still be given out without logging.
fn mask_sequence_state(page: &mut [u8; PAGE_SIZE]) {
    const HEADER_LENGTH_AT: usize = 22;
    let Some(tuple) = page::item_id(&page[..], 1) else { return };
    if let Some(tuple) = page::item_mut(&mut page[..], tuple) {
        let start = tuple.get(HEADER_LENGTH_AT).copied().map_or(0, usize::from);
        if let Some(state) = tuple.get_mut(start..start + 16) {
            state.fill(0);
        }
    }
}

/// Whether a page has never held anything that is logged: PostgreSQL extends files by pages of zeroes, and may
/// initialise one and then not use it, without a word in the log.
fn is_blank(page: &[u8; PAGE_SIZE]) -> bool {
    *page == NOTHING
        || (!page::lsn(&page[..]).is_valid() && page::max_offset_number(&page[..]) == 0 && has_no_special(page))
}

/// Tables have no special space; an index's page of that kind says something even if it is empty.
fn has_no_special(page: &[u8; PAGE_SIZE]) -> bool {
    usize::from(page::special(&page[..])) == PAGE_SIZE
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::{Fork, Lsn, RelTag};

    const KEY: Key =
        Key::RelBlock { rel: RelTag { tablespace: 1663, database: 5, relation: 1259, fork: Fork::Main }, block: 0 };

    fn heap_page() -> [u8; PAGE_SIZE] {
        let mut page = [0; PAGE_SIZE];
        page::init(&mut page, 0);
        page
    }

    #[test]
    fn hints_and_lsns_are_no_difference_but_contents_are() {
        let (ours, mut theirs) = (heap_page(), heap_page());
        page::set_lsn(&mut theirs, Lsn(77));
        page::set_flags(&mut theirs, page::PD_PAGE_FULL);
        assert_eq!(first_difference(KEY, &ours, &theirs), None);
        page::set_special(&mut theirs, 8000);
        assert!(first_difference(KEY, &ours, &theirs).is_some());
        assert_eq!(first_difference(KEY, &ours, &[0; 3]), Some(0));
    }

    #[test]
    fn a_visibility_bit_is_wrong_on_whichever_side_it_is_missing() {
        let Key::RelBlock { rel, block } = KEY else { unreachable!("it is one") };
        let key = Key::RelBlock { rel: rel.with_fork(Fork::VisibilityMap), block };
        let (ours, mut theirs) = (heap_page(), heap_page());
        theirs[100] = 1;
        assert_eq!(first_difference(key, &ours, &theirs), Some(100));
        assert_eq!(first_difference(key, &theirs, &ours), Some(100));
    }

    #[test]
    fn unused_space_counts_on_a_page_of_an_unknown_access_method_and_not_on_a_tables() {
        let mut page = [0; PAGE_SIZE];
        page::init(&mut page, 24);
        page[PAGE_SIZE - 24..].fill(1);
        for (original, counts) in [(page, true), (heap_page(), false)] {
            let mut changed = original;
            changed[5000] = 1;
            assert_eq!(first_difference(KEY, &changed, &original).is_some(), counts);
        }
    }

    #[test]
    fn a_page_that_was_initialised_and_never_used_equals_nothing() {
        assert_eq!(first_difference(KEY, &heap_page(), &NOTHING), None);
        let mut used = heap_page();
        page::set_lsn(&mut used, Lsn(7));
        assert!(first_difference(KEY, &used, &NOTHING).is_some());
        assert!(first_difference(KEY, &NOTHING, &used).is_some());
    }

    #[test]
    fn a_sequence_may_be_behind_its_log() {
        let mut page = heap_page();
        page::set_item_id(&mut page, 1, page::ItemId::normal(8000, 41)).expect("in the page");
        page::set_lower(&mut page, 28);
        page[8000 + 22] = 24;
        let mut ahead = page;
        ahead[8024] = 33;
        ahead[8040] = 1;
        mask_sequence_state(&mut ahead);
        assert_eq!((ahead[8024], ahead[8040]), (0, 1));
        page[8022] = 255;
        mask_sequence_state(&mut page);
    }
}
