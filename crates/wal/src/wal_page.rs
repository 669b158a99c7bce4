//! The header of a WAL page. Source: `xlog_internal.h`, `xlogreader.c` (`XLogReaderValidatePageHeader`).

use crate::postgres_version::{PostgresVersion, PostgresVersions, SUPPORTED};
use crate::record::WalError;
use quire_types::{CodecError, Lsn, Reader, Writer};

/// Bytes of a WAL page (`XLOG_BLCKSZ`).
pub const WAL_PAGE_BYTES: u64 = 8192;
/// Bytes of the header on most pages.
pub const SHORT_HEADER_BYTES: usize = 24;
/// Bytes of the header on a segment's first page.
pub const LONG_HEADER_BYTES: usize = 40;

/// The page starts with the rest of a record.
pub const XLP_FIRST_IS_CONTRECORD: u16 = 0x0001;
/// The header is a long one.
pub const XLP_LONG_HEADER: u16 = 0x0002;
/// Backup blocks starting in this page are optional.
pub const XLP_BKP_REMOVABLE: u16 = 0x0004;
/// The page replaces one that should have held the rest of a record, which was lost.
pub const XLP_FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x0008;
const ALL_FLAGS: u16 = 0x000F;

/// A WAL page's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalPageHeader {
    /// The version of PostgreSQL that wrote the page, by `xlp_magic`.
    pub version: &'static PostgresVersion,
    /// `xlp_info`.
    pub flags: u16,
    /// `xlp_tli`.
    pub timeline: u32,
    /// `xlp_pageaddr`.
    pub address: Lsn,
    /// `xlp_rem_len`: bytes of the record that continues here, from this page on.
    pub remaining_bytes: u32,
    /// What only a long header has.
    pub long: Option<LongHeader>,
}

/// What a segment's first page says besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongHeader {
    /// `xlp_sysid`.
    pub system_id: u64,
    /// `xlp_seg_size`.
    pub segment_bytes: u32,
    /// `xlp_xlog_blcksz`.
    pub page_bytes: u32,
}

/// Bytes of the header of the page at `page`.
pub fn header_bytes(page: Lsn, segment_bytes: u64) -> usize {
    if page.segment_offset(segment_bytes) == 0 { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES }
}

impl WalPageHeader {
    /// The header of the page at `address`, which continues a record by `remaining_bytes` if that is not 0.
    ///
    /// # Panics
    /// If `segment_bytes` is no size of a WAL segment.
    pub fn new(
        version: &'static PostgresVersion,
        address: Lsn,
        timeline: u32,
        remaining_bytes: u32,
        system_id: u64,
        segment_bytes: u64,
    ) -> WalPageHeader {
        let long = (address.segment_offset(segment_bytes) == 0).then_some(LongHeader {
            system_id,
            segment_bytes: u32::try_from(segment_bytes).expect("a segment is at most 1 GiB"),
            page_bytes: WAL_PAGE_BYTES as u32,
        });
        let continues = if remaining_bytes > 0 { XLP_FIRST_IS_CONTRECORD } else { 0 };
        let flags = continues | if long.is_some() { XLP_LONG_HEADER } else { 0 };
        WalPageHeader { version, flags, timeline, address, remaining_bytes, long }
    }

    /// Appends the header's 24 or 40 bytes.
    pub fn write(&self, writer: &mut Writer) {
        writer.u16(self.version.wal_page_magic).u16(self.flags).u32(self.timeline).u64(self.address.0);
        writer.u32(self.remaining_bytes).u32(0);
        if let Some(long) = &self.long {
            writer.u64(long.system_id).u32(long.segment_bytes).u32(long.page_bytes);
        }
    }

    /// Whether the page starts with the rest of a record.
    pub fn continues_record(&self) -> bool {
        self.flags & XLP_FIRST_IS_CONTRECORD != 0
    }

    /// Whether the page replaces the rest of a record that was lost.
    pub fn overwrites_record(&self) -> bool {
        self.flags & XLP_FIRST_IS_OVERWRITE_CONTRECORD != 0
    }

    /// Reads the header at the start of `bytes` and checks it as the header of the page at `address`. A `system_id` of
    /// `None` is not compared.
    pub fn read(
        bytes: &[u8],
        address: Lsn,
        segment_bytes: u64,
        system_id: Option<u64>,
    ) -> Result<WalPageHeader, WalError> {
        let wrong = |reason: String| WalError::invalid(address, reason);
        let header = parse(SUPPORTED, bytes).map_err(|error| wrong(error.to_string()))?;
        let is_segment_start = address.segment_offset(segment_bytes) == 0;
        if header.flags & !ALL_FLAGS != 0 || header.long.is_some() != is_segment_start {
            return Err(wrong(format!("invalid info bits {:04X}", header.flags)));
        }
        if let Some(long) = &header.long {
            check_long(long, segment_bytes, system_id).map_err(wrong)?;
        }
        if header.address != address {
            return Err(wrong(format!("unexpected pageaddr {}", header.address)));
        }
        Ok(header)
    }
}

fn parse(versions: PostgresVersions, bytes: &[u8]) -> Result<WalPageHeader, CodecError> {
    let mut reader = Reader::new(bytes);
    let magic = reader.u16("page magic")?;
    let unknown = CodecError::Invalid { field: "page magic", value: magic.into() };
    let version = versions.of_wal_page_magic(magic).ok_or(unknown)?;
    let (flags, timeline) = (reader.u16("xlp_info")?, reader.u32("xlp_tli")?);
    let address = Lsn(reader.u64("xlp_pageaddr")?);
    let remaining_bytes = reader.u32("xlp_rem_len")?;
    reader.bytes("padding", 4)?;
    let long = (flags & XLP_LONG_HEADER != 0).then(|| parse_long(&mut reader)).transpose()?;
    Ok(WalPageHeader { version, flags, timeline, address, remaining_bytes, long })
}

fn parse_long(reader: &mut Reader<'_>) -> Result<LongHeader, CodecError> {
    let system_id = reader.u64("xlp_sysid")?;
    Ok(LongHeader { system_id, segment_bytes: reader.u32("xlp_seg_size")?, page_bytes: reader.u32("xlp_xlog_blcksz")? })
}

fn check_long(long: &LongHeader, segment_bytes: u64, system_id: Option<u64>) -> Result<(), String> {
    if let Some(expected) = system_id.filter(|&expected| expected != long.system_id) {
        return Err(format!("WAL is from database system {}, not from {expected}", long.system_id));
    }
    if u64::from(long.segment_bytes) != segment_bytes {
        return Err(format!("incorrect segment size {} in page header", long.segment_bytes));
    }
    if u64::from(long.page_bytes) != WAL_PAGE_BYTES {
        return Err(format!("incorrect XLOG_BLCKSZ {} in page header", long.page_bytes));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres_version::PG15;

    const SEGMENT: u64 = 1 << 20;

    fn read(header: &WalPageHeader, at: Lsn, system_id: Option<u64>) -> Result<WalPageHeader, WalError> {
        let mut writer = Writer::new();
        header.write(&mut writer);
        WalPageHeader::read(writer.as_slice(), at, SEGMENT, system_id)
    }

    #[test]
    fn headers_round_trip_long_at_a_segment_start_and_short_elsewhere() {
        for (at, bytes) in [(Lsn(SEGMENT), LONG_HEADER_BYTES), (Lsn(SEGMENT + 8192), SHORT_HEADER_BYTES)] {
            let header = WalPageHeader::new(&PG15, at, 1, 7, 99, SEGMENT);
            let mut writer = Writer::new();
            header.write(&mut writer);
            assert_eq!((writer.len(), header_bytes(at, SEGMENT)), (bytes, bytes));
            assert_eq!(read(&header, at, Some(99)), Ok(header));
        }
    }

    #[test]
    fn the_page_says_which_version_wrote_it() {
        let next = Box::leak(Box::new(PostgresVersion { wal_page_magic: 0xD199, ..PG15 }));
        let table = PostgresVersions::new(Box::leak(Box::new([PG15, *next])));
        let mut writer = Writer::new();
        WalPageHeader::new(next, Lsn(SEGMENT), 1, 7, 99, SEGMENT).write(&mut writer);
        let header = parse(table, writer.as_slice()).expect("in the table");
        assert_eq!(header.version.wal_page_magic, 0xD199);
        assert!(parse(SUPPORTED, writer.as_slice()).is_err(), "not a version that is served");
    }

    #[test]
    fn headers_of_another_place_or_system_are_refused() {
        let header = WalPageHeader::new(&PG15, Lsn(SEGMENT), 1, 0, 99, SEGMENT);
        assert!(read(&header, Lsn(2 * SEGMENT), Some(99)).is_err());
        assert!(read(&header, Lsn(SEGMENT), Some(98)).is_err());
        assert!(read(&WalPageHeader { flags: 0x12, ..header }, Lsn(SEGMENT), None).is_err());
        let short = WalPageHeader { flags: 0, long: None, ..header };
        assert!(read(&short, Lsn(SEGMENT), None).is_err(), "a segment starts with a long header");
        let other = LongHeader { segment_bytes: 1 << 24, ..header.long.unwrap() };
        assert!(read(&WalPageHeader { long: Some(other), ..header }, Lsn(SEGMENT), None).is_err());
    }
}
