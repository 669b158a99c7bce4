//! A WAL record seen in place, without allocation: the parser of records.
//!
//! Redo looks at one block reference of a record and at its main data, for hundreds of records per page, so it does not
//! pay for a decoded copy of each. Who keeps a record decodes it into a [`super::Record`], which is made from a view.
//!
//! Source of the layout: `xlogrecord.h` and `DecodeXLogRecord`. The CRC was checked when the record entered storage.

use super::malformed::Malformed;
use super::{BLOCK_ID_MAX, HEADER_BYTES, ID_DATA_LONG, ID_DATA_SHORT, ID_ORIGIN, ID_TOPLEVEL_XID};
use super::{Block, BlockImage, Record, image};
use quire_types::{Fork, Key, Lsn, RelTag};

const FORK_MASK: u8 = 0x0F;
const HAS_IMAGE: u8 = 0x10;
const HAS_DATA: u8 = 0x20;
const WILL_INIT: u8 = 0x40;
const SAME_REL: u8 = 0x80;

/// A record whose headers were walked once and found whole.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    /// `xl_xid`: the transaction, 0 if none.
    pub xid: u32,
    /// `xl_prev`: start of the record before.
    pub prev: Lsn,
    /// `xl_info`.
    pub info: u8,
    /// `xl_rmid`.
    pub rmgr: u8,
    /// Replication origin, if logged.
    pub origin: Option<u16>,
    /// Top-level transaction, if logged with a subtransaction's first record.
    pub toplevel_xid: Option<u32>,
    /// `XLogRecGetData`.
    pub main_data: &'a [u8],
    /// No block reference has this id or a higher one.
    least_absent_id: u8,
    headers: &'a [u8],
    payload: &'a [u8],
}

/// A block reference with what belongs to it.
#[derive(Clone, Copy, Debug)]
pub struct BlockView<'a> {
    /// Its number within the record.
    pub id: u8,
    /// The relation and fork.
    pub rel: RelTag,
    /// The block.
    pub block: u32,
    /// `BKPBLOCK_WILL_INIT`.
    pub will_init: bool,
    /// What its page image is for.
    pub image: ImageUse,
    /// The image's header within the block reference, empty if there is no image.
    pub image_header: &'a [u8],
    /// The image as logged, empty if there is none.
    pub image_bytes: &'a [u8],
    /// `XLogRecGetBlockData`, empty if there is none.
    pub data: &'a [u8],
}

/// What a block reference's page image is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageUse {
    /// There is none.
    Absent,
    /// To be compared with the page after redo (`wal_consistency_checking`).
    Compare,
    /// To be restored instead of redo (`BKPIMAGE_APPLY`).
    Restore,
}

impl<'a> RecordView<'a> {
    /// Walks the headers of a record and checks that its parts add up.
    ///
    /// # Errors
    /// What is wrong with the record.
    pub fn parse(bytes: &'a [u8]) -> Result<RecordView<'a>, Malformed> {
        RecordView::walk(bytes, |_, _| ())
    }

    /// [`RecordView::parse`], the first block reference and the others: one walk, if there are no others, which most
    /// records have not.
    ///
    /// # Errors
    /// What is wrong with the record.
    #[inline]
    pub fn parse_first(bytes: &'a [u8]) -> Result<(RecordView<'a>, Option<BlockView<'a>>, Blocks<'a>), Malformed> {
        let (mut first, mut count) = (None, 0);
        let record = RecordView::walk(bytes, |header, _| {
            first.get_or_insert(header);
            count += 1;
        })?;
        let first = first.and_then(|header| header.view(record.payload)).map(|(view, _)| view);
        let mut others = record.blocks();
        match count {
            0 | 1 => others.headers.left = &[],
            _ => _ = others.next(),
        }
        Ok((record, first, others))
    }

    /// [`RecordView::parse`] and [`RecordView::block_of`] in one walk.
    ///
    /// # Errors
    /// What is wrong with the record.
    pub fn parse_for(bytes: &'a [u8], key: Key) -> Result<(RecordView<'a>, Option<BlockView<'a>>), Malformed> {
        let mut found = None;
        let record = RecordView::walk(bytes, |header, data_at| {
            if found.is_none() && header.is_of(key) {
                found = Some((header, data_at));
            }
        })?;
        let block =
            found.and_then(|(header, data_at)| header.view(record.payload.get(data_at..)?).map(|(view, _)| view));
        Ok((record, block))
    }

    /// [`RecordView::parse`] that shows each block reference as well, in one walk.
    ///
    /// # Errors
    /// What is wrong with the record.
    pub(super) fn parse_each(bytes: &'a [u8], mut see: impl FnMut(BlockView<'a>)) -> Result<RecordView<'a>, Malformed> {
        let mut headers = Vec::new();
        let record = RecordView::walk(bytes, |header, _| headers.push(header))?;
        let mut payload = record.payload;
        for header in headers {
            let (view, rest) = header.view(payload).ok_or(Malformed::Truncated)?;
            see(view);
            payload = rest;
        }
        Ok(record)
    }

    /// Shows each block reference's header, and where in the payload its image and data begin.
    #[inline]
    fn walk(bytes: &'a [u8], mut visit: impl FnMut(BlockHeader<'a>, usize)) -> Result<RecordView<'a>, Malformed> {
        let (fixed, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(Malformed::Length)?;
        let total = u32::from_le_bytes([fixed[0], fixed[1], fixed[2], fixed[3]]);
        if usize::try_from(total) != Ok(bytes.len()) {
            return Err(Malformed::Length);
        }
        let mut walk = Headers::new(rest);
        loop {
            let data_at = walk.announced;
            match walk.next()? {
                Some(header) => visit(header, data_at),
                None => break,
            }
        }
        let payload = walk.left;
        if payload.len() != walk.announced {
            return Err(Malformed::Truncated);
        }
        Ok(RecordView {
            xid: u32::from_le_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            prev: Lsn(u64::from_le_bytes([
                fixed[8], fixed[9], fixed[10], fixed[11], fixed[12], fixed[13], fixed[14], fixed[15],
            ])),
            info: fixed[16],
            rmgr: fixed[17],
            origin: walk.origin,
            toplevel_xid: walk.toplevel_xid,
            main_data: &payload[payload.len() - walk.main_data..],
            least_absent_id: walk.least_id,
            headers: &rest[..rest.len() - payload.len()],
            payload,
        })
    }

    /// Where its parts are in its bytes.
    pub(super) fn extent(&self) -> Extent {
        let (headers, main_data) = (self.headers.len(), self.main_data.len());
        Extent { headers, main_data, least_absent_id: self.least_absent_id }
    }

    /// Its block references in ascending order of their ids.
    pub fn blocks(&self) -> Blocks<'a> {
        Blocks { headers: Headers::again(self.headers), payload: self.payload }
    }

    /// The block reference with this id.
    pub fn block(&self, id: u8) -> Option<BlockView<'a>> {
        if id >= self.least_absent_id {
            return None;
        }
        self.blocks().find(|block| block.id == id)
    }

    /// The block reference to this page.
    pub fn block_of(&self, key: Key) -> Option<BlockView<'a>> {
        let Key::RelBlock { rel, block } = key else { return None };
        self.blocks().find(|reference| reference.block == block && reference.rel == rel)
    }
}

/// Where the parts of a record are that was parsed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extent {
    headers: usize,
    main_data: usize,
    least_absent_id: u8,
}

/// A record that was parsed, seen again.
impl<'a> From<&'a Record> for RecordView<'a> {
    fn from(record: &'a Record) -> RecordView<'a> {
        let Extent { headers, main_data, least_absent_id } = record.extent;
        let (headers, payload) = record.bytes[HEADER_BYTES..].split_at(headers);
        RecordView {
            xid: record.xid,
            prev: record.prev,
            info: record.info,
            rmgr: record.rmgr,
            origin: record.origin,
            toplevel_xid: record.toplevel_xid,
            main_data: &payload[payload.len() - main_data..],
            least_absent_id,
            headers,
            payload,
        }
    }
}

/// A block reference of a record that was parsed, seen again.
impl<'a> From<&'a Block> for BlockView<'a> {
    fn from(block: &'a Block) -> BlockView<'a> {
        let Block { id, rel, block: number, will_init, image, data } = block;
        let of_image = |part: fn(&'a BlockImage) -> &'a [u8]| image.as_ref().map_or(&[][..], part);
        BlockView {
            id: *id,
            rel: *rel,
            block: *number,
            will_init: *will_init,
            image: match image {
                None => ImageUse::Absent,
                Some(image) if image.apply => ImageUse::Restore,
                Some(_) => ImageUse::Compare,
            },
            image_header: of_image(|image| &image.header),
            image_bytes: of_image(|image| &image.bytes),
            data,
        }
    }
}

/// Iterates over a record's block references.
pub struct Blocks<'a> {
    headers: Headers<'a>,
    payload: &'a [u8],
}

impl<'a> Iterator for Blocks<'a> {
    type Item = BlockView<'a>;

    fn next(&mut self) -> Option<BlockView<'a>> {
        // Parsing walked the same headers without an error, so there is none now.
        let header = self.headers.next().ok()??;
        let (view, rest) = header.view(self.payload)?;
        self.payload = rest;
        Some(view)
    }
}

#[derive(Clone, Copy)]
struct BlockHeader<'a> {
    id: u8,
    rel: RelTag,
    block: u32,
    will_init: bool,
    image: ImageUse,
    image_header: &'a [u8],
    image_bytes: usize,
    data_bytes: usize,
}

impl<'a> BlockHeader<'a> {
    fn is_of(&self, key: Key) -> bool {
        matches!(key, Key::RelBlock { rel, block } if self.block == block && self.rel == rel)
    }

    /// The block reference whose image and data `payload` starts with, and what follows them.
    #[inline]
    fn view(&self, payload: &'a [u8]) -> Option<(BlockView<'a>, &'a [u8])> {
        let BlockHeader { id, rel, block, will_init, image, image_header, .. } = *self;
        let (image_bytes, rest) = payload.split_at_checked(self.image_bytes)?;
        let (data, rest) = rest.split_at_checked(self.data_bytes)?;
        Some((BlockView { id, rel, block, will_init, image, image_header, image_bytes, data }, rest))
    }
}

/// Walks the headers, which are before all data. `announced` counts the data that the headers so far promise: the
/// headers end where no more is left than that.
struct Headers<'a> {
    left: &'a [u8],
    announced: usize,
    main_data: usize,
    relation: Option<(u32, u32, u32)>,
    origin: Option<u16>,
    toplevel_xid: Option<u32>,
    least_id: u8,
    /// Whether `left` holds the headers alone, so that all of it is to be walked.
    data_cut_off: bool,
}

impl<'a> Headers<'a> {
    fn new(left: &'a [u8]) -> Headers<'a> {
        Headers {
            left,
            announced: 0,
            main_data: 0,
            relation: None,
            origin: None,
            toplevel_xid: None,
            least_id: 0,
            data_cut_off: false,
        }
    }

    fn again(headers: &'a [u8]) -> Headers<'a> {
        Headers { data_cut_off: true, ..Headers::new(headers) }
    }

    #[inline]
    fn next(&mut self) -> Result<Option<BlockHeader<'a>>, Malformed> {
        while self.left.len() > if self.data_cut_off { 0 } else { self.announced } {
            match self.u8()? {
                ID_DATA_SHORT => return self.end(|headers| headers.u8().map(usize::from)),
                ID_DATA_LONG => {
                    return self.end(|headers| usize::try_from(headers.u32()?).map_err(|_| Malformed::Truncated));
                }
                ID_ORIGIN => self.origin = Some(self.u16()?),
                ID_TOPLEVEL_XID => self.toplevel_xid = Some(self.u32()?),
                id if id <= BLOCK_ID_MAX => return self.block(id).map(Some),
                id => return Err(Malformed::Header(id)),
            }
        }
        Ok(None)
    }

    /// The main data's header is the last one.
    fn end(
        &mut self,
        length: impl FnOnce(&mut Headers<'a>) -> Result<usize, Malformed>,
    ) -> Result<Option<BlockHeader<'a>>, Malformed> {
        self.main_data = length(self)?;
        self.announced = self.announced.saturating_add(self.main_data);
        Ok(None)
    }

    #[inline]
    fn block(&mut self, id: u8) -> Result<BlockHeader<'a>, Malformed> {
        if id < self.least_id {
            return Err(Malformed::BlockOrder(id));
        }
        self.least_id = id + 1;
        let flags = self.u8()?;
        let data_bytes = usize::from(self.u16()?);
        if (flags & HAS_DATA != 0) != (data_bytes > 0) {
            return Err(Malformed::Truncated);
        }
        let from_image = self.left;
        let (image, image_bytes) = if flags & HAS_IMAGE != 0 { self.image()? } else { (ImageUse::Absent, 0) };
        let image_header = &from_image[..from_image.len() - self.left.len()];
        self.announced += data_bytes + image_bytes;
        let rel = self.relation(id, flags)?;
        let block = self.u32()?;
        Ok(BlockHeader {
            id,
            rel,
            block,
            will_init: flags & WILL_INIT != 0,
            image,
            image_header,
            image_bytes,
            data_bytes,
        })
    }

    #[inline]
    fn relation(&mut self, id: u8, flags: u8) -> Result<RelTag, Malformed> {
        if flags & SAME_REL == 0 {
            self.relation = Some((self.u32()?, self.u32()?, self.u32()?));
        }
        let (tablespace, database, relation) = self.relation.ok_or(Malformed::NoRelation(id))?;
        let fork = Fork::from_number(flags & FORK_MASK).ok_or(Malformed::Fork(flags & FORK_MASK))?;
        Ok(RelTag { tablespace, database, relation, fork })
    }

    /// How long the image is and what for; whether it makes a page is found out when it is restored.
    fn image(&mut self) -> Result<(ImageUse, usize), Malformed> {
        let length = self.u16()?;
        let _hole_offset = self.u16()?;
        let flags = self.u8()?;
        if image::has_hole_length(flags) {
            let _hole_length = self.u16()?;
        }
        let image = if image::is_applied(flags) { ImageUse::Restore } else { ImageUse::Compare };
        Ok((image, length.into()))
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.left.split_first_chunk::<N>().ok_or(Malformed::Truncated)?;
        self.left = tail;
        Ok(*head)
    }

    #[inline]
    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(u8::from_le_bytes)
    }

    #[inline]
    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    #[inline]
    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::example;
    use bytes::Bytes;
    use proptest::prelude::*;

    const REL: RelTag = crate::record::tests::REL;

    fn key(block: u32) -> Key {
        Key::RelBlock { rel: REL, block }
    }

    #[test]
    fn blocks_are_found_by_id_and_by_page() {
        let bytes = example();
        let record = RecordView::parse(&bytes).unwrap();
        assert_eq!((record.rmgr, record.info, record.xid, record.main_data), (10, 2, 700, &b"main"[..]));
        let seven = record.block_of(key(7)).unwrap();
        let (_, found) = RecordView::parse_for(&bytes, key(9)).unwrap();
        assert_eq!(found.map(|block| (block.id, block.image)), Some((4, ImageUse::Restore)));
        assert_eq!((seven.id, seven.will_init, seven.data), (0, true, &b"seven"[..]));
        assert_eq!(record.block(4).map(|block| (block.block, block.image)), Some((9, ImageUse::Restore)));
        assert!(record.block_of(key(0)).is_none(), "another fork's block");
        assert!(record.block(2).is_none());
    }

    fn parts(block: BlockView<'_>) -> (u8, RelTag, u32, bool, ImageUse, Vec<u8>) {
        (block.id, block.rel, block.block, block.will_init, block.image, block.data.to_vec())
    }

    proptest! {
        #[test]
        fn every_way_to_look_at_a_record_shows_the_same(
            damage in proptest::collection::vec((4usize..120, any::<u8>()), 0..3),
            cut in proptest::option::of(24usize..200),
        ) {
            let mut bytes = example().to_vec();
            damage.into_iter().for_each(|(at, value)| bytes[at] = value);
            if let Some(cut) = cut {
                bytes.truncate(cut);
                bytes[..4].copy_from_slice(&(cut as u32).to_le_bytes());
            }
            let view = RecordView::parse(&bytes);
            if let Ok(record) = Record::decode(Lsn(8), Lsn(16), Bytes::from(bytes.clone())) {
                let view = view.unwrap();
                let again = RecordView::from(&record);
                prop_assert_eq!((view.main_data, again.main_data), (&record.main_data[..], &record.main_data[..]));
                prop_assert!(again.blocks().map(parts).eq(view.blocks().map(parts)));
                prop_assert!(record.blocks.iter().map(|block| parts(block.into())).eq(view.blocks().map(parts)));
                let (_, first, others) = RecordView::parse_first(&bytes).unwrap();
                prop_assert!(first.into_iter().chain(others).map(parts).eq(view.blocks().map(parts)));
                for block in &record.blocks {
                    let page = Key::RelBlock { rel: block.rel, block: block.block };
                    let (found, first) = (RecordView::parse_for(&bytes, page).unwrap().1, view.block_of(page));
                    prop_assert_eq!(found.map(parts), first.map(parts));
                    prop_assert!(again.block(block.id).is_some());
                }
            }
        }
    }
}
