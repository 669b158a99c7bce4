//! Which pages of a shard are queued, and what a worker does with one of them.

use super::backlog::{Backlog, Work};
use super::{HasBacklog, ImagePool};
use crate::ingest_gate::{IngestGate, MustWait};
use crate::metrics::ShardMetrics;
use crate::rebuilder::Rebuilder;
use bytes::Bytes;
use parking_lot::RwLock;
use quire_layers::accounts::Account;
use quire_layers::chain::Chain;
use quire_layers::error::{ReadError, StorageError};
use quire_layers::image_policy::{ImageChoice, ImageReason, ImageSettings, choose};
use quire_layers::store::Store;
use quire_types::{Key, Lsn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::error;

/// What became of a page that waited for an image.
#[derive(Debug)]
pub enum ImageOutcome {
    /// The image is kept.
    Made(Key),
    /// The page was given another base meanwhile.
    NotNeeded(Key),
    /// The page cannot be rebuilt; it was put aside.
    Failed(Key, ReadError),
    /// A file that the page takes cannot be read; the page was put aside until [`ImageMaker::retry_unread`].
    Unread(Key),
    /// Bytes of the page were not logged and may still come: an image would lack them. Or its relation is under guard.
    /// The page was put aside until it comes as it was written, or is [settled](ImageMaker::settle).
    Incomplete(Key, Incomplete),
}

/// The chain of a page of which bytes were not logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Incomplete {
    /// LSN of the image that was logged without them.
    base: Lsn,
    /// The name of the page's account.
    since: Lsn,
    epoch: u64,
}

impl ImageOutcome {
    fn work(&self) -> Work {
        match self {
            ImageOutcome::Made(_) | ImageOutcome::NotNeeded(_) => Work::Done,
            ImageOutcome::Failed(..) => Work::Broken,
            ImageOutcome::Unread(_) => Work::Unread,
            ImageOutcome::Incomplete(_, Incomplete { since, .. }) => Work::Incomplete(*since),
        }
    }
}

/// Makes the images of one shard.
#[derive(Debug)]
pub struct ImageMaker {
    rebuilder: Arc<Rebuilder>,
    settings: RwLock<ImageSettings>,
    settled: AtomicU64,
    backlog: Backlog,
    gate: Arc<IngestGate>,
    pool: Arc<ImagePool>,
    metrics: ShardMetrics,
}

impl HasBacklog for ImageMaker {
    fn work_off(self: Arc<ImageMaker>) {
        if let Some(ImageOutcome::Failed(key, reason)) = self.make_next() {
            error!(%key, %reason, "cannot make an image; reads of the page will fail");
        }
    }
}

impl ImageMaker {
    /// Queues the chains of a shard that are too long already. Ingest waits at `gate` once `backlog_max` pages wait for
    /// an image.
    pub fn new(
        rebuilder: Arc<Rebuilder>,
        gate: Arc<IngestGate>,
        pool: Arc<ImagePool>,
        backlog_max: usize,
        metrics: ShardMetrics,
    ) -> Arc<ImageMaker> {
        let (settings, settled) = (RwLock::new(rebuilder.store().settings()), AtomicU64::new(0));
        let backlog = Backlog::new(backlog_max);
        let maker = Arc::new(ImageMaker { rebuilder, settings, settled, backlog, gate, pool, metrics });
        maker.sweep();
        maker
    }

    /// When to make images.
    pub fn settings(&self) -> ImageSettings {
        *self.settings.read()
    }

    /// Changes when to make images, durably and at once: pages that are past a lower threshold are queued.
    pub fn set_settings(self: &Arc<ImageMaker>, settings: ImageSettings) -> Result<(), StorageError> {
        self.store().set_settings(settings)?;
        *self.settings.write() = settings;
        self.sweep();
        Ok(())
    }

    /// Whether ingest need not wait for images.
    pub fn has_room(&self) -> bool {
        self.backlog.has_room()
    }

    /// Pages that wait for an image.
    pub fn backlog_pages(&self) -> usize {
        self.backlog.len()
    }

    /// Pages that cannot be rebuilt.
    pub fn broken_pages(&self) -> usize {
        self.backlog.broken()
    }

    /// Pages past the threshold that get no image because bytes of theirs were not logged and may still come.
    pub fn incomplete_pages(&self) -> usize {
        let is_still = |(key, since): &(Key, Lsn)| self.store().account(*key).since == *since;
        self.backlog.incomplete().iter().filter(|page| is_still(page)).count()
    }

    /// Up to where bytes that were not logged will not come any more.
    pub fn settled(&self) -> Lsn {
        Lsn(self.settled.load(Ordering::SeqCst))
    }

    /// Notes that bytes that were not logged up to `lsn` will not come any more, as after a crash of PostgreSQL: pages
    /// are what the log says, and images may be made of them.
    pub fn settle(self: &Arc<ImageMaker>, lsn: Lsn) {
        let before = self.settled.fetch_max(lsn.0, Ordering::SeqCst);
        if before < lsn.0 && self.backlog.complete_all() {
            self.sweep();
        }
    }

    /// Takes pages up again of which written pages were kept.
    pub fn take_up(self: &Arc<ImageMaker>, keys: impl IntoIterator<Item = Key>) {
        let settings = self.settings();
        for key in keys {
            self.backlog.complete(key);
            let account = self.store().account(key);
            if settings.reached(account.deltas, account.bytes) {
                self.enqueue(key, false);
            }
        }
    }

    /// Whether an image of the chain would lack bytes that may still come.
    fn is_incomplete(&self, chain: &Chain) -> bool {
        chain.partial_lsn().is_some_and(|lsn| lsn > self.settled())
    }

    /// The account with the most deltas.
    pub fn longest_chain(&self) -> Option<(Key, Account)> {
        self.store().longest_chains(1).pop()
    }

    /// Queues what the policy says of the pages that were just changed.
    pub fn consider(self: &Arc<ImageMaker>, touched: &[(Key, Account)]) -> MustWait {
        let settings = self.settings();
        let mut must_wait = MustWait::No;
        for (key, account) in touched {
            let backlog = || self.backlog.view(*key, account.since);
            match choose(account, &settings, backlog) {
                ImageChoice::Wait => {}
                ImageChoice::Queue => self.enqueue(*key, false),
                ImageChoice::QueueAndHold => {
                    self.enqueue(*key, false);
                    must_wait = MustWait::Yes;
                }
                ImageChoice::QueueFirstAndHold => {
                    self.enqueue(*key, true);
                    must_wait = MustWait::Yes;
                }
            }
        }
        must_wait
    }

    fn enqueue(self: &Arc<ImageMaker>, key: Key, is_urgent: bool) {
        if self.backlog.add(key, is_urgent) {
            let maker = Arc::downgrade(self);
            self.pool.add(maker);
        }
    }

    /// Queues pages past the threshold that are not queued yet: after a restart, or after a threshold was lowered.
    fn sweep(self: &Arc<ImageMaker>) {
        let (room, excluded) = self.backlog.room();
        let pages = self.store().pages_past_threshold(&self.settings(), room, &excluded);
        self.backlog.set_sweep_again(pages.len() == room);
        pages.into_iter().for_each(|key| self.enqueue(key, false));
    }

    /// Queues pages again that were put aside for a file that could not be read: it may be back.
    pub fn retry_unread(self: &Arc<ImageMaker>) {
        if self.backlog.clear_unread() {
            self.sweep();
        }
    }

    /// Makes the image of the page that has waited longest; none if none waits.
    pub fn make_next(self: &Arc<ImageMaker>) -> Option<ImageOutcome> {
        let key = self.backlog.take()?;
        let outcome = self.make_image(key);
        self.backlog.done(key, outcome.work());
        if let ImageOutcome::Incomplete(_, chain) = &outcome
            && (chain.base <= self.settled() || chain.epoch != self.store().epoch())
        {
            // What was missing came, or was settled, before the page was put aside.
            self.backlog.complete(key);
        }
        // Deltas that came since may have taken the page past the threshold again, and found it queued.
        let account = self.store().account(key);
        if self.settings().reached(account.deltas, account.bytes) {
            self.enqueue(key, false);
        }
        if self.backlog.wants_sweep() {
            self.sweep();
        }
        self.gate.announce();
        Some(outcome)
    }

    fn store(&self) -> &Store {
        self.rebuilder.store()
    }

    fn make_image(&self, key: Key) -> ImageOutcome {
        let account = self.store().account(key);
        if !self.settings().reached(account.deltas, account.bytes) {
            return ImageOutcome::NotNeeded(key);
        }
        match self.rebuilder.rebuild(key, account.last) {
            Err(ReadError::Storage(reason)) => {
                self.rebuilder.note_unread(&reason);
                ImageOutcome::Unread(key)
            }
            Err(error) => ImageOutcome::Failed(key, error),
            Ok((chain, _)) if self.rebuilder.guard().forbids(&chain).is_some() => {
                let (base, since) = (Lsn::MAX, account.since);
                ImageOutcome::Incomplete(key, Incomplete { base, since, epoch: chain.epoch() })
            }
            Ok((chain, _)) if self.is_incomplete(&chain) => {
                let (base, since) = (chain.floor(), account.since);
                ImageOutcome::Incomplete(key, Incomplete { base, since, epoch: chain.epoch() })
            }
            Ok((chain, page)) => match self.store().keep_image(key, page, &account, chain.epoch()) {
                None => ImageOutcome::NotNeeded(key),
                Some(_) => {
                    self.metrics.image_made(ImageReason::Threshold);
                    ImageOutcome::Made(key)
                }
            },
        }
    }

    /// A read met a chain past the threshold: what it made is kept, unless a worker is about to make the same.
    pub fn heal(&self, chain: &Chain, page: &Bytes) {
        if self.is_incomplete(chain) || self.rebuilder.guard().forbids(chain).is_some() {
            return;
        }
        let (key, lsn, epoch) = (chain.key(), chain.last_lsn(), chain.epoch());
        let account = self.store().account(key);
        let kept = if account.deltas > 0 && account.last == lsn {
            self.store().keep_image(key, page.clone(), &account, epoch).is_some()
        } else {
            self.store().keep_historical_image(key, lsn, page.clone(), epoch)
        };
        if kept {
            self.metrics.image_made(ImageReason::Read);
        }
    }
}
