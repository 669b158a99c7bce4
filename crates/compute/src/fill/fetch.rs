//! Bringing blocks from storage into the cache: those that a backend waits for, and those that one is going to
//! want.
//!
//! A block is fetched by the thread that made it *filling*; others who need it wait until it is not. Whatever is
//! fetched, many blocks are one request, and many requests are under way.

use super::FillError;
use super::files::{CacheFile, Files};
use super::prefetch::PrefetchQueue;
use super::read_ahead::{ReadAhead, Step, WINDOW_BLOCKS_MAX};
use crate::Config;
use crate::fullness::Fullness;
use crate::metrics::{FetchReason, Metrics};
use crate::page_client::PageClient;
use parking_lot::{Mutex, MutexGuard};
use quire_cache::FileId;
use quire_protocol::page::ErrorCode;
use quire_types::PAGE_SIZE;
use std::io::ErrorKind;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// How long blocks that were not asked for may be kept from those who do.
const AHEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait until pages have left a full disk, and how long between two looks.
const ROOM_PATIENCE: Duration = Duration::from_secs(10);
const ROOM_PAUSE: Duration = Duration::from_millis(50);
/// Blocks in one request (512 KiB of pages): large enough that requests cost little, small enough to keep several
/// processors busy.
const REQUEST_BLOCKS: u32 = 64;
/// Windows up to this length are fetched together with the block that a backend waits for.
const JOINED_BLOCKS_MAX: u32 = 16;
/// How many requests ahead of readers may be under way (32 MiB of pages); more are not made.
const AHEAD_REQUESTS_MAX: usize = 64;
/// No window is longer than this part of a bounded cache.
const WINDOW_SHARE: u64 = 32;

/// Fetches blocks for one session.
#[derive(Debug)]
pub struct Fetcher {
    files: Arc<Files>,
    client: PageClient,
    metrics: Arc<Metrics>,
    fullness: Arc<Fullness>,
    read_ahead: Mutex<ReadAhead>,
    ahead_requests: Arc<Semaphore>,
    prefetches: Mutex<PrefetchQueue>,
    /// Processes that wait for a fetch.
    waiting: AtomicUsize,
    /// How long a process waits for a page while storage does not answer; then it gets an I/O error.
    patience: Duration,
}

/// What is done about a refusal of storage that may pass.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refusals {
    /// Storage is asked again: nothing is asked for but what a backend waits for.
    Retried,
    /// It is the answer: what was asked for besides must not keep a reader waiting.
    Final,
}

impl Fetcher {
    /// Fetches into `files` from where `client` leads.
    pub fn new(
        config: &Config,
        files: Arc<Files>,
        client: PageClient,
        metrics: Arc<Metrics>,
        fullness: Arc<Fullness>,
    ) -> Fetcher {
        Fetcher {
            files,
            client,
            metrics,
            fullness,
            read_ahead: Mutex::new(ReadAhead::new(window_blocks_max(config.tuning.cache_size().bytes()))),
            ahead_requests: Arc::new(Semaphore::new(AHEAD_REQUESTS_MAX)),
            prefetches: Mutex::default(),
            waiting: AtomicUsize::new(0),
            patience: Duration::from_secs(config.tuning.read_deadline()),
        }
    }

    /// The files that are filled.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// The disk is full: has pages leave, unless none may.
    pub fn make_room(&self) -> bool {
        self.fullness.disk_is_full()
    }

    /// Whether some process waits for a fetch at this moment.
    pub fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Brings in `blocks`, which a backend waits for, and what is ahead if they are part of a run.
    pub async fn fill(self: &Arc<Fetcher>, id: FileId, blocks: Range<u32>) -> Result<(), FillError> {
        let file = self.files.get_patiently(id).await?;
        let _waiting = Waiting::begin(&self.waiting);
        let step = self.read_ahead().missed(id, blocks.clone());
        let (mut wanted, mut refusals) = (vec![blocks.clone()], Refusals::Retried);
        match step {
            Some(step) if step.blocks.len() <= JOINED_BLOCKS_MAX as usize => {
                file.meta().set_mark(step.mark, step.entry.clone());
                wanted.push(step.blocks);
                refusals = Refusals::Final;
            }
            Some(step) => self.step_ahead(&file, step),
            None => {}
        }
        match self.fetch(&file, wanted, FetchReason::Miss, refusals).await {
            // What is asked for besides must not keep from the reader what there is.
            Err(FillError::Page(error)) if error.refusal().is_some_and(is_of_some_page) => {
                self.fetch(&file, vec![blocks.clone()], FetchReason::Miss, Refusals::Retried).await?;
            }
            outcome => outcome?,
        }
        file.settled(blocks).await;
        Ok(())
    }

    /// A reader has come to a mark at `block`: fetches what is ahead of it.
    pub fn reached(self: &Arc<Fetcher>, id: FileId, block: u32) {
        // A file that is gone has no reader to be served.
        let Ok(file) = self.files.get(id) else { return };
        let step = self.read_ahead().reached(id, block);
        if let Some(step) = step {
            self.step_ahead(&file, step);
        }
    }

    fn step_ahead(self: &Arc<Fetcher>, file: &Arc<CacheFile>, step: Step) {
        file.meta().set_mark(step.mark, step.entry.clone());
        for start in step.blocks.clone().step_by(REQUEST_BLOCKS as usize) {
            let Ok(permit) = self.ahead_requests.clone().try_acquire_owned() else { return };
            let blocks = start..start.saturating_add(REQUEST_BLOCKS).min(step.blocks.end);
            let (fetcher, file) = (self.clone(), file.clone());
            tokio::spawn(async move {
                fetcher.fetch_unasked(&file, vec![blocks], FetchReason::Ahead).await;
                drop(permit);
            });
        }
    }

    /// Brings in `blocks` some time soon; if too much else is to be brought in, not.
    pub fn prefetch(self: &Arc<Fetcher>, id: FileId, blocks: Range<u32>) {
        if self.prefetch_queue().push(id, blocks) {
            let fetcher = self.clone();
            tokio::spawn(async move { fetcher.work_on_prefetches().await });
        }
    }

    async fn work_on_prefetches(&self) {
        loop {
            let next = self.prefetch_queue().next(REQUEST_BLOCKS);
            let Some((id, ranges)) = next else { return };
            if let Ok(file) = self.files.get(id) {
                self.fetch_unasked(&file, ranges, FetchReason::Ahead).await;
            }
        }
    }

    /// Brings in what was in use before, in one request; `false` if the file is gone, or wholly local.
    pub async fn warm(&self, id: FileId, ranges: Vec<Range<u32>>) -> bool {
        let Ok(file) = self.files.get(id) else { return false };
        self.fetch_unasked(&file, ranges, FetchReason::WarmUp).await;
        true
    }

    /// Brings in what no backend waits for, if there is room; a failure is left to those who will ask.
    async fn fetch_unasked(&self, file: &Arc<CacheFile>, ranges: Vec<Range<u32>>, reason: FetchReason) {
        if !self.fullness.has_room() {
            return;
        }
        if let Err(error) = self.fetch(file, ranges, reason, Refusals::Final).await {
            tracing::debug!(%error, file = ?file.meta().file(), "blocks were not fetched ahead");
        }
    }

    /// Brings in those of `ranges` that are absent and that no other thread brings in. On a full disk other pages have
    /// to leave first, which the request waits for, too.
    async fn fetch(
        &self,
        file: &Arc<CacheFile>,
        ranges: Vec<Range<u32>>,
        reason: FetchReason,
        refusals: Refusals,
    ) -> Result<(), FillError> {
        let begun = Instant::now();
        loop {
            let outcome = self.fetch_once(file, ranges.clone(), reason, refusals).await;
            let is_full = matches!(&outcome, Err(FillError::Write(error)) if lacks_room(error));
            let waits = reason == FetchReason::Miss && begun.elapsed() < ROOM_PATIENCE;
            if !is_full || !self.make_room() || !waits {
                return outcome;
            }
            tokio::time::sleep(ROOM_PAUSE).await;
        }
    }

    async fn fetch_once(
        &self,
        file: &Arc<CacheFile>,
        ranges: Vec<Range<u32>>,
        reason: FetchReason,
        refusals: Refusals,
    ) -> Result<(), FillError> {
        let claims = file.claim(ranges);
        if claims.blocks().is_empty() {
            return Ok(());
        }
        let patience = if reason == FetchReason::Miss { self.patience } else { AHEAD_PATIENCE };
        let begun = Instant::now();
        // Read after the claim: the thread that dropped a block raised the LSN before.
        let lsn = file.meta().request_lsn();
        let pages = match refusals {
            Refusals::Retried => self.client.get_pages_retrying(lsn, claims.keys(), patience).await?,
            Refusals::Final => self.client.get_pages(lsn, claims.keys(), patience).await?,
        };
        self.metrics.fetched(reason, pages.len(), begun.elapsed());
        claims.install(&pages).map_err(FillError::Write)?;
        self.fullness.grew((pages.len() * PAGE_SIZE) as u64);
        Ok(())
    }

    fn read_ahead(&self) -> MutexGuard<'_, ReadAhead> {
        self.read_ahead.lock()
    }

    fn prefetch_queue(&self) -> MutexGuard<'_, PrefetchQueue> {
        self.prefetches.lock()
    }
}

/// A window must not drive out of a small cache what is read now.
fn window_blocks_max(cache_bytes: Option<u64>) -> u32 {
    let share = cache_bytes.map_or(u64::MAX, |bytes| bytes / WINDOW_SHARE / PAGE_SIZE as u64);
    u32::try_from(share).unwrap_or(u32::MAX).min(WINDOW_BLOCKS_MAX)
}

/// A process that waits, until dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Waiting<'_> {
    fn begin(waiting: &AtomicUsize) -> Waiting<'_> {
        waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether another page that was asked for at the same time may be what cannot be had.
fn is_of_some_page(refusal: ErrorCode) -> bool {
    matches!(refusal, ErrorCode::Storage | ErrorCode::Corrupt | ErrorCode::Guarded | ErrorCode::NoSuchKey)
}

fn lacks_room(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}
