//! Taking in pages as PostgreSQL wrote them, which come with LSNs of the past.
//!
//! The caller looks at what there is, makes new images of what workers made without the written pages, and
//! gives all to the store at once. An image that a worker makes meanwhile is not kept: it may lack what is about to
//! come.

use super::Store;
use crate::accounts::Account;
use crate::value::Version;
use quire_types::Key;

/// What a key is given.
#[derive(Clone, Debug)]
pub struct KeptPage {
    /// The key.
    pub key: Key,
    /// Its new versions.
    pub versions: Vec<Version>,
    /// The page's account with them; none if it is as it was.
    pub account: Option<Account>,
}

/// As long as it lives no image of a worker is kept.
#[derive(Debug)]
pub struct KeepingGuard<'a>(&'a Store);

impl Store {
    /// Begins the keeping of written pages. One continues at a time, and nothing is ingested meanwhile.
    pub fn begin_keeping(&self) -> KeepingGuard<'_> {
        self.write().epoch += 1;
        KeepingGuard(self)
    }
}

impl KeepingGuard<'_> {
    /// Takes in everything, at once.
    pub fn insert(&self, kept_pages: impl IntoIterator<Item = KeptPage>) {
        let mut tables = self.0.write();
        let tables = &mut *tables;
        for KeptPage { key, versions, account } in kept_pages {
            let account = account.unwrap_or_else(|| tables.accounts.get(key));
            tables.accounts.replace(key, account);
            versions.into_iter().for_each(|version| tables.open.insert(key, version, account));
        }
    }
}

impl Drop for KeepingGuard<'_> {
    fn drop(&mut self) {
        self.0.write().epoch += 1;
    }
}
