//! Which pages hold something that WAL does not describe, by what is on them when they are written.
//!
//! A page gets its LSN from the record that describes it, so one without an LSN was never logged: the init fork of an
//! index whose access method does not log it, or all pages of one that logs nothing. And a sequence hands out values
//! ahead of which it has logged, so its page is behind its record. (A third kind is known from WAL alone: images that
//! were logged without all of the page.)

use quire_cache::FileId;
use quire_types::Fork;

const PAGE_BYTES: usize = 8192;
const HEADER_BYTES: u16 = 24;
const LOWER_AT: usize = 12;
const SPECIAL_AT: usize = 16;

/// `SEQ_MAGIC`, which is all there is in the special space of a sequence.
const SEQUENCE_MAGIC: [u8; 4] = [0x17, 0x17, 0, 0];
const SEQUENCE_SPECIAL: u16 = (PAGE_BYTES - 8) as u16;

/// Whether storage would rebuild another page than this one, which was written to `block` of a file.
#[inline]
pub fn is_undescribed(block: u32, page: &[u8; PAGE_BYTES]) -> bool {
    (has_no_lsn(page) && !is_blank(page)) || (block == 0 && is_sequence(page))
}

/// Files whose pages storage keeps, and which have LSNs. A free space map is kept as a file.
pub fn has_described_pages(file: FileId) -> bool {
    matches!(file, FileId::Relation { rel, .. } if rel.fork != Fork::FreeSpaceMap)
}

#[inline]
fn has_no_lsn(page: &[u8; PAGE_BYTES]) -> bool {
    page.first_chunk() == Some(&[0u8; 8])
}

/// Nothing, or the header of a table's page and nothing else: PostgreSQL extends files by such pages without a word in
/// the log.
fn is_blank(page: &[u8; PAGE_BYTES]) -> bool {
    let is_header = u16_at(page, LOWER_AT) == HEADER_BYTES && usize::from(u16_at(page, SPECIAL_AT)) == PAGE_BYTES;
    let contents = if is_header { &page[usize::from(HEADER_BYTES)..] } else { &page[..] };
    contents.iter().all(|byte| *byte == 0)
}

#[inline]
fn is_sequence(page: &[u8; PAGE_BYTES]) -> bool {
    u16_at(page, SPECIAL_AT) == SEQUENCE_SPECIAL && page[usize::from(SEQUENCE_SPECIAL)..].starts_with(&SEQUENCE_MAGIC)
}

#[inline]
fn u16_at(page: &[u8; PAGE_BYTES], at: usize) -> u16 {
    u16::from_le_bytes([page[at], page[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::{RelTag, Slru};

    fn page(lsn: u8, lower: u16, special: u16) -> [u8; PAGE_BYTES] {
        let mut page = [0; PAGE_BYTES];
        page[4] = lsn;
        page[LOWER_AT..LOWER_AT + 2].copy_from_slice(&lower.to_le_bytes());
        page[SPECIAL_AT..SPECIAL_AT + 2].copy_from_slice(&special.to_le_bytes());
        page
    }

    #[test]
    fn a_page_without_an_lsn_is_undescribed_unless_it_is_blank() {
        assert!(!is_undescribed(3, &[0; PAGE_BYTES]), "a file is extended by zeroes");
        assert!(!is_undescribed(3, &page(0, 24, 8192)), "or by empty pages of a table");
        assert!(is_undescribed(3, &page(0, 28, 8192)), "a line pointer");
        assert!(is_undescribed(3, &page(0, 24, 8176)), "an empty page of an index");
        let mut map = page(0, 24, 8192);
        map[24] = 3;
        assert!(is_undescribed(3, &map), "a bit of a map");
        map[4] = 1;
        assert!(!is_undescribed(3, &map), "one that has an LSN");
    }

    #[test]
    fn a_sequence_is_undescribed_whatever_its_lsn() {
        let mut sequence = page(1, 28, SEQUENCE_SPECIAL);
        assert!(!is_undescribed(0, &sequence), "another page with a special space of eight bytes");
        sequence[8184..8188].copy_from_slice(&SEQUENCE_MAGIC);
        assert!(is_undescribed(0, &sequence));
        assert!(!is_undescribed(1, &sequence), "a sequence has one block");
    }

    #[test]
    fn maps_of_free_space_and_slrus_are_not_looked_at() {
        let rel = RelTag { tablespace: 1663, database: 5, relation: 1259, fork: Fork::Main };
        let of = |fork| FileId::Relation { rel: rel.with_fork(fork), segment: 0 };
        assert!(has_described_pages(of(Fork::Init)) && has_described_pages(of(Fork::VisibilityMap)));
        assert!(!has_described_pages(of(Fork::FreeSpaceMap)));
        assert!(!has_described_pages(FileId::Slru { slru: Slru::Clog, segment: 0 }));
    }
}
