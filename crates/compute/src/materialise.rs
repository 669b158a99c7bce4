//! Relation and SLRU files: sparse, of the right size, each with a meta file that says that storage has its blocks.
//!
//! `global/` and the SLRU areas are made before PostgreSQL starts, a database's directory when a process first touches it. A
//! directory's meta files appear all at once, when its last file is in place. What is not made: free space maps, which are
//! no pages of storage's (`kept/free_space.rs` puts them back), and meta files of empty forks, which have nothing to fetch. A relation with an init fork is unlogged, and its main
//! fork starts as a copy of that, wholly local, as after a crash.

use crate::kept::free_space::FreeSpaceMaps;
use crate::owner::Owner;
use crate::page_client::PageClient;
use crate::{Config, Error, place};
use bytes::Bytes;
use quire_cache::{ComputeDir, FileId, MetaSpec};
use quire_protocol::page::MAX_KEYS;
use quire_types::{Fork, Key, Lsn, PAGE_SIZE, RELATION_SEGMENT_BLOCKS, RelTag, SLRU_SEGMENT_PAGES};
use quire_wal::DataPath;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::OnceCell;

const PATIENCE: Duration = Duration::from_secs(60);

/// Makes the files of one compute, as of the LSN it started at.
#[derive(Debug)]
pub struct Materialiser {
    dir: ComputeDir,
    owner: Owner,
    client: PageClient,
    maps: Arc<FreeSpaceMaps>,
    start: Lsn,
    /// Whether pages may leave the cache.
    bounded: bool,
    /// The databases that storage has, and whether each was made.
    databases: HashMap<(u32, u32), OnceCell<()>>,
    /// Databases whose directories are complete, for those who list them.
    complete: Mutex<BTreeSet<(u32, u32)>>,
}

impl Materialiser {
    /// A materialiser of the state at `start`; `entries` are all of storage's small entries then.
    pub fn new(
        config: &Config,
        owner: Owner,
        client: PageClient,
        maps: Arc<FreeSpaceMaps>,
        start: Lsn,
        entries: &[(Key, Bytes)],
    ) -> Materialiser {
        let database = |key: &Key| match key {
            Key::Database { tablespace, database } => Some(((*tablespace, *database), OnceCell::new())),
            _ => None,
        };
        let databases = entries.iter().filter_map(|(key, _)| database(key)).collect();
        // Whether or not the cache has a bound, pages may have to be told apart that storage does not have.
        let (dir, bounded) = (ComputeDir::new(&config.dir), true);
        Materialiser { dir, owner, client, maps, start, bounded, databases, complete: Mutex::default() }
    }

    /// Completes a database's directory in a tablespace; `false` if storage does not have it.
    pub async fn database(&self, tablespace: u32, database: u32) -> Result<bool, Error> {
        let Some(made) = self.databases.get(&(tablespace, database)) else { return Ok(false) };
        made.get_or_try_init(|| self.relations(tablespace, database)).await?;
        self.complete.lock().unwrap_or_else(PoisonError::into_inner).insert((tablespace, database));
        Ok(true)
    }

    /// The shared relations.
    pub async fn global(&self) -> Result<(), Error> {
        self.relations(RelTag::GLOBAL_TABLESPACE, 0).await
    }

    /// Databases (with their tablespaces) whose directories are complete.
    pub fn complete(&self) -> BTreeSet<(u32, u32)> {
        self.complete.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn relations(&self, tablespace: u32, database: u32) -> Result<(), Error> {
        let sizes = self.sizes(tablespace, database).await?;
        let unlogged = unlogged(&sizes);
        let images = self.init_images(&sizes, &unlogged).await?;
        self.maps.restore(tablespace, database, &sizes).await;
        let folder = DataPath::Database { tablespace, database }.to_path();
        let (dir, owner, start, bounded) = (self.dir.clone(), self.owner, self.start, self.bounded);
        let job = FolderJob { dir, owner, start, bounded, folder: folder.into() };
        let made = tokio::task::spawn_blocking(move || job.make(&sizes, &unlogged, &images));
        made.await.map_err(|_| Error::ShuttingDown)?
    }

    async fn sizes(&self, tablespace: u32, database: u32) -> Result<BTreeMap<RelTag, u32>, Error> {
        let rel = |relation, fork| RelTag { tablespace, database, relation, fork };
        let (from, to) = (Key::RelSize { rel: rel(0, Fork::Main) }, Key::RelSize { rel: rel(u32::MAX, Fork::Init) });
        let entries = self.client.scan(self.start, from, to, PATIENCE).await?;
        entries.into_iter().filter_map(|(key, value)| relation_size(key, &value).transpose()).collect()
    }

    /// All pages of the init forks of `unlogged` relations.
    async fn init_images(
        &self,
        sizes: &BTreeMap<RelTag, u32>,
        unlogged: &BTreeSet<RelTag>,
    ) -> Result<HashMap<Key, Bytes>, Error> {
        let inits = unlogged.iter().map(|rel| rel.with_fork(Fork::Init));
        let blocks =
            |rel: RelTag| (0..sizes.get(&rel).copied().unwrap_or(0)).map(move |block| Key::RelBlock { rel, block });
        let keys: Vec<Key> = inits.flat_map(blocks).collect();
        let mut images = HashMap::new();
        for some in keys.chunks(MAX_KEYS) {
            let pages = self.client.insist_on_pages(self.start, some.to_vec(), PATIENCE).await?;
            images.extend(some.iter().copied().zip(pages));
        }
        Ok(images)
    }

    /// The segments of all SLRU areas.
    pub fn slrus(&self, entries: &[(Key, Bytes)]) -> Result<(), Error> {
        for (key, value) in entries {
            if let Key::SlruSegment { slru, segment } = key {
                let pages = size_value(*key, value)?;
                if pages > SLRU_SEGMENT_PAGES {
                    return Err(unusable(*key, format!("{pages} pages")));
                }
                let path = PathBuf::from(DataPath::Slru { slru: *slru, segment: *segment }.to_path());
                let file = SparseFile {
                    id: FileId::Slru { slru: *slru, segment: *segment },
                    blocks: pages,
                    start: self.start,
                    bounded: false,
                };
                file.make(&self.dir.data_file(&path), &self.dir.meta_file(&path), self.owner)?;
            }
        }
        Ok(())
    }
}

/// A database's directory to be filled, in a thread that may block.
struct FolderJob {
    dir: ComputeDir,
    owner: Owner,
    start: Lsn,
    bounded: bool,
    folder: PathBuf,
}

impl FolderJob {
    fn make(
        &self,
        sizes: &BTreeMap<RelTag, u32>,
        unlogged: &BTreeSet<RelTag>,
        images: &HashMap<Key, Bytes>,
    ) -> Result<(), Error> {
        let unfinished = self.unfinished_meta()?;
        let wanted = |rel: &RelTag| rel.fork != Fork::FreeSpaceMap && !unlogged.contains(&rel.with_fork(Fork::Main));
        for (rel, blocks) in sizes {
            if wanted(rel) || rel.fork == Fork::Init {
                self.make_fork(*rel, *blocks, &unfinished)?;
            }
        }
        unlogged.iter().try_for_each(|rel| self.make_unlogged(*rel, sizes, images))?;
        self.publish_meta(&unfinished)
    }

    /// The folder where meta files gather until all are there.
    fn unfinished_meta(&self) -> Result<PathBuf, Error> {
        let parent = self.folder.parent().unwrap_or(Path::new(""));
        place::folders_below(&self.dir.meta(), parent, self.owner)?;
        let name = self.folder.file_name().unwrap_or_default().to_string_lossy();
        let path = self.dir.meta_file(parent).join(format!("unfinished-{name}"));
        if path.exists() {
            fs::remove_dir_all(&path).map_err(Error::file("remove", &path))?;
        }
        place::folder(&path, self.owner)?;
        Ok(path)
    }

    fn publish_meta(&self, unfinished: &Path) -> Result<(), Error> {
        // An empty folder, as the layout makes for `global`, is replaced by the rename.
        fs::rename(unfinished, self.dir.meta_file(&self.folder)).map_err(Error::file("rename", unfinished))
    }

    fn make_fork(&self, rel: RelTag, blocks: u32, meta_folder: &Path) -> Result<(), Error> {
        for (segment, blocks) in segments(blocks) {
            let path = PathBuf::from(DataPath::Relation { rel, segment }.to_path());
            let meta = meta_folder.join(path.file_name().unwrap_or_default());
            let (id, start, bounded) = (FileId::Relation { rel, segment }, self.start, self.bounded);
            let file = SparseFile { id, blocks, start, bounded };
            file.make(&self.dir.data_file(&path), &meta, self.owner)?;
        }
        Ok(())
    }

    fn make_unlogged(
        &self,
        rel: RelTag,
        sizes: &BTreeMap<RelTag, u32>,
        images: &HashMap<Key, Bytes>,
    ) -> Result<(), Error> {
        let init = rel.with_fork(Fork::Init);
        let blocks = sizes.get(&init).copied().unwrap_or(0);
        let path = self.dir.data_file(DataPath::Relation { rel, segment: 0 }.to_path());
        let file = place::empty_file(&path, self.owner)?;
        for block in 0..blocks {
            if let Some(page) = images.get(&Key::RelBlock { rel: init, block }) {
                file.write_all_at(page, u64::from(block) * PAGE_SIZE as u64).map_err(Error::file("write", &path))?;
            }
        }
        Ok(())
    }
}

/// A file of a number of blocks, none of which is there.
struct SparseFile {
    id: FileId,
    blocks: u32,
    start: Lsn,
    bounded: bool,
}

impl SparseFile {
    fn make(&self, path: &Path, meta_path: &Path, owner: Owner) -> Result<(), Error> {
        let file = place::empty_file(path, owner)?;
        file.set_len(u64::from(self.blocks) * PAGE_SIZE as u64).map_err(Error::file("size", path))?;
        if self.blocks == 0 && !self.bounded {
            return Ok(());
        }
        let inode = file.metadata().map_err(Error::file("examine", path))?.ino();
        let spec = MetaSpec {
            file: self.id,
            inode,
            remote_nblocks: self.blocks,
            bounded: self.bounded,
            request_lsn: self.start,
        };
        place::remove(meta_path)?;
        let meta = spec.create(meta_path).map_err(|error| Error::Cache(meta_path.to_owned(), error))?;
        owner.give_open(&meta).map_err(Error::file("give away", meta_path))
    }
}

/// How a fork of `blocks` blocks is cut into files: segment numbers and their blocks. An empty fork has one empty file.
fn segments(blocks: u32) -> impl Iterator<Item = (u32, u32)> {
    let count = blocks.div_ceil(RELATION_SEGMENT_BLOCKS).max(1);
    (0..count).map(move |segment| (segment, (blocks - segment * RELATION_SEGMENT_BLOCKS).min(RELATION_SEGMENT_BLOCKS)))
}

/// Main forks of the relations that have an init fork.
fn unlogged(sizes: &BTreeMap<RelTag, u32>) -> BTreeSet<RelTag> {
    sizes.keys().filter(|rel| rel.fork == Fork::Init).map(|rel| rel.with_fork(Fork::Main)).collect()
}

fn relation_size(key: Key, value: &[u8]) -> Result<Option<(RelTag, u32)>, Error> {
    match key {
        Key::RelSize { rel } => Ok(Some((rel, size_value(key, value)?))),
        _ => Ok(None),
    }
}

fn size_value(key: Key, value: &[u8]) -> Result<u32, Error> {
    let raw = <[u8; 4]>::try_from(value).map_err(|_| unusable(key, format!("{} bytes", value.len())))?;
    Ok(u32::from_le_bytes(raw))
}

fn unusable(key: Key, reason: String) -> Error {
    Error::Storage { what: "size", reason: format!("{key}: {reason}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_cache::Meta;
    use quire_cache::protocol::{BlockState, Blocks};

    fn rel(relation: u32, fork: Fork) -> RelTag {
        RelTag { tablespace: RelTag::DEFAULT_TABLESPACE, database: 5, relation, fork }
    }

    fn made(sizes: &[(RelTag, u32)], images: &HashMap<Key, Bytes>) -> (tempfile::TempDir, ComputeDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = ComputeDir::new(folder.path());
        fs::create_dir_all(dir.data_file("base/5")).expect("made");
        fs::create_dir_all(dir.meta()).expect("made");
        let (owner, start) = (Owner::unchanged(), Lsn(0x100));
        let job = FolderJob { dir: dir.clone(), owner, start, bounded: false, folder: "base/5".into() };
        let sizes = sizes.iter().copied().collect();
        job.make(&sizes, &unlogged(&sizes), images).expect("made");
        (folder, dir)
    }

    #[test]
    fn a_fork_is_sparse_and_all_its_blocks_are_absent() {
        let (_folder, dir) = made(&[(rel(1259, Fork::Main), 3)], &HashMap::new());
        assert_eq!(fs::metadata(dir.data_file("base/5/1259")).expect("made").len(), 3 * 8192);
        let meta = Meta::open(&dir.meta_file("base/5/1259")).expect("made");
        assert_eq!((meta.remote_nblocks(), meta.request_lsn()), (3, Lsn(0x100)));
        assert!((0..3).all(|block| meta.state(block) == BlockState::Absent));
    }

    #[test]
    fn free_space_maps_are_left_out_and_empty_forks_need_no_meta() {
        let sizes = [(rel(1259, Fork::FreeSpaceMap), 3), (rel(1259, Fork::Main), 0)];
        let (_folder, dir) = made(&sizes, &HashMap::new());
        assert!(!dir.data_file("base/5/1259_fsm").exists());
        assert_eq!(fs::metadata(dir.data_file("base/5/1259")).expect("made").len(), 0);
        assert!(!dir.meta_file("base/5/1259").exists());
    }

    #[test]
    fn an_unlogged_relation_starts_as_its_init_fork() {
        let init = rel(16400, Fork::Init);
        let page = Bytes::from(vec![7; PAGE_SIZE]);
        let images = HashMap::from([(Key::RelBlock { rel: init, block: 0 }, page.clone())]);
        let (_folder, dir) = made(&[(init, 1), (rel(16400, Fork::Main), 9)], &images);
        assert_eq!(fs::read(dir.data_file("base/5/16400")).expect("made"), page);
        assert!(!dir.meta_file("base/5/16400").exists());
        assert!(dir.meta_file("base/5/16400_init").exists());
    }

    #[test]
    fn forks_are_cut_at_a_gibibyte() {
        let full = RELATION_SEGMENT_BLOCKS;
        assert_eq!(segments(0).collect::<Vec<_>>(), [(0, 0)]);
        assert_eq!(segments(full).collect::<Vec<_>>(), [(0, full)]);
        assert_eq!(segments(full + 1).collect::<Vec<_>>(), [(0, full), (1, 1)]);
    }
}
