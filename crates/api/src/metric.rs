//! Names and meanings of the roles' metrics.
//!
//! In OpenMetrics text, `fetch` in seconds of the compute's agent is `quire_compute_fetch_seconds`; a counter's name
//! ends in `_total`.

use prometheus_client::registry::{self, Registry, Unit};

/// A metric as it is registered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metric {
    /// The role, such as `quire_compute`.
    pub prefix: &'static str,
    /// The name after the prefix, without unit and suffix.
    pub name: &'static str,
    /// The unit in the name, if it has one.
    pub unit: Option<&'static str>,
    /// What it measures, in a line.
    pub help: &'static str,
}

impl Metric {
    /// Registers `value` under this name, in a registry whose prefix is this one's.
    pub fn register(self, registry: &mut Registry, value: impl registry::Metric) {
        match self.unit {
            Some(unit) => registry.register_with_unit(self.name, self.help, Unit::Other(unit.to_owned()), value),
            None => registry.register(self.name, self.help, value),
        }
    }

    /// The name of its family in OpenMetrics text.
    pub fn full_name(self) -> String {
        let unit = self.unit.map(|unit| format!("_{unit}")).unwrap_or_default();
        format!("{}_{}{unit}", self.prefix, self.name)
    }
}

/// The unit in a line of [`metrics`].
macro_rules! unit {
    () => {
        None
    };
    ($unit:literal) => {
        Some($unit)
    };
}

/// Makes a module with a constant for each metric of a role.
macro_rules! metrics {
    ($(#[$attribute:meta])* $role:ident, $prefix:literal: $($constant:ident = $name:literal $($unit:literal)?, $help:literal;)*) => {
        $(#[$attribute])*
        pub mod $role {
            use super::Metric;

            /// What all names begin with.
            pub const PREFIX: &str = $prefix;

            $(
                #[doc = concat!($help, ".")]
                pub const $constant: Metric =
                    Metric { prefix: PREFIX, name: $name, unit: unit!($($unit)?), help: $help };
            )*

            /// All of them.
            pub const ALL: &[Metric] = &[$($constant),*];
        }
    };
}

metrics! {
    /// The metrics of a safekeeper.
    safekeeper, "quire_safekeeper":
    FLUSH = "flush" "seconds", "Time to make appended WAL durable";
    APPENDED = "appended" "bytes", "WAL written";
    SENT = "sent" "bytes", "WAL sent to followers";
    CONNECTIONS = "connections", "Open connections of proposers, readers and followers";
    TERM = "term", "Term of the branch";
    FLUSH_LSN = "flush_lsn", "Everything before is durable here";
    COMMIT_LSN = "commit_lsn", "Everything before is committed";
    OLDEST_LSN = "oldest_lsn", "The oldest WAL that is kept";
    DURABLE_LSN = "durable_lsn", "Everything before is durable at all followers";
}

metrics! {
    /// The metrics of a pageserver.
    pageserver, "quire_pageserver":
    RECORDS = "records", "WAL records ingested";
    WAL_BYTES = "wal_bytes", "WAL ingested, page images and the rest";
    FULL_PAGE_IMAGES = "full_page_images", "Page images in the WAL";
    IMAGES = "images", "Page images made by this pageserver, by reason";
    LONG_CHAIN_READS = "long_chain_reads", "Reads that met a chain past the threshold";
    PAGES_KEPT = "pages_kept", "Pages kept as PostgreSQL wrote them";
    PAGES_KEPT_BYTES = "pages_kept" "bytes", "Bytes of the pages kept as PostgreSQL wrote them";
    INGEST_WAITS = "ingest_waits", "Times ingest waited for flushes or images";
    DELTAS_PER_READ = "deltas_per_read", "Deltas replayed for a page";
    LAYERS_PER_READ = "layers_per_read", "Layers visited for a page";
    READ_DURATION = "read_duration" "seconds", "Time to rebuild the pages of a request";
    INGESTED_LSN = "ingested_lsn", "Everything before is ingested";
    DURABLE_LSN = "durable_lsn", "Everything before is in layer files";
    IMAGE_BACKLOG_PAGES = "image_backlog_pages", "Pages that wait for an image";
    INCOMPLETE_PAGES = "incomplete_pages", "Pages of which bytes were not logged and may still come";
    LONGEST_CHAIN_DELTAS = "longest_chain_deltas", "Deltas of the longest chain";
    LAYER = "layer" "bytes", "Size of layer files";
    INGEST_STOPPED = "ingest_stopped", "1 if ingest stopped at an error";
    MEMTABLE = "memtable" "bytes", "Size of memtables";
}

metrics! {
    /// The metrics of a compute's agent.
    compute, "quire_compute":
    FETCH = "fetch" "seconds", "Time to get pages from storage";
    FETCH_REQUESTS = "fetch_requests", "Requests for pages sent to storage";
    FETCHED_PAGES = "fetched_pages", "Pages got from storage, by reason";
    COLD_STARTS = "cold_starts", "Starts from storage alone";
    COLD_START = "cold_start" "seconds", "Time from nothing to accepting connections";
    VERIFIED_PAGES = "verified_pages", "Pages compared with storage";
    VERIFY_MISMATCHES = "verify_mismatches", "Pages found to differ from storage";
    SAMPLED_PAGES = "sampled_pages", "Pages compared with storage while PostgreSQL works";
    SAMPLED_MISMATCHES = "sampled_mismatches", "Pages of those that differ from storage";
    CACHE_BYTES = "cache_bytes", "Bytes of relation files in a bounded cache";
    POSTGRES_OUTDATED = "postgres_outdated", "1 while another PostgreSQL is installed than the one that runs";
    DROPPED_PAGES = "dropped_pages", "Pages that left the cache to keep it bounded";
    PAGES_KEPT_AS_WRITTEN = "pages_kept_as_written", "Pages stored as PostgreSQL wrote them, because WAL does not describe them";
    CACHE_READS = "cache_reads", "Reads of files that storage has, since the last cold start";
    CACHE_WRITES = "cache_writes", "Writes of files that storage has, since the last cold start";
    FILLS = "fills", "Fetches that processes asked for, since the last cold start";
    FILL_ERRORS = "fill_errors", "Fetches that failed, since the last cold start";
    FILL_WAIT_NS = "fill_wait_ns", "Nanoseconds that processes waited for fetches, since the last cold start";
    FLUSH_WAITS = "flush_waits", "WAL flushes that processes waited for, since the last cold start";
    FLUSH_WAIT_NS = "flush_wait_ns", "Nanoseconds that processes waited for WAL flushes, since the last cold start";
    FLUSH_ERRORS = "flush_errors", "WAL flushes that were refused, since the last cold start";
    QUORUM_CONNECTED = "quorum_connected", "Safekeepers that take this term's WAL";
    QUORUM_LOST = "quorum_lost", "Whether commits wait for want of a majority";
    TERM = "term", "The term that is held, 0 if none";
    WRITTEN_LSN = "written_lsn", "End of the WAL handed to the quorum";
    COMMITTED_LSN = "committed_lsn", "End of what a majority has flushed";
    SAFEKEEPER_FLUSH_LSN = "safekeeper_flush_lsn", "What each safekeeper has flushed";
    THROTTLED = "throttled", "Whether this component holds commits back";
    INGEST_LAG_BYTES = "ingest_lag_bytes", "WAL that is shipped and not ingested";
    THROTTLE_WAIT_MS = "throttle_wait_ms", "Milliseconds that flushes were held back, since the last cold start";
}

#[cfg(test)]
mod tests {
    use super::{compute, pageserver, safekeeper};
    use std::collections::BTreeSet;

    #[test]
    fn names_are_words_of_small_letters_and_every_metric_is_explained() {
        for metric in [safekeeper::ALL, pageserver::ALL, compute::ALL].concat() {
            assert!(metric.name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{metric:?}");
            assert!(!metric.help.is_empty() && !metric.help.ends_with('.'), "{metric:?}");
        }
    }

    #[test]
    fn no_two_metrics_have_one_name() {
        let all = [safekeeper::ALL, pageserver::ALL, compute::ALL].concat();
        let names: BTreeSet<_> = all.iter().map(|metric| metric.full_name()).collect();
        assert_eq!(names.len(), all.len());
        assert!(names.contains("quire_compute_fetch_seconds") && names.contains("quire_pageserver_records"));
    }
}
