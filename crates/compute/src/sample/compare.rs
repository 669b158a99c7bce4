//! Comparing one page with storage's, without a checkpoint, while PostgreSQL works.
//!
//! The LSN of a page says which version it is: PostgreSQL writes no page before the log up to its LSN is committed, and
//! whatever it changes on a page without raising the LSN is masked. So storage is asked for that very version. There is
//! one kind of page for which there may be none: a database made by copying files has pages with the LSNs of the pages
//! they were copied from. Storage then has the page only later, with the same LSN.

use crate::Error;
use crate::cached_files::{CachedPage, Page};
use crate::difference::first_difference;
use crate::page_client::PageError;
use crate::session::Session;
use bytes::Bytes;
use quire_protocol::page::ErrorCode;
use quire_types::{Key, Lsn, RelTag};
use quire_wal::page;

/// LSNs of pages that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    /// Where the term began: what is not younger came from storage, or was never logged.
    pub after: Lsn,
    /// How far storage can be asked.
    pub upto: Lsn,
}

impl Scope {
    /// Whether a page with this LSN can be compared.
    pub fn contains(&self, lsn: Lsn) -> bool {
        self.after < lsn && lsn <= self.upto
    }
}

/// What came out of a comparison.
#[derive(Debug)]
pub(super) enum Finding {
    /// They are equal in all that counts.
    Equal,
    /// They are not.
    Differs(DifferingPage),
    /// The page is gone, or storage has no version that it could be compared with, and need not have one.
    Incomparable,
}

/// Two copies that differ.
#[derive(Debug)]
pub(super) struct DifferingPage {
    /// The cache's copy.
    pub ours: Page,
    /// Storage's; none if it has no such page, or cannot make it.
    pub theirs: Option<Bytes>,
    /// Why it cannot make it.
    pub refusal: Option<String>,
    /// The LSN that storage was asked for.
    pub version: Lsn,
}

/// A comparison of pages of one session.
pub(super) struct Comparison<'a> {
    session: &'a Session,
    scope: Scope,
}

impl Comparison<'_> {
    /// A comparison of pages within `scope`.
    pub fn new(session: &Session, scope: Scope) -> Comparison<'_> {
        Comparison { session, scope }
    }

    /// Reads both copies and compares them.
    pub async fn of(&self, page: &CachedPage) -> Result<Finding, Error> {
        let Some(ours) = page.read()? else { return Ok(Finding::Incomparable) };
        let lsn = page::lsn(&ours[..]);
        if !self.scope.contains(lsn) {
            return Ok(Finding::Incomparable);
        }
        match self.get(lsn, page.key()).await {
            Ok(theirs) => Ok(judge(page.key(), ours, theirs, lsn)),
            Err(error) if error.refusal() == Some(ErrorCode::NoSuchKey) => self.with_newest(page, ours).await,
            // It will be comparable once storage has it as PostgreSQL wrote it.
            Err(error) if error.refusal() == Some(ErrorCode::Guarded) => Ok(Finding::Incomparable),
            Err(error) if error.refusal() == Some(ErrorCode::Corrupt) => {
                let refusal = Some(error.to_string());
                Ok(Finding::Differs(DifferingPage { ours, theirs: None, refusal, version: lsn }))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn get(&self, lsn: Lsn, key: Key) -> Result<Bytes, PageError> {
        let mut pages = self.session.client.get_pages(lsn, vec![key], super::PATIENCE).await?;
        Ok(pages.pop().unwrap_or_default())
    }

    /// Storage did not have the page when it got its LSN.
    async fn with_newest(&self, page: &CachedPage, ours: Page) -> Result<Finding, Error> {
        let (key, version) = (page.key(), self.scope.upto);
        match self.get(version, key).await {
            Ok(theirs) if page::lsn(&theirs) == page::lsn(&ours[..]) => Ok(judge(key, ours, theirs, version)),
            Ok(_) => Ok(Finding::Incomparable),
            Err(error) if error.refusal() == Some(ErrorCode::NoSuchKey) => {
                // Files are copied before the record that says so, and a relation that is gone has its file for a
                // while.
                if self.knows(page.rel).await? {
                    Ok(Finding::Differs(DifferingPage { ours, theirs: None, refusal: None, version }))
                } else {
                    Ok(Finding::Incomparable)
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn knows(&self, rel: RelTag) -> Result<bool, PageError> {
        let key = Key::RelSize { rel };
        Ok(!self.session.client.scan(self.scope.upto, key, key, super::PATIENCE).await?.is_empty())
    }
}

fn judge(key: Key, ours: Page, theirs: Bytes, version: Lsn) -> Finding {
    match first_difference(key, &ours, &theirs) {
        None => Finding::Equal,
        Some(_) => Finding::Differs(DifferingPage { ours, theirs: Some(theirs), refusal: None, version }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::{Fork, PAGE_SIZE};

    const KEY: Key =
        Key::RelBlock { rel: RelTag { tablespace: 1663, database: 5, relation: 16384, fork: Fork::Main }, block: 0 };

    fn page_at(lsn: u64) -> Page {
        let mut page = Box::new([0; PAGE_SIZE]);
        page::init(&mut page[..], 0);
        page::set_lsn(&mut page[..], Lsn(lsn));
        page::set_lower(&mut page[..], 28);
        page::set_upper(&mut page[..], 8000);
        page::set_item_id(&mut page[..], 1, page::ItemId::normal(8000, 100)).expect("in the page");
        page
    }

    fn copy(page: &Page) -> Bytes {
        Bytes::copy_from_slice(&page[..])
    }

    #[test]
    fn what_the_term_wrote_and_storage_has_can_be_compared() {
        let scope = Scope { after: Lsn(10), upto: Lsn(20) };
        let contained = [0, 10, 11, 20, 21].map(|lsn| scope.contains(Lsn(lsn)));
        assert_eq!(contained, [false, false, true, true, false]);
    }

    #[test]
    fn one_byte_of_a_row_is_a_mismatch_and_a_hint_is_none() {
        let ours = page_at(15);
        assert!(matches!(judge(KEY, ours.clone(), copy(&ours), Lsn(15)), Finding::Equal));
        let mut hinted = ours.clone();
        hinted[8000 + 21] |= 1;
        assert!(matches!(judge(KEY, ours.clone(), copy(&hinted), Lsn(15)), Finding::Equal));
        let mut damaged = ours.clone();
        damaged[8000 + 60] ^= 1;
        match judge(KEY, damaged.clone(), copy(&ours), Lsn(15)) {
            Finding::Differs(mismatch) => {
                assert_eq!((mismatch.ours, mismatch.version), (damaged, Lsn(15)));
                assert_eq!(mismatch.theirs, Some(copy(&ours)));
            }
            other => panic!("{other:?}"),
        }
    }
}
