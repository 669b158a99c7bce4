//! After a cold start, fetches what was in use before: in the background, at a bounded rate, behind those who wait for
//! a page.
//!
//! Which pages are in use is written down (`hot_pages`) every minute and when a session ends, beside the cache and not
//! in it. A database is warmed up once a process has touched it, for only then does it have files; catalogs and small
//! tables first. What a session has not fetched yet when it ends is remembered for the next.

mod hot_pages;

use crate::Config;
use crate::cache_dir::CacheDir;
use crate::fill::Fetcher;
use crate::materialise::Materialiser;
use crate::setting::Setting;
use hot_pages::HotPages;
use parking_lot::{Mutex, MutexGuard};
use quire_cache::FileId;
use quire_types::PAGE_SIZE;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior, interval};

const REMEMBER_INTERVAL: Duration = Duration::from_secs(60);
/// How often to look for databases that were touched.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Blocks in one request, and the least time between two: at most 128 MiB a second.
const REQUEST_BLOCKS: u32 = 64;
const REQUEST_INTERVAL: Duration = Duration::from_millis(4);
/// How many turns are left to those who wait for a page before one is taken all the same.
const YIELDS_MAX: u32 = 16;
/// How much is warmed up if the cache has no bound; else half of the bound.
const WARM_BYTES_MAX: u64 = 4 << 30;

/// The pages in use of one session.
#[derive(Debug)]
pub struct WarmUp {
    config: Arc<Config>,
    dir: CacheDir,
    fetcher: Arc<Fetcher>,
    materialiser: Arc<Materialiser>,
    /// What is still to be fetched.
    left: Mutex<HotPages>,
    forgotten: AtomicBool,
}

impl WarmUp {
    /// Warms up what was remembered, for a session with an empty cache.
    pub fn new(setting: &Setting, fetcher: Arc<Fetcher>, materialiser: Arc<Materialiser>) -> WarmUp {
        let (config, dir) = (setting.config.clone(), setting.cache_dir());
        let left = Mutex::new(HotPages::load(&dir));
        WarmUp { config, dir, fetcher, materialiser, left, forgotten: AtomicBool::new(false) }
    }

    /// Fetches, until nothing is left.
    pub async fn warm(self: Arc<WarmUp>) {
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.left().is_empty() {
            look.tick().await;
            while let Some((id, ranges)) = self.next_file() {
                self.warm_file(id, ranges).await;
                self.left().remove(id);
            }
        }
    }

    fn next_file(&self) -> Option<(FileId, Vec<Range<u32>>)> {
        let complete = self.materialiser.complete();
        let is_there = |id| match id {
            FileId::Relation { rel, .. } => rel.database == 0 || complete.contains(&(rel.tablespace, rel.database)),
            FileId::Slru { .. } => false,
        };
        self.left().smallest(is_there)
    }

    async fn warm_file(&self, id: FileId, ranges: Vec<Range<u32>>) {
        let mut turns = interval(REQUEST_INTERVAL);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for request in requests(ranges) {
            self.take_turn(&mut turns).await;
            if self.forgotten.load(Ordering::Relaxed) || !self.fetcher.warm(id, request).await {
                return;
            }
        }
    }

    async fn take_turn(&self, turns: &mut Interval) {
        turns.tick().await;
        for _ in 0..YIELDS_MAX {
            if !self.fetcher.is_awaited() {
                return;
            }
            turns.tick().await;
        }
    }

    /// Writes down what is in use, every now and then.
    pub async fn remember_regularly(self: Arc<WarmUp>) {
        loop {
            quire_crash::plant("compute.warm-up");
            tokio::time::sleep(REMEMBER_INTERVAL).await;
            self.clone().remember().await;
        }
    }

    /// Writes down what is in use, and what would be if all of it had been fetched by now.
    pub async fn remember(self: Arc<WarmUp>) {
        let work = move || {
            let blocks_max = blocks_max(&self.config);
            let left = self.left().clone();
            let hot = if self.forgotten.load(Ordering::Relaxed) {
                HotPages::default()
            } else {
                HotPages::look(&self.dir, blocks_max).with(&left, blocks_max)
            };
            if let Err(error) = hot.save(&self.dir) {
                tracing::warn!(%error, "which pages are in use is not written down");
            }
        };
        let _ = tokio::task::spawn_blocking(work).await;
    }

    /// Forgets what is in use: the next session will not be warmed up.
    pub fn forget(&self) {
        self.forgotten.store(true, Ordering::Relaxed);
    }

    fn left(&self) -> MutexGuard<'_, HotPages> {
        self.left.lock()
    }
}

fn blocks_max(config: &Config) -> u64 {
    config.tuning.cache_size().bytes().map_or(WARM_BYTES_MAX, |bytes| (bytes / 2).min(WARM_BYTES_MAX))
        / PAGE_SIZE as u64
}

/// Cuts ranges into requests of so many blocks; short ranges share one.
fn requests(ranges: Vec<Range<u32>>) -> Vec<Vec<Range<u32>>> {
    let mut requests: Vec<Vec<Range<u32>>> = Vec::new();
    let mut room = 0;
    for mut range in ranges {
        while !range.is_empty() {
            if room == 0 {
                requests.push(Vec::new());
                room = REQUEST_BLOCKS;
            }
            let end = range.end.min(range.start + room);
            room -= end - range.start;
            requests.last_mut().expect("one was just made, or has room").push(range.start..end);
            range.start = end;
        }
    }
    requests
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "these are lists of ranges")]
mod tests {
    use super::*;

    #[test]
    fn long_ranges_are_cut_and_short_ones_share_a_request() {
        let cut = requests(vec![0..100, 200..203, 300..325, 400..401]);
        assert_eq!(cut, [vec![0..64], vec![64..100, 200..203, 300..325], vec![400..401]]);
    }
}
