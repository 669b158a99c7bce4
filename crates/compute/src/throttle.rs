//! Back-pressure: commits wait a little, then entirely, while storage lags behind the log.
//!
//! A pageserver that is away or slow leaves WAL to pile up on the safekeepers, and pages to be rebuilt from ever more
//! of it. So a flush is shipped later the further ingest is behind: not at all later up to half of the limit, then in
//! proportion, and from the limit on only once ingest has moved. A pageserver that cannot write its layers or make its
//! images in time stops ingesting, so this one distance stands for all of them.
//!
//! What is written can leave a bounded cache only once it is ingested. So the limit is lower while the cache is beyond
//! its bound, down to a few mebibytes where it is twice as large. It never goes below that, whatever else keeps pages
//! in the cache.
//!
//! Nothing fails because of it. The WAL that is about to be shipped does not count, so however long one flush is,
//! ingest can catch up with what was shipped before, and the wait ends.

use crate::fullness::Fullness;
use parking_lot::{Condvar, Mutex, MutexGuard};
use quire_api::compute::{Component, Throttled};
use quire_types::Lsn;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The delay of a flush right below the limit.
const SLOWEST: Duration = Duration::from_millis(200);
/// No cache, however full, makes commits wait for less than this.
const OVERFULL_LIMIT: u64 = 4 << 20;
/// How often a flush that is held looks whether it is wanted any more.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What is done with a flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// It is shipped at once.
    Free,
    /// It is shipped after so long.
    Slow(Duration),
    /// It is shipped once storage has caught up.
    Hold,
}

/// What to do with a flush while `lag` bytes of shipped WAL are not ingested.
pub fn pace(lag: u64, limit: u64) -> Pace {
    let free = limit / 2;
    if lag >= limit {
        Pace::Hold
    } else if lag <= free {
        Pace::Free
    } else {
        Pace::Slow(SLOWEST.mul_f64((lag - free) as f64 / (limit - free) as f64))
    }
}

/// The limit while the cache is beyond its bound by such a part of it, at most 1.
pub fn limit_of(limit: u64, excess: f64) -> u64 {
    let lowest = limit.min(OVERFULL_LIMIT);
    limit - ((limit - lowest) as f64 * excess.clamp(0.0, 1.0)) as u64
}

/// The distance between the log and ingest, and who waits because of it.
#[derive(Debug)]
pub struct Throttle {
    limit: u64,
    fullness: Arc<Fullness>,
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug)]
struct State {
    shipped: Lsn,
    ingested: Lsn,
    waited: Duration,
}

impl State {
    fn lag(&self) -> u64 {
        self.shipped.0.saturating_sub(self.ingested.0)
    }
}

impl Throttle {
    /// No distance yet, at the position `start`; `fullness` is that of the cache.
    pub fn new(limit: u64, start: Lsn, fullness: Arc<Fullness>) -> Throttle {
        let state = State { shipped: start, ingested: start, waited: Duration::ZERO };
        Throttle { limit, fullness, state: Mutex::new(state), moved: Condvar::new() }
    }

    /// Storage says how far ingest is.
    pub fn ingested(&self, lsn: Lsn) {
        let mut state = self.lock();
        state.ingested = state.ingested.max(lsn);
        self.moved.notify_all();
    }

    /// Waits, before more than `shipped` is shipped, as long as the pace says or until that `is_pointless`.
    pub fn wait(&self, shipped: Lsn, is_pointless: impl Fn() -> bool) {
        let begun = Instant::now();
        let mut state = self.lock();
        state.shipped = shipped;
        let mut has_waited = false;
        while !is_pointless() {
            let patience = match pace(state.lag(), self.limit()) {
                Pace::Free => break,
                Pace::Slow(delay) => delay.saturating_sub(begun.elapsed()),
                Pace::Hold => LOOK_INTERVAL,
            };
            if patience.is_zero() {
                break;
            }
            has_waited = true;
            self.moved.wait_for(&mut state, patience.min(LOOK_INTERVAL));
        }
        if has_waited {
            state.waited += begun.elapsed();
        }
    }

    /// Who holds commits back at the moment, if anybody does. `is_connected` says whether the pageserver answers.
    pub fn throttled(&self, is_connected: bool) -> Option<Throttled> {
        let lag_bytes = self.lag();
        let component = if is_connected { Component::Ingest } else { Component::Pageserver };
        let limit_bytes = self.limit();
        let holds = match pace(lag_bytes, limit_bytes) {
            Pace::Free => return None,
            Pace::Slow(_) => false,
            Pace::Hold => true,
        };
        Some(Throttled { component, holds, lag_bytes, limit_bytes })
    }

    /// Whether the cache is beyond its bound, and the limit lower for it.
    pub fn is_lowered(&self) -> bool {
        self.limit() < self.limit
    }

    fn limit(&self) -> u64 {
        limit_of(self.limit, self.fullness.excess())
    }

    /// Bytes of WAL that are shipped and not ingested.
    pub fn lag(&self) -> u64 {
        self.lock().lag()
    }

    /// For how long flushes were held back so far.
    pub fn waited(&self) -> Duration {
        self.lock().waited
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn the_delay_grows_in_proportion_from_half_the_limit_to_the_limit() {
        assert_eq!([0, 500].map(|lag| pace(lag, 1000)), [Pace::Free; 2]);
        assert_eq!(pace(750, 1000), Pace::Slow(SLOWEST / 2));
        assert_eq!([1000, u64::MAX].map(|lag| pace(lag, 1000)), [Pace::Hold; 2]);
        let delays: Vec<Pace> = (501..1000).map(|lag| pace(lag, 1000)).collect();
        let grows = |pair: &[Pace]| matches!(pair, [Pace::Slow(less), Pace::Slow(more)] if less < more);
        assert!(delays.windows(2).all(grows), "{delays:?}");
    }

    #[test]
    fn a_held_flush_goes_on_when_ingest_has_moved() {
        let throttle = Arc::new(Throttle::new(1000, Lsn(0), Arc::new(Fullness::with_limit(100))));
        let done = Arc::new(AtomicBool::new(false));
        let waiter = std::thread::spawn({
            let (throttle, done) = (throttle.clone(), done.clone());
            move || {
                throttle.wait(Lsn(5000), || false);
                done.store(true, Ordering::SeqCst);
            }
        });
        while throttle.throttled(true).is_none() {
            std::thread::yield_now();
        }
        let held = throttle.throttled(false).expect("it lags");
        assert_eq!((held.component, held.holds, held.lag_bytes), (Component::Pageserver, true, 5000));
        throttle.ingested(Lsn(4000));
        assert!(!done.load(Ordering::SeqCst), "at the limit it still waits");
        throttle.ingested(Lsn(4900));
        waiter.join().expect("it ends");
        assert_eq!(throttle.throttled(true), None);
        assert!(throttle.waited() > Duration::ZERO);
    }

    #[test]
    fn an_overfull_cache_lowers_the_limit_but_never_to_nothing() {
        let (limit, mib) = (1 << 30, 1 << 20);
        assert_eq!([0.0, 0.5, 1.0].map(|excess| limit_of(limit, excess)), [limit, limit / 2 + 2 * mib, 4 * mib]);
        assert_eq!(limit_of(1000, 1.0), 1000, "a limit that is lower stays");
        let fullness = Arc::new(Fullness::with_limit(100));
        let throttle = Throttle::new(limit, Lsn(0), fullness.clone());
        throttle.wait(Lsn(8 * mib), || false);
        assert!(throttle.throttled(true).is_none() && !throttle.is_lowered());
        fullness.measured(250, 0);
        assert!(throttle.is_lowered());
        assert_eq!(throttle.throttled(true).map(|held| (held.holds, held.limit_bytes)), Some((true, 4 * mib)));
        // The cache stays as full as it is, and commits continue nevertheless once what was shipped is ingested.
        throttle.ingested(Lsn(7 * mib));
        throttle.wait(Lsn(9 * mib), || false);
        assert_eq!(throttle.throttled(true), None);
    }

    #[test]
    fn a_wait_that_has_no_point_any_more_ends() {
        let throttle = Throttle::new(1000, Lsn(0), Arc::new(Fullness::with_limit(100)));
        throttle.wait(Lsn(5000), || true);
        assert_eq!(throttle.lag(), 5000);
    }
}
