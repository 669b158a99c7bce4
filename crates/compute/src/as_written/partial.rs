//! Pages of which the log has an image without all that PostgreSQL reads of them.

use parking_lot::{Mutex, MutexGuard};
use quire_cache::ControlMap;
use quire_redo::mask::reads_hole;
use quire_types::{Key, Lsn};
use quire_wal::{RawRecord, Record, rmgr};
use std::collections::HashMap;
use std::sync::Arc;

/// `XLOG_FPI_FOR_HINT` and `XLOG_FPI`: records that are nothing but images. All others log such pages whole.
const IMAGES: [u8; 2] = [0xA0, 0xB0];
/// Where `xl_info` and `xl_rmid` are in a record.
const INFO_AT: usize = 16;
const RMGR_AT: usize = 17;
/// `XLR_INFO_MASK`: the bits of `xl_info` that are not the resource manager's.
const COMMON_INFO: u8 = 0x0F;

/// The pages, each with the end of the record that has its image, until storage has them as they were written.
///
/// It is bounded by what one `CREATE DATABASE` copies between two checkpoints: a page for 256 MiB of a table, and one
/// for each 1360 ranges of a BRIN index.
#[derive(Debug)]
pub struct PartialPages {
    control: Arc<ControlMap>,
    pages: Mutex<HashMap<Key, Lsn>>,
}

impl PartialPages {
    /// None yet; `control` is told how many there are.
    pub fn new(control: Arc<ControlMap>) -> PartialPages {
        PartialPages { control, pages: Mutex::default() }
    }

    /// Looks at a record before its flush is granted, and so before any page is written that it describes.
    pub fn note(&self, raw: &RawRecord) {
        let is_image = raw.bytes.get(RMGR_AT) == Some(&rmgr::XLOG)
            && raw.bytes.get(INFO_AT).is_some_and(|info| IMAGES.contains(&(info & !COMMON_INFO)));
        if is_image && let Ok(record) = Record::decode(raw.start, raw.end, raw.bytes.clone()) {
            partial_in(&record).for_each(|key| self.add(key, record.end));
        }
    }

    fn add(&self, key: Key, lsn: Lsn) {
        let mut pages = self.pages();
        pages.insert(key, lsn);
        self.control.set_partial_pages(pages.len());
    }

    /// Whether storage does not have the page as it is.
    pub fn contains(&self, key: Key) -> bool {
        self.pages().contains_key(&key)
    }

    /// Storage has the page as of `lsn`.
    pub fn forget(&self, key: Key, lsn: Lsn) {
        let mut pages = self.pages();
        if pages.get(&key).is_some_and(|noted| *noted <= lsn) {
            pages.remove(&key);
            self.control.set_partial_pages(pages.len());
        }
    }

    /// All of them.
    pub(super) fn list(&self) -> Vec<(Key, Lsn)> {
        self.pages().iter().map(|(key, lsn)| (*key, *lsn)).collect()
    }

    fn pages(&self) -> MutexGuard<'_, HashMap<Key, Lsn>> {
        self.pages.lock()
    }
}

/// The pages of which a record of images has not all. One that cannot be restored is left to ingest, which says so.
fn partial_in(record: &Record) -> impl Iterator<Item = Key> {
    record.blocks.iter().filter_map(|block| {
        let image = block.image.as_ref().filter(|image| image.apply && image.hole_length > 0)?;
        let key = Key::RelBlock { rel: block.rel, block: block.block };
        reads_hole(&*image.restore().ok()?, key).then_some(key)
    })
}
