//! How full the cache is, between two looks at it: fills count what they add, so that they cannot run away from the sweep.

use crate::Config;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// Shared by those who fill the cache and the one who sweeps it.
#[derive(Debug)]
pub struct Fullness {
    limit: u64,
    bytes: AtomicU64,
    filling: Notify,
}

impl Fullness {
    /// Of an empty cache.
    pub fn new(config: &Config) -> Fullness {
        Fullness { limit: config.cache_bytes.unwrap_or(u64::MAX), bytes: AtomicU64::new(0), filling: Notify::new() }
    }

    /// From how many bytes on it is prepared that pages leave.
    pub fn busy(&self) -> u64 {
        self.limit / 4 * 3
    }

    /// Down to how many bytes pages leave.
    pub fn target(&self) -> u64 {
        self.limit / 10 * 9
    }

    /// About how many bytes there are.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The cache was looked at.
    pub fn measured(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::Relaxed);
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

    /// Whether there is room for what nobody waits for.
    pub fn has_room(&self) -> bool {
        self.bytes() < self.limit
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
impl Fullness {
    /// Of an empty cache with this bound.
    pub fn with_limit(limit: u64) -> Fullness {
        Fullness { limit, bytes: AtomicU64::new(0), filling: Notify::new() }
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
        fullness.measured(10);
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
            fullness.measured(bytes);
            fullness.excess()
        });
        assert_eq!(excess, [0.0, 0.25, 1.0, 1.0]);
    }
}
