//! Making the files of a relation: sparse, of the right size, each with a meta file that says that storage has its
//! blocks.

use crate::cache_dir::CacheDir;
use crate::owner::Owner;
use crate::{Error, place};
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use quire_cache::{FileId, MetaSpec};
use quire_types::{Fork, Lsn, PAGE_SIZE, RELATION_SEGMENT_BLOCKS, RelTag};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

/// A relation as it was at the start.
#[derive(Debug)]
pub struct Relation {
    /// Its main fork.
    pub rel: RelTag,
    /// Its forks and their blocks.
    pub forks: BTreeMap<Fork, u32>,
    /// If it is unlogged, the pages of its init fork, from which its main fork starts.
    pub init_pages: Vec<Bytes>,
    /// Its free space map, if storage has one that fits.
    pub free_space: Option<Bytes>,
}

impl Relation {
    /// An unlogged relation has an init fork.
    pub fn is_unlogged(&self) -> bool {
        self.forks.contains_key(&Fork::Init)
    }

    /// Blocks of a fork; none if there is no such fork.
    pub fn blocks(&self, fork: Fork) -> u32 {
        self.forks.get(&fork).copied().unwrap_or(0)
    }

    /// The forks whose files are made with a meta file.
    fn stored(&self) -> impl Iterator<Item = (RelTag, u32)> {
        let wanted = |fork: Fork| fork == Fork::Init || fork != Fork::FreeSpaceMap && !self.is_unlogged();
        let forks = self.forks.iter().filter(move |(fork, _)| wanted(**fork));
        forks.map(|(fork, blocks)| (self.rel.with_fork(*fork), *blocks))
    }
}

/// Makes files in a compute's directory, in a thread that may block.
#[derive(Clone, Debug)]
pub struct Maker {
    /// Where.
    pub dir: CacheDir,
    /// For whom.
    pub owner: Owner,
    /// As of when.
    pub start: Lsn,
    /// Whether the directory is still the one that this is for.
    pub allowed: Arc<Mutex<bool>>,
}

impl Maker {
    /// Lets no more be made, and returns when nothing is.
    pub fn end(&self) {
        *self.allowed() = false;
    }

    /// Makes the files of relations. Files that an attempt before left are replaced: they were never used.
    pub fn relations(&self, relations: &[Relation]) -> Result<(), Error> {
        let allowed = self.allowed();
        if !*allowed {
            return Err(Error::ShuttingDown);
        }
        for relation in relations {
            self.free_space_map(relation)?;
            relation.stored().try_for_each(|(rel, blocks)| self.fork(rel, blocks))?;
            if relation.is_unlogged() {
                self.unlogged(relation)?;
            }
        }
        Ok(())
    }

    fn allowed(&self) -> MutexGuard<'_, bool> {
        self.allowed.lock()
    }

    /// The directories of a database's meta files.
    pub fn meta_folders(&self, folder: &Path) -> Result<(), Error> {
        place::folders_below(&self.dir.meta(), folder, self.owner)
    }

    fn fork(&self, rel: RelTag, blocks: u32) -> Result<(), Error> {
        for (segment, blocks) in segments(blocks) {
            self.sparse_file(FileId::Relation { rel, segment }, blocks)?;
        }
        Ok(())
    }

    /// Makes a file of a number of blocks, none of which is there. The file gets its name when its meta file is in
    /// place: it is made aside, as the shim makes one.
    pub fn sparse_file(&self, id: FileId, blocks: u32) -> Result<(), Error> {
        let path = self.dir.path_of(id);
        let (meta_path, aside) = (self.dir.meta_file(&path), self.dir.aside_file(&path));
        // Pages of an SLRU stay in the cache.
        let bounded = matches!(id, FileId::Relation { .. });
        let file = place::empty_file(&aside, self.owner)?;
        file.set_len(u64::from(blocks) * PAGE_SIZE as u64).map_err(Error::file("size", &aside))?;
        let inode = file.metadata().map_err(Error::file("examine", &aside))?.ino();
        let spec = MetaSpec { file: id, inode, remote_nblocks: blocks, bounded, request_lsn: self.start };
        place::remove(&meta_path)?;
        let meta = spec.create(&meta_path).map_err(|error| Error::Cache(meta_path.clone(), error))?;
        self.owner.give_open(&meta).map_err(Error::file("give away", &meta_path))?;
        fs::rename(&aside, self.dir.data_file(path)).map_err(Error::file("rename", &aside))
    }

    fn free_space_map(&self, relation: &Relation) -> Result<(), Error> {
        let Some(map) = &relation.free_space else { return Ok(()) };
        let path = self.dir.relation_file(relation.rel.with_fork(Fork::FreeSpaceMap), 0);
        place::file(&path, map, self.owner)
    }

    /// The main fork of an unlogged relation is a copy of its init fork, wholly local, as after a crash.
    fn unlogged(&self, relation: &Relation) -> Result<(), Error> {
        let path = self.dir.relation_file(relation.rel, 0);
        let file = place::empty_file(&path, self.owner)?;
        for (page, at) in relation.init_pages.iter().zip((0..).step_by(PAGE_SIZE)) {
            file.write_all_at(page, at).map_err(Error::file("write", &path))?;
        }
        Ok(())
    }
}

/// How a fork of `blocks` blocks is cut into files: segment numbers and their blocks. An empty fork has one empty file.
fn segments(blocks: u32) -> impl Iterator<Item = (u32, u32)> {
    let count = blocks.div_ceil(RELATION_SEGMENT_BLOCKS).max(1);
    (0..count).map(move |segment| (segment, (blocks - segment * RELATION_SEGMENT_BLOCKS).min(RELATION_SEGMENT_BLOCKS)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_cache::Meta;
    use quire_cache::protocol::{BlockState, Blocks};
    use quire_wal::postgres_version::PG15;
    use std::path::PathBuf;

    const REL: RelTag =
        RelTag { tablespace: RelTag::DEFAULT_TABLESPACE, database: 5, relation: 16_400, fork: Fork::Main };

    fn made(forks: &[(Fork, u32)], init_pages: Vec<Bytes>) -> (tempfile::TempDir, CacheDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = CacheDir::new(folder.path(), &PG15);
        fs::create_dir_all(dir.data_file("base/5")).expect("made");
        fs::create_dir_all(dir.meta()).expect("made");
        let maker = Maker { dir: dir.clone(), owner: Owner::unchanged(), start: Lsn(0x100), allowed: allowed() };
        maker.meta_folders(Path::new("base/5")).expect("made");
        maker.relations(&[relation(forks, init_pages)]).expect("made");
        (folder, dir)
    }

    fn allowed() -> Arc<Mutex<bool>> {
        Arc::new(Mutex::new(true))
    }

    fn relation(forks: &[(Fork, u32)], init_pages: Vec<Bytes>) -> Relation {
        Relation { rel: REL, forks: forks.iter().copied().collect(), init_pages, free_space: None }
    }

    fn length(dir: &CacheDir, name: &str) -> Option<u64> {
        Some(fs::metadata(dir.data_file("base/5").join(name)).ok()?.len())
    }

    #[test]
    fn a_fork_is_sparse_and_all_its_blocks_are_absent() {
        let (_folder, dir) = made(&[(Fork::Main, 3)], vec![]);
        assert_eq!(length(&dir, "16400"), Some(3 * 8192));
        let meta = Meta::open(&dir.meta_file("base/5/16400")).expect("made");
        assert_eq!((meta.remote_nblocks(), meta.request_lsn()), (3, Lsn(0x100)));
        assert!((0..3).all(|block| meta.state(block) == BlockState::Absent));
        assert_eq!(meta.inode(), fs::metadata(dir.data_file("base/5/16400")).expect("made").ino());
    }

    #[test]
    fn free_space_maps_are_left_out_and_empty_forks_are_empty() {
        let (_folder, dir) = made(&[(Fork::Main, 0), (Fork::FreeSpaceMap, 3)], vec![]);
        assert_eq!((length(&dir, "16400"), length(&dir, "16400_fsm")), (Some(0), None));
    }

    #[test]
    fn an_unlogged_relation_starts_as_its_init_fork() {
        let page = Bytes::from(vec![7; PAGE_SIZE]);
        let (_folder, dir) = made(&[(Fork::Init, 1), (Fork::Main, 9)], vec![page.clone()]);
        assert_eq!(fs::read(dir.data_file("base/5/16400")).expect("made"), page);
        assert!(!dir.meta_file("base/5/16400").exists());
        assert!(dir.meta_file("base/5/16400_init").exists());
    }

    #[test]
    fn nothing_is_made_in_a_directory_of_a_later_session() {
        let folder = tempfile::tempdir().expect("a folder");
        let (dir, owner) = (CacheDir::new(folder.path(), &PG15), Owner::unchanged());
        let maker = Maker { dir: dir.clone(), owner, start: Lsn(0x100), allowed: allowed() };
        maker.clone().end();
        fs::create_dir_all(dir.data_file("base/5")).expect("made");
        fs::create_dir_all(dir.meta_file("base/5")).expect("made");
        let refused = maker.relations(&[relation(&[(Fork::Main, 1)], vec![])]);
        assert!(matches!(refused, Err(Error::ShuttingDown)));
        assert_eq!(length(&dir, "16400"), None);
    }

    #[test]
    fn nothing_is_left_beside_the_files() {
        let (_folder, dir) = made(&[(Fork::Main, 1)], vec![]);
        let names = |path: PathBuf| fs::read_dir(path).expect("listed").count();
        assert_eq!((names(dir.data_file("base/5")), names(dir.meta_file("base/5"))), (1, 1));
    }

    #[test]
    fn forks_are_cut_at_a_gibibyte() {
        let full = RELATION_SEGMENT_BLOCKS;
        assert_eq!(segments(0).collect::<Vec<_>>(), [(0, 0)]);
        assert_eq!(segments(full).collect::<Vec<_>>(), [(0, full)]);
        assert_eq!(segments(full + 1).collect::<Vec<_>>(), [(0, full), (1, 1)]);
    }
}
