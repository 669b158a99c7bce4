use super::*;

const HAS_IMAGE: u8 = 0x10;
const HAS_DATA: u8 = 0x20;
const WILL_INIT: u8 = 0x40;
const SAME_REL: u8 = 0x80;
use proptest::prelude::*;
use quire_types::{Fork, PAGE_SIZE, Writer};

pub(super) const REL: RelTag = RelTag { tablespace: 1663, database: 5, relation: 1259, fork: Fork::Main };

/// A record with these bytes after its header.
fn record(after_header: &[u8]) -> Bytes {
    let mut writer = Writer::new();
    writer.u32((HEADER_BYTES + after_header.len()) as u32).u32(700).u64(0x28).u8(0x02).u8(10).u16(0).u32(0);
    writer.bytes(after_header);
    writer.into_bytes()
}

fn decode(after_header: &[u8]) -> Result<Record, WalError> {
    Record::decode(Lsn(0x100), Lsn(0x200), record(after_header))
}

/// Header of a block reference without image, in [`REL`].
fn block_header(writer: &mut Writer, id: u8, flags: u8, data_bytes: u16, block: u32) {
    writer.u8(id).u8(flags).u16(data_bytes);
    if flags & SAME_REL == 0 {
        writer.u32(REL.tablespace).u32(REL.database).u32(REL.relation);
    }
    writer.u32(block);
}

/// A record of one block with an image of `bytes` whose header has these fields.
fn image_record(bytes: &[u8], hole_offset: u16, image_flags: u8, hole_length: Option<u16>) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.u8(0).u8(HAS_IMAGE).u16(0).u16(bytes.len() as u16).u16(hole_offset).u8(image_flags);
    if let Some(length) = hole_length {
        writer.u16(length);
    }
    writer.u32(1663).u32(5).u32(1259).u32(9).bytes(bytes);
    writer.into_vec()
}

/// A record with three block references, of which one has an image, and main data.
pub(super) fn example() -> Bytes {
    let mut writer = Writer::new();
    block_header(&mut writer, 0, HAS_DATA | WILL_INIT, 5, 7);
    block_header(&mut writer, 1, SAME_REL | Fork::VisibilityMap as u8, 0, 0);
    writer.u8(4).u8(HAS_IMAGE).u16(0).u16(PAGE_SIZE as u16).u16(0).u8(0x02);
    writer.u32(REL.tablespace).u32(REL.database).u32(REL.relation).u32(9);
    writer.u8(ID_DATA_SHORT).u8(4).bytes(b"seven").bytes(&[3; PAGE_SIZE]).bytes(b"main");
    record(writer.as_slice())
}

fn restore(after_header: &[u8]) -> Result<Box<[u8; PAGE_SIZE]>, WalError> {
    let record = decode(after_header)?;
    record.blocks[0].image.as_ref().expect("the record has an image").restore()
}

/// A page that is 1, 2, 3, ... before and after a hole.
fn page_with_hole(hole: std::ops::Range<usize>) -> [u8; PAGE_SIZE] {
    let mut page = [0; PAGE_SIZE];
    for (offset, byte) in page.iter_mut().enumerate().filter(|(offset, _)| !hole.contains(offset)) {
        *byte = (offset / 3) as u8 | 1;
    }
    page
}

fn without(page: &[u8; PAGE_SIZE], hole: std::ops::Range<usize>) -> Vec<u8> {
    [&page[..hole.start], &page[hole.end..]].concat()
}

#[test]
fn fragments_are_found_by_their_headers() {
    let mut writer = Writer::new();
    writer.u8(ID_ORIGIN).u16(3).u8(ID_TOPLEVEL_XID).u32(699);
    block_header(&mut writer, 0, HAS_DATA | WILL_INIT, 2, 7);
    block_header(&mut writer, 3, SAME_REL | 2, 0, 8);
    writer.u8(ID_DATA_SHORT).u8(3).bytes(b"bbmmm");
    let record = decode(writer.as_slice()).unwrap();
    assert_eq!((record.start, record.end, record.prev), (Lsn(0x100), Lsn(0x200), Lsn(0x28)));
    assert_eq!((record.xid, record.info, record.rmgr, record.rmgr_info()), (700, 2, 10, 0));
    assert_eq!((record.origin, record.toplevel_xid), (Some(3), Some(699)));
    assert_eq!(&record.main_data[..], b"mmm");
    let first = record.block(0).unwrap();
    assert_eq!((first.rel, first.block, first.will_init, &first.data[..]), (REL, 7, true, &b"bb"[..]));
    let second = record.block(3).unwrap();
    assert_eq!((second.rel, second.block), (REL.with_fork(Fork::VisibilityMap), 8));
    assert!(!second.will_init && second.data.is_empty() && record.block(1).is_none());
}

#[test]
fn main_data_may_have_a_long_length_or_be_missing() {
    let mut writer = Writer::new();
    writer.u8(ID_DATA_LONG).u32(300).bytes(&[7; 300]);
    assert_eq!(decode(writer.as_slice()).unwrap().main_data.len(), 300);
    assert!(decode(&[]).unwrap().main_data.is_empty());
}

#[test]
fn headers_that_contradict_themselves_are_refused() {
    let refused = |name: &str, build: &dyn Fn(&mut Writer)| {
        let mut writer = Writer::new();
        build(&mut writer);
        assert!(decode(writer.as_slice()).is_err(), "{name}");
    };
    refused("data flag without data", &|writer| block_header(writer, 0, HAS_DATA, 0, 1));
    refused("data without its flag", &|writer| {
        block_header(writer, 0, 0, 2, 1);
        writer.u16(0);
    });
    refused("same relation as nothing", &|writer| block_header(writer, 0, SAME_REL, 0, 1));
    refused("fork 4", &|writer| block_header(writer, 0, 4, 0, 1));
    refused("block id 33", &|writer| block_header(writer, 33, 0, 0, 1));
    refused("ids out of order", &|writer| {
        block_header(writer, 1, 0, 0, 1);
        block_header(writer, 1, 0, 0, 2);
    });
    refused("bytes nobody announced", &|writer| _ = writer.u8(ID_DATA_SHORT).u8(1).u16(0));
    refused("fewer bytes than announced", &|writer| _ = writer.u8(ID_DATA_LONG).u32(u32::MAX).u16(0));
    assert!(Record::decode(Lsn(0), Lsn(8), record(&[]).slice(..23)).is_err());
}

#[test]
fn a_length_that_differs_from_the_bytes_is_refused() {
    let bytes = record(&[ID_DATA_SHORT, 2, 1, 1]);
    assert!(Record::decode(Lsn(0), Lsn(8), bytes.slice(..bytes.len() - 1)).is_err());
}

#[test]
fn images_get_their_hole_back() {
    let page = page_with_hole(100..5000);
    assert_eq!(restore(&image_record(&without(&page, 100..5000), 100, 0x03, None)), Ok(Box::new(page)));
    let whole = page_with_hole(0..0);
    assert_eq!(restore(&image_record(&whole, 0, 0x02, None)), Ok(Box::new(whole)));
}

#[test]
fn compressed_images_are_decompressed() {
    let page = page_with_hole(100..5000);
    let logged = without(&page, 100..5000);
    let lz4 = lz4_flex::block::compress(&logged);
    assert_eq!(restore(&image_record(&lz4, 100, 0x0B, Some(4900))), Ok(Box::new(page)));
    let zstd = zstd::bulk::compress(&logged, 3).unwrap();
    assert_eq!(restore(&image_record(&zstd, 100, 0x13, Some(4900))), Ok(Box::new(page)));
    // Literals only, each group of eight behind a control byte of zero.
    let pglz: Vec<u8> = page[..64].chunks(8).flat_map(|group| [&[0], group].concat()).collect();
    let short = page_with_hole(64..PAGE_SIZE);
    assert_eq!(restore(&image_record(&pglz, 64, 0x07, Some(8192 - 64))), Ok(Box::new(short)));
}

#[test]
fn images_that_do_not_restore_a_page_are_refused() {
    let lz4 = lz4_flex::block::compress(&[1; 4000]);
    assert!(restore(&image_record(&lz4, 100, 0x0B, Some(4000))).is_err(), "decompresses to another length");
    assert!(restore(&image_record(&[1; 50], 100, 0x03, None)).is_err(), "the hole leaves the page");
    assert!(restore(&image_record(&[1; 50], 100, 0x0B, Some(0))).is_err(), "a hole of no length");
    assert!(restore(&image_record(&[1; 50], 0, 0x00, None)).is_err(), "a short image without a hole");
    assert!(restore(&image_record(&[1; 50], 0, 0x0C, None)).is_err(), "two compressions");
    assert!(restore(&image_record(&[1; 8193], 0, 0x00, None)).is_err(), "longer than a page");
}

#[test]
fn images_say_whether_redo_applies_them() {
    for (flags, apply) in [(0x02, true), (0x00, false)] {
        let record = decode(&image_record(&[1; PAGE_SIZE], 0, flags, None)).unwrap();
        assert_eq!(record.blocks[0].image.as_ref().map(|image| image.apply), Some(apply));
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..200), flags in any::<u8>()) {
        let _ = Record::decode(Lsn(8), Lsn(16), Bytes::from(raw.clone()));
        let _ = decode(&raw);
        let _ = restore_if_decoded(&image_record(&raw, 100, flags, Some(20)));
        let mut block = vec![0, HAS_IMAGE | HAS_DATA];
        block.extend(raw);
        let _ = restore_if_decoded(&block);
    }
}

fn restore_if_decoded(after_header: &[u8]) -> Option<Box<[u8; PAGE_SIZE]>> {
    let record = decode(after_header).ok()?;
    record.blocks.first()?.image.as_ref()?.restore().ok()
}
