//! Free space maps: sent in the background, put back when a database is materialised.
//!
//! A map is a hint that WAL does not restore, and PostgreSQL lives with one that is old: it looks at each page that a map names.
//! But a page past the end of the relation must not be named, or an insert fails (minor versions from 15.7 on look,
//! older ones do not). So a map is kept with the length that its relation had at the time, and is put back only if the relation is
//! at least as long now.

use super::{KeptFiles, PATIENCE};
use crate::owner::Owner;
use crate::page_client::PageError;
use crate::verify::{names, relation_folders};
use crate::{Error, place};
use bytes::Bytes;
use quire_protocol::page::{SMALL_FILE_BYTES_MAX, SmallFile};
use quire_types::{Fork, Lsn, PAGE_SIZE, RelTag, Writer};
use quire_wal::DataPath;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const INTERVAL: Duration = Duration::from_secs(30);

/// What tells a file that has not changed.
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
    pgdata: PathBuf,
    owner: Owner,
    kept: Arc<KeptFiles>,
    /// The files whose maps storage has: put back or sent in this session.
    sent: Mutex<HashMap<RelTag, Stamp>>,
}

impl FreeSpaceMaps {
    /// Those of a data directory.
    pub fn new(pgdata: PathBuf, owner: Owner, kept: Arc<KeptFiles>) -> FreeSpaceMaps {
        FreeSpaceMaps { pgdata, owner, kept, sent: Mutex::default() }
    }

    /// Puts back the maps of a database's relations, which have these sizes. Going without costs bloat and nothing else.
    pub async fn restore(&self, tablespace: u32, database: u32, sizes: &BTreeMap<RelTag, u32>) {
        let restored = self.try_restore(tablespace, database, sizes).await;
        if let Err(error) = restored {
            tracing::warn!(%error, tablespace, database, "free space maps begin anew");
        }
    }

    async fn try_restore(&self, tablespace: u32, database: u32, sizes: &BTreeMap<RelTag, u32>) -> Result<(), Error> {
        let prefix = format!("fsm/{tablespace}/{database}/");
        let mut after = String::new();
        loop {
            let (files, more) = self.kept.client.get_files(&prefix, &after, PATIENCE).await?;
            after = files.last().map_or(after, |file| file.name.clone());
            for file in &files {
                match file.name.strip_prefix(&prefix).and_then(|relation| relation.parse().ok()) {
                    Some(relation) => {
                        let rel = RelTag { tablespace, database, relation, fork: Fork::Main };
                        self.restore_one(rel, file, sizes.get(&rel).copied()).await?;
                    }
                    None => tracing::warn!(name = file.name, "no relation is called so"),
                }
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// A map whose relation is gone is forgotten.
    async fn restore_one(&self, rel: RelTag, file: &SmallFile, blocks: Option<u32>) -> Result<(), Error> {
        match (blocks, usable(&file.content, blocks.unwrap_or(0))) {
            (None, _) => Ok(self.kept.try_set(file.name.clone(), None).await?),
            (Some(_), Some(map)) => self.write(rel, map),
            (Some(_), None) => Ok(()),
        }
    }

    fn write(&self, rel: RelTag, map: &[u8]) -> Result<(), Error> {
        let path = self.pgdata.join(map_path(rel));
        place::file(&path, map, self.owner)?;
        self.sent().extend(Stamp::of(&path).map(|stamp| (rel, stamp)));
        Ok(())
    }

    /// Sends what changes, for as long as it is polled.
    pub async fn keep(self: Arc<FreeSpaceMaps>) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            self.send_changed().await;
        }
    }

    /// Sends the maps that changed since the last time, and has those forgotten whose files are gone.
    pub async fn send_changed(&self) {
        let folders = relation_folders(&self.pgdata).unwrap_or_default();
        for folder in folders {
            let (pgdata, known) = (self.pgdata.clone(), self.sent().clone());
            let looked = tokio::task::spawn_blocking(move || changed_in(&pgdata, &folder, &known)).await;
            for changed in looked.unwrap_or_default() {
                match self.kept.try_set(name_of(changed.rel), Some((Lsn::INVALID, changed.value))).await {
                    Ok(()) => drop(self.sent().insert(changed.rel, changed.stamp)),
                    Err(error) => return give_up(&error),
                }
            }
        }
        let known: Vec<RelTag> = self.sent().keys().copied().collect();
        for rel in known.into_iter().filter(|rel| !self.pgdata.join(map_path(*rel)).exists()) {
            match self.kept.try_set(name_of(rel), None).await {
                Ok(()) => drop(self.sent().remove(&rel)),
                Err(error) => return give_up(&error),
            }
        }
    }

    fn sent(&self) -> MutexGuard<'_, HashMap<RelTag, Stamp>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn give_up(error: &PageError) {
    tracing::debug!(%error, "free space maps are sent later");
}

fn name_of(rel: RelTag) -> String {
    format!("fsm/{}/{}/{}", rel.tablespace, rel.database, rel.relation)
}

fn map_path(rel: RelTag) -> String {
    DataPath::Relation { rel: rel.with_fork(Fork::FreeSpaceMap), segment: 0 }.to_path()
}

/// The map in a value, if it names no block of a relation of `blocks` that is not there.
fn usable(value: &[u8], blocks: u32) -> Option<&[u8]> {
    let (needed, map) = value.split_first_chunk()?;
    let whole = !map.is_empty() && map.len().is_multiple_of(PAGE_SIZE);
    (whole && u32::from_le_bytes(*needed) <= blocks).then_some(map)
}

/// The maps in a folder that are not as they were sent, or put back. Unlogged relations begin anew anyway.
fn changed_in(pgdata: &Path, folder: &Path, sent: &HashMap<RelTag, Stamp>) -> Vec<Changed> {
    let found = names(&pgdata.join(folder)).unwrap_or_default();
    let rel_of = |name| match folder.join(name).to_str().and_then(DataPath::parse)? {
        DataPath::Relation { rel, segment: 0 } if rel.fork == Fork::FreeSpaceMap => Some(rel.with_fork(Fork::Main)),
        _ => None,
    };
    let exists = |rel: RelTag| pgdata.join(DataPath::Relation { rel, segment: 0 }.to_path()).exists();
    let logged = |rel: &RelTag| !exists(rel.with_fork(Fork::Init));
    found.into_iter().filter_map(rel_of).filter(logged).filter_map(|rel| changed_map(pgdata, rel, sent)).collect()
}

fn changed_map(pgdata: &Path, rel: RelTag, sent: &HashMap<RelTag, Stamp>) -> Option<Changed> {
    let path = pgdata.join(map_path(rel));
    let stamp = Stamp::of(&path)?;
    let too_long = stamp.bytes > (SMALL_FILE_BYTES_MAX - size_of::<u32>()) as u64;
    if sent.get(&rel) == Some(&stamp) || stamp.bytes == 0 || too_long {
        return None;
    }
    // The relation may be cut meanwhile, and the map still name what it had before.
    let before = main_blocks(pgdata, rel);
    let map = fs::read(&path).ok()?;
    let blocks = before.max(main_blocks(pgdata, rel));
    let mut value = Writer::with_capacity(size_of::<u32>() + map.len());
    value.u32(blocks).bytes(map.get(..map.len() / PAGE_SIZE * PAGE_SIZE)?);
    Some(Changed { rel, stamp, value: value.into_bytes() })
}

fn main_blocks(pgdata: &Path, rel: RelTag) -> u32 {
    let length = |segment| fs::metadata(pgdata.join(DataPath::Relation { rel, segment }.to_path())).ok();
    let bytes: u64 = (0..).map_while(length).map(|status| status.len()).sum();
    u32::try_from(bytes / PAGE_SIZE as u64).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REL: RelTag = RelTag { tablespace: 1663, database: 5, relation: 16_384, fork: Fork::Main };

    fn pgdata(blocks: usize) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("base/5")).expect("made");
        fs::write(folder.path().join("base/5/16384"), vec![0; blocks * PAGE_SIZE]).expect("written");
        fs::write(folder.path().join("base/5/16384_fsm"), vec![7; 3 * PAGE_SIZE]).expect("written");
        folder
    }

    fn changed(pgdata: &Path, sent: &HashMap<RelTag, Stamp>) -> Vec<Changed> {
        changed_in(pgdata, Path::new("base/5"), sent)
    }

    #[test]
    fn a_map_is_put_back_only_if_its_relation_is_as_long_as_it_was() {
        let folder = pgdata(9);
        let found = changed(folder.path(), &HashMap::new());
        let [Changed { rel: REL, value, .. }] = &found[..] else { panic!("{found:?}") };
        assert_eq!(usable(value, 8), None, "the map may name block 8");
        assert_eq!(usable(value, 9), Some(&[7; 3 * PAGE_SIZE][..]));
        assert_eq!(usable(&value[..100], 9), None);
        assert_eq!(usable(&[], 9), None);
    }

    #[test]
    fn a_map_is_sent_when_it_has_changed() {
        let folder = pgdata(9);
        let sent = changed(folder.path(), &HashMap::new()).into_iter().map(|map| (map.rel, map.stamp)).collect();
        assert_eq!(changed(folder.path(), &sent).len(), 0);
        let path = folder.path().join("base/5/16384_fsm");
        fs::write(&path, vec![8; 4 * PAGE_SIZE]).expect("written");
        assert_eq!(changed(folder.path(), &sent).len(), 1);
    }

    #[test]
    fn maps_of_unlogged_relations_stay_where_they_are() {
        let folder = pgdata(9);
        fs::write(folder.path().join("base/5/16384_init"), b"").expect("written");
        assert_eq!(changed(folder.path(), &HashMap::new()).len(), 0);
    }
}
