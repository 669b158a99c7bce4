//! Decoding of one record: its fragments, its page images, and what the data of each resource manager's records mean.
//!
//! Input is a record; its length and CRC are put right.
//!
//! Laid out in WAL pages, the record must come out of a [`WalStream`] as it is.

use crate::record_bytes::{header, repaired};
use bytes::Bytes;
use quire_types::{Lsn, Writer};
use quire_wal::effects;
use quire_wal::postgres_version::PG15;
use quire_wal::wal_page::{WAL_PAGE_BYTES, WalPageHeader};
use quire_wal::{CheckpointState, Record, WalStream, rmgr};

/// Bytes of a WAL segment.
const SEGMENT_BYTES: u64 = 1 << 20;
/// Where the record is laid out: in a segment's last page, so that it continues behind a long header.
const START: Lsn = Lsn(2 * SEGMENT_BYTES - WAL_PAGE_BYTES + 24);

/// Decodes a record.
pub fn run(data: &[u8]) {
    let bytes = repaired(data);
    check_stream(&bytes);
    if let Ok(record) = Record::decode(START, START.add(bytes.len() as u64).align_up(), bytes) {
        read(&record);
    }
}

/// Looks at all that can be seen of a record.
pub(crate) fn read(record: &Record) {
    for block in &record.blocks {
        assert!(record.block(block.id).is_some_and(|found| found.block == block.block));
        if let Some(image) = &block.image {
            let _restored_or_refused = image.restore();
        }
    }
    read_effects(record);
}

fn read_effects(record: &Record) {
    let (info, data) = (record.info, &record.main_data[..]);
    let _supported = quire_redo::supports(record.rmgr, info);
    let _known = match record.rmgr {
        rmgr::XLOG => effects::xlog::parse(info, data).is_ok() | CheckpointState::from_record_data(data).is_ok(),
        rmgr::XACT => effects::xact::parse(info, data).is_ok(),
        rmgr::SMGR => effects::smgr::parse(info, data).is_ok(),
        rmgr::CLOG => effects::slru::parse_clog(info, data).is_ok(),
        rmgr::DBASE => effects::dbase::parse(info, data).is_ok(),
        rmgr::MULTIXACT => effects::multixact::parse(info, data).is_ok(),
        rmgr::RELMAP => effects::relmap::parse(info, data).is_ok(),
        rmgr::STANDBY => effects::standby::parse(info, data).is_ok(),
        rmgr::COMMIT_TS => effects::slru::parse_commit_ts(info, data).is_ok(),
        rmgr::REPLORIGIN => effects::replorigin::parse(info, data).is_ok(),
        _ => effects::heap::visibility_cleared(record).count() <= 2,
    };
}

/// The record as a whole log must come out of it again, unless its header says that it is none.
fn check_stream(bytes: &Bytes) {
    let mut stream = WalStream::new(START, SEGMENT_BYTES, Some(7));
    stream.feed(&laid_out(bytes));
    let Some(header) = header(bytes).filter(|header| rmgr::is_valid(header.rmgr) && header.prev < START) else {
        return assert!(stream.next_record().is_err());
    };
    let is_switch = header.rmgr == rmgr::XLOG && header.info & rmgr::XLR_RMGR_INFO_MASK == rmgr::XLOG_SWITCH;
    let record = stream.next_record().expect("the record is whole");
    match record {
        Some(record) => assert_eq!(record.bytes, bytes),
        None => assert!(is_switch, "only the rest of a switched segment may be missing"),
    }
}

/// The record in WAL pages from [`START`] on.
fn laid_out(bytes: &[u8]) -> Vec<u8> {
    let (mut out, mut rest, mut position) = (Writer::new(), bytes, START);
    loop {
        let room = (WAL_PAGE_BYTES - position.0 % WAL_PAGE_BYTES) as usize;
        let (here, later) = rest.split_at(rest.len().min(room));
        out.bytes(here);
        if later.is_empty() {
            break;
        }
        let page = position.add(here.len() as u64);
        let mut header = Writer::new();
        let later_bytes = u32::try_from(later.len()).expect("input is short");
        WalPageHeader::new(&PG15, page, 1, later_bytes, 7, SEGMENT_BYTES).write(&mut header);
        out.bytes(header.as_slice());
        position = page.add(header.len() as u64);
        rest = later;
    }
    let padding = bytes.len().next_multiple_of(8) - bytes.len();
    out.bytes(&[0; 8][..padding]);
    out.into_vec()
}
