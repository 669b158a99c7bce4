//! What a safekeeper measures.

use crate::published::Published;
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use quire_api::metric::safekeeper::{self as names, PREFIX};
use quire_types::BranchKey;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// A gauge of an LSN or a term, which are unsigned.
type BranchGauge = Family<BranchLabels, Gauge<u64, AtomicU64>>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BranchLabels {
    project: String,
    branch: String,
}

/// The metrics of one safekeeper, with their registry.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    flush: Histogram,
    appended: Counter,
    sent: Counter,
    connections: Gauge,
    term: BranchGauge,
    flush_lsn: BranchGauge,
    commit_lsn: BranchGauge,
    oldest_lsn: BranchGauge,
    durable_lsn: BranchGauge,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Metrics {
        let mut metrics = Metrics {
            registry: Registry::with_prefix(PREFIX),
            flush: Histogram::new(exponential_buckets(20e-6, 2.0, 16)),
            appended: Counter::default(),
            sent: Counter::default(),
            connections: Gauge::default(),
            term: Family::default(),
            flush_lsn: Family::default(),
            commit_lsn: Family::default(),
            oldest_lsn: Family::default(),
            durable_lsn: Family::default(),
        };
        metrics.register_own();
        metrics.register_of_branches();
        metrics
    }

    fn register_own(&mut self) {
        let registry = &mut self.registry;
        names::FLUSH.register(registry, self.flush.clone());
        names::APPENDED.register(registry, self.appended.clone());
        names::SENT.register(registry, self.sent.clone());
        names::CONNECTIONS.register(registry, self.connections.clone());
    }

    fn register_of_branches(&mut self) {
        let registry = &mut self.registry;
        names::TERM.register(registry, self.term.clone());
        names::FLUSH_LSN.register(registry, self.flush_lsn.clone());
        names::COMMIT_LSN.register(registry, self.commit_lsn.clone());
        names::OLDEST_LSN.register(registry, self.oldest_lsn.clone());
        names::DURABLE_LSN.register(registry, self.durable_lsn.clone());
    }

    /// WAL was written, and flushed if that was wanted.
    pub fn appended(&self, bytes: u64, flush: Option<Duration>) {
        self.appended.inc_by(bytes);
        if let Some(flush) = flush {
            self.flush.observe(flush.as_secs_f64());
        }
    }

    /// WAL went to a follower.
    pub fn sent(&self, bytes: u64) {
        self.sent.inc_by(bytes);
    }

    /// The gauge of open connections.
    pub fn connections(&self) -> &Gauge {
        &self.connections
    }

    /// Everything in the OpenMetrics text format.
    pub fn encode(&self, logs: &[(BranchKey, Published)]) -> Result<String, std::fmt::Error> {
        logs.iter().for_each(|(key, published)| self.observe(*key, published));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    fn observe(&self, key: BranchKey, published: &Published) {
        let labels = BranchLabels { project: key.project.to_string(), branch: key.branch.to_string() };
        self.term.get_or_create(&labels).set(published.term.0);
        self.flush_lsn.get_or_create(&labels).set(published.flush.0);
        self.commit_lsn.get_or_create(&labels).set(published.commit.0);
        self.oldest_lsn.get_or_create(&labels).set(published.oldest.0);
        let durable = published.followers.values().min().map_or(0, |lsn| lsn.0);
        self.durable_lsn.get_or_create(&labels).set(durable);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_registered() {
        let text = format!("{:?}", Metrics::new().registry);
        for metric in names::ALL {
            assert!(text.contains(&format!("\"{}\"", metric.name)), "{metric:?}");
        }
    }
}
