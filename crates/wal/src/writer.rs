//! Laying out records in WAL pages. Source: `xlog.c` (`CopyXLogRecordToWAL`, `AdvanceXLInsertBuffer`).
//!
//! For the few records that storage writes itself, and for tests that need a log without a server.

use crate::postgres_version::PostgresVersion;
use crate::postgres_version::is_valid_segment_bytes;
use crate::record::{HEADER_BYTES, ID_DATA_LONG, ID_DATA_SHORT, record_crc};
use crate::wal_page::{WAL_PAGE_BYTES, WalPageHeader, header_bytes};
use quire_types::{Lsn, Writer};

/// Writes WAL from a record boundary on, with page headers wherever a page starts.
#[derive(Debug)]
pub struct WalWriter {
    version: &'static PostgresVersion,
    timeline: u32,
    system_id: u64,
    segment_bytes: u64,
    position: Lsn,
    last_record: Lsn,
    output: Writer,
}

impl WalWriter {
    /// A writer that continues a log at `at`, a record boundary or the start of a page or segment, after the record
    /// that starts at `last_record` (0 if there is none).
    ///
    /// # Panics
    /// If no record can start at `at`, or `segment_bytes` is no size of a WAL segment: a mistake of the caller's that
    /// must not get into a log.
    pub fn new(
        version: &'static PostgresVersion,
        at: Lsn,
        last_record: Lsn,
        timeline: u32,
        system_id: u64,
        segment_bytes: u64,
    ) -> WalWriter {
        assert!(is_valid_segment_bytes(segment_bytes), "{segment_bytes} is no WAL segment size");
        let offset = at.0 % WAL_PAGE_BYTES;
        let header = header_bytes(Lsn(at.0 - offset), segment_bytes) as u64;
        assert!(at == at.align_up() && (offset == 0 || offset >= header), "no record can start at {at}");
        WalWriter { version, timeline, system_id, segment_bytes, position: at, last_record, output: Writer::new() }
    }

    /// Where the next byte goes.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Start of the last record written, or of the one the log ended with before.
    pub fn last_record(&self) -> Lsn {
        self.last_record
    }

    /// Where the next record will start: past the page's header, if a page starts at the position.
    pub fn next_record_start(&self) -> Lsn {
        match self.position.0 % WAL_PAGE_BYTES {
            0 => self.position.add(header_bytes(self.position, self.segment_bytes) as u64),
            _ => self.position,
        }
    }

    /// Appends a record without block references, up to its aligned end, and returns its start.
    ///
    /// # Panics
    /// If `main_data` does not fit a record's length field.
    pub fn append(&mut self, rmgr: u8, info: u8, xid: u32, main_data: &[u8]) -> Lsn {
        let start = self.next_record_start();
        let record = blockless_record(rmgr, info, xid, self.last_record, main_data);
        if start != self.position {
            self.write_page_header(0);
        }
        self.write_record(&record);
        self.last_record = start;
        start
    }

    /// The bytes from where the writer started to its position.
    pub fn into_vec(self) -> Vec<u8> {
        self.output.into_vec()
    }

    fn write_record(&mut self, record: &[u8]) {
        let mut rest = record;
        loop {
            let room = (WAL_PAGE_BYTES - self.position.0 % WAL_PAGE_BYTES) as usize;
            let (here, later) = rest.split_at(rest.len().min(room));
            self.write(here);
            if later.is_empty() {
                break;
            }
            self.write_page_header(later.len());
            rest = later;
        }
        let padding = self.position.align_up().bytes_since(self.position) as usize;
        self.write(&[0; 8][..padding]);
    }

    fn write_page_header(&mut self, remaining_bytes: usize) {
        let remaining = u32::try_from(remaining_bytes).expect("a record's length has 32 bits");
        let mut header = Writer::new();
        WalPageHeader::new(self.version, self.position, self.timeline, remaining, self.system_id, self.segment_bytes)
            .write(&mut header);
        self.write(header.as_slice());
    }

    fn write(&mut self, bytes: &[u8]) {
        self.output.bytes(bytes);
        self.position = self.position.add(bytes.len() as u64);
    }
}

/// A record with main data only, without page headers.
fn blockless_record(rmgr: u8, info: u8, xid: u32, prev: Lsn, main_data: &[u8]) -> Vec<u8> {
    let mut fragments = Writer::with_capacity(main_data.len() + 5);
    match u8::try_from(main_data.len()) {
        Ok(0) => {}
        Ok(short) => _ = fragments.u8(ID_DATA_SHORT).u8(short),
        Err(_) => _ = fragments.u8(ID_DATA_LONG).u32(u32::try_from(main_data.len()).expect("main data is short")),
    }
    fragments.bytes(main_data);
    let total_bytes = u32::try_from(HEADER_BYTES + fragments.len()).expect("a record's length has 32 bits");
    let mut writer = Writer::with_capacity(HEADER_BYTES + fragments.len());
    writer.u32(total_bytes).u32(xid).u64(prev.0).u8(info).u8(rmgr).u16(0).u32(0).bytes(fragments.as_slice());
    let mut record = writer.into_vec();
    let crc = record_crc(&record);
    record[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    record
}
