//! Pages that are in the files of the cache, and where those files are.

use crate::Error;
use crate::cache_dir::CacheDir;
use quire_cache::protocol::{BlockState, Blocks};
use quire_cache::{FileId, Meta};
use quire_types::{Fork, Key, PAGE_SIZE, RELATION_SEGMENT_BLOCKS, RelTag};
use quire_wal::DataPath;
use quire_wal::postgres_version::PostgresVersion;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A page's bytes.
pub(crate) type Page = Box<[u8; PAGE_SIZE]>;

/// A page in a file of the cache.
#[derive(Clone, Debug)]
pub(crate) struct CachedPage {
    /// The fork.
    pub rel: RelTag,
    /// The file and the offset in it.
    file: PathBuf,
    offset: u64,
    /// Its block in the fork.
    pub block: u32,
    /// The version of PostgreSQL that names the file.
    version: &'static PostgresVersion,
    /// Says whether it is still in the cache, and its block in the file.
    meta: Option<(Arc<Meta>, u32)>,
}

impl CachedPage {
    /// Its key in storage.
    pub fn key(&self) -> Key {
        Key::RelBlock { rel: self.rel, block: self.block }
    }

    /// Its relation's first file, below the data directory.
    pub fn relation(&self) -> String {
        DataPath::Relation { rel: self.rel, segment: 0 }.to_path(self.version)
    }

    /// The page as it is in the file; none if file or page are gone, or the page has left the cache.
    pub fn read(&self) -> Result<Option<Page>, Error> {
        let Some((meta, index)) = &self.meta else { return self.read_file() };
        loop {
            let drops = meta.drops();
            if is_absent(meta, *index) {
                return Ok(None);
            }
            let page = self.read_file()?;
            if meta.drops() == drops {
                return Ok(page);
            }
        }
    }

    fn read_file(&self) -> Result<Option<Page>, Error> {
        let mut page = Box::new([0; PAGE_SIZE]);
        let outcome = File::open(&self.file).and_then(|file| file.read_exact_at(&mut page[..], self.offset));
        match outcome {
            Ok(()) => Ok(Some(page)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(Error::file("read", &self.file)(error)),
        }
    }

    /// Whether [`CachedPage::read`] gives nothing any more.
    pub fn is_gone(&self) -> bool {
        self.read().is_ok_and(|page| page.is_none())
    }
}

fn is_missing(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::UnexpectedEof)
}

/// The files in the directories of relations, listed as they are asked for.
pub(crate) struct Inventory<'a> {
    dir: &'a CacheDir,
}

/// A file of an [`Inventory`].
#[derive(Debug)]
pub(crate) struct Listed {
    /// Its path below the data directory.
    pub path: PathBuf,
    /// The relation's fork and segment that it is; none for temporary relations and files that databases have besides.
    pub segment: Option<(RelTag, u32)>,
}

impl<'a> Inventory<'a> {
    /// Of a cache.
    pub fn of(dir: &'a CacheDir) -> Inventory<'a> {
        Inventory { dir }
    }

    /// The directories that hold relations, below the data directory.
    pub fn folders(&self) -> Result<Vec<PathBuf>, Error> {
        let pgdata = self.dir.pgdata();
        let mut folders = vec![PathBuf::from("global")];
        for name in names(&pgdata.join("base"))? {
            folders.push(Path::new("base").join(name));
        }
        for tablespace in names(&pgdata.join("pg_tblspc"))? {
            let versioned = Path::new("pg_tblspc").join(tablespace).join(self.dir.version().tablespace_directory);
            folders.extend(names(&pgdata.join(&versioned))?.into_iter().map(|name| versioned.join(name)));
        }
        Ok(folders)
    }

    /// The files in one of them; none if it is not there any more.
    pub fn files_in(&self, folder: &Path) -> Result<Vec<Listed>, Error> {
        let listed = |name: String| {
            let path = folder.join(name);
            Listed { segment: self.dir.relation_of(&path), path }
        };
        Ok(names(&self.dir.data_file(folder))?.into_iter().map(listed).collect())
    }

    /// Segments of relations in one of them.
    pub fn segments_in(&self, folder: &Path) -> Result<Vec<(RelTag, u32)>, Error> {
        Ok(self.files_in(folder)?.into_iter().filter_map(|file| file.segment).collect())
    }

    /// The files in all of them. One that cannot be listed has none.
    pub fn files(&self) -> impl Iterator<Item = Listed> {
        let folders = self.folders().unwrap_or_default();
        folders.into_iter().flat_map(|folder| self.files_in(&folder).unwrap_or_default())
    }

    /// Segments of relations in all of them.
    pub fn segments(&self) -> impl Iterator<Item = (RelTag, u32)> {
        self.files().filter_map(|file| file.segment)
    }
}

/// Names in a directory; none if the directory is not there (any more) or is no directory.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_missing(&error) || error.kind() == std::io::ErrorKind::NotADirectory => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("list", folder)(error)),
    };
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}

/// Whether a file is one of an unlogged relation, asked after the epoch became safe: the backend that made the relation
/// has made its init fork by then.
pub(crate) fn is_unlogged(dir: &CacheDir, id: FileId) -> bool {
    let FileId::Relation { rel, .. } = id else { return true };
    rel.fork != Fork::Init && dir.relation_file(rel.with_fork(Fork::Init), 0).exists()
}

/// Whether a page is not in the cache; one that is being written is not looked at either.
fn is_absent(meta: &Meta, index: u32) -> bool {
    index < meta.remote_nblocks() && meta.state(index) != BlockState::Present
}

/// One segment file of a relation, as it was when it was looked at.
#[derive(Debug)]
pub(crate) struct CachedFile {
    rel: RelTag,
    segment: u32,
    version: &'static PostgresVersion,
    path: PathBuf,
    meta: Option<Arc<Meta>>,
    blocks: u32,
}

impl CachedFile {
    /// The file; none if it is not there any more.
    pub fn open(dir: &CacheDir, rel: RelTag, segment: u32) -> Option<CachedFile> {
        let relative = dir.path_of(FileId::Relation { rel, segment });
        let path = dir.data_file(&relative);
        let metadata = fs::metadata(&path).ok()?;
        let meta =
            Meta::open(&dir.meta_file(&relative)).ok().filter(|meta| meta.inode() == metadata.ino()).map(Arc::new);
        let blocks = u32::try_from(metadata.len() / PAGE_SIZE as u64).unwrap_or(u32::MAX).min(RELATION_SEGMENT_BLOCKS);
        Some(CachedFile { rel, segment, version: dir.version(), path, meta, blocks })
    }

    /// Blocks that it has, absent ones included.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// The page in a block; none if it is not in the cache.
    pub fn page(&self, index: u32) -> Option<CachedPage> {
        if self.meta.as_ref().is_some_and(|meta| is_absent(meta, index)) {
            return None;
        }
        Some(CachedPage {
            rel: self.rel,
            version: self.version,
            file: self.path.clone(),
            offset: u64::from(index) * PAGE_SIZE as u64,
            block: self.segment.saturating_mul(RELATION_SEGMENT_BLOCKS).saturating_add(index),
            meta: self.meta.clone().map(|meta| (meta, index)),
        })
    }

    /// The first block of a page that is in the cache, from `from` on and then from the beginning.
    pub fn next_present(&self, from: u32) -> Option<u32> {
        self.present_in(from..self.blocks).or_else(|| self.present_in(0..from.min(self.blocks)))
    }

    fn present_in(&self, range: Range<u32>) -> Option<u32> {
        let mut block = range.start;
        while block < range.end {
            match &self.meta {
                Some(meta) if block.is_multiple_of(16) && meta.are_sixteen_absent(block) => block += 16,
                Some(meta) if is_absent(meta, block) => block += 1,
                _ => return Some(block),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_cache::protocol::{claim, publish};
    use quire_cache::{FileId, MetaSpec};
    use quire_types::{Fork, Lsn};
    use quire_wal::postgres_version::PG15;

    #[test]
    fn absent_pages_are_passed_over_in_a_file_that_is_mostly_a_hole() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = CacheDir::new(folder.path(), &PG15);
        let rel = RelTag { tablespace: 1663, database: 5, relation: 16384, fork: Fork::Main };
        let path = dir.path_of(FileId::Relation { rel, segment: 0 });
        for file in [dir.data_file(&path), dir.meta_file(&path)] {
            fs::create_dir_all(file.parent().expect("a folder above")).expect("made");
        }
        let data = File::create(dir.data_file(&path)).expect("made");
        data.set_len(1000 * PAGE_SIZE as u64).expect("sized");
        let (file, inode) = (FileId::Relation { rel, segment: 0 }, data.metadata().expect("examined").ino());
        let spec = MetaSpec { file, inode, remote_nblocks: 900, bounded: true, request_lsn: Lsn(9) };
        spec.create(&dir.meta_file(&path)).expect("made");
        let file = CachedFile::open(&dir, rel, 0).expect("there");
        let meta = file.meta.clone().expect("there");
        assert!(claim(&*meta, 500));
        publish(&*meta, 500);
        // What PostgreSQL appended is always there.
        let found = [0, 490, 500, 501, 950, 5000].map(|from| file.next_present(from));
        assert_eq!(found, [Some(500), Some(500), Some(500), Some(900), Some(950), Some(500)]);
        assert!(file.page(499).is_none());
        assert_eq!(file.page(500).expect("there").read().expect("read").expect("present"), Box::new([0; PAGE_SIZE]));
        assert!(file.page(1000).expect("local").read().expect("no error").is_none(), "behind the end");
    }

    #[test]
    fn only_relation_files_are_looked_at() {
        let compute = tempfile::tempdir().expect("a folder");
        let dir = CacheDir::new(compute.path(), &PG15);
        let folder = dir.data_file("base/5");
        fs::create_dir_all(&folder).expect("made");
        for name in ["1259", "1259_vm", "t3_16384", "PG_VERSION", "pg_internal.init", "16384.1"] {
            fs::write(folder.join(name), b"").expect("written");
        }
        let mut files = Inventory::of(&dir).segments_in(Path::new("base/5")).expect("listed");
        files.sort();
        let found: Vec<(u32, Fork, u32)> =
            files.iter().map(|(rel, segment)| (rel.relation, rel.fork, *segment)).collect();
        assert_eq!(found, [(1259, Fork::Main, 0), (1259, Fork::VisibilityMap, 0), (16384, Fork::Main, 1)]);
        assert_eq!(Inventory::of(&dir).folders().expect("listed"), [Path::new("global"), Path::new("base/5")]);
    }
}
