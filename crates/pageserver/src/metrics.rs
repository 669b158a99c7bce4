//! What a pageserver counts. One registry for each pageserver; nothing is global.

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use quire_api::metric::pageserver::{self as names, PREFIX};
use quire_layers::image_policy::ImageReason;
use quire_types::{BranchKey, PAGE_SIZE, ShardId};
use std::fmt;
use std::time::Duration;

/// Names a shard of a branch.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct ShardLabels {
    project: String,
    branch: String,
    shard: u32,
}

/// Names a shard of a branch and one of several kinds of the same thing.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub struct KindLabels {
    project: String,
    branch: String,
    shard: u32,
    kind: &'static str,
}

type Counters = Family<ShardLabels, Counter>;
type KindCounters = Family<KindLabels, Counter>;
type Gauges = Family<ShardLabels, Gauge>;
type Histograms = Family<ShardLabels, Histogram, fn() -> Histogram>;

/// All metrics of a pageserver.
pub struct Metrics {
    registry: Registry,
    records: Counters,
    wal_bytes: KindCounters,
    full_page_images: Counters,
    images: KindCounters,
    long_chain_reads: Counters,
    pages_kept: Counters,
    page_bytes_kept: Counters,
    deltas_per_read: Histograms,
    layers_per_read: Histograms,
    read_seconds: Histograms,
    ingested: Gauges,
    durable: Gauges,
    backlog: Gauges,
    longest_chain: Gauges,
    layer_bytes: Gauges,
    memtable_bytes: Gauges,
    ingest_stopped: Gauges,
    incomplete_pages: Gauges,
    ingest_waits: Counters,
}

/// The counters of one shard.
#[derive(Clone, Debug)]
pub struct ShardMetrics {
    records: Counter,
    wal_record_bytes: Counter,
    wal_image_bytes: Counter,
    full_page_images: Counter,
    images_by_threshold: Counter,
    images_by_read: Counter,
    long_chain_reads: Counter,
    pages_kept: Counter,
    page_bytes_kept: Counter,
    ingest_waits: Counter,
    deltas_per_read: Histogram,
    layers_per_read: Histogram,
    read_seconds: Histogram,
}

/// Values of one shard that are looked up when metrics are asked for.
#[derive(Clone, Copy, Debug)]
pub struct ShardGauges {
    /// Everything before is ingested.
    pub ingested: i64,
    /// Everything before is in layers.
    pub durable: i64,
    /// Pages that wait for an image.
    pub backlog: i64,
    /// Deltas of the longest chain.
    pub longest_chain: i64,
    /// Pages without images because bytes of theirs were not logged.
    pub incomplete_pages: i64,
    /// Bytes in layer files.
    pub layer_bytes: i64,
    /// Bytes in memtables.
    pub memtable_bytes: i64,
    /// 1 if ingest stopped at an error.
    pub ingest_stopped: i64,
}

fn counts() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 14))
}

fn latencies() -> Histogram {
    Histogram::new(exponential_buckets(0.000_01, 2.0, 20))
}

impl Metrics {
    /// Metrics of which nothing was counted yet.
    pub fn new() -> Metrics {
        let mut metrics = Metrics {
            registry: Registry::with_prefix(PREFIX),
            records: Counters::default(),
            wal_bytes: KindCounters::default(),
            full_page_images: Counters::default(),
            images: KindCounters::default(),
            long_chain_reads: Counters::default(),
            pages_kept: Counters::default(),
            page_bytes_kept: Counters::default(),
            deltas_per_read: Histograms::new_with_constructor(counts),
            layers_per_read: Histograms::new_with_constructor(counts),
            read_seconds: Histograms::new_with_constructor(latencies),
            ingested: Gauges::default(),
            durable: Gauges::default(),
            backlog: Gauges::default(),
            longest_chain: Gauges::default(),
            layer_bytes: Gauges::default(),
            memtable_bytes: Gauges::default(),
            ingest_stopped: Gauges::default(),
            incomplete_pages: Gauges::default(),
            ingest_waits: Counters::default(),
        };
        metrics.register_counters();
        metrics.register_gauges();
        metrics
    }

    fn register_counters(&mut self) {
        let registry = &mut self.registry;
        names::RECORDS.register(registry, self.records.clone());
        names::WAL_BYTES.register(registry, self.wal_bytes.clone());
        names::FULL_PAGE_IMAGES.register(registry, self.full_page_images.clone());
        names::IMAGES.register(registry, self.images.clone());
        names::LONG_CHAIN_READS.register(registry, self.long_chain_reads.clone());
        names::PAGES_KEPT.register(registry, self.pages_kept.clone());
        let page_bytes_kept = self.page_bytes_kept.clone();
        names::PAGES_KEPT_BYTES.register(registry, page_bytes_kept);
        names::INGEST_WAITS.register(registry, self.ingest_waits.clone());
        names::DELTAS_PER_READ.register(registry, self.deltas_per_read.clone());
        names::LAYERS_PER_READ.register(registry, self.layers_per_read.clone());
        let read_seconds = self.read_seconds.clone();
        names::READ_DURATION.register(registry, read_seconds);
    }

    fn register_gauges(&mut self) {
        let registry = &mut self.registry;
        names::INGESTED_LSN.register(registry, self.ingested.clone());
        names::DURABLE_LSN.register(registry, self.durable.clone());
        names::IMAGE_BACKLOG_PAGES.register(registry, self.backlog.clone());
        let incomplete_pages = self.incomplete_pages.clone();
        names::INCOMPLETE_PAGES.register(registry, incomplete_pages);
        names::LONGEST_CHAIN_DELTAS.register(registry, self.longest_chain.clone());
        names::LAYER.register(registry, self.layer_bytes.clone());
        names::INGEST_STOPPED.register(registry, self.ingest_stopped.clone());
        names::MEMTABLE.register(registry, self.memtable_bytes.clone());
    }

    /// The counters of one shard; the same for the same shard.
    pub fn shard(&self, branch: BranchKey, shard: ShardId) -> ShardMetrics {
        let labels = shard_labels(branch, shard);
        let kind = |family: &KindCounters, kind| family.get_or_create(&kind_labels(&labels, kind)).clone();
        ShardMetrics {
            records: self.records.get_or_create(&labels).clone(),
            wal_record_bytes: kind(&self.wal_bytes, "record"),
            wal_image_bytes: kind(&self.wal_bytes, "image"),
            full_page_images: self.full_page_images.get_or_create(&labels).clone(),
            images_by_threshold: kind(&self.images, "threshold"),
            images_by_read: kind(&self.images, "read"),
            long_chain_reads: self.long_chain_reads.get_or_create(&labels).clone(),
            pages_kept: self.pages_kept.get_or_create(&labels).clone(),
            page_bytes_kept: self.page_bytes_kept.get_or_create(&labels).clone(),
            ingest_waits: self.ingest_waits.get_or_create(&labels).clone(),
            deltas_per_read: self.deltas_per_read.get_or_create(&labels).clone(),
            layers_per_read: self.layers_per_read.get_or_create(&labels).clone(),
            read_seconds: self.read_seconds.get_or_create(&labels).clone(),
        }
    }

    /// Sets what is looked up rather than counted.
    pub fn set_gauges(&self, branch: BranchKey, shard: ShardId, gauges: ShardGauges) {
        let labels = shard_labels(branch, shard);
        self.ingested.get_or_create(&labels).set(gauges.ingested);
        self.durable.get_or_create(&labels).set(gauges.durable);
        self.backlog.get_or_create(&labels).set(gauges.backlog);
        self.longest_chain.get_or_create(&labels).set(gauges.longest_chain);
        self.layer_bytes.get_or_create(&labels).set(gauges.layer_bytes);
        self.memtable_bytes.get_or_create(&labels).set(gauges.memtable_bytes);
        self.incomplete_pages.get_or_create(&labels).set(gauges.incomplete_pages);
        self.ingest_stopped.get_or_create(&labels).set(gauges.ingest_stopped);
    }

    /// All metrics as OpenMetrics text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn shard_labels(branch: BranchKey, shard: ShardId) -> ShardLabels {
    let (project, branch) = (branch.project.to_string(), branch.branch.to_string());
    ShardLabels { project, branch, shard: shard.number.into() }
}

fn kind_labels(labels: &ShardLabels, kind: &'static str) -> KindLabels {
    let ShardLabels { project, branch, shard } = labels.clone();
    KindLabels { project, branch, shard, kind }
}

impl ShardMetrics {
    /// A record was ingested: so many bytes, so many of them in so many page images.
    pub fn record_ingested(&self, bytes: u64, images: u64, image_bytes: u64) {
        self.records.inc();
        self.full_page_images.inc_by(images);
        self.wal_image_bytes.inc_by(image_bytes);
        self.wal_record_bytes.inc_by(bytes.saturating_sub(image_bytes));
    }

    /// An image was kept.
    pub fn image_made(&self, reason: ImageReason) {
        match reason {
            ImageReason::Threshold => self.images_by_threshold.inc(),
            ImageReason::Read => self.images_by_read.inc(),
        };
    }

    /// Images kept, by any reason.
    pub fn images_made(&self) -> u64 {
        self.images_by_threshold.get() + self.images_by_read.get()
    }

    /// Page images that the WAL brought.
    pub fn full_page_images(&self) -> u64 {
        self.full_page_images.get()
    }

    /// WAL bytes ingested.
    pub fn wal_bytes(&self) -> u64 {
        self.wal_image_bytes.get() + self.wal_record_bytes.get()
    }

    /// Records ingested.
    pub fn records(&self) -> u64 {
        self.records.get()
    }

    /// Pages were kept as PostgreSQL wrote them.
    pub fn pages_kept(&self, pages: u64) {
        self.pages_kept.inc_by(pages);
        self.page_bytes_kept.inc_by(pages * PAGE_SIZE as u64);
    }

    /// Ingest waits for flushes or images.
    pub fn ingest_waits(&self) {
        self.ingest_waits.inc();
    }

    /// A read met a chain past the threshold.
    pub fn long_chain_read(&self) {
        self.long_chain_reads.inc();
    }

    /// Reads that met a chain past the threshold.
    pub fn long_chain_reads(&self) -> u64 {
        self.long_chain_reads.get()
    }

    /// A page took so many deltas to rebuild.
    pub fn replayed(&self, deltas: u32) {
        self.deltas_per_read.observe(deltas.into());
    }

    /// The pages of a request took so many layers to find.
    pub fn layers_visited(&self, layers: usize, pages: usize) {
        self.layers_per_read.observe(layers as f64 / pages.max(1) as f64);
    }

    /// The pages of a request took so long to rebuild.
    pub fn read_took(&self, took: Duration) {
        self.read_seconds.observe(took.as_secs_f64());
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
