//! Records made by hand for tests.

use bytes::Bytes;
use quire_types::{Fork, Key, RelTag, Writer};
use quire_wal::record::HEADER_BYTES;

/// The relation that test records speak of.
pub(crate) const REL: RelTag = RelTag { tablespace: 1663, database: 5, relation: 16384, fork: Fork::Main };

/// The key of one of its pages.
pub(crate) fn key(block: u32) -> Key {
    Key::RelBlock { rel: REL, block }
}

/// A record in the making.
pub(crate) struct TestRecord {
    rmgr: u8,
    info: u8,
    headers: Writer,
    payload: Vec<u8>,
}

impl TestRecord {
    pub fn new(rmgr: u8, info: u8) -> TestRecord {
        TestRecord { rmgr, info, headers: Writer::new(), payload: vec![] }
    }

    /// Adds a block reference with data.
    pub fn block(self, id: u8, rel: RelTag, block: u32, will_init: bool, data: &[u8]) -> TestRecord {
        self.reference(id, rel, block, will_init, None, data)
    }

    /// Adds a block reference with a page image that has no hole.
    pub fn image(self, id: u8, rel: RelTag, block: u32, is_restored: bool, image: &[u8]) -> TestRecord {
        self.reference(id, rel, block, false, Some((is_restored, image)), &[])
    }

    fn reference(
        mut self,
        id: u8,
        rel: RelTag,
        block: u32,
        will_init: bool,
        image: Option<(bool, &[u8])>,
        data: &[u8],
    ) -> TestRecord {
        let flag = |bit: u8, is_set: bool| if is_set { bit } else { 0 };
        let flags = rel.fork as u8 | flag(0x10, image.is_some()) | flag(0x20, !data.is_empty()) | flag(0x40, will_init);
        self.headers.u8(id).u8(flags).u16(data.len() as u16);
        if let Some((is_restored, image)) = image {
            self.headers.u16(image.len() as u16).u16(0).u8(flag(0x02, is_restored));
            self.payload.extend_from_slice(image);
        }
        self.headers.u32(rel.tablespace).u32(rel.database).u32(rel.relation).u32(block);
        self.payload.extend_from_slice(data);
        self
    }

    /// Adds the main data and makes the record of transaction 700.
    pub fn build(mut self, main: &[u8]) -> Bytes {
        self.headers.u8(255).u8(main.len() as u8);
        let total = HEADER_BYTES + self.headers.len() + self.payload.len() + main.len();
        let mut record = Writer::new();
        record.u32(total as u32).u32(700).u64(0).u8(self.info).u8(self.rmgr).u16(0).u32(0);
        record.bytes(self.headers.as_slice()).bytes(&self.payload).bytes(main);
        record.into_bytes()
    }
}
