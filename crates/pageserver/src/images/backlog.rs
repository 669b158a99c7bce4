//! The pages of one shard that wait for an image.
//!
//! A page is in the backlog once, from the moment it is queued until its image is kept. Urgent pages come first. A page
//! that cannot be rebuilt is put aside: reads of it report the error, and the branch continues. If it was a file that
//! could not be read, the page is taken up again some time later. A page is put aside, too, whose image would lack what
//! only PostgreSQL has yet: until that comes, or it is certain that it will not.

use parking_lot::{Mutex, MutexGuard};
use quire_layers::image_policy::BacklogView;
use quire_types::{Key, Lsn};
use std::collections::{HashMap, HashSet, VecDeque};

#[derive(Debug)]
pub(super) struct Backlog {
    pages_max: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    pages: HashMap<Key, Stage>,
    normal: VecDeque<Key>,
    urgent: VecDeque<Key>,
    urgent_pages: usize,
    broken: HashSet<Key>,
    unread: HashSet<Key>,
    /// Incomplete pages, and the names of their chains ([`quire_layers::accounts::Account::since`]).
    incomplete: HashMap<Key, Lsn>,
    sweep_again: bool,
}

/// How the work on a page ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Work {
    Done,
    /// The page cannot be rebuilt.
    Broken,
    /// A file that it takes cannot be read.
    Unread,
    /// Bytes of the page were not logged and may still come; of the chain of that name.
    Incomplete(Lsn),
}

impl Inner {
    fn is_put_aside(&self, key: Key) -> bool {
        self.broken.contains(&key) || self.unread.contains(&key) || self.incomplete.contains_key(&key)
    }
}

#[derive(Clone, Copy, Default, Debug)]
struct Stage {
    is_urgent: bool,
    is_worked_on: bool,
}

impl Backlog {
    pub(super) fn new(pages_max: usize) -> Backlog {
        Backlog { pages_max: pages_max.max(1), inner: Mutex::default() }
    }

    /// Pages in it.
    pub(super) fn len(&self) -> usize {
        self.lock().pages.len()
    }

    /// Pages that cannot be rebuilt, or not before a file can be read again.
    pub(super) fn broken(&self) -> usize {
        let inner = self.lock();
        inner.broken.len() + inner.unread.len()
    }

    /// Incomplete pages, and the names of their chains.
    pub(super) fn incomplete(&self) -> Vec<(Key, Lsn)> {
        self.lock().incomplete.iter().map(|(key, since)| (*key, *since)).collect()
    }

    /// What it has to do with a page whose chain is called `since`. An incomplete page that was given another base by
    /// the log is not incomplete any more.
    pub(super) fn view(&self, key: Key, since: Lsn) -> BacklogView {
        let mut inner = self.lock();
        if inner.incomplete.get(&key).is_some_and(|known| *known != since) {
            inner.incomplete.remove(&key);
        }
        BacklogView {
            queued: inner.pages.contains_key(&key),
            held_back: inner.is_put_aside(key),
            pages: inner.pages.len(),
            pages_max: self.pages_max,
        }
    }

    /// Takes a page up again that was incomplete.
    pub(super) fn complete(&self, key: Key) {
        self.lock().incomplete.remove(&key);
    }

    /// Takes all pages up again that were incomplete; says whether there were any.
    pub(super) fn complete_all(&self) -> bool {
        !std::mem::take(&mut self.lock().incomplete).is_empty()
    }

    /// Whether ingest may continue.
    pub(super) fn has_room(&self) -> bool {
        let inner = self.lock();
        inner.pages.len() < self.pages_max && inner.urgent_pages == 0
    }

    /// Pages that can be added, and those that must not be.
    pub(super) fn room(&self) -> (usize, HashSet<Key>) {
        let inner = self.lock();
        let put_aside = inner.broken.iter().chain(&inner.unread).chain(inner.incomplete.keys());
        let excluded = inner.pages.keys().chain(put_aside).copied().collect();
        (self.pages_max.saturating_sub(inner.pages.len()), excluded)
    }

    /// Queues a page; says whether it was not there yet.
    pub(super) fn add(&self, key: Key, is_urgent: bool) -> bool {
        let mut inner = self.lock();
        if inner.is_put_aside(key) {
            return false;
        }
        let is_new = !inner.pages.contains_key(&key);
        let stage = inner.pages.entry(key).or_default();
        let becomes_urgent = is_urgent && !stage.is_urgent;
        stage.is_urgent |= is_urgent;
        match (becomes_urgent, is_new) {
            (true, _) => {
                inner.urgent_pages += 1;
                inner.urgent.push_back(key);
            }
            (false, true) => inner.normal.push_back(key),
            (false, false) => {}
        }
        is_new
    }

    /// The next page to work on.
    pub(super) fn take(&self) -> Option<Key> {
        let mut inner = self.lock();
        loop {
            let next = inner.urgent.pop_front();
            let key = next.or_else(|| inner.normal.pop_front())?;
            // A page that became urgent while it waited stands in both queues.
            if let Some(stage) = inner.pages.get_mut(&key).filter(|stage| !stage.is_worked_on) {
                stage.is_worked_on = true;
                return Some(key);
            }
        }
    }

    /// The page was worked on; if that failed it is put aside.
    pub(super) fn done(&self, key: Key, work: Work) {
        let mut inner = self.lock();
        let stage = inner.pages.remove(&key).unwrap_or_default();
        inner.urgent_pages -= usize::from(stage.is_urgent);
        match work {
            Work::Done => {}
            Work::Broken => drop(inner.broken.insert(key)),
            Work::Unread => drop(inner.unread.insert(key)),
            Work::Incomplete(since) => drop(inner.incomplete.insert(key, since)),
        }
    }

    /// Takes pages up again that are put aside for files that could not be read; says whether there were any.
    pub(super) fn clear_unread(&self) -> bool {
        !std::mem::take(&mut self.lock().unread).is_empty()
    }

    /// Remembers whether there are more pages past the threshold than had room.
    pub(super) fn set_sweep_again(&self, again: bool) {
        self.lock().sweep_again = again;
    }

    /// Whether it is time to look for pages that had no room before.
    pub(super) fn wants_sweep(&self) -> bool {
        let inner = self.lock();
        inner.sweep_again && inner.pages.len() <= self.pages_max / 2
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(xid: u32) -> Key {
        Key::TwoPhase { xid }
    }

    /// Whether no image can be made of page 1, whose chain is called so.
    fn is_held_back(backlog: &Backlog, since: u64) -> bool {
        backlog.view(key(1), Lsn(since)).held_back
    }

    #[test]
    fn urgent_pages_come_first_and_no_page_comes_twice() {
        let backlog = Backlog::new(10);
        assert!(backlog.add(key(1), false) && backlog.add(key(2), false));
        assert!(!backlog.add(key(2), true) && !backlog.add(key(1), false));
        assert!(!backlog.has_room(), "an urgent page waits");
        assert_eq!([backlog.take(), backlog.take(), backlog.take()], [Some(key(2)), Some(key(1)), None]);
        backlog.done(key(2), Work::Done);
        assert!(backlog.has_room());
        assert_eq!(backlog.len(), 1);
    }

    #[test]
    fn a_page_that_becomes_urgent_in_work_holds_ingest_until_it_is_done() {
        let backlog = Backlog::new(10);
        backlog.add(key(1), false);
        assert_eq!(backlog.take(), Some(key(1)));
        assert!(!backlog.add(key(1), true));
        assert_eq!((backlog.take(), backlog.has_room()), (None, false));
        backlog.done(key(1), Work::Done);
        assert!(backlog.has_room() && backlog.add(key(1), false));
    }

    #[test]
    fn a_broken_page_is_not_queued_again() {
        let backlog = Backlog::new(10);
        backlog.add(key(1), true);
        backlog.take();
        backlog.done(key(1), Work::Broken);
        assert!(!backlog.add(key(1), true) && backlog.has_room() && is_held_back(&backlog, 0));
    }

    #[test]
    fn an_incomplete_page_is_not_queued_until_it_is_complete_or_has_another_base() {
        let backlog = Backlog::new(10);
        let put_aside = || {
            backlog.add(key(1), true);
            assert_eq!(backlog.take(), Some(key(1)));
            backlog.done(key(1), Work::Incomplete(Lsn(7)));
            assert!(!backlog.add(key(1), true) && backlog.has_room() && backlog.broken() == 0);
            assert!(is_held_back(&backlog, 7) && backlog.room().1.contains(&key(1)));
        };
        put_aside();
        backlog.complete(key(1));
        put_aside();
        assert!(backlog.complete_all() && !backlog.complete_all());
        put_aside();
        assert!(!is_held_back(&backlog, 8) && backlog.incomplete().is_empty());
        assert!(backlog.add(key(1), false));
    }

    #[test]
    fn a_page_of_an_unread_file_is_queued_again_once_forgiven() {
        let backlog = Backlog::new(10);
        backlog.add(key(1), false);
        backlog.take();
        backlog.done(key(1), Work::Unread);
        assert!(!backlog.add(key(1), false) && is_held_back(&backlog, 0) && backlog.broken() == 1);
        assert!(backlog.clear_unread() && !backlog.clear_unread());
        assert!(backlog.add(key(1), false) && backlog.take() == Some(key(1)));
    }
}
