//! Making images: who is queued, and what a worker does with a page.

use super::backlog::Work;
use super::{MustWait, Timeline};
use crate::accounts::Account;
use crate::chain::Chain;
use crate::error::ReadError;
use crate::image_policy::{ImageChoice, choose};
use bytes::Bytes;
use quire_types::Key;

/// Why an image was made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ImageReason {
    /// The chain crossed a threshold.
    Threshold,
    /// A read met a chain past the threshold.
    Read,
}

/// What became of a page that waited for an image.
#[derive(Debug)]
pub enum ImageOutcome {
    /// The image is kept.
    Made(Key),
    /// The page was given another base meanwhile.
    NotNeeded(Key),
    /// The page cannot be rebuilt; it was put aside.
    Failed(Key, ReadError),
    /// A file that the page takes cannot be read; the page was put aside until [`Timeline::retry_unread_images`].
    Unread(Key),
}

impl ImageOutcome {
    fn work(&self) -> Work {
        match self {
            ImageOutcome::Made(_) | ImageOutcome::NotNeeded(_) => Work::Done,
            ImageOutcome::Failed(..) => Work::Broken,
            ImageOutcome::Unread(_) => Work::Unread,
        }
    }
}

impl Timeline {
    /// Pages that wait for an image.
    pub fn image_backlog(&self) -> usize {
        self.backlog.len()
    }

    /// Pages that cannot be rebuilt.
    pub fn broken_pages(&self) -> usize {
        self.backlog.broken()
    }

    /// The account with the most deltas.
    pub fn longest_chain(&self) -> Option<(Key, Account)> {
        self.store.longest_chains(1).pop()
    }

    /// Queues what the policy says of the pages that were just changed.
    pub(super) fn consider(&self, touched: &[(Key, Account)]) -> MustWait {
        let settings = self.settings();
        let mut must_wait = MustWait::No;
        for (key, account) in touched {
            // Most chains are short, and need no look at the backlog.
            if !settings.reached(account.deltas, account.bytes) {
                continue;
            }
            let (queued, backlog) = (self.backlog.contains(*key), self.backlog.len());
            match choose(account, &settings, queued, backlog, self.backlog.pages_max()) {
                ImageChoice::Wait => {}
                ImageChoice::Materialise => self.enqueue(*key, false),
                ImageChoice::Throttle => {
                    self.enqueue(*key, settings.reached_hard_limit(account));
                    must_wait = MustWait::Yes;
                }
            }
        }
        must_wait
    }

    fn enqueue(&self, key: Key, is_urgent: bool) {
        if self.backlog.add(key, is_urgent) {
            self.parts.pool.add(&self.this);
        }
    }

    /// Queues pages past the threshold that nobody queued yet: after a restart, or after a threshold was lowered.
    pub(super) fn sweep(&self) {
        let (room, excluded) = self.backlog.room();
        let pages = self.store.pages_past_threshold(&self.settings(), room, &excluded);
        self.backlog.set_sweep_again(pages.len() == room);
        pages.into_iter().for_each(|key| self.enqueue(key, false));
    }

    /// Queues pages again that were put aside for a file that could not be read: it may be back.
    pub fn retry_unread_images(&self) {
        if self.backlog.forgive_unread() {
            self.sweep();
        }
    }

    /// Makes the image of the page that has waited longest; none if none waits.
    pub fn make_next_image(&self) -> Option<ImageOutcome> {
        let key = self.backlog.take()?;
        let outcome = self.make_image(key);
        self.backlog.done(key, outcome.work());
        // Deltas that came since may have taken the page past the threshold again, and found it queued.
        let account = self.store.account(key);
        if self.settings().reached(account.deltas, account.bytes) {
            self.enqueue(key, false);
        }
        if self.backlog.wants_sweep() {
            self.sweep();
        }
        self.relief.announce();
        Some(outcome)
    }

    fn make_image(&self, key: Key) -> ImageOutcome {
        let account = self.store.account(key);
        if !self.settings().reached(account.deltas, account.bytes) {
            return ImageOutcome::NotNeeded(key);
        }
        match self.rebuild(key, account.last) {
            Err(ReadError::Storage(reason)) => {
                self.note_unread(&reason);
                ImageOutcome::Unread(key)
            }
            Err(error) => ImageOutcome::Failed(key, error),
            Ok((_, page)) => match self.store.keep_image(key, page, &account) {
                None => ImageOutcome::NotNeeded(key),
                Some(_) => {
                    self.metrics().image_made(ImageReason::Threshold);
                    ImageOutcome::Made(key)
                }
            },
        }
    }

    /// A read met a chain past the threshold: what it made is kept, unless a worker is about to make the same.
    pub(super) fn heal(&self, chain: &Chain, page: &Bytes) {
        let (key, lsn) = (chain.key(), chain.last_lsn());
        let account = self.store.account(key);
        let kept = match account.deltas > 0 && account.last == lsn {
            true => self.store.keep_image(key, page.clone(), &account).is_some(),
            false => self.store.keep_historical_image(key, lsn, page.clone()),
        };
        if kept {
            self.metrics().image_made(ImageReason::Read);
        }
    }
}
