//! The cache files that the agent has open for installing pages.

use crate::cache_dir::CacheDir;
use crate::descriptors;
use nix::sys::uio::pwritev;
use parking_lot::Mutex;
use quire_cache::protocol::{self, BlockState, Blocks};
use quire_cache::{CacheError, FileId, Meta};
use quire_types::{Key, PAGE_SIZE, RELATION_SEGMENT_BLOCKS, SLRU_SEGMENT_PAGES};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// How many files are kept open at most.
const OPEN_FILES_MAX: usize = 512;

/// How long a thread that may open no file waits, and how often.
const LACK_PAUSE: Duration = Duration::from_millis(20);
const LACK_ATTEMPTS: u32 = 500;

const SETTLE_POLL: Duration = Duration::from_millis(5);

/// A segment file with its meta file.
#[derive(Debug)]
pub struct CacheFile {
    id: FileId,
    data: File,
    meta: Meta,
    /// Signalled when blocks leave the state of being filled.
    filled: Notify,
}

/// Why a file cannot be filled.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It has no meta file, or is not the file that this was made for: it is wholly local.
    #[error("{0:?} is wholly local")]
    Local(FileId),
    /// A system call failed.
    #[error("cannot open a file of the cache: {0}")]
    Io(#[from] io::Error),
    /// The meta file is damaged.
    #[error(transparent)]
    Cache(CacheError),
}

impl FileError {
    /// Whether too many files are open.
    fn is_lack(&self) -> bool {
        match self {
            FileError::Io(source) | FileError::Cache(CacheError::Io { source, .. }) => descriptors::is_lack(source),
            FileError::Local(_) | FileError::Cache(_) => false,
        }
    }
}

/// Files by what they are.
#[derive(Debug)]
pub struct Files {
    dir: CacheDir,
    open: Mutex<HashMap<FileId, Arc<CacheFile>>>,
    open_max: usize,
}

impl Files {
    /// Files below a compute's directory.
    pub fn new(dir: CacheDir) -> Files {
        Files { dir, open: Mutex::default(), open_max: descriptors::share(OPEN_FILES_MAX) }
    }

    /// Where they are.
    pub fn dir(&self) -> &CacheDir {
        &self.dir
    }

    /// The file, opened if it is not.
    pub fn get(&self, id: FileId) -> Result<Arc<CacheFile>, FileError> {
        let mut open = self.open.lock();
        // A file that was deleted may have a successor of the same name.
        if let Some(file) = open.get(&id).filter(|file| file.lives()) {
            return Ok(file.clone());
        }
        let file = match CacheFile::open(&self.dir, id) {
            Err(error) if error.is_lack() => {
                open.clear();
                CacheFile::open(&self.dir, id)
            }
            opened => opened,
        };
        let file = Arc::new(file?);
        if open.len() >= self.open_max {
            open.clear();
        }
        open.insert(id, file.clone());
        Ok(file)
    }

    /// As [`Files::get`], but waits for a while if too many files are open: others may be closed.
    pub async fn get_patiently(&self, id: FileId) -> Result<Arc<CacheFile>, FileError> {
        for _ in 0..LACK_ATTEMPTS {
            match self.get(id) {
                Err(error) if error.is_lack() => tokio::time::sleep(LACK_PAUSE).await,
                outcome => return outcome,
            }
        }
        self.get(id)
    }

    /// Closes all files that are not in use at the moment, so that others can be opened.
    pub fn close_all(&self) {
        self.open.lock().clear();
    }

    /// Closes files that were deleted, whose space would not be freed otherwise.
    pub fn close_deleted(&self) {
        self.open.lock().retain(|_, file| file.lives());
    }
}

impl CacheFile {
    fn open(dir: &CacheDir, id: FileId) -> Result<CacheFile, FileError> {
        let path = dir.path_of(id);
        let meta = Meta::open(&dir.meta_file(&path)).map_err(|error| match error {
            CacheError::Io { source, .. } if source.kind() == ErrorKind::NotFound => FileError::Local(id),
            other => FileError::Cache(other),
        })?;
        let data = OpenOptions::new().read(true).write(true).open(dir.data_file(&path));
        let data = data
            .map_err(|error| if error.kind() == ErrorKind::NotFound { FileError::Local(id) } else { error.into() })?;
        if data.metadata()?.ino() != meta.inode() {
            return Err(FileError::Local(id));
        }
        Ok(CacheFile { id, data, meta, filled: Notify::new() })
    }

    fn lives(&self) -> bool {
        self.data.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
    }

    /// The file with the pages.
    pub fn data(&self) -> &File {
        &self.data
    }

    /// Wakes those who wait for blocks that were being filled or dropped.
    pub fn notify_settled(&self) {
        self.filled.notify_waiters();
    }

    /// Its states.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The key in storage of a block of this file.
    pub fn key(&self, block: u32) -> Key {
        key_of(self.id, block)
    }

    /// Takes those blocks of `ranges` that are absent, to be filled; blocks that storage does not have are none.
    pub fn claim(self: &Arc<CacheFile>, ranges: impl IntoIterator<Item = Range<u32>>) -> Claims {
        let remote = self.meta.remote_nblocks();
        let wanted = ranges.into_iter().flat_map(|range| range.start..range.end.min(remote));
        let mut blocks: Vec<u32> = wanted.filter(|block| protocol::claim(&self.meta, *block)).collect();
        blocks.sort_unstable();
        Claims { file: self.clone(), blocks, done: 0 }
    }

    /// Waits until no block of `range` is being filled by another thread.
    pub async fn settled(&self, range: Range<u32>) {
        loop {
            let notified = self.filled.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            let remote = range.start..range.end.min(self.meta.remote_nblocks());
            let mut states = remote.map(|block| self.meta.state(block));
            if !states.any(|state| state == BlockState::Filling) {
                return;
            }
            // Another thread may own the blocks by another handle of the same file, which tells nothing to this one.
            let _ = tokio::time::timeout(SETTLE_POLL, notified).await;
        }
    }
}

/// Blocks that this side owns as being filled. Those that are not installed become absent again when it is dropped.
#[derive(Debug)]
pub struct Claims {
    file: Arc<CacheFile>,
    blocks: Vec<u32>,
    done: usize,
}

impl Claims {
    /// The blocks, ascending.
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// Their keys.
    pub fn keys(&self) -> Vec<Key> {
        self.blocks.iter().map(|block| self.file.key(*block)).collect()
    }

    /// Puts the pages, in the order of the blocks, into the file, neighbours with one call.
    pub fn install<P: AsRef<[u8]>>(mut self, pages: &[P]) -> io::Result<()> {
        assert_eq!(pages.len(), self.blocks.len(), "a page for each block");
        while self.done < self.blocks.len() {
            let run = self.next_run();
            write_run(&self.file.data, self.blocks[run.start], &pages[run.clone()])?;
            self.blocks[run.clone()].iter().for_each(|block| protocol::publish(&self.file.meta, *block));
            self.done = run.end;
        }
        Ok(())
    }

    /// Which of the blocks that are left are neighbours of the first.
    fn next_run(&self) -> Range<usize> {
        let left = &self.blocks[self.done..];
        let neighbours = left.windows(2).take_while(|pair| pair[1] == pair[0] + 1).count();
        self.done..self.done + neighbours + 1
    }
}

/// Writes neighbouring pages, the first of which belongs at `block`.
fn write_run<P: AsRef<[u8]>>(data: &File, block: u32, pages: &[P]) -> io::Result<()> {
    let start = u64::from(block) * PAGE_SIZE as u64;
    let parts: Vec<IoSlice<'_>> = pages.iter().map(|page| IoSlice::new(page.as_ref())).collect();
    let written = i64::try_from(start).ok().and_then(|offset| pwritev(data, &parts, offset).ok()).unwrap_or(0);
    // What the kernel has not taken, for whatever reason, is tried again page by page, which says why.
    for (index, page) in pages.iter().enumerate().skip(written / PAGE_SIZE) {
        data.write_all_at(page.as_ref(), start + (index * PAGE_SIZE) as u64)?;
    }
    Ok(())
}

impl Drop for Claims {
    fn drop(&mut self) {
        self.blocks[self.done..].iter().for_each(|block| protocol::release(&self.file.meta, *block));
        self.file.filled.notify_waiters();
    }
}

/// The key in storage of a block of a file.
pub fn key_of(id: FileId, block: u32) -> Key {
    match id {
        FileId::Relation { rel, segment } => {
            Key::RelBlock { rel, block: segment.saturating_mul(RELATION_SEGMENT_BLOCKS).saturating_add(block) }
        }
        FileId::Slru { slru, segment } => {
            Key::SlruBlock { slru, page: segment.saturating_mul(SLRU_SEGMENT_PAGES).saturating_add(block) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_cache::MetaSpec;
    use quire_types::{Lsn, Slru};
    use quire_wal::postgres_version::PG15;

    const ID: FileId = FileId::Slru { slru: Slru::Clog, segment: 2 };

    fn file() -> (tempfile::TempDir, Files) {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = CacheDir::new(folder.path(), &PG15);
        for root in [dir.pgdata(), dir.meta()] {
            std::fs::create_dir_all(root.join("pg_xact")).expect("made");
        }
        let data = File::create(dir.data_file(dir.path_of(ID))).expect("made");
        data.set_len(4 * 8192).expect("sized");
        let inode = data.metadata().expect("examined").ino();
        let spec = MetaSpec { file: ID, inode, remote_nblocks: 4, bounded: false, request_lsn: Lsn(9) };
        spec.create(&dir.meta_file(dir.path_of(ID))).expect("made");
        (folder, Files::new(dir))
    }

    #[test]
    fn only_absent_blocks_are_claimed_and_installed_ones_stay() {
        let (_folder, files) = file();
        let file = files.get(ID).expect("opened");
        let claims = file.claim(Some(1..2));
        assert_eq!(claims.keys(), [Key::SlruBlock { slru: Slru::Clog, page: 65 }]);
        claims.install(&[[7; PAGE_SIZE]]).expect("installed");
        let mut page = [0; PAGE_SIZE];
        file.data.read_exact_at(&mut page, PAGE_SIZE as u64).expect("there");
        assert_eq!(page, [7; PAGE_SIZE]);
        assert_eq!(file.claim(Some(0..99)).blocks(), [0, 2, 3]);
    }

    #[test]
    fn pages_of_scattered_blocks_land_where_they_belong() {
        let (_folder, files) = file();
        let file = files.get(ID).expect("opened");
        let claims = file.claim([3..4, 0..2]);
        assert_eq!(claims.blocks(), [0, 1, 3]);
        claims.install(&[[1; PAGE_SIZE], [2; PAGE_SIZE], [4; PAGE_SIZE]]).expect("installed");
        let first_bytes = [0, 1, 2, 3].map(|block: u64| {
            let mut byte = [0];
            file.data.read_exact_at(&mut byte, block * PAGE_SIZE as u64).expect("there");
            byte[0]
        });
        assert_eq!(first_bytes, [1, 2, 0, 4]);
        assert_eq!(file.claim(Some(0..4)).blocks(), [2]);
    }

    #[test]
    fn blocks_that_could_not_be_had_are_absent_again() {
        let (_folder, files) = file();
        let file = files.get(ID).expect("opened");
        drop(file.claim(Some(0..4)));
        assert_eq!(file.claim(Some(0..4)).blocks().len(), 4);
    }

    #[test]
    fn a_file_that_was_replaced_is_local() {
        let (_folder, files) = file();
        let path = files.dir.data_file(files.dir.path_of(ID));
        std::fs::write(path.with_extension("new"), b"x").expect("written");
        std::fs::rename(path.with_extension("new"), &path).expect("renamed");
        assert!(matches!(files.get(ID), Err(FileError::Local(ID))));
    }
}
