//! Several records at once, for readers that go through much WAL: their memory is held together, not one by one.

use super::RawRecord;
use bytes::Bytes;
use quire_types::Lsn;

/// Records that follow each other in the log, their headers and CRCs checked. They are in one page of the log, or it is
/// a single one that goes over several.
#[derive(Debug, Default)]
pub struct RecordRun {
    bytes: Bytes,
    spans: Vec<Span>,
}

/// One of the records.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: Lsn,
    end: Lsn,
    at: usize,
    length: usize,
}

/// A [`RawRecord`] that belongs to a [`RecordRun`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// Its first byte.
    pub start: Lsn,
    /// PostgreSQL's `EndRecPtr`, as in [`RawRecord::end`].
    pub end: Lsn,
    /// The record without page headers.
    pub bytes: &'a [u8],
}

impl RecordRun {
    /// The records, in the order of the log.
    #[inline]
    pub fn records(&self) -> impl ExactSizeIterator<Item = RecordRef<'_>> {
        self.spans.iter().map(|span| RecordRef {
            start: span.start,
            end: span.end,
            bytes: &self.bytes[span.at..span.at + span.length],
        })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Lets go of the memory.
    pub(super) fn clear(&mut self) {
        self.bytes = Bytes::new();
        self.spans.clear();
    }

    /// Adds a record of `length` bytes that begins `at` bytes into the memory that [`RecordRun::hold`] is given later.
    pub(super) fn add(&mut self, start: Lsn, end: Lsn, at: usize, length: usize) {
        self.spans.push(Span { start, end, at, length });
    }

    /// Gives the records their memory.
    pub(super) fn hold(&mut self, bytes: Bytes) {
        self.bytes = bytes;
    }

    /// Holds this record alone.
    pub(super) fn hold_one(&mut self, record: RawRecord) {
        self.add(record.start, record.end, 0, record.bytes.len());
        self.hold(record.bytes);
    }
}
