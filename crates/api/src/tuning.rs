//! The settings of a compute that an administrator may change at each start.
//!
//! They are options of `quire up`, are remembered in `quire.json`, and are handed to the compute's agent in its
//! configuration: one entry in the table below is all of that.

use crate::size::parse_bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// A smaller cache would do nothing but fetch.
pub const CACHE_SIZE_MIN: u64 = 16 << 20;

/// The longest time, in seconds, that a read can be made to wait for storage.
pub const READ_DEADLINE_MAX: u64 = 86_400;

/// Makes [`Tuning`] of a table of `name: type = default`, with the attributes for clap and serde.
macro_rules! tuning {
    ($($(#[$attribute:meta])* $name:ident: $kind:ty = $default:expr;)*) => {
        /// What was set; what was not has its default.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::Args, Serialize, Deserialize)]
        pub struct Tuning {
            $(
                $(#[$attribute])*
                #[arg(long)]
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $name: Option<$kind>,
            )*
        }

        impl Tuning {
            /// These settings, but for those that `newer` has.
            #[must_use]
            pub fn with(self, newer: Tuning) -> Tuning {
                Tuning { $($name: newer.$name.or(self.$name)),* }
            }

            $(
                /// The setting of that name, or its default.
                #[must_use]
                pub fn $name(&self) -> $kind {
                    self.$name.unwrap_or($default)
                }
            )*
        }
    };
}

tuning! {
    /// Maximum size of the local page cache, e.g. 64MiB, or 'none' for unlimited; saved [default: half of the disk
    /// space that is free at the first start]
    #[arg(value_name = "BYTES")]
    #[serde(alias = "cache_bytes")]
    cache_size: CacheSize = CacheSize::Unlimited;

    /// How far the pageserver may fall behind in WAL, e.g. 256MiB. Commits slow down at half of it and block at the
    /// limit; saved [default: 1GiB]
    #[arg(value_name = "BYTES", value_parser = parse_bytes)]
    #[serde(alias = "lag_bytes_max")]
    max_lag: u64 = 1 << 30;

    /// Seconds a read waits for an unavailable pageserver before it fails with an I/O error; saved [default: 60]
    #[arg(value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=READ_DEADLINE_MAX))]
    #[serde(alias = "fetch_seconds_max")]
    read_deadline: u64 = 60;

    /// Pages per second to check against storage in the background; 0 turns it off; saved [default: 20]
    #[arg(value_name = "N")]
    verify_rate: u32 = 20;
}

/// How large a cache may grow.
///
/// In JSON and on the command line a number of bytes, with or without a unit, or `none`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CacheSize {
    /// Beyond so many bytes, pages leave it.
    Bytes(u64),
    /// No page leaves it.
    Unlimited,
}

impl CacheSize {
    /// The bound in bytes, if there is one.
    pub fn bytes(self) -> Option<u64> {
        match self {
            CacheSize::Bytes(bytes) => Some(bytes),
            CacheSize::Unlimited => None,
        }
    }
}

impl FromStr for CacheSize {
    type Err = String;

    fn from_str(text: &str) -> Result<CacheSize, String> {
        if text == "none" {
            return Ok(CacheSize::Unlimited);
        }
        match parse_bytes(text)? {
            bytes if bytes < CACHE_SIZE_MIN => Err(format!("at least {} MiB are needed", CACHE_SIZE_MIN >> 20)),
            bytes => Ok(CacheSize::Bytes(bytes)),
        }
    }
}

impl fmt::Display for CacheSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CacheSize::Bytes(bytes) => write!(f, "{bytes}"),
            CacheSize::Unlimited => f.write_str("none"),
        }
    }
}

impl Serialize for CacheSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            CacheSize::Bytes(bytes) => serializer.serialize_u64(*bytes),
            CacheSize::Unlimited => serializer.serialize_str("none"),
        }
    }
}

impl<'de> Deserialize<'de> for CacheSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<CacheSize, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Bytes(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Bytes(bytes) => Ok(CacheSize::Bytes(bytes)),
            Written::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: serde_json::Value) -> Tuning {
        serde_json::from_value(value).expect("readable")
    }

    #[test]
    fn settings_under_their_former_names_are_read() {
        let former = json!({ "cache_bytes": 67_108_864, "lag_bytes_max": 9, "fetch_seconds_max": 7, "verify_rate": 0 });
        let tuning = Tuning {
            cache_size: Some(CacheSize::Bytes(64 << 20)),
            max_lag: Some(9),
            read_deadline: Some(7),
            verify_rate: Some(0),
        };
        assert_eq!(read(former), tuning);
        assert_eq!(read(serde_json::to_value(tuning).expect("written")), tuning);
        assert_eq!(read(json!({ "cache_bytes": null })), Tuning::default());
    }

    #[test]
    fn a_newer_setting_takes_the_place_of_an_older_one_and_leaves_the_others() {
        let older = read(json!({ "cache_size": "64MiB", "max_lag": 5 }));
        let both = older.with(read(json!({ "cache_size": "none", "verify_rate": 3 })));
        assert_eq!(both, read(json!({ "cache_size": "none", "max_lag": 5, "verify_rate": 3 })));
        assert_eq!((both.cache_size(), both.max_lag()), (CacheSize::Unlimited, 5));
        assert_eq!((both.verify_rate(), both.read_deadline()), (3, 60));
    }

    #[test]
    fn a_cache_that_would_only_fetch_is_refused() {
        assert_eq!("16MiB".parse(), Ok(CacheSize::Bytes(16 << 20)));
        assert!("15MiB".parse::<CacheSize>().is_err_and(|reason| reason.contains("16 MiB")));
        for wrong in ["", "0", "1MiB", "64MB", "-1", "99999999999TiB"] {
            assert!(wrong.parse::<CacheSize>().is_err(), "{wrong}");
        }
        for size in [CacheSize::Bytes(16 << 20), CacheSize::Unlimited] {
            assert_eq!(size.to_string().parse(), Ok(size));
        }
    }
}
