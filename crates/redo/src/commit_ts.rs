//! Commit timestamps: ten bytes for each transaction. Source: `commit_ts.c`.

use crate::page_items::{Page, put};

const ENTRY_BYTES: usize = 10;
/// Transactions on one page (`COMMIT_TS_XACTS_PER_PAGE`).
pub const XIDS_PER_PAGE: u32 = 819;

/// The page that holds a transaction's timestamp (`TransactionIdToCTsPage`).
pub fn page_of(xid: u32) -> u32 {
    xid / XIDS_PER_PAGE
}

/// `TransactionIdSetCommitTs`.
pub(crate) fn set_timestamp(page: &mut Page, xid: u32, time: i64, origin: u16) {
    let at = (xid % XIDS_PER_PAGE) as usize * ENTRY_BYTES;
    put(page, at, &time.to_le_bytes());
    put(page, at + 8, &origin.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::PAGE_SIZE;

    #[test]
    fn entries_lie_without_gaps() {
        let mut page = [0; PAGE_SIZE];
        set_timestamp(&mut page, XIDS_PER_PAGE + 1, 0x0807_0605_0403_0201, 0x0A09);
        set_timestamp(&mut page, XIDS_PER_PAGE - 1, -1, 0);
        assert_eq!(page[10..20], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(page_of(XIDS_PER_PAGE - 1), 0);
    }
}
