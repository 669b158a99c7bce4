//! Free space maps: sent in the background, put back when their relations are materialised.
//!
//! A map is a hint that WAL does not restore, and PostgreSQL lives with one that is old: it looks at each page that a
//! map names. But a page past the end of the relation must not be named, or an insert fails (minor versions from 15.7
//! on look, older ones do not). So a map is kept with the length that its relation had at the time, and is put back
//! only if the relation is at least as long now.

use super::{KeptFiles, PATIENCE};
use crate::Error;
use crate::cache_dir::CacheDir;
use crate::cached_files::Inventory;
use crate::page_client::PageError;
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use quire_cache::FileId;
use quire_protocol::page::{SMALL_FILE_BYTES_MAX, SmallFile};
use quire_types::{Fork, Lsn, PAGE_SIZE, RelTag, Writer};
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_secs(30);

/// What tells a file that has not changed.
/// A database as storage had it at the start.
pub trait StoredDatabase: Sync {
    /// Its tablespace and its OID.
    fn id(&self) -> (u32, u32);
    /// Whether it had a relation.
    fn has(&self, relation: u32) -> impl Future<Output = Result<bool, Error>> + Send;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Stamp> {
        let status = fs::metadata(path).ok()?;
        Some(Stamp { inode: status.ino(), bytes: status.len(), modified: (status.mtime(), status.mtime_nsec()) })
    }
}

/// A map that storage has not, or not as it is.
#[derive(Debug)]
struct Changed {
    rel: RelTag,
    stamp: Stamp,
    value: Bytes,
}

/// The free space maps of one session.
#[derive(Debug)]
pub struct FreeSpaceMaps {
    dir: CacheDir,
    kept: Arc<KeptFiles>,
    /// The files whose maps storage has: put back or sent in this session.
    sent: Mutex<HashMap<RelTag, Stamp>>,
}

impl FreeSpaceMaps {
    /// Those of a data directory.
    pub fn new(dir: CacheDir, kept: Arc<KeptFiles>) -> FreeSpaceMaps {
        FreeSpaceMaps { dir, kept, sent: Mutex::default() }
    }

    /// The map that storage has of a relation whose main fork has `blocks` blocks, if it fits. Going without costs
    /// bloat and nothing else.
    pub async fn stored(&self, rel: RelTag, blocks: u32) -> Option<Bytes> {
        if blocks == 0 {
            return None;
        }
        let name = name_of(rel);
        // Names that only begin so come after it.
        match self.kept.client.get_files(&name, "", PATIENCE).await {
            Ok((files, _)) => {
                files.into_iter().next().filter(|file| file.name == name).and_then(|file| usable(&file.content, blocks))
            }
            Err(error) => {
                tracing::warn!(%error, path = map_path(&self.dir, rel), "starting with an empty free space map");
                None
            }
        }
    }

    /// The map of a relation is in the data directory as storage has it.
    pub fn is_restored(&self, rel: RelTag) {
        let stamp = Stamp::of(&self.dir.data_file(map_path(&self.dir, rel)));
        self.sent().extend(stamp.map(|stamp| (rel, stamp)));
    }

    /// Forgets the maps of relations that storage did not have at the start.
    pub async fn forget_unknown(&self, database: &impl StoredDatabase) {
        if let Err(error) = self.try_forget_unknown(database).await {
            tracing::debug!(%error, "free space maps of relations that are gone are forgotten later");
        }
    }

    async fn try_forget_unknown(&self, database: &impl StoredDatabase) -> Result<(), Error> {
        let (tablespace, oid) = database.id();
        let prefix = format!("fsm/{tablespace}/{oid}/");
        let mut after = String::new();
        loop {
            let (files, more) = self.kept.client.get_files(&prefix, &after, PATIENCE).await?;
            for SmallFile { name, .. } in &files {
                match name.strip_prefix(&prefix).and_then(|relation| relation.parse().ok()) {
                    Some(relation) if !self.is_wanted(database, relation).await? => {
                        self.kept.try_set(name.clone(), None).await?;
                    }
                    Some(_) => {}
                    None => tracing::warn!(name, "unknown relation in the name of a free space map"),
                }
            }
            after = files.last().map_or(after, |file| file.name.clone());
            if !more {
                return Ok(());
            }
        }
    }

    /// Whether a map's relation was there at the start or has sent one since.
    async fn is_wanted(&self, database: &impl StoredDatabase, relation: u32) -> Result<bool, Error> {
        let (tablespace, oid) = database.id();
        let rel = RelTag { tablespace, database: oid, relation, fork: Fork::Main };
        Ok(self.sent().contains_key(&rel) || database.has(relation).await?)
    }

    /// Sends what changes, for as long as it is polled.
    pub async fn keep(self: Arc<FreeSpaceMaps>) {
        loop {
            quire_crash::plant("compute.free-space");
            tokio::time::sleep(INTERVAL).await;
            self.send_changed().await;
        }
    }

    /// Sends the maps that changed since the last time, and has those forgotten whose files are gone.
    pub async fn send_changed(&self) {
        let folders = Inventory::of(&self.dir).folders().unwrap_or_default();
        for folder in folders {
            let (dir, known) = (self.dir.clone(), self.sent().clone());
            let looked = tokio::task::spawn_blocking(move || changed_in(&dir, &folder, &known)).await;
            for changed in looked.unwrap_or_default() {
                match self.kept.try_set(name_of(changed.rel), Some((Lsn::INVALID, changed.value))).await {
                    Ok(()) => drop(self.sent().insert(changed.rel, changed.stamp)),
                    Err(error) => return give_up(&error),
                }
            }
        }
        let known: Vec<RelTag> = self.sent().keys().copied().collect();
        for rel in known.into_iter().filter(|rel| !self.dir.data_file(map_path(&self.dir, *rel)).exists()) {
            match self.kept.try_set(name_of(rel), None).await {
                Ok(()) => drop(self.sent().remove(&rel)),
                Err(error) => return give_up(&error),
            }
        }
    }

    fn sent(&self) -> MutexGuard<'_, HashMap<RelTag, Stamp>> {
        self.sent.lock()
    }
}

fn give_up(error: &PageError) {
    tracing::debug!(%error, "free space maps are sent later");
}

fn name_of(rel: RelTag) -> String {
    format!("fsm/{}/{}/{}", rel.tablespace, rel.database, rel.relation)
}

fn map_path(dir: &CacheDir, rel: RelTag) -> String {
    dir.path_of(FileId::Relation { rel: rel.with_fork(Fork::FreeSpaceMap), segment: 0 })
}

/// The map in a value, if it names no block of a relation of `blocks` that is not there.
fn usable(value: &Bytes, blocks: u32) -> Option<Bytes> {
    let (needed, map) = value.split_first_chunk()?;
    let whole = !map.is_empty() && map.len().is_multiple_of(PAGE_SIZE);
    (whole && u32::from_le_bytes(*needed) <= blocks).then(|| value.slice_ref(map))
}

/// The maps in a directory that are not as they were sent, or put back. Unlogged relations begin anew anyway.
fn changed_in(dir: &CacheDir, folder: &Path, sent: &HashMap<RelTag, Stamp>) -> Vec<Changed> {
    let found = Inventory::of(dir).segments_in(folder).unwrap_or_default();
    let rel_of = |(rel, segment): (RelTag, u32)| {
        (rel.fork == Fork::FreeSpaceMap && segment == 0).then(|| rel.with_fork(Fork::Main))
    };
    let logged = |rel: &RelTag| !dir.relation_file(rel.with_fork(Fork::Init), 0).exists();
    found.into_iter().filter_map(rel_of).filter(logged).filter_map(|rel| changed_map(dir, rel, sent)).collect()
}

fn changed_map(dir: &CacheDir, rel: RelTag, sent: &HashMap<RelTag, Stamp>) -> Option<Changed> {
    let path = dir.data_file(map_path(dir, rel));
    let stamp = Stamp::of(&path)?;
    let too_long = stamp.bytes > (SMALL_FILE_BYTES_MAX - size_of::<u32>()) as u64;
    if sent.get(&rel) == Some(&stamp) || stamp.bytes == 0 || too_long {
        return None;
    }
    // The relation may be cut meanwhile, and the map still name what it had before.
    let before = main_blocks(dir, rel);
    let map = fs::read(&path).ok()?;
    let blocks = before.max(main_blocks(dir, rel));
    let mut value = Writer::with_capacity(size_of::<u32>() + map.len());
    value.u32(blocks).bytes(map.get(..map.len() / PAGE_SIZE * PAGE_SIZE)?);
    Some(Changed { rel, stamp, value: value.into_bytes() })
}

fn main_blocks(dir: &CacheDir, rel: RelTag) -> u32 {
    let length = |segment| fs::metadata(dir.relation_file(rel, segment)).ok();
    let bytes: u64 = (0..).map_while(length).map(|status| status.len()).sum();
    u32::try_from(bytes / PAGE_SIZE as u64).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_wal::postgres_version::PG15;

    const REL: RelTag = RelTag { tablespace: 1663, database: 5, relation: 16_384, fork: Fork::Main };

    fn made(blocks: usize) -> (tempfile::TempDir, CacheDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = CacheDir::new(folder.path(), &PG15);
        fs::create_dir_all(dir.data_file("base/5")).expect("made");
        fs::write(dir.data_file("base/5/16384"), vec![0; blocks * PAGE_SIZE]).expect("written");
        fs::write(dir.data_file("base/5/16384_fsm"), vec![7; 3 * PAGE_SIZE]).expect("written");
        (folder, dir)
    }

    fn changed(dir: &CacheDir, sent: &HashMap<RelTag, Stamp>) -> Vec<Changed> {
        changed_in(dir, Path::new("base/5"), sent)
    }

    #[test]
    fn a_map_is_put_back_only_if_its_relation_is_as_long_as_it_was() {
        let (_folder, dir) = made(9);
        let found = changed(&dir, &HashMap::new());
        let [Changed { rel: REL, value, .. }] = &found[..] else { panic!("{found:?}") };
        assert_eq!(usable(value, 8), None, "the map may name block 8");
        assert_eq!(usable(value, 9), Some(vec![7; 3 * PAGE_SIZE].into()));
        assert_eq!(usable(&value.slice(..100), 9), None);
        assert_eq!(usable(&Bytes::new(), 9), None);
    }

    #[test]
    fn a_map_is_sent_when_it_has_changed() {
        let (_folder, dir) = made(9);
        let sent = changed(&dir, &HashMap::new()).into_iter().map(|map| (map.rel, map.stamp)).collect();
        assert_eq!(changed(&dir, &sent).len(), 0);
        let path = dir.data_file("base/5/16384_fsm");
        fs::write(&path, vec![8; 4 * PAGE_SIZE]).expect("written");
        assert_eq!(changed(&dir, &sent).len(), 1);
    }

    #[test]
    fn maps_of_unlogged_relations_stay_where_they_are() {
        let (_folder, dir) = made(9);
        fs::write(dir.data_file("base/5/16384_init"), b"").expect("written");
        assert_eq!(changed(&dir, &HashMap::new()).len(), 0);
    }
}
