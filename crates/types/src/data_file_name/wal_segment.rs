//! The name of a WAL segment.

use super::number::hexadecimal;
use std::fmt;

/// A WAL segment's name in `pg_wal`: three numbers of eight hexadecimal digits (`XLogFileName`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalSegmentName {
    /// Timeline.
    pub timeline: u32,
    /// The upper half of the LSNs in it.
    pub log: u32,
    /// Which segment of the 4 GiB that have this upper half.
    pub segment: u32,
}

impl WalSegmentName {
    /// The name of the segment with a number, which counts from the start of the log.
    ///
    /// # Panics
    /// If `segment_bytes` is 0 or more than 4 GiB.
    pub fn new(timeline: u32, segment_number: u64, segment_bytes: u64) -> WalSegmentName {
        let per_log = 0x1_0000_0000 / segment_bytes;
        // A number that is too large for a name has no segment in a log.
        let half = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        WalSegmentName { timeline, log: half(segment_number / per_log), segment: half(segment_number % per_log) }
    }

    /// Its number from the start of the log; none if there is no such number. It is not checked that so many segments
    /// have the same upper half.
    pub fn segment_number(&self, segment_bytes: u64) -> Option<u64> {
        let per_log = 0x1_0000_0000_u64.checked_div(segment_bytes)?;
        u64::from(self.log).checked_mul(per_log)?.checked_add(self.segment.into())
    }

    /// From a file's name in its directory.
    pub fn parse(name: &[u8]) -> Option<WalSegmentName> {
        let (timeline, rest) = name.split_at_checked(8)?;
        let (log, segment) = rest.split_at_checked(8)?;
        let number = |digits| hexadecimal(digits, 8..=8);
        Some(WalSegmentName { timeline: number(timeline)?, log: number(log)?, segment: number(segment)? })
    }
}

impl fmt::Display for WalSegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline, self.log, self.segment)
    }
}
