//! What was shipped in this term, remembered by its checksums.
//!
//! An acceptor that lags is given WAL that others have acknowledged long ago. The local file has it, but nobody flushes
//! that file, and what a page of it reads as later need not be what was shipped: two safekeepers would then hold
//! different bytes for one position. So bytes of the local file are sent a second time only if their checksum is that
//! of the first.

use crc32c::{crc32c, crc32c_append};
use quire_types::Lsn;
use std::collections::VecDeque;

/// Where ranges end: at multiples of this in the log, the first and the last apart.
const RANGE_BYTES: u64 = 256 << 10;

/// How many are remembered. When there are more, the oldest go, and what is there is read from a safekeeper.
const RANGES_MAX: usize = 65_536;

/// A stretch of the log and its CRC32C.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// First byte.
    pub begin: Lsn,
    /// One past the last byte.
    pub end: Lsn,
    crc: u32,
}

/// The ranges of a term's WAL, without gaps, ascending.
#[derive(Debug, Default)]
pub struct Shipped {
    ranges: VecDeque<Range>,
}

impl Shipped {
    /// Notes WAL that continues at `begin`, where the last ended.
    pub fn note(&mut self, begin: Lsn, wal: &[u8]) {
        let (mut at, mut left) = (begin, wal);
        while !left.is_empty() {
            let room = RANGE_BYTES - at.0 % RANGE_BYTES;
            let (piece, rest) = left.split_at(left.len().min(room as usize));
            self.note_piece(at, piece);
            (at, left) = (at.add(piece.len() as u64), rest);
        }
    }

    fn note_piece(&mut self, begin: Lsn, piece: &[u8]) {
        let end = begin.add(piece.len() as u64);
        match self.ranges.back_mut().filter(|last| last.end == begin && !begin.0.is_multiple_of(RANGE_BYTES)) {
            Some(last) => (last.end, last.crc) = (end, crc32c_append(last.crc, piece)),
            None => self.ranges.push_back(Range { begin, end, crc: crc32c(piece) }),
        }
        if self.ranges.len() > RANGES_MAX {
            self.ranges.pop_front();
        }
    }

    /// The ranges that `[begin, end)` is in; none if part of it was not shipped in this term, or so long ago that it is
    /// forgotten.
    pub fn covering(&self, begin: Lsn, end: Lsn) -> Vec<Range> {
        let first = self.ranges.partition_point(|range| range.end <= begin);
        let covering: Vec<Range> = self.ranges.range(first..).copied().take_while(|range| range.begin < end).collect();
        let covers = |first: &Range, last: &Range| first.begin <= begin && end <= last.end;
        match (covering.first(), covering.last()) {
            (Some(first), Some(last)) if covers(first, last) => covering,
            _ => Vec::new(),
        }
    }
}

impl Range {
    /// How long it is.
    pub fn bytes(&self) -> usize {
        usize::try_from(self.end.bytes_since(self.begin)).expect("a range is short")
    }

    /// Whether these are the bytes that were shipped.
    pub fn is(&self, bytes: &[u8]) -> bool {
        bytes.len() == self.bytes() && crc32c(bytes) == self.crc
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 3 * RANGE_BYTES + 100;

    fn wal() -> Vec<u8> {
        (0..2 * RANGE_BYTES + 777).map(|byte| (byte % 251) as u8).collect()
    }

    fn shipped(wal: &[u8], piece_bytes: usize) -> Shipped {
        let mut shipped = Shipped::default();
        let mut at = Lsn(START);
        for piece in wal.chunks(piece_bytes) {
            shipped.note(at, piece);
            at = at.add(piece.len() as u64);
        }
        shipped
    }

    fn at(offset: u64) -> Lsn {
        Lsn(START + offset)
    }

    #[test]
    fn ranges_are_the_same_however_the_wal_came() {
        let wal = wal();
        let whole = shipped(&wal, wal.len());
        assert_eq!(whole.ranges.len(), 3);
        for piece_bytes in [1000, 65_536, 300_000] {
            assert_eq!(shipped(&wal, piece_bytes).ranges, whole.ranges);
        }
    }

    #[test]
    fn a_stretch_is_covered_by_the_ranges_it_touches_and_each_knows_its_bytes() {
        let wal = wal();
        let shipped = shipped(&wal, 5000);
        for (begin, end, count) in
            [(0, 1, 1), (10, RANGE_BYTES, 2), (0, wal.len() as u64, 3), (RANGE_BYTES - 100, RANGE_BYTES, 1)]
        {
            let covering = shipped.covering(at(begin), at(end));
            assert_eq!(covering.len(), count, "{begin}..{end}");
            for range in covering {
                let from = range.begin.bytes_since(Lsn(START)) as usize;
                let mut bytes = wal[from..from + range.bytes()].to_vec();
                assert!(range.is(&bytes));
                bytes[range.bytes() / 2] ^= 1;
                assert!(!range.is(&bytes) && !range.is(&bytes[1..]));
            }
        }
    }

    #[test]
    fn what_was_not_shipped_is_covered_by_nothing() {
        let wal = wal();
        let shipped = shipped(&wal, 5000);
        let end = wal.len() as u64;
        for (begin, end) in [(Lsn(START - 8), at(100)), (at(0), at(end + 1)), (at(end), at(end + 1)), (Lsn(0), Lsn(8))]
        {
            assert_eq!(shipped.covering(begin, end), []);
        }
        assert_eq!(Shipped::default().covering(Lsn(8), Lsn(16)), []);
    }
}
