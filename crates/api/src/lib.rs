//! What the roles' HTTP interfaces and those who call them exchange: requests, status, settings and metric names.
//!
//! Each role builds these structures and each caller reads them, so that a field that is renamed is an error of the
//! compiler and not a `null` in an answer. The names in the JSON are a promise to scripts:
//!
//! ```
//! # use quire_api::safekeeper::Status;
//! let status: Status = serde_json::from_str(r#"{"node": 2, "branches": []}"#)?;
//! assert_eq!(serde_json::to_value(&status)?["node"], 2);
//! # Ok::<(), serde_json::Error>(())
//! ```
//!
//! An answer may have fields that a caller does not know yet: they are skipped. A field that may be missing is an
//! `Option`, which JSON shows as `null`.

#![forbid(unsafe_code)]

pub mod compute;
pub mod deployment;
pub mod metric;
pub mod pageserver;
pub mod safekeeper;
mod size;
mod tuning;

use serde::{Deserialize, Serialize};

pub use size::parse_bytes;
pub use tuning::{CACHE_SIZE_MIN, CacheSize, READ_DEADLINE_MAX, Tuning};

/// The path at which every role shows its status.
pub const STATUS: &str = "/status";

/// The path at which every role shows its metrics, as OpenMetrics text.
pub const METRICS: &str = "/metrics";

/// The media type of what [`METRICS`] answers.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why a request was refused; the answer has a status that is not 2xx.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// The reason, in words.
    pub error: String,
}
