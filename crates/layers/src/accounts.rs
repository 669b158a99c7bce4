//! Image accounts: for each page, how much a read would have to replay.
//!
//! An account is what is between a page's newest base (an image, a delta that initialises the page) and its newest
//! version. Pages that need no replay have none. The account of a page changes only when a version of the page is taken
//! in, under the same lock; so the account as of that moment is kept beside the version, travels with it into the layer
//! file, and the newest layer that has the page has its account too. That is how chains carry over layer boundaries and
//! restarts.
//!
//! Memory: about a hundred bytes for each page that has deltas since its last image.

use crate::value::{Kind, Version};
use quire_types::{Key, Lsn};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// The deltas of one page since its last base.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Account {
    /// How many.
    pub deltas: u32,
    /// How long they are together, encoded.
    pub bytes: u64,
    /// Names the chain: the LSN of its first delta, or of the image that last shortened it.
    pub since: Lsn,
    /// LSN of the newest delta.
    pub last: Lsn,
}

impl Account {
    /// The account after one more version.
    #[must_use]
    pub fn after(self, version: &Version) -> Account {
        let bytes = version.payload.len() as u64;
        match version.kind {
            Kind::Delta if self.deltas > 0 => Account {
                deltas: self.deltas.saturating_add(1),
                bytes: self.bytes.saturating_add(bytes),
                since: self.since,
                last: version.lsn,
            },
            Kind::Delta | Kind::InitialDelta => Account { deltas: 1, bytes, since: version.lsn, last: version.lsn },
            Kind::Image | Kind::Written | Kind::Partial | Kind::Tombstone | Kind::Bytes => Account::default(),
        }
    }

    /// What remains once there is an image of what `settled` counted; none if this is another chain by now.
    fn minus(self, settled: &Account) -> Option<Account> {
        if self.since != settled.since || self.last < settled.last {
            return None;
        }
        let deltas = self.deltas.checked_sub(settled.deltas)?;
        match deltas {
            0 => Some(Account::default()),
            _ => Some(Account {
                deltas,
                bytes: self.bytes.saturating_sub(settled.bytes),
                since: settled.last,
                last: self.last,
            }),
        }
    }
}

/// The accounts of a branch's pages.
#[derive(Debug, Default)]
pub struct Accounts {
    pages: HashMap<Key, Account>,
}

impl Accounts {
    /// Counts a version that was just taken in as the page's newest, and gives the account as it is now.
    pub fn record(&mut self, key: Key, version: &Version) -> Account {
        let account = self.get(key).after(version);
        self.set(key, account);
        account
    }

    /// Takes off what an image now covers: `settled` is the account as it was when the image's LSN was chosen. Gives
    /// the rest, or nothing if the page has been given another base since, so that the image is not needed.
    pub fn settle(&mut self, key: Key, settled: &Account) -> Option<Account> {
        let rest = self.get(key).minus(settled)?;
        self.set(key, rest);
        Some(rest)
    }

    /// Replaces the account of a page that was given a base below its newest version.
    pub fn replace(&mut self, key: Key, account: Account) {
        self.set(key, account);
    }

    /// The account of a page; an empty one if nothing has to be replayed.
    pub fn get(&self, key: Key) -> Account {
        self.pages.get(&key).copied().unwrap_or_default()
    }

    /// Puts back what a layer carries, older layers first.
    pub fn restore(&mut self, carry: &Carry) {
        self.set(carry.key, carry.account);
    }

    /// All accounts, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Key, Account)> {
        self.pages.iter().map(|(key, account)| (*key, *account))
    }

    /// The pages with the most deltas, longest chains first.
    pub fn longest(&self, count: usize) -> Vec<(Key, Account)> {
        // The smallest of the longest ones is on top.
        let mut longest = BinaryHeap::with_capacity(count.min(self.pages.len()) + 1);
        for (key, account) in &self.pages {
            longest.push(Reverse((account.deltas, Reverse(*key))));
            if longest.len() > count {
                longest.pop();
            }
        }
        let sorted = longest.into_sorted_vec().into_iter();
        sorted.map(|Reverse((_, Reverse(key)))| (key, self.get(key))).collect()
    }

    fn set(&mut self, key: Key, account: Account) {
        match account.deltas {
            0 => self.pages.remove(&key),
            _ => self.pages.insert(key, account),
        };
    }
}

/// A page's account as a layer keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Carry {
    /// The page.
    pub key: Key,
    /// Its account when the layer was frozen; empty if nothing had to be replayed.
    pub account: Account,
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use quire_types::Slru;

    const PAGE: Key = Key::SlruBlock { slru: Slru::Clog, page: 0 };

    fn version(lsn: u64, kind: Kind) -> Version {
        Version { lsn: Lsn(lsn), kind, payload: Bytes::from_static(b"0123456789") }
    }

    fn chain(accounts: &mut Accounts, lsns: std::ops::Range<u64>) {
        lsns.for_each(|lsn| {
            accounts.record(PAGE, &version(lsn, Kind::Delta));
        });
    }

    #[test]
    fn deltas_add_up_and_every_base_starts_again() {
        let mut accounts = Accounts::default();
        chain(&mut accounts, 10..14);
        assert_eq!(accounts.get(PAGE), Account { deltas: 4, bytes: 40, since: Lsn(10), last: Lsn(13) });
        accounts.record(PAGE, &version(20, Kind::InitialDelta));
        assert_eq!(accounts.get(PAGE), Account { deltas: 1, bytes: 10, since: Lsn(20), last: Lsn(20) });
        accounts.record(PAGE, &version(30, Kind::Image));
        assert_eq!(accounts.get(PAGE), Account::default());
        assert_eq!(accounts.iter().count(), 0);
    }

    #[test]
    fn an_image_takes_off_what_it_covers_and_leaves_what_came_since() {
        let mut accounts = Accounts::default();
        chain(&mut accounts, 10..14);
        let picked = accounts.get(PAGE);
        chain(&mut accounts, 14..16);
        let rest = Account { deltas: 2, bytes: 20, since: Lsn(13), last: Lsn(15) };
        assert_eq!(accounts.settle(PAGE, &picked), Some(rest));
        assert_eq!(accounts.settle(PAGE, &picked), None, "the same image twice");
        assert_eq!(accounts.get(PAGE), rest);
    }

    #[test]
    fn an_image_of_a_chain_that_ended_is_not_needed() {
        let mut accounts = Accounts::default();
        chain(&mut accounts, 10..14);
        let picked = accounts.get(PAGE);
        accounts.record(PAGE, &version(20, Kind::Image));
        assert_eq!(accounts.settle(PAGE, &picked), None);
        chain(&mut accounts, 21..30);
        assert_eq!(accounts.settle(PAGE, &picked), None);
        assert_eq!(accounts.get(PAGE).deltas, 9);
    }

    #[test]
    fn the_longest_chains_come_first() {
        let mut accounts = Accounts::default();
        for page in 1..=50u32 {
            let key = Key::SlruBlock { slru: Slru::Clog, page };
            (0..page).for_each(|lsn| {
                accounts.record(key, &version(u64::from(lsn) + 1, Kind::Delta));
            });
        }
        let deltas: Vec<_> = accounts.longest(3).iter().map(|(_, account)| account.deltas).collect();
        assert_eq!(deltas, [50, 49, 48]);
        assert_eq!(accounts.longest(1000).len(), 50);
    }
}
