//! Records written down: made up ones, and decoded ones without the images that only a comparison needs.

use bytes::Bytes;
use quire_types::{RelTag, Writer};
use quire_wal::record::{HEADER_BYTES, RecordHeader, record_crc};
use quire_wal::{Block, BlockImage, Record};

/// Where `xl_crc` is.
const CRC_AT: usize = HEADER_BYTES - 4;

/// A block reference in the making.
#[derive(Clone, Debug)]
pub struct BlockSpec<'a> {
    /// Its number within the record.
    pub id: u8,
    /// The relation and fork.
    pub rel: RelTag,
    /// The block.
    pub block: u32,
    /// Whether redo starts from a blank page.
    pub will_init: bool,
    /// The page image, if there is one.
    pub image: Option<&'a BlockImage>,
    /// The data.
    pub data: &'a [u8],
}

/// Makes the length and the CRC of a record right, so that nothing before its contents refuses it. Input shorter than a
/// record's header is filled up with zeroes.
pub fn repaired(bytes: &[u8]) -> Bytes {
    let mut record = bytes.to_vec();
    record.resize(record.len().max(HEADER_BYTES), 0);
    let length = u32::try_from(record.len()).unwrap_or(u32::MAX);
    record[..4].copy_from_slice(&length.to_le_bytes());
    let crc = record_crc(&record);
    record[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    record.into()
}

/// The bytes of a record with these parts.
pub fn record(rmgr: u8, info: u8, xid: u32, blocks: &[BlockSpec<'_>], main: &[u8]) -> Bytes {
    let (mut headers, mut payload) = (Writer::new(), Writer::new());
    blocks.iter().for_each(|block| write_block(&mut headers, &mut payload, block));
    match u8::try_from(main.len()) {
        Ok(0) => {}
        Ok(short) => _ = headers.u8(255).u8(short),
        Err(_) => _ = headers.u8(254).u32(u32::try_from(main.len()).unwrap_or(u32::MAX)),
    }
    let mut out = Writer::new();
    out.u32(0).u32(xid).u64(0).u8(info).u8(rmgr).u16(0).u32(0);
    out.bytes(headers.as_slice()).bytes(payload.as_slice()).bytes(main);
    repaired(out.as_slice())
}

/// A decoded record without the images of `wal_consistency_checking`, its replication origin and its top-level
/// transaction.
pub fn without_comparison(record: &Record) -> Bytes {
    let spec = |block: &'_ Block| -> (Option<BlockImage>, Block) {
        (block.image.clone().filter(|image| image.apply), block.clone())
    };
    let kept: Vec<_> = record.blocks.iter().map(spec).collect();
    let blocks: Vec<_> = kept
        .iter()
        .map(|(image, block)| BlockSpec {
            id: block.id,
            rel: block.rel,
            block: block.block,
            will_init: block.will_init,
            image: image.as_ref(),
            data: &block.data,
        })
        .collect();
    self::record(
        record.rmgr,
        record.info & !quire_wal::rmgr::XLR_CHECK_CONSISTENCY,
        record.xid,
        &blocks,
        &record.main_data,
    )
}

/// The header of a record, if it is one.
pub fn header(record: &[u8]) -> Option<RecordHeader> {
    RecordHeader::read(record).ok()
}

fn write_block(headers: &mut Writer, payload: &mut Writer, spec: &BlockSpec<'_>) {
    let data = &spec.data[..spec.data.len().min(usize::from(u16::MAX))];
    let flag = |bit: u8, is_set: bool| if is_set { bit } else { 0 };
    let flags = flag(0x10, spec.image.is_some()) | flag(0x20, !data.is_empty()) | flag(0x40, spec.will_init);
    headers.u8(spec.id).u8(spec.rel.fork as u8 | flags).u16(u16::try_from(data.len()).unwrap_or(0));
    if let Some(image) = spec.image {
        headers.bytes(&image.header);
        payload.bytes(&image.bytes);
    }
    headers.u32(spec.rel.tablespace).u32(spec.rel.database).u32(spec.rel.relation).u32(spec.block);
    payload.bytes(data);
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_types::{Fork, Lsn};
    use quire_wal::ImageCompression;

    const REL: RelTag = RelTag { tablespace: 1663, database: 5, relation: 16384, fork: Fork::VisibilityMap };

    #[test]
    fn a_record_is_decoded_as_it_was_made() {
        let image = BlockImage {
            bytes: vec![7; 100].into(),
            hole_offset: 50,
            hole_length: 8092,
            compression: ImageCompression::None,
            apply: true,
            header: vec![100, 0, 50, 0, 0x03].into(),
        };
        let block = BlockSpec { id: 2, rel: REL, block: 9, will_init: true, image: Some(&image), data: b"data" };
        let bytes = record(10, 0x80, 700, &[block], &[1; 300]);
        let decoded = Record::decode(Lsn(8), Lsn(16), bytes.clone()).unwrap();
        assert_eq!((decoded.rmgr, decoded.info, decoded.xid, decoded.main_data.len()), (10, 0x80, 700, 300));
        let found = decoded.block(2).unwrap();
        assert_eq!((found.rel, found.block, found.will_init, &found.data[..]), (REL, 9, true, &b"data"[..]));
        assert_eq!(found.image.as_ref().unwrap().restore().unwrap()[8191], 7);
        assert_eq!(without_comparison(&decoded), bytes);
    }
}
