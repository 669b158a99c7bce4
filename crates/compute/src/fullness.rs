//! How full the cache is, between two looks at it: fills count what they add, so that they cannot run away from the
//! sweep.

use crate::Config;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// The part of what is free on the disk that the cache leaves to WAL, temporary files and others.
const LEFT_FREE: u64 = 2;

/// Shared by those who fill the cache and the one who sweeps it.
#[derive(Debug)]
pub struct Fullness {
    limit: u64,
    /// What the disk allows, which others fill, too.
    allowed: AtomicU64,
    bytes: AtomicU64,
    filling: Notify,
}

impl Fullness {
    /// Of an empty cache.
    pub fn new(config: &Config) -> Fullness {
        Fullness::with_limit(config.tuning.cache_size().bytes().unwrap_or(u64::MAX))
    }

    /// Of an empty cache with this bound.
    pub fn with_limit(limit: u64) -> Fullness {
        let (allowed, bytes) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
        Fullness { limit, allowed, bytes, filling: Notify::new() }
    }

    /// What counts at the moment.
    fn bound(&self) -> u64 {
        self.limit.min(self.allowed.load(Ordering::Relaxed))
    }

    /// There is no room on the disk, although the cache is within its bound: pages leave until it is an eighth smaller.
    /// `false` if it has no bound, so that none leave.
    pub fn disk_is_full(&self) -> bool {
        if self.limit == u64::MAX {
            return false;
        }
        self.allowed.store(self.bytes() / 8 * 7, Ordering::Relaxed);
        self.filling.notify_one();
        true
    }

    /// From how many bytes on it is prepared that pages leave.
    pub fn busy(&self) -> u64 {
        self.bound() / 4 * 3
    }

    /// Down to how many bytes pages leave.
    pub fn target(&self) -> u64 {
        self.bound() / 10 * 9
    }

    /// About how many bytes there are.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The cache and its disk were looked at.
    pub fn measured(&self, bytes: u64, free: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
        self.allowed.store(bytes.saturating_add(free / LEFT_FREE), Ordering::Relaxed);
    }

    /// So many bytes have come.
    pub fn grew(&self, bytes: u64) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.target() {
            self.filling.notify_one();
        }
    }

    /// So many bytes have left.
    pub fn shrank(&self, bytes: u64) {
        let less = |now: u64| Some(now.saturating_sub(bytes));
        let _ = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Whether there is room for what no backend waits for.
    pub fn has_room(&self) -> bool {
        self.bytes() < self.bound()
    }

    /// How far the cache is beyond its bound: 0 up to it, 1 at twice as much and more.
    pub fn excess(&self) -> f64 {
        let beyond = self.bytes().saturating_sub(self.limit);
        (beyond as f64 / self.limit as f64).min(1.0)
    }

    /// Waits until more has come than should stay.
    pub async fn overfilled(&self) {
        self.filling.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn is_overfilled(fullness: &Fullness) -> bool {
        tokio::time::timeout(Duration::ZERO, fullness.overfilled()).await.is_ok()
    }

    #[tokio::test]
    async fn what_comes_is_counted_and_calls_the_sweep() {
        let fullness = Fullness::with_limit(100);
        fullness.grew(90);
        assert!(fullness.has_room() && !is_overfilled(&fullness).await);
        fullness.grew(10);
        assert!(!fullness.has_room() && is_overfilled(&fullness).await);
        fullness.shrank(30);
        fullness.grew(1);
        assert!(fullness.has_room() && !is_overfilled(&fullness).await);
        fullness.measured(10, 1000);
        fullness.shrank(50);
        assert_eq!(fullness.bytes(), 0);
    }

    #[test]
    fn without_a_limit_there_is_always_room() {
        let fullness = Fullness::with_limit(u64::MAX);
        fullness.grew(1 << 60);
        assert!(fullness.has_room() && fullness.excess() == 0.0);
    }

    #[test]
    fn the_excess_is_a_part_of_the_bound() {
        let fullness = Fullness::with_limit(100);
        let excess = [100, 125, 200, 900].map(|bytes| {
            fullness.measured(bytes, 0);
            fullness.excess()
        });
        assert_eq!(excess, [0.0, 0.25, 1.0, 1.0]);
    }

    #[tokio::test]
    async fn on_a_full_disk_the_cache_is_smaller_than_its_limit() {
        let fullness = Fullness::with_limit(1000);
        fullness.measured(640, 720);
        assert!(fullness.has_room() && fullness.target() == 900, "the limit counts");
        fullness.measured(640, 120);
        assert!(fullness.has_room() && fullness.target() == 630, "half of what is free counts");
        assert!(fullness.disk_is_full() && is_overfilled(&fullness).await);
        assert!(!fullness.has_room());
        assert_eq!((fullness.target(), fullness.bytes(), fullness.excess()), (504, 640, 0.0));
        assert!(!Fullness::with_limit(u64::MAX).disk_is_full(), "nothing leaves a cache without a bound");
    }
}
