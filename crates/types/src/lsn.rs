//! The log sequence number: a byte position in the write-ahead log.

use crate::data_file_name::WalSegmentName;
use std::fmt;
use std::str::FromStr;

/// A byte position in a branch's write-ahead log, as PostgreSQL's `XLogRecPtr`; 0 is invalid.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

/// A text that is not an LSN of the form `16/B374D848`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an LSN: {0:?} (expected two hexadecimal numbers, as in 16/B374D848)")]
pub struct LsnParseError(pub String);

impl Lsn {
    /// PostgreSQL's `InvalidXLogRecPtr`.
    pub const INVALID: Lsn = Lsn(0);
    /// Above every LSN that can occur.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// Whether this is a position at all.
    pub fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// The position `bytes` later, saturating.
    #[expect(clippy::should_implement_trait, reason = "`+` would promise an overflow check")]
    #[must_use]
    pub fn add(self, bytes: u64) -> Lsn {
        Lsn(self.0.saturating_add(bytes))
    }

    /// Bytes from `earlier` to here, 0 if `earlier` is ahead.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Rounded up to the 8-byte boundary at which every record starts (`MAXALIGN`).
    #[must_use]
    pub fn align_up(self) -> Lsn {
        Lsn(self.0.saturating_add(7) & !7)
    }

    /// Number of the WAL segment that holds this byte.
    pub fn segment_number(self, segment_bytes: u64) -> u64 {
        self.0 / segment_bytes
    }

    /// Offset of this byte in its WAL segment.
    pub fn segment_offset(self, segment_bytes: u64) -> u64 {
        self.0 % segment_bytes
    }
}

/// Name of a WAL segment file on PostgreSQL timeline `timeline`.
pub fn segment_file_name(timeline: u32, segment_number: u64, segment_bytes: u64) -> String {
    WalSegmentName::new(timeline, segment_number, segment_bytes).to_string()
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Lsn {
    type Err = LsnParseError;

    fn from_str(text: &str) -> Result<Lsn, LsnParseError> {
        let wrong = || LsnParseError(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(wrong)?;
        let half = |part: &str| u32::from_str_radix(part, 16).map_err(|_| wrong());
        Ok(Lsn(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
    }
}

impl serde::Serialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Lsn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Lsn, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_postgresqls() {
        assert_eq!(Lsn(0x16_B374_D848).to_string(), "16/B374D848");
        assert_eq!("16/B374D848".parse(), Ok(Lsn(0x16_B374_D848)));
        for wrong in ["", "16", "16/", "/1", "16/B374D848F", "x/y", "1/2/3"] {
            assert!(wrong.parse::<Lsn>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn segment_names_are_postgresqls() {
        let segment_bytes = 16 << 20;
        assert_eq!(segment_file_name(1, 1, segment_bytes), "000000010000000000000001");
        assert_eq!(segment_file_name(1, 0x1FF, segment_bytes), "0000000100000001000000FF");
    }
}
