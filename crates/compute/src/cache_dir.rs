//! A compute's directory with the data directory of one version of PostgreSQL in it.

use quire_cache::{ComputeDir, FileId};
use quire_types::RelTag;
use quire_wal::DataPath;
use quire_wal::postgres_version::PostgresVersion;
use std::path::{Path, PathBuf};

/// Where the files of the cache are.
#[derive(Clone, Debug)]
pub struct CacheDir {
    compute: ComputeDir,
    version: &'static PostgresVersion,
}

impl CacheDir {
    /// In the compute's directory `root`, which should be absolute.
    pub fn new(root: impl Into<PathBuf>, version: &'static PostgresVersion) -> CacheDir {
        CacheDir { compute: ComputeDir::new(root), version }
    }

    /// The version of PostgreSQL whose data directory it is.
    pub fn version(&self) -> &'static PostgresVersion {
        self.version
    }

    /// The compute's directory itself.
    pub fn root(&self) -> &Path {
        self.compute.root()
    }

    /// PostgreSQL's data directory.
    pub fn pgdata(&self) -> PathBuf {
        self.compute.pgdata()
    }

    /// The tree of meta files.
    pub fn meta(&self) -> PathBuf {
        self.compute.meta()
    }

    /// A file of PostgreSQL's, by its path below the data directory.
    pub fn data_file(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.compute.data_file(relative)
    }

    /// A segment file of a relation's fork.
    pub fn relation_file(&self, rel: RelTag, segment: u32) -> PathBuf {
        self.data_file(self.path_of(FileId::Relation { rel, segment }))
    }

    /// The meta file of a file of PostgreSQL's, by that file's path below the data directory.
    pub fn meta_file(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.compute.meta_file(relative)
    }

    /// Where such a file is made before it gets its name.
    pub fn aside_file(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.compute.aside_file(relative)
    }

    /// The path of a file of pages, below the data directory.
    pub fn path_of(&self, id: FileId) -> String {
        let path = match id {
            FileId::Relation { rel, segment } => DataPath::Relation { rel, segment },
            FileId::Slru { slru, segment } => DataPath::Slru { slru, segment },
        };
        path.to_path(self.version)
    }

    /// Which segment file of a relation a path below the data directory names, if it names one.
    pub fn relation_of(&self, relative: &Path) -> Option<(RelTag, u32)> {
        match DataPath::parse(relative.to_str()?, self.version)? {
            DataPath::Relation { rel, segment } => Some((rel, segment)),
            _ => None,
        }
    }
}
