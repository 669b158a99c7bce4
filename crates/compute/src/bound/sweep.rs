//! One round through the cache that takes pages out of it.
//!
//! The hand goes through all files and blocks in turn. A block that was touched more than once since the hand last
//! passed is passed over, and loses a touch. So a scan, which touches each block once, drives out nothing but its own
//! blocks.

use crate::as_written::PartialPages;
use crate::cache_dir::CacheDir;
use crate::cached_files::{Inventory, Listed, is_unlogged};
use crate::fill::{CacheFile, Files, key_of};
use nix::sys::statvfs::statvfs;
use quire_cache::FileId;
use quire_cache::protocol::{self, Blocks, Dropper};
use quire_redo::mask::{PageKind, page_kind};
use quire_types::{Fork, Lsn, PAGE_SIZE};
use quire_wal::page;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};

/// Blocks between two looks at whether enough is gone; a multiple of sixteen.
const STRIDE_BLOCKS: u32 = 1024;
/// Rounds after which even what is touched often has lost its touches.
const ROUNDS_MAX: u32 = 4;
/// Bytes in a block of `st_blocks`.
const UNIT_BYTES: u64 = 512;

/// What is in the cache.
#[derive(Debug, Default)]
pub struct Contents {
    /// Bytes that relation files take on the disk, of all kinds.
    pub bytes: u64,
    /// Bytes that are free on that disk for PostgreSQL's user.
    pub free_bytes: u64,
    /// Files from which pages may be dropped, and which have any, in order.
    files: Vec<FileId>,
}

impl Contents {
    /// Looks at all relation files.
    pub fn take(dir: &CacheDir) -> Contents {
        let mut contents = Contents::default();
        Inventory::of(dir).files().for_each(|file| contents.add(dir, &file));
        contents.files.sort_unstable();
        // One that cannot be asked limits nothing.
        contents.free_bytes =
            statvfs(&dir.pgdata()).map_or(u64::MAX, |disk| disk.blocks_available() * disk.fragment_size());
        contents
    }

    fn add(&mut self, dir: &CacheDir, file: &Listed) {
        let bytes = std::fs::metadata(dir.data_file(&file.path)).map_or(0, |status| status.blocks() * UNIT_BYTES);
        self.bytes += bytes;
        match file.segment {
            Some((rel, segment)) if rel.fork != Fork::FreeSpaceMap && bytes > 0 => {
                self.files.push(FileId::Relation { rel, segment });
            }
            _ => {}
        }
    }
}

/// What may go, and how much is to.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// Pages to drop.
    pub pages: u64,
    /// What was last written before this epoch may go.
    pub safe_epoch: u32,
    /// An LSN that storage can be read at, not before that epoch was safe.
    pub readable: Lsn,
    /// Whether to pass over nothing.
    pub everything: bool,
}

/// Where the last sweep ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hand {
    at: Option<(FileId, u32)>,
}

/// Drops pages until the quota is met or nothing more may go; how many went.
pub fn sweep(files: &Files, partial: &PartialPages, contents: &Contents, hand: &mut Hand, quota: Quota) -> u64 {
    let rounds = if quota.everything { 1 } else { ROUNDS_MAX };
    let mut dropped = 0;
    let begin = match hand.at {
        Some((file, _)) => contents.files.partition_point(|other| *other < file),
        None => 0,
    };
    let order = contents.files[begin..].iter().chain(&contents.files[..begin]);
    for id in (0..rounds).flat_map(|_| order.clone()) {
        if dropped >= quota.pages {
            break;
        }
        if is_unlogged(files.dir(), *id) {
            continue;
        }
        // One that is wholly local, or gone.
        let Ok(file) = files.get(*id) else { continue };
        let from = hand.at.take().filter(|(file, _)| file == id).map_or(0, |(_, block)| block);
        let mut victim = Victim { file: &file, id: *id, partial, quota };
        let (count, next) = victim.sweep(from, quota.pages - dropped);
        dropped += count;
        hand.at = Some((*id, next));
    }
    dropped
}

/// Whole blocks of a file; none if it cannot be asked.
fn length(file: &CacheFile) -> u32 {
    let bytes = file.data().metadata().map_or(0, |status| status.len());
    u32::try_from(bytes / PAGE_SIZE as u64).unwrap_or(u32::MAX)
}

/// A file under the hand.
struct Victim<'a> {
    file: &'a CacheFile,
    id: FileId,
    partial: &'a PartialPages,
    quota: Quota,
}

impl Victim<'_> {
    /// Sweeps the file from a block on; how many pages went, and where to continue.
    fn sweep(&mut self, from: u32, wanted: u64) -> (u64, u32) {
        let (file, readable) = (self.file, self.quota.readable);
        let meta = file.meta();
        protocol::adopt(meta, || length(file));
        // Blocks that are absent already are the same at every LSN between the one they left at and now.
        meta.raise_request_lsn(readable);
        let (mut dropped, mut block) = (0, from / 16 * 16);
        while block < meta.remote_nblocks() && dropped < wanted {
            let stride = block..block.saturating_add(STRIDE_BLOCKS).min(meta.remote_nblocks());
            for sixteen in stride.clone().step_by(16) {
                if !meta.are_sixteen_absent(sixteen) {
                    dropped += u64::from(protocol::drop_blocks(meta, sixteen..(sixteen + 16).min(stride.end), self));
                }
            }
            block = stride.end;
        }
        if dropped > 0 {
            file.notify_settled();
        }
        (dropped, if block < meta.remote_nblocks() { block } else { u32::MAX })
    }
}

impl Dropper for Victim<'_> {
    fn wants(&mut self, block: u32) -> bool {
        let meta = self.file.meta();
        if !meta.is_bounded() || meta.written_epoch(block) >= self.quota.safe_epoch {
            return false;
        }
        let now = meta.touches(block);
        if now > 1 && !self.quota.everything {
            meta.set_touches(block, now - 1);
            return false;
        }
        true
    }

    /// A page without an LSN may be unknown to storage. A sequence's page is behind its log record: from storage it
    /// would leave a gap in the numbers.
    fn allows(&mut self, block: u32) -> bool {
        let mut raw = [0; PAGE_SIZE];
        let whole = self.file.data().read_exact_at(&mut raw, u64::from(block) * PAGE_SIZE as u64);
        let lsn = page::lsn(&raw[..]);
        whole.is_ok()
            && lsn.is_valid()
            && lsn <= self.quota.readable
            && self.file.meta().written_epoch(block) < self.quota.safe_epoch
            && !self.file.meta().is_undescribed(block)
            && !self.partial.contains(key_of(self.id, block))
            && page_kind(&raw, key_of(self.id, block)) != PageKind::Sequence
    }

    fn punch(&mut self, blocks: Range<u32>) -> bool {
        blocks.clone().for_each(|block| self.file.meta().set_touches(block, 0));
        let (start, count) = (i64::from(blocks.start), i64::from(blocks.end - blocks.start));
        let bytes = PAGE_SIZE as i64;
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: an open descriptor; no memory is passed.
        unsafe { libc::fallocate(self.file.data().as_raw_fd(), mode, start * bytes, count * bytes) == 0 }
    }
}
