//! What a compute agent measures.

use crate::throttle::Throttle;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use quire_api::compute::{Component, QuorumStatus, Throttled};
use quire_api::metric::compute::{self as names, PREFIX};
use quire_cache::control::CounterValues;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// A gauge of something unsigned.
type Level = Gauge<u64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Safekeeper {
    address: String,
}

/// Why pages are got from storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum FetchReason {
    /// A process waits for one of them.
    Miss,
    /// Some process is going to want them.
    Ahead,
    /// They were in use before the last cold start.
    WarmUp,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Fetch {
    reason: FetchReason,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Throttler {
    component: &'static str,
}

/// What the throttle says of itself.
#[derive(Debug, Default)]
struct Throttling {
    active: Family<Throttler, Level>,
    lag_bytes: Level,
    waited_ms: Level,
}

/// The metrics of one agent, with their registry.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    fetch: Histogram,
    fetch_requests: Counter,
    fetched_pages: Family<Fetch, Counter>,
    cold_starts: Counter,
    cold_start: Histogram,
    verified_pages: Counter,
    mismatches: Counter,
    sampled_pages: Counter,
    sampled_mismatches: Counter,
    cache_bytes: Level,
    dropped_pages: Counter,
    pages_kept_as_written: Counter,
    outdated: Level,
    shared: Shared,
    quorum: Quorum,
    throttling: Throttling,
}

/// Counters that PostgreSQL's processes raise in shared memory; they begin anew with each cold start.
#[derive(Debug, Default)]
struct Shared {
    reads: Level,
    writes: Level,
    fills: Level,
    fill_errors: Level,
    fill_wait_ns: Level,
    flush_waits: Level,
    flush_wait_ns: Level,
    flush_errors: Level,
}

#[derive(Debug, Default)]
struct Quorum {
    connected: Level,
    lost: Level,
    term: Level,
    written: Level,
    committed: Level,
    flush: Family<Safekeeper, Level>,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Metrics {
        let mut metrics = Metrics {
            registry: Registry::with_prefix(PREFIX),
            fetch: Histogram::new(exponential_buckets(50e-6, 2.0, 18)),
            fetch_requests: Counter::default(),
            fetched_pages: Family::default(),
            cold_starts: Counter::default(),
            cold_start: Histogram::new(exponential_buckets(0.05, 2.0, 12)),
            verified_pages: Counter::default(),
            mismatches: Counter::default(),
            sampled_pages: Counter::default(),
            sampled_mismatches: Counter::default(),
            cache_bytes: Level::default(),
            dropped_pages: Counter::default(),
            pages_kept_as_written: Counter::default(),
            outdated: Level::default(),
            shared: Shared::default(),
            quorum: Quorum::default(),
            throttling: Throttling::default(),
        };
        metrics.register_agent();
        metrics.register_shared();
        metrics.register_quorum();
        metrics.register_throttling();
        metrics
    }

    fn register_agent(&mut self) {
        let registry = &mut self.registry;
        names::FETCH.register(registry, self.fetch.clone());
        names::FETCH_REQUESTS.register(registry, self.fetch_requests.clone());
        names::FETCHED_PAGES.register(registry, self.fetched_pages.clone());
        names::COLD_STARTS.register(registry, self.cold_starts.clone());
        names::COLD_START.register(registry, self.cold_start.clone());
        names::VERIFIED_PAGES.register(registry, self.verified_pages.clone());
        names::VERIFY_MISMATCHES.register(registry, self.mismatches.clone());
        names::SAMPLED_PAGES.register(registry, self.sampled_pages.clone());
        names::SAMPLED_MISMATCHES.register(registry, self.sampled_mismatches.clone());
        names::CACHE_BYTES.register(registry, self.cache_bytes.clone());
        names::POSTGRES_OUTDATED.register(registry, self.outdated.clone());
        names::DROPPED_PAGES.register(registry, self.dropped_pages.clone());
        names::PAGES_KEPT_AS_WRITTEN.register(registry, self.pages_kept_as_written.clone());
    }

    /// Whether another PostgreSQL is installed than the one that runs.
    pub fn outdated(&self, is_outdated: bool) {
        self.outdated.set(is_outdated.into());
    }

    fn register_shared(&mut self) {
        let Shared { reads, writes, fills, fill_errors, fill_wait_ns, flush_waits, flush_wait_ns, flush_errors } =
            &self.shared;
        let levels = [
            (names::CACHE_READS, reads),
            (names::CACHE_WRITES, writes),
            (names::FILLS, fills),
            (names::FILL_ERRORS, fill_errors),
            (names::FILL_WAIT_NS, fill_wait_ns),
            (names::FLUSH_WAITS, flush_waits),
            (names::FLUSH_WAIT_NS, flush_wait_ns),
            (names::FLUSH_ERRORS, flush_errors),
        ];
        for (metric, level) in levels {
            metric.register(&mut self.registry, level.clone());
        }
    }

    fn register_quorum(&mut self) {
        let Quorum { connected, lost, term, written, committed, flush } = &self.quorum;
        let levels = [
            (names::QUORUM_CONNECTED, connected),
            (names::QUORUM_LOST, lost),
            (names::TERM, term),
            (names::WRITTEN_LSN, written),
            (names::COMMITTED_LSN, committed),
        ];
        for (metric, level) in levels {
            metric.register(&mut self.registry, level.clone());
        }
        names::SAFEKEEPER_FLUSH_LSN.register(&mut self.registry, flush.clone());
    }

    fn register_throttling(&mut self) {
        let Throttling { active, lag_bytes, waited_ms } = &self.throttling;
        names::THROTTLED.register(&mut self.registry, active.clone());
        names::INGEST_LAG_BYTES.register(&mut self.registry, lag_bytes.clone());
        names::THROTTLE_WAIT_MS.register(&mut self.registry, waited_ms.clone());
    }

    /// Takes over what the throttle says.
    pub fn throttle(&self, throttle: &Throttle, throttled: Option<&Throttled>) {
        for component in Component::ALL {
            let is_active = throttled.is_some_and(|throttled| throttled.component == component);
            self.throttling.active.get_or_create(&Throttler { component: component.name() }).set(is_active.into());
        }
        self.throttling.lag_bytes.set(throttle.lag());
        self.throttling.waited_ms.set(u64::try_from(throttle.waited().as_millis()).unwrap_or(u64::MAX));
    }

    /// Pages came from storage.
    pub fn fetched(&self, reason: FetchReason, pages: usize, took: Duration) {
        self.fetch.observe(took.as_secs_f64());
        self.fetch_requests.inc();
        self.fetched_pages.get_or_create(&Fetch { reason }).inc_by(pages as u64);
    }

    /// A cold start is done.
    pub fn cold_started(&self, took: Duration) {
        self.cold_starts.inc();
        self.cold_start.observe(took.as_secs_f64());
    }

    /// A verification is done.
    pub fn verified(&self, pages: u64, mismatches: u64) {
        self.verified_pages.inc_by(pages);
        self.mismatches.inc_by(mismatches);
    }

    /// A page was compared while PostgreSQL works.
    pub fn sampled(&self) {
        self.sampled_pages.inc();
    }

    /// A page of those differs, and not only for a moment.
    pub fn sample_differs(&self) {
        self.sampled_mismatches.inc();
    }

    /// Pages compared while PostgreSQL works, since the agent started, and how many of them differ.
    pub fn samples(&self) -> (u64, u64) {
        (self.sampled_pages.get(), self.sampled_mismatches.get())
    }

    /// The size of the cache was taken.
    pub fn cache_holds(&self, bytes: u64) {
        self.cache_bytes.set(bytes);
    }

    /// Pages left the cache.
    pub fn dropped(&self, pages: u64) {
        self.dropped_pages.inc_by(pages);
    }

    /// Storage keeps a page as PostgreSQL wrote it.
    pub fn kept_as_written(&self) {
        self.pages_kept_as_written.inc();
    }

    /// The size of a bounded cache when it was last taken.
    pub fn cache_bytes(&self) -> u64 {
        self.cache_bytes.get()
    }

    /// Pages that left the cache since the agent started.
    pub fn dropped_pages(&self) -> u64 {
        self.dropped_pages.get()
    }

    /// Pages got from storage so far.
    pub fn fetched_pages(&self) -> u64 {
        let reasons = [FetchReason::Miss, FetchReason::Ahead, FetchReason::WarmUp];
        reasons.map(|reason| self.fetched_pages_for(reason)).iter().sum()
    }

    /// Those that were got for that reason.
    pub fn fetched_pages_for(&self, reason: FetchReason) -> u64 {
        self.fetched_pages.get_or_create(&Fetch { reason }).get()
    }

    /// Requests for pages sent to storage so far.
    pub fn fetch_requests(&self) -> u64 {
        self.fetch_requests.get()
    }

    /// The OpenMetrics text, after taking over what is counted elsewhere.
    pub fn render(&self, counters: &CounterValues, quorum: Option<&QuorumStatus>) -> Result<String, fmt::Error> {
        self.shared.take_over(counters);
        if let Some(status) = quorum {
            self.quorum.take_over(status);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Shared {
    fn take_over(&self, counters: &CounterValues) {
        self.reads.set(counters.reads);
        self.writes.set(counters.writes);
        self.fills.set(counters.fills);
        self.fill_errors.set(counters.fill_errors);
        self.fill_wait_ns.set(counters.fill_wait_ns);
        self.flush_waits.set(counters.flush_waits);
        self.flush_wait_ns.set(counters.flush_wait_ns);
        self.flush_errors.set(counters.flush_errors);
    }
}

impl Quorum {
    fn take_over(&self, status: &QuorumStatus) {
        self.connected.set(status.connected as u64);
        self.lost.set(status.lost.into());
        self.term.set(status.term.map_or(0, |term| term.0));
        self.written.set(status.written.map_or(0, |lsn| lsn.0));
        self.committed.set(status.committed.map_or(0, |lsn| lsn.0));
        for safekeeper in &status.safekeepers {
            let label = Safekeeper { address: safekeeper.address.to_string() };
            self.flush.get_or_create(&label).set(safekeeper.flush.map_or(0, |lsn| lsn.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_what_was_counted() {
        let metrics = Metrics::new();
        metrics.fetched(FetchReason::Ahead, 3, Duration::from_millis(1));
        metrics.fetched(FetchReason::Miss, 1, Duration::from_millis(1));
        let counters = CounterValues { flush_waits: 7, ..CounterValues::default() };
        let text = metrics.render(&counters, None).expect("rendered");
        assert!(text.contains("quire_compute_fetched_pages_total{reason=\"Ahead\"} 3"), "{text}");
        assert_eq!((metrics.fetched_pages(), metrics.fetch_requests()), (4, 2));
        assert!(text.contains("quire_compute_flush_waits 7"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn every_metric_is_registered() {
        let text = format!("{:?}", Metrics::new().registry);
        for metric in names::ALL {
            assert!(text.contains(&format!("\"{}\"", metric.name)), "{metric:?}");
        }
    }
}
