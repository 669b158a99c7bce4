//! Cutting a stream of WAL bytes into records. Source: `xlogreader.c` (`XLogDecodeNextRecord`).
//!
//! Feed bytes in the order of the log, in pieces of any size, and take records until there are none:
//!
//! ```
//! # use quire_types::Lsn;
//! # let (bytes, _) = quire_wal::checkpoint::encode_shutdown_checkpoint(
//! #     &quire_wal::postgres_version::PG15, &Default::default(), Lsn(16 << 20), Lsn(0), 7, 16 << 20);
//! let mut stream = quire_wal::WalStream::new(Lsn(16 << 20), 16 << 20, Some(7));
//! stream.feed(&bytes);
//! while let Some(record) = stream.next_record()? {
//!     println!("a record of {} bytes from {} to {}", record.bytes.len(), record.start, record.end);
//! }
//! assert_eq!(stream.boundary(), stream.position());
//! # Ok::<(), quire_wal::WalError>(())
//! ```
//!
//! Invariants:
//! - `boundary() <= position()`: a record is given out once every byte up to its `end` was fed, the padding behind it
//!   and the unused rest of a switched segment included.
//! - Memory held is what was fed and not yet given out; what a length field claims allocates nothing.
//! - After the end of what is written, or an error, the stream stays there and drops what it is fed, until
//!   [`WalStream::rewind_to_boundary`].

mod run;

pub use run::{RecordRef, RecordRun};

use crate::postgres_version::PostgresVersion;
use crate::postgres_version::is_valid_segment_bytes;
use crate::record::{HEADER_BYTES, RECORD_BYTES_MAX, RecordHeader, WalError, record_crc};
use crate::rmgr;
use crate::wal_page::{SHORT_HEADER_BYTES, WAL_PAGE_BYTES, WalPageHeader, header_bytes};
use bytes::{Buf, Bytes, BytesMut};
use quire_types::Lsn;
use std::io::{self, Read};

/// A whole record, its header and CRC checked, not yet decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRecord {
    /// Its first byte.
    pub start: Lsn,
    /// PostgreSQL's `EndRecPtr`: the 8-byte-aligned end; for a segment switch, the next segment's start.
    pub end: Lsn,
    /// The record without page headers, `xl_tot_len` bytes. They share the memory of what was fed with them: a caller
    /// that keeps few records of many for long should copy those.
    pub bytes: Bytes,
}

/// Fed with WAL bytes in order, gives out the records that are complete.
#[derive(Debug)]
pub struct WalStream {
    segment_bytes: u64,
    system_id: Option<u64>,
    /// The last page's timeline, below which none may fall.
    timeline: u32,
    /// Which version of PostgreSQL writes the log, once a page header was read.
    version: Option<&'static PostgresVersion>,
    /// Whether no record was given out yet and the start may be inside one.
    may_skip: bool,
    boundary: Lsn,
    last_record: Option<Lsn>,
    position: Lsn,
    /// Where the first byte of `buffer` is in the log.
    cursor: Lsn,
    /// Fed and not yet read; ends at `position`, unless the stream stands still.
    buffer: BytesMut,
    state: State,
}

/// What is at the cursor, apart from a page header if a page starts there.
#[derive(Debug)]
enum State {
    /// The start of a record.
    Between,
    /// The rest of a record that began before the stream: in this page up to `until`, then `later` bytes more.
    Skipping { until: Lsn, later: u32 },
    /// The rest of a record.
    Within(Partial),
    /// What is left between a whole record and its end.
    Complete(RawRecord),
    /// Nothing was written from here on.
    Ended,
    /// Something that is not WAL.
    Failed(WalError),
}

#[derive(Debug)]
struct Partial {
    start: Lsn,
    total_bytes: usize,
    bytes: BytesMut,
}

/// A record that is in one page of the log.
struct Whole {
    end: Lsn,
    total_bytes: usize,
}

impl Partial {
    fn missing_bytes(&self) -> usize {
        self.total_bytes - self.bytes.len()
    }
}

impl WalStream {
    /// A stream that starts at `start`: a record's start or end, or the start of a page or segment. If that page starts
    /// with the rest of a record, the rest is skipped. Segment starts are checked against `system_id`, if given.
    ///
    /// Where no record can start, or with a size no WAL segment has, [`WalStream::next_record`] says so.
    pub fn new(start: Lsn, segment_bytes: u64, system_id: Option<u64>) -> WalStream {
        WalStream {
            segment_bytes,
            system_id,
            timeline: 0,
            version: None,
            may_skip: true,
            boundary: start,
            last_record: None,
            position: start,
            cursor: start,
            buffer: BytesMut::new(),
            state: initial_state(start, segment_bytes),
        }
    }

    /// A stream that starts at `boundary`, which is known to be a record's end, or the start of the whole log: a page
    /// there that starts with the rest of a record is no part of this log, and an error.
    pub fn at_boundary(boundary: Lsn, segment_bytes: u64, system_id: Option<u64>) -> WalStream {
        WalStream { may_skip: false, ..WalStream::new(boundary, segment_bytes, system_id) }
    }

    /// A stream that continues at `boundary`, the end of the record that starts at `last_record`: the next record must
    /// name that one as the one before it.
    pub fn resume(boundary: Lsn, last_record: Lsn, segment_bytes: u64, system_id: Option<u64>) -> WalStream {
        WalStream { last_record: Some(last_record), ..WalStream::at_boundary(boundary, segment_bytes, system_id) }
    }

    /// The same for a log that is known to be of that version: a page of another is an error.
    #[must_use]
    pub fn of_version(self, version: &'static PostgresVersion) -> WalStream {
        WalStream { version: Some(version), ..self }
    }

    /// LSN of the next byte to be fed.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// End of the last record given out; before the first one, where the stream started.
    pub fn boundary(&self) -> Lsn {
        self.boundary
    }

    /// Start of the last record given out.
    pub fn last_record(&self) -> Option<Lsn> {
        self.last_record
    }

    /// Whether the stream stands at something that was never written; bytes that follow are not looked at.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Adds the bytes at [`WalStream::position`].
    pub fn feed(&mut self, bytes: &[u8]) {
        self.position = self.position.add(bytes.len() as u64);
        if !matches!(self.state, State::Ended | State::Failed(_)) {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// [`WalStream::feed`] straight from a reader: at most `bytes` of what it has next; gives back how many came.
    ///
    /// # Errors
    /// The reader's; nothing was fed then.
    pub fn feed_from(&mut self, reader: &mut impl Read, bytes: usize) -> io::Result<usize> {
        let held = self.buffer.len();
        self.buffer.resize(held + bytes, 0);
        let read = reader.read(&mut self.buffer[held..]);
        let count = read.as_ref().map_or(0, |count| *count);
        self.buffer.truncate(held + count);
        self.position = self.position.add(count as u64);
        if matches!(self.state, State::Ended | State::Failed(_)) {
            self.buffer.clear();
        }
        read
    }

    /// Forgets every byte past [`WalStream::boundary`], and an end or error found there, so that they can be fed again:
    /// afterwards `position() == boundary()`.
    ///
    /// For a reader of a log that is being written: the last page written is rewritten as it fills, and what is in it
    /// past the last whole record may change. PostgreSQL writes whole pages, so that a page it flushes for one record
    /// may hold the next one half copied: an error past what had to be flushed is an ordinary end there, not damage.
    pub fn rewind_to_boundary(&mut self) {
        self.position = self.boundary;
        self.cursor = self.boundary;
        self.buffer.clear();
        self.state = initial_state(self.boundary, self.segment_bytes);
    }

    /// The next record, once all its bytes were fed. `None` says that more bytes are needed, or that nothing is written
    /// at the cursor (a length of zero, or a page header of zeroes), where the stream stays. An error stays too.
    pub fn next_record(&mut self) -> Result<Option<RawRecord>, WalError> {
        let next = self.try_next();
        if let Err(error) = &next {
            self.buffer.clear();
            self.state = State::Failed(error.clone());
        }
        next
    }

    fn try_next(&mut self) -> Result<Option<RawRecord>, WalError> {
        if let Some(record) = self.take_whole()? {
            return Ok(Some(record));
        }
        while self.step()? {}
        Ok(self.take_complete())
    }

    /// The records that come next, as many as are whole in this page of the log and were fed; or one that does not. The
    /// records are those of [`WalStream::next_record`], which does the same one by one: `false` is its `None`, and an
    /// error comes once all records before it were given out. What `run` held is let go of.
    pub fn next_run(&mut self, run: &mut RecordRun) -> Result<bool, WalError> {
        run.clear();
        self.take_run(run);
        if run.is_empty()
            && let Some(record) = self.next_record()?
        {
            run.hold_one(record);
        }
        Ok(!run.is_empty())
    }

    /// Takes whole records until there is none, or something is wrong with the next one, which is found out again when
    /// that one is asked for alone.
    fn take_run(&mut self, run: &mut RecordRun) {
        let start = self.cursor;
        let mut taken_bytes = 0;
        while let Ok(Some(Whole { end, total_bytes })) = self.whole_at(taken_bytes) {
            run.add(self.cursor, end, taken_bytes, total_bytes);
            taken_bytes += end.bytes_since(self.cursor) as usize;
            self.last_record = Some(self.cursor);
            self.cursor = end;
        }
        if self.cursor > start {
            run.hold(self.buffer.split_to(taken_bytes).freeze());
            self.note_end(self.cursor);
        }
    }

    /// The record at the cursor, if all of it and of its padding is in this page and was fed. Most do; all else goes
    /// step by step.
    fn take_whole(&mut self) -> Result<Option<RawRecord>, WalError> {
        let Some(Whole { end, total_bytes }) = self.whole_at(0)? else { return Ok(None) };
        let start = self.cursor;
        let bytes = self.buffer.split_to(total_bytes).freeze();
        self.buffer.advance(end.bytes_since(start) as usize - total_bytes);
        self.cursor = end;
        let record = RawRecord { start, end, bytes };
        self.note_taken(&record);
        Ok(Some(record))
    }

    /// Looks for a whole record at the cursor, which is `at` bytes into the buffer.
    #[inline]
    fn whole_at(&self, at: usize) -> Result<Option<Whole>, WalError> {
        if !matches!(self.state, State::Between) || self.cursor.0.is_multiple_of(WAL_PAGE_BYTES) {
            return Ok(None);
        }
        let left = &self.buffer[at..];
        let Some(header) = left.get(..HEADER_BYTES).and_then(|bytes| RecordHeader::read(bytes).ok()) else {
            return Ok(None);
        };
        let (start, total_bytes) = (self.cursor, header.total_bytes as usize);
        let end = start.add(total_bytes as u64).align_up();
        let padded_bytes = end.bytes_since(start) as usize;
        let is_whole = total_bytes >= HEADER_BYTES && padded_bytes <= left.len().min(self.page_room());
        if !is_whole || is_switch(&header) {
            return Ok(None);
        }
        check_header(&header, start, self.last_record)?;
        check_crc(&header, start, &left[..total_bytes])?;
        Ok(Some(Whole { end, total_bytes }))
    }

    fn note_taken(&mut self, record: &RawRecord) {
        self.last_record = Some(record.start);
        self.note_end(record.end);
    }

    fn note_end(&mut self, end: Lsn) {
        self.boundary = end;
        self.may_skip = false;
    }

    /// Reads one thing at the cursor; `false` if it cannot be read yet, or the stream stands still.
    fn step(&mut self) -> Result<bool, WalError> {
        let at_page_start = self.cursor.0.is_multiple_of(WAL_PAGE_BYTES);
        match &self.state {
            State::Failed(error) => Err(error.clone()),
            State::Ended => Ok(false),
            State::Complete(record) => Ok(self.discard_up_to(record.end)),
            _ if at_page_start => self.read_page_header(),
            State::Between => self.begin_record(),
            State::Skipping { until, later } => Ok(self.skip(*until, *later)),
            State::Within(_) => self.gather(),
        }
    }

    fn take_complete(&mut self) -> Option<RawRecord> {
        let end = self.cursor;
        match std::mem::replace(&mut self.state, State::Between) {
            State::Complete(record) if record.end == end => {
                self.note_taken(&record);
                Some(record)
            }
            other => {
                self.state = other;
                None
            }
        }
    }

    fn read_page_header(&mut self) -> Result<bool, WalError> {
        let Some(start) = self.buffer.get(..SHORT_HEADER_BYTES) else { return Ok(false) };
        if start.iter().all(|&byte| byte == 0) {
            self.end();
            return Ok(false);
        }
        let bytes = header_bytes(self.cursor, self.segment_bytes);
        if self.buffer.len() < bytes {
            return Ok(false);
        }
        let header = WalPageHeader::read(&self.buffer, self.cursor, self.segment_bytes, self.system_id)?;
        self.check_version(&header)?;
        self.check_timeline(&header)?;
        self.advance(bytes);
        self.enter_page(&header)?;
        Ok(true)
    }

    /// A log is of one version.
    fn check_version(&mut self, header: &WalPageHeader) -> Result<(), WalError> {
        let known = *self.version.get_or_insert(header.version);
        if known.major != header.version.major {
            let reason = format!("a page of PostgreSQL {} in a log of {}", header.version.major, known.major);
            return Err(WalError::invalid(header.address, reason));
        }
        Ok(())
    }

    /// Timelines only ever grow along a log.
    fn check_timeline(&mut self, header: &WalPageHeader) -> Result<(), WalError> {
        if header.timeline < self.timeline {
            let reason = format!("out-of-sequence timeline ID {} (after {})", header.timeline, self.timeline);
            return Err(WalError::invalid(header.address, reason));
        }
        self.timeline = header.timeline;
        Ok(())
    }

    /// Compares what the page says about its first bytes with what the stream is in the middle of.
    fn enter_page(&mut self, header: &WalPageHeader) -> Result<(), WalError> {
        let expected = match &self.state {
            State::Within(partial) => partial.missing_bytes(),
            State::Skipping { later, .. } => *later as usize,
            _ if header.continues_record() && self.may_skip => header.remaining_bytes as usize,
            _ => 0,
        };
        if header.overwrites_record() {
            // The rest of the record was lost in a crash, and the log continues with another record here.
            self.state = State::Between;
            return Ok(());
        }
        if header.continues_record() != (expected > 0) || (expected > 0 && header.remaining_bytes as usize != expected)
        {
            let (continues, remaining) = (header.continues_record(), header.remaining_bytes);
            let reason = format!("contrecord flag {continues}, length {remaining}, where {expected} bytes are missing");
            return Err(WalError::invalid(header.address, reason));
        }
        if expected > 0 && !matches!(self.state, State::Within(_)) {
            self.state = self.skip_of(header);
        }
        Ok(())
    }

    /// How the part of a skipped record that is in the page just entered is skipped.
    fn skip_of(&self, header: &WalPageHeader) -> State {
        let room = u32::try_from(self.page_room()).expect("a page is short");
        let until = self.cursor.add(header.remaining_bytes.min(room).into()).align_up();
        State::Skipping { until, later: header.remaining_bytes.saturating_sub(room) }
    }

    fn skip(&mut self, until: Lsn, later: u32) -> bool {
        let moved = self.discard_up_to(until);
        if self.cursor == until && later == 0 {
            self.state = State::Between;
            return true;
        }
        moved
    }

    fn begin_record(&mut self) -> Result<bool, WalError> {
        let Some(&length) = self.buffer.first_chunk::<4>() else { return Ok(false) };
        let total_bytes = u32::from_le_bytes(length) as usize;
        if total_bytes == 0 {
            self.end();
            return Ok(false);
        }
        if !(HEADER_BYTES..=RECORD_BYTES_MAX).contains(&total_bytes) {
            return Err(WalError::invalid(self.cursor, format!("invalid record length {total_bytes}")));
        }
        self.state = State::Within(Partial { start: self.cursor, total_bytes, bytes: BytesMut::new() });
        Ok(true)
    }

    /// Moves what is there of the record, in this page, from the buffer to the partial record.
    fn gather(&mut self) -> Result<bool, WalError> {
        let room = self.page_room();
        let State::Within(partial) = &mut self.state else { return Ok(false) };
        let count = partial.missing_bytes().min(self.buffer.len()).min(room);
        if count == 0 {
            return Ok(false);
        }
        let had_header = partial.bytes.len() >= HEADER_BYTES;
        let piece = self.buffer.split_to(count);
        // The first piece is taken as it is: a record that is in one piece is never copied.
        if partial.bytes.is_empty() {
            partial.bytes = piece
        } else {
            partial.bytes.extend_from_slice(&piece)
        }
        self.cursor = self.cursor.add(count as u64);
        if !had_header && partial.bytes.len() >= HEADER_BYTES {
            check_header(&read_header(partial.start, &partial.bytes)?, partial.start, self.last_record)?;
        }
        if partial.missing_bytes() == 0 {
            self.state = State::Complete(complete(partial, self.cursor, self.segment_bytes)?);
        }
        Ok(true)
    }

    /// Bytes from the cursor, which is not at a page's start, to the page's end.
    fn page_room(&self) -> usize {
        (WAL_PAGE_BYTES - self.cursor.0 % WAL_PAGE_BYTES) as usize
    }

    fn advance(&mut self, bytes: usize) {
        self.buffer.advance(bytes);
        self.cursor = self.cursor.add(bytes as u64);
    }

    /// Drops buffered bytes before `target`; whether there were any.
    fn discard_up_to(&mut self, target: Lsn) -> bool {
        let wanted = usize::try_from(target.bytes_since(self.cursor)).unwrap_or(usize::MAX);
        let bytes = wanted.min(self.buffer.len());
        self.advance(bytes);
        bytes > 0
    }

    fn end(&mut self) {
        self.buffer.clear();
        self.state = State::Ended;
    }
}

fn initial_state(start: Lsn, segment_bytes: u64) -> State {
    if !is_valid_segment_bytes(segment_bytes) {
        return State::Failed(WalError::invalid(start, format!("invalid WAL segment size {segment_bytes}")));
    }
    let offset = start.0 % WAL_PAGE_BYTES;
    let header = header_bytes(Lsn(start.0 - offset), segment_bytes) as u64;
    if start != start.align_up() || (offset > 0 && offset < header) {
        return State::Failed(WalError::invalid(start, "invalid record offset"));
    }
    State::Between
}

fn read_header(start: Lsn, record: &[u8]) -> Result<RecordHeader, WalError> {
    RecordHeader::read(record).map_err(|error| WalError::invalid(start, error.to_string()))
}

fn check_header(header: &RecordHeader, start: Lsn, last_record: Option<Lsn>) -> Result<(), WalError> {
    if !rmgr::is_valid(header.rmgr) {
        return Err(WalError::invalid(start, format!("invalid resource manager ID {}", header.rmgr)));
    }
    let chained = last_record.map_or(header.prev < start, |last| header.prev == last);
    if !chained {
        return Err(WalError::invalid(start, format!("record with incorrect prev-link {}", header.prev)));
    }
    Ok(())
}

fn check_crc(header: &RecordHeader, start: Lsn, record: &[u8]) -> Result<(), WalError> {
    if record_crc(record) == header.crc {
        Ok(())
    } else {
        Err(WalError::invalid(start, "incorrect resource manager data checksum"))
    }
}

/// Checks the CRC of a record all of whose bytes are there, the last one before `cursor`.
fn complete(partial: &mut Partial, cursor: Lsn, segment_bytes: u64) -> Result<RawRecord, WalError> {
    let (start, bytes) = (partial.start, std::mem::take(&mut partial.bytes).freeze());
    let header = read_header(start, &bytes)?;
    check_crc(&header, start, &bytes)?;
    let aligned = cursor.align_up();
    let end = if is_switch(&header) { segment_end(aligned, segment_bytes) } else { aligned };
    Ok(RawRecord { start, end, bytes })
}

/// Whether nothing more is in the record's segment.
fn is_switch(header: &RecordHeader) -> bool {
    header.rmgr == rmgr::XLOG && header.info & rmgr::XLR_RMGR_INFO_MASK == rmgr::XLOG_SWITCH
}

/// The next segment's start, or `position` if it is one.
fn segment_end(position: Lsn, segment_bytes: u64) -> Lsn {
    position.0.checked_next_multiple_of(segment_bytes).map_or(Lsn::MAX, Lsn)
}

#[cfg(test)]
mod tests;
