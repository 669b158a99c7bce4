//! What two copies of a page may differ in although both are right: hints that PostgreSQL sets without logging them,
//! and bytes that are never read. Source: `bufmask.c` and the `*_mask` functions of the resource managers.
//!
//! Verification masks both copies and compares them byte by byte. A page that is too corrupt to be masked is left as
//! it is, so it equals nothing but itself.

use crate::heap_tuple::{HeapTuple, SPECULATIVE_OFFSET, XACT_MASK, XMAX_COMMITTED, XMAX_INVALID, XMIN_FROZEN};
use crate::page_items::{Bounds, Page, align, clear_flags, put, u16_at, u32_at};
use crate::sequence::SEQUENCE_MAGIC;
use crate::{brin, btree, gin, gist, hash, spgist};
use quire_types::{Fork, Key, Lsn, PAGE_SIZE};
use quire_wal::page::{
    self, HEADER_BYTES, ItemId, ItemState, PD_ALL_VISIBLE, PD_HAS_FREE_LINES, PD_PAGE_FULL, is_new, set_checksum,
    set_lsn, set_prune_xid,
};
use std::ops::Range;

/// What is on a page, as far as masking is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// Never initialised: compared as it is.
    New,
    /// A table's page.
    Heap {
        /// Its block, to which unconfirmed speculative tuples are made to point.
        block: u32,
    },
    /// A page of a visibility map. PostgreSQL does not compare these at all; here all bits count.
    VisibilityMap,
    /// A page of a free space map, whose contents are advisory.
    FreeSpaceMap,
    /// A sequence. PostgreSQL logs values ahead of those it hands out, so that its own page equals redo's only right
    /// after a record.
    Sequence,
    /// A B-tree's page.
    Btree,
    /// A hash index's page.
    Hash,
    /// A GIN index's page.
    Gin,
    /// A GiST index's page.
    Gist,
    /// An SP-GiST index's page.
    SpGist,
    /// A BRIN index's page.
    Brin,
    /// A page with a special space that is none of PostgreSQL's own.
    Extension,
    /// A page of an SLRU area, which has no header.
    Slru,
}

const SPECIAL_OF_EIGHT_AT: usize = PAGE_SIZE - 8;
const SPECIAL_OF_SIXTEEN_AT: usize = PAGE_SIZE - 16;
/// Where the half-word is that tells most kinds of pages apart, and the flags before it.
const PAGE_ID_AT: usize = PAGE_SIZE - 2;
const FLAGS_AT: usize = PAGE_SIZE - 4;

const MAX_BTREE_CYCLE_ID: u16 = 0xFF7F;
/// All bits a GIN page's flags may have.
const GIN_FLAGS: u16 = 0x00FF;

/// What is on `page`, by its key and special space.
pub fn page_kind(page: &[u8; PAGE_SIZE], key: Key) -> PageKind {
    match key {
        Key::RelBlock { rel, .. } if rel.fork == Fork::VisibilityMap => PageKind::VisibilityMap,
        Key::RelBlock { rel, .. } if rel.fork == Fork::FreeSpaceMap => PageKind::FreeSpaceMap,
        Key::RelBlock { .. } if is_new(page) => PageKind::New,
        Key::RelBlock { block, .. } => relation_page_kind(page, block),
        _ => PageKind::Slru,
    }
}

fn relation_page_kind(page: &Page, block: u32) -> PageKind {
    let id = u16_at(page, PAGE_ID_AT);
    match (usize::from(page::special(page)), id) {
        (PAGE_SIZE, _) => PageKind::Heap { block },
        (SPECIAL_OF_SIXTEEN_AT, hash::PAGE_ID) => PageKind::Hash,
        (SPECIAL_OF_SIXTEEN_AT, gist::PAGE_ID) => PageKind::Gist,
        (SPECIAL_OF_SIXTEEN_AT, ..=MAX_BTREE_CYCLE_ID) => PageKind::Btree,
        (SPECIAL_OF_EIGHT_AT, spgist::PAGE_ID) => PageKind::SpGist,
        (SPECIAL_OF_EIGHT_AT, brin::TYPE_META..=brin::TYPE_REGULAR) => PageKind::Brin,
        // A GIN index has its meta page in block 0, which has a flag set, so the id is not 0.
        (SPECIAL_OF_EIGHT_AT, 0) if block == 0 && u32_at(page, SPECIAL_OF_EIGHT_AT) == SEQUENCE_MAGIC => {
            PageKind::Sequence
        }
        (SPECIAL_OF_EIGHT_AT, ..=GIN_FLAGS) => PageKind::Gin,
        _ => PageKind::Extension,
    }
}

/// The first byte, if any, in which the page that redo arrived at differs from a server's copy of it under the masks.
///
/// A server initialises a page that it adds to a relation without logging it, so an empty page equals a new one.
pub fn first_difference(redone: &[u8; PAGE_SIZE], servers: &[u8; PAGE_SIZE], key: Key) -> Option<usize> {
    let kind = page_kind(servers, key);
    if kind != PageKind::Slru && is_new(redone) && is_empty(servers) {
        return None;
    }
    let [mut a, mut b] = [*redone, *servers];
    mask_page(&mut a, kind);
    mask_page(&mut b, kind);
    if a == b { None } else { a.iter().zip(&b).position(|(a, b)| a != b) }
}

/// Whether nothing is on the page but a header and a special space.
fn is_empty(page: &Page) -> bool {
    let contents = page.get(HEADER_BYTES..page::special(page).into());
    usize::from(page::lower(page)) == HEADER_BYTES
        && contents.is_some_and(|contents| contents.iter().all(|byte| *byte == 0))
}

/// Whether PostgreSQL reads bytes between `pd_lower` and `pd_upper` of such a page. An image that was logged without
/// them (`REGBUF_STANDARD`) is not the page then.
pub fn reads_hole(page: &[u8; PAGE_SIZE], key: Key) -> bool {
    let has_no_lower = usize::from(page::lower(page)) <= HEADER_BYTES;
    match page_kind(page, key) {
        // The bits begin where `pd_lower` stays.
        PageKind::VisibilityMap => true,
        PageKind::Brin => match u16_at(page, PAGE_ID_AT) {
            // A page of the range map has its array there.
            brin::TYPE_REVMAP => true,
            // Before PostgreSQL 11 a meta page's `pd_lower` did not say where its data end.
            brin::TYPE_META => has_no_lower,
            _ => false,
        },
        // Before PostgreSQL 9.4 no data page had a `pd_lower`. Nothing of a deleted page is read.
        PageKind::Gin => has_no_lower && u16_at(page, PAGE_ID_AT) & gin::FLAG_DELETED == 0,
        // An unused page is initialised before it is used; all kinds in use have a `pd_lower` behind their data.
        PageKind::Hash => (u16_at(page, FLAGS_AT) & hash::PAGE_TYPE_MASK).count_ones() > 1,
        // What is where is not known.
        PageKind::Extension => true,
        // Line pointers end at `pd_lower` and items begin at `pd_upper`; a sequence's tuple is an item, a B-tree's and
        // an SP-GiST index's meta page have a `pd_lower` behind their data.
        PageKind::Heap { .. } | PageKind::Sequence | PageKind::Btree | PageKind::Gist | PageKind::SpGist => false,
        // Neither has a hole: one has no `pd_upper`, the other no header.
        PageKind::New | PageKind::Slru => false,
        // Advisory, and never stored.
        PageKind::FreeSpaceMap => false,
    }
}

/// Overwrites everything in which two right copies of a page may differ.
pub fn mask_page(page: &mut [u8; PAGE_SIZE], kind: PageKind) {
    if matches!(kind, PageKind::Slru | PageKind::New) {
        return;
    }
    set_lsn(page, Lsn::INVALID);
    set_checksum(page, 0);
    match kind {
        PageKind::Heap { block } => mask_heap(page, block),
        PageKind::Btree => mask_btree(page),
        PageKind::Sequence | PageKind::Extension => mask_unused_space(page),
        PageKind::Hash => mask_hash(page),
        PageKind::Gin => mask_gin(page),
        PageKind::Gist => mask_gist(page),
        PageKind::SpGist => mask_spgist(page),
        PageKind::Brin => mask_brin(page),
        PageKind::FreeSpaceMap => mask_contents(page),
        PageKind::VisibilityMap | PageKind::Slru | PageKind::New => {}
    }
}

/// `mask_page_hint_bits`.
fn mask_hints(page: &mut Page) {
    set_prune_xid(page, 0);
    clear_flags(page, PD_HAS_FREE_LINES | PD_PAGE_FULL | PD_ALL_VISIBLE);
}

/// `mask_unused_space`: between line pointers and tuples.
fn mask_unused_space(page: &mut Page) {
    if let Ok(bounds) = Bounds::of(page) {
        page[bounds.lower..bounds.upper].fill(0);
    }
}

/// `mask_page_content`: everything but the header's other fields.
fn mask_contents(page: &mut Page) {
    page[HEADER_BYTES..].fill(0);
    page::set_lower(page, 0);
    page::set_upper(page, 0);
}

/// `mask_lp_flags`: some access methods mark items dead without logging it.
fn mask_item_states(page: &mut Page) {
    let Ok(bounds) = Bounds::of(page) else { return };
    for offset in bounds.offsets() {
        if let Some(id) = page::item_id(page, offset) {
            let unmarked = ItemId::new(id.offset(), ItemState::Unused, id.length());
            let _within = page::set_item_id(page, offset, unmarked);
        }
    }
}

/// `heap_mask`.
fn mask_heap(page: &mut Page, block: u32) {
    mask_hints(page);
    mask_unused_space(page);
    let Ok(bounds) = Bounds::of(page) else { return };
    for offset in bounds.offsets() {
        if let Some(id) = page::item_id(page, offset).filter(|id| id.has_storage()) {
            mask_heap_item(page, id, block, offset);
        }
    }
}

fn mask_heap_item(page: &mut Page, id: ItemId, block: u32, offset: u16) {
    let start = usize::from(id.offset());
    let end = start + usize::from(id.length());
    let Some(padded) = page.get_mut(start..start + align(end - start)) else { return };
    let (tuple, padding) = padded.split_at_mut(end - start);
    padding.fill(0);
    if let Some(tuple) = HeapTuple::from_bytes(tuple).filter(|_| id.is_normal()) {
        mask_heap_tuple(tuple, block, offset);
    }
}

fn mask_heap_tuple(mut tuple: HeapTuple<'_>, block: u32, offset: u16) {
    let infomask = tuple.infomask();
    let is_frozen = infomask & XMIN_FROZEN == XMIN_FROZEN;
    let hints = if is_frozen { XMAX_INVALID | XMAX_COMMITTED } else { XACT_MASK };
    tuple.set_infomask(infomask & !hints);
    // Redo does not know command ids.
    tuple.set_command(0);
    if tuple.ctid_offset() == SPECULATIVE_OFFSET {
        tuple.set_ctid(block, offset);
    }
}

/// Changes the half-word of flags that is there.
fn mask_flags(page: &mut Page, at: usize, set: u16, cleared: u16) {
    let flags = (u16_at(page, at) | set) & !cleared;
    put(page, at, &flags.to_le_bytes());
}

/// `btree_mask`.
fn mask_btree(page: &mut Page) {
    mask_hints(page);
    mask_unused_space(page);
    if u16_at(page, FLAGS_AT) & btree::FLAG_LEAF != 0 {
        mask_item_states(page);
    }
    mask_flags(page, FLAGS_AT, 0, btree::FLAG_HAS_GARBAGE | btree::FLAG_SPLIT_END);
    put(page, PAGE_ID_AT, &[0; 2]);
}

/// `hash_mask`.
fn mask_hash(page: &mut Page) {
    mask_hints(page);
    mask_unused_space(page);
    match u16_at(page, FLAGS_AT) & hash::PAGE_TYPE_MASK {
        0 => return mask_contents(page),
        hash::FLAG_BUCKET_PAGE | hash::FLAG_OVERFLOW_PAGE => mask_item_states(page),
        _ => {}
    }
    mask_flags(page, FLAGS_AT, 0, hash::FLAG_HAS_DEAD_TUPLES);
}

/// `gin_mask`.
fn mask_gin(page: &mut Page) {
    mask_hints(page);
    if u16_at(page, PAGE_ID_AT) & gin::FLAG_DELETED != 0 {
        mask_contents(page);
    } else if usize::from(page::lower(page)) > HEADER_BYTES {
        mask_unused_space(page);
    }
}

/// `gist_mask`.
fn mask_gist(page: &mut Page) {
    mask_hints(page);
    mask_unused_space(page);
    // The node sequence number is an LSN.
    put(page, SPECIAL_OF_SIXTEEN_AT, &[0; 8]);
    if u16_at(page, FLAGS_AT) & gist::FLAG_LEAF != 0 {
        mask_item_states(page);
    }
    mask_flags(page, FLAGS_AT, gist::FLAG_FOLLOW_RIGHT, gist::FLAG_HAS_GARBAGE);
}

/// `spg_mask`, and what no record tells: the meta page remembers pages with room, which is never logged.
fn mask_spgist(page: &mut Page) {
    const PAGES_WITH_ROOM: Range<usize> = HEADER_BYTES + 4..HEADER_BYTES + 4 + 8 * 8;
    mask_hints(page);
    mask_unused_space(page);
    if u16_at(page, SPECIAL_OF_EIGHT_AT) & spgist::FLAG_META != 0 {
        page[PAGES_WITH_ROOM].fill(0);
    }
}

/// `brin_mask`.
fn mask_brin(page: &mut Page) {
    mask_hints(page);
    match u16_at(page, PAGE_ID_AT) {
        brin::TYPE_REGULAR => mask_unused_space(page),
        // Before PostgreSQL 11 a meta page's `pd_lower` did not say where its data end.
        brin::TYPE_META if usize::from(page::lower(page)) > HEADER_BYTES => mask_unused_space(page),
        _ => {}
    }
    mask_flags(page, FLAGS_AT, 0, brin::FLAG_EVACUATE);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page_items::{add_heap_item, add_index_item};
    use proptest::prelude::*;
    use quire_types::RelTag;
    use quire_wal::page::init;

    fn key(fork: Fork, block: u32) -> Key {
        Key::RelBlock { rel: RelTag { tablespace: 1663, database: 5, relation: 16384, fork }, block }
    }

    fn page_with_special(special: &[u8]) -> Page {
        let mut page = [0; PAGE_SIZE];
        init(&mut page, special.len());
        put(&mut page, PAGE_SIZE - special.len(), special);
        page
    }

    #[test]
    fn the_special_space_tells_the_kind() {
        let sixteen = |id: u16| [&[0; 14][..], &id.to_le_bytes()].concat();
        let eight = |id: u16| [&[7, 0, 0, 0, 0, 0][..], &id.to_le_bytes()].concat();
        let cases = [
            (vec![], 3, PageKind::Heap { block: 3 }),
            (sixteen(0), 0, PageKind::Btree),
            (sixteen(hash::PAGE_ID), 0, PageKind::Hash),
            (sixteen(gist::PAGE_ID), 0, PageKind::Gist),
            (eight(spgist::PAGE_ID), 0, PageKind::SpGist),
            (eight(brin::TYPE_REVMAP), 1, PageKind::Brin),
            (eight(8), 0, PageKind::Gin),
            (vec![0x17, 0x17, 0, 0, 0, 0, 0, 0], 0, PageKind::Sequence),
            (vec![0x17, 0x17, 0, 0, 0, 0, 0, 0], 9, PageKind::Gin),
            (vec![1; 24], 0, PageKind::Extension),
        ];
        for (special, block, kind) in cases {
            assert_eq!(page_kind(&page_with_special(&special), key(Fork::Main, block)), kind);
        }
        assert_eq!(page_kind(&[0; PAGE_SIZE], key(Fork::Main, 0)), PageKind::New);
        assert_eq!(page_kind(&[0; PAGE_SIZE], key(Fork::VisibilityMap, 0)), PageKind::VisibilityMap);
    }

    #[test]
    fn only_pages_with_contents_where_the_hole_would_be_read_it() {
        let sixteen = |flags: u16, id: u16| [&[0; 12][..], &flags.to_le_bytes(), &id.to_le_bytes()].concat();
        let eight = |id: u16| [&[7, 0, 0, 0, 0, 0][..], &id.to_le_bytes()].concat();
        let cases = [
            ("heap", vec![], Fork::Main, false, false),
            ("visibility map", vec![], Fork::VisibilityMap, true, true),
            ("free space map", vec![], Fork::FreeSpaceMap, false, false),
            ("sequence", vec![0x17, 0x17, 0, 0, 0, 0, 0, 0], Fork::Main, false, false),
            ("B-tree", sixteen(1, 0), Fork::Main, false, false),
            ("GiST", sixteen(1, gist::PAGE_ID), Fork::Main, false, false),
            ("SP-GiST", eight(spgist::PAGE_ID), Fork::Main, false, false),
            ("hash bucket", sixteen(hash::FLAG_BUCKET_PAGE, hash::PAGE_ID), Fork::Main, false, false),
            ("unused hash page", sixteen(0, hash::PAGE_ID), Fork::Main, false, false),
            ("hash page of no known type", sixteen(3, hash::PAGE_ID), Fork::Main, true, true),
            ("BRIN range map", eight(brin::TYPE_REVMAP), Fork::Main, true, true),
            ("BRIN meta page", eight(brin::TYPE_META), Fork::Main, true, false),
            ("BRIN data", eight(brin::TYPE_REGULAR), Fork::Main, false, false),
            ("GIN data", eight(2), Fork::Main, true, false),
            ("deleted GIN page", eight(gin::FLAG_DELETED), Fork::Main, false, false),
            ("extension", vec![1; 24], Fork::Main, true, true),
        ];
        for (what, special, fork, without_lower, with_lower) in cases {
            let mut page = page_with_special(&special);
            assert_eq!(reads_hole(&page, key(fork, 0)), without_lower, "{what} with the lowest pd_lower");
            page::set_lower(&mut page, 100);
            assert_eq!(reads_hole(&page, key(fork, 0)), with_lower, "{what} with a pd_lower");
        }
        assert!(!reads_hole(&[0; PAGE_SIZE], key(Fork::Main, 0)), "a new page");
        let slru = Key::SlruBlock { slru: quire_types::Slru::Clog, page: 0 };
        assert!(!reads_hole(&page_with_special(&[1; 24]), slru), "an SLRU page");
    }

    #[test]
    fn hints_of_a_heap_page_are_masked_and_its_data_are_not() {
        let mut page = page_with_special(&[]);
        let start = add_heap_item(&mut page, 1, 30).unwrap();
        let original = page;
        let equals_original = |mut changed: Page| {
            let mut masked = original;
            mask_page(&mut masked, PageKind::Heap { block: 0 });
            mask_page(&mut changed, PageKind::Heap { block: 0 });
            changed == masked
        };
        let changed_at = |at: usize| {
            let mut changed = original;
            changed[at] ^= 1;
            changed
        };
        // The LSN, free space, the hint "xmin committed", the command id, the padding after the tuple.
        for hint in [7, 100, start + 21, start + 8, start + 31] {
            assert!(equals_original(changed_at(hint)), "{hint}");
        }
        // xmin, natts, the last byte of data.
        for data in [start, start + 18, start + 29] {
            assert!(!equals_original(changed_at(data)), "{data}");
        }
    }

    #[test]
    fn an_empty_page_equals_a_new_one_but_one_with_an_item_does_not() {
        let new = [0; PAGE_SIZE];
        let mut page = page_with_special(&[0; 16]);
        assert_eq!(first_difference(&new, &page, key(Fork::Main, 0)), None);
        assert_eq!(first_difference(&new, &new, key(Fork::Main, 0)), None);
        add_index_item(&mut page, 1, &[1; 16]).unwrap();
        assert_eq!(first_difference(&new, &page, key(Fork::Main, 0)), Some(12));
    }

    #[test]
    fn a_bit_of_the_visibility_map_counts() {
        let mut page = page_with_special(&[]);
        page[500] = 3;
        assert_eq!(first_difference(&[0; PAGE_SIZE], &page, key(Fork::VisibilityMap, 0)), Some(12));
        assert_eq!(first_difference(&page_with_special(&[]), &page, key(Fork::VisibilityMap, 0)), Some(500));
    }

    #[test]
    fn a_dead_mark_counts_on_an_inner_btree_page_but_not_on_a_leaf() {
        for (flags, is_hint) in [(btree::FLAG_LEAF, true), (0, false)] {
            let mut page = page_with_special(&[0; 16]);
            put(&mut page, FLAGS_AT, &flags.to_le_bytes());
            add_index_item(&mut page, 1, &[1; 16]).unwrap();
            let mut marked = page;
            let id = page::item_id(&page, 1).unwrap();
            page::set_item_id(&mut marked, 1, ItemId::new(id.offset(), ItemState::Dead, 16)).unwrap();
            mask_page(&mut page, PageKind::Btree);
            mask_page(&mut marked, PageKind::Btree);
            assert_eq!(page == marked, is_hint);
        }
    }

    #[test]
    fn the_contents_of_a_gin_page_count_until_it_is_deleted() {
        let difference = |flags: u16, lower: usize, at: usize, bit: u8| {
            let mut page = page_with_special(&[&[7, 0, 0, 0, 0, 0][..], &flags.to_le_bytes()].concat());
            page::set_lower(&mut page, lower as u16);
            let mut changed = page;
            changed[at] ^= bit;
            first_difference(&changed, &page, key(Fork::Main, 3))
        };
        // Contents before `pd_lower`; unused space behind it, if it was ever set; the right link.
        for (lower, at, is_hint) in [(80, 70, false), (80, 90, true), (HEADER_BYTES, 90, false), (80, 8184, false)] {
            assert_eq!(difference(0, lower, at, 1).is_none(), is_hint, "{lower} {at}");
            assert_eq!(difference(gin::FLAG_DELETED, lower, at, 1), None, "{lower} {at}");
        }
        assert!(difference(gin::FLAG_DELETED, 80, PAGE_ID_AT, 4).is_some(), "only one of the two is deleted");
    }

    proptest! {
        #[test]
        fn no_page_makes_masking_panic(
            head in proptest::collection::vec(any::<u8>(), 64),
            tail in proptest::collection::vec(any::<u8>(), 16),
        ) {
            let mut page = [0xA5; PAGE_SIZE];
            put(&mut page, 0, &head);
            put(&mut page, PAGE_SIZE - tail.len(), &tail);
            let kinds = [
                PageKind::Heap { block: 1 }, PageKind::Btree, PageKind::Hash, PageKind::Gin, PageKind::Gist,
                PageKind::SpGist, PageKind::Brin, PageKind::Sequence, PageKind::FreeSpaceMap, PageKind::Extension,
            ];
            for kind in kinds {
                mask_page(&mut page.clone(), kind);
            }
            page_kind(&page, key(Fork::Main, 0));
        }
    }
}
