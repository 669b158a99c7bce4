//! Comparing, all the time, a few of the pages that PostgreSQL wrote with storage's pages at the same LSNs.
//!
//! A full-page image hides a fault of redo at the next checkpoint. With full-page writes off nothing does, so a fault
//! has to be found by looking for it: a page in the cache with LSN L is what PostgreSQL made of the log up to L, and
//! storage's page as of L must equal it under the masks.
//!
//! ```text
//! a few times a second: draw pages from the cache ([`weights`]) -> compare ([`compare`]) -> equal: counted
//!     differs -> compared again, both copies read anew, several times -> differs every time: confirmed
//!     confirmed -> counted, logged, put aside with its chain ([`crate::evidence`]); its relation goes under guard
//!         ([`crate::guard`])
//!     a second relation, or storage does not keep up -> image generation goes back to PostgreSQL
//! ```
//!
//! What is looked at costs no fetch: only blocks that are present are read, and only by this process. Nothing is
//! installed or marked as touched, so the cache neither grows nor keeps a page for being sampled.
//!
//! Under a server that redo was not compared with before, more is looked at (`coverage`).
//!
//! Not sampled, beside what [`crate::verify`] does not compare either: visibility maps, whose bits PostgreSQL clears
//! before the record that says so and without raising the LSN; pages last written before this term began, which are
//! storage's own; pages whose LSN is not committed or not ingested yet.

mod compare;
mod coverage;
mod weights;

use crate::cached_files::CachedPage;
use crate::evidence::{self, Case};
use crate::handle::Handle;
use crate::session::Session;
use crate::{Error, conf, postgres};
use compare::{Comparison, DifferingPage, Finding, Scope};
use coverage::Sweep;
use quire_types::{Key, Lsn, RelTag};
use quire_wal::page;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;
use weights::{Weights, draw};

const PATIENCE: Duration = Duration::from_secs(20);
/// How long a list of the cache's files is used.
const INVENTORY_LIFETIME: Duration = Duration::from_secs(10);
/// Pages that are compared in one go.
const ROUND_PAGES_MAX: u32 = 256;
const ROUNDS_PER_SECOND: u32 = 4;
/// How often a page that differs is looked at again; the pauses before double.
const ATTEMPTS: u32 = 5;
const ATTEMPT_DELAY: Duration = Duration::from_millis(50);
/// Mismatches that are remembered, so that none is told twice.
const KNOWN_MAX: usize = 1000;
/// How often switching image generation back is tried.
const SWITCHES_MAX: u32 = 3;

/// Compares `rate` pages a second of the compute behind `handle` until aborted; none if it is 0.
pub async fn run(handle: Handle, rate: u32) {
    let Some((pages, pause)) = pace(rate) else { return };
    let mut tick = tokio::time::interval(pause);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sampler =
        Sampler { handle, weights: None, known: HashSet::new(), switches_left: 0, sweep: Sweep::default() };
    loop {
        quire_crash::plant("compute.sample");
        tick.tick().await;
        if let Err(error) = sampler.round(pages).await {
            tracing::debug!(%error, "no pages are compared for now");
        }
        if let Err(error) = sampler.cover().await {
            tracing::debug!(%error, "no more pages of this server are compared for now");
        }
    }
}

/// How many pages to compare at a time, and how often, for so many a second.
fn pace(rate: u32) -> Option<(usize, Duration)> {
    let pages = (rate / ROUNDS_PER_SECOND).clamp(1, ROUND_PAGES_MAX);
    (rate > 0).then(|| (pages as usize, Duration::from_secs(1) * pages / rate))
}

struct Sampler {
    handle: Handle,
    /// The files, whose they are, and when they were listed.
    weights: Option<(Arc<Weights>, Arc<Session>, Instant)>,
    known: HashSet<(Key, Lsn)>,
    switches_left: u32,
    sweep: Sweep,
}

impl Sampler {
    async fn round(&mut self, pages: usize) -> Result<(), Error> {
        let Some((session, _)) = self.handle.running() else {
            self.weights = None;
            return Ok(());
        };
        self.turn_pushdown_off().await;
        if session.guard.is_overwhelmed() {
            tracing::error!("several relations differ from storage's, or it takes too long to keep their pages");
            self.give_pushdown_up().await;
        }
        let scope = scope(&session);
        for page in self.draw(&session, scope, pages).await? {
            match Comparison::new(&session, scope).of(&page).await? {
                Finding::Incomparable => {}
                Finding::Equal => self.handle.metrics().sampled(),
                Finding::Differs(mismatch) => {
                    self.handle.metrics().sampled();
                    self.suspect(&session, &page, &mismatch).await?;
                }
            }
        }
        Ok(())
    }

    async fn draw(&mut self, session: &Arc<Session>, scope: Scope, pages: usize) -> Result<Vec<CachedPage>, Error> {
        let weights = self.weights(session).await?;
        let dir = self.handle.setting().cache_dir();
        let drawing = move || draw(&dir, &weights, scope, pages, &mut |below| rand::random::<u64>() % below.max(1));
        tokio::task::spawn_blocking(drawing).await.map_err(|_| Error::ShuttingDown)
    }

    /// The cache's files, as they were a moment ago.
    async fn weights(&mut self, session: &Arc<Session>) -> Result<Arc<Weights>, Error> {
        let is_usable = |(_, whose, since): &(_, Arc<Session>, Instant)| {
            Arc::ptr_eq(whose, session) && since.elapsed() < INVENTORY_LIFETIME
        };
        if let Some((weights, ..)) = self.weights.as_ref().filter(|entry| is_usable(entry)) {
            return Ok(weights.clone());
        }
        let dir = self.handle.setting().cache_dir();
        let listed = tokio::task::spawn_blocking(move || Weights::take(&dir)).await;
        let weights = Arc::new(listed.map_err(|_| Error::ShuttingDown)?);
        self.weights = Some((weights.clone(), session.clone(), Instant::now()));
        Ok(weights)
    }

    /// A page differs. It may have been read while it was being written, or be about to go away; what still differs
    /// when both copies were read anew a few times is confirmed.
    async fn suspect(&mut self, session: &Arc<Session>, page: &CachedPage, first: &DifferingPage) -> Result<(), Error> {
        if self.known.contains(&identity(page, first)) {
            return Ok(());
        }
        let mut last = None;
        for attempt in 0..ATTEMPTS {
            tokio::time::sleep(ATTEMPT_DELAY * (1 << attempt)).await;
            match Comparison::new(session, scope(session)).of(page).await? {
                Finding::Differs(mismatch) => last = Some(mismatch),
                Finding::Equal | Finding::Incomparable => return Ok(()),
            }
        }
        // The files may have become another term's in the meantime.
        let is_current = self.handle.session().is_some_and(|current| Arc::ptr_eq(&current, session));
        if let Some(mismatch) = last.filter(|_| is_current) {
            self.confirm(session, page, &mismatch).await;
        }
        Ok(())
    }

    async fn confirm(&mut self, session: &Session, page: &CachedPage, mismatch: &DifferingPage) {
        if self.known.len() >= KNOWN_MAX || !self.known.insert(identity(page, mismatch)) {
            return;
        }
        self.handle.metrics().sample_differs();
        let (ours, theirs, refusal) = (&mismatch.ours, mismatch.theirs.as_deref(), mismatch.refusal.as_deref());
        let case = Case { page, version: mismatch.version, ours, theirs, refusal };
        let kept = evidence::put_aside(self.handle.config(), session, &case).await;
        tracing::error!(
            relation = page.relation(),
            block = page.block,
            lsn = %page::lsn(&ours[..]),
            ?refusal,
            ?kept,
            "a page that PostgreSQL wrote differs from storage's"
        );
        if let Err(error) = self.guard(session, page.rel).await {
            tracing::error!(%error, "a relation cannot be put under guard");
            self.give_pushdown_up().await;
        }
    }

    async fn guard(&self, session: &Session, rel: RelTag) -> Result<(), Error> {
        session.guard.add(rel, session.committed()).await?;
        // Whatever PostgreSQL has changed until now is written, and kept, by this.
        Ok(postgres::connect(self.handle.config(), "postgres").await?.batch_execute("CHECKPOINT").await?)
    }

    async fn give_pushdown_up(&mut self) {
        if conf::read_pushdown(self.handle.config()) {
            self.switches_left = SWITCHES_MAX;
            self.turn_pushdown_off().await;
        }
    }

    /// With full-page images in the log again, a page is right from its next change after a checkpoint on, whatever
    /// redo made of it.
    async fn turn_pushdown_off(&mut self) {
        if self.switches_left == 0 {
            return;
        }
        self.switches_left -= 1;
        match self.handle.pushdown(false).await {
            Ok(()) => {
                self.switches_left = 0;
                tracing::error!("image generation pushdown is off, because pages differ from storage's");
            }
            Err(error) => tracing::error!(%error, "image generation pushdown cannot be turned off"),
        }
    }
}

fn identity(page: &CachedPage, mismatch: &DifferingPage) -> (Key, Lsn) {
    (page.key(), page::lsn(&mismatch.ours[..]))
}

/// Which LSNs can be compared now.
fn scope(session: &Session) -> Scope {
    let ingested = session.position.borrow().ingested;
    Scope { after: session.start, upto: ingested.min(session.committed()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_what_was_asked_for() {
        assert_eq!(pace(0), None);
        assert_eq!(pace(1), Some((1, Duration::from_secs(1))));
        assert_eq!(pace(20), Some((5, Duration::from_millis(250))));
        for rate in [3, 7, 1000, 100_000] {
            let (pages, pause) = pace(rate).expect("on");
            let per_second = pages as f64 / pause.as_secs_f64();
            assert!((per_second / f64::from(rate) - 1.0).abs() < 0.01, "{rate}: {per_second}");
        }
    }
}
