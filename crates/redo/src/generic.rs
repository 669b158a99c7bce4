//! Generic WAL: extensions' pages, logged as images or as the ranges of bytes that changed. Source: `generic_xlog.c`.

use crate::block_redo::{BlockRedo, ResourceManager};
use crate::error::Misfit;
use crate::page_items::{Page, put};
use quire_types::Reader;
use quire_wal::page::{lower, set_lsn, special, upper};

pub(crate) const MANAGER: ResourceManager = ResourceManager { supports: |_| true, redo };

/// `generic_redo`. Nothing is known of the page but its header, and it may be a new one.
fn redo(page: &mut Page, redo: &BlockRedo<'_>) -> Result<(), Misfit> {
    write_fragments(page, redo.block.data)?;
    clear_free_space(page)?;
    set_lsn(page, redo.lsn);
    Ok(())
}

/// `applyPageRedo`: each fragment is an offset, a length, and that many bytes.
fn write_fragments(page: &mut Page, data: &[u8]) -> Result<(), Misfit> {
    let mut data = Reader::new(data);
    while data.remaining() > 0 {
        let (offset, length) = (data.u16("fragment's offset")?, data.u16("fragment's length")?);
        let bytes = data.bytes("fragment", length.into())?;
        if usize::from(offset) + bytes.len() > page.len() {
            return Err(Misfit::Value { field: "fragment's offset", value: offset.into() });
        }
        put(page, offset.into(), bytes);
    }
    Ok(())
}

/// What is between `pd_lower` and `pd_upper` is never logged, and zero after each record.
fn clear_free_space(page: &mut Page) -> Result<(), Misfit> {
    let (lower, upper, special) = (lower(page), upper(page), special(page));
    let free = page.get_mut(lower.into()..upper.into());
    free.ok_or(Misfit::Header { lower, upper, special })?.fill(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::test_record::{REL, TestRecord, key};
    use crate::{Delta, RedoError, apply};
    use quire_types::{Lsn, PAGE_SIZE};
    use quire_wal::page::{init, lsn, set_lower};
    use quire_wal::rmgr::GENERIC;

    fn fragments(fragments: &[(u16, &[u8])]) -> Vec<u8> {
        let encode = |(offset, bytes): &(u16, &[u8])| {
            [&offset.to_le_bytes()[..], &(bytes.len() as u16).to_le_bytes(), bytes].concat()
        };
        fragments.iter().flat_map(encode).collect()
    }

    fn redo(page: &mut [u8; PAGE_SIZE], data: &[u8]) -> Result<(), RedoError> {
        let record = TestRecord::new(GENERIC, 0).block(0, REL, 3, false, data).build(b"");
        apply(page, key(3), Lsn(100), &Delta::Record(record, Lsn(40)))
    }

    fn page_with_free_space() -> [u8; PAGE_SIZE] {
        let mut page = [7; PAGE_SIZE];
        init(&mut page, 8);
        page[24..].fill(7);
        set_lower(&mut page, 1000);
        page
    }

    #[test]
    fn fragments_are_written_and_free_space_is_zeroed() {
        let mut page = page_with_free_space();
        redo(&mut page, &fragments(&[(12, &500u16.to_le_bytes()), (100, b"one"), (8189, b"two")])).unwrap();
        let expected = [&[7; 76][..], b"one", &[7; 397], &[0; 7684], &[7; 5], b"two"].concat();
        assert!(page[24..] == expected);
        assert_eq!(lsn(&page), Lsn(100));
    }

    #[test]
    fn a_record_may_change_nothing_but_the_lsn() {
        let mut page = page_with_free_space();
        redo(&mut page, b"").unwrap();
        assert_eq!(lsn(&page), Lsn(100));
        assert_eq!(page[999..1001], [7, 0]);
    }

    #[test]
    fn a_fragment_beyond_the_page_or_the_record_is_refused() {
        for data in [fragments(&[(8190, b"two")]), vec![0, 1, 3, 0, 1, 1], vec![0, 1, 3]] {
            let refused = redo(&mut page_with_free_space(), &data);
            assert!(matches!(refused, Err(RedoError::Misfit { .. })), "{data:?}: {refused:?}");
        }
    }

    #[test]
    fn a_page_without_a_sane_header_is_refused() {
        for (lower, upper) in [(600u16, 500u16), (0, 9000)] {
            let header = [lower.to_le_bytes(), upper.to_le_bytes()].concat();
            assert!(redo(&mut page_with_free_space(), &fragments(&[(12, &header)])).is_err());
        }
    }
}
