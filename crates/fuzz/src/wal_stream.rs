//! Cutting bytes into records.
//!
//! Input: a byte of repairs, a byte that says where the log starts, a byte for the length of the pieces, then the bytes
//! of the log. What has to be right for the stream to continue at all is put right where the first byte says so: page
//! headers, the chain of records, CRCs.
//!
//! Whatever the pieces, the records must be the same, are one behind the other, and end at the boundary.

use crate::input::Input;
use crate::record;
use quire_types::Lsn;
use quire_wal::postgres_version::PG15;
use quire_wal::record::{HEADER_BYTES, record_crc};
use quire_wal::wal_page::{LONG_HEADER_BYTES, WAL_PAGE_BYTES, header_bytes};
use quire_wal::{RawRecord, Record, WalError, WalStream};

/// Bytes of a WAL segment, the least there can be.
pub const SEGMENT_BYTES: u64 = 1 << 20;
/// The system of seeds.
pub const SYSTEM_ID: u64 = 7;
/// All repairs, and the log starts at a segment.
pub const SEED_PREFIX: [u8; 3] = [0xFF, 0, 100];

/// Cuts the input into records.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let repairs = Repairs(input.u8());
    let (start, piece_bytes) = (start_of_log(&mut input), usize::from(input.u8()) * 7 + 1);
    let mut log = input.rest().to_vec();
    repairs.make(&mut log, start);
    let whole = records(start, &log, log.len().max(1));
    let pieces = records(start, &log, piece_bytes);
    assert_eq!(whole, pieces, "the pieces do not matter");
}

/// At a segment, at a page, behind a page's header, or anywhere.
fn start_of_log(input: &mut Input<'_>) -> Lsn {
    let segment = Lsn(3 * SEGMENT_BYTES);
    match input.u8() {
        0..=99 => segment,
        page @ 100..=149 => segment.add(u64::from(page - 99) * WAL_PAGE_BYTES),
        page @ 150..=199 => segment.add(u64::from(page - 149) * WAL_PAGE_BYTES + 24),
        200..=209 => Lsn(u64::MAX - 8191),
        _ => Lsn(input.u64()),
    }
}

/// All records of a log that is fed in pieces, and how it ended.
fn records(start: Lsn, log: &[u8], piece_bytes: usize) -> (Vec<RawRecord>, Option<WalError>) {
    let mut stream = WalStream::new(start, SEGMENT_BYTES, Some(SYSTEM_ID));
    let mut found = Vec::new();
    for piece in log.chunks(piece_bytes) {
        stream.feed(piece);
        loop {
            match stream.next_record() {
                Ok(Some(record)) => take(&mut found, record, &stream),
                Ok(None) => break,
                Err(error) => return (found, Some(rewound(stream, error))),
            }
        }
    }
    assert_eq!(stream.position(), start.add(log.len() as u64));
    (found, None)
}

fn take(found: &mut Vec<RawRecord>, record: RawRecord, stream: &WalStream) {
    assert!(record.start < record.end && stream.boundary() == record.end && record.end <= stream.position());
    assert_eq!(stream.last_record(), Some(record.start));
    assert!(found.last().is_none_or(|last| last.end <= record.start));
    if let Ok(decoded) = Record::decode(record.start, record.end, record.bytes.clone()) {
        record::read(&decoded);
    }
    found.push(record);
}

/// After an error the stream can be put back to the last record.
fn rewound(mut stream: WalStream, error: WalError) -> WalError {
    assert!(stream.next_record().is_err(), "an error stays");
    stream.rewind_to_boundary();
    assert_eq!(stream.position(), stream.boundary());
    error
}

/// Which things are put right.
#[derive(Clone, Copy, Debug)]
struct Repairs(u8);

impl Repairs {
    const PAGE_HEADERS: u8 = 1;
    const CONTINUATION: u8 = 2;
    const CHAIN: u8 = 4;
    const CRC: u8 = 8;

    fn has(self, repair: u8) -> bool {
        self.0 & repair != 0
    }

    /// Walks over the log as over one without faults.
    fn make(self, log: &mut [u8], start: Lsn) {
        let mut walk = Walk { log, start, at: 0 };
        let mut last = None;
        while let Some(places) = self.record(&mut walk) {
            let record = start.add(places[0] as u64);
            if self.has(Repairs::CHAIN) {
                walk.put(&places[8..16], &last.unwrap_or(Lsn(0)).0.to_le_bytes());
            }
            if self.has(Repairs::CRC) {
                let bytes: Vec<u8> = places.iter().map(|place| walk.log[*place]).collect();
                walk.put(&places[HEADER_BYTES - 4..HEADER_BYTES], &record_crc(&bytes).to_le_bytes());
            }
            last = Some(record);
            walk.align();
        }
    }

    /// Where the bytes of the next record are; none if the log ends first.
    fn record(self, walk: &mut Walk<'_>) -> Option<Vec<usize>> {
        let mut places = Vec::new();
        let mut total_bytes = 4;
        while places.len() < total_bytes {
            if walk.is_at_page() {
                let missing = if places.is_empty() { 0 } else { total_bytes - places.len() };
                self.page_header(walk, missing)?;
            }
            places.push(walk.step()?);
            if places.len() == 4 {
                let length: Vec<u8> = places.iter().map(|place| walk.log[*place]).collect();
                let length = u32::from_le_bytes(length.try_into().ok()?);
                total_bytes = usize::try_from(length).ok().filter(|length| *length >= HEADER_BYTES)?;
            }
        }
        Some(places)
    }

    fn page_header(self, walk: &mut Walk<'_>, missing_bytes: usize) -> Option<()> {
        let address = walk.position();
        let bytes = header_bytes(address, SEGMENT_BYTES);
        let header = walk.log.get_mut(walk.at..walk.at + bytes)?;
        if self.has(Repairs::PAGE_HEADERS) {
            header[..2].copy_from_slice(&PG15.wal_page_magic.to_le_bytes());
            header[2] = header[2] & 0x0D | if bytes == LONG_HEADER_BYTES { 2 } else { 0 };
            header[3] = 0;
            header[8..16].copy_from_slice(&address.0.to_le_bytes());
        }
        if self.has(Repairs::PAGE_HEADERS) && bytes == LONG_HEADER_BYTES {
            header[24..32].copy_from_slice(&SYSTEM_ID.to_le_bytes());
            header[32..36].copy_from_slice(&(SEGMENT_BYTES as u32).to_le_bytes());
            header[36..40].copy_from_slice(&(WAL_PAGE_BYTES as u32).to_le_bytes());
        }
        if self.has(Repairs::CONTINUATION) {
            header[2] = header[2] & 0xFE | u8::from(missing_bytes > 0);
            header[16..20].copy_from_slice(&u32::try_from(missing_bytes).ok()?.to_le_bytes());
        }
        walk.at += bytes;
        Some(())
    }
}

/// A position in a log that is being repaired.
struct Walk<'a> {
    log: &'a mut [u8],
    start: Lsn,
    at: usize,
}

impl Walk<'_> {
    fn position(&self) -> Lsn {
        self.start.add(self.at as u64)
    }

    fn is_at_page(&self) -> bool {
        self.position().0.is_multiple_of(WAL_PAGE_BYTES)
    }

    fn step(&mut self) -> Option<usize> {
        let place = self.at;
        self.at += 1;
        (place < self.log.len()).then_some(place)
    }

    fn align(&mut self) {
        self.at += self.position().align_up().bytes_since(self.position()) as usize;
    }

    fn put(&mut self, places: &[usize], bytes: &[u8]) {
        places.iter().zip(bytes).for_each(|(place, byte)| self.log[*place] = *byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_wal::{WalWriter, rmgr};

    #[test]
    fn a_damaged_log_is_repaired_so_that_all_its_records_are_found() {
        let start = Lsn(3 * SEGMENT_BYTES);
        let mut writer = WalWriter::new(&PG15, start, Lsn(0), 1, SYSTEM_ID, SEGMENT_BYTES);
        for number in 0..5 {
            writer.append(rmgr::XLOG, rmgr::XLOG_NOOP, 0, &vec![number; 3000]);
        }
        let mut log = writer.into_vec();
        for at in [1, 20, 70, 80, 90, 8193, 8210] {
            log[at] ^= 0xFF;
        }
        assert!(records(start, &log, 100).1.is_some());
        Repairs(0xFF).make(&mut log, start);
        let (found, error) = records(start, &log, 100);
        assert_eq!((found.len(), error), (5, None));
    }
}
