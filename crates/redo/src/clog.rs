//! The commit log: two bits for each transaction. Source: `clog.c`.

use crate::delta::TransactionStatus;
use crate::page_items::Page;

const XIDS_PER_BYTE: u32 = 4;
/// Transactions on one page (`CLOG_XACTS_PER_PAGE`).
pub const XIDS_PER_PAGE: u32 = 32_768;

/// The page that holds a transaction's status (`TransactionIdToPage`).
pub fn page_of(xid: u32) -> u32 {
    xid / XIDS_PER_PAGE
}

/// `TransactionIdSetStatusBit`.
pub(crate) fn set_status(page: &mut Page, xid: u32, status: TransactionStatus) {
    let byte = (xid % XIDS_PER_PAGE / XIDS_PER_BYTE) as usize;
    let shift = xid % XIDS_PER_BYTE * 2;
    page[byte] = page[byte] & !(3 << shift) | (status as u8) << shift;
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::PAGE_SIZE;

    #[test]
    fn a_status_replaces_the_one_before_and_leaves_the_neighbours() {
        let mut page = [0xFF; PAGE_SIZE];
        set_status(&mut page, XIDS_PER_PAGE + 5, TransactionStatus::Committed);
        set_status(&mut page, XIDS_PER_PAGE - 1, TransactionStatus::Aborted);
        assert_eq!((page[1], page[PAGE_SIZE - 1], page[0]), (0b1111_0111, 0b1011_1111, 0xFF));
        assert_eq!((page_of(XIDS_PER_PAGE - 1), page_of(XIDS_PER_PAGE)), (0, 1));
    }
}
