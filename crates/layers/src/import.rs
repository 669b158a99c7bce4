//! Filling a branch with the pages and files of a data directory.
//!
//! Everything is at one LSN, where ingest will start. Values are gathered in a memtable and written out as layers as
//! it grows, in a directory that is called otherwise than a branch's. Once its manifest is published, too, it gets the
//! branch's name. So what is left of an import that was not finished is known by its name, and a branch's directory
//! that lacks its manifest is damaged.

use crate::accounts::Account;
use crate::error::StorageError;
use crate::image_policy::ImageSettings;
use crate::layer::LayerFolder;
use crate::manifest::{Manifest, Origin, RunEntry};
use crate::memtable::Memtable;
use crate::objects::{LocalFolder, Objects};
use crate::value::{Value, Version};
use bytes::Bytes;
use quire_types::Key;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a value was not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A page that is not 8 KiB long.
    #[error("the value of {0} is not a page")]
    NotAPage(Key),
    /// The disk failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What the directory of an import is called after the name that it will have.
const IMPORT_SUFFIX: &str = ".import";

/// An import under way.
#[derive(Debug)]
pub struct Import {
    /// Where it is gathered.
    dir: PathBuf,
    /// Where it will be.
    target: PathBuf,
    objects: Arc<dyn Objects>,
    layers: LayerFolder,
    manifest: Manifest,
    table: Memtable,
    memtable_bytes: usize,
}

impl Import {
    /// Begins an import that will be in `target`, removing what an unfinished one left.
    pub fn begin(
        target: &Path,
        origin: Origin,
        settings: ImageSettings,
        memtable_bytes: usize,
    ) -> Result<Import, StorageError> {
        let dir = aside_of(target);
        discard(&dir)?;
        quire_files::create_folder(&dir)?;
        let objects: Arc<dyn Objects> = Arc::new(LocalFolder::new(&dir));
        let layers = LayerFolder::new(Arc::clone(&objects), &origin);
        let (manifest, table) = (Manifest::new(origin, settings), Memtable::default());
        Ok(Import { dir, target: target.to_owned(), objects, layers, manifest, table, memtable_bytes })
    }

    /// Takes one value: a page for a page's key, anything for others.
    pub fn put(&mut self, key: Key, bytes: Bytes) -> Result<(), ImportError> {
        let value = if key.is_page() { Value::Image(bytes) } else { Value::Bytes(bytes) };
        let start = self.manifest.origin.start;
        let version = Version::new(key, start, &value).ok_or(ImportError::NotAPage(key))?;
        self.table.insert(key, version, Account::default());
        if self.table.bytes() >= self.memtable_bytes {
            self.flush()?;
        }
        Ok(())
    }

    /// Makes the branch exist.
    pub fn finish(mut self) -> Result<(), StorageError> {
        self.flush()?;
        self.manifest.publish(self.objects.as_ref())?;
        Ok(quire_files::publish_folder(&self.dir, &self.target)?)
    }

    fn flush(&mut self) -> Result<(), StorageError> {
        if self.table.is_empty() {
            return Ok(());
        }
        let table = std::mem::take(&mut self.table);
        let id = self.manifest.next_layer;
        self.layers.write(id, &table)?;
        self.manifest.next_layer += 1;
        self.manifest.runs.push(RunEntry { tier: 0, layers: vec![id] });
        Ok(())
    }
}

fn aside_of(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(IMPORT_SUFFIX);
    name.into()
}

/// The name that the directory of an import would have got; none for others.
pub fn target_name(name: &str) -> Option<&str> {
    name.strip_suffix(IMPORT_SUFFIX)
}

/// Removes a directory with all that is in it, if it exists.
pub fn discard(dir: &Path) -> Result<(), StorageError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StorageError::io("remove", dir)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_files::fault;
    use quire_types::{BranchKey, Lsn, ShardId};

    fn begin(target: &Path) -> Import {
        let (branch, shard, start) = (BranchKey::default(), ShardId::UNSHARDED, Lsn(16 << 20));
        let origin = Origin { branch, shard, start, segment_bytes: 16 << 20, postgres_version: 15 };
        Import::begin(target, origin, ImageSettings::default(), 1 << 20).expect("begun")
    }

    fn finish(target: &Path) -> Result<(), StorageError> {
        let mut import = begin(target);
        import.put(Key::ControlFile, Bytes::from_static(b"control")).expect("taken");
        import.finish()
    }

    #[test]
    fn an_import_that_fails_at_any_step_is_there_whole_or_not_at_all() {
        for steps in 0.. {
            let dir = tempfile::tempdir().expect("directory");
            let target = dir.path().join("0-1");
            fault::fail_after(Some(steps));
            let finished = finish(&target);
            fault::fail_after(None);
            let manifest =
                if target.exists() { Manifest::load(&LocalFolder::new(&target)).expect("readable") } else { None };
            assert_eq!(manifest.is_some(), target.exists(), "after {steps} steps");
            if finished.is_ok() {
                return assert_eq!((steps, manifest.expect("it is there").runs.len()), (8, 1));
            }
        }
    }

    #[test]
    fn what_an_unfinished_import_left_is_removed_by_the_next_and_a_branch_never_is() {
        let dir = tempfile::tempdir().expect("directory");
        let target = dir.path().join("0-1");
        let leftover = begin(&target).dir.join("leftover");
        fs::write(&leftover, b"").expect("written");
        finish(&target).expect("finished");
        assert!(target.join("manifest").exists() && !leftover.exists());
        fs::remove_file(target.join("manifest")).expect("removed");
        assert!(finish(&target).is_err(), "a directory with layers has the name");
        assert!(fs::read_dir(&target).expect("there").count() > 0);
    }
}
