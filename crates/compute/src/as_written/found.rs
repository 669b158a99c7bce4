//! Reading pages out of the cache's files while they are not written.

use super::{PartialPages, lsn_of};
use crate::difference::NOTHING;
use crate::fill::files::{CacheFile, Files};
use bytes::Bytes;
use quire_cache::protocol::{self, Look};
use quire_cache::{CacheError, FileId};
use quire_protocol::page::WrittenPage;
use quire_redo::mask::{PageKind, page_kind};
use quire_types::{Key, Lsn, PAGE_SIZE, RELATION_SEGMENT_BLOCKS};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

/// How long until a block is looked at again that another process owns.
const BUSY_PAUSE: Duration = Duration::from_micros(100);

/// A page that storage is to keep.
#[derive(Debug)]
pub struct Found {
    file: Arc<CacheFile>,
    /// Its block in the file.
    block: u32,
    was_marked: bool,
    /// Its key in storage.
    pub key: Key,
    /// The LSN on it.
    pub lsn: Lsn,
    page: Bytes,
}

impl Found {
    /// As it is sent.
    pub fn to_message(&self) -> WrittenPage {
        WrittenPage { key: self.key, page: self.page.clone() }
    }

    /// Puts the mark on again that was taken off.
    pub fn remark(&self) {
        if self.was_marked {
            remark(&self.file, self.block);
        }
    }
}

/// Where a mark was, there is room for it.
fn remark(file: &CacheFile, block: u32) {
    if let Err(error) = file.meta().mark_undescribed(block) {
        tracing::error!(%error, key = %file.key(block), "a page that storage is to keep is not marked any more");
    }
}

/// How a page is read.
type Reader = fn(&CacheFile, u32) -> io::Result<Bytes>;

/// The page of a file, as it is; its mark, if it has one, is taken off. None if it is not there.
fn take(file: &Arc<CacheFile>, block: u32, read: Reader) -> io::Result<Option<Found>> {
    let looked = look(file, block, || (file.meta().unmark_undescribed(block), read(file, block)));
    let Some((was_marked, page)) = looked else { return Ok(None) };
    match page {
        // A page of nothing is what storage has where nothing was logged.
        Ok(page) if page[..] == NOTHING => Ok(None),
        Ok(page) => {
            let lsn = lsn_of(&page);
            Ok(Some(Found { file: file.clone(), block, was_marked, key: file.key(block), lsn, page }))
        }
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        // It is there and cannot be read: it must not leave the cache, nor be forgotten, and the flush has failed.
        Err(error) => {
            tracing::error!(%error, key = %file.key(block), "cannot read a page that storage is to keep");
            remark(file, block);
            Err(error)
        }
    }
}

/// Marks a page, if it is in the cache.
pub fn mark(file: &CacheFile, block: u32) -> Result<(), CacheError> {
    look(file, block, || file.meta().mark_undescribed(block)).unwrap_or(Ok(()))
}

/// Waits until no other process owns the block, and looks; none if it is not in the cache.
fn look<R>(file: &CacheFile, block: u32, mut body: impl FnMut() -> R) -> Option<R> {
    loop {
        match protocol::look(file.meta(), block, &mut body) {
            Look::Seen(seen) => {
                file.notify_settled();
                return Some(seen);
            }
            Look::Absent => return None,
            Look::Busy => std::thread::sleep(BUSY_PAUSE),
        }
    }
}

fn read(file: &CacheFile, block: u32) -> io::Result<Bytes> {
    let mut page = vec![0; PAGE_SIZE];
    file.data().read_exact_at(&mut page, u64::from(block) * PAGE_SIZE as u64)?;
    Ok(page.into())
}

/// Up to `pages_max` of the marked pages of a file, and from which block on there may be more. If one cannot be read,
/// all of them stay marked.
pub fn marked(file: &Arc<CacheFile>, blocks: Range<u32>, pages_max: usize) -> io::Result<(Vec<Found>, u32)> {
    marked_by(read, file, blocks, pages_max)
}

fn marked_by(
    read: Reader,
    file: &Arc<CacheFile>,
    blocks: Range<u32>,
    pages_max: usize,
) -> io::Result<(Vec<Found>, u32)> {
    let mut found: Vec<Found> = Vec::new();
    for block in blocks.clone().filter(|block| file.meta().is_undescribed(*block)) {
        if found.len() == pages_max {
            return Ok((found, block));
        }
        // A mark behind the end of the file is of a page that was cut off.
        let page = take(file, block, read).inspect_err(|_| found.iter().for_each(Found::remark))?;
        found.extend(page);
    }
    Ok((found, blocks.end))
}

/// The same while PostgreSQL runs; none of a sequence, whose page must not take the place of its record then.
pub fn marked_while_running(
    file: &Arc<CacheFile>,
    blocks: Range<u32>,
    pages_max: usize,
) -> io::Result<Option<(Vec<Found>, u32)>> {
    if is_sequence(file) { Ok(None) } else { marked(file, blocks, pages_max).map(Some) }
}

/// The page of `key` if it was written since the record that ends at `lsn`. If it is gone it is forgotten.
pub fn partial(files: &Files, pages: &PartialPages, key: Key, lsn: Lsn) -> io::Result<Option<Found>> {
    let Key::RelBlock { rel, block } = key else { return Ok(None) };
    let id = FileId::Relation { rel, segment: block / RELATION_SEGMENT_BLOCKS };
    let Ok(file) = files.get(id) else {
        pages.forget(key, Lsn::MAX);
        return Ok(None);
    };
    let Some(found) = take(&file, block % RELATION_SEGMENT_BLOCKS, read)? else { return Ok(None) };
    if found.lsn >= lsn {
        return Ok(Some(found));
    }
    // It is in PostgreSQL's buffers alone.
    found.remark();
    Ok(None)
}

/// Whether a file is a sequence's.
fn is_sequence(file: &Arc<CacheFile>) -> bool {
    let key = file.key(0);
    let page = look(file, 0, || read(file, 0));
    let page = page.and_then(Result::ok);
    page.is_some_and(|page| {
        <&[u8; PAGE_SIZE]>::try_from(&page[..]).is_ok_and(|page| page_kind(page, key) == PageKind::Sequence)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache_dir::CacheDir;
    use quire_cache::MetaSpec;
    use quire_types::{Fork, RelTag};
    use quire_wal::postgres_version::PG15;
    use std::fs::{self, File};

    const REL: RelTag = RelTag { tablespace: 1663, database: 5, relation: 16384, fork: Fork::Main };
    const ID: FileId = FileId::Relation { rel: REL, segment: 0 };

    fn key(block: u32) -> Key {
        Key::RelBlock { rel: REL, block }
    }

    /// A file of local pages with these LSNs, all of them marked.
    fn made(lsns: &[u64]) -> (tempfile::TempDir, Files) {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = CacheDir::new(folder.path(), &PG15);
        let path = dir.path_of(ID);
        for root in [dir.pgdata(), dir.meta()] {
            fs::create_dir_all(root.join("base/5")).expect("made");
        }
        let mut pages = vec![0; lsns.len() * PAGE_SIZE];
        for (page, lsn) in pages.chunks_mut(PAGE_SIZE).zip(lsns) {
            quire_wal::page::set_lsn(page, Lsn(*lsn));
            page[100] = 1;
        }
        fs::write(dir.data_file(&path), pages).expect("written");
        let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(dir.data_file(&path)).expect("there"));
        let spec = MetaSpec { file: ID, inode, remote_nblocks: 0, bounded: true, request_lsn: Lsn(9) };
        drop::<File>(spec.create(&dir.meta_file(&path)).expect("made"));
        let files = Files::new(dir);
        let file = files.get(ID).expect("opened");
        (0..lsns.len() as u32).for_each(|block| file.meta().mark_undescribed(block).unwrap());
        (folder, files)
    }

    #[test]
    fn marked_pages_come_in_pieces_and_lose_their_marks_until_they_are_refused() {
        let (_folder, files) = made(&[0, 7, 0]);
        let file = files.get(ID).expect("open");
        let (first, next) = marked(&file, 0..100, 2).expect("read");
        assert_eq!(
            (first.iter().map(|page| (page.key, page.lsn)).collect::<Vec<_>>(), next),
            (vec![(key(0), Lsn(0)), (key(1), Lsn(7))], 2)
        );
        assert_eq!([0, 1, 2].map(|block| file.meta().is_undescribed(block)), [false, false, true]);
        first[1].remark();
        let (left, _) = marked(&file, 0..100, 9).expect("read");
        assert_eq!(left.iter().map(|page| page.key).collect::<Vec<_>>(), [key(1), key(2)]);
        assert!(marked(&file, 0..100, 9).expect("read").0.is_empty());
    }

    #[test]
    fn a_mark_behind_the_end_of_the_file_is_dropped() {
        let (_folder, files) = made(&[0, 0]);
        let file = files.get(ID).expect("open");
        file.data().set_len(PAGE_SIZE as u64).expect("cut");
        assert_eq!(marked(&file, 0..100, 9).expect("read").0.len(), 1);
        assert!(!file.meta().is_undescribed(1));
    }

    #[test]
    fn a_sequence_keeps_its_mark_while_postgres_runs() {
        let (_folder, files) = made(&[7]);
        let file = files.get(ID).expect("open");
        let running = |file| marked_while_running(file, 0..100, 9).expect("read").map(|(found, _)| found.len());
        assert_eq!(running(&file), Some(1), "another page");
        file.meta().mark_undescribed(0).unwrap();
        let mut page = [0; PAGE_SIZE];
        quire_wal::page::init(&mut page, 8);
        page[PAGE_SIZE - 8..PAGE_SIZE - 6].copy_from_slice(&[0x17, 0x17]);
        file.data().write_all_at(&page, 0).expect("written");
        assert_eq!(running(&file), None);
        assert!(file.meta().is_undescribed(0));
        assert_eq!(marked(&file, 0..1, 1).expect("read").0.len(), 1, "after it has shut down");
    }

    #[test]
    fn a_page_of_nothing_is_what_storage_has_anyway() {
        let (_folder, files) = made(&[0, 0]);
        let file = files.get(ID).expect("open");
        file.data().write_all_at(&[0; PAGE_SIZE], 0).expect("written");
        assert_eq!(marked(&file, 0..100, 9).expect("read").0.iter().map(|page| page.key).collect::<Vec<_>>(), [key(1)]);
        assert!(!file.meta().is_undescribed(0));
    }

    #[test]
    fn pages_of_which_one_cannot_be_read_stay_marked_and_that_is_an_error() {
        let (_folder, files) = made(&[0, 7, 0]);
        let file = files.get(ID).expect("open");
        let broken: Reader = |file, block| match block {
            1 => Err(io::Error::from_raw_os_error(nix::libc::EIO)),
            _ => read(file, block),
        };
        let error = marked_by(broken, &file, 0..100, 9).expect_err("block 1 cannot be read");
        assert_eq!(error.raw_os_error(), Some(nix::libc::EIO));
        assert_eq!([0, 1, 2].map(|block| file.meta().is_undescribed(block)), [true; 3]);
        assert!(file.meta().take_undescribed(), "the next flush looks again");
        assert_eq!(marked(&file, 0..100, 9).expect("read").0.len(), 3);
    }
}
